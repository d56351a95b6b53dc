//! A rebuild in one process: nodes of a cluster that has lost its metadata, with disks that hold its
//! backup, behind real listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use granary_blob_api::{
    BlobError, BlobService, Block, ChunkEntry, ChunkOwner, ChunkPage, ChunkRead, CopyChunk,
    DiskHealth, DiskStatus, GetChunk, PutChunk, ServerLimits, VerifyPage,
};
use granary_cluster::{
    Access, AccessTable, AddressBook, Listener, ListenerConfig, PeerNode, certificate_pem,
};
use granary_kv::MemoryKv;
use granary_meta::{
    BackupError, BackupOptions, BackupSink, MetaConfig, MetaNode, NewCluster, Stored,
};
use granary_types::{BACKUP_BUCKET, BackupKind, BackupObject, ChunkId, DiskId, ObjectId, PgId};
use granary_vfs::{RealVfs, Vfs as _};
use parking_lot::Mutex;
use pb::state;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::*;
use crate::cluster::pb as admin;
use crate::cluster::status::{ClusterStatus, NodeReport, ShardStatus};

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// What a disk holds.
type Chunks = BTreeMap<ChunkId, (ObjectId, Bytes)>;

/// The disks of a node.
#[derive(Default)]
struct Shelf {
    disks: Mutex<BTreeMap<DiskId, Chunks>>,
    /// Disks that do not answer.
    broken: Mutex<BTreeSet<DiskId>>,
    /// They are being opened.
    opening: AtomicBool,
    /// So many calls fail first.
    hiccups: AtomicU32,
    /// Disks being listed now, and most at once.
    listing: AtomicU32,
    most: AtomicU32,
}

impl Shelf {
    fn check(&self, disk: DiskId) -> Result<(), BlobError> {
        let less = |left: u32| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if self.hiccups.fetch_update(order, order, less).is_ok() {
            return Err(BlobError::Unreachable("a hiccup".to_owned()));
        }
        match self.broken.lock().contains(&disk) {
            true => Err(BlobError::DiskFailed(disk)),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl granary_blob_api::BlobNode for Shelf {
    async fn put(&self, disk: DiskId, _: PutChunk) -> Result<(), BlobError> {
        Err(BlobError::DiskFull(disk))
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.check(disk)?;
        let disks = self.disks.lock();
        let found = disks.get(&disk).and_then(|disk| disk.get(&range.id));
        let (_, bytes) = found.ok_or(BlobError::ChunkNotFound(range.id))?;
        Ok(ChunkRead {
            offset: 0,
            blocks: Block::cut(bytes.clone()),
        })
    }

    async fn copy(&self, disk: DiskId, _: CopyChunk) -> Result<(), BlobError> {
        Err(BlobError::DiskFull(disk))
    }

    async fn delete(
        &self,
        disk: DiskId,
        _: PgId,
        _: u64,
        _: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        Err(BlobError::DiskFailed(disk))
    }

    async fn forget(
        &self,
        disk: DiskId,
        _: PgId,
        _: u64,
        _: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        Err(BlobError::DiskFailed(disk))
    }

    async fn evict(&self, disk: DiskId, _: PgId, _: u64, _: Vec<ChunkId>) -> Result<(), BlobError> {
        Err(BlobError::DiskFailed(disk))
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        self.check(disk)?;
        let now = self.listing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.listing.fetch_sub(1, Ordering::SeqCst);
        Ok(vec![(PgId(1), 1), (PgId(9), 4)])
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        _: Option<ChunkId>,
        _: u32,
    ) -> Result<ChunkPage, BlobError> {
        self.check(disk)?;
        let disks = self.disks.lock();
        let held = disks.get(&disk).into_iter().flatten();
        let entries = held.filter(|(id, _)| id.pg() == pg);
        let entries = entries.map(|(id, (object, bytes))| ChunkEntry {
            id: *id,
            owner: ChunkOwner {
                bucket: BACKUP_BUCKET,
                object: *object,
            },
            length: u32::try_from(bytes.len()).unwrap(),
            digest: 0,
            deleted: false,
            damaged: false,
        });
        Ok(ChunkPage {
            entries: entries.collect(),
            next_after: None,
        })
    }

    async fn verify(
        &self,
        disk: DiskId,
        _: PgId,
        _: Option<ChunkId>,
        _: u64,
    ) -> Result<VerifyPage, BlobError> {
        Err(BlobError::DiskFailed(disk))
    }

    async fn open_pg(&self, disk: DiskId, _: PgId, _: u64) -> Result<(), BlobError> {
        Err(BlobError::DiskFailed(disk))
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        if self.opening.load(Ordering::SeqCst) {
            return Err(BlobError::Unreachable("they are being opened".to_owned()));
        }
        let status = |id: &DiskId| DiskStatus {
            id: *id,
            health: DiskHealth::Healthy,
            total_bytes: 1,
            free_bytes: 1,
            live_bytes: 0,
            reclaimable_bytes: 0,
            chunks: 0,
        };
        Ok(self.disks.lock().keys().map(status).collect())
    }
}

/// What a node says.
#[derive(Clone)]
struct Said {
    node: u64,
    peers: Arc<Mutex<Vec<PeerNode>>>,
    /// Who leads the root, as it sees it.
    leader: Arc<Mutex<Option<u64>>>,
}

fn json(value: &impl Serialize) -> Result<Response<admin::Report>, Status> {
    let json = serde_json::to_string(value).unwrap();
    Ok(Response::new(admin::Report { json }))
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not here"))
}

type Reports = Pin<Box<dyn Stream<Item = Result<admin::Report, Status>> + Send>>;

#[async_trait]
impl admin::admin_server::Admin for Said {
    async fn status(
        &self,
        _: Request<admin::StatusRequest>,
    ) -> Result<Response<admin::Report>, Status> {
        json(&ClusterStatus {
            shards: vec![ShardStatus {
                leader: *self.leader.lock(),
                ..ShardStatus::default()
            }],
            ..ClusterStatus::default()
        })
    }

    async fn describe_node(
        &self,
        _: Request<admin::DescribeNodeRequest>,
    ) -> Result<Response<admin::Report>, Status> {
        json(&NodeReport {
            node: self.node,
            ..NodeReport::default()
        })
    }

    async fn list_peers(
        &self,
        _: Request<admin::ListPeersRequest>,
    ) -> Result<Response<admin::Report>, Status> {
        json(&Peers {
            epoch: 5,
            nodes: self.peers.lock().clone(),
        })
    }

    async fn learn_peers(
        &self,
        _: Request<admin::LearnPeersRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        Ok(Response::new(admin::Done::default()))
    }

    async fn create_token(
        &self,
        _: Request<admin::CreateTokenRequest>,
    ) -> Result<Response<admin::CreateTokenReply>, Status> {
        no()
    }

    async fn remove_node(
        &self,
        _: Request<admin::RemoveNodeRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        no()
    }

    async fn remove_disk(
        &self,
        _: Request<admin::RemoveDiskRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        no()
    }

    async fn readmit_disk(
        &self,
        _: Request<admin::ReadmitDiskRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        no()
    }

    async fn take_hints(
        &self,
        _: Request<admin::TakeHintsRequest>,
    ) -> Result<Response<admin::TakeHintsReply>, Status> {
        no()
    }

    async fn trigger(
        &self,
        _: Request<admin::TriggerRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        no()
    }

    type FsckStream = Reports;

    async fn fsck(&self, _: Request<admin::FsckRequest>) -> Result<Response<Reports>, Status> {
        no()
    }

    type ScrubStream = Reports;

    async fn scrub(&self, _: Request<admin::ScrubRequest>) -> Result<Response<Reports>, Status> {
        no()
    }

    async fn rotate_ca(
        &self,
        _: Request<admin::RotateCaRequest>,
    ) -> Result<Response<admin::RotateCaReply>, Status> {
        no()
    }
}

/// Keeps parts on the first disk of every shelf.
struct Pool(Vec<Arc<Shelf>>, AtomicU32);

#[async_trait]
impl BackupSink for Pool {
    async fn put(&self, object: ObjectId, part: Bytes) -> Result<Stored, BackupError> {
        let unique = self.1.fetch_add(1, Ordering::SeqCst);
        let chunk = ChunkId::new(PgId(1), u128::from(unique));
        for shelf in &self.0 {
            let mut disks = shelf.disks.lock();
            let first = disks.values_mut().next().unwrap();
            first.insert(chunk, (object, part.clone()));
        }
        Ok(Stored {
            chunks: vec![chunk],
        })
    }

    async fn delete(&self, _: &[ChunkId]) -> Vec<ChunkId> {
        Vec::new()
    }
}

/// A storage node that runs.
struct Node {
    said: Said,
    shelf: Arc<Shelf>,
    address: String,
    running: Runtime,
    _listener: Listener,
}

impl Node {
    /// `socket` is given so that an address is known before its node runs.
    fn start(runtime: &Runtime, said: Said, shelf: Arc<Shelf>, socket: TcpListener) -> Self {
        let running = runtime.child();
        let address = socket.local_addr().unwrap().to_string();
        let security = Security::Plain {
            cluster_id: CLUSTER.to_owned(),
            local: Peer::Node(NodeId(said.node)),
        };
        let admin = admin::admin_server::AdminServer::new(said.clone());
        let node: Arc<dyn granary_blob_api::BlobNode> = shelf.clone();
        let access = [
            admin::admin_server::SERVICE_NAME,
            "granary.blob.Blob/Disks",
            "granary.blob.Blob/Groups",
            "granary.blob.Blob/List",
            "granary.blob.Blob/Get",
        ];
        let access = access
            .into_iter()
            .fold(AccessTable::default(), |all, name| {
                all.with(name, Access::AdminOrNodes)
            });
        let listener = Listener::start(
            &running,
            socket,
            security,
            Arc::new(AddressBook::in_memory(Vec::new())),
            vec![
                Routes::new(admin),
                Routes::new(BlobService::new(node, ServerLimits::default())),
            ],
            access,
            ListenerConfig::default(),
        );
        Self {
            said,
            shelf,
            address,
            running,
            _listener: listener.unwrap(),
        }
    }
}

/// A cluster of a meta node 1, which is gone, and storage nodes 2 and 3 with a disk each.
struct World {
    runtime: Runtime,
    folder: TempDir,
    nodes: Vec<Node>,
}

fn peer(node: u64, address: &str, role: &str) -> PeerNode {
    PeerNode {
        node,
        address: address.to_owned(),
        zone: "z".to_owned(),
        roles: vec![role.to_owned()],
        gateway: String::new(),
        removed: false,
    }
}

impl World {
    async fn new() -> Self {
        let runtime = Runtime::system();
        let folder = tempfile::tempdir().unwrap();
        let (mut nodes, peers) = (Vec::new(), Arc::new(Mutex::default()));
        for node in [2, 3] {
            let said = Said {
                node,
                peers: Arc::clone(&peers),
                leader: Arc::default(),
            };
            let shelf = Arc::new(Shelf::default());
            shelf
                .disks
                .lock()
                .insert(DiskId(node * 10), BTreeMap::new());
            shelf
                .disks
                .lock()
                .insert(DiskId(node * 10 + 1), BTreeMap::new());
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            nodes.push(Node::start(&runtime, said, shelf, socket));
        }
        let known = nodes
            .iter()
            .map(|n| peer(n.said.node, &n.address, "storage"));
        *peers.lock() = known.chain([peer(1, "127.0.0.1:1", "meta")]).collect();
        let world = Self {
            runtime,
            folder,
            nodes,
        };
        world.write_admin_dir();
        world.back_up().await;
        world
    }

    fn admin_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("kept")
    }

    fn write_admin_dir(&self) {
        let (dir, key) = (self.admin_dir(), NodeKey::generate().unwrap());
        std::fs::create_dir(&dir).unwrap();
        let authority = Authority::generate(&self.runtime, CLUSTER).unwrap();
        let signed = authority.issue_admin(&self.runtime, CLUSTER, &key).unwrap();
        let vault = crate::vault::Vault::open_or_make(
            &dir.join("master.key"),
            self.runtime.entropy().as_ref(),
        );
        vault.unwrap();
        for (name, text) in [
            ("ca.pem", certificate_pem(authority.certificate())),
            ("ca.key", authority.key_pem()),
            ("admin.pem", certificate_pem(&signed)),
            ("admin.key", key.to_pem()),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    /// The cluster as it was before everything was lost.
    async fn back_up(&self) {
        let runtime = self.runtime.child();
        // Made by a version that knew no other level.
        let config = MetaConfig {
            data_shards: 2,
            first_feature_level: 1,
            backs_up: true,
            ..MetaConfig::default()
        };
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let node = MetaNode::open(runtime.child(), NodeId(1), kv, Arc::new(NoPeers), config);
        let node = node.await.unwrap();
        let formed = node.bootstrap(NewCluster {
            cluster_id: CLUSTER.to_owned(),
            region: "r".to_owned(),
            root_account: state::Account {
                id: 1,
                name: "root".to_owned(),
            },
            voters: vec![NodeId(1)],
        });
        formed.await.unwrap();
        let service: Arc<dyn MetaService> = node.clone();
        let meta = Meta::new(runtime.clone(), service);
        let peers = self.nodes[0].said.peers.lock().clone();
        let map = Peers {
            epoch: 1,
            nodes: peers,
        };
        for known in map.into_map().nodes {
            let register = pb::RegisterNode { node: Some(known) };
            meta.propose(register).await.unwrap().unwrap();
        }
        for disk in [20, 21, 30, 31] {
            let disk = state::Disk {
                id: disk,
                node: disk / 10,
                total_bytes: 1,
                state: 0,
                path: format!("/{disk}"),
            };
            let register = pb::RegisterDisk {
                disk: Some(disk),
                ..Default::default()
            };
            meta.propose(register).await.unwrap().unwrap();
        }
        let pool = state::Pool {
            name: "p".to_owned(),
            copies: 2,
            redundancy: granary_types::Redundancy::Lrs.number(),
            ..Default::default()
        };
        let pool = meta.propose(pb::CreatePool { pool: Some(pool) }).await;
        let pool = u32::try_from(pool.unwrap().unwrap().id).unwrap();
        let member = |disk| state::PgMember {
            disk,
            complete: true,
        };
        // No group has disks 21 and 31.
        let groups = vec![state::PlacementGroup {
            members: vec![member(20), member(30)],
            ..Default::default()
        }];
        let created = meta.propose(pb::CreatePgs { pool, groups }).await;
        created.unwrap().unwrap();
        let bucket = pb::CreateBucket {
            bucket: Some(state::Bucket {
                name: "bucket".to_owned(),
                owner: 1,
                storage_class: granary_types::StorageClass::Standard.number(),
                redundancy: granary_types::Redundancy::Lrs.number(),
                acl: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        meta.create_bucket(bucket).await.unwrap().unwrap();
        let shelves = self.nodes.iter().map(|node| Arc::clone(&node.shelf));
        node.start_backup(BackupOptions {
            sink: Arc::new(Pool(shelves.collect(), AtomicU32::new(0))),
            cluster_id: CLUSTER.to_owned(),
            interval: Duration::from_millis(50),
            log_bytes_min: None,
        });
        loop {
            runtime.sleep(Duration::from_millis(200)).await;
            let status = node.backup_status();
            let done = |s: &granary_meta::BackupStatus| s.lag.is_zero() && s.checkpoint.is_some();
            if status.len() == 3 && status.iter().all(done) {
                break;
            }
        }
        node.stop().await.unwrap();
        runtime.stop().await;
    }

    /// The configuration of a new meta node.
    fn config(&self, name: &str) -> StartConfig {
        let state = self.folder.path().join(name);
        let file = self.folder.path().join(format!("{name}.toml"));
        let text = format!(
            "state_dir = {state:?}\nroles = [\"meta\"]\nplaintext = true\n\
             cluster_listen = \"127.0.0.1:2\"\n"
        );
        std::fs::write(&file, text).unwrap();
        StartConfig::of_file(&file).unwrap()
    }

    async fn rebuild(&self, name: &str, accept_loss: bool) -> anyhow::Result<Rebuilt> {
        let wanted = Wanted {
            admin_dir: &self.admin_dir(),
            from: &[self.nodes[0].address.clone()],
            accept_loss,
            tell: &|_| (),
        };
        rebuild(&self.runtime, &self.config(name), &wanted).await
    }

    /// It is refused for this reason, and goes on when the loss is accepted.
    async fn refuses(&self, name: &str, reason: &str) {
        let refused = self.rebuild(name, false).await.unwrap();
        assert_eq!(
            refused.refused.as_deref(),
            Some(LOSS),
            "{name}: {refused:?}"
        );
        let shards = refused.shards.iter().flat_map(|shard| &shard.problems);
        let mut told = refused.problems.iter().chain(shards);
        assert!(
            told.any(|told| told.contains(reason)),
            "{name}: {refused:?}"
        );
        assert_eq!(refused.node_id, None, "{name}");
        let accepted = self.rebuild(name, true).await.unwrap();
        assert!(accepted.node_id.is_some(), "{name}: {accepted:?}");
    }

    fn forget(&self, lost: impl Fn(&BackupObject) -> bool) {
        for node in &self.nodes {
            for disk in node.shelf.disks.lock().values_mut() {
                let kept = |o: &ObjectId| !lost(&BackupObject::of_object_id(*o).unwrap());
                disk.retain(|_, (object, _)| kept(object));
            }
        }
    }
}

#[tokio::test]
async fn what_could_not_be_read_refuses_the_rebuild() {
    let world = World::new().await;
    let [two, three] = &world.nodes[..] else {
        panic!("two nodes");
    };
    three.shelf.broken.lock().insert(DiskId(30));
    world.refuses("broken", "disk 30").await;
    three.shelf.broken.lock().clear();

    three.shelf.opening.store(true, Ordering::SeqCst);
    world.refuses("opening", "they are being opened").await;
    three.shelf.opening.store(false, Ordering::SeqCst);

    let unmounted = three.shelf.disks.lock().remove(&DiskId(30)).unwrap();
    world.refuses("unmounted", "disk 30 of node 3").await;
    three.shelf.disks.lock().insert(DiskId(30), unmounted);

    // Nobody needs that one any more.
    three.shelf.disks.lock().remove(&DiskId(31));
    // A call that fails once is no loss.
    for node in [two, three] {
        node.shelf.hiccups.store(2, Ordering::SeqCst);
    }
    let whole = world.rebuild("whole", false).await.unwrap();
    assert_eq!((&whole.refused, &whole.problems), (&None, &Vec::new()));
    assert_eq!((whole.disks, &whole.removed), (3, &vec![1]), "{whole:?}");
    assert_eq!(whole.unknown_groups, [9]);
    assert!(two.shelf.most.load(Ordering::SeqCst) > 1, "disks at once");

    // The log of a shard is damaged: what the checkpoint does not have is lost.
    for node in &world.nodes {
        for (object, bytes) in node
            .shelf
            .disks
            .lock()
            .values_mut()
            .flat_map(BTreeMap::values_mut)
        {
            let part = BackupObject::of_object_id(*object).unwrap();
            let beyond = (part.position.0, part.position.1 + 1_000_000);
            if part.shard == ShardId::ROOT && part.kind == BackupKind::Log {
                let object_after = BackupObject {
                    position: beyond,
                    part: 1,
                    ..part
                };
                *object = object_after.to_object_id().unwrap();
                *bytes = Bytes::from_static(b"damaged");
            }
        }
    }
    world.refuses("damaged", "there is log up to entry").await;

    world.forget(|part| part.shard == ShardId(1));
    world.refuses("missing", "begins anew, empty").await;

    three.running.stop().await;
    world.refuses("silent", "node 3 at").await;
    // Its disks were put into another machine.
    let moved = std::mem::take(&mut *three.shelf.disks.lock());
    two.shelf.disks.lock().extend(moved);
    let whole = world.rebuild("moved", true).await.unwrap();
    assert_eq!(whole.problems, Vec::<String>::new());
    world.runtime.stop().await;
}

#[tokio::test]
async fn nothing_is_rebuilt_beside_metadata_that_lives() {
    let world = World::new().await;
    *world.nodes[1].said.leader.lock() = Some(1);
    for accept_loss in [false, true] {
        let refused = world.rebuild("led", accept_loss).await.unwrap();
        let why = refused.refused.unwrap();
        assert!(
            why.starts_with("the metadata lives: node 1 leads shard 0"),
            "{why}"
        );
        assert_eq!(refused.node_id, None);
    }
    *world.nodes[1].said.leader.lock() = None;
    // One of several meta nodes is left, and has no majority.
    world.nodes[0].said.peers.lock()[1]
        .roles
        .push("meta".to_owned());
    for accept_loss in [false, true] {
        let refused = world.rebuild("minority", accept_loss).await.unwrap();
        let why = refused.refused.unwrap();
        let expected = format!("node 3 at {} runs and has metadata", world.nodes[1].address);
        assert!(why.starts_with(&expected), "{why}");
        assert_eq!(refused.node_id, None);
    }
    world.nodes[0].said.peers.lock()[1].roles.pop();
    let rebuilt = world.rebuild("minority", false).await.unwrap();
    assert!(rebuilt.node_id.is_some(), "{rebuilt:?}");
    world.runtime.stop().await;
}

#[tokio::test]
async fn two_rebuilds_do_not_share_a_state_directory() {
    let world = World::new().await;
    let state = world.folder.path().join("state");
    // The root of a file system of its own.
    std::fs::create_dir_all(state.join("lost+found")).unwrap();
    let other = RealVfs.lock(&state).unwrap();
    let error = world.rebuild("state", false).await.unwrap_err();
    assert!(format!("{error:#}").contains("is in use"), "{error:#}");
    assert!(!state.join("rebuilding").exists(), "it is the other one's");
    drop(other);
    // What a run that was cut off has left, the operator's directory half copied.
    std::fs::create_dir_all(state.join("rebuilding/admin")).unwrap();
    std::fs::write(state.join("rebuilding/admin/ca.pem"), "").unwrap();
    let rebuilt = world.rebuild("state", false).await.unwrap();
    assert!(rebuilt.node_id.is_some(), "{rebuilt:?}");
    for name in ["ca.pem", "ca.key", "admin.pem", "admin.key", "master.key"] {
        let kept = std::fs::read(world.admin_dir().join(name)).unwrap();
        assert_eq!(std::fs::read(state.join("admin").join(name)).unwrap(), kept);
    }
    // An empty database in place of this one is missed from the first start on.
    assert!(state.join("db.stamp").exists());
    // Run again, it tells the others once more.
    let again = world.rebuild("state", false).await.unwrap();
    assert_eq!(again.node_id, rebuilt.node_id);
    world.runtime.stop().await;
}
