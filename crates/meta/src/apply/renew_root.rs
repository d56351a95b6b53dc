//! RenewRoot: the first command of a root that was put back from a backup. What its lost last moments
//! may have given out already is not given out again: every counter goes above what is known to be in
//! use and a good deal further, and so do the epochs of the groups and the generations of the buckets.
//!
//! It is a command, and not written beside the log, so that the backup of what follows has it.

use std::collections::BTreeMap;

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::root_rows::{info, put_bucket, put_info};
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::rows::{Bounds, Rows};

/// Numbers of each sort that are skipped: far more than can be given out between two log parts.
const NUMBERS_SKIPPED: u32 = 1024;
/// Epochs of the map that are skipped; whoever has seen a lost one takes the new one.
const EPOCHS_SKIPPED: u64 = 1 << 20;

impl Apply for pb::RenewRoot {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let (skipped, more) = (NUMBERS_SKIPPED, u64::from(NUMBERS_SKIPPED));
        let mut info = info(tx)?;
        info.next_node = info.next_node.max(self.node.saturating_add(1));
        info.next_shard = info.next_shard.max(self.shard.saturating_add(1)) + skipped;
        info.next_slab = info.next_slab.max(self.slab.saturating_add(1)) + skipped;
        info.next_bucket = info.next_bucket.max(self.bucket.saturating_add(1)) + more;
        info.next_pg = info.next_pg.max(self.pg.saturating_add(1)) + skipped;
        info.next_pool += skipped;
        info.next_lease_token += EPOCHS_SKIPPED;
        info.map_epoch += EPOCHS_SKIPPED;
        put_info(tx, &info)?;
        // Members may have been others for a moment: whoever is one now opens the group anew. All of
        // them, because a disk that was not seen may know a newer epoch.
        let seen = self.groups.iter().map(|group| (group.pg, group.epoch));
        let seen: BTreeMap<u32, u64> = seen.collect();
        let bounds = Bounds::prefix(kind_prefix(tx.home(), Kind::PlacementGroup));
        for (row, mut group) in tx.list::<PlacementGroupKey>(&bounds, usize::MAX)? {
            let epoch = seen.get(&row.pg).copied().unwrap_or_default();
            group.epoch = group.epoch.max(epoch) + more;
            tx.put(&row, &group)?;
        }
        // A deletion that was begun in the lost time has raised a generation in some shard and fenced
        // the bucket there: a higher one opens it again.
        let bounds = Bounds::prefix(kind_prefix(tx.home(), Kind::BucketById));
        for (_, mut bucket) in tx.list::<BucketByIdKey>(&bounds, usize::MAX)? {
            if bucket.state() == state::bucket::State::Active {
                bucket.generation += more;
                put_bucket(tx, &bucket)?;
            }
        }
        empty()
    }
}
