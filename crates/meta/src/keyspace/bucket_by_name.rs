//! Name to bucket id: the only place where a name is an identity.

use bytes::Bytes;

use super::row_key;

row_key!(
    /// Home slab of the root.
    BucketByNameKey(BucketByName) -> u64 {
        name: Bytes,
    }
);
