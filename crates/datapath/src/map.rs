//! The root's cluster map in the form that placement and the way of bytes need. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use granary_meta_api::{disk_state, pb};
use granary_placement::{Disk, Topology};
use granary_types::{DiskId, NodeId, PgId, Redundancy, ShardId};

/// Nodes of a zone over which LRS spreads the copies of a chunk.
const NODES_OF_LRS: usize = 3;

/// One member of a placement group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The disk.
    pub disk: DiskId,
    /// True when it holds every chunk it should; false while it is being filled.
    pub complete: bool,
}

/// One placement group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Identity.
    pub id: PgId,
    /// The pool it belongs to.
    pub pool: u32,
    /// Raised by every change of its members.
    pub epoch: u64,
    /// Its disks.
    pub members: Vec<GroupMember>,
    /// True when it takes no new chunks.
    pub closed: bool,
    /// A member that is about to go: it takes no new chunks and its copies count for nothing that
    /// is acknowledged from now on. It is read, and hears of deletions, as long as it is a member.
    pub leaving: Option<DiskId>,
}

impl Group {
    /// Its disks, one that is about to leave among them.
    pub fn disks(&self) -> impl Iterator<Item = DiskId> {
        self.members.iter().map(|member| member.disk)
    }

    /// The disks that should hold its chunks: all but one that is about to leave.
    pub fn staying(&self) -> impl Iterator<Item = DiskId> {
        self.disks().filter(|disk| self.leaving != Some(*disk))
    }
}

/// The cluster as the root describes it at one epoch.
#[derive(Clone, Debug, Default)]
pub struct ClusterMap {
    epoch: u64,
    nodes: HashMap<NodeId, pb::state::Node>,
    disks: HashMap<DiskId, pb::state::Disk>,
    pools: Vec<pb::state::Pool>,
    groups: HashMap<PgId, Group>,
    shards: Vec<ShardId>,
    settings: pb::state::ShardSettings,
    /// For how many copies of LRS each zone has a node.
    lrs_nodes: HashMap<String, usize>,
    pools_with_groups: BTreeSet<u32>,
}

impl ClusterMap {
    /// Reads the root's answer.
    pub fn from_wire(map: pb::ClusterMap) -> Self {
        let groups = map.groups.into_iter().map(|group| {
            let members = group.members.iter().map(|member| GroupMember {
                disk: DiskId(member.disk),
                complete: member.complete,
            });
            let id = PgId(group.id);
            let group = Group {
                id,
                pool: group.pool,
                epoch: group.epoch,
                members: members.collect(),
                closed: group.closed,
                leaving: (group.leaving != 0).then_some(DiskId(group.leaving)),
            };
            (id, group)
        });
        let mut shards: Vec<_> = map.ranges.iter().map(|hint| ShardId(hint.shard)).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut known = Self {
            epoch: map.epoch,
            shards,
            settings: map.info.and_then(|info| info.settings).unwrap_or_default(),
            groups: groups.collect(),
            nodes: map.nodes.into_iter().map(|n| (NodeId(n.id), n)).collect(),
            disks: map.disks.into_iter().map(|d| (DiskId(d.id), d)).collect(),
            pools: Vec::new(),
            lrs_nodes: HashMap::new(),
            pools_with_groups: BTreeSet::new(),
        };
        known.pools_with_groups = known.groups.values().map(|group| group.pool).collect();
        let topology = known.topology(|_| true);
        let nodes = |zone: &str| topology.in_zone(zone).nodes().len().min(NODES_OF_LRS);
        let zones = topology.zones().into_iter();
        known.lrs_nodes = zones.map(|zone| (zone.to_owned(), nodes(zone))).collect();
        known.pools = map.pools.into_iter().map(|p| known.at_home(p)).collect();
        known
    }

    /// A pool in the zone that most disks of its groups lie in, when none of them is in the one it was
    /// made in: a single server gets another zone when it becomes a node of a cluster, and the groups of
    /// a zone whose disks were all given up get disks elsewhere. They stay there, whoever comes to that
    /// zone afterwards.
    fn at_home(&self, mut pool: pb::state::Pool) -> pb::state::Pool {
        if pool.zone.is_empty() || !self.has_groups(&pool) {
            return pool;
        }
        let mut disks: BTreeMap<&str, usize> = BTreeMap::new();
        let groups = self.groups.values().filter(|group| group.pool == pool.id);
        for zone in groups.flat_map(Group::disks).map(|disk| self.zone_of(disk)) {
            if zone == pool.zone {
                return pool;
            }
            *disks.entry(zone).or_default() += 1;
        }
        let known = disks.into_iter().filter(|(zone, _)| !zone.is_empty());
        if let Some((zone, _)) = known.max_by_key(|&(zone, disks)| (disks, Reverse(zone))) {
            zone.clone_into(&mut pool.zone);
        }
        pool
    }

    /// The root's epoch of this map; 0 when nothing is known.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Shards that own ranges, in order; the root is not among them unless it owns one.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// How long the bytes of a replaced object outlive it.
    pub fn reader_grace(&self) -> Duration {
        Duration::from_millis(self.settings.reader_grace_ms)
    }

    /// How long a write id lives unless its lease is renewed.
    pub fn write_lease(&self) -> Duration {
        Duration::from_millis(self.settings.write_lease_ms)
    }

    /// A group.
    pub fn group(&self, id: PgId) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// Every group, in no particular order.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// Every disk record, in no particular order.
    pub fn disks(&self) -> impl Iterator<Item = &pb::state::Disk> {
        self.disks.values()
    }

    /// Every pool, in the order of their ids.
    pub fn pools(&self) -> &[pb::state::Pool] {
        &self.pools
    }

    /// Every node that was not given up, in no particular order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.nodes.values().filter(|node| !node.removed);
        nodes.map(|node| NodeId(node.id))
    }

    /// True when a disk lies in the zone that was not given up for good, in service or not.
    pub fn has_disks_in(&self, zone: &str) -> bool {
        let mut disks = self.disks.keys();
        disks.any(|&disk| self.zone_of(disk) == zone && !self.is_removed(disk))
    }

    /// True when the node was given up for good.
    pub fn is_node_removed(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|node| node.removed)
    }

    /// True when the disk, or the node it sits in, was given up for good.
    pub fn is_removed(&self, disk: DiskId) -> bool {
        let known = self.disks.get(&disk);
        if known.is_some_and(|known| known.state == disk_state::REMOVED) {
            return true;
        }
        let node = self.node_of(disk);
        node.is_some_and(|node| self.is_node_removed(node))
    }

    /// The node a disk sits in.
    pub fn node_of(&self, disk: DiskId) -> Option<NodeId> {
        self.disks.get(&disk).map(|disk| NodeId(disk.node))
    }

    /// The zone a disk lies in; empty when it is not known.
    pub fn zone_of(&self, disk: DiskId) -> &str {
        let node = self.node_of(disk).and_then(|node| self.nodes.get(&node));
        node.map_or("", |node| node.zone.as_str())
    }

    /// True when the disk is known and neither it nor its node was taken out.
    pub fn is_in(&self, disk: DiskId) -> bool {
        let known = self.disks.get(&disk);
        known.is_some_and(|known| known.state == disk_state::IN) && !self.is_removed(disk)
    }

    /// Copies that chunks of a group should have: those of the best pool of its class and zone. A
    /// pool that was made when the cluster was smaller is brought up to it.
    pub fn target_copies(&self, group: &Group) -> usize {
        let own = self.pools.iter().find(|pool| pool.id == group.pool);
        let best = own.and_then(|own| self.best_pool(own));
        best.map_or(group.members.len(), |pool| pool.copies as usize)
    }

    /// The best pool of the class and zone of a pool: of those with groups, the one with the most
    /// copies.
    pub fn best_pool(&self, pool: &pb::state::Pool) -> Option<&pb::state::Pool> {
        let alike = self.pools.iter().filter(|other| {
            other.redundancy == pool.redundancy
                && other.zone == pool.zone
                && (other.id == pool.id || self.has_groups(other))
        });
        alike.max_by_key(|other| (other.copies, Reverse(other.id)))
    }

    /// Copies that chunks of a group are promised: once LRS is honoured somewhere, as many as there,
    /// also in a zone without the disks for so many. No repair helps those; more disks there do.
    pub fn promised_copies(&self, group: &Group) -> usize {
        let own = self.pools.iter().find(|pool| pool.id == group.pool);
        let alike = self.pools.iter().filter(|other| {
            own.is_some_and(|own| own.redundancy == other.redundancy)
                && self.nodes_for_lrs(other) >= NODES_OF_LRS
                && self.has_groups(other)
        });
        let promised = alike.map(|pool| pool.copies as usize).max();
        promised.unwrap_or(0).max(self.target_copies(group))
    }

    /// For how many copies a pool has a node in its zone; 0 for pools that span zones.
    fn nodes_for_lrs(&self, pool: &pb::state::Pool) -> usize {
        let is_lrs = pool.redundancy == Redundancy::Lrs.number();
        let nodes = self.lrs_nodes.get(&pool.zone).filter(|_| is_lrs);
        nodes.copied().unwrap_or(0)
    }

    /// Whether there ever were disks enough for a pool: nothing is promised by one that has no group.
    pub fn has_groups(&self, pool: &pb::state::Pool) -> bool {
        self.pools_with_groups.contains(&pool.id)
    }

    /// Disk sets of a pool's groups that take new chunks.
    pub fn open_groups(&self, pool: u32) -> Vec<Vec<DiskId>> {
        let open = self.groups.values().filter(|g| g.pool == pool && !g.closed);
        open.map(|group| group.disks().collect()).collect()
    }

    /// The disks as placement sees them, without those that were given up for good. `in_service`
    /// adds what the map does not know: health.
    ///
    /// A data directory is one disk, whichever of those that were known there it is now: an exchanged
    /// disk and its successor are never there together.
    pub fn topology(&self, in_service: impl Fn(DiskId) -> bool) -> Topology {
        let disks = self.disks.values();
        let counted = disks.filter(|disk| !self.is_removed(DiskId(disk.id)));
        let disks = counted.map(|disk| {
            let id = DiskId(disk.id);
            let seen = Disk {
                id,
                node: NodeId(disk.node),
                zone: self.zone_of(id).to_owned(),
                capacity_bytes: disk.total_bytes,
                in_service: self.is_in(id) && in_service(id),
            };
            (disk.path.as_str(), self.is_in(id), seen)
        });
        let mut disks: Vec<_> = disks.collect();
        disks.sort_unstable_by_key(|(path, is_in, disk)| {
            let rank = (!disk.in_service, !is_in);
            (disk.node, *path, rank, disk.id)
        });
        disks.dedup_by(|(path, _, disk), (kept_path, _, kept)| {
            !path.is_empty() && (disk.node, *path) == (kept.node, *kept_path)
        });
        Topology::new(disks.into_iter().map(|(.., disk)| disk))
    }

    /// True when some zone has a node for every copy of a chunk, or when there is no more than one
    /// node, whose owner knows that it may be lost.
    pub fn honours_lrs(&self) -> bool {
        let mut zones = self.lrs_nodes.values();
        zones.any(|&nodes| nodes >= NODES_OF_LRS) || self.topology(|_| true).nodes().len() <= 1
    }

    /// Pools that take new bytes of a redundancy, best first: of LRS those with most nodes, then most
    /// copies, then the preferred zone, then the oldest.
    ///
    /// Of LRS, zones that have fewer nodes for the copies than another one with groups are left out,
    /// also when that one has just lost some: copies that share a node are lost with it together.
    pub fn pools_for(&self, redundancy: Redundancy, zone: &str) -> Vec<&pb::state::Pool> {
        let serving = |pool: &&pb::state::Pool| pool.redundancy == redundancy.number();
        let mut pools: Vec<_> = self.pools.iter().filter(serving).collect();
        let with_groups = pools.iter().filter(|pool| self.has_groups(pool));
        let nodes = with_groups.map(|pool| self.nodes_for_lrs(pool).min(pool.copies as usize));
        let most = nodes.max().unwrap_or(0);
        pools.retain(|pool| self.nodes_for_lrs(pool) >= most);
        pools.sort_by_key(|pool| {
            let nodes = Reverse(self.nodes_for_lrs(pool));
            (nodes, Reverse(pool.copies), pool.zone != zone, pool.id)
        });
        pools
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_moves_with_the_only_node_it_was_made_on() {
        let map = |zones: [&str; 2]| {
            let node = |(n, zone): (usize, &&str)| pb::state::Node {
                id: n as u64 + 1,
                zone: (*zone).to_owned(),
                ..Default::default()
            };
            let disk = |id| pb::state::Disk {
                id,
                node: id,
                ..Default::default()
            };
            let pool = pb::state::Pool {
                id: 1,
                copies: 1,
                zone: "default".to_owned(),
                redundancy: Redundancy::Lrs.number(),
                ..Default::default()
            };
            let group = pb::state::PlacementGroup {
                id: 1,
                pool: 1,
                members: vec![pb::state::PgMember {
                    disk: 1,
                    ..Default::default()
                }],
                ..Default::default()
            };
            let map = pb::ClusterMap {
                nodes: zones.iter().enumerate().map(node).collect(),
                disks: vec![disk(1), disk(2)],
                pools: vec![pool],
                groups: vec![group],
                ..Default::default()
            };
            ClusterMap::from_wire(map).pools()[0].zone.clone()
        };
        assert_eq!(map(["z1", "z2"]), "z1");
        assert_eq!(map(["default", "z2"]), "default");
        // Another one that joins there later is served by a pool of its own.
        assert_eq!(map(["z1", "default"]), "z1");
    }

    #[test]
    fn a_pool_is_where_most_of_its_disks_are_when_none_is_where_it_was_made() {
        // Disk n sits in node n, of the zone of its first digit; all but those of d were given up.
        let zone_of = |groups: &[&[u64]]| {
            let zone = |n: u64| ["a", "b", "c", "d"][n as usize / 10 - 1].to_owned();
            let node = |id| pb::state::Node {
                id,
                zone: zone(id),
                removed: id < 40,
                ..Default::default()
            };
            let disk = |id| pb::state::Disk {
                id,
                node: id,
                ..Default::default()
            };
            let nodes = || (10..50).filter(|n| n % 10 < 3);
            let member = |&disk: &u64| pb::state::PgMember {
                disk,
                ..Default::default()
            };
            let group = |(id, disks): (u32, &&[u64])| pb::state::PlacementGroup {
                id,
                pool: 1,
                members: disks.iter().map(member).collect(),
                ..Default::default()
            };
            let pool = pb::state::Pool {
                id: 1,
                zone: "a".to_owned(),
                ..Default::default()
            };
            let map = ClusterMap::from_wire(pb::ClusterMap {
                nodes: nodes().map(node).collect(),
                disks: nodes().map(disk).collect(),
                pools: vec![pool],
                groups: (1..).zip(groups).map(group).collect(),
                ..Default::default()
            });
            map.pools()[0].zone.clone()
        };
        for (groups, expected) in [
            (&[][..], "a"),
            (&[&[10, 11][..]], "a"),
            // Those that still wait for a place there are not left behind by the others.
            (&[&[10, 40], &[40, 41], &[40, 42]], "a"),
            (&[&[40, 41], &[40, 42]], "d"),
            (&[&[20, 30, 31], &[20, 30, 31]], "c"),
            (&[&[20, 30]], "b"),
            // A disk that nobody knows is nowhere.
            (&[&[99, 98, 30]], "c"),
        ] {
            assert_eq!(zone_of(groups), expected, "{groups:?}");
        }
    }

    #[test]
    fn the_best_pool_comes_first() {
        let pool = |id, copies, zone: &str| pb::state::Pool {
            id,
            copies,
            zone: zone.to_owned(),
            redundancy: Redundancy::Lrs.number(),
            ..Default::default()
        };
        let map = ClusterMap::from_wire(pb::ClusterMap {
            pools: vec![
                pool(1, 1, "a"),
                pool(2, 3, "a"),
                pool(3, 3, "b"),
                pool(4, 3, "b"),
            ],
            ..Default::default()
        });
        let ids: Vec<_> = map
            .pools_for(Redundancy::Lrs, "b")
            .iter()
            .map(|p| p.id)
            .collect();
        assert_eq!(ids, [3, 4, 2, 1]);
        assert!(map.pools_for(Redundancy::Zrs, "b").is_empty());
    }

    #[test]
    fn lrs_goes_where_every_copy_has_a_node() {
        let nodes = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b")];
        let node = |(id, zone): &(u64, &str)| pb::state::Node {
            id: *id,
            zone: (*zone).to_owned(),
            ..Default::default()
        };
        // Zone a has as many disks, on fewer nodes.
        let disk = |(id, node): (u64, u64)| pb::state::Disk {
            id,
            node,
            ..Default::default()
        };
        let disks = [(11, 1), (12, 1), (13, 2), (14, 3), (15, 4), (16, 5)];
        let pool = |id, zone: &str| pb::state::Pool {
            id,
            copies: 3,
            zone: zone.to_owned(),
            redundancy: Redundancy::Lrs.number(),
            ..Default::default()
        };
        let map = |nodes: &[(u64, &str)]| {
            ClusterMap::from_wire(pb::ClusterMap {
                nodes: nodes.iter().map(node).collect(),
                disks: disks.into_iter().map(disk).collect(),
                pools: vec![pool(1, "a"), pool(2, "b")],
                ..Default::default()
            })
        };
        let first = |map: &ClusterMap| map.pools_for(Redundancy::Lrs, "a")[0].id;
        let full = map(&nodes);
        assert_eq!((first(&full), full.honours_lrs()), (2, true));
        let few = map(&nodes[..4]);
        assert_eq!((first(&few), few.honours_lrs()), (1, false));
    }
    #[test]
    fn lrs_leaves_out_zones_where_copies_would_share_more_nodes() {
        // Pools as (zone, copies, whether they have groups), in the order of their ids.
        type Pools = [(&'static str, u32, bool)];
        let map = |nodes: &[&str], pools: &Pools| {
            let node = |(n, zone): (u64, &&str)| pb::state::Node {
                id: n,
                zone: (*zone).to_owned(),
                ..Default::default()
            };
            let disk = |n| pb::state::Disk {
                id: n,
                node: n,
                ..Default::default()
            };
            let pool = |(id, (zone, copies, _)): (u32, &(&str, u32, bool))| pb::state::Pool {
                id,
                copies: *copies,
                zone: (*zone).to_owned(),
                redundancy: Redundancy::Lrs.number(),
                ..Default::default()
            };
            let group = |id| pb::state::PlacementGroup {
                id,
                pool: id,
                ..Default::default()
            };
            let with_groups = (1..).zip(pools).filter(|(_, (.., groups))| *groups);
            ClusterMap::from_wire(pb::ClusterMap {
                nodes: (1..).zip(nodes).map(node).collect(),
                disks: (1..=nodes.len() as u64).map(disk).collect(),
                pools: (1..).zip(pools).map(pool).collect(),
                groups: with_groups.map(|(id, _)| group(id)).collect(),
                ..Default::default()
            })
        };
        for (nodes, pools, taken, promised) in [
            // Three copies on one node are no match for three nodes.
            (
                &["a", "a", "a", "b"][..],
                &[("a", 3, true), ("b", 3, true), ("b", 1, true)][..],
                &[1][..],
                &[3, 3, 3][..],
            ),
            (
                &["a", "a", "a", "b"],
                &[("b", 1, true), ("a", 1, true), ("a", 3, true)],
                &[3, 2],
                &[3, 3, 3],
            ),
            // Nor for two, which one was given up of leaves.
            (
                &["a", "a", "b"],
                &[("a", 3, true), ("b", 3, true)],
                &[1],
                &[3, 3],
            ),
            // Three nodes have joined, and there is no group of theirs yet.
            (
                &["a", "b", "b", "b"],
                &[("a", 1, true), ("b", 3, false)],
                &[2, 1],
                &[1, 3],
            ),
            (
                &["a", "b", "b", "b"],
                &[("a", 3, true), ("b", 1, true)],
                &[2, 1],
                &[3, 1],
            ),
            // Equals.
            (
                &["a", "b"],
                &[("a", 1, true), ("b", 3, true)],
                &[2, 1],
                &[1, 3],
            ),
            (&["a"], &[("a", 1, true)], &[1], &[1]),
        ] {
            let map = map(nodes, pools);
            let found = map.pools_for(Redundancy::Lrs, "b");
            let found: Vec<u32> = found.iter().map(|pool| pool.id).collect();
            assert_eq!(found, taken, "{pools:?} over {nodes:?}");
            let with_groups = (1..).zip(pools).filter(|(_, (.., groups))| *groups);
            for (id, _) in with_groups {
                let group = map.group(PgId(id)).unwrap();
                let expected = promised[id as usize - 1];
                assert_eq!(map.promised_copies(group), expected, "{id} of {pools:?}");
            }
        }
    }
}
