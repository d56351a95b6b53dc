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
/// Copies that are known to be bad and could not be made good.
const DAMAGED_MAX: usize = 1024;
/// Tries before a group whose members cannot be compared is left to the next pass.
const TRIES_PER_GROUP: u32 = 3;

/// What the last complete pass found. Shown to operators; "done" means counted, not assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedundancyStatus {
    /// Passes that were completed since this process leads.
    pub passes: u64,
    /// Chunks that should exist.
    pub chunks: u64,
    /// Chunks with fewer good copies than they should have.
    pub below_target: u64,
    /// Groups that could not be compared, because a member did not answer: their chunks are in
    /// none of the numbers.
    pub groups_unknown: u64,
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
    damaged: BTreeSet<(ChunkId, DiskId)>,
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
    tries: u32,
    chunks: u64,
    below_target: u64,
    groups_unknown: u64,
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
            damaged: BTreeSet::new(),
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
            tries: 0,
            chunks: 0,
            below_target: 0,
            groups_unknown: 0,
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
            match self.repair.repair(group, copies, pass.after).await {
                Ok(repaired) => {
                    pass.chunks += repaired.chunks;
                    pass.below_target += repaired.below_target;
                    pass.after = repaired.next_after;
                    pass.tries = 0;
                }
                Err(error) if pass.tries + 1 < TRIES_PER_GROUP => {
                    pass.tries += 1;
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(pg = %id, %error, "group not compared");
                    pass.groups_unknown += 1;
                    pass.after = None;
                    pass.tries = 0;
                }
            }
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
        let damaged: BTreeSet<_> = self.damaged.iter().map(|&(chunk, _)| chunk).collect();
        let below_target = pass.below_target + damaged.len() as u64;
        self.metrics.below_target.set(below_target);
        let mut status = self.status.lock();
        *status = RedundancyStatus {
            passes: status.passes + 1,
            chunks: pass.chunks,
            below_target,
            groups_unknown: pass.groups_unknown,
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

    /// Looks at copies readers complained about, and again at those that could not be made good.
    async fn look_at_hints(&mut self) {
        let hints = self.hints.take(HINTS_PER_TICK);
        let mut suspects: BTreeSet<_> = hints.iter().map(|hint| (hint.chunk, hint.disk)).collect();
        if self.pass.is_none() {
            suspects.extend(self.damaged.iter().take(HINTS_PER_TICK));
        }
        for (chunk, disk) in suspects {
            if self.repair.check_copy(chunk, disk).await {
                self.damaged.remove(&(chunk, disk));
            } else if self.damaged.len() < DAMAGED_MAX && self.damaged.insert((chunk, disk)) {
                tracing::warn!(%chunk, %disk, "a copy is damaged and not repaired yet");
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
            match self.step(&mut pass).await {
                Ok(true) => self.finish(pass),
                Ok(false) => self.pass = Some(pass),
                Err(error) => {
                    self.pass = Some(pass);
                    return Err(error);
                }
            }
        }
        Ok(if self.pass.is_some() {
            Tick::More
        } else {
            Tick::Done
        })
    }
}
