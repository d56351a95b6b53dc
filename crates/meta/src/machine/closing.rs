//! Gives up a replica's rows.
//!
//! A marker with the ranges of the replica goes in with the same write that makes its log go; then
//! the rows go, and the marker last. While it is there nobody else of the node is given what the
//! ranges hold (see `claims`), and after a crash the rest goes before anything is opened.

use std::sync::Arc;

use granary_kv::{Kv, Space, WriteBatch};
use granary_raft::StateMachineError;
use granary_types::{ShardId, SlabId};
use prost::Message;

use super::local_shards;
use super::own_rows::OwnRows;
use super::restore::clear_rows;
use crate::keyspace::RowKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::rows::{Rows, View};

/// What marks a replica as given up. Blocks.
///
/// # Errors
/// The store failed.
pub(crate) fn closing_batch(
    kv: &dyn Kv,
    shard: ShardId,
    home: SlabId,
) -> Result<WriteBatch, StateMachineError> {
    let view = View(kv);
    let key = RestoreMarkerKey { slab: home };
    let mut marker = view.get(&key)?.unwrap_or_default();
    marker.shard = shard.0;
    marker.closing = true;
    if let Some(descriptor) = view.get(&ShardDescriptorKey { slab: home })? {
        for range in descriptor.ranges {
            if !marker.ranges.contains(&range) {
                marker.ranges.push(range);
            }
        }
    }
    let mut batch = WriteBatch::new();
    batch.put(Space::State, key.encode(), marker.encode_to_vec());
    Ok(batch)
}

/// Deletes the rows of a replica that is marked as given up, and the mark. Blocks.
///
/// # Errors
/// The store failed.
pub(crate) fn clear_closed(kv: &Arc<dyn Kv>, home: SlabId) -> Result<(), StateMachineError> {
    let key = RestoreMarkerKey { slab: home };
    let Some(marker) = View(kv.as_ref()).get(&key)?.filter(|marker| marker.closing) else {
        return Ok(());
    };
    clear_rows(kv.as_ref(), home, OwnRows::new(home, &marker.ranges))?;
    let mut batch = WriteBatch::new();
    batch.delete(Space::State, key.encode());
    Ok(kv.write(batch)?)
}

/// Ends what a crash has interrupted. Blocks.
///
/// # Errors
/// The store failed.
pub(crate) fn clear_all_closed(kv: &Arc<dyn Kv>) -> Result<(), StateMachineError> {
    for (shard, slab) in local_shards(kv.as_ref())? {
        let marker = View(kv.as_ref()).get(&RestoreMarkerKey { slab })?;
        if marker.is_some_and(|marker| marker.closing) {
            tracing::info!(shard = shard.0, "what is left of a closed replica goes");
            clear_closed(kv, slab)?;
        }
    }
    Ok(())
}
