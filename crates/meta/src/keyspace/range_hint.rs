//! Which shard owned the range that starts here, when the root was last told.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of the root.
    RangeHintKey(RangeHint) -> state::RangeHint {
        bucket: BucketId,
        key: Bytes,
    }
);
