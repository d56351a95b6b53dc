//! SplitRange: hands the upper part of a range to a new shard, in the same slab.
//!
//! Everything positional stays where it is: from this entry on it belongs to the child. The
//! child's home slab is written in the same batch, so that the child is there exactly when its
//! parent has let go. Its stamps start above every one of the parent.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::fault::Kind as FaultKind;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::{BucketId, SlabId, limits};

use super::bucket_rows::view_key;
use super::expiry::forget_bucket_later;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::bucket_view::BucketViewKey;
use crate::keyspace::counter::CounterKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_clock::ShardClockKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::limits::UNREPORTED_CHILDREN_MAX;
use crate::ownership::{contains, start_of, touches_bucket};
use crate::rows::{Bounds, Rows};

impl Apply for pb::SplitRange {
    fn apply(self, tx: &mut Tx<'_>, cx: &ApplyContext) -> Result<Reply, Refusal> {
        if self.child_shard == 0 || self.child_home_slab == 0 {
            return Err(Refusal::invalid("no child"));
        }
        let at = (self.split_bucket, self.split_key.as_ref());
        let owns = |range: &state::Range| contains(range, at.0, at.1);
        let found = tx.descriptor.ranges.iter().position(owns);
        let epoch = found.map(|index| tx.descriptor.ranges[index].epoch);
        if self.expected_epoch != 0 && epoch != Some(self.expected_epoch) {
            // Measured before another split, or a second attempt at one that was done.
            return Err(Refusal::because(
                Reason::Stale,
                format!("the range at the split point has another epoch by now: {epoch:?}"),
            ));
        }
        if self.child_shard <= tx.descriptor.last_child.max(tx.descriptor.shard) {
            // It was split off before, maybe at another point: what it has is not touched.
            return Err(Refusal::invalid("a child needs a new shard"));
        }
        if self.split_key.len() > limits::OBJECT_KEY_BYTES_MAX {
            return Err(Refusal::invalid("the split key is too long"));
        }
        if tx.descriptor.unreported_children.len() >= UNREPORTED_CHILDREN_MAX {
            return Err(Refusal::invalid(
                "the root has to hear of earlier children first",
            ));
        }
        let Some(index) = found else {
            return Err(Refusal::fault(
                FaultKind::WrongShard,
                "the split point is not this shard's",
            ));
        };
        let row = view_key(tx, BucketId(self.split_bucket));
        let whole = tx.get(&row)?.is_some_and(|view| view.hierarchical);
        if whole && !self.split_key.is_empty() {
            return Err(Refusal::invalid("a bucket with directories is one shard's"));
        }
        let range = tx.descriptor.ranges[index].clone();
        if start_of(&range) == at {
            return Err(Refusal::invalid(
                "nothing would be left below the split point",
            ));
        }
        let epoch = tx.descriptor.epoch + 1;
        let child_range = state::Range {
            start_bucket: self.split_bucket,
            start_key: self.split_key.clone(),
            epoch,
            ..range.clone()
        };
        tx.descriptor.epoch = epoch;
        tx.descriptor.ranges[index] = state::Range {
            bounded: true,
            end_bucket: self.split_bucket,
            end_key: self.split_key,
            epoch,
            ..range
        };
        let child = state::ShardDescriptor {
            shard: self.child_shard,
            home_slab: self.child_home_slab,
            ranges: vec![child_range.clone()],
            epoch,
            unreported_children: Vec::new(),
            last_child: self.child_shard,
        };
        tx.descriptor.last_child = self.child_shard;
        tx.descriptor.unreported_children.push(state::ChildShard {
            shard: self.child_shard,
            home_slab: self.child_home_slab,
            range: Some(child_range),
            voters: self.voters,
        });
        write_child(tx, child, cx.time_ms)?;
        empty()
    }
}

/// Writes the child's home slab, and lets go of the buckets that are all its own now. A child that
/// is there already, because this replica got it by a snapshot, is newer and stays as it is.
pub(crate) fn write_child(
    tx: &mut Tx<'_>,
    child: state::ShardDescriptor,
    time_ms: u64,
) -> Result<(), Refusal> {
    let slab = SlabId(child.home_slab);
    let clock = state::ShardClock {
        change_seq: 0,
        deletion_token: 0,
        ..tx.clock.clone()
    };
    let is_there =
        tx.exists(&ShardDescriptorKey { slab })? || tx.exists(&RestoreMarkerKey { slab })?;
    if !is_there {
        tx.put(&ShardClockKey { slab }, &clock)?;
    }
    let first = child.ranges.iter().map(|range| range.start_bucket);
    let first = first.min().unwrap_or_default();
    let views = Bounds::prefix(kind_prefix(tx.home(), Kind::BucketView));
    let mut from = kind_prefix(tx.home(), Kind::BucketView);
    BucketId(first).write(&mut from);
    let views = tx.list::<BucketViewKey>(&views.from(from), usize::MAX)?;
    for (row, view) in views {
        if !is_there && touches_bucket(&child, row.bucket) {
            let copy = BucketViewKey {
                slab,
                bucket: row.bucket,
            };
            tx.put(&copy, &view)?;
            if view.dropped {
                forget_bucket_later(tx, slab, row.bucket, time_ms)?;
            }
        }
        if !touches_bucket(&tx.descriptor, row.bucket) {
            tx.delete(&row);
        }
    }
    move_counters(tx, (!is_there).then_some(slab), first)?;
    if is_there {
        return Ok(());
    }
    tx.put(&ShardDescriptorKey { slab }, &child)
}

/// Moves the counters of buckets that are all the child's now: a sum over the shards of a bucket
/// must find each of them once (`None`: the child has them already). Those of a bucket in two pieces stay with the parent.
fn move_counters(tx: &mut Tx<'_>, child_home: Option<SlabId>, first: u64) -> Result<(), Refusal> {
    let mut from = kind_prefix(tx.home(), Kind::Counter);
    BucketId(first).write(&mut from);
    let bounds = Bounds::prefix(kind_prefix(tx.home(), Kind::Counter)).from(from);
    for (row, counter) in tx.list::<CounterKey>(&bounds, usize::MAX)? {
        if !touches_bucket(&tx.descriptor, row.bucket) {
            tx.delete(&row);
            if let Some(slab) = child_home {
                tx.put(&CounterKey { slab, ..row }, &counter)?;
            }
        }
    }
    Ok(())
}
