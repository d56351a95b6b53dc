//! How many disks may be given up because they are silent. Pure.
//!
//! Whoever keeps the groups reaches the root; whether those that do not answer are gone, or only its own
//! way to them, it cannot tell. One node may be gone, and a zone may burn, beside a third of the others.
//! When more is silent, nobody is given up for it: all others may reach what this process does not.

use std::collections::{BTreeMap, BTreeSet};

use granary_placement::{Disk, Topology};
use granary_types::DiskId;

/// Of the disks outside the zone that is worst off, one in so many may be silent.
const ONE_IN: usize = 3;

/// Disks of which so many are silent that none of them is given up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Disks that cannot be asked.
    pub silent: u64,
    /// All disks in service.
    pub disks: u64,
}

/// What is silent, when it is too much to be believed.
pub(super) fn unbelievable(
    topology: &Topology,
    is_silent: impl Fn(DiskId) -> bool,
) -> Option<Silence> {
    // Those that were given up before are no part of what is to be believed now.
    let disks: Vec<&Disk> = topology.disks().filter(|disk| disk.in_service).collect();
    let silent: Vec<&Disk> = disks.iter().copied().filter(|d| is_silent(d.id)).collect();
    let nodes: BTreeSet<_> = silent.iter().map(|disk| disk.node).collect();
    if nodes.len() <= 1 {
        return None;
    }
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for disk in &silent {
        *zones.entry(&disk.zone).or_default() += 1;
    }
    let several = topology.zones().len() > 1;
    let worst = zones.into_iter().max_by_key(|(_, silent)| *silent);
    let burning = worst.filter(|_| several).map(|(zone, _)| zone);
    let elsewhere = |disk: &&Disk| Some(disk.zone.as_str()) != burning;
    let others = disks.iter().copied().filter(elsewhere).count();
    let silent_others = silent.iter().copied().filter(elsewhere).count();
    (silent_others * ONE_IN > others).then_some(Silence {
        silent: silent.len() as u64,
        disks: disks.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use granary_types::NodeId;

    use super::*;

    /// Disk n sits in node n / 10, in zone n / 100.
    fn is_believed(disks: &[u64], silent: &[u64]) -> bool {
        let topology = Topology::new(disks.iter().map(|&n| Disk {
            id: DiskId(n),
            node: NodeId(n / 10),
            zone: (n / 100).to_string(),
            capacity_bytes: 1 << 40,
            in_service: true,
        }));
        unbelievable(&topology, |disk| silent.contains(&disk.0)).is_none()
    }

    #[test]
    fn who_was_given_up_before_does_not_count() {
        let disk = |n: u64| Disk {
            id: DiskId(n),
            node: NodeId(n / 10),
            zone: "z".to_owned(),
            capacity_bytes: 1 << 40,
            in_service: n != 10,
        };
        let topology = Topology::new([10, 20, 30, 40].map(disk));
        let judged = |silent: &[u64]| unbelievable(&topology, |disk| silent.contains(&disk.0));
        assert_eq!(judged(&[10, 20]), None);
        let silence = Silence {
            silent: 2,
            disks: 3,
        };
        assert_eq!(judged(&[10, 20, 30]), Some(silence));
    }

    #[test]
    fn a_node_or_a_zone_may_be_gone_and_not_most_of_the_cluster() {
        let nine = [110, 120, 130, 210, 220, 230, 310, 320, 330];
        let six = [110, 120, 210, 220, 310, 320];
        for (disks, silent, believed) in [
            (&nine[..], &[][..], true),
            (&nine, &[110], true),
            // A zone burns, also while a node elsewhere is away.
            (&nine, &[110, 120, 130], true),
            (&nine, &[110, 120, 130, 210], true),
            (&nine, &[110, 120, 130, 210, 310], true),
            // The way to most of the others is broken.
            (&nine, &[110, 120, 130, 210, 220, 310], false),
            (&nine, &[110, 120, 130, 210, 220, 230], false),
            (&nine, &[120, 130, 220, 230, 320, 330], false),
            (&nine, &nine[1..], false),
            // A node in each zone.
            (&nine, &[110, 210, 310], true),
            (&six, &[110, 210], true),
            (&six, &[110, 210, 310], false),
            // Two zones.
            (&[110, 120, 210, 220], &[110, 120], true),
            (&[110, 120, 210, 220], &[110, 120, 210], false),
            // One zone: a node, or a third of them.
            (&[10, 20], &[10], true),
            (&[10, 11, 20], &[10, 11], true),
            (&[10, 20, 30], &[10, 20], false),
            (&[10, 20, 30, 40, 50, 60], &[10, 20], true),
            (&[10, 20, 30, 40, 50, 60], &[10, 20, 30], false),
        ] {
            assert_eq!(
                is_believed(disks, silent),
                believed,
                "{silent:?} of {disks:?}"
            );
        }
    }
}
