//! A disk of a node.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    DiskKey(Disk) -> state::Disk {
        disk: u64,
    }
);
