//! Moving group members onto emptier disks, as few as balance needs.

use std::collections::{BTreeSet, HashMap};

use granary_types::DiskId;

use crate::{Disk, FailureDomain, Topology};

/// One member of a group that should change its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index of the group in the list that was passed.
    pub group: usize,
    /// The disk it leaves.
    pub from: DiskId,
    /// The disk it goes to.
    pub to: DiskId,
}

/// The moves, at most `limit`, that bring every disk up to its share of the slots.
///
/// A disk's share is its part of the capacity in service, rounded down; only disks below their
/// share receive, and only disks above theirs give. So what moves is what the receiving disks were
/// short of, which is the minimum for adding disks.
pub fn plan_rebalance(
    topology: &Topology,
    domain: FailureDomain,
    groups: &[Vec<DiskId>],
    limit: usize,
) -> Vec<Move> {
    let mut plan = Plan::new(topology, domain, groups);
    let mut needy: Vec<&Disk> = topology.in_service().collect();
    needy.sort_by_key(|disk| (plan.load(disk.id), disk.id));
    let mut moves = Vec::new();
    for disk in needy {
        while plan.load(disk.id) < plan.share(disk) && moves.len() < limit {
            let Some(found) = plan.take_for(disk) else {
                break;
            };
            moves.push(found);
        }
    }
    moves
}

struct Plan<'a> {
    topology: &'a Topology,
    domain: FailureDomain,
    members: Vec<Vec<DiskId>>,
    of_disk: HashMap<DiskId, BTreeSet<usize>>,
    /// Disks in service by slots per capacity, fullest last.
    by_ratio: BTreeSet<(u64, DiskId)>,
    slots: u64,
    capacity: u128,
}

impl<'a> Plan<'a> {
    fn new(topology: &'a Topology, domain: FailureDomain, groups: &[Vec<DiskId>]) -> Self {
        let mut of_disk: HashMap<DiskId, BTreeSet<usize>> = HashMap::new();
        for (index, group) in groups.iter().enumerate() {
            for &disk in group {
                of_disk.entry(disk).or_default().insert(index);
            }
        }
        let mut plan = Self {
            topology,
            domain,
            members: groups.to_vec(),
            of_disk,
            by_ratio: BTreeSet::new(),
            slots: groups.iter().map(|group| group.len() as u64).sum(),
            capacity: topology
                .in_service()
                .map(|disk| u128::from(disk.capacity_bytes.max(1)))
                .sum(),
        };
        plan.by_ratio = topology.in_service().map(|disk| plan.rank(disk)).collect();
        plan
    }

    fn load(&self, disk: DiskId) -> u64 {
        self.of_disk
            .get(&disk)
            .map_or(0, |groups| groups.len() as u64)
    }

    fn share(&self, disk: &Disk) -> u64 {
        let exact = u128::from(self.slots) * u128::from(disk.capacity_bytes.max(1));
        (exact / self.capacity.max(1)) as u64
    }

    fn rank(&self, disk: &Disk) -> (u64, DiskId) {
        let ratio = self.load(disk.id) as f64 / disk.capacity_bytes.max(1) as f64;
        (ratio.to_bits(), disk.id)
    }

    /// Moves one slot to `to` from the fullest disk that has one `to` may take.
    fn take_for(&mut self, to: &Disk) -> Option<Move> {
        let (group, from) = self.by_ratio.iter().rev().find_map(|&(_, from)| {
            let giver = self.topology.find(from)?;
            if from == to.id || self.load(from) <= self.share(giver) {
                return None;
            }
            let groups = self.of_disk.get(&from)?;
            let group = groups
                .iter()
                .copied()
                .find(|&group| self.may_move(group, from, to))?;
            Some((group, giver))
        })?;
        self.shift(group, from, to);
        Some(Move {
            group,
            from: from.id,
            to: to.id,
        })
    }

    fn may_move(&self, group: usize, from: DiskId, to: &Disk) -> bool {
        let others = self.members[group].iter().filter(|&&disk| disk != from);
        !others
            .filter_map(|&disk| self.topology.find(disk))
            .any(|disk| disk.id == to.id || self.domain.shared(disk, to))
    }

    fn shift(&mut self, group: usize, from: &Disk, to: &Disk) {
        for disk in [from, to] {
            let rank = self.rank(disk);
            self.by_ratio.remove(&rank);
        }
        if let Some(groups) = self.of_disk.get_mut(&from.id) {
            groups.remove(&group);
        }
        self.of_disk.entry(to.id).or_default().insert(group);
        for member in &mut self.members[group] {
            if *member == from.id {
                *member = to.id;
            }
        }
        for disk in [from, to] {
            let rank = self.rank(disk);
            self.by_ratio.insert(rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rule, plan_groups, replacement_for};
    use granary_types::NodeId;

    const DISKS: u64 = 10_000;
    const DISKS_PER_NODE: u64 = 20;
    const RULE: Rule = Rule {
        copies: 3,
        domain: FailureDomain::Node,
    };

    fn disk(n: u64) -> Disk {
        Disk {
            id: DiskId(n),
            node: NodeId(n / DISKS_PER_NODE),
            zone: "z".into(),
            // Three sizes of disks in one cluster.
            capacity_bytes: [8u64, 16, 20][(n / DISKS_PER_NODE % 3) as usize] << 40,
            in_service: true,
        }
    }

    /// The largest distance of a disk's slots from its share, in slots.
    fn worst_imbalance(topology: &Topology, groups: &[Vec<DiskId>]) -> f64 {
        let slots: usize = groups.iter().map(Vec::len).sum();
        let capacity: u128 = topology
            .in_service()
            .map(|disk| u128::from(disk.capacity_bytes))
            .sum();
        let mut loads: HashMap<DiskId, f64> = HashMap::new();
        for disk in groups.iter().flatten() {
            *loads.entry(*disk).or_default() += 1.0;
        }
        topology
            .in_service()
            .map(|disk| {
                let share = slots as f64 * disk.capacity_bytes as f64 / capacity as f64;
                (loads.get(&disk.id).copied().unwrap_or(0.0) - share).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn ten_thousand_disks_move_close_to_the_minimum() {
        let before = Topology::new((0..DISKS).map(disk));
        let mut groups = plan_groups(&before, RULE, &[], 80_000, 7);
        assert_eq!(groups.len(), 80_000);
        let imbalance = worst_imbalance(&before, &groups);
        assert!(
            imbalance < 2.5,
            "fresh groups are {imbalance} slots off their share"
        );

        // Five per cent more disks.
        let after = Topology::new((0..DISKS + 500).map(disk));
        let moves = plan_rebalance(&after, RULE.domain, &groups, usize::MAX);
        let new_capacity: u128 = (DISKS..DISKS + 500)
            .map(|n| u128::from(disk(n).capacity_bytes))
            .sum();
        let capacity: u128 = after
            .in_service()
            .map(|disk| u128::from(disk.capacity_bytes))
            .sum();
        let minimum = 240_000.0 * new_capacity as f64 / capacity as f64;
        let moved = moves.len() as f64;
        assert!(
            moved <= minimum * 1.05,
            "{moved} moves, the minimum is {minimum}"
        );
        for step in &moves {
            for member in &mut groups[step.group] {
                if *member == step.from {
                    *member = step.to;
                }
            }
        }
        let imbalance = worst_imbalance(&after, &groups);
        assert!(
            imbalance < 3.5,
            "rebalanced groups are {imbalance} slots off their share"
        );
        assert_rule(&after, &groups);
    }

    #[test]
    fn a_lost_disk_moves_its_own_slots_and_no_others() {
        let topology = Topology::new((0..DISKS).map(disk));
        let groups = plan_groups(&topology, RULE, &[], 20_000, 3);
        let lost = DiskId(4321);
        let left = Topology::new(topology.in_service().filter(|d| d.id != lost).cloned());
        let mut repaired = groups.clone();
        let mut receivers = BTreeSet::new();
        for (index, group) in groups.iter().enumerate() {
            if !group.contains(&lost) {
                continue;
            }
            let survivors: Vec<_> = group.iter().copied().filter(|&d| d != lost).collect();
            let new = replacement_for(&left, RULE, &repaired, &survivors, index as u64).unwrap();
            receivers.insert(new);
            repaired[index] = [survivors, vec![new]].concat();
        }
        let touched = groups.iter().zip(&repaired).filter(|(a, b)| a != b).count();
        let held = groups.iter().filter(|group| group.contains(&lost)).count();
        assert_eq!(touched, held);
        assert!(
            receivers.len() as f64 > held as f64 * 0.8,
            "repair must spread over many disks"
        );
        assert_rule(&left, &repaired);
    }

    fn assert_rule(topology: &Topology, groups: &[Vec<DiskId>]) {
        for group in groups {
            let nodes: BTreeSet<_> = group
                .iter()
                .map(|&d| topology.find(d).unwrap().node)
                .collect();
            assert_eq!(nodes.len(), 3, "{group:?}");
        }
    }
}
