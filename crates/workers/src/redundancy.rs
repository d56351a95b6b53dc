//! Keeps and counts redundancy: goes through every group, repairs what a member lacks, and tells
//! one true number, the chunks below their redundancy.
//!
//! A copy that is known to be bad is known to its disk, which lists it so: a pass counts it, also
//! in another process and after a restart. What no member has, and a disk outside of the group that
//! answers has, is copied back; what nobody has is counted, too. What is remembered here only saves
//! work.

mod pass;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use granary_datapath::{ClusterView, CopyCheck, DataPath, Group, RepairHint, RepairHints};
use granary_meta_api::Meta;
use granary_runtime::{Runtime, within};
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use crate::group_repair::{GroupRepair, SomeBuckets};
use crate::lost_chunks::Lost;
use crate::outsiders::Outsiders;
use crate::worker::TICK_TIME;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};
use pass::Pass;
pub use pass::PassProgress;

/// Complaints of readers looked at per tick.
const HINTS_PER_TICK: usize = 64;
/// Of those, at once: a member that does not answer keeps only some of them waiting.
const HINTS_AT_ONCE: usize = 8;
/// Time they get per tick, after the pass had its own.
const HINTS_TIME: Duration = Duration::from_secs(5);
/// Copies that are known to be bad and could not be made good; looked at again now and then.
const DAMAGED_MAX: usize = 1024;
/// A pass that ended is followed by the next one no earlier than this, whatever was found since.
const PAUSE_MIN: Duration = Duration::from_secs(30);

/// What the last complete pass found. Shown to operators; "done" means counted, not assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedundancyStatus {
    /// Passes that were completed since this process leads.
    pub passes: u64,
    /// A pass was completed, and since it began no group has lost a member it still had then, no
    /// copy was found to be bad, and no chunk was stored with fewer copies than it should have: the
    /// numbers hold for the cluster as it is now. Without it they say what once was.
    pub current: bool,
    /// Chunks that should exist.
    pub chunks: u64,
    /// Chunks with fewer good copies than they should have, the lost ones among them.
    pub below_target: u64,
    /// Chunks that objects refer to and of which no disk that answers has a copy.
    pub lost: u64,
    /// Chunks below their redundancy that no repair can help, because their zone has no disks for as
    /// many copies as LRS has elsewhere.
    pub narrow: u64,
    /// The first few buckets that such chunks belong to.
    pub narrow_buckets: SomeBuckets,
    /// Groups that could not be compared, because a member did not answer: their chunks are in
    /// none of the numbers.
    pub groups_unknown: u64,
    /// When the pass began, in milliseconds since the epoch.
    pub began_ms: u64,
    /// When it ended.
    pub finished_ms: u64,
    /// The pass that is under way, or the last one.
    pub progress: PassProgress,
    /// Time until the next one, between passes.
    pub begins_in: Option<Duration>,
}

/// The redundancy worker.
pub struct RedundancyWorker {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    repair: GroupRepair,
    hints: RepairHints,
    status: Arc<Mutex<Counted>>,
    /// Complaints that were taken and are not answered yet: a tick may be cut off, or out of time.
    suspects: VecDeque<(ChunkId, DiskId)>,
    damaged: BTreeSet<(ChunkId, DiskId)>,
    /// The last of them that was looked at again.
    damaged_at: Option<(ChunkId, DiskId)>,
    every: Duration,
    pass: Option<Pass>,
    /// When the last pass ended (monotonic) and what the cluster looked like when it began.
    last: Option<(Duration, Situation)>,
    /// Chunks that the last pass found nowhere.
    lost: Lost,
}

/// What makes a new pass worth while before its time: the map or the set of lost disks changed, or
/// something happened that an earlier pass cannot have counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Situation {
    map_epoch: u64,
    lost: BTreeSet<DiskId>,
    uncounted: u64,
    /// Disks that were given up, healthy or not.
    gone: BTreeSet<DiskId>,
    /// Disks that can be read, members of something or not.
    answering: BTreeSet<DiskId>,
}

/// Groups with members that cannot be read, were taken out or are not filled yet, and how many.
type Gaps = HashMap<PgId, usize>;

/// What the last pass counted, and the gaps there were when it began.
#[derive(Default)]
struct Counted {
    status: RedundancyStatus,
    gaps: Gaps,
    /// See [`RepairHints::uncounted`].
    uncounted: u64,
    /// Disks that were given up when the pass began.
    gone: BTreeSet<DiskId>,
    /// When the pass that is under way began (monotonic).
    running_since: Option<Duration>,
    /// When the next one does, as far as is known now (monotonic).
    begins_at: Option<Duration>,
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
        let worker = Self {
            runtime,
            view: path.view().clone(),
            hints: path.repair_hints(),
            repair: GroupRepair::new(meta.clone(), path, metrics.clone()),
            meta,
            status: Arc::default(),
            suspects: VecDeque::new(),
            damaged: BTreeSet::new(),
            damaged_at: None,
            every,
            pass: None,
            last: None,
            lost: Lost::default(),
        };
        metrics.count_redundancy(worker.status());
        worker
    }

    /// A handle on the status that stays valid while the worker runs.
    pub fn status(&self) -> impl Fn() -> RedundancyStatus + Clone + Send + Sync + 'static + use<> {
        let (counted, view) = (Arc::clone(&self.status), self.view.clone());
        let (hints, runtime) = (self.hints.clone(), self.runtime.clone());
        move || {
            let (gaps, uncounted) = (gaps(&view), hints.uncounted());
            let now = runtime.monotonic();
            let counted = counted.lock();
            let running = counted.running_since.map(|since| now.saturating_sub(since));
            let known = |(pg, count): (&PgId, &usize)| counted.gaps.get(pg) >= Some(count);
            RedundancyStatus {
                current: counted.status.passes > 0
                    && gaps.iter().all(known)
                    && given_up(&view).is_subset(&counted.gone)
                    && counted.uncounted == uncounted,
                progress: PassProgress {
                    running,
                    ..counted.status.progress
                },
                begins_in: counted.begins_at.map(|at| at.saturating_sub(now)),
                ..counted.status
            }
        }
    }

    fn situation(&self) -> Situation {
        let map = self.view.map();
        let lost = map.groups().flat_map(Group::disks);
        let lost = lost.filter(|&disk| !map.is_in(disk) || !self.view.is_readable(disk));
        let all = map.disks().map(|disk| DiskId(disk.id));
        Situation {
            map_epoch: map.epoch(),
            lost: lost.collect(),
            uncounted: self.hints.uncounted(),
            gone: given_up(&self.view),
            answering: all.filter(|&disk| self.view.is_readable(disk)).collect(),
        }
    }

    /// What the cluster looks like, when it is time for a pass.
    fn due(&self) -> Option<Situation> {
        let situation = self.situation();
        let now = self.runtime.monotonic();
        let due = self.last.as_ref().is_none_or(|(ended, known)| {
            let rested = now.saturating_sub(*ended);
            let lost_or_changed =
                (known.map_epoch, &known.lost) != (situation.map_epoch, &situation.lost);
            let uncounted = known.uncounted != situation.uncounted;
            // It may have what nobody else has.
            let came = !situation.answering.is_subset(&known.answering);
            let pause = match lost_or_changed || uncounted || came {
                true => PAUSE_MIN.min(self.every),
                false => self.every,
            };
            self.status.lock().begins_at = Some(*ended + pause);
            rested >= pause
        });
        // An empty map is one that was never read.
        (due && situation.map_epoch != 0).then_some(situation)
    }

    /// Begins a pass.
    fn begin(&mut self, situation: Situation, outsiders: Outsiders) {
        let pass = Pass::begin(&self.view, situation, outsiders);
        let mut counted = self.status.lock();
        counted.status.progress = pass.progress();
        counted.running_since = Some(self.runtime.monotonic());
        counted.begins_at = None;
        drop(counted);
        self.pass = Some(pass);
    }

    /// One step of the pass; true when the pass is over.
    async fn step(&mut self) -> Result<bool, WorkerError> {
        let Some(pass) = &mut self.pass else {
            return Ok(true);
        };
        let over = if !pass.is_through_the_groups() {
            pass.compare(&self.view, &self.repair).await?;
            false
        } else if pass.searches() {
            pass.search(&self.meta, &self.view).await?
        } else {
            !pass.begin_search(&self.view, &mut self.lost)
        };
        self.status.lock().status.progress = pass.progress();
        Ok(over)
    }

    fn finish(&mut self, pass: Pass) {
        let (uncounted, gone) = (pass.situation.uncounted, pass.situation.gone.clone());
        let progress = pass.progress();
        self.last = Some((self.runtime.monotonic(), pass.situation));
        if let Some(lost) = pass.lost {
            self.lost = lost;
        }
        let (lost, unheard) = (self.lost.lost, self.lost.unheard);
        let below_target = pass.below_target + lost + unheard;
        let mut counted = self.status.lock();
        *counted = Counted {
            status: RedundancyStatus {
                passes: counted.status.passes + 1,
                current: true,
                chunks: pass.chunks + lost + unheard,
                below_target,
                lost,
                narrow: pass.narrow,
                narrow_buckets: pass.narrow_buckets,
                groups_unknown: pass.groups_unknown,
                began_ms: pass.began_ms,
                finished_ms: self.runtime.now().as_millis(),
                progress,
                begins_in: None,
            },
            gaps: pass.gaps,
            uncounted,
            gone,
            running_since: None,
            begins_at: None,
        };
        if pass.rescued > 0 {
            let chunks = pass.rescued;
            tracing::warn!(chunks, "chunks that no member had were copied back");
        }
        if pass.moved > 0 {
            let parts = pass.moved;
            tracing::info!(
                parts,
                "parts of the metadata's backup were stored with more redundancy"
            );
        }
        if below_target > 0 {
            tracing::warn!(
                chunks = below_target,
                lost,
                "chunks are below their redundancy"
            );
        }
    }

    /// Works on the pass that is under way, or begins one when it is time.
    async fn compare(&mut self) -> Result<Tick, WorkerError> {
        if self.pass.is_none() {
            // What is counted is the cluster of now, not of the last time somebody looked.
            self.view.refresh().await?;
            let Some(situation) = self.due() else {
                return Ok(Tick::Done);
            };
            let outsiders = Outsiders::find(&self.view).await;
            self.begin(situation, outsiders);
        }
        let until = self.runtime.monotonic() + TICK_TIME;
        while self.runtime.monotonic() < until {
            // A step counts when it is through: one that is cut off is done again.
            if self.step().await? {
                if let Some(pass) = self.pass.take() {
                    self.finish(pass);
                }
                return Ok(Tick::Done);
            }
        }
        Ok(if self.pass.is_some() {
            Tick::More
        } else {
            Tick::Done
        })
    }

    /// Looks at copies somebody complained about, and, between passes, again at some of those that
    /// could not be made good: each of them has its turn. What there is no time for is looked at in
    /// the next tick.
    async fn look_at_hints(&mut self) {
        let room = HINTS_PER_TICK.saturating_sub(self.suspects.len());
        for hint in self.hints.take(room) {
            let copy = (hint.chunk, hint.disk);
            if !self.suspects.contains(&copy) {
                self.suspects.push_back(copy);
            }
        }
        let mut order: Vec<_> = self.suspects.iter().copied().collect();
        if self.pass.is_none() {
            order.extend(next_in_circle(&self.damaged, &mut self.damaged_at));
        }
        let begun = self.look_at(&order).await;
        // Those whose disks gave no answer go behind all others.
        for &(chunk, disk) in &order[..begun] {
            let waiting = self.suspects.iter().position(|&copy| copy == (chunk, disk));
            if let Some(at) = waiting {
                self.suspects.remove(at);
                self.hints.add(RepairHint { chunk, disk });
            }
        }
    }

    /// Looks at some copies in their order, as long as there is time; how many of them it began
    /// with. Those that were answered are suspects no more.
    async fn look_at(&mut self, order: &[(ChunkId, DiskId)]) -> usize {
        let repair = self.repair.clone();
        let mut looks = stream::iter(order.to_vec())
            .map(|(chunk, disk)| {
                let looking = repair.check_copy(chunk, disk);
                async move { ((chunk, disk), looking.await) }
            })
            .buffer_unordered(HINTS_AT_ONCE);
        let until = self.runtime.monotonic() + HINTS_TIME;
        let mut answered = 0;
        loop {
            let left = until.saturating_sub(self.runtime.monotonic());
            let Ok(Some(((chunk, disk), check))) = within(left, looks.next()).await else {
                return order.len().min(answered + HINTS_AT_ONCE);
            };
            answered += 1;
            self.suspects.retain(|&copy| copy != (chunk, disk));
            match check {
                CopyCheck::Good | CopyCheck::Deleted => {
                    self.damaged.remove(&(chunk, disk));
                }
                CopyCheck::Bad => self.note_damaged(chunk, disk),
                // Neither counted nor forgotten: it is looked at again.
                CopyCheck::Unknown => self.hints.add(RepairHint { chunk, disk }),
            }
        }
    }

    /// A copy is bad and stays so for now. One that is new, or that there is no room to remember,
    /// is in no number yet.
    fn note_damaged(&mut self, chunk: ChunkId, disk: DiskId) {
        if self.damaged.contains(&(chunk, disk)) {
            return;
        }
        if self.damaged.len() < DAMAGED_MAX {
            tracing::warn!(%chunk, %disk, "a copy is damaged and not repaired yet");
            self.damaged.insert((chunk, disk));
        }
        self.hints.note_uncounted();
    }
}

/// The copies to look at next, and where to go on after them.
fn next_in_circle(
    damaged: &BTreeSet<(ChunkId, DiskId)>,
    at: &mut Option<(ChunkId, DiskId)>,
) -> Vec<(ChunkId, DiskId)> {
    let after = at.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = damaged.range((after, Bound::Unbounded));
    let next: Vec<_> = rest.take(HINTS_PER_TICK).copied().collect();
    *at = next
        .last()
        .copied()
        .filter(|last| damaged.last() != Some(last));
    next
}

/// The disks that were given up, healthy or not.
fn given_up(view: &ClusterView) -> BTreeSet<DiskId> {
    let map = view.map();
    let all = map.disks().map(|disk| DiskId(disk.id));
    all.filter(|&disk| !map.is_in(disk)).collect()
}

/// Counts the members of groups that do not hold what they should, or cannot be asked for it.
fn gaps(view: &ClusterView) -> Gaps {
    let map = view.map();
    let lacks = |group: &Group| {
        let members = group.members.iter();
        let lacking = members.filter(|member| {
            !member.complete || !map.is_in(member.disk) || !view.is_readable(member.disk)
        });
        lacking.count()
    };
    let counts = map.groups().map(|group| (group.id, lacks(group)));
    counts.filter(|(_, lacking)| *lacking > 0).collect()
}

impl Worker for RedundancyWorker {
    const NAME: &'static str = "redundancy";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        // The pass comes first: complaints about members that do not answer must not keep it from
        // counting, nor may a pass that fails keep complaints from being looked at.
        let compared = self.compare().await;
        self.look_at_hints().await;
        compared
    }

    /// Another process may have led meanwhile: what was counted here before counts no more.
    fn resume(&mut self, _cursor: &[u8]) {
        (self.pass, self.last) = (None, None);
        self.lost = Lost::default();
        self.damaged.clear();
        self.suspects.clear();
        *self.status.lock() = Counted::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damaged_copy_has_its_turn() {
        for count in [0, 1, HINTS_PER_TICK, HINTS_PER_TICK + 1, 3 * HINTS_PER_TICK] {
            let copy = |n| (ChunkId::new(PgId(1), n), DiskId(1));
            let damaged: BTreeSet<_> = (0..count as u128).map(copy).collect();
            let (mut at, mut seen) = (None, Vec::new());
            for _ in 0..count.div_ceil(HINTS_PER_TICK) {
                seen.extend(next_in_circle(&damaged, &mut at));
            }
            assert_eq!(seen, damaged.iter().copied().collect::<Vec<_>>());
            assert_eq!(at, None, "the next round begins at the first");
        }
    }
}
