//! What a redundancy class demands of a set of disks.

use granary_types::Redundancy;

use crate::{Disk, Topology};

/// What the copies of a chunk must not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureDomain {
    /// Copies lie on different disks.
    Disk,
    /// Copies lie on different nodes.
    Node,
    /// Copies lie in different zones.
    Zone,
}

impl FailureDomain {
    /// True when two disks fail together in this domain.
    pub fn shared(self, a: &Disk, b: &Disk) -> bool {
        match self {
            Self::Disk => a.id == b.id,
            Self::Node => a.node == b.node,
            Self::Zone => a.zone == b.zone,
        }
    }
}

/// Copies and what separates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Copies of each chunk.
    pub copies: usize,
    /// What separates them.
    pub domain: FailureDomain,
}

/// Copies that both replicated classes aim at.
const COPIES: usize = 3;

/// The rule a class has in a topology; `None` when the topology cannot serve the class.
///
/// LRS: three nodes of one zone (pass one zone's part of the topology). With fewer nodes, the
/// embedded store included, `min(3, disks)` copies on different disks. ZRS: three zones, no less.
///
/// Disks out of service count: a failed disk lowers the redundancy there is, never the target.
pub fn rule_for(redundancy: Redundancy, topology: &Topology) -> Option<Rule> {
    let rule = |copies, domain| Some(Rule { copies, domain });
    match redundancy {
        Redundancy::Zrs if topology.zones().len() < COPIES => None,
        Redundancy::Zrs => rule(COPIES, FailureDomain::Zone),
        Redundancy::Lrs if topology.is_empty() => None,
        Redundancy::Lrs if topology.nodes().len() >= COPIES => rule(COPIES, FailureDomain::Node),
        Redundancy::Lrs => rule(COPIES.min(topology.len()), FailureDomain::Disk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_types::{DiskId, NodeId};

    fn topology(zones: u64, nodes: u64, disks: u64) -> Topology {
        Topology::new((0..zones * nodes * disks).map(|n| Disk {
            id: DiskId(n + 1),
            node: NodeId(n / disks + 1),
            zone: format!("z{}", n / disks / nodes),
            capacity_bytes: 1,
            in_service: true,
        }))
    }

    #[test]
    fn every_shape_has_its_rule() {
        use FailureDomain::{Disk, Node, Zone};
        use Redundancy::{Lrs, Zrs};
        for (redundancy, zones, nodes, disks, expected) in [
            (Lrs, 1, 1, 1, Some((1, Disk))),
            (Lrs, 1, 1, 2, Some((2, Disk))),
            (Lrs, 1, 1, 9, Some((3, Disk))),
            (Lrs, 1, 2, 4, Some((3, Disk))),
            (Lrs, 1, 3, 1, Some((3, Node))),
            (Lrs, 0, 0, 1, None),
            (Zrs, 1, 9, 1, None),
            (Zrs, 2, 9, 1, None),
            (Zrs, 3, 1, 1, Some((3, Zone))),
        ] {
            let rule = rule_for(redundancy, &topology(zones, nodes, disks));
            let rule = rule.map(|rule| (rule.copies, rule.domain));
            assert_eq!(
                rule, expected,
                "{redundancy} in {zones} zones of {nodes} nodes of {disks} disks"
            );
        }
    }
}
