//! Reads a shard's rows out of one view of the store.

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::KvRead;
use granary_meta_api::pb::state;
use granary_raft::{SnapshotReader, StateMachineError};
use granary_types::SlabId;
use prost::Message;

use super::own_rows::OwnRows;
use crate::keyspace::Kind;
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::rows::{Rows, View};

/// Rows in one chunk, in bytes of keys and values; the last row may go beyond it.
const CHUNK_BYTES: usize = 512 * 1024;

/// Chunks of `state::SnapshotRows`. The descriptor is the very first row.
pub(super) struct Reader {
    view: Arc<dyn KvRead>,
    bookkeeping: Option<Bytes>,
    rows: OwnRows,
}

impl Reader {
    pub(super) fn open(view: Arc<dyn KvRead>, home: SlabId) -> Result<Self, StateMachineError> {
        let read = View(view.as_ref());
        let descriptor = read.get(&ShardDescriptorKey { slab: home })?;
        let bookkeeping = read.get(&RaftBookkeepingKey { slab: home })?;
        let descriptor = match (descriptor, &bookkeeping) {
            (Some(descriptor), _) => descriptor,
            // A replica that waits for its first state.
            (None, None) => state::ShardDescriptor::default(),
            (None, Some(_)) => {
                return Err(StateMachineError::Corrupt {
                    what: "the state of a shard",
                    reason: "it has no descriptor".to_owned(),
                });
            }
        };
        Ok(Self {
            rows: OwnRows::new(home, &descriptor.ranges),
            bookkeeping,
            view,
        })
    }
}

impl SnapshotReader for Reader {
    fn bookkeeping(&self) -> Option<Bytes> {
        self.bookkeeping.clone()
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, StateMachineError> {
        let entries = self.rows.next(&View(self.view.as_ref()), CHUNK_BYTES)?;
        // One without rows still tells the receiver that the reader is alive.
        let Some(entries) = entries else {
            return Ok(None);
        };
        let rows = entries.into_iter().filter(|(key, _)| !is_local(key));
        let chunk = state::SnapshotRows {
            rows: rows
                .map(|(key, value)| state::SnapshotRow { key, value })
                .collect(),
        };
        Ok(Some(chunk.encode_to_vec().into()))
    }
}

/// Rows that belong to the replica, not to the shard.
pub(super) fn is_local(key: &[u8]) -> bool {
    let local = [Kind::RaftBookkeeping as u8, Kind::RestoreMarker as u8];
    key.get(4).is_some_and(|kind| local.contains(kind))
}
