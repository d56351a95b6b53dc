//! A whole store in memory: the real metadata service and the real disk engine, under simulated
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use granary_blob::{BlobConfig, BlobStore, DiskConfig};
use granary_blob_api::{BlobNode, ChunkEntry};
use granary_datapath::{
    BodyError, BodyLimits, ClusterView, DataPath, DataPathConfig, NodeDirectory, ReadError,
    ReadSource, WriteError, WriteTarget, Written,
};
use granary_kv::MemoryKv;
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::{
    BucketAcl, ByteRange, ChunkId, DiskId, NodeId, ObjectAcl, ObjectType, Redundancy, StorageClass,
};
use granary_vfs::{MemoryVfs, Vfs};
use parking_lot::Mutex;

use super::hanging::{Hanging, HungDisks};
use crate::{KeeperConfig, PlacementKeeper, Tick, Worker, WorkerMetrics};

pub(super) const GRACE_MS: u64 = 10_000;
pub(super) const LEASE_MS: u64 = 60_000;
pub(super) const MIB: usize = 1024 * 1024;

pub(super) struct World {
    pub(super) runtime: Runtime,
    pub(super) meta: Meta,
    /// The first node's disks.
    pub(super) store: BlobStore,
    /// Every node that runs.
    pub(super) nodes: Nodes,
    pub(super) vfs: MemoryVfs,
    pub(super) view: ClusterView,
    pub(super) path: DataPath,
    pub(super) metrics: WorkerMetrics,
    pub(super) keeper: PlacementKeeper,
    pub(super) bucket: pb::state::Bucket,
    pub(super) node: Arc<MetaNode>,
}

/// Storage nodes by their ids.
#[derive(Clone, Default)]
pub(super) struct Nodes(Arc<Mutex<BTreeMap<u64, BlobStore>>>, HungDisks, HungDisks);

impl Nodes {
    fn all(&self) -> Vec<BlobStore> {
        self.0.lock().values().cloned().collect()
    }

    /// Takes a node away: nobody reaches it any more.
    pub(super) fn stop(&self, node: u64) -> Option<BlobStore> {
        self.0.lock().remove(&node)
    }

    /// Brings one back that was stopped.
    pub(super) fn start(&self, node: u64, stopped: Option<BlobStore>) {
        self.0.lock().extend(stopped.map(|store| (node, store)));
    }

    /// The same nodes on the ways of another process.
    pub(super) fn seen_by_another(&self) -> Self {
        Self(
            Arc::clone(&self.0),
            HungDisks::default(),
            HungDisks::default(),
        )
    }

    /// Makes a disk lose what it knows of the epochs of its groups, without anybody noticing.
    pub(super) fn forget_epochs(&self, disk: DiskId) {
        self.2.lock().insert(disk);
    }

    /// True while nobody has told it an epoch again.
    pub(super) fn has_forgotten(&self, disk: DiskId) -> bool {
        self.2.lock().contains(&disk)
    }

    /// Makes a disk answer nothing any more, although its node says that it is well; or again.
    pub(super) fn hang(&self, disk: DiskId, hangs: bool) {
        let mut hung = self.1.lock();
        if hangs {
            hung.insert(disk);
        } else {
            hung.remove(&disk);
        }
    }
}

impl NodeDirectory for Nodes {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        let store = self.0.lock().get(&node.0).cloned();
        let (hung, forgetful) = (Arc::clone(&self.1), Arc::clone(&self.2));
        let hanging = store.map(|store| Hanging {
            store,
            hung,
            forgetful,
        });
        hanging.map(|node| Arc::new(node) as Arc<dyn BlobNode>)
    }
}

/// No gateway has an old map here.
pub(super) fn keeper_config() -> KeeperConfig {
    KeeperConfig {
        replace_after_ms: 0,
        ..KeeperConfig::default()
    }
}

async fn open_store(runtime: &Runtime, vfs: &MemoryVfs) -> BlobStore {
    let config = BlobConfig {
        min_free_bytes: 1 << 20,
        volume_bytes: 64 << 20,
        allocate_bytes: 1 << 20,
        ..BlobConfig::for_cluster("test")
    };
    let vfs = Arc::new(vfs.clone());
    let store = BlobStore::open(runtime.clone(), config, vfs, vec![]).await;
    store.unwrap()
}

/// Runs a test under simulated time.
pub(super) fn simulated<F: Future>(body: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(body)
}

pub(super) fn dir(disk: usize) -> PathBuf {
    PathBuf::from(format!("/disk{disk}"))
}

impl World {
    /// A store with `disks` directories, a bucket, and its placement groups open.
    pub(super) async fn start(disks: usize) -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
        let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(77)));
        let node = start_meta(&runtime).await;
        let meta = Meta::new(runtime.clone(), node.clone() as Arc<dyn MetaService>);
        let vfs = MemoryVfs::new();
        let store = open_store(&runtime, &vfs).await;
        let nodes = Nodes::default();
        nodes.0.lock().insert(1, store.clone());
        let directory = Arc::new(nodes.clone());
        let view = ClusterView::new(runtime.clone(), meta.clone(), directory);
        let path = DataPath::new(
            runtime.clone(),
            meta.clone(),
            view.clone(),
            DataPathConfig::default(),
        );
        let metrics = WorkerMetrics::default();
        let keeper = PlacementKeeper::new(
            runtime.clone(),
            meta.clone(),
            path.clone(),
            metrics.clone(),
            keeper_config(),
        );
        let mut world = Self {
            runtime,
            meta,
            store,
            nodes,
            vfs,
            view,
            path,
            metrics,
            keeper,
            bucket: pb::state::Bucket::default(),
            node,
        };
        world.register_node(1, "a").await;
        for disk in 1..=disks {
            world.add_disk(disk).await;
        }
        world.keep().await;
        world.bucket = world.create_bucket("bucket").await;
        world
    }

    async fn register_node(&self, node: u64, zone: &str) {
        let record = pb::state::Node {
            id: node,
            zone: zone.into(),
            feature_level: granary_meta::FEATURE_LEVEL,
            ..Default::default()
        };
        let register = pb::RegisterNode { node: Some(record) };
        self.meta.propose(register).await.unwrap().unwrap();
    }

    /// Another machine with one disk joins.
    pub(super) async fn add_node(&self, node: u64, disk: usize) -> DiskId {
        self.add_node_in("a", node, disk).await
    }

    /// One joins in some zone.
    pub(super) async fn add_node_in(&self, zone: &str, node: u64, disk: usize) -> DiskId {
        let store = open_store(&self.runtime, &self.vfs).await;
        self.nodes.0.lock().insert(node, store.clone());
        self.register_node(node, zone).await;
        self.add_disk_to(node, &store, disk).await
    }

    /// Another disk in the first node.
    pub(super) async fn add_disk(&self, disk: usize) -> DiskId {
        self.add_disk_to(1, &self.store, disk).await
    }

    async fn add_disk_to(&self, node: u64, store: &BlobStore, disk: usize) -> DiskId {
        self.vfs.set_capacity(dir(disk), 1 << 30);
        let config = DiskConfig {
            path: dir(disk),
            index: Arc::new(MemoryKv::new()),
            lock: None,
        };
        let id = store.add_disk(config).await.unwrap();
        let record = pb::state::Disk {
            id: id.0,
            node,
            total_bytes: 1 << 30,
            state: 0,
            path: dir(disk).display().to_string(),
        };
        let register = pb::RegisterDisk {
            disk: Some(record),
            keep_state: true,
            ..Default::default()
        };
        self.meta.propose(register).await.unwrap().unwrap();
        id
    }

    /// The longest file of a disk: the volume that holds the chunks.
    pub(super) fn largest_file(&self, dir: &Path) -> PathBuf {
        let mut files = vec![dir.to_owned()];
        let mut largest = (0, dir.to_owned());
        while let Some(path) = files.pop() {
            if let Ok(names) = self.vfs.list(&path) {
                files.extend(names.iter().map(|name| path.join(name)));
            }
            if let Ok(file) = self.vfs.open(&path) {
                largest = largest.max((file.len().unwrap(), path));
            }
        }
        largest.1
    }

    /// Removes every file of a directory whose disk nobody has open.
    pub(super) fn wipe(&self, disk: usize) {
        let mut files = vec![dir(disk)];
        while let Some(path) = files.pop() {
            if let Ok(names) = self.vfs.list(&path) {
                files.extend(names.iter().map(|name| path.join(name)));
            }
            let _ = self.vfs.remove(&path);
        }
    }

    async fn create_bucket(&self, name: &str) -> pb::state::Bucket {
        let bucket = pb::state::Bucket {
            name: name.into(),
            owner: 1,
            storage_class: StorageClass::Standard.number(),
            redundancy: Redundancy::Lrs.number(),
            acl: BucketAcl::Private.number(),
            ..Default::default()
        };
        let create = pb::CreateBucket {
            bucket: Some(bucket),
            ..Default::default()
        };
        self.meta.create_bucket(create).await.unwrap().unwrap()
    }

    /// A keeper that copies no faster than that: filling a group takes it several ticks.
    pub(super) fn slow_keeper(&self, repair_bytes_per_sec: u64) -> PlacementKeeper {
        let config = DataPathConfig {
            repair_bytes_per_sec,
            ..DataPathConfig::default()
        };
        let (runtime, meta) = (self.runtime.clone(), self.meta.clone());
        let path = DataPath::new(runtime.clone(), meta.clone(), self.view.clone(), config);
        PlacementKeeper::new(runtime, meta, path, self.metrics.clone(), keeper_config())
    }

    /// Lets the keeper work until it has nothing to do.
    pub(super) async fn keep(&mut self) {
        run(&mut self.keeper).await;
        self.view.refresh().await.unwrap();
    }

    pub(super) fn at(&self, key: &'static str) -> pb::Position {
        pb::Position {
            bucket_id: self.bucket.id,
            key: Bytes::from_static(key.as_bytes()),
            generation: self.bucket.generation,
        }
    }

    pub(super) async fn write(&self, key: &'static str, bytes: &Bytes) -> Written {
        self.write_through(&self.path, key, bytes).await.unwrap()
    }

    /// Writes through a gateway.
    pub(super) async fn write_through(
        &self,
        gateway: &DataPath,
        key: &'static str,
        bytes: &Bytes,
    ) -> Result<Written, WriteError> {
        let target = WriteTarget {
            at: self.at(key),
            redundancy: Redundancy::Lrs,
            storage_class: StorageClass::Standard,
            continues: None,
        };
        let limits = BodyLimits {
            declared_length: Some(bytes.len() as u64),
            max_bytes: 1 << 40,
        };
        let body = stream::iter([Ok::<_, BodyError>(bytes.clone())]);
        gateway.write(target, body, limits).await
    }

    pub(super) async fn commit(
        &self,
        key: &'static str,
        written: Written,
    ) -> Result<pb::VersionReply, pb::Rejection> {
        let version = pb::state::Version {
            object_type: ObjectType::Normal.number(),
            etag: "00".repeat(16),
            crc64: written.crc64,
            has_crc64: true,
            storage_class: StorageClass::Standard.number(),
            acl: ObjectAcl::Default.number(),
            owner: 1,
            ..Default::default()
        };
        let put = pb::PutObject {
            at: Some(self.at(key)),
            version: Some(version),
            payload: Some(written.payload),
            ..Default::default()
        };
        self.meta.propose(put).await.unwrap()
    }

    pub(super) async fn put(&self, key: &'static str, bytes: &Bytes) {
        let written = self.write(key, bytes).await;
        self.commit(key, written).await.unwrap();
    }

    /// Renews the lease of a write that is not committed.
    pub(super) async fn renew(&self, key: &'static str, written: &Written) {
        let stage = pb::StageExtents {
            at: Some(self.at(key)),
            write_id: written.payload.write_id.clone(),
            ..Default::default()
        };
        self.meta.propose(stage).await.unwrap().unwrap();
    }

    pub(super) async fn delete(&self, key: &'static str) {
        let delete = pb::DeleteObject {
            at: Some(self.at(key)),
            ..Default::default()
        };
        let answer = self.meta.propose(delete).await.unwrap().unwrap();
        assert!(answer.existed);
    }

    pub(super) async fn open(&self, key: &'static str) -> ReadSource {
        let query = pb::GetVersion {
            at: Some(self.at(key)),
            with_body: true,
            ..Default::default()
        };
        let found = self.meta.query(query).await.unwrap();
        assert!(found.found, "{key} is not there");
        ReadSource {
            at: self.at(key),
            version: found.version.unwrap(),
            inline: found.inline,
        }
    }

    pub(super) async fn get(&self, key: &'static str) -> Result<Bytes, ReadError> {
        let source = self.open(key).await;
        let range = ByteRange::whole(source.version.size);
        let mut stream = self.path.read(source, range);
        let mut all = Vec::new();
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part?);
        }
        Ok(all.into())
    }

    /// Every node that runs.
    pub(super) fn node_stores(&self) -> Vec<BlobStore> {
        self.nodes.all()
    }

    /// What every disk that answers lists.
    pub(super) async fn listed(&self) -> Vec<(DiskId, ChunkEntry)> {
        let mut all = Vec::new();
        let map = self.view.map();
        for store in self.nodes.all() {
            for disk in store.disks().await.unwrap() {
                for group in map.groups() {
                    let page = store.list(disk.id, group.id, None, 1000).await;
                    let entries = page.map(|page| page.entries).unwrap_or_default();
                    all.extend(entries.into_iter().map(|entry| (disk.id, entry)));
                }
            }
        }
        all
    }

    /// Live chunks on all disks, and tombstones.
    pub(super) async fn chunks(&self) -> (BTreeSet<ChunkId>, usize) {
        let listed = self.listed().await;
        let live = listed.iter().filter(|(_, entry)| !entry.deleted);
        let live = live.map(|(_, entry)| entry.id).collect();
        let tombstones = listed.iter().filter(|(_, entry)| entry.deleted).count();
        (live, tombstones)
    }

    /// Lets time pass, and lets every shard know.
    pub(super) async fn pass(&self, time: Duration) {
        self.runtime.sleep(time).await;
        for &shard in self.view.map().shards() {
            self.meta
                .propose_to(shard, pb::Tick {})
                .await
                .unwrap()
                .unwrap();
        }
    }
}

async fn start_meta(runtime: &Runtime) -> Arc<MetaNode> {
    let config = MetaConfig {
        data_shards: 3,
        reader_grace_ms: GRACE_MS,
        write_lease_ms: LEASE_MS,
        ..Default::default()
    };
    let kv = Arc::new(MemoryKv::new());
    let node = MetaNode::open(runtime.clone(), NodeId(1), kv, Arc::new(NoPeers), config)
        .await
        .unwrap();
    let cluster = NewCluster {
        cluster_id: "test".into(),
        region: "cn-test-1".into(),
        root_account: pb::state::Account {
            id: 1,
            name: "root".into(),
        },
        voters: vec![NodeId(1)],
    };
    node.bootstrap(cluster).await.unwrap();
    node
}

/// Ticks a worker until it has nothing more to do.
pub(super) async fn run(worker: &mut impl Worker) {
    for _ in 0..10_000 {
        if worker.tick(1).await.unwrap() == Tick::Done {
            return;
        }
    }
    panic!("the worker never ends");
}

/// Bytes in which no two places look alike.
pub(super) fn content(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.collect();
    bytes.truncate(length);
    bytes.into()
}
