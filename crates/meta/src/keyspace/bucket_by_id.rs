//! A bucket and its configuration.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of the root.
    BucketByIdKey(BucketById) -> state::Bucket {
        bucket: BucketId,
    }
);
