//! One node's disks behind the storage-node trait.
//!
//! Each disk stands alone: a failing one answers `DiskFailed`, the others do not notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use granary_blob_api::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};
use granary_runtime::{Runtime, within};
use granary_types::{BucketId, ChunkId, DiskId, PgId};
use granary_vfs::Vfs;
use parking_lot::{Mutex, RwLock};

use crate::compact::{self, Compaction, Pace};
use crate::config::{BlobConfig, DiskConfig};
use crate::disk::{Disk, Parts};
use crate::error::{DiskError, OpenError};
use crate::format::PgEpoch;
use crate::health::{self, Health};
use crate::identity::open_identity;
use crate::index::Index;
use crate::metrics::DiskMetrics;
use crate::recover::recover;
use crate::volumes::Volumes;
use crate::work::{NewChunk, Work};
use crate::writer::{Start, Writer};
use crate::{commit, format};

/// Chunks that one deletion or one page of a listing may name, at most.
const CHUNKS_PER_CALL_MAX: usize = 10_000;
/// Chunks looked at in one call that answers few of them.
const CHUNKS_LOOKED_AT_MAX: usize = 50_000;

/// One node's disk engine. Cheap to clone; clones share the disks.
#[derive(Clone)]
pub struct BlobStore {
    runtime: Runtime,
    config: Arc<BlobConfig>,
    vfs: Arc<dyn Vfs>,
    disks: Arc<RwLock<BTreeMap<DiskId, Arc<Disk>>>>,
    opening: Arc<Mutex<Vec<DiskId>>>,
}

/// While it lives, the node names a disk as one that is being opened, as long as it is not open.
#[derive(Debug)]
pub struct OpeningDisk {
    disk: DiskId,
    opening: Arc<Mutex<Vec<DiskId>>>,
}

impl Drop for OpeningDisk {
    fn drop(&mut self) {
        let mut opening = self.opening.lock();
        if let Some(at) = opening.iter().position(|disk| *disk == self.disk) {
            opening.swap_remove(at);
        }
    }
}

/// A disk that has been recovered and is not served yet.
struct Recovered {
    parts: Parts,
    start: Start,
}

impl BlobStore {
    /// Opens a node with these disks, recovering each. Fails when any of them cannot be opened; to
    /// go on without a broken one, open with none and call [`BlobStore::add_disk`] for each.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        runtime: Runtime,
        config: BlobConfig,
        vfs: Arc<dyn Vfs>,
        disks: Vec<DiskConfig>,
    ) -> Result<Self, OpenError> {
        config.check().map_err(OpenError::Config)?;
        let store = Self {
            runtime,
            config: Arc::new(config),
            vfs,
            disks: Arc::default(),
            opening: Arc::default(),
        };
        for disk in disks {
            store.add_disk(disk).await?;
        }
        Ok(store)
    }

    /// Opens one more disk; an empty directory becomes a new one. Returns its identity.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn add_disk(&self, disk: DiskConfig) -> Result<DiskId, OpenError> {
        let runtime = self.runtime.child();
        let (config, vfs) = (Arc::clone(&self.config), Arc::clone(&self.vfs));
        let opening = runtime.clone();
        let recovered = self
            .runtime
            .blocking(move || open_disk(opening, config, vfs, disk))
            .await
            .map_err(|_| OpenError::Stopping)??;
        let Recovered { parts, start } = recovered;
        let id = parts.id;
        let mut disks = self.disks.write();
        if disks.contains_key(&id) {
            return Err(OpenError::Duplicate(id));
        }
        let (disk, jobs) = Disk::new(parts);
        let writer = Writer::new(Arc::clone(&disk), start);
        commit::start(&disk, writer, jobs);
        runtime.spawn(compact::run(Arc::clone(&disk)));
        runtime.spawn(health::watch(Arc::clone(&disk)));
        let (path, chunks) = (disk.dir().display(), disk.index().totals().chunks);
        tracing::info!(disk = id.0, %path, chunks, "disk opened");
        disks.insert(id, disk);
        Ok(id)
    }

    /// Somebody begins to open a disk: others are to know that it is there.
    pub fn note_opening(&self, disk: DiskId) -> OpeningDisk {
        self.opening.lock().push(disk);
        OpeningDisk {
            disk,
            opening: Arc::clone(&self.opening),
        }
    }

    /// Closes a disk after what is queued on it; its data stays. False when it is not open.
    pub async fn remove_disk(&self, id: DiskId) -> bool {
        let removed = self.disks.write().remove(&id);
        match removed {
            Some(disk) => {
                close(&disk).await;
                true
            }
            None => false,
        }
    }

    /// Compacts the volume of a disk with the largest share of dead bytes, without throttle.
    /// `None` when none is worth it.
    ///
    /// # Errors
    /// `DiskFailed`; `DiskFull` or `Busy` when there is no room to move what lives.
    pub async fn compact_once(&self, disk: DiskId) -> Result<Option<Compaction>, BlobError> {
        let disk = self.disk(disk)?;
        compact::compact_one(&disk, Pace::Unthrottled).await
    }

    /// Counters of every disk.
    pub fn metrics(&self) -> Vec<(DiskId, DiskMetrics)> {
        let disks = self.disks.read();
        let snapshot = |(id, disk): (&DiskId, &Arc<Disk>)| (*id, disk.snapshot());
        disks.iter().map(snapshot).collect()
    }

    /// Closes every disk: finishes what is queued and makes the indexes durable, so that the next
    /// start has nothing to recover. A disk that hangs is left after [`BlobConfig::close_after`].
    pub async fn shutdown(&self) {
        let disks = std::mem::take(&mut *self.disks.write());
        join_all(disks.values().map(close)).await;
    }

    fn disk(&self, id: DiskId) -> Result<Arc<Disk>, BlobError> {
        let disks = self.disks.read();
        match disks.get(&id) {
            Some(disk) => Ok(Arc::clone(disk)),
            None => Err(BlobError::DiskFailed(id)),
        }
    }

    /// Runs a call that reads the disk, index included, on a thread that may block; `until` is when
    /// waiting for a place ends. The place is the call's own: a call whose caller went away keeps
    /// it, so a disk that hangs holds up no more threads than it has places.
    pub(crate) async fn reading<T: Send + 'static>(
        &self,
        disk: &Arc<Disk>,
        until: Duration,
        call: impl FnOnce(&Disk) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        disk.check_usable()?;
        let place = Arc::clone(disk.reads()).acquire_owned();
        let left = until.saturating_sub(self.runtime.monotonic());
        let place = match within(left, place).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(disk.out_of_service()),
            Err(_) => {
                disk.metrics().refused_busy();
                return Err(BlobError::Busy(disk.id()));
            }
        };
        let called = Arc::clone(disk);
        let running = self.runtime.blocking(move || {
            let _place = place;
            call(&called)
        });
        match within(self.config.silent_after, running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(disk.out_of_service()),
            Err(_) => Err(disk.silent()),
        }
    }

    /// When a request that arrives now stops waiting for a place in the disk's queues.
    pub(crate) fn until(&self) -> Duration {
        self.runtime.monotonic() + self.config.busy_after
    }

    /// Notes what a client does, and holds a copy that restores redundancy back as long as it must wait
    /// for clients, or until the disk is closed.
    async fn turn(&self, disk: &Disk, bytes: usize, background: bool) {
        let (now, bytes) = (self.runtime.monotonic(), bytes as u64);
        if !background {
            disk.background().note_client(now, bytes);
            return;
        }
        let rate = self.config.repair_bytes_per_sec_beside_clients;
        let pause = disk.background().pause(now, bytes, rate);
        if !pause.is_zero() {
            tokio::select! {
                () = self.runtime.sleep(pause) => {}
                () = disk.runtime().shutdown().cancelled() => {}
            }
        }
    }

    async fn read(&self, disk: &Arc<Disk>, range: GetChunk) -> Result<ChunkRead, BlobError> {
        let until = self.until();
        let began = self.runtime.monotonic();
        let read = self
            .reading(disk, until, move |disk| disk.read(&range))
            .await?;
        let bytes: usize = read.blocks.iter().map(|block| block.data.len()).sum();
        let took = self.runtime.monotonic().saturating_sub(began);
        disk.metrics().got(bytes as u64, took);
        Ok(read)
    }

    async fn write(&self, disk: &Arc<Disk>, chunk: PutChunk) -> Result<(), BlobError> {
        disk.check_usable()?;
        let began = self.runtime.monotonic();
        let until = self.until();
        if disk.is_full() {
            disk.look().await;
        }
        let chunk = self
            .reading(disk, until, move |disk| {
                let mut chunk = NewChunk::check(chunk)?;
                chunk.replaces = disk.find_damaged(&chunk)?;
                Ok(chunk)
            })
            .await?;
        if disk.is_full() {
            disk.metrics().refused_full();
            return Err(BlobError::DiskFull(disk.id()));
        }
        let bytes = u64::from(chunk.length);
        let outcome = disk.submit_until(Work::Put(chunk), until).await;
        if outcome == Err(BlobError::DiskFull(disk.id())) {
            disk.metrics().refused_full();
        }
        outcome?;
        let took = self.runtime.monotonic().saturating_sub(began);
        disk.metrics().put(bytes, took);
        Ok(())
    }
}

fn open_disk(
    runtime: Runtime,
    config: Arc<BlobConfig>,
    vfs: Arc<dyn Vfs>,
    disk: DiskConfig,
) -> Result<Recovered, OpenError> {
    let DiskConfig { path, index, lock } = disk;
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    vfs.create_dir_all(&path).map_err(io)?;
    let lock = match lock {
        Some(lock) => lock,
        None => vfs.lock(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::InUse(error),
            _ => io(error),
        })?,
    };
    let identity = open_identity(&runtime, vfs.as_ref(), &path, &config.cluster_id)?;
    let volumes = Volumes::new(Arc::clone(&vfs), &path, identity.disk, config.open_files);
    let failed = |error: DiskError| match error {
        DiskError::Io(source) => io(source),
        DiskError::Shortage(source) => io(source),
        DiskError::NoSpace => io(std::io::ErrorKind::StorageFull.into()),
        DiskError::Gone => io(std::io::ErrorKind::NotFound.into()),
        DiskError::Silent => io(std::io::ErrorKind::TimedOut.into()),
        DiskError::Index(source) => OpenError::Index {
            path: path.clone(),
            source,
        },
        DiskError::NewerVolume { found, .. } => OpenError::NewerFormat {
            path: path.clone(),
            found,
            known: format::VOLUME_FORMAT,
        },
    };
    let (index, meta) =
        Index::open(index, identity.disk).map_err(|error| failed(DiskError::Index(error)))?;
    let start = recover(&volumes, &index, meta, config.volume_bytes).map_err(failed)?;
    let health = Health::open(vfs.as_ref(), &path).map_err(io)?;
    let parts = Parts {
        id: identity.disk,
        dir: path,
        runtime,
        config,
        vfs,
        volumes,
        index,
        health,
        lock,
    };
    Ok(Recovered { parts, start })
}

/// Closes a disk. Calls that hang in it are left behind, and with them its lock: nobody opens the
/// directory again before they are over.
async fn close(disk: &Arc<Disk>) {
    if within(disk.config().close_after, finish(disk))
        .await
        .is_err()
    {
        let (id, path) = (disk.id().0, disk.dir().display());
        tracing::warn!(
            disk = id,
            %path,
            "disk hangs and is closed without waiting for it; nothing acknowledged is lost"
        );
    }
}

async fn finish(disk: &Arc<Disk>) {
    disk.drain().await;
    disk.runtime().stop().await;
    if disk.is_failed() {
        return;
    }
    let closing = Arc::clone(disk);
    let checkpoint = disk
        .runtime()
        .blocking(move || closing.index().checkpoint())
        .await;
    match checkpoint {
        Ok(Ok(())) => tracing::info!(disk = disk.id().0, "disk closed"),
        // Nothing is lost: the next start replays the volumes.
        Ok(Err(error)) => tracing::warn!(disk = disk.id().0, %error, "index checkpoint failed"),
        Err(cancelled) => {
            tracing::warn!(disk = disk.id().0, %cancelled, "index checkpoint failed");
        }
    }
}

/// A deletion that finds no room is to be repeated: compaction makes some, and the disk does not
/// lack room for what takes none.
fn busy_when_full(error: BlobError) -> BlobError {
    match error {
        BlobError::DiskFull(disk) => BlobError::Busy(disk),
        error => error,
    }
}

/// Checks the chunks of a call that names the group they belong to.
fn check_named(pg: PgId, chunks: &[ChunkId]) -> Result<(), BlobError> {
    if let Some(foreign) = chunks.iter().find(|chunk| chunk.pg() != pg) {
        let what = format!("chunk {foreign} does not belong to placement group {pg}");
        return Err(BlobError::Invalid(what));
    }
    if chunks.len() > CHUNKS_PER_CALL_MAX {
        return Err(BlobError::Invalid(format!(
            "{} chunks in one call, at most {CHUNKS_PER_CALL_MAX}",
            chunks.len()
        )));
    }
    Ok(())
}

#[async_trait]
impl BlobNode for BlobStore {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        let disk = self.disk(disk)?;
        let bytes = chunk.blocks.iter().map(|block| block.data.len()).sum();
        self.turn(&disk, bytes, chunk.background).await;
        self.write(&disk, chunk).await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        let disk = self.disk(disk)?;
        let bytes = range.length as usize;
        self.turn(&disk, bytes, range.background).await;
        self.read(&disk, range).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        if copy.source.pg() != copy.target.pg() {
            return Err(BlobError::Invalid(
                "a copy stays in its placement group".to_owned(),
            ));
        }
        let disk = self.disk(disk)?;
        let source = copy.source;
        let entry = self
            .reading(&disk, self.until(), move |disk| disk.find_live(source))
            .await?;
        let whole = GetChunk {
            id: copy.source,
            offset: 0,
            length: entry.length,
            background: false,
        };
        self.turn(&disk, entry.length as usize, false).await;
        let read = self.read(&disk, whole).await?;
        let chunk = PutChunk {
            id: copy.target,
            owner: copy.owner,
            pg_epoch: copy.pg_epoch,
            blocks: read.blocks,
            background: false,
        };
        self.write(&disk, chunk).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        check_named(pg, &chunks)?;
        let disk = self.disk(disk)?;
        let count = chunks.len() as u64;
        let work = Work::Delete(PgEpoch { pg, epoch }, chunks);
        disk.submit(work).await.map_err(busy_when_full)?;
        disk.metrics().deleted(count);
        Ok(())
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        check_named(pg, &chunks)?;
        let work = Work::Forget(PgEpoch { pg, epoch }, chunks);
        let outcome = self.disk(disk)?.submit(work).await;
        outcome.map_err(busy_when_full)
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        check_named(pg, &chunks)?;
        let work = Work::Evict(PgEpoch { pg, epoch }, chunks);
        let outcome = self.disk(disk)?.submit(work).await;
        outcome.map_err(busy_when_full)
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        let disk = self.disk(disk)?;
        self.reading(&disk, self.until(), move |disk| {
            let groups = disk.index().groups();
            groups.map_err(|error| disk.index_failed(error))
        })
        .await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        let disk = self.disk(disk)?;
        let limit = (limit as usize).clamp(1, CHUNKS_PER_CALL_MAX);
        self.reading(&disk, self.until(), move |disk| {
            let page = disk.index().list(pg, after, limit);
            page.map_err(|error| disk.index_failed(error))
        })
        .await
    }

    async fn list_owned(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
        bucket: BucketId,
    ) -> Result<ChunkPage, BlobError> {
        let disk = self.disk(disk)?;
        let limit = (limit as usize).clamp(1, CHUNKS_LOOKED_AT_MAX);
        self.reading(&disk, self.until(), move |disk| {
            let page = disk.index().list(pg, after, limit);
            let mut page = page.map_err(|error| disk.index_failed(error))?;
            page.entries.retain(|entry| entry.owner.bucket == bucket);
            Ok(page)
        })
        .await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        let disk = self.disk(disk)?;
        self.verify_page(&disk, pg, after, limit_bytes).await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        let disk = self.disk(disk)?;
        let outcome = disk.submit(Work::OpenPg(PgEpoch { pg, epoch })).await;
        outcome.map_err(busy_when_full)
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        // First: one that is open meanwhile is told of twice rather than not at all.
        let opening = self.opening.lock().clone();
        let disks: Vec<Arc<Disk>> = {
            let open = self.disks.read();
            open.values().map(Arc::clone).collect()
        };
        // At once: a disk that does not answer keeps nobody from hearing of the others.
        join_all(disks.iter().map(|disk| disk.look())).await;
        let mut statuses: Vec<_> = disks.iter().map(|disk| disk.status()).collect();
        for disk in opening {
            if statuses.iter().all(|known| known.id != disk) {
                statuses.push(DiskStatus::opening(disk));
            }
        }
        Ok(statuses)
    }
}
