//! Who runs a worker, its token and its cursor.

use bytes::Bytes;
use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    LeaseKey(Lease) -> state::Lease {
        name: Bytes,
    }
);
