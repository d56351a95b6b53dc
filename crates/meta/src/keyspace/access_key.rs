//! An access key, its secret sealed.

use bytes::Bytes;
use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    AccessKeyKey(AccessKey) -> state::AccessKey {
        id: Bytes,
    }
);
