//! Random commands on a node that backs itself up into a pool which refuses, repeats and deletes;
//! then every replica is lost, and what is put back has the rows that were backed up, byte by byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_kv::{Direction, Kv, KvRead, MemoryKv, Space};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Entropy, Runtime, SeededEntropy, SimulatedClock, within};
use granary_types::{BucketId, ChunkId, NodeId, ObjectId, PgId, Redundancy, ShardId, StorageClass};
use parking_lot::Mutex;

use super::{
    BackupError, BackupSink, BackupSource, Catalog, RestoreError, Stored, Wholeness, renew_root,
    restore_shard, verify_whole,
};
use crate::keyspace::Kind;
use crate::{BackupOptions, MetaConfig, MetaNode, NewCluster};

const CLUSTER: &str = "c";
const LIMIT: Duration = Duration::from_secs(600);

/// A storage pool in memory.
struct Pool {
    chunks: Mutex<BTreeMap<ChunkId, (ObjectId, Bytes)>>,
    entropy: SeededEntropy,
    /// Of a thousand writes so many fail, half of them after the bytes are there.
    failing: AtomicU64,
    deleted: AtomicU64,
}

impl Pool {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            chunks: Mutex::default(),
            entropy: SeededEntropy::new(seed),
            failing: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
        })
    }

    fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for (chunk, (object, _)) in self.chunks.lock().iter() {
            catalog.note(*object, *chunk);
        }
        catalog
    }
}

#[async_trait]
impl BackupSink for Pool {
    async fn put(&self, object: ObjectId, part: Bytes) -> Result<Stored, BackupError> {
        assert!(part.len() <= granary_types::limits::CHUNK_BYTES_MAX);
        let fails = self.entropy.below(1000) < self.failing.load(Ordering::SeqCst);
        let chunk = ChunkId::new(PgId(1), self.entropy.next_u128());
        if !fails || self.entropy.below(2) == 0 {
            self.chunks.lock().insert(chunk, (object, part));
        }
        match fails {
            true => Err(BackupError::Pool("refused".to_owned())),
            false => Ok(Stored {
                chunks: vec![chunk],
            }),
        }
    }

    async fn delete(&self, chunks: &[ChunkId]) -> Vec<ChunkId> {
        let mut held = self.chunks.lock();
        let mut gone = Vec::new();
        for chunk in chunks {
            assert!(held.remove(chunk).is_some(), "deleted twice");
            gone.push(*chunk);
        }
        self.deleted.fetch_add(gone.len() as u64, Ordering::SeqCst);
        gone
    }
}

#[async_trait]
impl BackupSource for Pool {
    async fn read(&self, chunk: ChunkId) -> Result<Bytes, BackupError> {
        let found = self
            .chunks
            .lock()
            .get(&chunk)
            .map(|(_, bytes)| bytes.clone());
        found.ok_or_else(|| BackupError::Pool("not found".to_owned()))
    }
}

type Row = (Bytes, Bytes);

/// Every row but those that belong to a replica or a node.
fn rows(kv: &MemoryKv) -> Vec<Row> {
    let local = [
        Kind::RaftBookkeeping as u8,
        Kind::RestoreMarker as u8,
        Kind::NodeDatabase as u8,
    ];
    let rows = kv.scan(Space::State, b"", None, Direction::Forward);
    rows.map(Result::unwrap)
        .filter(|(key, _)| !local.contains(&key[4]))
        .collect()
}

fn runtime(seed: u64) -> Runtime {
    let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
    Runtime::simulated(clock, Arc::new(SeededEntropy::new(seed)))
}

/// A node with its store.
struct World {
    runtime: Runtime,
    kv: MemoryKv,
    node: Arc<MetaNode>,
    meta: Meta,
    pool: Arc<Pool>,
}

impl World {
    async fn open(runtime: &Runtime, kv: MemoryKv, id: NodeId, pool: &Arc<Pool>) -> Self {
        let store: Arc<dyn Kv> = Arc::new(kv.clone());
        let config = MetaConfig {
            data_shards: 2,
            ..MetaConfig::default()
        };
        let node = MetaNode::open(runtime.child(), id, store, Arc::new(NoPeers), config);
        let node = node.await.unwrap();
        let service: Arc<dyn MetaService> = node.clone();
        Self {
            runtime: runtime.clone(),
            kv,
            meta: Meta::new(runtime.clone(), service),
            node,
            pool: Arc::clone(pool),
        }
    }

    fn back_up(&self) {
        self.node.start_backup(BackupOptions {
            sink: self.pool.clone(),
            cluster_id: CLUSTER.to_owned(),
            interval: Duration::from_secs(1),
            log_bytes_min: Some(4096),
        });
    }

    async fn bucket(&self, name: &str) -> pb::state::Bucket {
        let create = pb::CreateBucket {
            bucket: Some(pb::state::Bucket {
                name: name.to_owned(),
                owner: 1,
                storage_class: StorageClass::Standard.number(),
                redundancy: Redundancy::Lrs.number(),
                acl: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        self.meta.create_bucket(create).await.unwrap().unwrap()
    }

    fn at(bucket: &pb::state::Bucket, n: u64) -> Option<pb::Position> {
        Some(pb::Position {
            bucket_id: bucket.id,
            key: format!("key{n}").into(),
            generation: bucket.generation,
        })
    }

    async fn put(&self, bucket: &pb::state::Bucket, n: u64, body: &str) {
        let command = pb::PutObject {
            at: Self::at(bucket, n),
            payload: Some(pb::Payload {
                inline: Bytes::copy_from_slice(body.as_bytes()),
                size: body.len() as u64,
                ..Default::default()
            }),
            ..Default::default()
        };
        self.meta.propose(command).await.unwrap().unwrap();
    }

    /// Some random commands, with pauses.
    async fn commands(&self, bucket: &pb::state::Bucket, count: u64) {
        let entropy = Arc::clone(self.runtime.entropy());
        for _ in 0..count {
            let n = entropy.below(40);
            match entropy.below(10) {
                0..=5 => {
                    let length = usize::try_from(entropy.below(600)).unwrap();
                    self.put(bucket, n, &format!("{n}").repeat(length)).await;
                }
                6..=8 => {
                    let delete = pb::DeleteObject {
                        at: Self::at(bucket, n),
                        ..Default::default()
                    };
                    self.meta.propose(delete).await.unwrap().unwrap();
                }
                _ => {
                    let pause = Duration::from_millis(entropy.below(3000));
                    self.runtime.sleep(pause).await;
                }
            }
        }
    }

    async fn split(&self, bucket: &pb::state::Bucket, key: &str) {
        let nonce = self.runtime.entropy().next_u128().to_be_bytes();
        let nonce = Bytes::copy_from_slice(&nonce);
        let child = self.meta.propose(pb::AllocateShard { nonce }).await;
        let child = child.unwrap().unwrap();
        let segments = self.meta.segments(BucketId(bucket.id)).await.unwrap();
        let split = pb::SplitRange {
            split_bucket: bucket.id,
            split_key: Bytes::copy_from_slice(key.as_bytes()),
            child_shard: u32::try_from(child.id).unwrap(),
            child_home_slab: child.slab,
            ..Default::default()
        };
        let parent = segments[0].shard;
        self.meta.propose_to(parent, split).await.unwrap().unwrap();
    }

    /// Waits until nothing is left to back up and nothing changes any more; the rows by then.
    async fn settled(&self) -> Vec<Row> {
        let settling = async {
            let mut before = Vec::new();
            loop {
                self.runtime.sleep(Duration::from_secs(5)).await;
                let status = self.node.backup_status();
                let all = status.len() == self.node.raft().groups().len();
                let now = rows(&self.kv);
                if all && status.iter().all(|shard| shard.lag.is_zero()) && now == before {
                    return now;
                }
                before = now;
            }
        };
        within(LIMIT, settling).await.unwrap()
    }

    /// The node is gone, and everything it had.
    async fn lose(self) -> Arc<Pool> {
        self.node.stop().await.unwrap();
        self.pool
    }
}

async fn first(seed: u64) -> (World, pb::state::Bucket) {
    let runtime = runtime(seed);
    let pool = Pool::new(seed);
    let world = World::open(&runtime, MemoryKv::new(), NodeId(1), &pool).await;
    let formed = world.node.bootstrap(NewCluster {
        cluster_id: CLUSTER.to_owned(),
        region: "r".to_owned(),
        root_account: pb::state::Account {
            id: 1,
            name: "root".to_owned(),
        },
        voters: vec![NodeId(1)],
    });
    formed.await.unwrap();
    let bucket = world.bucket("bucket").await;
    (world, bucket)
}

/// Puts everything back that the pool has, and says what it is before anything else happens to it.
async fn rebuilt(runtime: &Runtime, pool: &Arc<Pool>) -> (MemoryKv, Vec<Row>, NodeId) {
    let kv = MemoryKv::new();
    let store: Arc<dyn Kv> = Arc::new(kv.clone());
    let catalog = pool.catalog();
    let mut restored = Vec::new();
    for shard in catalog.shards() {
        let put_back = restore_shard(
            runtime,
            Arc::clone(&store),
            pool.as_ref(),
            &catalog,
            (CLUSTER, shard),
        );
        restored.push(put_back.await.unwrap());
    }
    let found = rows(&kv);
    let all: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    assert_eq!(verify_whole(&kv, &all).unwrap(), Wholeness::default());
    assert_eq!(verify_whole(&kv, &all[1..]).unwrap().missing, [all[0]]);
    let root = renew_root(&kv, &[(PgId(77), 5)], &[NodeId(3)]).unwrap();
    assert!(root.info.next_pg > 77 && root.node.0 > 3);
    for shard in restored {
        shard.go_on_alone(root.node).unwrap();
    }
    kv.sync().unwrap();
    (kv, found, root.node)
}

fn difference(expected: &[Row], found: &[Row]) -> Option<String> {
    let (expected, found): (BTreeMap<_, _>, BTreeMap<_, _>) = (
        expected.iter().cloned().collect(),
        found.iter().cloned().collect(),
    );
    let keys = expected.keys().chain(found.keys());
    let mut other = keys.filter(|key| expected.get(*key) != found.get(*key));
    let first = other.next()?;
    Some(format!(
        "{} rows were, {} are; key {first:02x?}: {:?} instead of {:?}",
        expected.len(),
        found.len(),
        found.get(first),
        expected.get(first)
    ))
}

async fn everything_is_lost_twice(seed: u64) {
    let (world, bucket) = first(seed).await;
    let runtime = world.runtime.clone();
    world.back_up();
    world.pool.failing.store(seed % 3 * 150, Ordering::SeqCst);
    for round in 0..3 {
        world.commands(&bucket, 60).await;
        if round == 1 && seed.is_multiple_of(2) {
            world.split(&bucket, "key2").await;
        }
    }
    let expected = world.settled().await;
    // What comes afterwards does not get into the pool.
    world.pool.failing.store(1000, Ordering::SeqCst);
    let held = world.pool.chunks.lock().clone();
    world.put(&bucket, 100, "lost").await;
    runtime.sleep(Duration::from_secs(10)).await;
    let lag = world.node.backup_status().iter().map(|s| s.lag).max();
    assert!(lag > Some(Duration::from_secs(5)), "seed {seed}: {lag:?}");
    let pool = world.lose().await;
    *pool.chunks.lock() = held;
    let (kv, found, node) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None, "seed {seed}");

    // The cluster goes on from there, is backed up into the same pool, and is lost again.
    pool.failing.store(0, Ordering::SeqCst);
    let world = World::open(&runtime, kv, node, &pool).await;
    world.node.wait_ready(LIMIT).await.unwrap();
    world.back_up();
    world.commands(&bucket, 100).await;
    world.put(&bucket, 101, "kept").await;
    let again = world.bucket("bucket2").await;
    assert!(again.id != bucket.id);
    let expected = world.settled().await;
    let pool = world.lose().await;
    let (kv, found, node) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None, "seed {seed}, again");
    let world = World::open(&runtime, kv, node, &pool).await;
    world.node.wait_ready(LIMIT).await.unwrap();
    let query = pb::GetVersion {
        at: World::at(&bucket, 101),
        with_body: true,
        ..Default::default()
    };
    let read = world.meta.query(query).await.unwrap();
    assert_eq!(read.inline, "kept", "seed {seed}");
    world.node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_backed_up_is_there_after_everything_was_lost() {
    for seed in 0..12 {
        Box::pin(everything_is_lost_twice(seed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_pool_does_not_fill_up_with_old_generations() {
    let (world, bucket) = first(50).await;
    world.back_up();
    let mut most = 0;
    for _ in 0..30 {
        world.commands(&bucket, 60).await;
        let held: usize = world
            .pool
            .chunks
            .lock()
            .values()
            .map(|(_, b)| b.len())
            .sum();
        most = most.max(held);
    }
    world.settled().await;
    let deleted = world.pool.deleted.load(Ordering::SeqCst);
    assert!(deleted > 100, "{deleted} chunks deleted");
    let catalog = world.pool.catalog();
    for shard in catalog.shards() {
        let there = catalog.summary(shard);
        assert!((1..=3).contains(&there.checkpoints), "{shard}: {there:?}");
    }
    world.node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_checkpoint_gives_way_to_the_one_before_and_the_log() {
    let (world, bucket) = first(60).await;
    world.back_up();
    for _ in 0..4 {
        world.commands(&bucket, 60).await;
    }
    let expected = world.settled().await;
    let runtime = world.runtime.clone();
    let pool = world.lose().await;
    let catalog = pool.catalog();
    let mut older = 0;
    for shard in catalog.shards() {
        let found = catalog.checkpoints(shard);
        if let [newest, _, ..] = found.as_slice() {
            let mut chunks = pool.chunks.lock();
            for chunk in &newest.parts[0] {
                let (_, bytes) = chunks.get_mut(chunk).unwrap();
                let mut flipped = bytes.to_vec();
                flipped[40] ^= 1;
                *bytes = flipped.into();
            }
            older += 1;
        }
    }
    assert!(older > 0, "no shard has two checkpoints");
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
    // Without any checkpoint there is nothing to put the log on.
    pool.chunks.lock().retain(|_, (object, _)| {
        let part = granary_types::BackupObject::of_object_id(*object).unwrap();
        part.shard != ShardId(1) || part.kind == granary_types::BackupKind::Log
    });
    let store: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let catalog = pool.catalog();
    let none = restore_shard(
        &runtime,
        store,
        pool.as_ref(),
        &catalog,
        (CLUSTER, ShardId(1)),
    );
    let none = none.await.unwrap_err();
    assert!(matches!(none, RestoreError::NoCheckpoint { .. }), "{none}");
}
