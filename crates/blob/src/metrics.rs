//! What a disk counts. The node exports it; nothing here is read back by the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one disk since it was opened, and its queue now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskMetrics {
    /// Chunks put, copies included, repeats too.
    pub puts: u64,
    /// Object bytes of those.
    pub put_bytes: u64,
    /// Reads answered.
    pub gets: u64,
    /// Object bytes of those, in whole blocks.
    pub get_bytes: u64,
    /// Chunks named by deletions.
    pub deletes: u64,
    /// Time callers waited for puts, in microseconds together.
    pub put_micros: u64,
    /// Time callers waited for reads, in microseconds together.
    pub get_micros: u64,
    /// Appends to volumes, each of one or more records.
    pub appends: u64,
    /// Bytes of those.
    pub append_bytes: u64,
    /// Time in them, in microseconds together.
    pub append_micros: u64,
    /// Syncs of volumes.
    pub syncs: u64,
    /// Time in them, in microseconds together.
    pub sync_micros: u64,
    /// Reads that found damaged or unreadable bytes.
    pub corrupt: u64,
    /// Chunks that the disk read to check them.
    pub verified_chunks: u64,
    /// Object bytes of those.
    pub verified_bytes: u64,
    /// Requests refused because the disk was full.
    pub refused_full: u64,
    /// Requests refused because the queue was full for too long.
    pub refused_busy: u64,
    /// Volumes that compaction removed.
    pub compacted_volumes: u64,
    /// Bytes that compaction wrote again.
    pub compaction_moved_bytes: u64,
    /// Bytes of files that compaction removed.
    pub compaction_freed_bytes: u64,
    /// Bytes waiting in the queue now.
    pub queue_bytes: u64,
    /// Reads running now.
    pub reads_running: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    get_bytes: AtomicU64,
    deletes: AtomicU64,
    put_micros: AtomicU64,
    get_micros: AtomicU64,
    appends: AtomicU64,
    append_bytes: AtomicU64,
    append_micros: AtomicU64,
    syncs: AtomicU64,
    sync_micros: AtomicU64,
    corrupt: AtomicU64,
    verified_chunks: AtomicU64,
    verified_bytes: AtomicU64,
    refused_full: AtomicU64,
    refused_busy: AtomicU64,
    compacted_volumes: AtomicU64,
    compaction_moved_bytes: AtomicU64,
    compaction_freed_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Counters {
    pub(crate) fn put(&self, bytes: u64, time: Duration) {
        add(&self.puts, 1);
        add(&self.put_bytes, bytes);
        add(&self.put_micros, micros(time));
    }

    pub(crate) fn got(&self, bytes: u64, time: Duration) {
        add(&self.gets, 1);
        add(&self.get_bytes, bytes);
        add(&self.get_micros, micros(time));
    }

    pub(crate) fn deleted(&self, chunks: u64) {
        add(&self.deletes, chunks);
    }

    pub(crate) fn appended(&self, bytes: u64, time: Duration) {
        add(&self.appends, 1);
        add(&self.append_bytes, bytes);
        add(&self.append_micros, micros(time));
    }

    pub(crate) fn synced(&self, time: Duration) {
        add(&self.syncs, 1);
        add(&self.sync_micros, micros(time));
    }

    pub(crate) fn corrupt(&self) {
        add(&self.corrupt, 1);
    }

    pub(crate) fn verified(&self, chunks: u64, bytes: u64) {
        add(&self.verified_chunks, chunks);
        add(&self.verified_bytes, bytes);
    }

    pub(crate) fn refused_full(&self) {
        add(&self.refused_full, 1);
    }

    pub(crate) fn refused_busy(&self) {
        add(&self.refused_busy, 1);
    }

    pub(crate) fn compacted(&self, moved_bytes: u64, freed_bytes: u64) {
        add(&self.compacted_volumes, 1);
        add(&self.compaction_moved_bytes, moved_bytes);
        add(&self.compaction_freed_bytes, freed_bytes);
    }

    /// The counters; what is not counted here is 0.
    pub(crate) fn snapshot(&self) -> DiskMetrics {
        DiskMetrics {
            puts: read(&self.puts),
            put_bytes: read(&self.put_bytes),
            gets: read(&self.gets),
            get_bytes: read(&self.get_bytes),
            deletes: read(&self.deletes),
            put_micros: read(&self.put_micros),
            get_micros: read(&self.get_micros),
            appends: read(&self.appends),
            append_bytes: read(&self.append_bytes),
            append_micros: read(&self.append_micros),
            syncs: read(&self.syncs),
            sync_micros: read(&self.sync_micros),
            corrupt: read(&self.corrupt),
            verified_chunks: read(&self.verified_chunks),
            verified_bytes: read(&self.verified_bytes),
            refused_full: read(&self.refused_full),
            refused_busy: read(&self.refused_busy),
            compacted_volumes: read(&self.compacted_volumes),
            compaction_moved_bytes: read(&self.compaction_moved_bytes),
            compaction_freed_bytes: read(&self.compaction_freed_bytes),
            queue_bytes: 0,
            reads_running: 0,
        }
    }
}
