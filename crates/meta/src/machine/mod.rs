//! One shard's state machine: applies log entries to the store, and lets a snapshot of the shard's
//! rows be read out and put in place.

mod at_once;
mod claims;
mod closing;
mod own_rows;
mod restore;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Kv, KvError, KvRead, Space, WriteBatch};
use granary_meta_api::pb;
use granary_meta_api::pb::state;
use granary_raft::{Committed, SnapshotReader, SnapshotWriter, StateMachine, StateMachineError};
use granary_types::{ShardId, SlabId};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tokio::sync::watch;

use at_once::Few;
pub(crate) use claims::Claims;
pub(crate) use closing::{clear_all_closed, clear_closed, closing_batch};

use crate::apply::{Tx, decide};
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_clock::ShardClockKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{Kind, ROOT_HOME_SLAB, RowKey};
use crate::rows::{RawRows, Rows, View};
use crate::shard_rows::{Remembered, ShardRows};

/// What becomes of entries.
struct Decided {
    batch: WriteBatch,
    answers: Vec<Vec<Bytes>>,
    /// What stands in the store once the batch is written.
    rows: ShardRows,
    /// Whether what the shard owns is something else then.
    owns_other: bool,
}

/// One shard's state over the node's store.
pub(crate) struct ShardMachine {
    shard: ShardId,
    home: SlabId,
    kv: Arc<dyn Kv>,
    /// What the shard owns, as of the newest applied entry.
    descriptor: watch::Sender<state::ShardDescriptor>,
    /// As of the newest applied entry.
    remembered: Remembered,
    /// Shared by the node's shards.
    claims: Claims,
}

impl ShardMachine {
    /// The machine of a shard whose home slab is known.
    ///
    /// # Errors
    /// The descriptor cannot be read, or the slab is another shard's.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        shard: ShardId,
        home: SlabId,
        claims: Claims,
    ) -> Result<Arc<Self>, StateMachineError> {
        let view = View(kv.as_ref());
        let known = view.get(&ShardDescriptorKey { slab: home })?;
        let marker = view.get(&RestoreMarkerKey { slab: home })?;
        let owners = known.iter().map(|known| known.shard);
        let mut owners = owners.chain(marker.iter().map(|marker| marker.shard));
        if let Some(owner) = owners.find(|owner| *owner != shard.0) {
            return Err(StateMachineError::Corrupt {
                what: "the state of a shard",
                reason: format!("slab {home} belongs to shard {owner}, not to {shard}"),
            });
        }
        let (descriptor, _) = watch::channel(known.unwrap_or_default());
        Ok(Arc::new(Self {
            shard,
            home,
            kv,
            descriptor,
            remembered: Remembered::default(),
            claims,
        }))
    }

    /// A view of the store, and the shard's rows as they stand in it, if that is known.
    pub(crate) fn view(&self) -> (Arc<dyn KvRead>, Option<ShardRows>) {
        self.remembered.view(self.kv.as_ref())
    }

    /// What the entries change in the state that `base` reads, and how they are answered.
    fn decided(
        &self,
        base: &dyn KvRead,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
    ) -> Result<Decided, StateMachineError> {
        let mut tx = match self.remembered.get() {
            Some(rows) => Tx::of(base, self.home, rows),
            None => Tx::open(base, self.home)?,
        };
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let time_ms = tx.clock.applied_ms.max(entry.time_ms);
            tx.clock.applied_ms = time_ms;
            let decided: Result<Vec<Bytes>, _> = entry
                .commands
                .into_iter()
                .map(|command| decide(command, time_ms, &mut tx))
                .collect();
            answers.push(decided?);
        }
        let (rows, owns_other) = tx.shard_rows();
        Ok(Decided {
            batch: tx.into_batch(bookkeeping),
            answers,
            rows,
            owns_other,
        })
    }

    /// Remembers what is written now, and tells who watches what the shard owns.
    fn tell(&self, rows: ShardRows, owns_other: bool) {
        let descriptor = owns_other.then(|| Arc::clone(&rows.descriptor));
        self.remembered.end_change(Some(rows));
        if let Some(descriptor) = descriptor {
            self.descriptor
                .send_replace(Arc::unwrap_or_clone(descriptor));
        }
    }

    /// The shard's home slab.
    pub(crate) fn home(&self) -> SlabId {
        self.home
    }

    /// The newest shard that was split off; 0 or the shard itself: none.
    pub(crate) fn last_child(&self) -> u32 {
        self.descriptor.borrow().last_child
    }

    /// The same, as of every write of the store that has begun to show. Blocks.
    pub(crate) fn stored_last_child(&self) -> Result<u32, StateMachineError> {
        let descriptor = View(self.kv.as_ref()).get(&ShardDescriptorKey { slab: self.home })?;
        Ok(descriptor.map_or(0, |descriptor| descriptor.last_child))
    }

    /// Follows what the shard owns.
    pub(crate) fn watch(&self) -> watch::Receiver<state::ShardDescriptor> {
        self.descriptor.subscribe()
    }

    fn restoring(&self) -> Result<bool, StateMachineError> {
        View(self.kv.as_ref()).exists(&RestoreMarkerKey { slab: self.home })
    }
}

impl StateMachine for ShardMachine {
    fn load_bookkeeping(&self) -> Result<Option<Bytes>, StateMachineError> {
        if self.restoring()? {
            return Ok(None);
        }
        View(self.kv.as_ref()).get(&RaftBookkeepingKey { slab: self.home })
    }

    fn apply(
        &self,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
    ) -> Result<Vec<Vec<Bytes>>, StateMachineError> {
        let decided = self.decided(self.kv.as_ref(), entries, bookkeeping)?;
        self.remembered.begin_change();
        self.kv.write(decided.batch)?;
        self.tell(decided.rows, decided.owns_other);
        Ok(decided.answers)
    }

    fn apply_at_once(
        &self,
        entries: &[Committed],
        bookkeeping: &Bytes,
    ) -> Result<Option<Vec<Vec<Bytes>>>, StateMachineError> {
        let Some(memory) = self.kv.in_memory() else {
            return Ok(None);
        };
        let decided = {
            let few = Few::new(memory);
            self.decided(&few, entries.to_vec(), bookkeeping.clone())
        };
        let decided = match decided {
            Err(StateMachineError::Kv(KvError::NotInMemory)) => return Ok(None),
            decided => decided?,
        };
        if decided.batch.size_bytes() > AT_ONCE_BYTES_MAX {
            return Ok(None);
        }
        let before = self.remembered.begin_change();
        if !self.kv.write_at_once(&decided.batch)? {
            self.remembered.end_change(before);
            return Ok(None);
        }
        self.tell(decided.rows, decided.owns_other);
        Ok(Some(decided.answers))
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, StateMachineError> {
        let reader = snapshot::Reader::open(self.kv.snapshot(), self.home)?;
        Ok(Box::new(reader))
    }

    fn weigh(&self, command: &Bytes) -> usize {
        if !may_touch_many_rows(command) {
            return command.len();
        }
        // What cannot be read is refused when it is applied.
        let known = pb::Command::decode(command.clone()).ok();
        match known.and_then(|known| known.command) {
            Some(known) if touches_many_rows(&known) => MANY_ROWS_BYTES,
            _ => command.len(),
        }
    }

    fn is_blank(&self) -> Result<bool, StateMachineError> {
        let described = View(self.kv.as_ref()).exists(&ShardDescriptorKey { slab: self.home })?;
        Ok(!described && !self.restoring()?)
    }

    fn may_restore(&self, first_chunk: &Bytes) -> Result<bool, StateMachineError> {
        let ranges = restore::described_ranges(first_chunk, self.home)?;
        self.claims.claim(self.kv.as_ref(), self.shard, ranges)
    }

    fn restore_given_up(&self) {
        self.claims.release(self.shard);
    }

    fn restore(&self) -> Result<Box<dyn SnapshotWriter>, StateMachineError> {
        self.remembered.begin_change();
        let descriptor = self.descriptor.clone();
        let mut writer = restore::Writer::start(&self.kv, self.shard, self.home, descriptor)?;
        writer.release_when_done(self.claims.clone());
        Ok(Box::new(writer))
    }
}

/// The longest batch that is written on an async thread, in bytes.
const AT_ONCE_BYTES_MAX: usize = 256 * 1024;
/// What a command that touches up to ten thousand rows occupies while it is applied.
const MANY_ROWS_BYTES: usize = 8 * 1024 * 1024;

/// True for commands whose effect does not show in their length: they are applied one by one. Each has its
/// field in [`MANY_ROWS_FIELDS`].
pub(crate) fn touches_many_rows(command: &pb::command::Command) -> bool {
    use pb::command::Command;
    match command {
        Command::CompleteUpload(_) | Command::AbortUpload(_) | Command::AckDeletions(_) => true,
        // An upload that it gives up may have that many parts.
        Command::DeleteDirectory(step) => step.recursive,
        _ => false,
    }
}

/// The fields of [`pb::Command`] that [`touches_many_rows`] is true of, or may be: `complete_upload`,
/// `abort_upload`, `ack_deletions`, `delete_directory`.
const MANY_ROWS_FIELDS: [u32; 4] = [14, 15, 18, 33];
/// Fields below this one are the envelope's.
const FIRST_COMMAND_FIELD: u32 = 10;

/// Whether an encoded command may be one of those; tells without decoding it, which most are not worth.
fn may_touch_many_rows(command: &[u8]) -> bool {
    let mut rest = command;
    while let Ok((field, wire_type)) = decode_key(&mut rest) {
        if field >= FIRST_COMMAND_FIELD {
            return MANY_ROWS_FIELDS.contains(&field);
        }
        if skip_field(wire_type, field, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
    }
    true
}

/// Writes the first state of a shard that exists from the cluster's beginning, at a feature level. A
/// shard that has a state keeps it.
///
/// # Errors
/// The store failed.
pub(crate) fn create_shard(
    kv: &dyn Kv,
    descriptor: &state::ShardDescriptor,
    settings: state::ShardSettings,
    feature_level: u64,
) -> Result<(), StateMachineError> {
    let slab = SlabId(descriptor.home_slab);
    let view = View(kv);
    if view.exists(&ShardDescriptorKey { slab })? || view.exists(&RestoreMarkerKey { slab })? {
        return Ok(());
    }
    let clock = state::ShardClock {
        feature_level,
        settings: Some(settings),
        ..Default::default()
    };
    let mut batch = WriteBatch::new();
    let key = ShardDescriptorKey { slab }.encode();
    batch.put(Space::State, key, descriptor.encode_to_vec());
    batch.put(
        Space::State,
        ShardClockKey { slab }.encode(),
        clock.encode_to_vec(),
    );
    Ok(kv.write(batch)?)
}

/// What the root owns: nothing but its home slab.
pub(crate) fn root_descriptor() -> state::ShardDescriptor {
    state::ShardDescriptor {
        shard: ShardId::ROOT.0,
        home_slab: ROOT_HOME_SLAB.0,
        epoch: 1,
        ..Default::default()
    }
}

/// The highest feature level that one of some shards has here; 0 when none has a state.
///
/// # Errors
/// The store failed.
pub(crate) fn highest_level(
    kv: &dyn Kv,
    shards: &[(ShardId, SlabId)],
) -> Result<u64, StateMachineError> {
    let mut highest = 0;
    for &(_, slab) in shards {
        let clock = View(kv).get(&ShardClockKey { slab })?;
        highest = highest.max(clock.map_or(0, |clock| clock.feature_level));
    }
    Ok(highest)
}

/// The replicas on this node: shard and home slab of each. Looks once at every slab.
///
/// # Errors
/// The store failed.
pub(crate) fn local_shards(kv: &dyn Kv) -> Result<Vec<(ShardId, SlabId)>, StateMachineError> {
    let view = View(kv);
    let mut found = Vec::new();
    let mut next = Some(0u32);
    while let Some(from) = next {
        let Some(entry) = view.scan_raw(&from.to_be_bytes(), None).next() else {
            break;
        };
        let (key, _) = entry?;
        let Some((slab, kind)) = key.first_chunk::<4>().zip(key.get(4)) else {
            return Err(StateMachineError::Corrupt {
                what: "a key of the metadata",
                reason: "it is too short".to_owned(),
            });
        };
        let slab = SlabId(u32::from_be_bytes(*slab));
        if *kind == Kind::ShardDescriptor as u8 {
            let descriptor = view.get(&ShardDescriptorKey { slab })?.unwrap_or_default();
            found.push((ShardId(descriptor.shard), slab));
        } else if *kind == Kind::RestoreMarker as u8 {
            let marker = view.get(&RestoreMarkerKey { slab })?.unwrap_or_default();
            found.push((ShardId(marker.shard), slab));
        }
        next = slab.0.checked_add(1);
    }
    Ok(found)
}
