//! Groups that were made when the cluster was smaller: they get members until the rule of the best
//! pool of their class and zone holds.
//!
//! Invariants: a group changes only while all its members are complete and in service, by one
//! member at a time. A member goes in two steps, because "complete" only says that it was filled
//! once: what was acknowledged while it was away it may lack.
//! 1. It begins to leave, which raises the epoch: no write of the new epoch counts its copy. Every
//!    member makes that epoch durable, so nothing is acknowledged at an older one any more.
//! 2. All members are compared from the first chunk to the last, and what one lacks is copied. Only
//!    when every member took part and every chunk is on every one that stays, with no damaged copy
//!    left, it goes, if the epoch is still the same.
//!
//! So what only the leaving one had is on all others, and what came since never relied on it: no
//! chunk has fewer copies at any time than it had before.

use granary_datapath::{ClusterMap, Group};
use granary_meta_api::pb;
use granary_placement::{Rule, Topology, replacement_for};
use granary_types::DiskId;

use super::PlacementKeeper;
use super::layout::{rule_of, topology_of};
use crate::WorkerError;

/// Groups with members that are being filled, lost and new ones together, up to which another one
/// may begin to grow: growing has time, and what was lost goes first. A group that cannot be filled,
/// or has nobody to fill it, does not count: it may stay so for ever.
const FILLING_MAX: usize = 4;
/// Members per tick that begin to leave, or stay after all.
const LEAVING_PER_TICK: usize = 64;
/// Stands for no disk in a change of members.
pub(super) const NONE: DiskId = DiskId(0);

/// What a group needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Another member, which is filled before anything else happens.
    Add(DiskId),
    /// One member less: it begins to leave.
    Leave(DiskId),
}

impl PlacementKeeper {
    /// Takes the next step of some groups that are not as they should be; true when it did.
    pub(super) async fn grow_groups(&mut self) -> Result<bool, WorkerError> {
        let (map, topology) = (self.view.map(), self.topology());
        let filling = |group: &&Group| {
            let is_incomplete = group.members.iter().any(|member| !member.complete);
            is_incomplete && self.can_be_filled(group) && !self.has_rested(group)
        };
        let mut may_begin = FILLING_MAX.saturating_sub(map.groups().filter(filling).count());
        let (mut changed, mut leaving) = (false, 0);
        for pool in map.pools() {
            let part = topology_of(pool, &topology);
            let Some(rule) = map.best_pool(pool).map(|best| rule_of(best, &part)) else {
                continue;
            };
            let mut groups: Vec<&Group> = map.groups().filter(|g| g.pool == pool.id).collect();
            groups.sort_unstable_by_key(|group| group.id);
            let mut loads: Vec<Vec<DiskId>> = loads(&map, pool);
            for group in groups {
                if let Some(disk) = group.leaving {
                    if leaving < LEAVING_PER_TICK && !self.does_without(&map, group) {
                        leaving += 1;
                        changed |= self.replace(group, disk, disk).await?;
                    }
                    continue;
                }
                // One that lies in another zone altogether stays as it is.
                let elsewhere = group.disks().all(|disk| part.find(disk).is_none());
                if elsewhere || !self.is_settled(&map, group) {
                    continue;
                }
                match next_step(&part, rule, &loads, group) {
                    Some(Step::Add(new)) if may_begin > 0 => {
                        may_begin -= 1;
                        loads.push(vec![new]);
                        changed |= self.replace(group, NONE, new).await?;
                    }
                    Some(Step::Leave(old)) if leaving < LEAVING_PER_TICK => {
                        leaving += 1;
                        changed |= self.replace(group, old, NONE).await?;
                    }
                    _ => {}
                }
            }
        }
        Ok(changed)
    }

    /// True when every member was filled once and can be asked.
    fn is_settled(&self, map: &ClusterMap, group: &Group) -> bool {
        let mut members = group.members.iter();
        let serves = |disk| map.is_in(disk) && self.view.is_readable(disk);
        !group.members.is_empty() && members.all(|m| m.complete && serves(m.disk))
    }

    /// True when those that stay need no help from the one that leaves: all of them were filled
    /// once and can be asked. While one is away, the leaving one takes chunks again.
    fn does_without(&self, map: &ClusterMap, group: &Group) -> bool {
        let serves = |disk| map.is_in(disk) && self.view.is_readable(disk);
        let mut staying = group.members.iter();
        staying.all(|m| group.leaving == Some(m.disk) || (m.complete && serves(m.disk)))
    }
}

/// The groups that count as load where a pool's groups grow: all of its class and zone.
fn loads(map: &ClusterMap, pool: &pb::state::Pool) -> Vec<Vec<DiskId>> {
    let alike = map
        .pools()
        .iter()
        .filter(|other| other.redundancy == pool.redundancy && other.zone == pool.zone);
    alike.flat_map(|pool| map.open_groups(pool.id)).collect()
}

/// What a group whose members are all complete needs next; `None` when it is as it should be, or
/// when no disk can help it.
fn next_step(
    topology: &Topology,
    rule: Rule,
    loads: &[Vec<DiskId>],
    group: &Group,
) -> Option<Step> {
    let members: Vec<DiskId> = group.disks().collect();
    let seed = u64::from(group.id.0);
    let beside = |others: &[DiskId]| replacement_for(topology, rule, loads, others, seed);
    if members.len() < rule.copies {
        return beside(&members).map(Step::Add);
    }
    let crowded = crowded(topology, rule, loads, &members);
    if members.len() > rule.copies {
        let fullest = || {
            members
                .iter()
                .copied()
                .max_by_key(|&disk| (load(loads, disk), disk))
        };
        return crowded.or_else(fullest).map(Step::Leave);
    }
    let leaving = crowded?;
    let others: Vec<DiskId> = members
        .into_iter()
        .filter(|&disk| disk != leaving)
        .collect();
    beside(&others).filter(|&new| new != leaving).map(Step::Add)
}

/// The member that should leave first: of those that share the rule's failure domain with another
/// member the one on the fullest disk.
fn crowded(
    topology: &Topology,
    rule: Rule,
    loads: &[Vec<DiskId>],
    members: &[DiskId],
) -> Option<DiskId> {
    let shares = |disk: &DiskId| {
        let mut others = members.iter().filter(|other| *other != disk);
        others.any(
            |other| match (topology.find(*disk), topology.find(*other)) {
                (Some(disk), Some(other)) => rule.domain.shared(disk, other),
                _ => false,
            },
        )
    };
    let crowded = members.iter().copied().filter(shares);
    crowded.max_by_key(|&disk| (load(loads, disk), disk))
}

fn load(loads: &[Vec<DiskId>], disk: DiskId) -> usize {
    loads.iter().filter(|group| group.contains(&disk)).count()
}

#[cfg(test)]
mod tests {
    use granary_datapath::GroupMember;
    use granary_placement::{Disk, FailureDomain};
    use granary_types::{NodeId, PgId};

    use super::*;

    /// Disk n sits in node n / 10.
    fn topology(disks: &[u64]) -> Topology {
        Topology::new(disks.iter().map(|&n| Disk {
            id: DiskId(n),
            node: NodeId(n / 10),
            zone: "a".into(),
            capacity_bytes: 1 << 40,
            in_service: true,
        }))
    }

    fn group(disks: &[u64]) -> Group {
        let member = |&disk: &u64| GroupMember {
            disk: DiskId(disk),
            complete: true,
        };
        Group {
            id: PgId(7),
            pool: 1,
            epoch: 1,
            members: disks.iter().map(member).collect(),
            closed: false,
            leaving: None,
        }
    }

    #[test]
    fn a_group_grows_and_moves_apart_step_by_step() {
        use FailureDomain::{Disk as ByDisk, Node as ByNode};
        for (disks, copies, domain, members, adds, drops) in [
            // One disk on one node, then a second and a third node.
            (&[10, 20][..], 2, ByDisk, &[10][..], &[20][..], &[][..]),
            (&[10, 20, 30], 3, ByNode, &[10, 20], &[30], &[]),
            (&[10, 20, 30], 3, ByNode, &[10], &[20, 30], &[]),
            // Three disks of one node, then two more nodes.
            (
                &[10, 11, 12, 20, 30],
                3,
                ByNode,
                &[10, 11, 12],
                &[20, 30],
                &[],
            ),
            // A new one is there: one of those that share a node may go.
            (
                &[10, 11, 12, 20, 30],
                3,
                ByNode,
                &[10, 11, 12, 20],
                &[],
                &[10, 11, 12],
            ),
            (
                &[10, 11, 20, 30],
                3,
                ByNode,
                &[10, 20, 30, 11],
                &[],
                &[10, 11],
            ),
            // As it should be, or nobody can help.
            (&[10, 20, 30, 40], 3, ByNode, &[10, 20, 30], &[], &[]),
            (&[10, 11, 12, 20], 3, ByNode, &[10, 11, 20], &[], &[]),
            (&[10], 3, ByNode, &[10], &[], &[]),
            // One too many, nobody shares a node.
            (
                &[10, 20, 30, 40],
                3,
                ByNode,
                &[10, 20, 30, 40],
                &[],
                &[10, 20, 30, 40],
            ),
        ] {
            let rule = Rule { copies, domain };
            let step = next_step(&topology(disks), rule, &[], &group(members));
            let expected = match step {
                Some(Step::Add(disk)) => adds.contains(&disk.0),
                Some(Step::Leave(disk)) => drops.contains(&disk.0),
                None => adds.is_empty() && drops.is_empty(),
            };
            assert!(expected, "{members:?} of {disks:?}: {step:?}");
        }
    }
}
