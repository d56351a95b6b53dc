//! One disk: its parts, its health and its queue.
//!
//! Invariants: once failed, a disk stays failed and acknowledges nothing; a sync that failed is
//! never followed by one that is believed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_blob_api::{BlobError, DiskHealth, DiskStatus};
use granary_runtime::{Runtime, within};
use granary_types::DiskId;
use granary_vfs::{DirLock, Space, Vfs, VfsFile};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::background::Background;
use crate::compact::{self, Stuck};
use crate::config::BlobConfig;
use crate::error::DiskError;
use crate::format::PAGE_BYTES;
use crate::health::Health;
use crate::index::Index;
use crate::metrics::{Counters, DiskMetrics};
use crate::volumes::Volumes;
use crate::work::{Job, Pending, Work};
use crate::writer::{Tail, work_bytes};

/// The volume that is written to, as others see it.
struct Active {
    volume: u32,
    file: Arc<dyn VfsFile>,
    /// Bytes reserved behind the last record.
    reserved_bytes: u64,
}

pub(crate) struct Disk {
    id: DiskId,
    dir: PathBuf,
    runtime: Runtime,
    config: Arc<BlobConfig>,
    vfs: Arc<dyn Vfs>,
    volumes: Volumes,
    index: Index,
    pending: Pending,
    metrics: Counters,
    health: Health,
    failed: AtomicBool,
    full: AtomicBool,
    active: Mutex<Option<Active>>,
    syncing: Mutex<()>,
    /// Bytes that may still be queued.
    room: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// One at a time checks what the disk holds.
    verifying: Arc<Semaphore>,
    background: Background,
    queue: mpsc::Sender<Job>,
    /// When somebody last wrote or deleted something (monotonic).
    changed_at: Mutex<Duration>,
    /// Held by whoever compacts.
    pub(crate) compacting: tokio::sync::Mutex<()>,
    /// Volumes that compaction could not give back.
    pub(crate) stuck: Mutex<HashMap<u32, Stuck>>,
    /// Released last: whoever still has a call under way in the disk may write to it.
    _lock: DirLock,
}

/// What a disk is made of.
pub(crate) struct Parts {
    pub(crate) id: DiskId,
    pub(crate) dir: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) config: Arc<BlobConfig>,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) volumes: Volumes,
    pub(crate) index: Index,
    pub(crate) health: Health,
    pub(crate) lock: DirLock,
}

impl Disk {
    /// A disk and the queue its writer reads.
    pub(crate) fn new(parts: Parts) -> (Arc<Self>, mpsc::Receiver<Job>) {
        // Every job takes at least a page of the queue, so that sending never waits.
        let jobs_max = (u64::from(parts.config.queue_bytes) / PAGE_BYTES + 1) as usize;
        let (queue, jobs) = mpsc::channel(jobs_max);
        let changed_at = Mutex::new(parts.runtime.monotonic());
        let disk = Self {
            id: parts.id,
            dir: parts.dir,
            room: Arc::new(Semaphore::new(parts.config.queue_bytes as usize)),
            reads: Arc::new(Semaphore::new(parts.config.reads_max as usize)),
            verifying: Arc::new(Semaphore::new(1)),
            background: Background::default(),
            runtime: parts.runtime,
            config: parts.config,
            vfs: parts.vfs,
            volumes: parts.volumes,
            index: parts.index,
            pending: Pending::default(),
            metrics: Counters::default(),
            health: parts.health,
            failed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            active: Mutex::new(None),
            syncing: Mutex::new(()),
            queue,
            changed_at,
            compacting: tokio::sync::Mutex::default(),
            stuck: Mutex::default(),
            _lock: parts.lock,
        };
        (Arc::new(disk), jobs)
    }

    pub(crate) fn id(&self) -> DiskId {
        self.id
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn config(&self) -> &BlobConfig {
        &self.config
    }

    pub(crate) fn vfs(&self) -> &dyn Vfs {
        self.vfs.as_ref()
    }

    /// What is known of the disk's file system.
    pub(crate) fn condition(&self) -> &Health {
        &self.health
    }

    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(crate) fn metrics(&self) -> &Counters {
        &self.metrics
    }

    pub(crate) fn reads(&self) -> &Arc<Semaphore> {
        &self.reads
    }

    pub(crate) fn verifying(&self) -> &Arc<Semaphore> {
        &self.verifying
    }

    pub(crate) fn background(&self) -> &Background {
        &self.background
    }

    /// Somebody wrote or deleted something.
    pub(crate) fn note_change(&self) {
        *self.changed_at.lock() = self.runtime.monotonic();
    }

    /// Whether nobody has written or deleted anything for a while.
    pub(crate) fn is_idle(&self) -> bool {
        let quiet = self
            .runtime
            .monotonic()
            .saturating_sub(*self.changed_at.lock());
        quiet >= self.config.compact_idle_after
    }

    pub(crate) fn snapshot(&self) -> DiskMetrics {
        let queued =
            (self.config.queue_bytes as usize).saturating_sub(self.room.available_permits());
        let reading =
            (self.config.reads_max as usize).saturating_sub(self.reads.available_permits());
        DiskMetrics {
            queue_bytes: queued as u64,
            reads_running: reading as u64,
            ..self.metrics.snapshot()
        }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Takes the disk out, for good.
    pub(crate) fn fail(&self, why: &DiskError) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            let (disk, path) = (self.id.0, self.dir.display());
            tracing::error!(disk, %path, error = %why, "disk failed and is out of service");
        }
    }

    pub(crate) fn out_of_service(&self) -> BlobError {
        BlobError::DiskFailed(self.id)
    }

    pub(crate) fn check_usable(&self) -> Result<(), BlobError> {
        if self.is_failed() {
            Err(self.out_of_service())
        } else {
            Ok(())
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    pub(crate) fn set_full(&self, full: bool) {
        if self.full.swap(full, Ordering::SeqCst) != full {
            let (disk, path) = (self.id.0, self.dir.display());
            if full {
                tracing::warn!(disk, %path, "disk is full and takes no new chunks");
            } else {
                tracing::info!(disk, %path, "disk takes chunks again");
            }
        }
    }

    fn min_free(&self, space: &Space) -> u64 {
        let share = space.total_bytes / 100 * u64::from(self.config.min_free_percent);
        self.config.min_free_bytes.max(share)
    }

    /// Sets whether the disk is full.
    pub(crate) fn judge_space(&self, space: &Space) {
        let min_free = self.min_free(space);
        // A full disk waits for a little more, so that it does not go to and fro.
        let enough = if self.is_full() {
            min_free + min_free / 16
        } else {
            min_free
        };
        self.set_full(space.free_bytes < enough);
    }

    pub(crate) fn set_active(&self, tail: Option<&Tail>) {
        *self.active.lock() = tail.map(|tail| Active {
            volume: tail.volume,
            file: Arc::clone(&tail.file),
            reserved_bytes: tail.allocated.saturating_sub(tail.offset),
        });
    }

    pub(crate) fn active_volume(&self) -> Option<u32> {
        self.active.lock().as_ref().map(|active| active.volume)
    }

    /// Makes everything written to the active volume durable. Ended volumes are durable already.
    /// Blocks.
    pub(crate) fn sync_active(&self) -> Result<(), DiskError> {
        let file = self.active.lock().as_ref().map(|a| Arc::clone(&a.file));
        match file {
            Some(file) => self.sync_file(file.as_ref()),
            None if self.is_failed() => Err(DiskError::Io(std::io::ErrorKind::BrokenPipe.into())),
            None => Ok(()),
        }
    }

    /// Syncs a volume; a failure takes the disk out before anyone else can sync again.
    pub(crate) fn sync_file(&self, file: &dyn VfsFile) -> Result<(), DiskError> {
        let _one_at_a_time = self.syncing.lock();
        if self.is_failed() {
            return Err(DiskError::Io(std::io::ErrorKind::BrokenPipe.into()));
        }
        let began = self.runtime.monotonic();
        let outcome = file.sync_data().map_err(DiskError::Io);
        match &outcome {
            Ok(()) => {
                let took = self.runtime.monotonic().saturating_sub(began);
                self.metrics.synced(took);
            }
            Err(error) => self.fail(error),
        }
        outcome
    }

    /// What somebody hears who has waited for the disk for too long. Whether it acted is unknown.
    pub(crate) fn silent(&self) -> BlobError {
        BlobError::Unreachable(format!("disk {} does not answer", self.id))
    }

    /// Queues work for the writer and waits until it is durable and indexed.
    pub(crate) async fn submit(&self, work: Work) -> Result<(), BlobError> {
        let until = self.runtime.monotonic() + self.config.busy_after;
        self.submit_until(work, until).await
    }

    /// The same, with the time (monotonic) at which waiting for a place in the queue ends.
    pub(crate) async fn submit_until(&self, work: Work, until: Duration) -> Result<(), BlobError> {
        self.check_usable()?;
        let most = u64::from(self.config.queue_bytes);
        let bytes = work_bytes(&work).max(PAGE_BYTES).min(most);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes as u32);
        let left = until.saturating_sub(self.runtime.monotonic());
        let room = match within(left, room).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(self.out_of_service()),
            Err(_) => {
                self.metrics.refused_busy();
                return Err(BlobError::Busy(self.id));
            }
        };
        let (answer, outcome) = oneshot::channel();
        let job = Job { work, answer, room };
        if self.queue.send(job).await.is_err() {
            return Err(self.out_of_service());
        }
        match within(self.config.silent_after, outcome).await {
            Ok(answered) => answered.unwrap_or_else(|_| Err(self.out_of_service())),
            Err(_) => Err(self.silent()),
        }
    }

    /// Refuses new work and waits until what is queued is done, or for `busy_after`.
    pub(crate) async fn drain(&self) {
        let all = self.room.acquire_many(self.config.queue_bytes);
        let drained = within(self.config.busy_after, all).await;
        self.room.close();
        self.reads.close();
        if !matches!(drained, Ok(Ok(_))) {
            tracing::warn!(disk = self.id.0, "disk closed with requests in its queue");
        }
    }

    /// Whether the disk is being closed and takes no more work.
    pub(crate) fn is_closing(&self) -> bool {
        self.room.is_closed()
    }

    fn verdict(&self) -> DiskHealth {
        if self.is_failed() {
            DiskHealth::Failed
        } else if self.is_full() {
            DiskHealth::Full
        } else {
            DiskHealth::Healthy
        }
    }

    /// How the disk does, as far as is known.
    pub(crate) fn status(&self) -> DiskStatus {
        let space = self.health.space();
        let reserved = self
            .active
            .lock()
            .as_ref()
            .map_or(0, |active| active.reserved_bytes);
        let free = space.free_bytes.saturating_sub(self.min_free(&space));
        let totals = self.index.totals();
        DiskStatus {
            id: self.id,
            health: self.verdict(),
            total_bytes: space.total_bytes,
            free_bytes: (free + reserved).min(space.total_bytes),
            live_bytes: totals.live_chunk_bytes,
            reclaimable_bytes: compact::reclaimable_bytes(self),
            chunks: totals.chunks,
        }
    }
}
