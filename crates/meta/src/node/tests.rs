//! A node's shards through power cuts, clocks that step, and a disk that fills up.

mod levels;
mod members;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, MemoryKv, Scan, Space, WriteBatch};
use granary_meta_api::{Meta, MetaError, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Clock, Runtime, SeededEntropy, SimulatedClock, within};
use granary_types::{NodeId, Redundancy, ShardId, StorageClass, Timestamp};

use prost::Message;

use super::{MetaConfig, MetaNode, NewCluster};
use crate::FEATURE_LEVEL;
use crate::keyspace::RowKey;
use crate::keyspace::shard_clock::ShardClockKey;
use crate::rows::{Rows, View};

const NODE: NodeId = NodeId(1);

async fn open(kv: &MemoryKv, runtime: &Runtime) -> Arc<MetaNode> {
    open_on(Arc::new(kv.clone()), runtime).await.unwrap()
}

async fn open_on(
    kv: Arc<dyn Kv>,
    runtime: &Runtime,
) -> Result<Arc<MetaNode>, super::MetaNodeError> {
    let config = MetaConfig {
        data_shards: 2,
        ..MetaConfig::default()
    };
    MetaNode::open(runtime.child(), NODE, kv, Arc::new(NoPeers), config).await
}

fn client(node: &Arc<MetaNode>, runtime: &Runtime) -> Meta {
    let service: Arc<dyn MetaService> = node.clone();
    Meta::new(runtime.clone(), service)
}

async fn read(meta: &Meta, bucket: &pb::state::Bucket, n: u32) -> Bytes {
    let query = pb::GetVersion {
        at: put(bucket, n).at,
        with_body: true,
        ..Default::default()
    };
    meta.query(query).await.unwrap().inline
}

fn cluster() -> NewCluster {
    NewCluster {
        cluster_id: "c".to_owned(),
        region: "r".to_owned(),
        root_account: pb::state::Account {
            id: 1,
            name: "root".to_owned(),
        },
        voters: vec![NODE],
    }
}

fn put(bucket: &pb::state::Bucket, n: u32) -> pb::PutObject {
    pb::PutObject {
        at: Some(pb::Position {
            bucket_id: bucket.id,
            key: format!("key{n}").into(),
            generation: bucket.generation,
        }),
        payload: Some(pb::Payload {
            inline: format!("{n}").into(),
            size: format!("{n}").len() as u64,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn bucket_record() -> pb::state::Bucket {
    pb::state::Bucket {
        name: "bucket".to_owned(),
        owner: 1,
        storage_class: StorageClass::Standard.number(),
        redundancy: Redundancy::Lrs.number(),
        acl: 1,
        ..Default::default()
    }
}

async fn create_bucket(meta: &Meta) -> pb::state::Bucket {
    let create = pb::CreateBucket {
        bucket: Some(bucket_record()),
        ..Default::default()
    };
    meta.create_bucket(create).await.unwrap().unwrap()
}

/// Splits the bucket's first range at a key; the child's shard.
async fn split(meta: &Meta, bucket: &pb::state::Bucket, key: String, nonce: u8) -> ShardId {
    let segments = meta.segments(granary_types::BucketId(bucket.id)).await;
    let nonce = bytes::Bytes::copy_from_slice(&[nonce; 16]);
    let child = meta.propose(pb::AllocateShard { nonce }).await;
    let child = child.unwrap().unwrap();
    let shard = u32::try_from(child.id).unwrap();
    let split = pb::SplitRange {
        split_bucket: bucket.id,
        split_key: key.into(),
        child_shard: shard,
        child_home_slab: child.slab,
        ..Default::default()
    };
    let decided = meta.propose_to(segments.unwrap()[0].shard, split).await;
    decided.unwrap().unwrap();
    ShardId(shard)
}

fn runtime(seed: u64) -> Runtime {
    let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
    Runtime::simulated(clock, Arc::new(SeededEntropy::new(seed)))
}

#[tokio::test(start_paused = true)]
async fn a_version_does_not_open_what_a_newer_one_has_activated() {
    let runtime = runtime(8);
    let kv = MemoryKv::new();
    let node = open(&kv, &runtime).await;
    node.bootstrap(cluster()).await.unwrap();
    node.stop().await.unwrap();
    let slab = granary_types::SlabId(2);
    let mut clock = View(&kv).get(&ShardClockKey { slab }).unwrap().unwrap();
    clock.feature_level = FEATURE_LEVEL + 1;
    let mut batch = WriteBatch::new();
    let key = ShardClockKey { slab }.encode();
    batch.put(Space::State, key, clock.encode_to_vec());
    kv.write(batch).unwrap();
    let refused = open_on(Arc::new(kv), &runtime).await.unwrap_err();
    let said = refused.to_string();
    let (active, known) = (FEATURE_LEVEL + 1, FEATURE_LEVEL);
    let levels =
        said.contains(&format!("level {active},")) && said.contains(&format!("to {known}:"));
    assert!(levels, "{said}");
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_power_cuts_and_splits() {
    let runtime = runtime(7);
    let mut kv = MemoryKv::new();
    let node = open(&kv, &runtime).await;
    assert!(!node.has_shards());
    node.bootstrap(cluster()).await.unwrap();
    let service: Arc<dyn MetaService> = node.clone();
    let mut meta = Meta::new(runtime.clone(), service);
    let bucket = create_bucket(&meta).await;
    let mut node = node;
    for round in 0..12u32 {
        for n in 0..5 {
            meta.propose(put(&bucket, round * 5 + n))
                .await
                .unwrap()
                .unwrap();
        }
        if round % 4 == 1 {
            let key = format!("key{}", 9 - round / 4);
            split(&meta, &bucket, key, u8::try_from(round).unwrap()).await;
        }
        // The power goes: of what was not synced a part may be on disk all the same.
        let survivors = runtime.entropy().below(kv.unsynced() as u64 + 1);
        kv = kv.crash(usize::try_from(survivors).unwrap());
        node.runtime.shutdown().cancel();
        // The old life finds its store closed: how its end is reported does not matter.
        let _ = node.stop().await;
        node = open(&kv, &runtime).await;
        assert!(node.has_shards());
        assert!(!node.bootstrap(cluster()).await.unwrap().created);
        node.wait_ready(Duration::from_secs(60)).await.unwrap();
        let service: Arc<dyn MetaService> = node.clone();
        meta = Meta::new(runtime.clone(), service);
        for n in 0..(round + 1) * 5 {
            let query = pb::GetVersion {
                at: put(&bucket, n).at,
                with_body: true,
                ..Default::default()
            };
            let found = meta.query(query).await.unwrap();
            assert_eq!(found.inline, format!("{n}"), "round {round}, key{n}");
        }
    }
    // Children are known to the root in the end.
    for _ in 0..1000 {
        let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
        if map.ranges.len() == 5 {
            break;
        }
        runtime.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        meta.query(pb::GetClusterMap::default())
            .await
            .unwrap()
            .ranges
            .len(),
        5
    );
    assert_eq!(node.metrics().groups.len(), 6);
    node.stop().await.unwrap();
}

/// What a replica finds that has the logs durably, but for that of `unborn`, and had applied only the
/// rows of `applied`.
fn knowing(log: &MemoryKv, unborn: ShardId, applied: Vec<(Bytes, Bytes)>) -> MemoryKv {
    let left = MemoryKv::new();
    let mut batch = WriteBatch::new();
    for (key, value) in rows(log, Space::Log) {
        if !key.starts_with(&unborn.0.to_be_bytes()) {
            batch.put(Space::Log, key, value);
        }
    }
    for (key, value) in applied {
        batch.put(Space::State, key, value);
    }
    left.write(batch).unwrap();
    left
}

fn rows(kv: &MemoryKv, space: Space) -> Vec<(Bytes, Bytes)> {
    let rows = kv.scan(space, b"", None, Direction::Forward);
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_split_that_is_applied_again_while_its_shard_opens_opens_the_child() {
    let runtime = runtime(9);
    let kv = MemoryKv::new();
    let node = open(&kv, &runtime).await;
    node.bootstrap(cluster()).await.unwrap();
    let service: Arc<dyn MetaService> = node.clone();
    let meta = Meta::new(runtime.clone(), service);
    let bucket = create_bucket(&meta).await;
    let unsplit = rows(&kv, Space::State);
    let parent = meta.segments(granary_types::BucketId(bucket.id)).await;
    let parent = parent.unwrap()[0].shard;
    let child = split(&meta, &bucket, "key5".to_owned(), 1).await;
    let reported = async || {
        let described = meta.query_at(parent, pb::DescribeShard {}).await.unwrap();
        let descriptor = described.descriptor.unwrap();
        descriptor.unreported_children.is_empty()
    };
    while !reported().await {
        runtime.sleep(Duration::from_millis(50)).await;
    }
    node.stop().await.unwrap();

    let left = knowing(&kv, child, unsplit);
    let node = open(&left, &runtime).await;
    let opened = async {
        while node.raft().group(child).is_none() {
            runtime.sleep(Duration::from_millis(50)).await;
        }
    };
    let opened = granary_runtime::within(Duration::from_secs(60), opened).await;
    assert!(opened.is_ok(), "shard {child} stays closed");
    // As whoever led the parent has done.
    node.raft().bootstrap(child, &[NODE]).await.unwrap();
    node.wait_ready(Duration::from_secs(60)).await.unwrap();
    let meta = client(&node, &runtime);
    meta.propose(put(&bucket, 7)).await.unwrap().unwrap();
    assert_eq!(read(&meta, &bucket, 7).await, "7");
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn too_many_queries_are_refused_and_unknown_requests_change_nothing() {
    let runtime = runtime(8);
    let kv = Arc::new(MemoryKv::new());
    let config = MetaConfig {
        data_shards: 1,
        queries_running_max: 1,
        queries_waiting_max: 0,
        ..MetaConfig::default()
    };
    let node = MetaNode::open(runtime.clone(), NODE, kv, Arc::new(NoPeers), config)
        .await
        .unwrap();
    node.bootstrap(cluster()).await.unwrap();
    let query = pb::Query {
        query: Some(pb::query::Query::DescribeShard(pb::DescribeShard {})),
    };
    let _held = node.admitted.try_acquire().unwrap();
    let refused = node.query(ShardId(1), query.clone()).await;
    assert!(
        matches!(refused, Err(granary_meta_api::MetaError::Busy(_))),
        "{refused:?}"
    );
    drop(_held);
    node.query(ShardId(1), query).await.unwrap();
    let unknown = pb::Command {
        id: bytes::Bytes::from_static(&[1; 16]),
        deadline_ms: runtime.now().as_millis() + 1000,
        command: None,
    };
    let refused = node.propose(ShardId(1), unknown).await;
    assert!(
        matches!(refused, Err(granary_meta_api::MetaError::Invalid(_))),
        "{refused:?}"
    );
    let elsewhere = node.query(ShardId(99), pb::Query { query: None }).await;
    assert!(elsewhere.is_err());
    node.stop().await.unwrap();
}

/// A store whose power goes at its n-th sync: before it is durable, with a part of what was written.
struct CutAtSync {
    kv: MemoryKv,
    syncs_left: AtomicUsize,
    /// Of what was not synced, in thousandths, as much survives.
    survivors: usize,
    left: parking_lot::Mutex<Option<MemoryKv>>,
}

impl KvRead for CutAtSync {
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

impl Kv for CutAtSync {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        self.kv.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.kv.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut left = self.left.lock();
        let take = |left: usize| left.checked_sub(1);
        let (order, count) = (Ordering::SeqCst, &self.syncs_left);
        if left.is_none() && count.fetch_update(order, order, take).is_err() {
            let survivors = self.kv.unsynced() * self.survivors / 1000;
            *left = Some(self.kv.crash(survivors));
        }
        self.kv.sync()
    }

    fn stats(&self) -> KvStats {
        self.kv.stats()
    }
}

/// What a first start does, up to the first object; what of it was acknowledged.
async fn first_start(
    kv: Arc<CutAtSync>,
    runtime: &Runtime,
) -> (Option<pb::state::Bucket>, bool, Option<Arc<MetaNode>>) {
    let Ok(node) = open_on(kv, runtime).await else {
        return (None, false, None);
    };
    let limit = Duration::from_secs(600);
    let formed = within(limit, node.bootstrap(cluster())).await;
    if !matches!(formed, Ok(Ok(_))) {
        return (None, false, Some(node));
    }
    let meta = client(&node, runtime);
    let create = pb::CreateBucket {
        bucket: Some(bucket_record()),
        ..Default::default()
    };
    let Ok(Ok(bucket)) = meta.create_bucket(create).await else {
        return (None, false, Some(node));
    };
    let stored = meta.propose(put(&bucket, 1)).await;
    (Some(bucket), matches!(stored, Ok(Ok(_))), Some(node))
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_sync_of_the_first_start_is_survived() {
    let runtime = runtime(11);
    for survivors in [0, 500, 1000] {
        for sync in 0.. {
            assert!(sync < 1000, "the first start does not end");
            let what = format!("cut at sync {sync}, {survivors} of 1000 survive");
            let kv = Arc::new(CutAtSync {
                kv: MemoryKv::new(),
                syncs_left: AtomicUsize::new(sync),
                survivors,
                left: parking_lot::Mutex::default(),
            });
            let (bucket, stored, node) = first_start(kv.clone(), &runtime).await;
            let left = kv.left.lock().clone();
            if let Some(node) = node {
                node.runtime.shutdown().cancel();
                let _ = node.stop().await;
            }
            let Some(left) = left else {
                assert!(stored, "{what}");
                break;
            };
            // The next start: nothing to repair by hand.
            let node = open(&left, &runtime).await;
            let formed = node.bootstrap(cluster()).await;
            assert_eq!(formed.unwrap().cluster_id, "c", "{what}");
            node.wait_ready(Duration::from_secs(60)).await.unwrap();
            let meta = client(&node, &runtime);
            let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
            assert_eq!(map.ranges.len(), 2, "{what}");
            if let (Some(bucket), true) = (&bucket, stored) {
                assert_eq!(read(&meta, bucket, 1).await, "1", "{what}");
            }
            let again = create_bucket(&meta).await;
            assert!(bucket.is_none_or(|bucket| bucket.id == again.id), "{what}");
            meta.propose(put(&again, 2)).await.unwrap().unwrap();
            assert_eq!(read(&meta, &again, 2).await, "2", "{what}");
            node.stop().await.unwrap();
        }
    }
}

/// A wall clock that can be set back.
struct SteppingClock {
    clock: SimulatedClock,
    back_ms: AtomicU64,
}

impl Clock for SteppingClock {
    fn now(&self) -> Timestamp {
        let now = self.clock.now().as_millis();
        Timestamp(now - self.back_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stepped_forward_and_back_stops_nothing() {
    const HOUR_MS: u64 = 60 * 60 * 1000;
    let clock = Arc::new(SteppingClock {
        clock: SimulatedClock::starting_at(1_800_000_000_000),
        back_ms: AtomicU64::new(0),
    });
    let runtime = Runtime::simulated(clock.clone(), Arc::new(SeededEntropy::new(12)));
    let kv = MemoryKv::new();
    let node = open(&kv, &runtime).await;
    node.bootstrap(cluster()).await.unwrap();
    let meta = client(&node, &runtime);
    clock.clock.advance_wall_clock(HOUR_MS);
    let bucket = create_bucket(&meta).await;
    meta.propose(put(&bucket, 1)).await.unwrap().unwrap();
    clock.back_ms.store(HOUR_MS, Ordering::SeqCst);
    for n in 2..10 {
        meta.propose(put(&bucket, n)).await.unwrap().unwrap();
        assert_eq!(read(&meta, &bucket, n).await, format!("{n}"));
    }
    // The node's own commands too: the root hears of a child, whose time goes on from its parent's.
    let child = split(&meta, &bucket, "key5".to_owned(), 1).await;
    let known = async {
        loop {
            let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
            if map.ranges.iter().any(|hint| hint.shard == child.0) {
                return;
            }
            runtime.sleep(Duration::from_millis(50)).await;
        }
    };
    within(Duration::from_secs(60), known).await.unwrap();
    meta.propose(put(&bucket, 7)).await.unwrap().unwrap();
    let lease = pb::AcquireLease {
        name: "worker".to_owned(),
        holder: "x".to_owned(),
        ttl_ms: 1000,
        ..Default::default()
    };
    meta.propose(lease).await.unwrap().unwrap();
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_and_lets_deletes_and_reads_go_on() {
    let runtime = runtime(13);
    let node = open(&MemoryKv::new(), &runtime).await;
    node.bootstrap(cluster()).await.unwrap();
    let meta = client(&node, &runtime);
    let bucket = create_bucket(&meta).await;
    for n in 0..2 {
        meta.propose(put(&bucket, n)).await.unwrap().unwrap();
    }
    node.refuse_growth(true);
    let began = runtime.monotonic();
    let refused = meta.propose(put(&bucket, 2)).await;
    assert!(matches!(refused, Err(MetaError::NoSpace(_))), "{refused:?}");
    assert!(
        runtime.monotonic() - began < Duration::from_secs(1),
        "at once"
    );
    assert_eq!(read(&meta, &bucket, 0).await, "0");
    let delete = pb::DeleteObject {
        at: put(&bucket, 0).at,
        ..Default::default()
    };
    assert!(meta.propose(delete).await.unwrap().unwrap().existed);
    node.refuse_growth(false);
    meta.propose(put(&bucket, 2)).await.unwrap().unwrap();
    node.stop().await.unwrap();
}
