//! Every metric of the background jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::redundancy::RedundancyStatus;
use crate::{RedundancyWorker, Worker};

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
    /// Ranges of shards that were split.
    pub(crate) ranges_split: Counter,
    /// Bytes of the largest range, as last measured.
    pub(crate) largest_range_bytes: Gauge<u64, AtomicU64>,
    /// Ranges that are too large, as last counted.
    pub(crate) large_ranges: Gauge<u64, AtomicU64>,
    scrub: ScrubNumbers,
    /// The one true number, and what it was counted by.
    redundancy: RedundancyNumbers,
}

/// What scrubs of this process read and found, on request or not.
#[derive(Clone, Debug, Default)]
struct ScrubNumbers {
    copies: Counter,
    bytes: Counter,
    damaged: Counter,
    repaired: Counter,
    differing: Counter,
    unread: Counter,
    began: Gauge<u64, AtomicU64>,
    groups_left: Gauge<u64, AtomicU64>,
}

impl ScrubNumbers {
    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("copies_checked", "Copies read and checked", &self.copies),
            ("bytes_checked", "Bytes of object data in them", &self.bytes),
            ("copies_damaged", "Damaged copies found", &self.damaged),
            (
                "copies_repaired",
                "Of those, rewritten from a good copy",
                &self.repaired,
            ),
            (
                "chunks_differing",
                "Chunks whose copies are sound but not the same",
                &self.differing,
            ),
            (
                "members_unread",
                "Members of groups that could not be read",
                &self.unread,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_with_unit(
            "pass_began",
            "When the pass began that this process leads or led last",
            Unit::Seconds,
            self.began.clone(),
        );
        registry.register(
            "groups_left",
            "Placement groups that this pass has still to read",
            self.groups_left.clone(),
        );
    }
}

/// What the redundancy worker of this process says when it is asked.
#[derive(Clone, Default)]
struct RedundancyNumbers {
    status: Arc<Mutex<Option<StatusSource>>>,
    /// Another process has the worker's lease: what was counted here is old.
    follows: Arc<AtomicBool>,
}

type StatusSource = Arc<dyn Fn() -> RedundancyStatus + Send + Sync>;

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
            (
                "ranges_split",
                "Ranges whose upper half was given to a new shard",
                &self.ranges_split,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "deletions_pending",
            "Deletions waiting in the shards",
            self.deletions_pending.clone(),
        );
        registry.register(
            "largest_range_bytes",
            "Bytes of the metadata's largest range, where the job runs that splits them",
            self.largest_range_bytes.clone(),
        );
        registry.register(
            "large_ranges",
            "Ranges of the metadata that are larger than split_bytes, where the job runs that splits them",
            self.large_ranges.clone(),
        );
        self.scrub
            .register(registry.sub_registry_with_prefix("scrub"));
        registry.register_collector(Box::new(self.redundancy.clone()));
    }

    /// Numbers of redundancy are asked for here from now on.
    pub(crate) fn count_redundancy(
        &self,
        status: impl Fn() -> RedundancyStatus + Send + Sync + 'static,
    ) {
        *self.redundancy.status.lock() = Some(Arc::new(status));
    }

    pub(crate) fn scrubbed(&self, copies: u64, bytes: u64, damaged: u64) {
        self.scrub.copies.inc_by(copies);
        self.scrub.bytes.inc_by(bytes);
        self.scrub.damaged.inc_by(damaged);
    }

    /// Copies read so far.
    #[cfg(test)]
    pub(crate) fn scrubbed_copies(&self) -> u64 {
        self.scrub.copies.get()
    }

    pub(crate) fn scrub_repaired(&self) {
        self.scrub.repaired.inc();
    }

    pub(crate) fn scrub_differing(&self) {
        self.scrub.differing.inc();
    }

    pub(crate) fn scrub_unread(&self, members: u64) {
        self.scrub.unread.inc_by(members);
    }

    pub(crate) fn scrub_at(&self, began_secs: u64, groups_left: u64) {
        self.scrub.began.set(began_secs);
        self.scrub.groups_left.set(groups_left);
    }

    pub(crate) fn ticked(&self, worker: &'static str, outcome: &'static str) {
        let labels = Outcome { worker, outcome };
        self.ticks.get_or_create(&labels).inc();
    }

    pub(crate) fn lead(&self, worker: &'static str, leads: bool) {
        let gauge = self.leading.get_or_create(&Name { worker });
        gauge.set(i64::from(leads));
        if worker == RedundancyWorker::NAME {
            self.redundancy.follows.store(!leads, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for RedundancyNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedundancyNumbers").finish_non_exhaustive()
    }
}

/// A number that was not counted, or not since disks were lost, is not shown at all: 0 must mean
/// that somebody looked.
impl Collector for RedundancyNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let source = self.status.lock().clone();
        let Some(source) = source else {
            return Ok(());
        };
        if self.follows.load(Ordering::Relaxed) {
            return Ok(());
        }
        let status = source();
        let passes = ConstCounter::new(status.passes);
        let help = "Comparisons of all copies that came to an end";
        let kind = passes.metric_type();
        passes.encode(encoder.encode_descriptor("redundancy_passes", help, None, kind)?)?;
        let shown = |holds: bool, value: u64| holds.then_some(value);
        let counted = status.passes > 0;
        for (name, help, unit, value) in [
            (
                "chunks_below_redundancy",
                "Chunks below their redundancy; absent until counted since disks were last lost",
                None,
                shown(status.current, status.below_target),
            ),
            (
                "groups_unknown",
                "Placement groups in none of the numbers, because a member did not answer",
                None,
                shown(status.current, status.groups_unknown),
            ),
            (
                "redundancy_pass_began",
                "When the comparison began that the numbers come from",
                Some(Unit::Seconds),
                shown(counted, status.began_ms / 1000),
            ),
            (
                "redundancy_pass_finished",
                "When it ended",
                Some(Unit::Seconds),
                shown(counted, status.finished_ms / 1000),
            ),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                let kind = gauge.metric_type();
                gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)?;
            }
        }
        Ok(())
    }
}
