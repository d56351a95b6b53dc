//! A part of an upload under way.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, positional: it belongs to whoever owns (bucket, key); a split copies nothing, a
    /// move copies the interval.
    PartKey(Part) -> state::Part {
        bucket: BucketId,
        key: Bytes,
        upload: Id,
        number: u32,
    }
);
