//! What a shard's state machine must offer to be replicated.
//!
//! It knows nothing of consensus: it applies committed entries in order, remembers opaque
//! bookkeeping in the same batch as the data, and can be read out and replaced in chunks. Every
//! call may block and is made away from the async threads, one mutating call at a time per shard.

use bytes::Bytes;
use granary_kv::KvError;

/// One committed log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Position in the shard's log; consecutive, starting at 0.
    pub index: u64,
    /// Term of the leader that proposed it. A term has at most one leader.
    pub term: u64,
    /// Milliseconds since the epoch, stamped by that leader; never smaller than in an earlier
    /// entry. For an entry without commands: the time of the newest entry before it.
    pub time_ms: u64,
    /// 64 random bits stamped by the leader (0 for an entry without commands).
    pub entropy: u64,
    /// The proposed commands in order; empty for the entries Raft writes for itself.
    pub commands: Vec<Bytes>,
}

/// Why a state machine could not do what was asked. Any of these stops the shard on this node:
/// an entry is never skipped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateMachineError {
    /// The store under the state machine failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Stored bytes, a bookkeeping record or a snapshot chunk cannot be read back.
    #[error("{what} cannot be read: {reason}")]
    Corrupt {
        /// What was being read, as a noun phrase.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A committed command that this version does not know (a node was downgraded).
    #[error("a committed command is unknown to this version: {reason}")]
    UnknownCommand {
        /// What was recognised of it.
        reason: String,
    },
}

/// A replicated state machine over one shard's keys.
pub trait StateMachine: Send + Sync + 'static {
    /// The bookkeeping that the last [`StateMachine::apply`] or [`SnapshotWriter::finish`] stored;
    /// `None` before the first.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn load_bookkeeping(&self) -> Result<Option<Bytes>, StateMachineError>;

    /// Applies `entries` in order in one write batch together with `bookkeeping`, and answers
    /// every command: one list per entry, in its commands' order.
    ///
    /// The batch is not synced: the log orders it before later synced writes, and what a crash
    /// loses is applied again.
    ///
    /// # Errors
    /// See [`StateMachineError`]; nothing of the batch may have been written then.
    fn apply(
        &self,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
    ) -> Result<Vec<Vec<Bytes>>, StateMachineError>;

    /// The same where nothing need wait for a disk and it takes about a millisecond at most, so that it may
    /// be asked for on an async thread; `None` when memory does not suffice, it would take longer, or the
    /// machine cannot tell: then nothing was written.
    ///
    /// # Errors
    /// As [`StateMachine::apply`].
    fn apply_at_once(
        &self,
        _entries: &[Committed],
        _bookkeeping: &Bytes,
    ) -> Result<Option<Vec<Vec<Bytes>>>, StateMachineError> {
        Ok(None)
    }

    /// A consistent view of the state, bookkeeping included, that later writes do not change.
    /// Cheap: the data is read only when chunks are asked for.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, StateMachineError>;

    /// What applying a command may occupy in memory, in bytes: entries are applied together up to a
    /// few MiB of it.
    fn weigh(&self, command: &Bytes) -> usize {
        command.len()
    }

    /// True while there is nothing that entries could be applied to: the replica has to get its
    /// first state by a snapshot, and the group's first entry is not given to it.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn is_blank(&self) -> Result<bool, StateMachineError> {
        Ok(false)
    }

    /// Asked before a snapshot is received, with its first chunk: whether the state may be replaced
    /// by it now. When not, the sender tries again later with a newer one. A machine that shares
    /// keys with others of the node says yes only to one of those that would collide, until
    /// [`SnapshotWriter::finish`], [`StateMachine::restore_given_up`] or the next question.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn may_restore(&self, _first_chunk: &Bytes) -> Result<bool, StateMachineError> {
        Ok(true)
    }

    /// The snapshot that was last asked about will not come.
    fn restore_given_up(&self) {}

    /// Starts replacing the whole state. Nothing is applied until the writer is finished or
    /// dropped. What was there before may be gone as soon as this returns.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn restore(&self) -> Result<Box<dyn SnapshotWriter>, StateMachineError>;
}

/// Reads one consistent view out, chunk by chunk.
pub trait SnapshotReader: Send + 'static {
    /// The bookkeeping as of this view; `None` when nothing was ever applied.
    fn bookkeeping(&self) -> Option<Bytes>;

    /// The next chunk, at most [`SNAPSHOT_CHUNK_BYTES_MAX`] long; `None` at the end.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn next_chunk(&mut self) -> Result<Option<Bytes>, StateMachineError>;
}

/// Replaces the state from the chunks of a [`SnapshotReader`], given in their order.
///
/// Crash safety: until [`SnapshotWriter::finish`] is durable the state may be a mixture. The
/// implementation marks that ("restoring") and reports no bookkeeping while the mark is set; the
/// Raft crate keeps the chunks and starts the restore again.
pub trait SnapshotWriter: Send + 'static {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn write(&mut self, chunk: Bytes) -> Result<(), StateMachineError>;

    /// Completes the replacement and stores `bookkeeping` with it, atomically.
    ///
    /// # Errors
    /// See [`StateMachineError`].
    fn finish(self: Box<Self>, bookkeeping: Bytes) -> Result<(), StateMachineError>;
}

/// Longest snapshot chunk, in bytes (1 MiB): both ends hold one at a time.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1024 * 1024;
