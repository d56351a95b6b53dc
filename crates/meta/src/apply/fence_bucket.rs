//! FenceBucket: stops commits into a bucket that is being deleted, and says whether it is empty;
//! lifts the fence again; or drops the bucket.
//!
//! The generation names the attempt to delete: whoever came later takes over, and what an earlier
//! attempt still sends is refused. A bucket is dropped only while it is fenced by the same attempt
//! and empty, so that no acknowledged object can be lost between the two steps.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::fence_bucket::Action;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_types::{BucketId, SlabId};

use super::bucket_rows::{check_segment, view_key};
use super::expiry::forget_bucket_later;
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::counter::CounterKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::ownership::positional_bounds;
use crate::rows::{Bounds, Rows};

/// What keeps a bucket from being deleted.
const CONTENTS: [Kind; 4] = [Kind::Head, Kind::Version, Kind::Upload, Kind::Directory];

impl Apply for pb::FenceBucket {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        let bucket = BucketId(self.bucket_id);
        check_segment(tx, bucket, self.segment.as_ref())?;
        let row = view_key(tx, bucket);
        // A crash may have come before the shard heard of the bucket.
        let mut view = tx.get(&row)?.unwrap_or_else(|| state::BucketView {
            bucket_id: bucket.0,
            ..Default::default()
        });
        if view.generation > self.generation {
            return Err(Reason::Stale.into());
        }
        let contents = contents(tx, bucket)?;
        if view.dropped {
            return match self.action() {
                Action::Unfence => Err(Reason::Stale.into()),
                Action::Fence | Action::Drop => Ok(Reply::Fence(contents)),
            };
        }
        match self.action() {
            Action::Fence => {
                // Not again after this attempt has given up.
                if view.generation == self.generation && !view.fenced {
                    return Err(Reason::Stale.into());
                }
                view.fenced = true;
                view.generation = self.generation;
                tx.put(&row, &view)?;
            }
            Action::Unfence => {
                view.fenced = false;
                view.generation = self.generation;
                tx.put(&row, &view)?;
            }
            Action::Drop => {
                if !view.fenced || view.generation != self.generation {
                    return Err(Reason::Stale.into());
                }
                if !contents.empty {
                    return Err(Reason::BucketNotEmpty.into());
                }
                drop_bucket(tx, at, view)?;
            }
        }
        Ok(Reply::Fence(contents))
    }
}

/// Forgets the bucket's counters. Its view stays for as long as a delayed command of its time
/// could still arrive.
fn drop_bucket(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    mut view: state::BucketView,
) -> Result<(), Refusal> {
    let bucket = BucketId(view.bucket_id);
    let mut prefix = kind_prefix(tx.home(), Kind::Counter);
    bucket.write(&mut prefix);
    let counters = tx.list::<CounterKey>(&Bounds::prefix(prefix), usize::MAX)?;
    for (row, _) in counters {
        tx.delete(&row);
    }
    view.dropped = true;
    tx.put(&view_key(tx, bucket), &view)?;
    let home = tx.home();
    forget_bucket_later(tx, home, bucket, at.time_ms)
}

/// Whether the shard holds objects, versions, uploads or directories of a bucket.
fn contents(tx: &Tx<'_>, bucket: BucketId) -> Result<pb::FenceReply, Refusal> {
    let mut found = [false; CONTENTS.len()];
    for range in &tx.descriptor.ranges {
        for (kind, found) in CONTENTS.iter().zip(&mut found) {
            let mut prefix = kind_prefix(SlabId(range.slab), *kind);
            bucket.write(&mut prefix);
            let in_bucket = Bounds::prefix(prefix);
            let in_range = positional_bounds(range, *kind);
            let end = match (in_bucket.end, in_range.end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let start = in_bucket.start.max(in_range.start);
            *found |= tx.any(&Bounds { start, end })?;
        }
    }
    Ok(pb::FenceReply {
        empty: found == [false; CONTENTS.len()],
        has_uploads: found[2],
    })
}
