//! Placement at the size it is made for: ten thousand disks of several sizes.

use std::collections::{BTreeSet, HashMap};

use granary_types::{DiskId, NodeId};

use crate::{Disk, FailureDomain, Rule, Topology, plan_groups, replacement_for};

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
fn ten_thousand_disks_get_their_shares() {
    let topology = Topology::new((0..DISKS).map(disk));
    let groups = plan_groups(&topology, RULE, &[], 80_000, 7);
    assert_eq!(groups.len(), 80_000);
    assert_rule(&topology, &groups);
    let imbalance = worst_imbalance(&topology, &groups);
    assert!(
        imbalance < 2.5,
        "fresh groups are {imbalance} slots off their share"
    );
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
