//! Who signs the nodes' certificates.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    ClusterTrustKey(ClusterTrust) -> state::ClusterTrust {}
);
