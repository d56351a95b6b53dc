//! Whether a store that was put back is all of a cluster's metadata, and what takes the place of a
//! shard that is not there.
//!
//! Invariant: nothing here makes a loss look like none; who asks decides what becomes of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use granary_kv::{Kv, Space, WriteBatch};
use granary_meta_api::disk_state;
use granary_meta_api::pb::state;
use granary_raft::{StateMachine, StateMachineError};
use granary_types::{DiskId, NodeId, ShardId, SlabId};

use super::restore::{RestoreError, RestoredShard};
use crate::apply::FIRST_LEVEL;
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::shard_entry::ShardEntryKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, RowKey, kind_prefix};
use crate::machine::{Claims, ShardMachine, create_shard, local_shards};
use crate::ownership::overlap;
use crate::rows::{Bounds, Rows, View};

/// What a restored store lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wholeness {
    /// Shards that the root or their parents know of and that were not restored.
    pub missing: Vec<ShardId>,
    /// Pairs that own the same keys: one was put back from before it gave them away.
    pub overlapping: Vec<(ShardId, ShardId)>,
    /// Disks in service that hold placement groups, each with its node: what they have belongs to it.
    pub disks: Vec<(DiskId, NodeId)>,
}

/// What a store lacks of which these shards were restored. Blocks.
///
/// # Errors
/// The store failed.
pub fn verify_whole(kv: &dyn Kv, restored: &[ShardId]) -> Result<Wholeness, StateMachineError> {
    let descriptors = descriptors(kv)?;
    let mut known: BTreeSet<u32> = BTreeSet::from([ShardId::ROOT.0]);
    known.extend(hints(&View(kv))?.into_iter().map(|hint| hint.shard));
    for descriptor in &descriptors {
        let children = descriptor.unreported_children.iter();
        known.extend(children.map(|child| child.shard));
    }
    known.extend(descriptors.iter().map(|known| known.shard));
    let missing = known.into_iter().map(ShardId);
    let missing = missing.filter(|shard| !restored.contains(shard));
    let mut overlapping = Vec::new();
    for (n, one) in descriptors.iter().enumerate() {
        for other in &descriptors[n + 1..] {
            let common = one
                .ranges
                .iter()
                .any(|a| other.ranges.iter().any(|b| overlap(a, b)));
            if common {
                overlapping.push((ShardId(one.shard), ShardId(other.shard)));
            }
        }
    }
    Ok(Wholeness {
        missing: missing.collect(),
        overlapping,
        disks: disks_in_use(&View(kv))?,
    })
}

fn disks_in_use(view: &View<'_>) -> Result<Vec<(DiskId, NodeId)>, StateMachineError> {
    let all = |kind| Bounds::prefix(kind_prefix(ROOT_HOME_SLAB, kind));
    let mut members = BTreeSet::new();
    for (_, group) in view.list::<PlacementGroupKey>(&all(Kind::PlacementGroup), usize::MAX)? {
        let disks = group.members.iter().map(|member| member.disk);
        members.extend(disks.filter(|disk| *disk != group.leaving));
    }
    let nodes = view
        .list::<NodeKey>(&all(Kind::Node), usize::MAX)?
        .into_iter();
    let removed: BTreeSet<u64> = nodes
        .filter(|(_, node)| node.removed)
        .map(|(_, node)| node.id)
        .collect();
    let disks = view
        .list::<DiskKey>(&all(Kind::Disk), usize::MAX)?
        .into_iter();
    let in_use = disks.map(|(_, disk)| disk).filter(|disk| {
        disk.state != disk_state::REMOVED
            && !removed.contains(&disk.node)
            && members.contains(&disk.id)
    });
    Ok(in_use
        .map(|disk| (DiskId(disk.id), NodeId(disk.node)))
        .collect())
}

/// A shard of which no checkpoint can be used: what its parent's history gave it, which is there once
/// that was put back, or nothing but its place in the root. `seen_term`: the highest that its backup names
/// ([`Catalog::newest_term`](super::Catalog::newest_term)). Blocks.
///
/// # Errors
/// The root does not say what it owned, or another shard owns that; the store failed.
pub fn without_backup(
    kv: Arc<dyn Kv>,
    shard: ShardId,
    seen_term: u64,
) -> Result<RestoredShard, RestoreError> {
    let found = local_shards(kv.as_ref())?.into_iter();
    let given = found
        .filter(|(found, _)| *found == shard)
        .map(|(_, home)| home);
    let mut given = given.max();
    if let Some(home) = given
        && drop_half_restored(&kv, shard, home)?
    {
        given = None;
    }
    let (home, lacks) = match given {
        Some(home) => (home, "only what its parent gave it is there"),
        None => {
            let home = begin_anew(kv.as_ref(), shard)?;
            (home, "nothing of it is there: it begins anew, empty")
        }
    };
    RestoredShard::without_history(kv, (shard, home), seen_term, lacks)
}

/// Removes what a checkpoint that could not be read to its end has left.
fn drop_half_restored(
    kv: &Arc<dyn Kv>,
    shard: ShardId,
    home: SlabId,
) -> Result<bool, RestoreError> {
    let marker = RestoreMarkerKey { slab: home };
    if !View(kv.as_ref()).exists(&marker)? {
        return Ok(false);
    }
    let machine = ShardMachine::open(Arc::clone(kv), shard, home, Claims::default())?;
    // It begins with clearing.
    drop(machine.restore()?);
    let mut batch = WriteBatch::new();
    batch.delete(Space::State, marker.encode());
    kv.write(batch)?;
    Ok(true)
}

/// Writes the first state of a shard that owns what the root's hints say; its home slab.
fn begin_anew(kv: &dyn Kv, shard: ShardId) -> Result<SlabId, RestoreError> {
    let view = View(kv);
    let slab = ROOT_HOME_SLAB;
    let refused = |reason: &str| RestoreError::NoCheckpoint {
        shard,
        reason: reason.to_owned(),
    };
    let entry = view.get(&ShardEntryKey {
        slab,
        shard: shard.0,
    })?;
    let info = view.get(&ClusterInfoKey { slab })?.unwrap_or_default();
    let own = hints(&view)?
        .into_iter()
        .filter(|hint| hint.shard == shard.0);
    let ranges: Vec<state::Range> = own.filter_map(|hint| hint.range).collect();
    let (Some(entry), Some(epoch)) = (entry, ranges.iter().map(|range| range.epoch).max()) else {
        return Err(refused("the root does not say what it owned"));
    };
    let mut others = descriptors(kv)?.into_iter().flat_map(|other| other.ranges);
    if others.any(|other| ranges.iter().any(|own| overlap(own, &other))) {
        return Err(refused("another shard owns its keys"));
    }
    let descriptor = state::ShardDescriptor {
        shard: shard.0,
        home_slab: entry.home_slab,
        ranges,
        epoch,
        ..Default::default()
    };
    let level = info.feature_level.max(FIRST_LEVEL);
    create_shard(kv, &descriptor, info.settings.unwrap_or_default(), level)?;
    Ok(SlabId(entry.home_slab))
}

fn hints(view: &View<'_>) -> Result<Vec<state::RangeHint>, StateMachineError> {
    let bounds = Bounds::prefix(kind_prefix(ROOT_HOME_SLAB, Kind::RangeHint));
    let hints = view.list::<RangeHintKey>(&bounds, usize::MAX)?;
    Ok(hints.into_iter().map(|(_, hint)| hint).collect())
}

/// What the shards in a store own.
pub(super) fn descriptors(kv: &dyn Kv) -> Result<Vec<state::ShardDescriptor>, StateMachineError> {
    let view = View(kv);
    let mut descriptors = Vec::new();
    for (_, slab) in local_shards(kv)? {
        descriptors.extend(view.get(&ShardDescriptorKey { slab })?);
    }
    Ok(descriptors)
}
