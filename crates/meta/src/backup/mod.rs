//! The backup of the metadata in the storage pool: what each shard's leader writes there, and how a
//! store is filled from it when every replica is lost.
//!
//! A shard's backup is *checkpoints* (every row of it as of one log position, in parts, and a
//! manifest that says that they are all there) and *log parts* (the applied entries since, encoded
//! as the log stores them). A log part belongs to no checkpoint: any checkpoint and the entries after
//! it make the shard's state, whoever wrote which.
//!
//! It must not know disks, groups or chunks: [`BackupSink`] and [`BackupSource`] do.
//!
//! Invariants: only applied entries are written, so two leaders that write at once, one of them
//! deposed, write the same history; the two newest complete checkpoints and everything after the
//! older one stay; memory is a few parts, whatever the pool does; no command ever waits for it.

mod catalog;
mod format;
mod restore;
mod root;
mod whole;
mod writer;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;
use granary_raft::StateMachineError;
use granary_types::{ChunkId, ObjectId};

pub use catalog::{Catalog, ShardSummary};
pub use restore::{RestoreError, RestoredShard, restore_shard};
pub use root::{Renewal, Seen, buckets_in_use, plan_renewal};
pub use whole::{Wholeness, settle_overlap, verify_whole, without_backup};
pub(crate) use writer::{Progress, ShardWriter, WriterParts};

/// Where a backup is written to.
#[async_trait]
pub trait BackupSink: Send + Sync + 'static {
    /// Stores a part, at most a chunk long, under [`granary_types::BACKUP_BUCKET`] and an object
    /// id. Ends in bounded time; what it answers is durable with the redundancy of the pool.
    ///
    /// # Errors
    /// Nothing is known to be stored; the caller tries again later.
    async fn put(&self, object: ObjectId, part: Bytes) -> Result<Stored, BackupError>;

    /// Deletes chunks; those that are gone for certain.
    async fn delete(&self, chunks: &[ChunkId]) -> Vec<ChunkId>;
}

/// What became of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The chunk that holds it, and those of attempts that failed, which may hold it too.
    pub chunks: Vec<ChunkId>,
}

/// Where a backup is read from.
#[async_trait]
pub trait BackupSource: Send + Sync {
    /// The bytes of a chunk, from any disk that has them intact.
    ///
    /// # Errors
    /// No disk does.
    async fn read(&self, chunk: ChunkId) -> Result<Bytes, BackupError>;
}

/// Why a part could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The pool does not take it, or does not have it, now.
    #[error("the storage pool: {0}")]
    Pool(String),
    /// The bytes are not those of a part of this backup.
    #[error("a part of the backup is damaged: {0}")]
    Damaged(&'static str),
    /// The state or the log of the shard.
    #[error(transparent)]
    State(#[from] StateMachineError),
    /// The replica stopped, or its log cannot be read.
    #[error("the replica: {0}")]
    Replica(String),
}
