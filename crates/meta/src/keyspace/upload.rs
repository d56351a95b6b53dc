//! A multipart upload under way; upload ids sort by birth.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, positional: it belongs to whoever owns (bucket, key); a split copies nothing, a
    /// move copies the interval.
    UploadKey(Upload) -> state::Upload {
        bucket: BucketId,
        key: Bytes,
        upload: Id,
    }
);
