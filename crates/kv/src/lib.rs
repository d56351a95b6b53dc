//! The small key-value trait under the metadata state machine, the Raft log and the chunk index,
//! and its in-memory, crash-faulting implementation. RocksDB implements it in `granary-kv-rocks`.
//!
//! Contract: writes are atomic per batch, visible at once and ordered; [`Kv::sync`] makes every
//! earlier write durable; after a crash the store holds a prefix of the batches written, at least
//! up to the last successful sync. Calls may block: never make them on an async thread, but for
//! [`Kv::snapshot`], [`Kv::write_at_once`] and what [`KvRead::in_memory`] answers.

mod batch;
mod memory;
#[cfg(any(test, feature = "testsuite"))]
pub mod testsuite;

pub use batch::{Op, WriteBatch};
pub use memory::MemoryKv;

use std::sync::Arc;

use bytes::Bytes;

/// A part of the store with its own ordering and tuning. Few and fixed: each costs memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Raft log entries and votes.
    Log,
    /// The metadata state machine: everything that must change together with its applied index.
    State,
    /// The chunk index of one disk (derived from its volumes).
    Index,
}

impl Space {
    /// Every space.
    pub const ALL: [Space; 3] = [Space::Log, Space::State, Space::Index];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Space::Log => "log",
            Space::State => "state",
            Space::Index => "index",
        }
    }
}

/// Why the store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    /// The disk or the database failed; nothing written since the last sync can be relied on.
    #[error("key-value store failed: {0}")]
    Io(Arc<str>),
    /// Stored bytes failed their checksum or could not be read back.
    #[error("key-value store is corrupt: {0}")]
    Corrupt(Arc<str>),
    /// Another process, or another handle in this one, has the store open.
    #[error("key-value store is in use: {0}")]
    InUse(Arc<str>),
    /// Only of a view made by [`KvRead::in_memory`]: the answer may be on disk.
    #[error("the answer is not in memory")]
    NotInMemory,
    /// The store was closed or crashed.
    #[error("key-value store is closed")]
    Closed,
}

/// Order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys from the start of the range.
    Forward,
    /// Descending keys from the end of the range.
    Backward,
}

/// One key and its value.
pub type Entry = (Bytes, Bytes);

/// A lazy scan; it holds the view it was made from.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Entry, KvError>> + Send + 'a>;

/// Reads from one consistent view.
pub trait KvRead: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// See [`KvError`].
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Entries with `start <= key < end` (no upper bound when `end` is `None`).
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_>;

    /// About how many bytes the entries with `start <= key < end` take where the store keeps them, without
    /// reading them. What was written lately may be missing. 0 where the store cannot tell.
    fn approximate_bytes(&self, _space: Space, _start: &[u8], _end: Option<&[u8]>) -> u64 {
        0
    }

    /// The same view for reads that must not wait for a disk: what memory cannot tell is
    /// [`KvError::NotInMemory`]. It may be asked on an async thread, a few keys at a time. `None` when
    /// the store cannot keep the two apart.
    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        None
    }
}

/// Sizes and counts for metrics; zero where an implementation has none.
#[derive(Clone, Debug, Default)]
pub struct KvStats {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of unflushed writes in memory.
    pub memtable_bytes: u64,
    /// Bytes of the block cache in use.
    pub cache_bytes: u64,
    /// Bytes waiting for compaction.
    pub pending_compaction_bytes: u64,
}

/// A durable, ordered key-value store. `get` and `scan` read the newest state.
pub trait Kv: KvRead + 'static {
    /// A consistent view that later writes do not change. Waits for nothing but a short lock.
    fn snapshot(&self) -> Arc<dyn KvRead>;

    /// Applies a batch atomically: visible when the call returns, durable after the next
    /// successful [`Kv::sync`].
    ///
    /// # Errors
    /// See [`KvError`].
    fn write(&self, batch: WriteBatch) -> Result<(), KvError>;

    /// The same where it need not wait for the store to catch up or for a sync that is under way, so that
    /// small batches may be written on an async thread; `false` when it would have to, or the store cannot
    /// tell: then nothing was written. A system call that hands a buffer to the kernel may be part of it.
    ///
    /// # Errors
    /// See [`KvError`].
    fn write_at_once(&self, _batch: &WriteBatch) -> Result<bool, KvError> {
        Ok(false)
    }

    /// Makes every earlier write durable.
    ///
    /// # Errors
    /// See [`KvError`]; after an error the store must not be written again.
    fn sync(&self) -> Result<(), KvError>;

    /// Sizes for metrics.
    fn stats(&self) -> KvStats;
}

/// The smallest key that is greater than every key with this prefix; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_tight() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
