//! The current version of a key in full; what lists read.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Data slab, positional: it belongs to whoever owns (bucket, key); a split copies nothing, a
    /// move copies the interval.
    HeadKey(Head) -> state::Head {
        bucket: BucketId,
        key: Bytes,
    }
);
