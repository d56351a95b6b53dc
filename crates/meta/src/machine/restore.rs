//! Puts a snapshot in place of a shard's rows.
//!
//! Crash safety: a marker row names every range that may hold a mixture; while it is there the
//! replica reports no bookkeeping and the restore is started again, which first clears those
//! ranges. Only rows of this shard are cleared: its slabs may hold others'.

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Kv, Space, WriteBatch};
use granary_meta_api::pb::state;
use granary_raft::{SnapshotWriter, StateMachineError};
use granary_types::{ShardId, SlabId};
use prost::Message;
use tokio::sync::watch;

use super::Claims;
use super::own_rows::OwnRows;
use super::snapshot::is_local;
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{Kind, RowKey, decode_value};
use crate::rows::{Rows, View};

/// Rows cleared in one batch, in bytes.
const CLEAR_BYTES: usize = 1024 * 1024;

/// A restore under way.
pub(super) struct Writer {
    kv: Arc<dyn Kv>,
    home: SlabId,
    marker: state::RestoreMarker,
    /// Set by the first row.
    restored: Option<state::ShardDescriptor>,
    announce: watch::Sender<state::ShardDescriptor>,
    claims: Option<Claims>,
}

impl Writer {
    pub(super) fn start(
        kv: &Arc<dyn Kv>,
        shard: ShardId,
        home: SlabId,
        announce: watch::Sender<state::ShardDescriptor>,
    ) -> Result<Self, StateMachineError> {
        let view = View(kv.as_ref());
        let mut marker = view
            .get(&RestoreMarkerKey { slab: home })?
            .unwrap_or_default();
        marker.shard = shard.0;
        if let Some(old) = view.get(&ShardDescriptorKey { slab: home })? {
            add_ranges(&mut marker, old.ranges);
        }
        let writer = Self {
            kv: Arc::clone(kv),
            home,
            marker,
            restored: None,
            announce,
            claims: None,
        };
        writer.put_marker()?;
        writer.clear(OwnRows::new(home, &writer.marker.ranges))?;
        Ok(writer)
    }

    /// What was claimed for this restore is the shard's own when it is finished.
    pub(super) fn release_when_done(&mut self, claims: Claims) {
        self.claims = Some(claims);
    }

    fn put_marker(&self) -> Result<(), StateMachineError> {
        let mut batch = WriteBatch::new();
        let key = RestoreMarkerKey { slab: self.home }.encode();
        batch.put(Space::State, key, self.marker.encode_to_vec());
        Ok(self.kv.write(batch)?)
    }

    fn clear(&self, rows: OwnRows) -> Result<(), StateMachineError> {
        clear_rows(self.kv.as_ref(), self.home, rows)
    }

    /// Learns from the first row what the shard owns, and clears that too.
    fn begin(&mut self, row: &state::SnapshotRow) -> Result<(), StateMachineError> {
        if row.key != (ShardDescriptorKey { slab: self.home }).encode() {
            return Err(corrupt("it does not begin with the descriptor"));
        }
        let descriptor: state::ShardDescriptor =
            decode_value(Kind::ShardDescriptor, row.value.clone())?;
        if descriptor.shard != self.marker.shard {
            return Err(corrupt("it is another shard's"));
        }
        add_ranges(&mut self.marker, descriptor.ranges.clone());
        self.put_marker()?;
        self.clear(OwnRows::in_ranges(&descriptor.ranges))?;
        self.restored = Some(descriptor);
        Ok(())
    }

    fn may_write(&self, key: &[u8]) -> bool {
        let Some(slab) = key.first_chunk::<4>().map(|slab| u32::from_be_bytes(*slab)) else {
            return false;
        };
        let ranges = self
            .restored
            .iter()
            .flat_map(|descriptor| &descriptor.ranges);
        let known = slab == self.home.0 || ranges.into_iter().any(|range| range.slab == slab);
        known && !is_local(key)
    }
}

impl SnapshotWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> Result<(), StateMachineError> {
        let chunk = state::SnapshotRows::decode(chunk).map_err(|e| corrupt(&e.to_string()))?;
        if self.restored.is_none()
            && let Some(first) = chunk.rows.first()
        {
            self.begin(first)?;
        }
        let mut batch = WriteBatch::new();
        for row in chunk.rows {
            if !self.may_write(&row.key) {
                return Err(corrupt("it holds a row that is not the shard's"));
            }
            batch.put(Space::State, row.key, row.value);
        }
        Ok(self.kv.write(batch)?)
    }

    fn finish(self: Box<Self>, bookkeeping: Bytes) -> Result<(), StateMachineError> {
        let slab = self.home;
        let Some(descriptor) = &self.restored else {
            return Err(corrupt("it has no descriptor"));
        };
        let mut batch = WriteBatch::new();
        let key = RaftBookkeepingKey { slab }.encode();
        batch.put(Space::State, key, bookkeeping.encode_to_vec());
        batch.delete(Space::State, RestoreMarkerKey { slab }.encode());
        self.kv.write(batch)?;
        self.announce.send_replace(descriptor.clone());
        if let Some(claims) = &self.claims {
            claims.release(ShardId(self.marker.shard));
        }
        Ok(())
    }
}

/// Deletes rows, but for the marker in the home slab.
pub(super) fn clear_rows(
    kv: &dyn Kv,
    home: SlabId,
    mut rows: OwnRows,
) -> Result<(), StateMachineError> {
    let marker = RestoreMarkerKey { slab: home }.encode();
    while let Some(entries) = rows.next(&View(kv), CLEAR_BYTES)? {
        let mut batch = WriteBatch::new();
        for (key, _) in entries {
            if key != marker {
                batch.delete(Space::State, key);
            }
        }
        kv.write(batch)?;
    }
    Ok(())
}

/// The ranges of the shard whose snapshot begins with this chunk.
pub(super) fn described_ranges(
    first_chunk: &Bytes,
    home: SlabId,
) -> Result<Vec<state::Range>, StateMachineError> {
    let chunk = state::SnapshotRows::decode(first_chunk.clone());
    let first = chunk.map_err(|error| corrupt(&error.to_string()))?.rows;
    let first = first.into_iter().next();
    let row = first.filter(|row| row.key == (ShardDescriptorKey { slab: home }).encode());
    let row = row.ok_or_else(|| corrupt("it does not begin with the descriptor"))?;
    let descriptor: state::ShardDescriptor = decode_value(Kind::ShardDescriptor, row.value)?;
    Ok(descriptor.ranges)
}

fn add_ranges(marker: &mut state::RestoreMarker, ranges: Vec<state::Range>) {
    for range in ranges {
        if !marker.ranges.contains(&range) {
            marker.ranges.push(range);
        }
    }
}

fn corrupt(reason: &str) -> StateMachineError {
    StateMachineError::Corrupt {
        what: "a snapshot of a shard",
        reason: reason.to_owned(),
    }
}
