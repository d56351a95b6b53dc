//! The worker role: every background job of this process, and how often each looks for work.

use std::time::Duration;

use anyhow::bail;
use granary_datapath::{ClusterView, DataPath};
use granary_meta_api::Meta;
use granary_runtime::{Backoff, Runtime};
use granary_workers::{
    BucketFinisher, DeletionWorker, OrphanSweep, PlacementKeeper, RedundancyWorker, RunnerConfig,
    Worker, WorkerMetrics, start,
};

use crate::config::WorkersSection;

/// Who asks for the leases; the same after a restart, which takes them over at once.
const HOLDER: &str = "node-1";
const FINISHER_INTERVAL: Duration = Duration::from_secs(60);
const KEEPER_INTERVAL: Duration = Duration::from_secs(2);
const REDUNDANCY_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the first placement groups.
const FIRST_PLACEMENT_LIMIT: Duration = Duration::from_secs(60);

/// The background jobs of this process. They end with its runtime.
pub(crate) struct WorkerRole {
    jobs: Jobs,
}

/// What every job is started with.
struct Jobs {
    runtime: Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
}

impl Jobs {
    /// Starts a job that looks for work every `interval`.
    fn start(&self, interval: Duration, worker: impl Worker) {
        let config = RunnerConfig::every(HOLDER, interval);
        let (meta, metrics) = (self.meta.clone(), self.metrics.clone());
        start(&self.runtime, meta, metrics, config, worker);
    }
}

impl WorkerRole {
    /// Starts every job and waits until there is a place for chunks.
    pub(crate) async fn start(
        runtime: &Runtime,
        meta: &Meta,
        datapath: &DataPath,
        view: &ClusterView,
        config: &WorkersSection,
    ) -> anyhow::Result<Self> {
        let jobs = Jobs {
            runtime: runtime.child(),
            meta: meta.clone(),
            metrics: WorkerMetrics::default(),
        };
        let (runtime, metrics) = (&jobs.runtime, &jobs.metrics);
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
        let deletion =
            DeletionWorker::new(runtime.clone(), meta.clone(), view.clone(), metrics.clone());
        let sweep = OrphanSweep::new(meta.clone(), view.clone(), metrics.clone());
        let finisher = BucketFinisher::new(runtime.clone(), meta.clone(), FINISHER_INTERVAL);
        jobs.start(KEEPER_INTERVAL, keeper);
        jobs.start(REDUNDANCY_INTERVAL, redundancy);
        jobs.start(Duration::from_secs(config.deletion_interval_secs), deletion);
        jobs.start(Duration::from_secs(config.sweep_interval_secs), sweep);
        jobs.start(FINISHER_INTERVAL, finisher);
        wait_for_placement(&jobs.runtime, view).await?;
        Ok(Self { jobs })
    }

    /// What the jobs count.
    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        &self.jobs.metrics
    }

    /// Ends every job after its current step.
    pub(crate) async fn stop(&self) {
        self.jobs.runtime.stop().await;
    }
}

/// Waits until some placement group takes chunks: a new installation has none yet.
async fn wait_for_placement(runtime: &Runtime, view: &ClusterView) -> anyhow::Result<()> {
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
        if !backoff.wait(runtime).await {
            bail!("no placement group could be opened on the data directories");
        }
    }
}
