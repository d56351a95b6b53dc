//! The worker role: every background job of this process, and how often each looks for work.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use granary_datapath::{ClusterView, DataPath};
use granary_meta_api::Meta;
use granary_runtime::{Backoff, Runtime};
use granary_types::NodeId;
use granary_workers::{
    BucketFinisher, DeletionWorker, FeatureKeeper, MemberKeeper, MemberKeeperConfig, MetaNodes,
    OrphanSweep, PlacementKeeper, RangeKeeper, RangeKeeperConfig, RedundancyStatus,
    RedundancyWorker, RunnerConfig, ScrubWorker, Silence, Waits, Worker, WorkerHandle,
    WorkerMetrics, start,
};

use crate::config::WorkersSection;
use crate::roles::storage::StorageRole;

const FINISHER_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks whether the last node was upgraded.
const FEATURE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks whether ranges have become too large.
const RANGES_INTERVAL: Duration = Duration::from_secs(5);
const KEEPER_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks whether some groups have their turn to be read.
const SCRUB_INTERVAL: Duration = Duration::from_secs(30);
const REDUNDANCY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the first placement groups.
const FIRST_PLACEMENT_LIMIT: Duration = Duration::from_secs(60);
/// How long another process waits before it takes a job over from one that does not answer.
const LEASE_TTL: Duration = Duration::from_secs(20);

/// The background jobs of this process. They end with its runtime.
pub(crate) struct WorkerRole {
    jobs: Jobs,
    redundancy: Arc<dyn Fn() -> RedundancyStatus + Send + Sync>,
    silence: Arc<dyn Fn() -> Option<Silence> + Send + Sync>,
    waits: Arc<dyn Fn() -> Option<Waits> + Send + Sync>,
}

/// What every job is started with, and those that were.
struct Jobs {
    runtime: Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
    /// Who asks for the leases; the same after a restart, which takes them over at once.
    holder: String,
    started: Vec<WorkerHandle>,
}

impl Jobs {
    /// Starts a job that looks for work every `interval`.
    fn start(&mut self, interval: Duration, worker: impl Worker) {
        let mut config = RunnerConfig::every(self.holder.clone(), interval);
        config.lease_ttl = LEASE_TTL;
        let (meta, metrics) = (self.meta.clone(), self.metrics.clone());
        let handle = start(&self.runtime, meta, metrics, config, worker);
        self.started.push(handle);
    }
}

/// The metadata nodes, and how the members of their shards are kept where there are several.
pub(crate) struct Members {
    pub(crate) nodes: Arc<dyn MetaNodes>,
    pub(crate) config: Option<MemberKeeperConfig>,
    /// When their ranges are split.
    pub(crate) ranges: RangeKeeperConfig,
}

impl WorkerRole {
    /// Starts every job.
    pub(crate) fn start(
        runtime: &Runtime,
        node: NodeId,
        datapath: &DataPath,
        meta: Meta,
        config: &WorkersSection,
        members: Members,
    ) -> Self {
        let mut jobs = Jobs {
            runtime: runtime.child(),
            meta: meta.clone(),
            metrics: WorkerMetrics::default(),
            holder: format!("node-{node}"),
            started: Vec::new(),
        };
        let (runtime, metrics) = (jobs.runtime.clone(), jobs.metrics.clone());
        let view = datapath.view();
        let keeper = PlacementKeeper::new(
            runtime.clone(),
            meta.clone(),
            datapath.clone(),
            metrics.clone(),
            config.keeper(),
        );
        let redundancy = RedundancyWorker::new(
            runtime.clone(),
            meta.clone(),
            datapath.clone(),
            metrics.clone(),
            Duration::from_secs(config.count_interval_secs),
        );
        let status = Arc::new(redundancy.status());
        let silence = Arc::new(keeper.silence());
        let waits = Arc::new(keeper.waits());
        let deletion =
            DeletionWorker::new(runtime.clone(), meta.clone(), view.clone(), metrics.clone());
        let scrub = ScrubWorker::new(
            runtime.clone(),
            meta.clone(),
            datapath.clone(),
            metrics.clone(),
            config.scrub(),
        );
        let sweep = OrphanSweep::new(meta.clone(), view.clone(), metrics.clone());
        let ranges = RangeKeeper::new(runtime.clone(), meta.clone(), metrics, members.ranges);
        let finisher = BucketFinisher::new(runtime, meta.clone(), FINISHER_INTERVAL);
        jobs.start(KEEPER_INTERVAL, keeper);
        jobs.start(REDUNDANCY_INTERVAL, redundancy);
        jobs.start(Duration::from_secs(config.deletion_interval_secs), deletion);
        jobs.start(Duration::from_secs(config.sweep_interval_secs), sweep);
        jobs.start(FINISHER_INTERVAL, finisher);
        jobs.start(SCRUB_INTERVAL, scrub);
        jobs.start(RANGES_INTERVAL, ranges);
        let levels = FeatureKeeper::new(meta.clone(), Arc::clone(&members.nodes));
        jobs.start(FEATURE_INTERVAL, levels);
        if let Some(config) = members.config {
            let keeper = MemberKeeper::new(meta, members.nodes, config);
            jobs.start(KEEPER_INTERVAL, keeper);
        }
        Self {
            jobs,
            redundancy: status,
            silence,
            waits,
        }
    }

    /// What the jobs count.
    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        &self.jobs.metrics
    }

    /// The jobs of this process, whether or not they have their lease.
    pub(crate) fn handles(&self) -> &[WorkerHandle] {
        &self.jobs.started
    }

    /// What the redundancy job counted, when it runs here.
    pub(crate) fn redundancy(&self) -> RedundancyStatus {
        (self.redundancy)()
    }

    /// What is silent, when the job that keeps the groups runs here and gives up nobody for it.
    pub(crate) fn silence(&self) -> Option<Silence> {
        (self.silence)()
    }

    /// What the job that keeps the groups waits for, when it runs here and has looked.
    pub(crate) fn waits(&self) -> Option<Waits> {
        (self.waits)()
    }

    /// Ends every job after its current step.
    pub(crate) async fn stop(&self) {
        self.jobs.runtime.stop().await;
    }
}

/// Waits until some placement group takes chunks: a new installation has none yet. Disks that are
/// full get none, and whoever starts a server for the first time hears so at once.
pub(crate) async fn wait_for_placement(
    runtime: &Runtime,
    view: &ClusterView,
    storage: &StorageRole,
) -> anyhow::Result<()> {
    let first = Duration::from_millis(10);
    let mut backoff = Backoff::new(
        runtime,
        first,
        Duration::from_millis(500),
        FIRST_PLACEMENT_LIMIT,
    );
    loop {
        view.refresh().await?;
        if view.map().groups().any(|group| !group.closed) {
            return Ok(());
        }
        if view.map().groups().next().is_none()
            && let Some(full) = storage.all_full().await
        {
            let paths: Vec<_> = full.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "the file system of {} has less space than storage.min_free_bytes and \
                 storage.min_free_percent keep free, so that nothing could be stored",
                paths.join(", ")
            );
        }
        if !backoff.wait(runtime).await {
            bail!("no placement group could be opened on the data directories");
        }
    }
}
