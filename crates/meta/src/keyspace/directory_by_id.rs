//! Where a directory is, by its id: the way from an entry up to its path.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Data slab, positional: `key` is that of an entry without a name ([`super::Entry`]).
    DirectoryByIdKey(DirectoryById) -> state::DirectoryPlace {
        bucket: BucketId,
        key: Bytes,
    }
);
