//! How many group slots each disk has, kept in the order in which disks want the next one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use granary_types::DiskId;

use crate::choice::mix;
use crate::{Disk, FailureDomain, Rule, Topology};

/// A disk's place in the order: slots it would have per byte, then a pseudo-random tie breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    ratio_bits: u64,
    tie: u64,
    disk: DiskId,
}

/// Slots per disk, ordered within each failure domain and between domains.
pub(crate) struct Layout<'a> {
    disks: HashMap<DiskId, &'a Disk>,
    loads: HashMap<DiskId, u64>,
    domains: BTreeMap<DomainKey, BTreeSet<Rank>>,
    /// The best disk of each domain.
    heads: BTreeSet<(Rank, DomainKey)>,
    domain: FailureDomain,
    seed: u64,
}

/// A failure domain: the disk, the node or the zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DomainKey {
    Number(u64),
    Name(String),
}

fn domain_key(domain: FailureDomain, disk: &Disk) -> DomainKey {
    match domain {
        FailureDomain::Disk => DomainKey::Number(disk.id.0),
        FailureDomain::Node => DomainKey::Number(disk.node.0),
        FailureDomain::Zone => DomainKey::Name(disk.zone.clone()),
    }
}

impl<'a> Layout<'a> {
    /// The layout of the disks in service under the groups that exist.
    pub(crate) fn new(
        topology: &'a Topology,
        domain: FailureDomain,
        groups: &[Vec<DiskId>],
        seed: u64,
    ) -> Self {
        let disks: HashMap<_, _> = topology.in_service().map(|disk| (disk.id, disk)).collect();
        let mut loads: HashMap<_, u64> = disks.keys().map(|&disk| (disk, 0)).collect();
        for disk in groups.iter().flatten() {
            if let Some(load) = loads.get_mut(disk) {
                *load += 1;
            }
        }
        let mut layout = Self {
            disks,
            loads,
            domains: BTreeMap::new(),
            heads: BTreeSet::new(),
            domain,
            seed,
        };
        for disk in topology.in_service() {
            layout.insert(disk.id);
        }
        layout
    }

    /// Slots of a disk.
    pub(crate) fn load(&self, disk: DiskId) -> u64 {
        self.loads.get(&disk).copied().unwrap_or(0)
    }

    /// The disks of a new group: `rule.copies` of different domains, emptiest first, on different
    /// nodes and zones as far as possible. `None` when there are not enough domains.
    pub(crate) fn pick_group(&self, rule: Rule) -> Option<Vec<DiskId>> {
        let mut chosen: Vec<&Disk> = Vec::with_capacity(rule.copies);
        for apart in [FailureDomain::Node, FailureDomain::Disk] {
            for (rank, _) in &self.heads {
                if chosen.len() == rule.copies {
                    break;
                }
                let Some(&disk) = self.disks.get(&rank.disk) else {
                    continue;
                };
                let clash =
                    |other: &&Disk| rule.domain.shared(other, disk) || apart.shared(other, disk);
                if !chosen.iter().any(clash) {
                    chosen.push(disk);
                }
            }
        }
        (chosen.len() == rule.copies).then(|| chosen.iter().map(|disk| disk.id).collect())
    }

    /// The emptiest disk that may stand beside `others`; on another node than they if possible.
    pub(crate) fn pick_beside(&self, others: &[&Disk]) -> Option<DiskId> {
        for apart in [FailureDomain::Node, FailureDomain::Disk] {
            let found = self.heads.iter().find(|(rank, _)| {
                self.disks.get(&rank.disk).is_some_and(|disk| {
                    !others
                        .iter()
                        .any(|other| self.domain.shared(other, disk) || apart.shared(other, disk))
                })
            });
            if let Some((rank, _)) = found {
                return Some(rank.disk);
            }
        }
        None
    }

    /// Counts a slot more on a disk.
    pub(crate) fn add(&mut self, disk: DiskId) {
        if !self.disks.contains_key(&disk) {
            return;
        }
        self.take_out(disk);
        *self.loads.entry(disk).or_default() += 1;
        self.insert(disk);
    }

    fn rank(&self, disk: &Disk) -> Rank {
        let load = self.load(disk.id);
        // Positive floats sort like their bits.
        let ratio = (load + 1) as f64 / disk.capacity_bytes.max(1) as f64;
        Rank {
            ratio_bits: ratio.to_bits(),
            tie: mix(self.seed ^ mix(disk.id.0 ^ mix(load))),
            disk: disk.id,
        }
    }

    fn insert(&mut self, disk: DiskId) {
        let Some(&disk) = self.disks.get(&disk) else {
            return;
        };
        let (rank, key) = (self.rank(disk), domain_key(self.domain, disk));
        let members = self.domains.entry(key.clone()).or_default();
        if let Some(&head) = members.first() {
            self.heads.remove(&(head, key.clone()));
        }
        members.insert(rank);
        if let Some(&head) = members.first() {
            self.heads.insert((head, key));
        }
    }

    fn take_out(&mut self, disk: DiskId) {
        let Some(&disk) = self.disks.get(&disk) else {
            return;
        };
        let (rank, key) = (self.rank(disk), domain_key(self.domain, disk));
        let Some(members) = self.domains.get_mut(&key) else {
            return;
        };
        if let Some(&head) = members.first() {
            self.heads.remove(&(head, key.clone()));
        }
        members.remove(&rank);
        if let Some(&head) = members.first() {
            self.heads.insert((head, key));
        }
    }
}
