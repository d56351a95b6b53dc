//! Identity of the cluster and its counters.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    ClusterInfoKey(ClusterInfo) -> state::ClusterInfo {}
);
