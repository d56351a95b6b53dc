//! The background work of a node, as its binary starts it, in shorter intervals.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::Meta;
use granary_runtime::Runtime;
use granary_workers::{
    BucketFinisher, DeletionWorker, KeeperConfig, MemberKeeper, MemberKeeperConfig, OrphanSweep,
    PlacementKeeper, RangeKeeper, RangeKeeperConfig, RedundancyWorker, RunnerConfig, Worker,
    WorkerMetrics,
};

use crate::Cluster;
use crate::cluster::NODES;
use crate::net::{ControlLinks, Life};

/// Life of a worker's lease.
const LEASE_TTL: Duration = Duration::from_secs(20);
/// A disk that is away this long is replaced; longer than any fault lasts.
const UNREACHABLE_OUT_MS: u64 = 10 * 60 * 1000;
/// A bucket that is unfinished this long was left by its gateway.
const BUCKET_PATIENCE: Duration = Duration::from_secs(15);
/// How often everything is compared.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// So that ranges split by themselves during a run, and not all the time: replicas of a node that splits may
/// bring it to. It begins with those of the root and the first shards.
const REPLICAS_MAX: usize = 5;

struct Starter {
    runtime: Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
    holder: String,
}

impl Starter {
    fn start<W: Worker>(&self, every_ms: u64, worker: W) {
        let config = RunnerConfig {
            lease_ttl: LEASE_TTL,
            ..RunnerConfig::every(self.holder.clone(), Duration::from_millis(every_ms))
        };
        let (meta, metrics) = (self.meta.clone(), self.metrics.clone());
        granary_workers::start(&self.runtime, meta, metrics, config, worker);
    }
}

/// Starts every worker of a life.
pub(crate) fn start(cluster: &Cluster, life: &Life) {
    let (meta, data, view, _) = cluster.data_path(life);
    let runtime = life.runtime.clone();
    let metrics = WorkerMetrics::default();
    let starter = Starter {
        runtime: runtime.clone(),
        meta: meta.clone(),
        metrics: metrics.clone(),
        holder: format!("node-{}", life.endpoint.0),
    };
    let (path, counts) = (view.clone(), metrics.clone());
    starter.start(
        1000,
        DeletionWorker::new(runtime.clone(), meta.clone(), path, counts),
    );
    starter.start(
        5000,
        OrphanSweep::new(meta.clone(), view.clone(), metrics.clone()),
    );
    starter.start(
        2000,
        BucketFinisher::new(runtime.clone(), meta.clone(), BUCKET_PATIENCE),
    );
    let replicas = ControlLinks::new(cluster.net().clone(), life.clone(), NODES.to_vec());
    let members = MemberKeeperConfig::default();
    starter.start(
        2000,
        MemberKeeper::new(meta.clone(), Arc::new(replicas), members),
    );
    let ranges = RangeKeeperConfig {
        split_bytes: cluster.scenario().split_bytes,
        replicas_per_node_max: REPLICAS_MAX,
    };
    starter.start(
        2000,
        RangeKeeper::new(runtime.clone(), meta.clone(), metrics.clone(), ranges),
    );
    let keeper = KeeperConfig {
        unreachable_out_ms: UNREACHABLE_OUT_MS,
        ..KeeperConfig::default()
    };
    let (path, counts) = (data.clone(), metrics.clone());
    starter.start(
        1000,
        PlacementKeeper::new(runtime.clone(), meta.clone(), path, counts, keeper),
    );
    starter.start(
        2000,
        RedundancyWorker::new(runtime, meta, data, metrics, COMPARE_EVERY),
    );
}
