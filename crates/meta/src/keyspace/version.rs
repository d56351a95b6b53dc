//! A noncurrent version of a key, newest first.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Newest, row_key};

row_key!(
    /// Data slab, positional: it belongs to whoever owns (bucket, key); a split copies nothing, a
    /// move copies the interval.
    VersionKey(Version) -> state::Version {
        bucket: BucketId,
        key: Bytes,
        stamp: Newest,
    }
);
