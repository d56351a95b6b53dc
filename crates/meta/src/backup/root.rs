//! What a root that was put back must not do again: give out numbers that its lost last moments may
//! have given out already.

use granary_kv::{Kv, Space, WriteBatch};
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::{NodeId, PgId};
use prost::Message;

use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, RowKey, kind_prefix};
use crate::rows::{Bounds, Rows, View};

/// Numbers of each sort that are skipped: far more than can be given out between two log parts.
const NUMBERS_SKIPPED: u32 = 1024;
/// Node ids that are skipped: people read them.
const NODES_SKIPPED: u64 = 8;
/// Epochs of the map that are skipped; whoever has seen a lost one takes the new one.
const EPOCHS_SKIPPED: u64 = 1 << 20;

/// The root after it was put back.
#[derive(Clone, Debug)]
pub struct RenewedRoot {
    /// An id that no node has ever had.
    pub node: NodeId,
    /// What it knows of the cluster.
    pub info: state::ClusterInfo,
    /// The nodes it knows.
    pub nodes: Vec<state::Node>,
    /// The buckets that are in use.
    pub buckets: Vec<state::Bucket>,
}

/// Raises every counter of a root that was put back, and the epochs of the placement groups above
/// those that disks have seen. `nodes` are ids that are known to be in use. Blocks.
///
/// # Errors
/// The store failed, or has no root.
pub fn renew_root(
    kv: &dyn Kv,
    groups: &[(PgId, u64)],
    nodes: &[NodeId],
) -> Result<RenewedRoot, StateMachineError> {
    let view = View(kv);
    let slab = ROOT_HOME_SLAB;
    let row = ClusterInfoKey { slab };
    let mut info = view.get(&row)?.ok_or_else(|| StateMachineError::Corrupt {
        what: "the root",
        reason: "it does not know its cluster".to_owned(),
    })?;
    let list = Bounds::prefix(kind_prefix(slab, Kind::Node));
    let known = view.list::<NodeKey>(&list, usize::MAX)?;
    let known: Vec<state::Node> = known.into_iter().map(|(_, node)| node).collect();
    let seen = nodes.iter().map(|node| node.0);
    let used = known.iter().map(|node| node.id).chain(seen).max();
    let node = info.next_node.max(used.unwrap_or_default() + 1) + NODES_SKIPPED;
    let list = Bounds::prefix(kind_prefix(slab, Kind::BucketById));
    let buckets = view.list::<BucketByIdKey>(&list, usize::MAX)?.into_iter();
    let buckets = buckets.map(|(_, bucket)| bucket);
    let active = |bucket: &state::Bucket| bucket.state() == state::bucket::State::Active;
    let buckets = buckets.filter(active).collect();
    let mut batch = WriteBatch::new();
    let newest = groups.iter().map(|(pg, _)| pg.0).max();
    info.next_node = node;
    info.next_pg = info.next_pg.max(newest.unwrap_or_default()) + NUMBERS_SKIPPED;
    info.next_pool += NUMBERS_SKIPPED;
    info.next_shard += NUMBERS_SKIPPED;
    info.next_slab += NUMBERS_SKIPPED;
    info.next_bucket += u64::from(NUMBERS_SKIPPED);
    info.next_lease_token += EPOCHS_SKIPPED;
    info.map_epoch += EPOCHS_SKIPPED;
    batch.put(Space::State, row.encode(), info.encode_to_vec());
    for (pg, epoch) in groups {
        let row = PlacementGroupKey { slab, pg: pg.0 };
        if let Some(mut group) = view.get(&row)?
            && group.epoch < *epoch
        {
            // Its members may have been others for a moment: whoever is one now opens it anew.
            group.epoch = epoch + 1;
            batch.put(Space::State, row.encode(), group.encode_to_vec());
        }
    }
    kv.write(batch)?;
    Ok(RenewedRoot {
        node: NodeId(node),
        info,
        nodes: known,
        buckets,
    })
}
