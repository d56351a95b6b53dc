//! Opening groups on their disks at the map's epoch, filling members that are not complete, and
//! comparing all members before one that is leaving goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use granary_datapath::{Group, GroupMember};
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_runtime::within;
use granary_types::{DiskId, PgId};

use super::growth::NONE;
use super::{Filling, PlacementKeeper, Resting};
use crate::WorkerError;
use crate::group_listing::is_complete;
use crate::outsiders::Outsiders;
use crate::worker::TICK_TIME;

/// Disks asked at once while groups are opened.
const DISKS_AT_ONCE: usize = 32;
/// Calls to one disk at once.
const OPENING_AT_ONCE: usize = 8;
/// Time one call may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time one group gets per tick, so that others have their turn.
const GROUP_TIME: Duration = Duration::from_secs(4);
/// Time one step of filling a group may take; what it copied until then stays.
const STEP_TIME: Duration = Duration::from_secs(15);
/// Pauses of a group that could not be filled.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Groups filled at once, and those of them that one disk may be a member of.
const GROUPS_AT_ONCE: usize = 8;
const GROUPS_PER_DISK: usize = 2;
/// Pause between two questions to a disk which epochs it knows.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Group and disk pairs opened per tick.
const OPENED_PER_TICK: usize = 20_000;

impl PlacementKeeper {
    /// Tells disks the epochs of their groups, as far as they did not confirm them already.
    pub(super) async fn open_groups(&mut self) -> Result<(), WorkerError> {
        let map = self.view.map();
        let known = |pg: PgId, disk: DiskId| {
            map.group(pg)
                .is_some_and(|group| group.disks().any(|member| member == disk))
        };
        // A disk that was away may have lost what it was told.
        self.opened
            .retain(|&(pg, disk), _| known(pg, disk) && self.view.is_readable(disk));
        self.forget_what_disks_forgot().await;
        let mut pending: BTreeMap<DiskId, Vec<(PgId, u64)>> = BTreeMap::new();
        let unopened = map
            .groups()
            .flat_map(|group| group.disks().map(|disk| (group.id, disk, group.epoch)))
            // Those that were given up as well, as long as they are members: a write that does not
            // know of it must not be acknowledged by them.
            .filter(|&(_, disk, _)| self.view.is_readable(disk))
            .filter(|&(pg, disk, epoch)| self.opened.get(&(pg, disk)) != Some(&epoch))
            .take(OPENED_PER_TICK);
        for (pg, disk, epoch) in unopened {
            pending.entry(disk).or_default().push((pg, epoch));
        }
        let opened: Vec<_> = stream::iter(pending)
            .map(|(disk, groups)| self.open_on(disk, groups))
            .buffer_unordered(DISKS_AT_ONCE)
            .collect()
            .await;
        self.opened.extend(opened.into_iter().flatten());
        Ok(())
    }

    /// Asks some disks which epochs they know: one that made its index anew between two looks at it
    /// may know none, and would take no chunk of the group until it changes again.
    async fn forget_what_disks_forgot(&mut self) {
        let now = self.runtime.monotonic();
        let told: BTreeSet<DiskId> = self.opened.keys().map(|&(_, disk)| disk).collect();
        self.asked.retain(|disk, _| told.contains(disk));
        let is_due = |disk: &DiskId| {
            let asked = self.asked.get(disk);
            asked.is_none_or(|&at| now.saturating_sub(at) >= ASK_EVERY)
        };
        let due: Vec<DiskId> = told
            .into_iter()
            .filter(is_due)
            .take(DISKS_AT_ONCE)
            .collect();
        let view = &self.view;
        let asking = due.iter().map(|&disk| async move {
            let node = view.node_of(disk)?;
            let known = within(OPEN_TIMEOUT, node.groups(disk)).await.ok()?.ok()?;
            Some((disk, known.into_iter().collect::<BTreeMap<PgId, u64>>()))
        });
        let answers = join_all(asking).await;
        self.asked.extend(due.into_iter().map(|disk| (disk, now)));
        for (disk, known) in answers.into_iter().flatten() {
            self.opened.retain(|&(pg, on), epoch| {
                on != disk || known.get(&pg).is_some_and(|known| known >= epoch)
            });
        }
    }

    /// Opens groups on one disk; those it confirmed. A disk that gives no answer is not asked on:
    /// it must not keep the others waiting.
    async fn open_on(&self, disk: DiskId, groups: Vec<(PgId, u64)>) -> Vec<((PgId, DiskId), u64)> {
        let Some(node) = self.view.node_of(disk) else {
            return Vec::new();
        };
        let mut answers = stream::iter(groups)
            .map(|(pg, epoch)| {
                let opening = node.open_pg(disk, pg, epoch);
                async move { (pg, epoch, within(OPEN_TIMEOUT, opening).await) }
            })
            .buffered(OPENING_AT_ONCE);
        let mut confirmed = Vec::new();
        while let Some((pg, epoch, answer)) = answers.next().await {
            match answer {
                Ok(Ok(())) => confirmed.push(((pg, disk), epoch)),
                // A newer epoch there: the map read next will have it. Others are tried again.
                Ok(Err(error)) => tracing::debug!(%pg, %disk, %error, "group not opened"),
                Err(_) => {
                    tracing::debug!(%pg, %disk, "group not opened: no answer");
                    break;
                }
            }
        }
        confirmed
    }

    /// Fills members that are not complete, and compares groups that a member is about to leave;
    /// true when there is more to do now. A group that cannot be filled keeps no other waiting.
    ///
    /// # Errors
    /// The first one, after every group had its turn.
    pub(super) async fn fill_members(&mut self) -> Result<bool, WorkerError> {
        let map = self.view.map();
        let mut incomplete: Vec<&Group> = map
            .groups()
            .filter(|group| group.leaving.is_some() || group.members.iter().any(|m| !m.complete))
            .collect();
        incomplete.sort_by_key(|group| group.id);
        let still = |pg: &PgId| incomplete.iter().find(|group| group.id == *pg);
        self.filling.get_mut().retain(|pg, filling| {
            // Who is away now misses what is written, in the part that is through as well.
            let serving = still(pg).map(|group| self.repair.serving(group));
            let serving = serving.unwrap_or_default();
            filling.members.retain(|disk| serving.contains(disk));
            still(pg).is_some_and(|group| filling.is_of_use(group))
        });
        self.resting.get_mut().retain(|pg, _| still(pg).is_some());
        let keeper = &*self;
        let may_begin = |group: &&Group| keeper.may_be_filled(group) && !keeper.is_resting(group);
        let mut waiting: VecDeque<&Group> = incomplete.into_iter().filter(may_begin).collect();
        let until = keeper.runtime.monotonic() + TICK_TIME;
        let (mut more, mut failure) = (false, None);
        let (mut beside, mut running) = (Beside::default(), FuturesUnordered::new());
        loop {
            while keeper.runtime.monotonic() < until
                && let Some(group) = beside.next(&mut waiting)
            {
                running.push(async move { (group, keeper.fill_for_a_while(group).await) });
            }
            let Some((group, outcome)) = running.next().await else {
                break;
            };
            beside.ended(group);
            match outcome {
                Ok(through) => more |= !through,
                Err(error) => {
                    tracing::info!(pg = %group.id, %error, "group not filled");
                    keeper.rest(group);
                    failure.get_or_insert(error);
                }
            }
        }
        more |= !waiting.is_empty();
        match failure {
            Some(error) => Err(error),
            // What was filled or compared may be ready for its next step.
            None => Ok(more || self.view.map().epoch() != map.epoch()),
        }
    }

    /// Fills a group as long as it may; true when it has nothing more to do in this tick.
    async fn fill_for_a_while(&self, group: &Group) -> Result<bool, WorkerError> {
        let until = self.runtime.monotonic() + GROUP_TIME;
        while self.runtime.monotonic() < until {
            let step = within(STEP_TIME, self.fill(group)).await;
            if step.map_err(|_| WorkerError::TooLong)?? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_resting(&self, group: &Group) -> bool {
        let now = self.runtime.monotonic();
        let resting = self.resting.lock().get(&group.id).copied();
        resting.is_some_and(|resting| resting.epoch == group.epoch && now < resting.until)
    }

    /// True when a group could not be filled at its epoch, and was not since.
    pub(super) fn has_rested(&self, group: &Group) -> bool {
        let resting = self.resting.lock().get(&group.id).copied();
        resting.is_some_and(|resting| resting.epoch == group.epoch)
    }

    /// Leaves a group alone for a while, twice as long as the last time.
    fn rest(&self, group: &Group) {
        let mut all = self.resting.lock();
        let last = all.get(&group.id);
        let last = last.filter(|resting| resting.epoch == group.epoch);
        let pause = last.map_or(FIRST_PAUSE, |resting| {
            (resting.pause * 2).min(LONGEST_PAUSE)
        });
        let resting = Resting {
            epoch: group.epoch,
            until: self.runtime.monotonic() + pause,
            pause,
        };
        all.insert(group.id, resting);
    }

    /// True when there is something to do, and every member that can be reached has confirmed the
    /// epoch.
    fn may_be_filled(&self, group: &Group) -> bool {
        let serving = self.repair.serving(group);
        let reading = self.repair.reading(group);
        let confirmed = |disk: &DiskId| self.opened.get(&(group.id, *disk)) == Some(&group.epoch);
        serving.iter().chain(&reading).all(confirmed) && self.can_be_filled(group)
    }

    /// True when there is something to do: a new member serves and a complete one can fill it, or one
    /// is about to leave and all of them, without exception, can be compared.
    pub(super) fn can_be_filled(&self, group: &Group) -> bool {
        let serving = self.repair.serving(group);
        let reading = self.repair.reading(group);
        let complete = |member: &&GroupMember| member.complete;
        let serves = |member: &&GroupMember| serving.contains(&member.disk);
        let members = || group.members.iter();
        if members().all(|member| member.complete) {
            return members().all(|member| serving.contains(&member.disk));
        }
        // Where no complete member is left, what the others have is all there is.
        let gives = |member: GroupMember| reading.contains(&member.disk);
        let source = members().filter(complete).count() == 0
            || members().filter(complete).any(|member| gives(*member));
        source && members().any(|member| !member.complete && serves(&member))
    }

    /// Fills a part of a group; true when this group has nothing more to do in this tick.
    async fn fill(&self, group: &Group) -> Result<bool, WorkerError> {
        let known = self.filling.lock().get(&group.id).cloned();
        let known = known.filter(|known| known.epoch == group.epoch);
        let mut state = known.unwrap_or_else(|| Filling::begin(group));
        // Members alone: what none of them has is looked for by the count of all copies.
        let (copies, nobody) = (group.staying().count(), Outsiders::default());
        let repaired = self
            .repair
            .repair(group, copies, state.after, &nobody)
            .await?;
        // Without a complete member every other one may have what nobody else has: none counts as
        // filled before all of them were read.
        let sourced = group.members.iter().any(|member| member.complete);
        if sourced && !repaired.read.iter().any(|&disk| is_complete(group, disk)) {
            // It has gone away since: the others were compared with each other alone.
            self.rest(group);
            return Ok(true);
        }
        state.failed += repaired.failed;
        state.unsound += repaired.damaged + repaired.lost;
        // Where nobody is complete, one that was given up and answers is as good as another.
        let asked = match sourced {
            true => &repaired.members,
            false => &repaired.read,
        };
        state.partial |= asked.len() < group.members.len();
        let took_part = |disk: &DiskId| repaired.members.contains(disk);
        state.members.retain(took_part);
        if !state.is_of_use(group) {
            // It begins again when they are there again.
            self.filling.lock().remove(&group.id);
            return Ok(true);
        }
        state.after = repaired.next_after;
        if state.after.is_some() {
            self.filling.lock().insert(group.id, state);
            return Ok(false);
        }
        self.filling.lock().remove(&group.id);
        let whole = state.failed + state.unsound == 0 && !state.partial;
        let complete = group.members.iter().all(|member| member.complete);
        match group.leaving {
            // Every chunk is on every member that stays, and the epoch says that none can have
            // been acknowledged since with a copy of the leaving one.
            Some(leaving) if complete && whole => {
                self.replace(group, leaving, NONE).await?;
                self.view.refresh_map().await?;
            }
            None if state.failed == 0 && (sourced || !state.partial) => {
                if !sourced {
                    tracing::warn!(
                        pg = %group.id,
                        "the last complete disk of a placement group is gone: what the others have \
                         is all there is"
                    );
                }
                self.complete(group, &state.members).await?;
            }
            _ => {
                let chunks = state.failed + state.unsound;
                tracing::debug!(pg = %group.id, chunks, "group not filled yet");
                self.rest(group);
                return Ok(true);
            }
        }
        self.resting.lock().remove(&group.id);
        Ok(true)
    }

    /// Those of the members that are not complete yet are so now.
    async fn complete(&self, group: &Group, filled: &[DiskId]) -> Result<(), WorkerError> {
        let members = group.members.iter().filter(|member| !member.complete);
        for member in members.filter(|member| filled.contains(&member.disk)) {
            let command = pb::CompletePgMember {
                pg: group.id.0,
                epoch: group.epoch,
                disk: member.disk.0,
            };
            match self.meta.propose(command).await? {
                Ok(_) => tracing::info!(pg = %group.id, disk = %member.disk, "disk is filled"),
                // Changed meanwhile: the next tick begins with the new epoch.
                Err(no) if no.reason() == Reason::Stale => {}
                Err(no) => return Err(WorkerError::refused("a filled member", no)),
            }
        }
        self.view.refresh_map().await?;
        Ok(())
    }
}

/// The groups that are filled beside each other: many of a large cluster, without any disk having
/// more of them than it can do beside what clients ask of it.
#[derive(Default)]
struct Beside {
    groups: usize,
    /// Groups of each disk.
    disks: HashMap<DiskId, usize>,
}

impl Beside {
    /// Takes the first one of those that wait that may begin now.
    fn next<'a>(&mut self, waiting: &mut VecDeque<&'a Group>) -> Option<&'a Group> {
        if self.groups >= GROUPS_AT_ONCE {
            return None;
        }
        let is_free = |disk: DiskId| {
            let groups = self.disks.get(&disk);
            groups.is_none_or(|&groups| groups < GROUPS_PER_DISK)
        };
        let first = waiting
            .iter()
            .position(|group| group.disks().all(is_free))?;
        let group = waiting.remove(first)?;
        self.groups += 1;
        for disk in group.disks() {
            *self.disks.entry(disk).or_default() += 1;
        }
        Some(group)
    }

    fn ended(&mut self, group: &Group) {
        self.groups = self.groups.saturating_sub(1);
        for disk in group.disks() {
            if let Some(groups) = self.disks.get_mut(&disk) {
                *groups = groups.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: u32, disks: &[u64]) -> Group {
        let member = |&disk: &u64| GroupMember {
            disk: DiskId(disk),
            complete: true,
        };
        Group {
            id: PgId(id),
            pool: 1,
            epoch: 1,
            members: disks.iter().map(member).collect(),
            closed: false,
            leaving: None,
        }
    }

    #[test]
    fn groups_are_filled_beside_each_other_as_far_as_their_disks_can_take_it() {
        let shared = (1..=4).map(|id| group(id, &[1, 2, u64::from(id) + 10]));
        let apart = (5..=20).map(|id| group(id, &[u64::from(id) * 100, u64::from(id) * 100 + 1]));
        let groups: Vec<Group> = shared.chain(apart).collect();
        let mut waiting: VecDeque<&Group> = groups.iter().collect();
        let mut beside = Beside::default();
        let mut begun = Vec::new();
        while let Some(group) = beside.next(&mut waiting) {
            begun.push(group.id.0);
        }
        assert_eq!(begun, [1, 2, 5, 6, 7, 8, 9, 10]);
        beside.ended(&groups[6]);
        assert_eq!(beside.next(&mut waiting).unwrap().id, PgId(11));
        // The next one of those that share disks, as soon as one of them is through.
        beside.ended(&groups[0]);
        assert_eq!(beside.next(&mut waiting).unwrap().id, PgId(3));
        assert!(beside.next(&mut waiting).is_none());
        for ended in [1, 2, 4, 5, 7, 8, 9, 10] {
            beside.ended(&groups[ended]);
        }
        let rest = std::iter::from_fn(|| beside.next(&mut waiting)).count();
        assert_eq!(rest, 8);
    }
}
