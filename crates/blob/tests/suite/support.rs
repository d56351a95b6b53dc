//! Stores on a file system in memory.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_blob::{BlobConfig, BlobStore, DiskConfig, OpenError};
use granary_blob_api::testsuite::pattern;
use granary_blob_api::{
    BlobError, BlobNode, Block, ChunkOwner, DiskHealth, DiskStatus, GetChunk, PutChunk,
};
use granary_kv::MemoryKv;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};
use granary_vfs::{MemoryVfs, Vfs};

/// The group that tests open.
pub(crate) const PG: PgId = PgId(1);

/// Small volumes, no watermark, compaction only on demand.
pub(crate) fn config() -> BlobConfig {
    BlobConfig {
        volume_bytes: 256 << 10,
        allocate_bytes: 64 << 10,
        queue_bytes: 16 << 20,
        min_free_bytes: 0,
        min_free_percent: 0,
        compact_interval: Duration::from_secs(365 * 24 * 3600),
        checkpoint_bytes: 200 << 10,
        ..BlobConfig::for_cluster("test")
    }
}

/// Runs a test on one thread under simulated time.
pub(crate) fn simulate<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Runtime) -> F) {
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    executor.block_on(async {
        let clock = Arc::new(SimulatedClock::starting_at(1_700_000_000_000));
        test(Runtime::simulated(
            clock,
            Arc::new(SeededEntropy::new(seed)),
        ))
        .await;
    });
}

/// One node with its disks, which survives restarts and crashes.
pub(crate) struct Machine {
    pub(crate) runtime: Runtime,
    pub(crate) config: BlobConfig,
    pub(crate) vfs: MemoryVfs,
    pub(crate) indexes: Vec<MemoryKv>,
    pub(crate) store: BlobStore,
    /// In the order of the directories.
    pub(crate) disks: Vec<DiskId>,
}

pub(crate) fn dir(n: usize) -> PathBuf {
    Path::new("/data").join(format!("disk{n}"))
}

pub(crate) fn disk_config(n: usize, index: &MemoryKv) -> DiskConfig {
    DiskConfig {
        path: dir(n),
        index: Arc::new(index.clone()),
        lock: None,
    }
}

impl Machine {
    pub(crate) async fn new(runtime: &Runtime, config: BlobConfig, disks: usize) -> Self {
        let vfs = MemoryVfs::new();
        for n in 0..disks {
            vfs.set_capacity(dir(n), 1 << 40);
        }
        let indexes: Vec<_> = (0..disks).map(|_| MemoryKv::new()).collect();
        let machine = Self::start(runtime, config, vfs, indexes).await.unwrap();
        for disk in &machine.disks {
            machine.store.open_pg(*disk, PG, 1).await.unwrap();
        }
        machine
    }

    pub(crate) async fn start(
        runtime: &Runtime,
        config: BlobConfig,
        vfs: MemoryVfs,
        indexes: Vec<MemoryKv>,
    ) -> Result<Self, OpenError> {
        let life = runtime.child();
        let shared: Arc<dyn Vfs> = Arc::new(vfs.clone());
        let store = BlobStore::open(life.clone(), config.clone(), shared, Vec::new()).await?;
        let mut disks = Vec::new();
        for (n, index) in indexes.iter().enumerate() {
            disks.push(store.add_disk(disk_config(n, index)).await?);
        }
        Ok(Self {
            runtime: life,
            config,
            vfs,
            indexes,
            store,
            disks,
        })
    }

    pub(crate) fn disk(&self) -> DiskId {
        self.disks[0]
    }

    /// Stops in an orderly way and starts again.
    pub(crate) async fn restart(self, runtime: &Runtime) -> Self {
        self.store.shutdown().await;
        self.runtime.stop().await;
        let Self {
            config,
            vfs,
            indexes,
            store,
            ..
        } = self;
        drop(store);
        Self::start(runtime, config, vfs, indexes).await.unwrap()
    }

    /// Starts again with these volumes and indexes, after whatever happened to the old life.
    pub(crate) async fn revive(
        self,
        runtime: &Runtime,
        vfs: MemoryVfs,
        indexes: Vec<MemoryKv>,
    ) -> Self {
        self.runtime.stop().await;
        Self::start(runtime, self.config, vfs, indexes)
            .await
            .unwrap()
    }

    pub(crate) async fn status(&self, disk: DiskId) -> DiskStatus {
        let disks = self.store.disks().await.unwrap();
        disks.into_iter().find(|status| status.id == disk).unwrap()
    }

    pub(crate) async fn health(&self, n: usize) -> DiskHealth {
        self.status(self.disks[n]).await.health
    }

    pub(crate) async fn put(&self, n: usize, id: ChunkId, bytes: &Bytes) -> Result<(), BlobError> {
        put(&self.store, self.disks[n], id, bytes).await
    }

    pub(crate) async fn get(
        &self,
        n: usize,
        id: ChunkId,
        length: usize,
    ) -> Result<Bytes, BlobError> {
        get(&self.store, self.disks[n], id, length).await
    }

    /// Paths of a disk's volumes.
    pub(crate) fn volumes(&self, n: usize) -> Vec<PathBuf> {
        let volumes = dir(n).join("volumes");
        let names = self.vfs.list(&volumes).unwrap();
        names.iter().map(|name| volumes.join(name)).collect()
    }
}

pub(crate) fn id(n: u128) -> ChunkId {
    ChunkId::new(PG, n)
}

pub(crate) fn chunk(id: ChunkId, bytes: &Bytes) -> PutChunk {
    PutChunk {
        id,
        owner: ChunkOwner {
            bucket: BucketId(1),
            object: ObjectId(2),
        },
        pg_epoch: 1,
        blocks: Block::cut(bytes.clone()),
        background: false,
    }
}

pub(crate) async fn put(
    store: &dyn BlobNode,
    disk: DiskId,
    id: ChunkId,
    bytes: &Bytes,
) -> Result<(), BlobError> {
    store.put(disk, chunk(id, bytes)).await
}

/// A whole chunk, or at least what the caller believes it to be.
pub(crate) async fn get(
    store: &dyn BlobNode,
    disk: DiskId,
    id: ChunkId,
    length: usize,
) -> Result<Bytes, BlobError> {
    let range = GetChunk {
        id,
        offset: 0,
        length: length as u32,
        background: false,
    };
    let read = store.get(disk, range).await?;
    assert!(read.blocks.iter().all(Block::is_intact));
    let blocks: Vec<&[u8]> = read.blocks.iter().map(|block| &block.data[..]).collect();
    Ok(Bytes::from(blocks.concat()).slice(..length))
}

/// Bytes of a chunk that depend on its id and a variant.
pub(crate) fn content(id: ChunkId, variant: u64, length: usize) -> Bytes {
    pattern((id.0 as u64) << 8 | variant, length)
}
