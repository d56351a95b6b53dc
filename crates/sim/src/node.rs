//! One node: its disks, which outlive it, and its lives.
//!
//! A crash ends a life at once. What its tasks still do reaches nobody: its messages are dropped,
//! and its stores answer that they are closed, because the next life works on what they left
//! behind, not on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use granary_blob::{BlobConfig, BlobStore, DiskConfig};
use granary_blob_api::BlobNode;
use granary_kv::{Kv, MemoryKv};
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::{Meta, MetaControl, MetaService, pb};
use granary_raft::RaftHost;
use granary_runtime::{Backoff, Clock, SimulatedClock};
use granary_types::{NodeId, Timestamp};
use granary_vfs::{CrashStyle, MemoryVfs, Vfs};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::Cluster;
use crate::cluster::{NODES, OWNER};
use crate::net::{Life, RaftLink, Services, SimNet};

/// How long the bytes of a replaced object stay for readers, in milliseconds.
pub(crate) const READER_GRACE_MS: u64 = 60_000;
/// How long a write lives without renewal, in milliseconds.
const WRITE_LEASE_MS: u64 = 60_000;
/// Data shards of the cluster at its beginning.
const DATA_SHARDS: u32 = 2;
/// Size of each disk.
const DISK_BYTES: u64 = 4 << 30;
const CLUSTER_ID: &str = "granary-sim";
/// How long a started node tries to tell the root of its disks.
const REGISTER_WITHIN: Duration = Duration::from_secs(3600);

/// A node's wall clock: the run's time and an offset that may change at any moment.
#[derive(Debug)]
pub(crate) struct NodeClock {
    true_time: SimulatedClock,
    offset_ms: AtomicI64,
}

impl NodeClock {
    /// A clock that shows `start_ms` now.
    pub(crate) fn starting_at(start_ms: u64) -> Self {
        Self {
            true_time: SimulatedClock::starting_at(start_ms),
            offset_ms: AtomicI64::new(0),
        }
    }

    /// Sets the wall clock off; the monotonic one is not touched.
    pub(crate) fn set_offset(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::SeqCst);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        let offset_ms = self.offset_ms.load(Ordering::SeqCst);
        Timestamp(
            self.true_time
                .now()
                .as_millis()
                .saturating_add_signed(offset_ms),
        )
    }

    fn monotonic(&self) -> Duration {
        self.true_time.monotonic()
    }
}

/// What a node keeps between its lives.
pub(crate) struct Disks {
    meta: MemoryKv,
    files: MemoryVfs,
    /// One data directory each, with its chunk index.
    data: Vec<(PathBuf, MemoryKv)>,
}

impl Disks {
    /// New, empty disks.
    pub(crate) fn empty(count: u64) -> Self {
        let files = MemoryVfs::new();
        let data = (0..count).map(|n| {
            let dir = PathBuf::from(format!("/disk-{n}"));
            files.set_capacity(&dir, DISK_BYTES);
            (dir, MemoryKv::new())
        });
        Self {
            meta: MemoryKv::new(),
            data: data.collect(),
            files,
        }
    }

    /// The power goes. What was made durable stays; of the rest the seed says what is left.
    fn crash(&mut self, rng: &mut StdRng) {
        self.meta = crash_kv(&self.meta, rng);
        for (_, index) in &mut self.data {
            *index = crash_kv(index, rng);
        }
        let styles = [
            CrashStyle::LoseAll,
            CrashStyle::KeepAll,
            CrashStyle::Torn,
            CrashStyle::Prefix,
        ];
        let style = styles[rng.random_range(0..styles.len())];
        self.files = self.files.crash(rng.random_range(0..u64::MAX), style);
    }
}

fn crash_kv(kv: &MemoryKv, rng: &mut StdRng) -> MemoryKv {
    let unsynced = kv.unsynced();
    let survivors = match rng.random_range(0..4) {
        0 => 0,
        1 => unsynced,
        _ => rng.random_range(0..=unsynced),
    };
    kv.crash(survivors)
}

/// What runs during a life.
struct Running {
    life: Life,
    meta: Option<Arc<MetaNode>>,
    blob: Option<Arc<BlobStore>>,
}

/// A node.
pub(crate) struct Node {
    /// Its identity; the meta role is that of this id for all its lives.
    pub(crate) id: NodeId,
    clock: Arc<NodeClock>,
    disks: Mutex<Disks>,
    running: Mutex<Option<Running>>,
    /// Set from the beginning of a start: one start at a time.
    up: Mutex<bool>,
}

impl Node {
    /// A node that is down.
    pub(crate) fn new(id: NodeId, clock: Arc<NodeClock>, disks: Disks) -> Self {
        Self {
            id,
            clock,
            disks: Mutex::new(disks),
            running: Mutex::new(None),
            up: Mutex::new(false),
        }
    }

    /// Its clock.
    pub(crate) fn clock(&self) -> &Arc<NodeClock> {
        &self.clock
    }

    /// True for whoever may start it now.
    pub(crate) fn take_off(&self) -> bool {
        !std::mem::replace(&mut *self.up.lock(), true)
    }

    /// Its Raft groups, while it is up.
    pub(crate) fn raft(&self) -> Option<Arc<RaftHost>> {
        let running = self.running.lock();
        let meta = running.as_ref()?.meta.as_ref()?;
        Some(Arc::clone(meta.raft()))
    }

    /// Its disks, while it is up.
    pub(crate) fn blob(&self) -> Option<Arc<BlobStore>> {
        self.running.lock().as_ref()?.blob.clone()
    }

    /// Its metadata store as it is now.
    pub(crate) fn meta_store(&self) -> MemoryKv {
        self.disks.lock().meta.clone()
    }

    /// Ends its life; false when it has none.
    pub(crate) fn crash(&self, net: &SimNet, rng: &mut StdRng) -> bool {
        let Some(running) = self.running.lock().take() else {
            return false;
        };
        net.end_life(&running.life);
        self.disks.lock().crash(rng);
        *self.up.lock() = false;
        true
    }

    /// Starts what a process of all roles but the gateway starts, in its order.
    ///
    /// # Errors
    /// A sentence, when a store that survived a crash cannot be opened.
    pub(crate) async fn start(&self, cluster: &Cluster, life: Life) -> Result<(), String> {
        let net = cluster.net();
        *self.running.lock() = Some(Running {
            life: life.clone(),
            meta: None,
            blob: None,
        });
        let outcome = self.start_roles(cluster, &life).await;
        match outcome {
            Err(_) if life.ended().is_cancelled() => Ok(()),
            Err(why) => {
                net.end_life(&life);
                Err(why)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Notes what is up; a life that ended meanwhile keeps nothing.
    fn note(&self, life: &Life, change: impl FnOnce(&mut Running)) {
        if let Some(running) = self.running.lock().as_mut()
            && running.life.number == life.number
        {
            change(running);
        }
    }

    async fn start_roles(&self, cluster: &Cluster, life: &Life) -> Result<(), String> {
        let net = cluster.net();
        let (kv, files, data) = {
            let disks = self.disks.lock();
            (disks.meta.clone(), disks.files.clone(), disks.data.clone())
        };
        let (client, _) = cluster.clients(life);
        let meta = self.start_meta(cluster, life, kv, client.clone()).await?;
        self.note(life, |running| running.meta = Some(Arc::clone(&meta)));
        let services = Services {
            raft: Some(Arc::clone(meta.raft())),
            meta: Some(meta.clone() as Arc<dyn MetaService>),
            control: Some(meta.clone() as Arc<dyn MetaControl>),
            blob: None,
        };
        net.serve(life, services.clone());
        if !meta.has_shards() {
            let formed = meta.bootstrap(new_cluster()).await;
            formed.map_err(|error| format!("bootstrap: {error}"))?;
        }
        let blob = self.start_blob(life, files, data).await?;
        self.note(life, |running| running.blob = Some(Arc::clone(&blob)));
        net.serve(
            life,
            Services {
                blob: Some(blob.clone() as Arc<dyn BlobNode>),
                ..services
            },
        );
        register_later(life, client, self.id, blob);
        crate::workers::start(cluster, life);
        Ok(())
    }

    async fn start_meta(
        &self,
        cluster: &Cluster,
        life: &Life,
        kv: MemoryKv,
        _client: Meta,
    ) -> Result<Arc<MetaNode>, String> {
        let transport = Arc::new(RaftLink::new(cluster.net().clone(), life.clone()));
        let config = MetaConfig {
            raft: cluster.scenario().raft.clone(),
            ..meta_config()
        };
        let kv: Arc<dyn Kv> = Arc::new(kv);
        let meta = MetaNode::open(life.runtime.clone(), self.id, kv, transport, config).await;
        let meta = meta.map_err(|error| format!("metadata: {error}"))?;
        meta.route_root_through(cluster.meta_link(life));
        Ok(meta)
    }

    async fn start_blob(
        &self,
        life: &Life,
        files: MemoryVfs,
        data: Vec<(PathBuf, MemoryKv)>,
    ) -> Result<Arc<BlobStore>, String> {
        let vfs: Arc<dyn Vfs> = Arc::new(files);
        let mut disks = Vec::with_capacity(data.len());
        for (path, index) in data {
            vfs.create_dir_all(&path)
                .map_err(|error| error.to_string())?;
            disks.push(DiskConfig {
                path,
                index: Arc::new(index),
                lock: None,
            });
        }
        let store = BlobStore::open(life.runtime.clone(), blob_config(), vfs, disks).await;
        store
            .map(Arc::new)
            .map_err(|error| format!("disks: {error}"))
    }
}

fn meta_config() -> MetaConfig {
    MetaConfig {
        data_shards: DATA_SHARDS,
        reader_grace_ms: READER_GRACE_MS,
        write_lease_ms: WRITE_LEASE_MS,
        ..MetaConfig::default()
    }
}

fn new_cluster() -> NewCluster {
    NewCluster {
        cluster_id: CLUSTER_ID.to_owned(),
        region: "cn-granary-1".to_owned(),
        root_account: pb::state::Account {
            id: OWNER.0,
            name: "sim".to_owned(),
        },
        voters: NODES.to_vec(),
    }
}

/// Small volumes and reservations, so that a run touches many of them.
fn blob_config() -> BlobConfig {
    BlobConfig {
        volume_bytes: 10 << 20,
        allocate_bytes: 256 << 10,
        queue_bytes: 16 << 20,
        min_free_bytes: 1 << 20,
        compact_interval: Duration::from_secs(5),
        checkpoint_bytes: 128 << 10,
        ..BlobConfig::for_cluster(CLUSTER_ID)
    }
}

/// Tells the root of the node and its disks, until it has heard.
fn register_later(life: &Life, client: Meta, node: NodeId, blob: Arc<BlobStore>) {
    let runtime = life.runtime.clone();
    life.runtime.spawn(async move {
        let pause = Duration::from_millis(100);
        let mut backoff = Backoff::new(&runtime, pause, pause * 10, REGISTER_WITHIN);
        while register(&client, node, &blob).await.is_err() {
            if runtime.shutdown().is_cancelled() || !backoff.wait(&runtime).await {
                return;
            }
        }
    });
}

async fn register(client: &Meta, node: NodeId, blob: &BlobStore) -> Result<(), String> {
    let record = pb::state::Node {
        id: node.0,
        zone: "zone-a".to_owned(),
        address: format!("node-{node}"),
        roles: Vec::new(),
        feature_level: granary_meta::FEATURE_LEVEL,
        ..Default::default()
    };
    decided(
        client
            .propose(pb::RegisterNode { node: Some(record) })
            .await,
    )?;
    for disk in blob.disks().await.map_err(|error| error.to_string())? {
        let record = pb::state::Disk {
            id: disk.id.0,
            node: node.0,
            total_bytes: disk.total_bytes,
            ..pb::state::Disk::default()
        };
        decided(
            client
                .propose(pb::RegisterDisk {
                    disk: Some(record),
                    keep_state: true,
                    ..Default::default()
                })
                .await,
        )?;
    }
    Ok(())
}

fn decided<R>(decision: granary_meta_api::client::Decision<R>) -> Result<(), String> {
    match decision {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(no)) => Err(format!("{no:?}")),
        Err(error) => Err(error.to_string()),
    }
}
