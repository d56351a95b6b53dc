//! A node of the cluster.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    NodeKey(Node) -> state::Node {
        node: u64,
    }
);
