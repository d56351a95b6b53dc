//! The share of a bucket's quota this shard may use. Nothing writes it yet.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of its shard. A split divides the share, a move hands it over.
    #[cfg_attr(not(test), expect(dead_code, reason = "reserved: nothing writes it yet"))]
    QuotaKey(Quota) -> state::Quota {
        bucket: BucketId,
    }
);
