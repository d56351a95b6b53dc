//! The numbers of a node's metadata service.

use std::sync::atomic::{AtomicU64, Ordering};

use granary_kv::KvStats;
use granary_raft::GroupMetrics;

use super::MetaNode;

/// Counts since the node started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) commands: AtomicU64,
    pub(super) rejections: AtomicU64,
    pub(super) command_errors: AtomicU64,
    pub(super) queries: AtomicU64,
    pub(super) query_errors: AtomicU64,
}

pub(super) fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The numbers of a node's metadata service at one moment.
#[derive(Clone, Debug)]
pub struct MetaMetrics {
    /// Every shard of this node.
    pub groups: Vec<GroupMetrics>,
    /// The store under all of them.
    pub kv: KvStats,
    /// Commands decided here, rejections included.
    pub commands: u64,
    /// Commands that the cluster answered with "no".
    pub rejections: u64,
    /// Commands that were not decided.
    pub command_errors: u64,
    /// Queries answered.
    pub queries: u64,
    /// Queries not answered.
    pub query_errors: u64,
    /// Queries that run or wait.
    pub queries_in_flight: usize,
}

impl MetaNode {
    /// The numbers now. Reads statistics of the store: call it away from hot paths.
    pub fn metrics(&self) -> MetaMetrics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let most = self.config.queries_waiting_max + self.config.queries_running_max;
        MetaMetrics {
            groups: self
                .shards
                .read()
                .values()
                .map(|shard| shard.group.metrics())
                .collect(),
            kv: self.kv.stats(),
            commands: load(&self.counts.commands),
            rejections: load(&self.counts.rejections),
            command_errors: load(&self.counts.command_errors),
            queries: load(&self.counts.queries),
            query_errors: load(&self.counts.query_errors),
            queries_in_flight: most.saturating_sub(self.admitted.available_permits()),
        }
    }
}
