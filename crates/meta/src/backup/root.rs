//! What a root that was put back must not do again: give out numbers that its lost last moments may
//! have given out already.

use std::collections::BTreeSet;

use granary_kv::Kv;
use granary_meta_api::pb::{self, state};
use granary_raft::StateMachineError;
use granary_types::{NodeId, PgId, ShardId, SlabId};

use super::whole::descriptors;
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_view::BucketViewKey;
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, kind_prefix};
use crate::rows::{Bounds, Rows, View};

/// Node ids that are skipped: people read them.
const NODES_SKIPPED: u64 = 8;

/// What was seen of a cluster beside its metadata.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Groups on disks, and the newest epoch of each.
    pub groups: Vec<(PgId, u64)>,
    /// Nodes that somebody knows.
    pub nodes: Vec<NodeId>,
    /// Shards of which there is any backup.
    pub shards: Vec<ShardId>,
}

/// How a cluster goes on whose metadata was put back.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// An id that no node has ever had.
    pub node: NodeId,
    /// What the root has to decide first, with that node as the only voter.
    pub command: pb::RenewRoot,
    /// The nodes that the root knows.
    pub nodes: Vec<state::Node>,
    /// Groups on disks that it does not know.
    pub unknown_groups: Vec<PgId>,
}

/// Finds numbers that nobody has used yet. Blocks.
///
/// # Errors
/// The store failed, or has no root.
pub fn plan_renewal(kv: &dyn Kv, seen: &Seen) -> Result<Renewal, StateMachineError> {
    let view = View(kv);
    let slab = ROOT_HOME_SLAB;
    let info = view.get(&ClusterInfoKey { slab })?;
    let info = info.ok_or_else(|| StateMachineError::Corrupt {
        what: "the root",
        reason: "it does not know its cluster".to_owned(),
    })?;
    let list = Bounds::prefix(kind_prefix(slab, Kind::Node));
    let nodes = view.list::<NodeKey>(&list, usize::MAX)?;
    let nodes: Vec<state::Node> = nodes.into_iter().map(|(_, node)| node).collect();
    let used = nodes.iter().map(|node| node.id);
    let used = used.chain(seen.nodes.iter().map(|node| node.0)).max();
    let node = info.next_node.max(used.unwrap_or_default() + 1) + NODES_SKIPPED;
    let list = Bounds::prefix(kind_prefix(slab, Kind::PlacementGroup));
    let mut unknown: BTreeSet<PgId> = seen.groups.iter().map(|(pg, _)| *pg).collect();
    for (row, _) in view.list::<PlacementGroupKey>(&list, usize::MAX)? {
        unknown.remove(&PgId(row.pg));
    }
    let groups = seen.groups.iter();
    let command = pb::RenewRoot {
        node,
        pg: groups.clone().map(|(pg, _)| pg.0).max().unwrap_or_default(),
        groups: groups
            .map(|(pg, epoch)| pb::SeenGroup {
                pg: pg.0,
                epoch: *epoch,
            })
            .collect(),
        ..in_shards(kv, seen)?
    };
    Ok(Renewal {
        node: NodeId(node),
        command,
        nodes,
        unknown_groups: unknown.into_iter().collect(),
    })
}

/// The largest numbers that shards use: they may have been put back from a later moment than the root.
fn in_shards(kv: &dyn Kv, seen: &Seen) -> Result<pb::RenewRoot, StateMachineError> {
    let shards = descriptors(kv)?;
    let ids = shards.iter().map(|shard| shard.shard);
    let ids = ids.chain(seen.shards.iter().map(|shard| shard.0));
    let ranges = shards.iter().flat_map(|shard| &shard.ranges);
    let homes = shards.iter().map(|shard| shard.home_slab);
    let mut bucket = 0;
    for home in homes.clone() {
        let list = Bounds::prefix(kind_prefix(SlabId(home), Kind::BucketView));
        let views = View(kv).list::<BucketViewKey>(&list, usize::MAX)?;
        bucket = bucket.max(views.last().map_or(0, |(row, _)| row.bucket.0));
    }
    Ok(pb::RenewRoot {
        shard: ids.max().unwrap_or_default(),
        slab: homes
            .chain(ranges.map(|range| range.slab))
            .max()
            .unwrap_or_default(),
        bucket,
        ..Default::default()
    })
}

/// The buckets that are in use, as the root in a store knows them. Blocks.
///
/// # Errors
/// The store failed.
pub fn buckets_in_use(kv: &dyn Kv) -> Result<Vec<state::Bucket>, StateMachineError> {
    let list = Bounds::prefix(kind_prefix(ROOT_HOME_SLAB, Kind::BucketById));
    let buckets = View(kv).list::<BucketByIdKey>(&list, usize::MAX)?;
    let buckets = buckets.into_iter().map(|(_, bucket)| bucket);
    let active = |bucket: &state::Bucket| bucket.state() == state::bucket::State::Active;
    Ok(buckets.filter(active).collect())
}
