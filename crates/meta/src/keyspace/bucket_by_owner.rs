//! Buckets of an account in name order, to list and to count them.

use bytes::Bytes;

use super::row_key;

row_key!(
    /// Home slab of the root.
    BucketByOwnerKey(BucketByOwner) -> u64 {
        owner: u64,
        name: Bytes,
    }
);
