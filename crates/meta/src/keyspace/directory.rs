//! A directory, by its parent and its name with a slash behind it ([`super::Entry`]).

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Data slab, positional. All rows of a bucket with directories are one shard's.
    DirectoryKey(Directory) -> state::Directory {
        bucket: BucketId,
        key: Bytes,
    }
);
