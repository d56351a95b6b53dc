//! Settings of a node's metadata service.

use granary_raft::RaftConfig;

use crate::FEATURE_LEVEL;

/// Settings of a node's metadata service. Those of a new cluster count only when it is made.
#[derive(Clone, Debug)]
pub struct MetaConfig {
    /// Data shards that a new cluster starts with; splits add more.
    pub data_shards: u32,
    /// New cluster: how long the bytes of a replaced object stay for readers, in milliseconds.
    pub reader_grace_ms: u64,
    /// New cluster: how long a write id lives unless it is renewed, in milliseconds.
    pub write_lease_ms: u64,
    /// New cluster: the feature level it begins at; lower than the newest one only where upgrades are
    /// tested.
    pub first_feature_level: u64,
    /// How often an idle shard with something to expire is ticked, in milliseconds.
    pub tick_ms: u64,
    /// Queries that read the store at once.
    pub queries_running_max: usize,
    /// Queries that may wait for their turn; more are refused as busy.
    pub queries_waiting_max: usize,
    /// Whether this node backs up what it leads, once it knows where to: until then nothing it leads is
    /// backed up, and so nothing is split ([`MetaNode::start_backup`](super::MetaNode::start_backup)).
    pub backs_up: bool,
    /// How the shards elect and replicate.
    pub raft: RaftConfig,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self {
            data_shards: 16,
            reader_grace_ms: 15 * 60 * 1000,
            write_lease_ms: 60 * 60 * 1000,
            first_feature_level: FEATURE_LEVEL,
            tick_ms: 10_000,
            queries_running_max: 64,
            queries_waiting_max: 4096,
            backs_up: false,
            raft: RaftConfig::default(),
        }
    }
}
