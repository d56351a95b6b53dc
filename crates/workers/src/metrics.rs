//! Every metric of the background jobs.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    worker: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    worker: &'static str,
    outcome: &'static str,
}

/// Counters of all workers of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct WorkerMetrics {
    ticks: Family<Outcome, Counter>,
    leading: Family<Name, Gauge>,
    /// Chunks deleted by command.
    pub(crate) chunks_deleted: Counter,
    /// Chunks that belonged to nothing and were swept.
    pub(crate) chunks_swept: Counter,
    /// Chunks copied to restore redundancy.
    pub(crate) chunks_restored: Counter,
    /// Deletions that wait in the shards' queues, as last seen.
    pub(crate) deletions_pending: Gauge<u64, AtomicU64>,
    /// The one true number: chunks below their redundancy, as of the last complete pass.
    pub(crate) below_target: Gauge<u64, AtomicU64>,
}

impl WorkerMetrics {
    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("granary_worker");
        registry.register("ticks", "Ticks by outcome", self.ticks.clone());
        registry.register(
            "leading",
            "1 while this process runs the worker",
            self.leading.clone(),
        );
        for (name, help, counter) in [
            (
                "chunks_deleted",
                "Chunks deleted by command",
                &self.chunks_deleted,
            ),
            (
                "chunks_swept",
                "Unreferenced chunks removed",
                &self.chunks_swept,
            ),
            (
                "chunks_restored",
                "Chunks copied to restore redundancy",
                &self.chunks_restored,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "deletions_pending",
                "Deletions waiting in the shards",
                &self.deletions_pending,
            ),
            (
                "chunks_below_redundancy",
                "Chunks below their redundancy",
                &self.below_target,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    pub(crate) fn ticked(&self, worker: &'static str, outcome: &'static str) {
        let labels = Outcome { worker, outcome };
        self.ticks.get_or_create(&labels).inc();
    }

    pub(crate) fn lead(&self, worker: &'static str, leads: bool) {
        let gauge = self.leading.get_or_create(&Name { worker });
        gauge.set(i64::from(leads));
    }
}
