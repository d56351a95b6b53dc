//! Configurations of a bucket, one row each.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of the root.
    BucketConfigKey(BucketConfig) -> state::ConfigRow {
        bucket: BucketId,
        name: Bytes,
    }
);
