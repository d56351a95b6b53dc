//! What the shard knows of a bucket it holds a part of: enough to decide a commit.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of its shard. A split and a move give the receiver a copy for every bucket it gets
    /// a part of.
    BucketViewKey(BucketView) -> state::BucketView {
        bucket: BucketId,
    }
);
