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
use crate::apply::{FIRST_LEVEL, Tx, write_child};
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::shard_entry::ShardEntryKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, RowKey, kind_prefix};
use crate::machine::{Claims, ShardMachine, create_shard, local_shards};
use crate::ownership::{overlap, without};
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
        // The newest one, however long the root has known it: nobody else may remember it.
        known.extend(Some(descriptor.last_child).filter(|child| *child != 0));
    }
    known.extend(descriptors.iter().map(|known| known.shard));
    let missing = known.into_iter().map(ShardId);
    let missing = missing.filter(|shard| !restored.contains(shard));
    let mut overlapping = Vec::new();
    for (n, one) in descriptors.iter().enumerate() {
        for other in &descriptors[n + 1..] {
            if share(one, other) {
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

/// Takes from the older one of two shards what both own: it was put back from before it gave that away,
/// and whoever got it has it as it was later. Ids grow with every split. Blocks.
///
/// # Errors
/// The store failed.
pub fn settle_overlap(
    kv: &dyn Kv,
    (one, other): (ShardId, ShardId),
) -> Result<(), StateMachineError> {
    let all = descriptors(kv)?;
    let of = |shard: ShardId| all.iter().find(|known| known.shard == shard.0);
    let (Some(giver), Some(receiver)) = (of(one.min(other)), of(one.max(other))) else {
        return Ok(());
    };
    hand_over(kv, giver, receiver, newest_epoch(kv)? + 1)
}

/// Lets a shard give away what another one is to own, as a split does: with the rows of the shard
/// itself that go along, unless the other has its own.
fn hand_over(
    kv: &dyn Kv,
    giver: &state::ShardDescriptor,
    receiver: &state::ShardDescriptor,
    epoch: u64,
) -> Result<(), StateMachineError> {
    let slab = SlabId(giver.home_slab);
    let mut tx = Tx::open(kv, slab)?;
    for range in &receiver.ranges {
        tx.descriptor.ranges = without(&tx.descriptor.ranges, range);
    }
    for range in &mut tx.descriptor.ranges {
        range.epoch = epoch;
    }
    tx.descriptor.epoch = epoch;
    tx.descriptor.last_child = tx.descriptor.last_child.max(receiver.shard);
    let time_ms = tx.clock.applied_ms;
    let written = write_child(&mut tx, receiver.clone(), time_ms);
    written.map_err(|refusal| StateMachineError::Corrupt {
        what: "a shard that was put back",
        reason: format!("{refusal:?}"),
    })?;
    let bookkeeping = View(kv).get(&RaftBookkeepingKey { slab })?;
    Ok(kv.write(tx.into_batch(bookkeeping.unwrap_or_default()))?)
}

/// The highest epoch of a range that anybody knows of.
fn newest_epoch(kv: &dyn Kv) -> Result<u64, StateMachineError> {
    let told = hints(&View(kv))?.into_iter().filter_map(|hint| hint.range);
    let told = told.map(|range| range.epoch);
    let own = descriptors(kv)?.into_iter().map(|known| known.epoch);
    Ok(told.chain(own).max().unwrap_or_default())
}

/// A shard of which no checkpoint can be used: what its parent's history gave it, which is there once
/// that was put back, or its place in the root with what a shard that was put back from before a split has
/// there. `seen_term`: the highest that its backup names
/// ([`Catalog::newest_term`](super::Catalog::newest_term)). Blocks.
///
/// # Errors
/// The root does not say what it owned; the store failed.
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
            let (home, taken) = begin_anew(kv.as_ref(), shard)?;
            let lacks = match taken {
                true => "only what its parent had before the split is there",
                false => "nothing of it is there: it begins anew, empty",
            };
            (home, lacks)
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

/// Writes the first state of a shard that owns what the root's hints say; its home slab, and whether other
/// shards had that and gave it.
fn begin_anew(kv: &dyn Kv, shard: ShardId) -> Result<(SlabId, bool), RestoreError> {
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
    let mut descriptor = state::ShardDescriptor {
        shard: shard.0,
        home_slab: entry.home_slab,
        ranges,
        epoch,
        unreported_children: Vec::new(),
        last_child: shard.0,
    };
    let home = SlabId(entry.home_slab);
    let others = descriptors(kv)?.into_iter();
    let (givers, newer): (Vec<_>, Vec<_>) = others
        .filter(|other| share(other, &descriptor))
        .partition(|other| other.shard < shard.0);
    // What it gave away itself, to a shard of which there is more than the root's hint.
    for range in newer.iter().flat_map(|other| &other.ranges) {
        descriptor.ranges = without(&descriptor.ranges, range);
    }
    if givers.is_empty() {
        let level = info.feature_level.max(FIRST_LEVEL);
        create_shard(kv, &descriptor, info.settings.unwrap_or_default(), level)?;
        return Ok((home, false));
    }
    let epoch = newest_epoch(kv)? + 1;
    descriptor.epoch = epoch;
    for range in &mut descriptor.ranges {
        range.epoch = epoch;
    }
    for giver in &givers {
        hand_over(kv, giver, &descriptor, epoch)?;
    }
    Ok((home, true))
}

/// Whether two shards own the same keys.
fn share(one: &state::ShardDescriptor, other: &state::ShardDescriptor) -> bool {
    let mut ranges = one.ranges.iter();
    ranges.any(|a| other.ranges.iter().any(|b| overlap(a, b)))
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
