//! One pass over everything: how far it is, and what it has counted.
//!
//! A step changes it only when it is through, so that one that is cut off can be done again.

use std::collections::BTreeSet;
use std::time::Duration;

use granary_datapath::{ClusterView, Group};
use granary_meta_api::Meta;
use granary_types::{ChunkId, DiskId, PgId};

use super::{Gaps, Situation, gaps};
use crate::WorkerError;
use crate::fsck::GroupSums;
use crate::group_repair::{GroupRepair, Repaired, SomeBuckets};
use crate::lost_chunks::{Lost, LostSearch};
use crate::outsiders::Outsiders;

/// Tries before a group whose members cannot be compared is left to the next pass.
const TRIES_PER_GROUP: u32 = 3;

/// How far a pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassProgress {
    /// Groups that are through, and how many there are.
    pub groups: (u64, u64),
    /// Chunks that were compared, and about how many there are; equal when all groups are through.
    pub chunks: (u64, u64),
    /// For how long the pass that is under way has been running; `None` between passes.
    pub running: Option<Duration>,
}

/// A pass under way: first group by group, then what the groups did not show.
pub(super) struct Pass {
    pub(super) situation: Situation,
    outsiders: Outsiders,
    pub(super) gaps: Gaps,
    pub(super) began_ms: u64,
    groups: Vec<PgId>,
    next: usize,
    after: Option<ChunkId>,
    tries: u32,
    pub(super) chunks: u64,
    pub(super) below_target: u64,
    pub(super) narrow: u64,
    pub(super) narrow_buckets: SomeBuckets,
    pub(super) groups_unknown: u64,
    pub(super) rescued: u64,
    pub(super) moved: u64,
    /// Copies on all disks when it began, and those that it has seen.
    copies: (u64, u64),
    /// What the groups that are through have shown.
    seen: GroupSums,
    /// After the groups: what they do not show.
    search: Option<LostSearch>,
    pub(super) lost: Option<Lost>,
}

impl Pass {
    pub(super) fn begin(view: &ClusterView, situation: Situation, outsiders: Outsiders) -> Self {
        let map = view.map();
        let mut groups: Vec<_> = map.groups().map(|group| group.id).collect();
        groups.sort_unstable();
        let disks: BTreeSet<DiskId> = map.groups().flat_map(Group::disks).collect();
        let held = disks.into_iter().filter_map(|disk| view.status(disk));
        Self {
            situation,
            outsiders,
            gaps: gaps(view),
            began_ms: view.runtime().now().as_millis(),
            groups,
            next: 0,
            after: None,
            tries: 0,
            chunks: 0,
            below_target: 0,
            narrow: 0,
            narrow_buckets: SomeBuckets::default(),
            groups_unknown: 0,
            rescued: 0,
            moved: 0,
            copies: (held.map(|disk| disk.chunks).sum(), 0),
            seen: GroupSums::default(),
            search: None,
            lost: None,
        }
    }

    /// Counts a part of a group in, which lies in a `narrow` zone or not.
    fn count(&mut self, pg: PgId, repaired: &Repaired, narrow: bool) {
        self.chunks += repaired.chunks;
        if narrow {
            // Those that have all the copies that they can have.
            self.narrow += repaired.chunks.saturating_sub(repaired.below_target);
            self.narrow_buckets.add_all(repaired.buckets);
            self.below_target += repaired.chunks;
        } else {
            self.below_target += repaired.below_target;
        }
        self.rescued += repaired.rescued;
        self.moved += repaired.moved;
        self.copies.1 += repaired.copies;
        self.seen.add_sum(pg, repaired.seen);
        (self.after, self.tries) = (repaired.next_after, 0);
        // Nobody was asked.
        let unknown = repaired.members.is_empty() && repaired.next_after.is_none();
        self.groups_unknown += u64::from(unknown);
    }

    pub(super) fn is_through_the_groups(&self) -> bool {
        self.next == self.groups.len()
    }

    pub(super) fn progress(&self) -> PassProgress {
        let all = match self.copies {
            _ if self.is_through_the_groups() => self.chunks,
            (all, seen) if seen > 0 => {
                let all = u128::from(self.chunks) * u128::from(all) / u128::from(seen);
                u64::try_from(all).unwrap_or(u64::MAX).max(self.chunks)
            }
            _ => self.chunks,
        };
        PassProgress {
            groups: (self.next as u64, self.groups.len() as u64),
            chunks: (self.chunks, all),
            running: None,
        }
    }

    /// Compares a part of the group that it is at.
    pub(super) async fn compare(
        &mut self,
        view: &ClusterView,
        repair: &GroupRepair,
    ) -> Result<(), WorkerError> {
        let map = view.map();
        let Some(&id) = self.groups.get(self.next) else {
            return Ok(());
        };
        match map.group(id) {
            Some(group) => {
                let copies = map.target_copies(group);
                let narrow = copies < map.promised_copies(group);
                let repairing = repair.repair(group, copies, self.after, &self.outsiders);
                match repairing.await {
                    Ok(repaired) => self.count(id, &repaired, narrow),
                    Err(error) if self.tries + 1 < TRIES_PER_GROUP => {
                        self.tries += 1;
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::debug!(pg = %id, %error, "group not compared");
                        self.groups_unknown += 1;
                        (self.after, self.tries) = (None, 0);
                    }
                }
            }
            None => self.after = None,
        }
        if self.after.is_none() {
            self.next += 1;
        }
        Ok(())
    }

    /// Looks for what the groups did not show, if anything can be lost; false when nothing can.
    pub(super) fn begin_search(&mut self, view: &ClusterView, before: &mut Lost) -> bool {
        self.search = LostSearch::begin(view, &self.situation.gone, before);
        self.searches()
    }

    pub(super) fn searches(&self) -> bool {
        self.search.is_some()
    }

    /// One step of the search; true at its end.
    pub(super) async fn search(
        &mut self,
        meta: &Meta,
        view: &ClusterView,
    ) -> Result<bool, WorkerError> {
        if let Some(search) = &mut self.search {
            self.lost = search.step(meta, view, &self.seen, &self.outsiders).await?;
        }
        Ok(self.lost.is_some())
    }
}
