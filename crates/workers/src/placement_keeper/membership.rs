//! Disks that go and come, and who takes their places.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use granary_blob_api::DiskHealth;
use granary_datapath::{ClusterMap, Group, GroupMember};
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{disk_state, pb};
use granary_placement::{Places, Topology};
use granary_types::DiskId;

use super::PlacementKeeper;
use super::growth::NONE;
use super::layout::{rule_of, topology_of};
use super::silence::{Silence, unbelievable};
use super::waits::Away;
use crate::WorkerError;

/// Members replaced per tick: repair is spread over time as well as over disks.
const REPLACED_PER_TICK: usize = 64;
/// Groups looked at before other tasks have their turn.
const GROUPS_PER_TURN: usize = 256;

impl PlacementKeeper {
    /// Takes out disks that failed or have been unreachable for long, and takes back disks that
    /// were out and are healthy again. They may have missed what was written and deleted meanwhile:
    /// with the command they are complete no more where another one that answers is, and so their groups
    /// are compared before anything relies on them. None is taken out for its silence while more are
    /// silent than [`unbelievable`] says.
    pub(super) async fn update_disk_states(&mut self) -> Result<bool, WorkerError> {
        let map = self.view.map();
        let silence = unbelievable(&map.topology(|_| true), |disk| self.view.is_silent(disk));
        *self.silence.lock() = silence;
        self.holds_back = false;
        let mut changed = false;
        // Looked up once, for all that come back.
        let mut replaceable = None;
        for disk in map.disks() {
            let id = DiskId(disk.id);
            if disk.state == disk_state::REMOVED {
                // For good, however healthy it is: only an operator takes it back.
                self.note_away(id);
                continue;
            }
            let state = self.judged(&map, disk, silence);
            if state == disk.state {
                continue;
            }
            let mut record = disk.clone();
            record.state = state;
            let groups = match state {
                disk_state::IN => replaceable
                    .get_or_insert_with(|| self.compared_with_others(&map))
                    .remove(&id),
                _ => None,
            };
            let command = pb::RegisterDisk {
                disk: Some(record),
                state_only: true,
                groups: groups.unwrap_or_default(),
                keep_state: false,
            };
            let answer = self.meta.propose(command).await?;
            answer.map_err(|no| WorkerError::refused("a disk's state", no))?;
            if state == disk_state::OUT {
                tracing::warn!(disk = %id, "disk is taken out of service");
            } else {
                tracing::info!(disk = %id, "disk is back in service");
            }
            changed = true;
        }
        if let Some(Silence { silent, disks }) = silence.filter(|_| self.holds_back) {
            tracing::warn!(
                silent,
                disks,
                "too many disks are silent to take any out of service"
            );
        }
        if changed {
            self.view.refresh_map().await?;
        }
        Ok(changed)
    }

    /// The state that a disk should have.
    fn judged(
        &mut self,
        map: &ClusterMap,
        disk: &pb::state::Disk,
        silence: Option<Silence>,
    ) -> u32 {
        let id = DiskId(disk.id);
        let health = self.view.status(id).map(|status| status.health);
        self.note_away(id);
        match health {
            // Given up for good, whatever its node may still say.
            _ if map.is_removed(id) => disk_state::OUT,
            Some(DiskHealth::Failed) => disk_state::OUT,
            Some(DiskHealth::Healthy | DiskHealth::Full) => disk_state::IN,
            None if self.is_away_too_long(id) => {
                if silence.is_none() || !self.view.is_silent(id) {
                    return disk_state::OUT;
                }
                self.holds_back |= disk.state == disk_state::IN;
                disk.state
            }
            None | Some(DiskHealth::Opening) => disk.state,
        }
    }

    /// The groups in which each disk is a complete member, and another one that answers is, with which
    /// it is compared. That one, in each group, keeps its completeness when several come back at once:
    /// otherwise each would be compared with the next, and a dead one would be the only complete one.
    fn compared_with_others(&self, map: &ClusterMap) -> HashMap<DiskId, Vec<u32>> {
        let mut groups: HashMap<DiskId, Vec<u32>> = HashMap::new();
        for group in map.groups() {
            let members = group.members.iter().filter(|member| member.complete);
            let complete: Vec<DiskId> = members.map(|member| member.disk).collect();
            let answering = complete.iter().filter(|&&disk| self.view.is_readable(disk));
            let Some(&believed) = answering.min_by_key(|&&disk| (!map.is_in(disk), disk)) else {
                continue;
            };
            for disk in complete.into_iter().filter(|&disk| disk != believed) {
                groups.entry(disk).or_default().push(group.id.0);
            }
        }
        groups
    }

    /// Remembers since when a disk is away.
    fn note_away(&mut self, disk: DiskId) {
        if self.view.status(disk).is_some() {
            self.away.remove(&disk);
            return;
        }
        let (now, missing) = (self.runtime.monotonic(), self.view.is_missing(disk));
        let away = self.away.entry(disk).or_insert((now, missing));
        if away.1 != missing {
            *away = (now, missing);
        }
    }

    /// True when a disk has been away for so long that others get its chunks.
    fn is_away_too_long(&self, disk: DiskId) -> bool {
        self.away.get(&disk).is_some_and(|&(since, missing)| {
            self.runtime.monotonic().saturating_sub(since) >= self.patience(missing)
        })
    }

    /// How long a disk may be away: missing where its node answers, or out of reach.
    fn patience(&self, missing: bool) -> Duration {
        Duration::from_millis(match missing {
            true => self.config.missing_out_ms,
            false => self.config.unreachable_out_ms,
        })
    }

    /// True when a disk was given up for good and has nothing to give: its node was given up as well, it
    /// is broken, or has been away for as long as is waited for a disk in service, and not with so many
    /// others that nobody is given up for it.
    ///
    /// So is one that is out and `exchanged`, without a word of the operator.
    fn is_gone(&self, map: &ClusterMap, exchanged: &HashSet<DiskId>, disk: DiskId) -> bool {
        if exchanged.contains(&disk) {
            return !map.is_in(disk);
        }
        let health = self.view.status(disk).map(|status| status.health);
        let node = map.node_of(disk);
        let is_believed = self.silence.lock().is_none() || !self.view.is_silent(disk);
        let is_over = node.is_some_and(|node| map.is_node_removed(node))
            || health == Some(DiskHealth::Failed)
            || (self.is_away_too_long(disk) && is_believed);
        map.is_removed(disk) && !self.view.is_readable(disk) && is_over
    }

    /// Disks that their nodes do not have any more, where another one has their data directory: they
    /// were exchanged, and the operator has nothing more to say. Should one come back, what nobody else
    /// has is copied from it.
    fn exchanged(&self, map: &ClusterMap) -> HashSet<DiskId> {
        let (there, away): (Vec<_>, Vec<_>) = map
            .disks()
            .partition(|disk| self.view.is_readable(DiskId(disk.id)));
        let taken: HashSet<_> = there.iter().map(|disk| (disk.node, &disk.path)).collect();
        let away = away.iter().map(|disk| (DiskId(disk.id), disk));
        let missing = away.filter(|(id, disk)| {
            self.view.is_missing(*id) && taken.contains(&(disk.node, &disk.path))
        });
        missing.map(|(id, _)| id).collect()
    }

    /// Gives the places of disks that are out to others, where there is one to give them to. A
    /// place that nobody needs is given up.
    ///
    /// The last complete member of a group keeps its place while it may still come back, or answers
    /// although it was given up: what it holds is read only as long as it is a member. One that was
    /// given up and gives no answer may have restarted: it is waited for until it is gone. When all
    /// others are lost for good as well, a member without a complete one beside it stays, too. Where
    /// nobody else is left and it answers, another disk is added, to be filled from it.
    /// Without any complete member each may have what nobody else has: all are read before any is
    /// filled, and until then each goes only when it is gone.
    ///
    /// When all members were given up, or exchanged, and none has anything to give any more, they are
    /// replaced all the same: what rows name of the group is lost, counted so, and copied back should one of their disks
    /// answer again in spite of that. In a zone all of whose disks were given up the places go to
    /// another zone: a group whose members nobody can ask would be in doubt for good.
    ///
    /// A place is given away only when no gateway can count its disk any more. Whoever cannot reach a
    /// disk from here knows nothing of who else can: a gateway may reach just that one and the next
    /// one to be lost, and neither those that stay, which would tell it of the new epoch, nor the root.
    /// With its old map it would acknowledge what only former members have, and nobody reads them.
    /// They cannot be told of the new epoch either. But a gateway counts no copy by a map that the root
    /// has not confirmed within `MAP_AGE_MAX`, and none on a disk that its map says is out. So when
    /// the root has said for longer than that that a disk is out, nobody counts it; what was counted
    /// before is what is lost with any disk, and is on as many others as its class promises.
    pub(super) async fn replace_lost_members(&mut self) -> Result<bool, WorkerError> {
        let (map, topology) = (self.view.map(), self.topology());
        self.note_out(&map);
        let mut replaced = 0;
        let mut lost: Vec<&Group> = map
            .groups()
            .filter(|group| group.disks().any(|disk| !map.is_in(disk)))
            .collect();
        lost.sort_by_key(|group| group.id);
        let exchanged = match lost.is_empty() {
            true => HashSet::new(),
            false => self.exchanged(&map),
        };
        for pool in map.pools() {
            if !lost.iter().any(|group| group.pool == pool.id) {
                continue;
            }
            let part = refuge_of(&map, pool, &topology);
            let rule = rule_of(pool, &part);
            // Once for all groups: when a zone is off there are very many, and no disk for them.
            let loads = map.open_groups(pool.id);
            let mut places = Places::new(&part, rule, &loads, u64::from(pool.id));
            for (n, group) in lost.iter().filter(|g| g.pool == pool.id).enumerate() {
                if n % GROUPS_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
                if replaced >= REPLACED_PER_TICK {
                    return Ok(true);
                }
                let readable = |disk| self.view.is_readable(disk);
                let counts = |disk| !self.counts_nowhere(disk);
                let gone = |disk| self.is_gone(&map, &exchanged, disk);
                let Some(old) = lost_member(&map, group, readable, counts, gone) else {
                    continue;
                };
                let new = if old != NONE && is_needless(&map, group, old, readable) {
                    NONE
                } else {
                    let survivors = group.disks().filter(|&disk| map.is_in(disk));
                    let survivors: Vec<DiskId> = survivors.collect();
                    let Some(new) = places.beside(&survivors) else {
                        continue;
                    };
                    places.take(new);
                    new
                };
                replaced += usize::from(self.replace(group, old, new).await?);
            }
        }
        Ok(replaced > 0)
    }

    /// Remembers since when disks are out. The map was read before now.
    fn note_out(&mut self, map: &ClusterMap) {
        let now = self.runtime.monotonic();
        self.out.retain(|&disk, _| !map.is_in(disk));
        for disk in map.disks().map(|disk| DiskId(disk.id)) {
            if !map.is_in(disk) {
                self.out.entry(disk).or_insert(now);
            }
        }
    }

    /// Notes what is waited for now, and how much is lacking.
    pub(super) fn note_waits(&self) {
        let (map, now) = (self.view.map(), self.runtime.monotonic());
        let members: BTreeSet<DiskId> = map.groups().flat_map(Group::disks).collect();
        let after = Duration::from_millis(self.config.replace_after_ms);
        let out = members.iter().filter(|&&disk| !map.is_in(disk));
        let replaced = out.filter_map(|disk| Some(*self.out.get(disk)? + after));
        let replaces_at = replaced.filter(|&at| at > now).min();
        let held_back = self.silence.lock().is_some();
        let away = self.away.iter().filter(|&(&disk, _)| {
            let believed = !held_back || !self.view.is_silent(disk);
            map.is_in(disk) && members.contains(&disk) && believed
        });
        let gives_up_at = away.map(|(&disk, &(since, missing))| {
            let how = match missing {
                true => Away::Missing,
                false => Away::Unreachable,
            };
            (disk, (since + self.patience(missing), how))
        });
        let whole = |group: &&Group| {
            let serves = |disk| map.is_in(disk) && self.view.is_readable(disk);
            let mut members = group.members.iter();
            members.all(|member| member.complete && serves(member.disk))
        };
        let lacking = map.groups().count() - map.groups().filter(whole).count();
        let being_filled = map
            .groups()
            .any(|group| group.members.iter().any(|member| !member.complete));
        let mut waits = self.waits.lock();
        waits.replaces_at = replaces_at;
        waits.gives_up_at = gives_up_at.collect();
        (waits.held_back, waits.noted) = (held_back, true);
        waits.note_lacking(now, lacking as u64);
        if !being_filled {
            waits.begin_again(now);
        }
    }

    /// True when no gateway has a map any more by which it would count a copy on the disk.
    fn counts_nowhere(&self, disk: DiskId) -> bool {
        let after = Duration::from_millis(self.config.replace_after_ms);
        let now = self.runtime.monotonic();
        match self.out.get(&disk) {
            Some(&since) => now.saturating_sub(since) >= after,
            // One that the root does not know is in no map.
            None => self.view.map().node_of(disk).is_none(),
        }
    }

    /// Gives the place of a disk to another one. [`NONE`] as the old one: it is added; as the new
    /// one: the old one begins to leave, or goes when it is leaving; both the same: it stays after
    /// all. True when it was done, false when somebody else changed the group meanwhile.
    pub(super) async fn replace(
        &self,
        group: &Group,
        old: DiskId,
        new: DiskId,
    ) -> Result<bool, WorkerError> {
        let command = pb::ReplacePgMember {
            pg: group.id.0,
            epoch: group.epoch,
            old_disk: old.0,
            new_disk: new.0,
        };
        match self.meta.propose(command).await? {
            Ok(_) => {
                tracing::info!(pg = %group.id, %old, %new, "placement group changes its disks");
                Ok(true)
            }
            // Somebody changed it meanwhile: the next tick sees how.
            Err(no) if no.reason() == Reason::Stale => Ok(false),
            Err(no) => Err(WorkerError::refused("another member", no)),
        }
    }
}

/// The disks that may get places of a pool: those of its zone, or of another one when all disks of that
/// were given up: one with a node for each copy, if there is one, where the pool has disks already, or
/// else where most nodes are. Groups that began in a zone that is too small end where there is room.
fn refuge_of(map: &ClusterMap, pool: &pb::state::Pool, topology: &Topology) -> Topology {
    let part = topology_of(pool, topology);
    if !part.is_empty() || pool.zone.is_empty() || map.has_disks_in(&pool.zone) {
        return part;
    }
    let groups = || map.groups().filter(|group| group.pool == pool.id);
    // Groups of a pool of fewer copies have grown.
    let copies = groups().map(|group| group.members.len()).max();
    let copies = copies.unwrap_or(0).max(pool.copies as usize);
    let begun: BTreeSet<&str> = groups()
        .flat_map(Group::disks)
        .filter(|&disk| map.is_in(disk))
        .map(|disk| map.zone_of(disk))
        .collect();
    let zones = topology.zones().into_iter().map(|zone| {
        let part = topology.in_zone(zone);
        // Of one that restarts as well: where the groups go does not change for that.
        let known = part.disks().filter(|disk| map.is_in(disk.id));
        let known: BTreeSet<_> = known.map(|disk| disk.node).collect();
        let nodes: BTreeSet<_> = part.in_service().map(|disk| disk.node).collect();
        let has_room = known.len() >= copies;
        let rank = (has_room, begun.contains(zone), nodes.len(), Reverse(zone));
        (rank, part)
    });
    let best = zones.max_by_key(|(rank, _)| *rank);
    best.map_or(part, |(_, part)| part)
}

/// The member that is out and goes first: one that is leaving, one that is not filled, or any. One
/// that is complete goes only while another complete one is in service and answers. Given up for good
/// and gone, it goes anyway; while it answers, or may do so again, the others are filled from it. So is
/// one that is not filled and was given up, and any of those of which none is complete. One
/// that some gateway may still count goes later. [`NONE`]: nobody goes, and somebody has to come.
fn lost_member(
    map: &ClusterMap,
    group: &Group,
    readable: impl Fn(DiskId) -> bool,
    counts: impl Fn(DiskId) -> bool,
    gone: impl Fn(DiskId) -> bool,
) -> Option<DiskId> {
    let others = |of: DiskId| group.members.iter().filter(move |m| m.disk != of);
    let is_source = |m: &GroupMember| m.complete && readable(m.disk);
    let is_sourced = group.members.iter().any(|m| m.complete);
    let may_go = |member: &&GroupMember| {
        let replaced = others(member.disk).any(|m| is_source(m) && map.is_in(m.disk));
        let is_over = match (member.complete, map.is_removed(member.disk)) {
            // Of several that were given up, one after the other.
            (true, true) => others(member.disk).any(is_source),
            // What it took, those took that were there when it was not any more, or who has everything.
            (false, false) => is_sourced,
            // It may have answered until just now, and have what was written since all complete ones
            // were given up.
            (true, false) | (false, true) => false,
        };
        replaced || is_over || gone(member.disk)
    };
    let members = group.members.iter();
    let out = members.filter(|m| !map.is_in(m.disk) && !counts(m.disk));
    let first = out
        .filter(may_go)
        .min_by_key(|m| (group.leaving != Some(m.disk), m.complete, m.disk));
    let all_gone = || group.disks().all(&gone);
    let remains = |gone: DiskId| others(gone).any(|m| map.is_in(m.disk) || readable(m.disk));
    let lost = first
        .map(|member| member.disk)
        .filter(|&lost| remains(lost) || all_gone());
    let alone = || {
        let mut members = group.members.iter();
        group.disks().all(|disk| map.is_removed(disk)) && members.any(|m| readable(m.disk))
    };
    lost.or_else(|| alone().then_some(NONE))
}

/// True when a lost member's place need not be given to anybody: those in service are complete and
/// answer, and as many as there should be.
fn is_needless(
    map: &ClusterMap,
    group: &Group,
    lost: DiskId,
    readable: impl Fn(DiskId) -> bool,
) -> bool {
    let mut others = group.members.iter().filter(|m| m.disk != lost);
    let serves = |disk: &DiskId| map.is_in(*disk) && readable(*disk);
    let in_service = group.disks().filter(serves).count();
    group.leaving.is_none_or(|leaving| leaving == lost)
        && in_service >= map.target_copies(group)
        && others.all(|member| member.complete)
}

#[cfg(test)]
mod tests {
    use granary_types::PgId;

    use super::*;

    /// A disk in a group: whether it is complete, and how it is.
    type Member = (bool, How);

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum How {
        /// In service, and answers.
        Well,
        /// In service.
        Away,
        /// Out of service because it was away.
        Out,
        /// Given up by an operator, and answers.
        GivenUp,
        /// Given up, and gives no answer now.
        Silent,
        /// Given up, and not waited for any more.
        Gone,
    }

    fn lost_of(members: &[Member]) -> Option<u64> {
        let numbered = || (1u64..).zip(members.iter().copied());
        let map = ClusterMap::from_wire(pb::ClusterMap {
            epoch: 1,
            disks: numbered()
                .map(|(id, (_, how))| pb::state::Disk {
                    id,
                    state: match how {
                        How::Well | How::Away => disk_state::IN,
                        How::Out => disk_state::OUT,
                        How::GivenUp | How::Silent | How::Gone => disk_state::REMOVED,
                    },
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
        let group = Group {
            id: PgId(1),
            pool: 1,
            epoch: 1,
            members: numbered()
                .map(|(id, (complete, ..))| GroupMember {
                    disk: DiskId(id),
                    complete,
                })
                .collect(),
            closed: false,
            leaving: None,
        };
        let how = |disk: DiskId| members[disk.0 as usize - 1].1;
        let readable = |disk| matches!(how(disk), How::Well | How::GivenUp);
        let gone = |disk| how(disk) == How::Gone;
        lost_member(&map, &group, readable, |_| false, gone).map(|disk| disk.0)
    }

    #[test]
    fn a_member_goes_only_when_somebody_else_has_what_it_has() {
        const WHOLE: Member = (true, How::Well);
        const AWAY: Member = (true, How::Away);
        const EMPTY: Member = (false, How::Well);
        const PART: Member = (false, How::GivenUp);
        const OUT: Member = (true, How::Out);
        const GIVEN_UP: Member = (true, How::GivenUp);
        const SILENT: Member = (true, How::Silent);
        const GONE: Member = (true, How::Gone);
        for (members, expected) in [
            (&[WHOLE, WHOLE, WHOLE][..], None),
            (&[WHOLE, OUT, WHOLE], Some(2)),
            (&[WHOLE, GIVEN_UP, WHOLE], Some(2)),
            (&[GONE, WHOLE], Some(1)),
            // The other one was filled once and does not answer: it may be lost, too.
            (&[OUT, AWAY], None),
            (&[OUT, EMPTY], None),
            (&[GIVEN_UP, AWAY, EMPTY], None),
            // It answers: the others are filled from it first.
            (&[GIVEN_UP, EMPTY, EMPTY], None),
            (&[GIVEN_UP, EMPTY, WHOLE], Some(1)),
            // It does not answer now: its node may restart.
            (&[SILENT, EMPTY], None),
            (&[SILENT, EMPTY, EMPTY], None),
            (&[SILENT], None),
            (&[SILENT, GONE], None),
            (&[SILENT, SILENT, EMPTY], None),
            (&[SILENT, AWAY], None),
            // Unless another one has everything.
            (&[SILENT, WHOLE], Some(1)),
            (&[SILENT, GIVEN_UP, EMPTY], Some(1)),
            (&[GONE, SILENT, EMPTY], Some(1)),
            // Nobody waits for what is gone for good.
            (&[GONE, EMPTY, EMPTY], Some(1)),
            (&[GONE, GIVEN_UP, EMPTY], Some(1)),
            // One after the other, and beside the last one somebody comes.
            (&[GIVEN_UP, GIVEN_UP, GIVEN_UP], Some(1)),
            (&[GIVEN_UP], Some(NONE.0)),
            // Nothing is left, or one may come back.
            (&[GONE, GONE], Some(1)),
            (&[GONE], Some(1)),
            (&[GONE, OUT], None),
            (&[GONE, AWAY], Some(1)),
            (&[(false, How::Out), WHOLE], Some(1)),
            // It may have what was written while it was filled.
            (&[GIVEN_UP, PART, EMPTY], None),
            (&[GIVEN_UP, PART], Some(NONE.0)),
            (&[GIVEN_UP, (false, How::Silent), EMPTY], None),
            (&[GIVEN_UP, (false, How::Out), EMPTY], Some(2)),
            (&[GIVEN_UP, (false, How::Gone), EMPTY], Some(2)),
            (&[GIVEN_UP, PART, WHOLE], Some(2)),
            (&[WHOLE, (false, How::Silent)], Some(2)),
            // What it has is all that is left.
            (&[GONE, PART], Some(1)),
            (&[GONE, (false, How::Silent)], None),
            (&[PART], Some(NONE.0)),
            (&[PART, EMPTY], None),
            (&[(false, How::Silent), EMPTY], None),
            (&[(false, How::Out), EMPTY], None),
            (&[(false, How::Gone), EMPTY], Some(1)),
        ] {
            assert_eq!(lost_of(members), expected, "{members:?}");
        }
    }
}
