//! Writes the backup of one shard, while its replica here leads.
//!
//! A step is bounded: some log parts, then one part of a checkpoint, if one is under way. What could
//! not be stored is read and stored again by the next step; nothing piles up meanwhile, because what
//! is to be written stands in the shard's own log and state. When the log was cut above what was
//! written, a new checkpoint takes the place of what is missing.

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

/// Items of one part, in bytes: a chunk without room for the header.
const PART_BYTES: usize = CHUNK_BYTES_MAX - 64 * 1024;
/// Bytes of entries read for one log part.
const LOG_PART_BYTES: usize = 2 * 1024 * 1024;
/// Log parts in one step.
const LOG_PARTS_PER_STEP: usize = 16;
/// Entries before its first checkpoint that a new leader writes once more: what its predecessor
/// may not have written. So the history has no gap while the checkpoint is being written.
const OVERLAP_ENTRIES: u64 = 512;
/// Log after which a new checkpoint is written, unless the last one is larger than that.
const LOG_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Log parts after which a small shard gets a new checkpoint however short they are: a part counts at
/// least as its share of that log.
const PARTS_MAX: u64 = 1024;
/// Age after which a new checkpoint is written when there is any log since.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A checkpoint that gets no further for so long is given up: its view keeps the store from forgetting
/// what was replaced since.
const STALL_MAX: Duration = Duration::from_secs(600);
/// Chunks remembered to be deleted once they are superseded; the sweep finds the rest.
const REMEMBERED_MAX: usize = 16 * 1024;
/// Chunks deleted in one step.
const DELETED_PER_STEP: usize = 256;

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
    position: LogPosition,
    bookkeeping: Bytes,
    /// `None` once every row was read. Taken out while it reads; the lock makes it shareable.
    reader: Mutex<Option<Box<dyn SnapshotReader>>>,
    /// Read and not yet stored.
    part: Option<Part>,
    /// Read, too large for that part.
    left: Option<Bytes>,
    parts: u32,
    bytes: u64,
    /// When a part was stored last (monotonic).
    progress_at: Duration,
}

/// The backup of one shard by one leader.
pub(crate) struct ShardWriter {
    parts: WriterParts,
    writer: u64,
    /// The newest entry that was written, or that the first log part will follow.
    written: Option<LogPosition>,
    /// A log part that was read and is not stored yet.
    log_part: Option<Part>,
    running: Option<Checkpoint>,
    /// Complete ones, the older first.
    complete: VecDeque<LogPosition>,
    checkpoint_bytes: u64,
    /// When the newest one was begun (monotonic).
    checkpoint_at: Duration,
    log_bytes: u64,
    /// Bounded.
    stored: VecDeque<(LogPosition, ChunkId)>,
}

impl ShardWriter {
    pub(crate) fn new(parts: WriterParts) -> Self {
        Self {
            writer: parts.runtime.entropy().next_u64(),
            checkpoint_at: parts.runtime.monotonic(),
            parts,
            written: None,
            log_part: None,
            running: None,
            complete: VecDeque::new(),
            checkpoint_bytes: 0,
            log_bytes: 0,
            stored: VecDeque::new(),
        }
    }

    /// Writes some of what is to be written. `may_begin`: a checkpoint may be begun now.
    ///
    /// # Errors
    /// See [`BackupError`]: step again, later.
    pub(crate) async fn step(&mut self, may_begin: bool) -> Result<Progress, BackupError> {
        let target = self.parts.group.last_applied();
        if self.running.is_none() && may_begin && self.needs_checkpoint() {
            self.begin().await?;
        }
        self.write_log().await?;
        self.write_checkpoint().await?;
        self.delete_superseded().await;
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
        if self.complete.is_empty() || self.written.is_none() {
            return true;
        }
        let least = self.log_bytes_min();
        let age = self
            .parts
            .runtime
            .monotonic()
            .saturating_sub(self.checkpoint_at);
        self.log_bytes > least.max(self.checkpoint_bytes) || (self.log_bytes > 0 && age >= AGE_MAX)
    }

    /// Opens a view of the state. The first time, or after a gap, the log is written from a little
    /// before it.
    async fn begin(&mut self) -> Result<(), BackupError> {
        let machine = Arc::clone(&self.parts.machine);
        let open = move || machine.snapshot();
        let reader = self.blocking(open).await??;
        let Some(bookkeeping) = reader.bookkeeping() else {
            return Ok(());
        };
        let Some(position) = LogPosition::of_bookkeeping(&bookkeeping)? else {
            return Ok(());
        };
        if self.written.is_none() {
            self.written = Some(self.start_of_log(position).await?);
        }
        self.log_bytes = 0;
        self.checkpoint_at = self.parts.runtime.monotonic();
        self.running = Some(Checkpoint {
            position,
            bookkeeping,
            reader: Mutex::new(Some(reader)),
            part: None,
            left: None,
            parts: 0,
            bytes: 0,
            progress_at: self.checkpoint_at,
        });
        Ok(())
    }

    async fn start_of_log(&self, checkpoint: LogPosition) -> Result<LogPosition, BackupError> {
        let group = &self.parts.group;
        let cut = group.metrics().purged_index.map_or(0, |index| index + 1);
        let from = checkpoint.index.saturating_sub(OVERLAP_ENTRIES).max(cut);
        let found = group.read_applied(from, 1).await;
        let found = found.map_err(|error| BackupError::Replica(error.to_string()))?;
        Ok(match found {
            AppliedEntries::Found(entries) => {
                let first = entries.first().map(|(first, _)| *first);
                first.unwrap_or(checkpoint).min(checkpoint)
            }
            AppliedEntries::Cut => checkpoint,
        })
    }

    async fn blocking<T, F>(&self, call: F) -> Result<T, BackupError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let done = self.parts.runtime.blocking(call).await;
        done.map_err(|error| BackupError::Replica(error.to_string()))
    }

    /// Writes log parts.
    async fn write_log(&mut self) -> Result<(), BackupError> {
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
            let (position, bytes) = (part.position, part.encode());
            let length = bytes.len() as u64;
            self.put(part.clone(), bytes).await?;
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
        let entries = match found.map_err(|error| BackupError::Replica(error.to_string()))? {
            AppliedEntries::Found(entries) => entries,
            AppliedEntries::Cut => {
                tracing::warn!(
                    shard = group.shard().0,
                    after = written.index,
                    "the log was cut before it was backed up: a new checkpoint is written"
                );
                (self.written, self.running) = (None, None);
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
        let outcome = self.write_part(&mut running).await;
        match outcome {
            Ok(true) => {
                self.checkpoint_bytes = running.bytes;
                self.complete.push_back(running.position);
                while self.complete.len() > 2 {
                    self.complete.pop_front();
                }
                tracing::debug!(
                    shard = self.parts.group.shard().0,
                    index = running.position.index,
                    bytes = running.bytes,
                    "checkpoint written to the storage pool"
                );
                Ok(())
            }
            Ok(false) => {
                self.running = Some(running);
                Ok(())
            }
            Err(error) => {
                let now = self.parts.runtime.monotonic();
                if now.saturating_sub(running.progress_at) < STALL_MAX {
                    self.running = Some(running);
                }
                Err(error)
            }
        }
    }

    /// True when that was the manifest.
    async fn write_part(&mut self, running: &mut Checkpoint) -> Result<bool, BackupError> {
        if running.part.is_none() {
            running.part = Some(self.next_part(running).await?);
        }
        let Some(part) = &running.part else {
            return Ok(false);
        };
        let last = part.kind == BackupKind::Manifest;
        let bytes = part.encode();
        let length = bytes.len() as u64;
        self.put(part.clone(), bytes).await?;
        running.part = None;
        running.progress_at = self.parts.runtime.monotonic();
        running.bytes += length;
        running.parts += u32::from(!last);
        Ok(last)
    }

    async fn next_part(&self, running: &mut Checkpoint) -> Result<Part, BackupError> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        if let Some(left) = running.left.take() {
            bytes += ITEM_OVERHEAD_BYTES + left.len();
            items.push(left);
        }
        while bytes < PART_BYTES
            && let Some(mut reader) = running.reader.get_mut().take()
        {
            let read = move || (reader.next_chunk(), reader);
            let (chunk, reader) = self.blocking(read).await?;
            let Some(chunk) = chunk? else {
                break;
            };
            *running.reader.get_mut() = Some(reader);
            let more = ITEM_OVERHEAD_BYTES + chunk.len();
            if bytes + more > PART_BYTES && !items.is_empty() {
                running.left = Some(chunk);
                break;
            }
            bytes += more;
            items.push(chunk);
        }
        let manifest = items.is_empty();
        if manifest {
            items.push(running.bookkeeping.clone());
        }
        Ok(Part {
            kind: match manifest {
                true => BackupKind::Manifest,
                false => BackupKind::Checkpoint,
            },
            shard: self.parts.group.shard(),
            writer: self.writer,
            position: running.position,
            part: running.parts,
            previous: LogPosition::default(),
            cluster_id: self.parts.cluster_id.clone(),
            items,
        })
    }

    async fn put(&mut self, part: Part, bytes: Bytes) -> Result<(), BackupError> {
        let object = part
            .name()
            .and_then(granary_types::BackupObject::to_object_id);
        let object = object.ok_or(BackupError::Damaged("its numbers are too large for a name"))?;
        let stored = self.parts.sink.put(object, bytes).await?;
        for chunk in stored.chunks {
            self.stored.push_back((part.position, chunk));
        }
        while self.stored.len() > REMEMBERED_MAX {
            self.stored.pop_front();
        }
        Ok(())
    }

    /// Deletes what both of the two newest checkpoints make needless.
    async fn delete_superseded(&mut self) {
        let (2, Some(&oldest)) = (self.complete.len(), self.complete.front()) else {
            return;
        };
        let superseded = self
            .stored
            .iter()
            .filter(|(position, _)| *position < oldest);
        let chunks: Vec<ChunkId> = superseded
            .map(|(_, chunk)| *chunk)
            .take(DELETED_PER_STEP)
            .collect();
        if chunks.is_empty() {
            return;
        }
        let gone = self.parts.sink.delete(&chunks).await;
        self.stored.retain(|(_, chunk)| !gone.contains(chunk));
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        self.parts.group.keep_log_from(None);
    }
}
