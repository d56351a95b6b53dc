//! Random commands on a node that backs itself up into a pool which refuses, repeats and deletes;
//! then every replica is lost, and what is put back has the rows that were backed up, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, MemoryKv, Scan, Space, WriteBatch};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Entropy, Runtime, SeededEntropy, SimulatedClock, within};
use granary_types::{
    BackupKind, BackupObject, BucketId, ChunkId, NodeId, ObjectId, PgId, Redundancy, ShardId,
    StorageClass,
};
use parking_lot::Mutex;

use super::{
    BackupError, BackupSink, BackupSource, Catalog, Renewal, RestoreError, RestoredShard, Seen,
    Stored, Wholeness, buckets_in_use, plan_renewal, restore_shard, settle_overlap, verify_whole,
    without_backup,
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
    /// What it does not take.
    refused: Mutex<Vec<BackupKind>>,
    /// Of which shard it takes no checkpoint.
    without: Mutex<Option<ShardId>>,
    /// What it cannot delete.
    stuck: Mutex<BTreeSet<ChunkId>>,
    deleted: AtomicU64,
}

impl Pool {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            chunks: Mutex::default(),
            entropy: SeededEntropy::new(seed),
            failing: AtomicU64::new(0),
            refused: Mutex::default(),
            without: Mutex::default(),
            stuck: Mutex::default(),
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

    fn refuse(&self, kinds: &[BackupKind]) {
        *self.refused.lock() = kinds.to_vec();
    }

    /// Loses the parts of which that is true.
    fn forget(&self, lost: impl Fn(&BackupObject) -> bool) {
        let kept = |object: &ObjectId| !lost(&BackupObject::of_object_id(*object).unwrap());
        self.chunks.lock().retain(|_, (object, _)| kept(object));
    }
}

#[async_trait]
impl BackupSink for Pool {
    async fn put(&self, object: ObjectId, part: Bytes) -> Result<Stored, BackupError> {
        assert!(part.len() <= granary_types::limits::CHUNK_BYTES_MAX);
        let named = BackupObject::of_object_id(object).unwrap();
        let unwanted = *self.without.lock() == Some(named.shard) && named.kind != BackupKind::Log;
        if unwanted || self.refused.lock().contains(&named.kind) {
            return Err(BackupError::Pool("refused".to_owned()));
        }
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
            if self.stuck.lock().contains(chunk) {
                continue;
            }
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

/// A store of which one row cannot be read in a view.
#[derive(Clone)]
struct BadBlock {
    kv: MemoryKv,
    bad: Arc<Mutex<Option<Bytes>>>,
}

struct BadView {
    view: Arc<dyn KvRead>,
    bad: Arc<Mutex<Option<Bytes>>>,
}

impl KvRead for BadView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.view.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let bad = self.bad.lock().clone();
        let entries = self.view.scan(space, start, end, direction);
        Box::new(entries.map(move |entry| match entry {
            Ok((key, _)) if Some(&key) == bad.as_ref() => Err(KvError::Corrupt("a block".into())),
            entry => entry,
        }))
    }
}

impl KvRead for BadBlock {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.kv.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        self.kv.scan(space, start, end, direction)
    }
}

impl Kv for BadBlock {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        Arc::new(BadView {
            view: self.kv.snapshot(),
            bad: Arc::clone(&self.bad),
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.kv.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.kv.sync()
    }

    fn stats(&self) -> KvStats {
        self.kv.stats()
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
    /// See [`BadBlock`].
    bad: Arc<Mutex<Option<Bytes>>>,
    node: Arc<MetaNode>,
    meta: Meta,
    pool: Arc<Pool>,
}

impl World {
    async fn open(runtime: &Runtime, kv: MemoryKv, id: NodeId, pool: &Arc<Pool>) -> Self {
        // A log that is soon cut when nobody takes it.
        Self::open_keeping(50, runtime, kv, id, pool).await
    }

    /// Keeps so many entries of the log.
    async fn open_keeping(
        entries: u64,
        runtime: &Runtime,
        kv: MemoryKv,
        id: NodeId,
        pool: &Arc<Pool>,
    ) -> Self {
        let bad = Arc::default();
        let store: Arc<dyn Kv> = Arc::new(BadBlock {
            kv: kv.clone(),
            bad: Arc::clone(&bad),
        });
        let mut config = MetaConfig {
            data_shards: 2,
            backs_up: true,
            ..MetaConfig::default()
        };
        config.raft.keep_entries = entries;
        config.raft.snapshot_every_entries = entries;
        let node = MetaNode::open(runtime.child(), id, store, Arc::new(NoPeers), config);
        let node = node.await.unwrap();
        let service: Arc<dyn MetaService> = node.clone();
        Self {
            runtime: runtime.clone(),
            kv,
            bad,
            meta: Meta::new(runtime.clone(), service),
            node,
            pool: Arc::clone(pool),
        }
    }

    /// A node after a rebuild.
    async fn renewed(runtime: &Runtime, kv: MemoryKv, plan: Renewal, pool: &Arc<Pool>) -> Self {
        let world = Self::open(runtime, kv, plan.node, pool).await;
        world.node.wait_ready(LIMIT).await.unwrap();
        world.meta.propose(plan.command).await.unwrap().unwrap();
        for bucket in buckets_in_use(&world.kv).unwrap() {
            world.meta.configure_again(&bucket).await.unwrap();
        }
        world
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

    async fn split(&self, bucket: &pb::state::Bucket, key: &str) -> (ShardId, ShardId) {
        let (parent, split) = self.splitting(bucket, key).await;
        let child = ShardId(split.child_shard);
        self.meta.propose_to(parent, split).await.unwrap().unwrap();
        (parent, child)
    }

    /// A shard, and how it could be split at a key of the bucket's first range.
    async fn splitting(&self, bucket: &pb::state::Bucket, key: &str) -> (ShardId, pb::SplitRange) {
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
        (segments[0].shard, split)
    }

    /// The keys of a bucket, as every shard lists its part.
    async fn listed(&self, bucket: &pb::state::Bucket) -> Vec<String> {
        self.meta.refresh_map().await.unwrap();
        let mut keys = Vec::new();
        for segment in self.meta.segments(BucketId(bucket.id)).await.unwrap() {
            let query = pb::ListObjects {
                bucket_id: bucket.id,
                limit: 1000,
                start_key: segment.start_key,
                bounded: segment.end_key.is_some(),
                end_key: segment.end_key.unwrap_or_default(),
                ..Default::default()
            };
            let page = self.meta.query_at(segment.shard, query).await.unwrap();
            for item in page.items {
                let Some(pb::list_item::Item::Object(entry)) = item.item else {
                    panic!("a prefix");
                };
                keys.push(String::from_utf8(entry.key.to_vec()).unwrap());
            }
        }
        keys
    }

    /// The longest time for which something of a shard has not been backed up.
    fn lag(&self) -> Duration {
        let lags = self.node.backup_status().into_iter().map(|s| s.lag);
        lags.max().unwrap()
    }

    /// What it says of a bucket now.
    async fn known(&self, bucket: &pb::state::Bucket) -> pb::state::Bucket {
        let query = pb::GetBucketById { id: bucket.id };
        let found = self.meta.query(query).await.unwrap();
        found.bucket.unwrap()
    }

    async fn read(&self, bucket: &pb::state::Bucket, n: u64) -> Bytes {
        let query = pb::GetVersion {
            at: Self::at(bucket, n),
            with_body: true,
            ..Default::default()
        };
        self.meta.query(query).await.unwrap().inline
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

    /// Waits until the log of every shard is in the pool, with or without a checkpoint; the rows by then.
    async fn logged(&self) -> Vec<Row> {
        let logging = async {
            loop {
                self.runtime.sleep(Duration::from_secs(1)).await;
                let catalog = self.pool.catalog();
                let groups = self.node.raft().groups();
                let behind = groups.iter().any(|group| {
                    let logs = catalog.logs(group.shard());
                    let newest = logs.iter().map(|log| log.last.index).max();
                    newest != group.last_applied()
                });
                if !behind {
                    return rows(&self.kv);
                }
            }
        };
        within(LIMIT, logging).await.unwrap()
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

/// Puts everything back that the pool has.
async fn put_back(runtime: &Runtime, pool: &Arc<Pool>) -> (MemoryKv, Vec<RestoredShard>) {
    let kv = MemoryKv::new();
    let store: Arc<dyn Kv> = Arc::new(kv.clone());
    let catalog = pool.catalog();
    let mut restored = Vec::new();
    for shard in catalog.shards() {
        let whose = (CLUSTER, shard);
        let store = Arc::clone(&store);
        match restore_shard(runtime, store, pool.as_ref(), &catalog, whose).await {
            Ok(put_back) => restored.push(put_back),
            Err(RestoreError::NoCheckpoint { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    (kv, restored)
}

/// What was put back becomes a node's.
fn go_on(kv: &MemoryKv, restored: Vec<RestoredShard>) -> Renewal {
    let seen = Seen {
        groups: vec![(PgId(77), 5)],
        nodes: vec![NodeId(3)],
        shards: restored.iter().map(|shard| shard.shard).collect(),
    };
    let plan = plan_renewal(kv, &seen).unwrap();
    assert!(plan.command.pg == 77 && plan.node.0 > 3);
    assert_eq!(plan.unknown_groups, [PgId(77)]);
    for shard in restored {
        shard.go_on_alone(plan.node).unwrap();
    }
    kv.sync().unwrap();
    plan
}

/// Puts everything back, which must be whole, and says what it is before anything else happens to it.
async fn rebuilt(runtime: &Runtime, pool: &Arc<Pool>) -> (MemoryKv, Vec<Row>, Renewal) {
    let (kv, restored) = put_back(runtime, pool).await;
    for shard in &restored {
        assert_eq!(shard.problems, Vec::<String>::new(), "{shard:?}");
    }
    let found = rows(&kv);
    let all: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    assert_eq!(verify_whole(&kv, &all).unwrap(), Wholeness::default());
    assert_eq!(verify_whole(&kv, &all[1..]).unwrap().missing, [all[0]]);
    let plan = go_on(&kv, restored);
    (kv, found, plan)
}

/// The same, and a node of it whose shards know their buckets again.
async fn reopened(runtime: &Runtime, pool: &Arc<Pool>) -> World {
    let (kv, _, plan) = rebuilt(runtime, pool).await;
    World::renewed(runtime, kv, plan, pool).await
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
    let (kv, found, plan) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None, "seed {seed}");

    // The cluster goes on from there, is backed up into the same pool, and is lost again.
    pool.failing.store(0, Ordering::SeqCst);
    let world = World::renewed(&runtime, kv, plan, &pool).await;
    let bucket = world.known(&bucket).await;
    world.back_up();
    world.commands(&bucket, 100).await;
    world.put(&bucket, 101, "kept").await;
    let again = world.bucket("bucket2").await;
    assert!(again.id != bucket.id);
    let expected = world.settled().await;
    let pool = world.lose().await;
    let (kv, found, plan) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None, "seed {seed}, again");
    let world = World::renewed(&runtime, kv, plan, &pool).await;
    let bucket = world.known(&bucket).await;
    assert_eq!(world.read(&bucket, 101).await, "kept", "seed {seed}");
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
    let (kv, restored) = put_back(&runtime, &pool).await;
    assert_eq!(difference(&expected, &rows(&kv)), None);
    assert!(
        restored.iter().all(|shard| shard.problems.is_empty()),
        "nothing is lost"
    );
    // Without any checkpoint there is nothing to put the log on.
    pool.forget(|part| part.shard == ShardId(1) && part.kind != BackupKind::Log);
    let store: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let catalog = pool.catalog();
    let whose = (CLUSTER, ShardId(1));
    let none = restore_shard(&runtime, store, pool.as_ref(), &catalog, whose).await;
    let none = none.unwrap_err();
    assert!(matches!(none, RestoreError::NoCheckpoint { .. }), "{none}");
}

/// The shard and the last row of a shard whose state takes several parts.
async fn large(world: &World, bucket: &pb::state::Bucket) -> (ShardId, Bytes) {
    let body = "x".repeat(30_000);
    for n in 0..200 {
        world.put(bucket, n, &body).await;
    }
    let segments = world.meta.segments(BucketId(bucket.id)).await.unwrap();
    let mut rows = rows(&world.kv).into_iter();
    let (last, _) = rows.rfind(|(_, value)| value.len() > 20_000).unwrap();
    (segments[0].shard, last)
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_makes_no_checkpoint_without_it() {
    let (world, bucket) = first(70).await;
    let (shard, last) = large(&world, &bucket).await;
    *world.bad.lock() = Some(last);
    world.back_up();
    world.runtime.sleep(Duration::from_secs(1800)).await;
    let status = world.node.backup_status();
    let status = status.iter().find(|status| status.shard == shard).unwrap();
    assert_eq!(status.checkpoint, None, "it lacks rows");
    assert!(status.lag > Duration::from_secs(1700), "{status:?}");
    let summary = world.pool.catalog().summary(shard);
    assert_eq!(summary.checkpoints, 0, "{summary:?}");
    assert!(summary.log_parts > 0, "{summary:?}");
    assert!(
        summary.incomplete < 3,
        "what is of no use is deleted: {summary:?}"
    );
    // The block can be read again, or another node leads.
    *world.bad.lock() = None;
    let expected = world.settled().await;
    let runtime = world.runtime.clone();
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_lacks_rows_is_not_used() {
    let (world, bucket) = first(71).await;
    large(&world, &bucket).await;
    world.back_up();
    world.settled().await;
    let pool = world.lose().await;
    let mut changed = 0;
    for (_, bytes) in pool.chunks.lock().values_mut() {
        let mut part = super::format::Part::decode(bytes.clone()).unwrap();
        if part.kind == BackupKind::Checkpoint && part.part > 0 {
            part.items.pop();
            *bytes = part.encode();
            changed += 1;
        }
    }
    assert!(changed > 0);
    let (kv, restored) = put_back(&runtime(71), &pool).await;
    let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    assert_eq!(verify_whole(&kv, &there).unwrap().missing.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_log_does_not_wait_for_a_turn_to_write_a_checkpoint() {
    let (world, bucket) = first(72).await;
    world.pool.refuse(&[BackupKind::Checkpoint]);
    world.back_up();
    world.commands(&bucket, 60).await;
    world.runtime.sleep(Duration::from_secs(60)).await;
    let catalog = world.pool.catalog();
    for shard in [ShardId::ROOT, ShardId(1), ShardId(2)] {
        let summary = catalog.summary(shard);
        assert!(summary.log_parts > 0, "{shard}: {summary:?}");
    }
    world.node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_new_leader_has_not_checkpointed_yet_is_restored_from_the_old_checkpoint() {
    let (world, bucket) = first(73).await;
    world.back_up();
    world.commands(&bucket, 60).await;
    world.settled().await;
    let (runtime, kv) = (world.runtime.clone(), world.kv.clone());
    let pool = world.lose().await;
    // The same node, after a restart: what it had written is not known to it.
    pool.refuse(&[BackupKind::Checkpoint]);
    let world = World::open(&runtime, kv, NodeId(1), &pool).await;
    world.node.wait_ready(LIMIT).await.unwrap();
    world.back_up();
    world.put(&bucket, 7, "new").await;
    runtime.sleep(Duration::from_secs(30)).await;
    let expected = rows(&world.kv);
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_gap_in_the_log_is_not_backed_up_without_a_new_checkpoint() {
    let (world, bucket) = first(74).await;
    world.back_up();
    world.commands(&bucket, 60).await;
    world.settled().await;
    world.pool.failing.store(1000, Ordering::SeqCst);
    for n in 0..1500 {
        world.put(&bucket, n % 40, "x").await;
    }
    world.pool.failing.store(0, Ordering::SeqCst);
    world.pool.refuse(&[BackupKind::Checkpoint]);
    // Longer than a checkpoint may stand still.
    for minutes in [1, 5, 30, 60] {
        world.put(&bucket, 1, "y").await;
        world.runtime.sleep(Duration::from_secs(minutes * 60)).await;
        let lag = world.lag();
        assert!(
            lag > Duration::from_secs(minutes * 60),
            "{lag:?} after {minutes}"
        );
    }
    world.pool.refuse(&[]);
    let expected = world.settled().await;
    let runtime = world.runtime.clone();
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_cluster_is_rebuilt_again_before_it_has_a_checkpoint_of_its_own() {
    let (world, bucket) = first(75).await;
    world.back_up();
    world.commands(&bucket, 60).await;
    world.settled().await;
    let runtime = world.runtime.clone();
    let earlier = world.pool.chunks.lock().clone();
    world.put(&bucket, 5, "given up").await;
    world.settled().await;
    let pool = world.lose().await;
    // The end was not found; it comes back later.
    let end = std::mem::replace(&mut *pool.chunks.lock(), earlier);
    let world = reopened(&runtime, &pool).await;
    let bucket = world.known(&bucket).await;
    pool.refuse(&[BackupKind::Checkpoint]);
    pool.chunks.lock().extend(end);
    world.back_up();
    world.put(&bucket, 7, "new").await;
    world.bucket("made-since").await;
    runtime.sleep(Duration::from_secs(30)).await;
    let expected = rows(&world.kv);
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);

    // The entries that lead from the old history to the new one are lost.
    let first = |part: &BackupObject| part.position.1 + 1 - u64::from(part.part);
    let later = |part: &BackupObject| part.kind == BackupKind::Log && part.position.0 > 1024;
    let heads: BTreeSet<(ShardId, u64)> = {
        let chunks = pool.chunks.lock();
        let parts = chunks
            .values()
            .map(|(o, _)| BackupObject::of_object_id(*o).unwrap());
        let parts: Vec<BackupObject> = parts.filter(|part| later(part)).collect();
        let least = |shard| parts.iter().filter(|p| p.shard == shard).map(first).min();
        let shards = parts.iter().map(|part| part.shard);
        shards.map(|shard| (shard, least(shard).unwrap())).collect()
    };
    pool.forget(|part| later(part) && heads.contains(&(part.shard, first(part))));
    let (_, restored) = put_back(&runtime, &pool).await;
    for shard in restored {
        let more = pool.catalog().logs(shard.shard);
        let told = more.iter().any(|log| log.last.term > 1024);
        assert_eq!(
            told,
            !shard.problems.is_empty(),
            "{shard:?} {:?}",
            shard.problems
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_of_which_nothing_is_left_begins_anew_and_serves() {
    for half in [false, true] {
        let (world, bucket) = first(76).await;
        let (shard, _) = large(&world, &bucket).await;
        world.back_up();
        world.settled().await;
        let runtime = world.runtime.clone();
        let pool = world.lose().await;
        if half {
            // Its last part is damaged, the first one is not.
            for (object, bytes) in pool.chunks.lock().values_mut() {
                let part = BackupObject::of_object_id(*object).unwrap();
                if part.shard == shard && part.kind == BackupKind::Checkpoint && part.part > 0 {
                    *bytes = Bytes::from_static(b"damaged");
                }
            }
        } else {
            pool.forget(|part| part.shard == shard);
        }
        let (kv, mut restored) = put_back(&runtime, &pool).await;
        let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
        assert_eq!(verify_whole(&kv, &there).unwrap().missing, [shard]);
        let seen_term = pool.catalog().newest_term(shard);
        assert_eq!(seen_term > 0, half);
        let anew = without_backup(Arc::new(kv.clone()), shard, seen_term).unwrap();
        assert_eq!(anew.problems.len(), 1);
        restored.push(anew);
        let plan = go_on(&kv, restored);
        let world = World::renewed(&runtime, kv, plan, &pool).await;
        let bucket = world.known(&bucket).await;
        world.put(&bucket, 1, "again").await;
        assert_eq!(world.read(&bucket, 1).await, "again");
        let page = pb::ListObjects {
            bucket_id: bucket.id,
            limit: 100,
            ..Default::default()
        };
        let listed = world.meta.query_at(shard, page).await.unwrap();
        assert_eq!(listed.items.len(), 1, "nothing of it was left");
        world.bucket("another").await;
        world.back_up();
        let expected = world.settled().await;
        let pool = world.lose().await;
        let (_, found, _) = rebuilt(&runtime, &pool).await;
        assert_eq!(difference(&expected, &found), None, "half: {half}");
    }
}

/// What an earlier life of the cluster left, and nobody can use, must not make the new backup look
/// superseded: the sweep would free it.
#[tokio::test(start_paused = true)]
async fn what_begins_anew_after_an_earlier_rebuild_is_newer_than_what_is_left() {
    let (world, bucket) = first(80).await;
    let (shard, _) = large(&world, &bucket).await;
    world.back_up();
    world.settled().await;
    let runtime = world.runtime.clone();
    let pool = world.lose().await;
    let world = reopened(&runtime, &pool).await;
    world.back_up();
    world.settled().await;
    let pool = world.lose().await;
    let positions = |pool: &Arc<Pool>| {
        let chunks = pool.chunks.lock();
        let parts = chunks
            .values()
            .map(|(object, _)| BackupObject::of_object_id(*object).unwrap());
        let own = parts.filter(|part| part.shard == shard);
        own.map(|part| part.position).collect::<BTreeSet<_>>()
    };
    for (object, bytes) in pool.chunks.lock().values_mut() {
        let part = BackupObject::of_object_id(*object).unwrap();
        if part.shard == shard && part.kind != BackupKind::Log {
            *bytes = Bytes::from_static(b"damaged");
        }
    }
    let old = positions(&pool);
    assert!(old.last().unwrap().0 > 1024, "no earlier rebuild: {old:?}");
    let (kv, mut restored) = put_back(&runtime, &pool).await;
    let seen_term = pool.catalog().newest_term(shard);
    let anew = without_backup(Arc::new(kv.clone()), shard, seen_term).unwrap();
    restored.push(anew);
    let plan = go_on(&kv, restored);
    let world = World::renewed(&runtime, kv, plan, &pool).await;
    let bucket = world.known(&bucket).await;
    world.put(&bucket, 1, "again").await;
    world.back_up();
    world.settled().await;
    let pool = world.lose().await;
    let new: Vec<_> = positions(&pool).difference(&old).copied().collect();
    assert!(!new.is_empty());
    let superseded = new
        .iter()
        .filter(|position| **position <= *old.last().unwrap());
    assert_eq!(superseded.count(), 0, "old {old:?}, new {new:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_whose_deletion_was_lost_half_way_takes_writes() {
    let (world, bucket) = first(77).await;
    world.back_up();
    world.put(&bucket, 1, "kept").await;
    world.settled().await;
    // The root does not hear of it, its shard does.
    let segments = world.meta.segments(BucketId(bucket.id)).await.unwrap();
    let fence = pb::FenceBucket {
        bucket_id: bucket.id,
        generation: bucket.generation + 1,
        action: pb::fence_bucket::Action::Fence.into(),
        segment: Some(pb::Segment::default()),
    };
    let told = world.meta.propose_to(segments[0].shard, fence).await;
    told.unwrap().unwrap();
    world.settled().await;
    let runtime = world.runtime.clone();
    let pool = world.lose().await;
    let world = reopened(&runtime, &pool).await;
    let bucket = world.known(&bucket).await;
    assert_eq!(world.read(&bucket, 1).await, "kept");
    world.put(&bucket, 2, "new").await;
    world.node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_deleted_does_not_keep_the_rest() {
    let (world, bucket) = first(78).await;
    world.back_up();
    let mut before = 0;
    for round in 0..160 {
        world.commands(&bucket, 60).await;
        if round < 120 {
            let held = world.pool.chunks.lock().keys().copied().collect();
            *world.pool.stuck.lock() = held;
            before = world.pool.deleted.load(Ordering::SeqCst);
        }
    }
    world.settled().await;
    let stuck = world.pool.stuck.lock().len();
    assert!(stuck > 512, "{stuck}: more than are deleted at once");
    let deleted = world.pool.deleted.load(Ordering::SeqCst) - before;
    assert!(deleted > 100, "{deleted} chunks deleted");
    world.node.stop().await.unwrap();
}

/// Everything up to a split and after it, of a shard whose child never gets a checkpoint; the node restarts
/// meanwhile, so that leaders come who know nothing of what was written.
#[tokio::test(start_paused = true)]
async fn a_child_without_a_checkpoint_is_put_back_through_its_parents_history() {
    let (mut world, bucket) = first(90).await;
    let runtime = world.runtime.clone();
    world.back_up();
    world.commands(&bucket, 60).await;
    world.settled().await;
    *world.pool.without.lock() = Some(ShardId(3));
    let (parent, child) = world.split(&bucket, "key2").await;
    assert_eq!(child, ShardId(3));
    for round in 0..4 {
        world.commands(&bucket, 150).await;
        for n in 0..40 {
            world.put(&bucket, n, &format!("{round}")).await;
        }
        let expected = world.logged().await;
        let newest = world.pool.catalog().checkpoints(parent);
        let (kv, pool) = (world.kv.clone(), world.lose().await);
        let behind = newest.first().map(|found| found.position);
        let (back, found, _) = rebuilt(&runtime, &pool).await;
        assert_eq!(
            difference(&expected, &found),
            None,
            "round {round}, from {behind:?}"
        );
        drop(back);
        world = World::open(&runtime, kv, NodeId(1), &pool).await;
        world.node.wait_ready(LIMIT).await.unwrap();
        world.back_up();
    }
    // What leads to the child would be lost if its parent, or it, were split before it is backed up.
    for key in ["key1", "key3"] {
        let (_, split) = world.splitting(&bucket, key).await;
        let shard = if key < "key2" { parent } else { child };
        let meta = world.meta.clone().with_deadline(Duration::from_secs(20));
        let refused = meta.propose_to(shard, split).await.unwrap_err();
        assert!(refused.to_string().contains("backup"), "{refused}");
    }
    // From now on it has one, and what its parent's history was kept for goes.
    *world.pool.without.lock() = None;
    world.commands(&bucket, 200).await;
    let expected = world.settled().await;
    let found = world.pool.catalog();
    assert!(found.summary(child).checkpoints > 0);
    let before = world.splitting(&bucket, "key1").await;
    world
        .meta
        .propose_to(before.0, before.1)
        .await
        .unwrap()
        .unwrap();
    drop(expected);
    let expected = world.settled().await;
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

/// However much came after the split that the last leader could not write: the next one writes all of it.
#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_back_to_a_split_that_is_not_backed_up() {
    const KEPT: u64 = 100_000;
    let (world, bucket) = first(93).await;
    let (runtime, kv, pool) = (world.runtime.clone(), world.kv.clone(), world.lose().await);
    let world = World::open_keeping(KEPT, &runtime, kv, NodeId(1), &pool).await;
    world.node.wait_ready(LIMIT).await.unwrap();
    world.back_up();
    world.commands(&bucket, 60).await;
    world.settled().await;
    *pool.refused.lock() = vec![
        BackupKind::Log,
        BackupKind::Checkpoint,
        BackupKind::Manifest,
    ];
    let (_, child) = world.split(&bucket, "key2").await;
    world.commands(&bucket, 2000).await;
    let (kv, _) = (world.kv.clone(), world.lose().await);
    pool.refused.lock().clear();
    *pool.without.lock() = Some(child);
    let world = World::open_keeping(KEPT, &runtime, kv, NodeId(1), &pool).await;
    world.node.wait_ready(LIMIT).await.unwrap();
    world.back_up();
    let expected = world.logged().await;
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_split_before_a_node_has_begun_with_its_backup() {
    let (world, bucket) = first(94).await;
    let (parent, split) = world.splitting(&bucket, "key2").await;
    let meta = world.meta.clone().with_deadline(Duration::from_secs(20));
    let refused = meta.propose_to(parent, split.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("backup"), "{refused}");
    let told = world.meta.query_at(parent, pb::DescribeShard {}).await;
    assert!(!told.unwrap().backed_up);
    world.back_up();
    world.settled().await;
    let told = world.meta.query_at(parent, pb::DescribeShard {}).await;
    assert!(told.unwrap().backed_up);
    let (_, split) = world.splitting(&bucket, "key2").await;
    world.meta.propose_to(parent, split).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_childs_damaged_checkpoint_does_not_cost_what_its_parents_history_gives() {
    for last_part in [false, true] {
        let (world, bucket) = first(91).await;
        let runtime = world.runtime.clone();
        large(&world, &bucket).await;
        world.back_up();
        world.settled().await;
        let (_, child) = world.split(&bucket, "key1").await;
        world.put(&bucket, 7, "since").await;
        let expected = world.settled().await;
        let pool = world.lose().await;
        let mut damaged = 0;
        for (object, bytes) in pool.chunks.lock().values_mut() {
            let part = BackupObject::of_object_id(*object).unwrap();
            let named = part.shard == child && part.kind == BackupKind::Checkpoint;
            if named && (part.part > 0) == last_part {
                *bytes = Bytes::from_static(b"damaged");
                damaged += 1;
            }
        }
        assert!(damaged > 0);
        let (_, found, _) = rebuilt(&runtime, &pool).await;
        assert_eq!(
            difference(&expected, &found),
            None,
            "last part: {last_part}"
        );
    }
}

/// The parent's end is lost, from before the split on; of the child everything is there, or nothing.
async fn a_parent_from_before_its_split(nothing_of_the_child: bool) {
    let (world, bucket) = first(92).await;
    let runtime = world.runtime.clone();
    world.back_up();
    for n in 0..40 {
        world.put(&bucket, n, "before").await;
    }
    world.settled().await;
    let earlier = world.pool.chunks.lock().clone();
    let (parent, child) = world.split(&bucket, "key2").await;
    for n in 0..40 {
        world.put(&bucket, n, "after").await;
    }
    world.put(&bucket, 50, "new").await;
    world.settled().await;
    let pool = world.lose().await;
    pool.forget(|part| part.shard == parent || nothing_of_the_child && part.shard == child);
    let of_parent =
        |object: &ObjectId| BackupObject::of_object_id(*object).unwrap().shard == parent;
    let earlier = earlier.into_iter();
    let earlier = earlier.filter(|(_, (object, _))| of_parent(object));
    pool.chunks.lock().extend(earlier);

    let (kv, mut restored) = put_back(&runtime, &pool).await;
    let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    let lacks = verify_whole(&kv, &there).unwrap();
    match nothing_of_the_child {
        false => {
            assert_eq!(lacks.overlapping, [(parent, child)]);
            assert_eq!(lacks.missing, []);
            settle_overlap(&kv, lacks.overlapping[0]).unwrap();
        }
        true => {
            assert_eq!(lacks.overlapping, []);
            assert_eq!(lacks.missing, [child]);
            let begun = without_backup(Arc::new(kv.clone()), child, 0).unwrap();
            assert_eq!(begun.problems.len(), 1);
            restored.push(begun);
        }
    }
    let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    assert_eq!(verify_whole(&kv, &there).unwrap(), Wholeness::default());
    let plan = go_on(&kv, restored);
    let world = World::renewed(&runtime, kv, plan, &pool).await;
    let bucket = world.known(&bucket).await;
    let mut keys: Vec<String> = (0..40).map(|n| format!("key{n}")).collect();
    if !nothing_of_the_child {
        keys.push("key50".to_owned());
    }
    keys.sort();
    assert_eq!(world.listed(&bucket).await, keys);
    for n in 0..40 {
        let of_child = format!("key{n}").as_str() >= "key2";
        let expected = match of_child && !nothing_of_the_child {
            true => "after",
            false => "before",
        };
        assert_eq!(world.read(&bucket, n).await, expected, "key{n}");
        world.put(&bucket, n, "again").await;
        assert_eq!(world.read(&bucket, n).await, "again", "key{n}");
    }
    let owners = world.meta.segments(BucketId(bucket.id)).await.unwrap();
    let owners: Vec<ShardId> = owners.iter().map(|segment| segment.shard).collect();
    assert_eq!(owners, [parent, child]);
    // It is backed up, splits and is lost again as any other.
    world.back_up();
    world.settled().await;
    world.split(&bucket, "key1").await;
    let expected = world.settled().await;
    let pool = world.lose().await;
    let (_, found, _) = rebuilt(&runtime, &pool).await;
    assert_eq!(difference(&expected, &found), None);
}

#[tokio::test(start_paused = true)]
async fn a_parent_from_before_its_split_keeps_nothing_that_its_child_has() {
    a_parent_from_before_its_split(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_child_of_which_nothing_is_left_gets_what_its_parent_had_before_the_split() {
    a_parent_from_before_its_split(true).await;
}
