//! Buckets whose creation or deletion is under way, so that a worker finds them after a crash.

use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of the root.
    BucketUnfinishedKey(BucketUnfinished) -> () {
        bucket: BucketId,
    }
);
