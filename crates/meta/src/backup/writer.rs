//! Writes the backup of one shard, while its replica here leads.
//!
//! A step is bounded: some log parts, then one part of a checkpoint, if one is under way. What could
//! not be stored is stored again by the next step; nothing piles up meanwhile, because what is to be
//! written stands in the shard's own log and state. When the log was cut above what was written,
//! nothing counts as backed up until a new checkpoint has taken the place of what is missing.
//!
//! Invariant: a checkpoint whose rows were not all read never gets a manifest. A read that fails ends
//! it: what was read and not stored is lost, and the reader does not go back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_raft::{AppliedEntries, Group, LogPosition, SnapshotReader, StateMachine};
use granary_runtime::Runtime;
use granary_types::limits::CHUNK_BYTES_MAX;
use granary_types::{BackupKind, ChunkId};
use parking_lot::Mutex;

use super::format::{ITEM_OVERHEAD_BYTES, Part};
use super::{BackupError, BackupSink};
use crate::machine::ShardMachine;

/// Chunks without rows that are read for one part: each has looked at thousands of rows of shards in the same
/// slab, and other shards wait for their turn.
const EMPTY_CHUNKS_MAX: usize = 64;
/// Items of one part, in bytes: a chunk without room for the header.
const PART_BYTES: usize = CHUNK_BYTES_MAX - 64 * 1024;
/// Bytes of entries read for one log part.
const LOG_PART_BYTES: usize = 2 * 1024 * 1024;
/// Log parts in one step.
const LOG_PARTS_PER_STEP: usize = 16;
/// Entries from before its time that a new leader writes once more: what its predecessor may not have
/// written. So the history has no gap until the first checkpoint of its own is complete.
const OVERLAP_ENTRIES: u64 = 512;
/// Log after which a new checkpoint is written, unless the last one is larger than that.
const LOG_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Log parts after which a small shard gets a new checkpoint however short they are: a part counts at
/// least as its share of that log.
const PARTS_MAX: u64 = 1024;
/// Age after which a new checkpoint is written, though nothing has changed: nobody counts copies of parts
/// that were lost with all disks of their group.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A checkpoint that gets no further for so long is given up: its view keeps the store from forgetting
/// what was replaced since.
const STALL_MAX: Duration = Duration::from_secs(600);
/// Pause after a checkpoint that was given up.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Chunks remembered to be deleted once they are superseded; the sweep finds the rest.
const REMEMBERED_MAX: usize = 16 * 1024;
/// Chunks deleted at once.
const DELETED_AT_ONCE: usize = 256;
/// Pause after some could not be deleted.
const DELETE_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What a writer works with.
pub(crate) struct WriterParts {
    pub(crate) runtime: Runtime,
    pub(crate) group: Group,
    pub(crate) machine: Arc<ShardMachine>,
    pub(crate) sink: Arc<dyn BackupSink>,
    pub(crate) cluster_id: String,
    /// Log after which a new checkpoint is written, in bytes; `None`: the default.
    pub(crate) log_bytes_min: Option<u64>,
}

/// How far a shard's backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything up to here could be restored; `None` before the first checkpoint is complete.
    pub(crate) backed_up: Option<LogPosition>,
    /// The newest complete checkpoint.
    pub(crate) checkpoint: Option<LogPosition>,
    /// Everything that was applied when the step began is backed up.
    pub(crate) current: bool,
    /// A checkpoint is under way: step again soon.
    pub(crate) busy: bool,
}

/// A checkpoint that is being written.
struct Checkpoint {
    /// Random: parts of two attempts at one position are never taken for one checkpoint.
    writer: u64,
    position: LogPosition,
    bookkeeping: Bytes,
    /// Taken out while it reads, and not there any more after a failure; the lock makes it shareable.
    reader: Mutex<Option<Box<dyn SnapshotReader>>>,
    /// The reader said that there are no more rows.
    ended: bool,
    /// Read and not yet stored.
    part: Option<Part>,
    /// Read, too large for that part.
    left: Option<Bytes>,
    parts: u32,
    /// Items in all of them.
    items: u64,
    bytes: u64,
    chunks: Vec<ChunkId>,
    /// What the writer's count was (bytes), and when (monotonic).
    log_bytes_before: u64,
    begun_at: Duration,
    /// When a part was stored last (monotonic).
    progress_at: Duration,
}

/// The backup of one shard by one leader.
pub(crate) struct ShardWriter {
    parts: WriterParts,
    writer: u64,
    /// The entry that the next log part follows.
    written: Option<LogPosition>,
    /// A log part that was read and is not stored yet.
    log_part: Option<Part>,
    running: Option<Checkpoint>,
    /// Complete ones from which the log leads on without a gap, the older first.
    complete: VecDeque<LogPosition>,
    checkpoint_bytes: u64,
    /// When the newest complete one was begun (monotonic).
    checkpoint_at: Duration,
    /// Log since then.
    log_bytes: u64,
    /// No checkpoint is begun before (monotonic).
    begin_after: Duration,
    /// In the pool. Bounded.
    stored: VecDeque<(LogPosition, ChunkId)>,
    /// In the pool, and needed by nobody. Bounded.
    needless: VecDeque<ChunkId>,
    /// Nothing is deleted before (monotonic).
    delete_after: Duration,
}

impl ShardWriter {
    pub(crate) fn new(parts: WriterParts) -> Self {
        let now = parts.runtime.monotonic();
        Self {
            writer: parts.runtime.entropy().next_u64(),
            parts,
            written: None,
            log_part: None,
            running: None,
            complete: VecDeque::new(),
            checkpoint_bytes: 0,
            checkpoint_at: now,
            log_bytes: 0,
            begin_after: now,
            stored: VecDeque::new(),
            needless: VecDeque::new(),
            delete_after: now,
        }
    }

    /// Whether the next step has to know that the shard's newest child has a checkpoint: for one of the shard
    /// itself, if it may begin one (`begins`), and for where its log begins.
    pub(crate) fn asks_for_child(&self, begins: bool) -> bool {
        self.written.is_none() || (begins && self.running.is_none() && self.needs_checkpoint())
    }

    /// Writes some of what is to be written. `settled`: the child that is known to have a checkpoint; `begins`:
    /// a checkpoint may be begun now, unless the shard has split off a newer child than that.
    ///
    /// # Errors
    /// See [`BackupError`]: step again, later.
    pub(crate) async fn step(
        &mut self,
        settled: Option<u32>,
        begins: bool,
    ) -> Result<Progress, BackupError> {
        let target = self.parts.group.last_applied();
        let stalled = |running: &mut Checkpoint| {
            let now = self.parts.runtime.monotonic();
            now.saturating_sub(running.progress_at) >= STALL_MAX
        };
        if let Some(running) = self.running.take_if(stalled) {
            self.give_up(running);
        }
        self.write_log(settled).await?;
        if let Some(settled) = settled
            && begins
            && self.running.is_none()
            && self.written.is_some()
            && self.needs_checkpoint()
        {
            self.begin(settled).await?;
        }
        self.write_checkpoint().await?;
        Ok(self.progress(target))
    }

    /// True when a checkpoint is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    fn progress(&self, target: Option<u64>) -> Progress {
        let checkpoint = self.complete.back().copied();
        let backed_up = checkpoint.and(self.written).max(checkpoint);
        Progress {
            backed_up,
            checkpoint,
            current: backed_up.map(|at| at.index) >= target && backed_up.is_some(),
            busy: self.running.is_some(),
        }
    }

    fn log_bytes_min(&self) -> u64 {
        self.parts.log_bytes_min.unwrap_or(LOG_BYTES_MIN)
    }

    fn needs_checkpoint(&self) -> bool {
        let now = self.parts.runtime.monotonic();
        if self.complete.is_empty() || now < self.begin_after {
            return now >= self.begin_after;
        }
        let least = self.log_bytes_min().max(self.checkpoint_bytes);
        let age = now.saturating_sub(self.checkpoint_at);
        self.log_bytes > least || age >= AGE_MAX
    }

    /// Opens a view of the state, unless that has a newer child.
    async fn begin(&mut self, settled: u32) -> Result<(), BackupError> {
        let machine = Arc::clone(&self.parts.machine);
        // The view first: what is not there yet is not in it either.
        let open = move || (machine.snapshot(), machine.stored_last_child());
        let (reader, child) = self.blocking(open).await?;
        let reader = reader?;
        if child? != settled {
            return Ok(());
        }
        let Some(bookkeeping) = reader.bookkeeping() else {
            return Ok(());
        };
        let Some(position) = LogPosition::of_bookkeeping(&bookkeeping)? else {
            return Ok(());
        };
        let now = self.parts.runtime.monotonic();
        self.running = Some(Checkpoint {
            writer: self.parts.runtime.entropy().next_u64(),
            position,
            bookkeeping,
            reader: Mutex::new(Some(reader)),
            ended: false,
            part: None,
            left: None,
            parts: 0,
            items: 0,
            bytes: 0,
            chunks: Vec::new(),
            log_bytes_before: self.log_bytes,
            begun_at: now,
            progress_at: now,
        });
        Ok(())
    }

    /// It never gets a manifest: what is there of it is of no use.
    fn give_up(&mut self, running: Checkpoint) {
        tracing::warn!(
            shard = self.parts.group.shard().0,
            index = running.position.index,
            "a checkpoint of the metadata is given up"
        );
        self.needless.extend(running.chunks);
        self.begin_after = self.parts.runtime.monotonic() + RETRY_AFTER;
    }

    /// The entry before the first one that is written: the log goes back a little, but not beyond
    /// where it was cut. That of a young child is written from its beginning on: before it has a checkpoint, its
    /// state can be made from nothing else. So is that of its parent, which has to lead through the split. `None`
    /// when nothing is applied.
    async fn start_of_log(&self, settled: Option<u32>) -> Result<Option<LogPosition>, BackupError> {
        let group = &self.parts.group;
        let Some(applied) = group.last_applied() else {
            return Ok(None);
        };
        let purged = group.purged();
        let child = self.parts.machine.last_child();
        // After a restart a log of which nothing was cut begins behind entry 0.
        let whole = purged.is_none_or(|cut| cut.index == 0);
        let young = whole && child == group.shard().0;
        let parent = child != 0 && child != group.shard().0 && settled != Some(child);
        let from = match young || parent {
            false => applied.saturating_sub(OVERLAP_ENTRIES),
            true => 0,
        };
        if let Some(cut) = purged.filter(|cut| cut.index >= from) {
            return Ok(Some(cut));
        }
        let found = group.read_applied(from, 1).await;
        Ok(match found.map_err(replica)? {
            AppliedEntries::Found(entries) => entries.first().map(|(first, _)| *first),
            AppliedEntries::Cut => group.purged(),
        })
    }

    async fn blocking<T, F>(&self, call: F) -> Result<T, BackupError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let done = self.parts.runtime.blocking(call).await;
        done.map_err(replica)
    }

    /// Writes log parts: also before there is a checkpoint, because those of others count too.
    async fn write_log(&mut self, settled: Option<u32>) -> Result<(), BackupError> {
        if self.written.is_none() {
            self.written = self.start_of_log(settled).await?;
        }
        for _ in 0..LOG_PARTS_PER_STEP {
            let Some(written) = self.written else {
                return Ok(());
            };
            self.parts.group.keep_log_from(Some(written.index + 1));
            if self.log_part.is_none() {
                self.log_part = self.read_log(written).await?;
            }
            let Some(part) = &self.log_part else {
                return Ok(());
            };
            let position = part.position;
            let (length, chunks) = self.put(part).await?;
            self.remember(position, chunks);
            self.log_bytes += length.max(self.log_bytes_min() / PARTS_MAX);
            self.log_part = None;
            self.written = Some(position);
        }
        Ok(())
    }

    /// The next log part, if there is one.
    async fn read_log(&mut self, written: LogPosition) -> Result<Option<Part>, BackupError> {
        let group = &self.parts.group;
        let found = group.read_applied(written.index + 1, LOG_PART_BYTES).await;
        let entries = match found.map_err(replica)? {
            AppliedEntries::Found(entries) => entries,
            AppliedEntries::Cut => {
                tracing::warn!(
                    shard = group.shard().0,
                    after = written.index,
                    "the log was cut before it was backed up: a new checkpoint is written"
                );
                self.written = self.start_of_log(None).await?;
                // From those before the gap nothing leads to what is written from now on.
                let cut = self.written;
                self.complete.retain(|at| Some(*at) >= cut);
                if let Some(running) = self.running.take_if(|c| Some(c.position) < cut) {
                    self.give_up(running);
                    self.begin_after = Duration::ZERO;
                }
                return Ok(None);
            }
        };
        let Some((last, _)) = entries.last() else {
            return Ok(None);
        };
        Ok(Some(Part {
            kind: BackupKind::Log,
            shard: group.shard(),
            writer: self.writer,
            position: *last,
            part: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            previous: written,
            cluster_id: self.parts.cluster_id.clone(),
            items: entries.into_iter().map(|(_, entry)| entry).collect(),
        }))
    }

    /// Stores one part of the checkpoint that is under way.
    async fn write_checkpoint(&mut self) -> Result<(), BackupError> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        let part = match running.part.take() {
            Some(part) => part,
            None => match self.next_part(&mut running).await {
                Ok(part) => part,
                Err(error) => {
                    self.give_up(running);
                    return Err(error);
                }
            },
        };
        match self.put(&part).await {
            Ok((length, chunks)) => {
                running.chunks.extend(chunks);
                running.bytes += length;
                running.progress_at = self.parts.runtime.monotonic();
            }
            Err(error) => {
                running.part = Some(part);
                self.running = Some(running);
                return Err(error);
            }
        }
        if part.kind == BackupKind::Manifest {
            self.completed(running);
        } else {
            running.parts += 1;
            self.running = Some(running);
        }
        Ok(())
    }

    fn completed(&mut self, done: Checkpoint) {
        tracing::debug!(
            shard = self.parts.group.shard().0,
            index = done.position.index,
            bytes = done.bytes,
            "checkpoint written to the storage pool"
        );
        self.remember(done.position, done.chunks);
        self.checkpoint_bytes = done.bytes;
        self.checkpoint_at = done.begun_at;
        self.log_bytes -= done.log_bytes_before;
        self.complete.push_back(done.position);
        while self.complete.len() > 2 {
            self.complete.pop_front();
        }
        if let (2, Some(&oldest)) = (self.complete.len(), self.complete.front()) {
            let stored = std::mem::take(&mut self.stored).into_iter();
            let (old, kept): (VecDeque<_>, _) = stored.partition(|(at, _)| *at < oldest);
            self.stored = kept;
            self.needless
                .extend(old.into_iter().map(|(_, chunk)| chunk));
        }
    }

    async fn next_part(&self, running: &mut Checkpoint) -> Result<Part, BackupError> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        if let Some(left) = running.left.take() {
            bytes += ITEM_OVERHEAD_BYTES + left.len();
            items.push(left);
        }
        let mut empty = 0;
        while bytes < PART_BYTES && empty < EMPTY_CHUNKS_MAX && !running.ended {
            let reader = running.reader.get_mut().take();
            let mut reader = reader.ok_or_else(|| replica("its rows cannot be read on"))?;
            let read = move || (reader.next_chunk(), reader);
            let (chunk, reader) = self.blocking(read).await?;
            let Some(chunk) = chunk? else {
                running.ended = true;
                break;
            };
            *running.reader.get_mut() = Some(reader);
            if chunk.is_empty() {
                empty += 1;
                // The last one is kept: a part without items would be a manifest.
                if empty < EMPTY_CHUNKS_MAX {
                    continue;
                }
            }
            running.items += 1;
            let more = ITEM_OVERHEAD_BYTES + chunk.len();
            if bytes + more > PART_BYTES && !items.is_empty() {
                running.left = Some(chunk);
                break;
            }
            bytes += more;
            items.push(chunk);
        }
        // Only the end of the rows leaves nothing to write.
        let manifest = items.is_empty();
        if manifest {
            items.push(running.bookkeeping.clone());
            items.push(Bytes::copy_from_slice(&running.items.to_le_bytes()));
        }
        Ok(Part {
            kind: match manifest {
                true => BackupKind::Manifest,
                false => BackupKind::Checkpoint,
            },
            shard: self.parts.group.shard(),
            writer: running.writer,
            position: running.position,
            part: running.parts,
            previous: LogPosition::default(),
            cluster_id: self.parts.cluster_id.clone(),
            items,
        })
    }

    /// Stores a part: its length, and the chunks that may hold it.
    async fn put(&self, part: &Part) -> Result<(u64, Vec<ChunkId>), BackupError> {
        let object = part
            .name()
            .and_then(granary_types::BackupObject::to_object_id);
        let object = object.ok_or(BackupError::Damaged("its numbers are too large for a name"))?;
        let bytes = part.encode();
        let length = bytes.len() as u64;
        let stored = self.parts.sink.put(object, bytes).await?;
        Ok((length, stored.chunks))
    }

    fn remember(&mut self, position: LogPosition, chunks: Vec<ChunkId>) {
        let chunks = chunks.into_iter().map(|chunk| (position, chunk));
        self.stored.extend(chunks);
        while self.stored.len() > REMEMBERED_MAX {
            self.stored.pop_front();
        }
    }

    /// Deletes some of what nobody needs any more. What cannot be deleted waits behind the rest.
    pub(crate) async fn delete_needless(&mut self) {
        let now = self.parts.runtime.monotonic();
        if self.needless.is_empty() || now < self.delete_after {
            return;
        }
        let count = self.needless.len().min(DELETED_AT_ONCE);
        let chunks: Vec<ChunkId> = self.needless.drain(..count).collect();
        let gone = self.parts.sink.delete(&chunks).await;
        if gone.len() < count {
            self.delete_after = now + DELETE_AGAIN_AFTER;
        }
        let left = chunks.into_iter().filter(|chunk| !gone.contains(chunk));
        self.needless.extend(left);
        while self.needless.len() > REMEMBERED_MAX {
            self.needless.pop_front();
        }
    }
}

fn replica(error: impl ToString) -> BackupError {
    BackupError::Replica(error.to_string())
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        self.parts.group.keep_log_from(None);
    }
}
