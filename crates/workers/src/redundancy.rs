//! Keeps and counts redundancy: goes through every group, repairs what a member lacks, and tells
//! one true number, the chunks below their redundancy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use granary_datapath::{ClusterView, DataPath, Group, RepairHints};
use granary_meta_api::Meta;
use granary_runtime::Runtime;
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use crate::group_repair::GroupRepair;
use crate::worker::TICK_TIME;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};

/// Complaints of readers looked at per tick.
const HINTS_PER_TICK: usize = 64;

/// What the last complete pass found. Shown to operators; "done" means counted, not assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedundancyStatus {
    /// Passes that were completed since this process leads.
    pub passes: u64,
    /// Chunks that should exist.
    pub chunks: u64,
    /// Chunks with fewer copies than they should have.
    pub below_target: u64,
    /// When the pass ended, in milliseconds since the epoch.
    pub finished_ms: u64,
    /// Groups through in the pass that is under way, and how many there are.
    pub progress: (u64, u64),
}

/// The redundancy worker.
pub struct RedundancyWorker {
    runtime: Runtime,
    view: ClusterView,
    repair: GroupRepair,
    hints: RepairHints,
    metrics: WorkerMetrics,
    status: Arc<Mutex<RedundancyStatus>>,
    every: Duration,
    pass: Option<Pass>,
    /// When the last pass ended (monotonic) and what the cluster looked like when it began.
    last: Option<(Duration, Situation)>,
}

/// What makes a new pass worth while before its time: the map or the set of lost disks changed.
type Situation = (u64, BTreeSet<DiskId>);

struct Pass {
    situation: Situation,
    groups: Vec<PgId>,
    next: usize,
    after: Option<ChunkId>,
    chunks: u64,
    below_target: u64,
}

impl RedundancyWorker {
    /// A worker that goes through everything `every` so often, and when disks come or go.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        path: DataPath,
        metrics: WorkerMetrics,
        every: Duration,
    ) -> Self {
        Self {
            runtime,
            view: path.view().clone(),
            hints: path.repair_hints(),
            repair: GroupRepair::new(meta, path, metrics.clone()),
            metrics,
            status: Arc::default(),
            every,
            pass: None,
            last: None,
        }
    }

    /// A handle on the status that stays valid while the worker runs.
    pub fn status(&self) -> impl Fn() -> RedundancyStatus + Clone + Send + Sync + 'static + use<> {
        let status = Arc::clone(&self.status);
        move || *status.lock()
    }

    fn situation(&self) -> Situation {
        let map = self.view.map();
        let lost = map.groups().flat_map(Group::disks);
        let lost = lost.filter(|&disk| !map.is_in(disk) || !self.view.is_readable(disk));
        (map.epoch(), lost.collect())
    }

    /// Begins a pass when it is time for one.
    fn begin(&mut self) {
        let situation = self.situation();
        let now = self.runtime.monotonic();
        let due = self.last.as_ref().is_none_or(|(ended, known)| {
            now.saturating_sub(*ended) >= self.every || *known != situation
        });
        if !due {
            return;
        }
        let mut groups: Vec<_> = self.view.map().groups().map(|group| group.id).collect();
        groups.sort_unstable();
        self.pass = Some(Pass {
            situation,
            groups,
            next: 0,
            after: None,
            chunks: 0,
            below_target: 0,
        });
    }

    /// One step of the pass; true when the pass is over.
    async fn step(&self, pass: &mut Pass) -> Result<bool, WorkerError> {
        let Some(&id) = pass.groups.get(pass.next) else {
            return Ok(true);
        };
        let map = self.view.map();
        if let Some(group) = map.group(id) {
            let pool = map.pools().iter().find(|pool| pool.id == group.pool);
            let copies = pool.map_or(group.members.len(), |pool| pool.copies as usize);
            let repaired = self.repair.repair(group, copies, pass.after).await?;
            pass.chunks += repaired.chunks;
            pass.below_target += repaired.below_target;
            pass.after = repaired.next_after;
        } else {
            pass.after = None;
        }
        if pass.after.is_none() {
            pass.next += 1;
        }
        self.status.lock().progress = (pass.next as u64, pass.groups.len() as u64);
        Ok(pass.next == pass.groups.len())
    }

    fn finish(&mut self, pass: Pass) {
        self.last = Some((self.runtime.monotonic(), pass.situation));
        self.metrics.below_target.set(pass.below_target);
        let mut status = self.status.lock();
        *status = RedundancyStatus {
            passes: status.passes + 1,
            chunks: pass.chunks,
            below_target: pass.below_target,
            finished_ms: self.runtime.now().as_millis(),
            progress: status.progress,
        };
        if pass.below_target > 0 {
            tracing::warn!(
                chunks = pass.below_target,
                "chunks are below their redundancy"
            );
        }
    }

    async fn look_at_hints(&self) {
        for hint in self.hints.take(HINTS_PER_TICK) {
            if !self.repair.check_copy(hint.chunk, hint.disk).await {
                tracing::warn!(chunk = %hint.chunk, disk = %hint.disk, "copy is not repaired");
            }
        }
    }
}

impl Worker for RedundancyWorker {
    const NAME: &'static str = "redundancy";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        self.look_at_hints().await;
        if self.pass.is_none() {
            self.begin();
        }
        let until = self.runtime.monotonic() + TICK_TIME;
        while self.runtime.monotonic() < until {
            // Taken out and put back: a tick that is cut off begins a new pass, because it cannot
            // know what it had counted.
            let Some(mut pass) = self.pass.take() else {
                return Ok(Tick::Done);
            };
            if self.step(&mut pass).await? {
                self.finish(pass);
            } else {
                self.pass = Some(pass);
            }
        }
        Ok(if self.pass.is_some() {
            Tick::More
        } else {
            Tick::Done
        })
    }
}
