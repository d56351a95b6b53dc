//! Snapshots in transit: read out lazily at the leader, staged in the store at the follower.
//!
//! A received snapshot is staged under keys of its own before anything of the state machine is
//! touched, so a transfer that breaks off harms nothing, and a crash while it is being installed
//! is repaired by installing it again ([`Stage::recover`]). Memory: one chunk at either end.
//!
//! The stage has one owner at a time, who holds its [`Claim`]: the transfer that fills it, each of
//! its steps while the store is written, then the installation until the library lets go of it.
//! Whoever has no claim does not touch what is staged.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use granary_kv::{Direction, Kv, KvError, Space, WriteBatch};
use granary_types::ShardId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::format::Bookkeeping;
use crate::log_key::{Kind, key, kind_end};
use crate::types::SnapshotMeta;
use crate::{SnapshotReader, SnapshotWriter, StateMachine, StateMachineError};

/// What the consensus library hands around as "the snapshot".
pub(crate) enum SnapshotData {
    /// A view of this node's state machine, to be sent.
    View(Box<dyn SnapshotReader>),
    /// A received snapshot, complete and durable in the stage.
    Staged {
        /// Number of chunks.
        chunks: u64,
        /// As sent with it.
        bookkeeping: Bytes,
        /// Held until it is installed or refused.
        claim: Claim,
    },
}

/// The right to write to a stage and to read from it. What the state machine has promised to whoever
/// holds it goes first, however that ends.
pub(crate) struct Claim {
    /// The machine that said yes to the snapshot.
    promised: Option<Arc<dyn StateMachine>>,
    _place: OwnedSemaphorePermit,
}

impl Claim {
    /// Asks the machine whether its state may be replaced. Blocks.
    pub(crate) fn ask(
        &mut self,
        machine: Arc<dyn StateMachine>,
        first_chunk: &Bytes,
    ) -> Result<bool, StateMachineError> {
        let allowed = machine.may_restore(first_chunk)?;
        self.promised = allowed.then_some(machine);
        Ok(allowed)
    }

    /// The snapshot will not come.
    pub(crate) fn give_up(&mut self) {
        if let Some(machine) = self.promised.take() {
            machine.restore_given_up();
        }
    }

    /// The snapshot is installed.
    fn keep_promise(&mut self) {
        self.promised = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The snapshot's identity for the consensus library.
pub(crate) fn meta(books: &Bookkeeping) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: books.applied,
        last_membership: books.membership.clone(),
    }
}

/// Reads bookkeeping as a state machine stored it.
pub(crate) fn decode_books(bytes: &Bytes) -> Result<Bookkeeping, StateMachineError> {
    Bookkeeping::decode(bytes).map_err(|error| StateMachineError::Corrupt {
        what: "bookkeeping",
        reason: error.to_string(),
    })
}

/// One shard's place for received chunks.
#[derive(Clone)]
pub(crate) struct Stage {
    shard: ShardId,
    kv: Arc<dyn Kv>,
    claims: Arc<Semaphore>,
}

impl Stage {
    pub(crate) fn new(shard: ShardId, kv: Arc<dyn Kv>) -> Self {
        let claims = Arc::new(Semaphore::new(1));
        Self { shard, kv, claims }
    }

    /// `None` while another transfer is being received or installed.
    pub(crate) fn claim(&self) -> Option<Claim> {
        let place = Arc::clone(&self.claims).try_acquire_owned().ok()?;
        Some(Claim {
            promised: None,
            _place: place,
        })
    }

    fn clearing(&self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let start = key(self.shard, Kind::StagedChunk, 0);
        batch.delete_range(Space::Log, start, kind_end(self.shard, Kind::Staged));
        batch
    }

    /// Forgets what was staged. Blocks.
    pub(crate) fn clear(&self) -> Result<(), KvError> {
        self.kv.write(self.clearing())
    }

    /// Clears the stage unless it is empty: a tombstone at every start would be waste. Blocks.
    pub(crate) fn drop_unfinished(&self) -> Result<(), KvError> {
        let (start, end) = (
            key(self.shard, Kind::StagedChunk, 0),
            kind_end(self.shard, Kind::StagedChunk),
        );
        let mut staged = self
            .kv
            .scan(Space::Log, &start, Some(&end), Direction::Forward);
        match staged.next() {
            Some(found) => found.and_then(|_| self.clear()),
            None => Ok(()),
        }
    }

    /// Keeps one chunk. Blocks.
    pub(crate) fn put(&self, sequence: u64, chunk: Bytes) -> Result<(), KvError> {
        let mut batch = WriteBatch::new();
        batch.put(
            Space::Log,
            key(self.shard, Kind::StagedChunk, sequence),
            chunk,
        );
        self.kv.write(batch)
    }

    /// Replaces the state machine's content by the staged chunks. Blocks.
    ///
    /// Durable order: chunks and the mark "complete", then the replacement, then the clearing. The
    /// mark is what makes a crash in between repeat the replacement.
    pub(crate) fn install(
        &self,
        machine: &dyn StateMachine,
        chunks: u64,
        bookkeeping: &Bytes,
        mut claim: Claim,
    ) -> Result<(), StateMachineError> {
        let mut mark = BytesMut::with_capacity(8 + bookkeeping.len());
        mark.put_u64(chunks);
        mark.put_slice(bookkeeping);
        let mut batch = WriteBatch::new();
        batch.put(Space::Log, key(self.shard, Kind::Staged, 0), mark.freeze());
        self.kv.write(batch)?;
        self.kv.sync()?;
        self.replace(machine, chunks, bookkeeping)?;
        claim.keep_promise();
        Ok(())
    }

    fn replace(
        &self,
        machine: &dyn StateMachine,
        chunks: u64,
        bookkeeping: &Bytes,
    ) -> Result<(), StateMachineError> {
        let mut writer = machine.restore()?;
        for sequence in 0..chunks {
            let chunk = self
                .kv
                .get(Space::Log, &key(self.shard, Kind::StagedChunk, sequence))?;
            writer.write(chunk.ok_or_else(|| StateMachineError::Corrupt {
                what: "a staged snapshot",
                reason: format!("chunk {sequence} of {chunks} is missing"),
            })?)?;
        }
        writer.finish(bookkeeping.clone())?;
        // Durable before the clearing is: a crash must find either the stage or the new state.
        self.kv.sync()?;
        Ok(self.clear()?)
    }

    /// Finishes an installation that a crash interrupted and drops unfinished transfers. Blocks.
    pub(crate) fn recover(&self, machine: &dyn StateMachine) -> Result<(), StateMachineError> {
        let Some(mark) = self.kv.get(Space::Log, &key(self.shard, Kind::Staged, 0))? else {
            return Ok(self.drop_unfinished()?);
        };
        let Some((count, _)) = mark.split_first_chunk::<8>() else {
            return Err(StateMachineError::Corrupt {
                what: "a staged snapshot",
                reason: "its mark is too short".to_owned(),
            });
        };
        let (chunks, bookkeeping) = (u64::from_be_bytes(*count), mark.slice(8..));
        let staged = decode_books(&bookkeeping)?;
        let current = machine
            .load_bookkeeping()?
            .map(|books| decode_books(&books))
            .transpose()?;
        if current.is_some_and(|current| current.applied >= staged.applied) {
            return Ok(self.clear()?);
        }
        tracing::info!(shard = %self.shard, "installing a snapshot again after an interruption");
        self.replace(machine, chunks, &bookkeeping)
    }
}

/// Copies a view straight into a state machine (both in this process). Blocks.
pub(crate) fn copy(
    mut reader: Box<dyn SnapshotReader>,
    mut writer: Box<dyn SnapshotWriter>,
    bookkeeping: Bytes,
) -> Result<(), StateMachineError> {
    while let Some(chunk) = reader.next_chunk()? {
        writer.write(chunk)?;
    }
    writer.finish(bookkeeping)
}
