//! Choosing the disks of new placement groups, and a new disk for a broken one.

use granary_types::DiskId;

use crate::layout::Layout;
use crate::{Disk, Rule, Topology};

/// Open groups a disk takes part in: enough that the loss of one disk is repaired by many, few
/// enough that the map of a large cluster stays small.
const GROUPS_PER_DISK: usize = 8;
/// Open groups of the smallest pool.
const GROUPS_MIN: usize = 4;

/// Open groups a pool should have.
pub fn groups_wanted(topology: &Topology, rule: Rule) -> usize {
    let disks = topology.in_service().count();
    if disks < rule.copies || rule.copies == 0 {
        return 0;
    }
    (disks * GROUPS_PER_DISK)
        .div_ceil(rule.copies)
        .max(GROUPS_MIN)
}

/// Disk sets for `count` new groups, given the open groups that exist.
///
/// Disks get slots in proportion to their capacity. The result depends only on the arguments. It
/// holds fewer than `count` sets only when the topology has too few failure domains, then none.
pub fn plan_groups(
    topology: &Topology,
    rule: Rule,
    existing: &[Vec<DiskId>],
    count: usize,
    seed: u64,
) -> Vec<Vec<DiskId>> {
    let mut layout = Layout::new(topology, rule.domain, existing, seed);
    let mut planned = Vec::with_capacity(count);
    while planned.len() < count {
        let Some(group) = layout.pick_group(rule) else {
            break;
        };
        for &disk in &group {
            layout.add(disk);
        }
        planned.push(group);
    }
    planned
}

/// The disk that should take a leaving member's place beside `survivors`; `None` when no disk in
/// service may. `existing` are the groups that count as load.
pub fn replacement_for(
    topology: &Topology,
    rule: Rule,
    existing: &[Vec<DiskId>],
    survivors: &[DiskId],
    seed: u64,
) -> Option<DiskId> {
    Places::new(topology, rule, existing, seed).beside(survivors)
}

/// The same for many groups, one after the other. Made once, it answers at once, also when no disk
/// will do: counting the slots of every disk is what takes time in a large pool.
pub struct Places<'a> {
    topology: &'a Topology,
    layout: Layout<'a>,
}

impl<'a> Places<'a> {
    /// See [`replacement_for`].
    pub fn new(topology: &'a Topology, rule: Rule, existing: &[Vec<DiskId>], seed: u64) -> Self {
        Self {
            topology,
            layout: Layout::new(topology, rule.domain, existing, seed),
        }
    }

    /// The disk that should take a place beside `survivors`.
    pub fn beside(&self, survivors: &[DiskId]) -> Option<DiskId> {
        let survivors = survivors.iter();
        let others: Vec<&Disk> = survivors
            .filter_map(|&disk| self.topology.find(disk))
            .collect();
        self.layout.pick_beside(&others)
    }

    /// The disk was given a place, which counts from now on.
    pub fn take(&mut self, disk: DiskId) {
        self.layout.add(disk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FailureDomain, rule_for};
    use granary_types::{NodeId, Redundancy};
    use proptest::prelude::*;

    fn arbitrary_topology() -> impl Strategy<Value = Topology> {
        let disk = (0u64..6, 0u64..3, 1u64..5, prop::bool::weighted(0.9));
        prop::collection::vec(disk, 1..40).prop_map(|disks| {
            Topology::new(disks.into_iter().enumerate().map(
                |(n, (node, zone, capacity, in_service))| Disk {
                    id: DiskId(n as u64),
                    node: NodeId(zone * 10 + node),
                    zone: format!("z{zone}"),
                    capacity_bytes: capacity << 40,
                    in_service,
                },
            ))
        })
    }

    fn assert_apart(
        topology: &Topology,
        rule: Rule,
        group: &[DiskId],
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(group.len(), rule.copies);
        for (n, &a) in group.iter().enumerate() {
            let a = topology.find(a).unwrap();
            prop_assert!(a.in_service);
            for &b in &group[n + 1..] {
                prop_assert!(!rule.domain.shared(a, topology.find(b).unwrap()));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn groups_never_share_a_failure_domain(topology in arbitrary_topology(), zrs: bool, seed: u64) {
            let redundancy = if zrs { Redundancy::Zrs } else { Redundancy::Lrs };
            if let Some(rule) = rule_for(redundancy, &topology) {
                let wanted = groups_wanted(&topology, rule);
                let groups = plan_groups(&topology, rule, &[], wanted, seed);
                for group in &groups {
                    assert_apart(&topology, rule, group)?;
                }
                let again = plan_groups(&topology, rule, &[], wanted, seed);
                prop_assert_eq!(groups, again);
            }
        }

        #[test]
        fn a_replacement_keeps_the_rule(topology in arbitrary_topology(), seed: u64) {
            let Some(rule) = rule_for(Redundancy::Lrs, &topology) else { return Ok(()) };
            let groups = plan_groups(&topology, rule, &[], 8, seed);
            for group in &groups {
                let (lost, survivors) = group.split_first().unwrap();
                let mut degraded: Vec<Disk> = topology.in_service().cloned().collect();
                degraded.retain(|disk| disk.id != *lost);
                let degraded = Topology::new(degraded);
                if let Some(new) = replacement_for(&degraded, rule, &groups, survivors, seed) {
                    let mut repaired = survivors.to_vec();
                    repaired.push(new);
                    assert_apart(&topology, rule, &repaired)?;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn places_given_one_after_the_other_are_those_given_alone(
            topology in arbitrary_topology(), seed: u64,
        ) {
            let Some(rule) = rule_for(Redundancy::Lrs, &topology) else { return Ok(()) };
            let groups = plan_groups(&topology, rule, &[], 8, seed);
            let mut loads = groups.clone();
            let mut places = Places::new(&topology, rule, &groups, seed);
            for group in &groups {
                let found = places.beside(&group[1..]);
                let alone = replacement_for(&topology, rule, &loads, &group[1..], seed);
                prop_assert_eq!(found, alone);
                if let Some(new) = found {
                    places.take(new);
                    loads.push(vec![new]);
                }
            }
        }
    }

    #[test]
    fn slots_follow_capacity() {
        let topology = Topology::new((0..12).map(|n| Disk {
            id: DiskId(n),
            node: NodeId(n),
            zone: "z".into(),
            capacity_bytes: if n < 6 { 1 << 40 } else { 2 << 40 },
            in_service: true,
        }));
        let rule = Rule {
            copies: 3,
            domain: FailureDomain::Node,
        };
        let groups = plan_groups(&topology, rule, &[], 600, 1);
        for n in 0..12u64 {
            let slots = groups
                .iter()
                .filter(|group| group.contains(&DiskId(n)))
                .count();
            let expected = if n < 6 { 100 } else { 200 };
            assert!(
                slots.abs_diff(expected) <= 2,
                "disk {n} has {slots} of {expected}"
            );
        }
    }

    #[test]
    fn one_of_four_disks_can_fail_without_breaking_every_group() {
        let topology = Topology::new((1..=4).map(|n| Disk {
            id: DiskId(n),
            node: NodeId(1),
            zone: "z".into(),
            capacity_bytes: 1 << 40,
            in_service: true,
        }));
        let rule = rule_for(Redundancy::Lrs, &topology).unwrap();
        let groups = plan_groups(&topology, rule, &[], groups_wanted(&topology, rule), 5);
        for failed in 1..=4 {
            assert!(
                groups.iter().any(|group| !group.contains(&DiskId(failed))),
                "{groups:?}"
            );
        }
    }
}
