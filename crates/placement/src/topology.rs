//! Zones, nodes and disks as placement sees them.

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{DiskId, NodeId};

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Identity.
    pub id: DiskId,
    /// The node it sits in.
    pub node: NodeId,
    /// The node's zone.
    pub zone: String,
    /// Size in bytes; 0 counts as 1, so that a disk of unknown size is not forgotten.
    pub capacity_bytes: u64,
    /// False when it must get nothing new: failed, leaving, or taken out by an operator.
    pub in_service: bool,
}

/// The disks that may serve a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    disks: BTreeMap<DiskId, Disk>,
}

impl Topology {
    /// A topology of `disks`; of two entries with one id the later counts.
    pub fn new(disks: impl IntoIterator<Item = Disk>) -> Self {
        let disks = disks.into_iter().map(|disk| (disk.id, disk)).collect();
        Self { disks }
    }

    /// The part of it that lies in one zone.
    #[must_use]
    pub fn in_zone(&self, zone: &str) -> Self {
        Self::new(
            self.disks
                .values()
                .filter(|disk| disk.zone == zone)
                .cloned(),
        )
    }

    /// A disk, in service or not.
    pub fn find(&self, id: DiskId) -> Option<&Disk> {
        self.disks.get(&id)
    }

    /// All disks, in service or not.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values()
    }

    /// Disks that may get data.
    pub fn in_service(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values().filter(|disk| disk.in_service)
    }

    /// Zones with a disk, in order.
    pub fn zones(&self) -> BTreeSet<&str> {
        self.disks.values().map(|disk| disk.zone.as_str()).collect()
    }

    /// Nodes with a disk.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.disks.values().map(|disk| disk.node).collect()
    }

    /// Disks, in service or not.
    pub fn len(&self) -> usize {
        self.disks.len()
    }

    /// True without any disk.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }
}
