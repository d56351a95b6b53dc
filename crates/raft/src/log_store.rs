//! The Raft log, vote and commit position of one shard in the node's shared store.
//!
//! Rules:
//! * every write is an un-synced batch; whoever needs durability waits for the one sync stream of
//!   the database, so that many shards' writes share a sync. The store keeps a prefix of the
//!   batches after a crash, hence votes and entries survive in the order they were written;
//! * an append is acknowledged, and a vote returned, only after such a sync;
//! * the commit position rides along with the next batch and is never synced for its own sake:
//!   it only speeds up recovery;
//! * before the log is cut, a sync makes the applied state durable, so the log is never durably
//!   cut above a durably applied position;
//! * an entry that should be there and is not, or can't be decoded, is an error: what is committed
//!   must be there until it is cut, and it is cut only after it was applied;
//! * the first error that matters is told to the group's [`Health`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt, stream};
use granary_kv::{Kv, KvError, Space, WriteBatch};
use granary_runtime::{GroupCommit, Runtime};
use granary_types::ShardId;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::RaftError;
use crate::format;
use crate::health::Health;
use crate::log_key::{Kind, key, kind_end};
use crate::log_scan::{self, ALONE_SHARE, Bounds, Stored};
use crate::tail::{Recent, Weight};
use crate::types::{Entry, LogId, Types, Vote, io_error};

/// Entries of one page when the log is read to be applied.
const PAGE_ENTRIES: u64 = 256;
/// Bytes that are written on an async thread at most.
const AT_ONCE_BYTES_MAX: usize = 128 * 1024;
/// Truncations up to this length delete entry by entry: range tombstones slow down later reads.
const POINT_DELETES_MAX: u64 = 1024;

/// The log's state in memory; changed together with what is stored.
struct Tail {
    bounds: Bounds,
    recent: Recent,
    weight: Weight,
}

struct Shared {
    shard: ShardId,
    kv: Arc<dyn Kv>,
    runtime: Runtime,
    syncs: GroupCommit<KvError>,
    health: Health,
    tail: Mutex<Tail>,
    /// Told when the log is longer than a group without peers keeps it.
    grown: Notify,
    keep: Keep,
    vote: Mutex<Option<Vote>>,
    committed: Mutex<Option<LogId>>,
    /// Bytes of entries that one read for a peer returns at most (always at least one entry).
    page_bytes: usize,
    /// The first index that somebody still wants to read; `u64::MAX` when nobody does.
    wanted: AtomicU64,
    /// Bytes that this log may have for peers that are sent snapshots.
    room: Arc<AtomicU64>,
}

/// One shard's log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

/// What a shard's log needs from its node.
pub(crate) struct LogEnvironment {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) runtime: Runtime,
    pub(crate) syncs: GroupCommit<KvError>,
    pub(crate) health: Health,
    pub(crate) page_bytes: usize,
    pub(crate) keep: Keep,
    pub(crate) room: Arc<AtomicU64>,
}

/// How much of an applied log is kept for peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Entries more than that before the log is cut.
    pub(crate) slack_entries: u64,
}

/// For whom a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    /// The group has one member.
    None,
    /// They follow by the log.
    Following,
}

/// What the logs may keep for peers that are sent snapshots, before it is known how much room the
/// store has.
pub(crate) const ROOM_BYTES: u64 = 1024 * 1024 * 1024;

/// How many times as much is kept at most for whoever reads the log to keep it elsewhere.
const WANTED_FACTOR: u64 = 2;

impl LogStore {
    /// Keeps entries from `index` on, as long as they are not too many; `u64::MAX` for no longer.
    pub(crate) fn want_from(&self, index: u64) {
        self.shared.wanted.store(index, Ordering::Relaxed);
    }

    /// The entries of `start..end`, or the first of them up to a size; `None` when the first one
    /// is not there any more.
    pub(crate) async fn read_from(
        &self,
        start: u64,
        end: u64,
        limit_bytes: usize,
    ) -> io::Result<Option<Vec<Entry>>> {
        if start >= end {
            return Ok(Some(Vec::new()));
        }
        let entries = self.read(start, end, limit_bytes).await?;
        let found = entries
            .first()
            .is_some_and(|first| first.log_id.index == start);
        Ok(found.then_some(entries))
    }

    /// Reads the log's bounds, vote and commit position. Blocks.
    pub(crate) fn open(shard: ShardId, environment: LogEnvironment) -> Result<Self, RaftError> {
        let LogEnvironment {
            kv,
            runtime,
            syncs,
            health,
            page_bytes,
            keep,
            room,
        } = environment;
        let Stored {
            bounds,
            vote,
            committed,
            weight,
        } = log_scan::load(kv.as_ref(), shard, keep.bytes)?;
        let tail = Tail {
            bounds,
            recent: Recent::default(),
            weight,
        };
        let shared = Shared {
            shard,
            kv,
            runtime,
            syncs,
            health,
            tail: Mutex::new(tail),
            grown: Notify::new(),
            keep,
            vote: Mutex::new(vote),
            committed: Mutex::new(committed),
            page_bytes,
            wanted: AtomicU64::new(u64::MAX),
            room,
        };
        let store = Self {
            shared: Arc::new(shared),
        };
        store.notice_growth();
        Ok(store)
    }

    /// True when this node ever voted or logged in this group: it may have promised something.
    pub(crate) fn has_history(&self) -> bool {
        self.shared.vote.lock().is_some() || self.shared.tail.lock().bounds.last.is_some()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Position up to which the log was cut.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.tail.lock().bounds.purged
    }

    /// Writes the commit position that has not ridden along yet, for a quick restart.
    pub(crate) async fn flush_committed(&self) -> io::Result<()> {
        self.write(WriteBatch::new()).await
    }

    /// Lets go of the entries in memory up to `index`: nobody will read them soon.
    pub(crate) fn forget_recent(&self, index: u64) {
        self.shared.tail.lock().recent.forget_below(index + 1);
    }

    fn notice_growth(&self) {
        if self.first_to_keep(Peers::None, None).is_some() {
            self.shared.grown.notify_one();
        }
    }

    /// Waits until the log may have grown enough to be cut.
    pub(crate) async fn grown(&self) {
        self.shared.grown.notified().await;
    }

    /// The first index to keep, when the log is so long that it should be cut below it. From `needed`
    /// on it is kept as long as there is room.
    pub(crate) fn first_to_keep(&self, peers: Peers, needed: Option<u64>) -> Option<u64> {
        let keep = self.shared.keep;
        let slack_bytes = keep.bytes / ALONE_SHARE;
        let factor = match peers {
            Peers::None => 0,
            Peers::Following => 1,
        };
        let (bytes, entries) = (keep.bytes * factor, keep.entries * factor);
        let tail = self.shared.tail.lock();
        let end = tail.bounds.end_index();
        let many = end.saturating_sub(tail.bounds.first) > entries + keep.slack_entries;
        let heavy = tail.weight.bytes() > bytes + slack_bytes;
        let by_entries = many.then(|| end.saturating_sub(entries));
        let by_bytes = match heavy {
            true if factor == 0 => Some(end),
            true => tail.weight.first_within(bytes),
            false => None,
        };
        // For whoever keeps the log elsewhere a little more is kept, never without bound.
        let bearable = tail.weight.bytes() <= keep.bytes * WANTED_FACTOR
            && end.saturating_sub(tail.bounds.first) <= keep.entries * WANTED_FACTOR;
        let wanted = match bearable {
            true => self.shared.wanted.load(Ordering::Relaxed),
            false => u64::MAX,
        };
        let room = self.shared.room.load(Ordering::Relaxed);
        let needed = needed.filter(|_| tail.weight.bytes() <= room);
        let kept_for_others = wanted.min(needed.unwrap_or(u64::MAX));
        by_entries
            .max(by_bytes)
            .map(|keep| keep.min(kept_for_others))
    }

    /// Says what stops the group, and passes it on as the consensus library takes it.
    fn fatal(&self, error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        self.shared.health.fail(&error);
        io_error(error)
    }

    /// Writes `batch`, and the commit position with it, without a sync.
    async fn write(&self, mut batch: WriteBatch) -> io::Result<()> {
        if let Some(committed) = self.shared.committed.lock().as_ref() {
            let key = key(self.shared.shard, Kind::Committed, 0);
            batch.put(Space::Log, key, format::encode_log_id(committed));
        }
        // Into memory, mostly: another thread would cost more than the write. A large one may fill the
        // buffer of the store's own log, which is then written out.
        if batch.size_bytes() <= AT_ONCE_BYTES_MAX {
            let written = self.shared.kv.write_at_once(&batch);
            if written.map_err(|error| self.fatal(error))? {
                return Ok(());
            }
        }
        let kv = Arc::clone(&self.shared.kv);
        let call = move || kv.write(batch);
        let written = self.shared.runtime.blocking(call).await;
        written
            .map_err(io_error)?
            .map_err(|error| self.fatal(error))
    }

    async fn synced(&self) -> io::Result<()> {
        let synced = self.shared.syncs.synced().await;
        synced.map_err(|error| self.fatal(error))
    }

    fn corrupt(&self, reason: String) -> io::Error {
        self.fatal(RaftError::CorruptLog {
            shard: self.shared.shard,
            reason,
        })
    }

    /// Reads the entries of `start..end` that the log holds, all of them or, with `limit_bytes`,
    /// the first ones up to that size.
    async fn read(&self, start: u64, end: u64, limit_bytes: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (bounds, start, end) = {
                let tail = self.shared.tail.lock();
                let bounds = tail.bounds.clone();
                let (start, end) = (start.max(bounds.first), end.min(bounds.end_index()));
                if start >= end {
                    return Ok(Vec::new());
                }
                if let Some(found) = tail.recent.read(start, end, limit_bytes) {
                    return Ok(found);
                }
                (bounds, start, end)
            };
            let shared = Arc::clone(&self.shared);
            let call = move || {
                let (kv, shard) = (shared.kv.as_ref(), shared.shard);
                log_scan::entries(kv, shard, start, end, limit_bytes)
            };
            let scanned = self.shared.runtime.blocking(call).await.map_err(io_error)?;
            let (entries, complete) = scanned.map_err(|error| self.fatal(error))?;
            if complete {
                return Ok(entries);
            }
            // Short: either the log was cut or truncated while it was read, or it has a hole.
            if self.shared.tail.lock().bounds == bounds {
                return Err(self.corrupt(format!("entries are missing between {start} and {end}")));
            }
        }
    }

    /// Reads a page of `start..end` that begins with `start`; an empty one where the log ends.
    async fn page(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let end = end.min(start.saturating_add(PAGE_ENTRIES));
        let entries = self.read(start, end, self.shared.page_bytes).await?;
        let first = entries.first().map(|entry| entry.log_id.index);
        let committed = self.shared.committed.lock().map(|id| id.index);
        match first {
            Some(first) if first == start => Ok(entries),
            None if committed.is_none_or(|committed| committed < start) => Ok(entries),
            _ => Err(self.corrupt(format!("the committed entry {start} is missing"))),
        }
    }
}

/// The half-open interval of a range of indexes.
fn interval(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = interval(&range);
        self.read(start, end, usize::MAX).await
    }

    /// For a peer: none rather than others when `start` was cut meanwhile, for what is sent must
    /// follow what the peer has.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, self.shared.page_bytes).await?;
        match entries.first() {
            Some(first) if first.log_id.index != start => Ok(Vec::new()),
            _ => Ok(entries),
        }
    }

    /// What is applied. Pages through the range, so that a long backlog is never in memory at once.
    /// Where a committed entry should be and is not, the stream ends with an error.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = interval(&range);
        let store = self.clone();
        let pages = stream::unfold(Some(start), move |next| {
            let store = store.clone();
            async move {
                let start = next.filter(|start| *start < end)?;
                match store.page(start, end).await {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        let next = entries.last().map(|entry| entry.log_id.index + 1);
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), next))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        Box::pin(pages.flat_map(stream::iter))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.shared.vote.lock())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let bounds = self.shared.tail.lock().bounds.clone();
        Ok(LogState {
            last_purged_log_id: bounds.purged,
            last_log_id: bounds.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = WriteBatch::new();
        let key = key(self.shared.shard, Kind::Vote, 0);
        batch.put(Space::Log, key, format::encode_vote(vote));
        self.write(batch).await?;
        self.synced().await?;
        *self.shared.vote.lock() = Some(*vote);
        Ok(())
    }

    /// Remembered, and written with the next batch: it is a hint that saves re-election time, and
    /// the state machine's own applied position is never far behind it.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        *self.shared.committed.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(*self.shared.committed.lock())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::new();
        let bounds = self.shared.tail.lock().bounds.clone();
        let (mut first, mut last) = (bounds.first, bounds.last);
        let mut appended = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            if last.is_none() {
                first = index;
            }
            if last.is_some_and(|id| id.index + 1 != index) {
                let end = bounds.end_index();
                return Err(self.corrupt(format!("entry {index} does not follow {end}")));
            }
            last = Some(entry.log_id);
            let key = key(self.shared.shard, Kind::Entry, index);
            let encoded = format::encode_entry(&entry);
            appended.push((entry, encoded.len()));
            batch.put(Space::Log, key, encoded);
        }
        self.write(batch).await?;
        {
            let mut tail = self.shared.tail.lock();
            (tail.bounds.first, tail.bounds.last) = (first, last);
            for (entry, bytes) in appended {
                tail.weight.push(entry.log_id.index, bytes);
                tail.recent.push(entry, bytes);
            }
        }
        self.notice_growth();
        let store = self.clone();
        self.shared.runtime.spawn(async move {
            let synced = store.shared.syncs.synced().await;
            let stops = store.shared.runtime.shutdown().is_cancelled();
            match synced {
                // Not a failure of the store: nobody waits for the answer any more.
                Err(KvError::Closed) if stops => {}
                synced => callback.io_completed(synced.map_err(|error| store.fatal(error))),
            }
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let start = last.map_or(0, |id| id.index + 1);
        let end = {
            let mut tail = self.shared.tail.lock();
            let end = tail.bounds.end_index();
            if last < tail.bounds.last {
                tail.bounds.last = last.max(tail.bounds.purged);
            }
            tail.recent.truncate(start);
            tail.weight.truncate(start);
            end
        };
        let shard = self.shared.shard;
        let mut batch = WriteBatch::new();
        if end.saturating_sub(start) <= POINT_DELETES_MAX {
            (start..end).for_each(|index| batch.delete(Space::Log, key(shard, Kind::Entry, index)));
        } else {
            let (from, to) = (key(shard, Kind::Entry, start), kind_end(shard, Kind::Entry));
            batch.delete_range(Space::Log, from, to);
        }
        self.write(batch).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        // The entries are the only copy of what is applied but not yet durable.
        self.synced().await?;
        let first = {
            let mut tail = self.shared.tail.lock();
            let first = tail.bounds.first;
            tail.bounds.first = first.max(upto.index + 1);
            tail.bounds.purged = tail.bounds.purged.max(Some(upto));
            tail.bounds.last = tail.bounds.last.max(Some(upto));
            let end = tail.bounds.end_index();
            tail.recent.forget_below(upto.index + 1);
            tail.weight.forget_below(upto.index + 1, end);
            first
        };
        let shard = self.shared.shard;
        let mut batch = WriteBatch::new();
        batch.put(
            Space::Log,
            key(shard, Kind::Purged, 0),
            format::encode_log_id(&upto),
        );
        if first <= upto.index {
            // Adjacent intervals rather than overlapping ones: each tombstone is compacted once.
            let (from, to) = (
                key(shard, Kind::Entry, first),
                key(shard, Kind::Entry, upto.index + 1),
            );
            batch.delete_range(Space::Log, from, to);
        }
        self.write(batch).await
    }
}
