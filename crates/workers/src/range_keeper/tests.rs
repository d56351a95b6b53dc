//! A bucket grows at its end on three metadata nodes, while its ranges are split under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta::testsuite::{Network, TestCluster};
use granary_meta::{FEATURE_LEVEL, MetaConfig, MetaNode};
use granary_meta_api::pb::command::Command as WireCommand;
use granary_meta_api::{Meta, MetaControl, MetaError, MetaService, pb};
use granary_types::{BucketId, NodeId, ShardId};
use parking_lot::Mutex;

use super::{RangeKeeper, RangeKeeperConfig, SPLITS_PER_TICK};
use crate::{MemberKeeper, MemberKeeperConfig, MetaNodes, Tick, Worker, WorkerMetrics};

const SPLIT_BYTES: u64 = 60_000;
const OBJECT_BYTES: usize = 1000;

struct Directory(Arc<Network>);

impl MetaNodes for Directory {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        self.0.control(node)
    }
}

/// Three nodes with one data shard, and a bucket.
struct World {
    cluster: TestCluster,
    meta: Meta,
    bucket: pb::state::Bucket,
    written: u32,
}

fn config() -> RangeKeeperConfig {
    RangeKeeperConfig::above(SPLIT_BYTES)
}

impl World {
    async fn new(seed: u64, first_feature_level: u64) -> Self {
        let config = MetaConfig {
            data_shards: 1,
            first_feature_level,
            ..MetaConfig::default()
        };
        let cluster = TestCluster::formed(3, seed, config).await;
        let meta = cluster.client();
        let create = pb::CreateBucket {
            bucket: Some(pb::state::Bucket {
                name: "bucket".to_owned(),
                owner: 1,
                storage_class: granary_types::StorageClass::Standard.number(),
                redundancy: granary_types::Redundancy::Lrs.number(),
                acl: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let bucket = meta.create_bucket(create).await.unwrap().unwrap();
        let mut world = Self {
            cluster,
            meta,
            bucket,
            written: 0,
        };
        for id in 1..=3 {
            world.register(id).await;
        }
        world.write(20).await;
        world
    }

    async fn register(&mut self, id: u64) {
        let node = pb::state::Node {
            id,
            zone: format!("z{id}"),
            address: format!("n{id}.example:9100"),
            feature_level: FEATURE_LEVEL,
            ..Default::default()
        };
        let registered = self.meta.propose(pb::RegisterNode { node: Some(node) });
        registered.await.unwrap().unwrap();
    }

    fn keeper(&self, config: RangeKeeperConfig) -> RangeKeeper {
        let (runtime, meta) = (self.cluster.runtime.clone(), self.cluster.client());
        RangeKeeper::new(runtime, meta, WorkerMetrics::default(), config)
    }

    fn key(n: u32) -> String {
        format!("2026-01-01/{n:08}")
    }

    fn at(&self, n: u32) -> Option<pb::Position> {
        Some(pb::Position {
            bucket_id: self.bucket.id,
            key: Self::key(n).into(),
            generation: self.bucket.generation,
        })
    }

    async fn write(&mut self, count: u32) {
        for n in self.written..self.written + count {
            let put = pb::PutObject {
                at: self.at(n),
                payload: Some(pb::Payload {
                    inline: format!("{n:0OBJECT_BYTES$}").into(),
                    size: OBJECT_BYTES as u64,
                    ..Default::default()
                }),
                ..Default::default()
            };
            self.meta.propose(put).await.unwrap().unwrap();
        }
        self.written += count;
    }

    async fn map(&self) -> pb::ClusterMap {
        self.meta.query(pb::GetClusterMap::default()).await.unwrap()
    }

    /// The shards of the bucket in the order of its keys.
    async fn shards(&self) -> Vec<ShardId> {
        self.meta.refresh_map().await.unwrap();
        let segments = self.meta.segments(BucketId(self.bucket.id)).await.unwrap();
        segments.into_iter().map(|segment| segment.shard).collect()
    }

    /// Everything that was written is there, once and in order.
    async fn check(&self) {
        for n in (0..self.written).step_by(7) {
            let query = pb::GetVersion {
                at: self.at(n),
                with_body: true,
                ..Default::default()
            };
            let found = self.meta.query(query).await.unwrap();
            assert_eq!(
                found.inline,
                format!("{n:0OBJECT_BYTES$}"),
                "{}",
                Self::key(n)
            );
        }
        let (mut after, mut keys) = (bytes::Bytes::new(), Vec::new());
        loop {
            let query = pb::ListObjects {
                bucket_id: self.bucket.id,
                after: after.clone(),
                limit: 100,
                ..Default::default()
            };
            let page = self.meta.list_objects(query).await.unwrap();
            for item in page.items {
                let Some(pb::list_item::Item::Object(entry)) = item.item else {
                    panic!("a prefix");
                };
                keys.push(String::from_utf8(entry.key.to_vec()).unwrap());
            }
            if !page.more {
                break;
            }
            after = page.resume_after;
        }
        let expected: Vec<String> = (0..self.written).map(Self::key).collect();
        assert_eq!(keys, expected);
    }

    async fn pause(&self) {
        self.cluster.runtime.sleep(Duration::from_secs(1)).await;
    }

    /// Waits until the root knows so many ranges.
    async fn until_ranges(&self, count: usize) {
        for _ in 0..200 {
            if self.map().await.ranges.len() == count {
                return;
            }
            self.pause().await;
        }
        panic!("never {count} ranges: {:?}", self.map().await.ranges);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_grows_at_its_end_splits_again_and_again_and_spreads() {
    for seed in [1, 2] {
        let mut world = World::new(seed, FEATURE_LEVEL).await;
        let mut keeper = world.keeper(config());
        let nodes = Arc::new(Directory(Arc::clone(&world.cluster.network)));
        let members = MemberKeeperConfig::default();
        let mut members = MemberKeeper::new(world.meta.clone(), nodes, members);
        let mut before = 1;
        for round in 0..60 {
            world.write(10).await;
            // A new one now and then: nothing may depend on what it remembers.
            if round % 5 == 0 {
                keeper = world.keeper(config());
            }
            // What has no leader just now is asked again.
            let _ = keeper.tick(0).await;
            let _ = members.tick(0).await;
            let shards = world.map().await.ranges.len();
            assert!(shards <= before + SPLITS_PER_TICK, "round {round}");
            before = shards;
            world.pause().await;
        }
        let shards = world.shards().await;
        assert!((4..=24).contains(&shards.len()), "{shards:?}");
        world.check().await;
        // It is the end that was split again: nobody else grows.
        let newest = shards.iter().max().unwrap();
        let place = shards.iter().position(|shard| shard == newest).unwrap();
        assert!(place + 3 >= shards.len(), "{shards:?}");
        let mut leaders: BTreeMap<NodeId, usize> = BTreeMap::new();
        for _ in 0..100 {
            let _ = members.tick(0).await;
            leaders.clear();
            for shard in &shards {
                let leader = world.cluster.leader(*shard).await.node();
                *leaders.entry(leader).or_default() += 1;
            }
            if leaders.len() == 3 {
                break;
            }
            world.pause().await;
        }
        assert_eq!(leaders.len(), 3, "{leaders:?}");
        // No range is much larger than it should be, and no pair was made for nothing.
        for shard in &shards {
            let query = pb::MeasureRanges {
                at_least: SPLIT_BYTES,
            };
            let told = world.meta.query_at(*shard, query).await.unwrap();
            let bytes = told.ranges[0].bytes;
            assert!(
                (SPLIT_BYTES / 4..SPLIT_BYTES * 2).contains(&bytes),
                "{shard}: {bytes}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_keepers_at_once_split_a_range_once() {
    for seed in [3, 4, 5] {
        let mut world = World::new(seed, FEATURE_LEVEL).await;
        world.write(80).await;
        // Whoever had the lease before has measured, and does not know that it has lost it.
        let (mut one, mut other) = (world.keeper(config()), world.keeper(config()));
        let told = world.meta.query_at(
            ShardId(1),
            pb::MeasureRanges {
                at_least: SPLIT_BYTES,
            },
        );
        let old = told.await.unwrap().ranges.remove(0);
        assert!(old.can_split);
        let _ = tokio::join!(one.tick(0), other.tick(0));
        world.until_ranges(2).await;
        // The measurement from before, once more, and its split point is still the parent's or not.
        let mut map = super::World::new(&world.map().await);
        for key in [old.split_key.clone(), World::key(3).into()] {
            let size = pb::RangeSize {
                split_key: key,
                ..old.clone()
            };
            let shard = ShardId(1);
            let mut split = false;
            for _ in 0..20 {
                let large = super::Large {
                    shard,
                    size: size.clone(),
                };
                split |= one.split(large, &mut map).await.unwrap_or(false);
                world.pause().await;
            }
            assert!(!split, "an old measurement counted, seed {seed}");
            assert!(one.spare.is_some(), "it was proposed and refused");
        }
        assert_eq!(world.map().await.ranges.len(), 2);
        world.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_split_where_an_older_version_may_apply_it() {
    let mut world = World::new(6, FEATURE_LEVEL - 1).await;
    world.write(80).await;
    let mut keeper = world.keeper(config());
    for _ in 0..5 {
        assert_eq!(keeper.tick(0).await.unwrap(), Tick::Done);
        world.pause().await;
    }
    // The root first, as whoever raises the level does it: the shard has not followed.
    let raise = |nodes: &[u64]| pb::ActivateFeature {
        level: FEATURE_LEVEL,
        nodes: nodes.to_vec(),
    };
    let root = world.meta.propose_to(ShardId::ROOT, raise(&[1, 2, 3]));
    root.await.unwrap().unwrap();
    for _ in 0..5 {
        assert_eq!(keeper.tick(0).await.unwrap(), Tick::Done);
        world.pause().await;
    }
    assert!(keeper.reached.is_empty());
    assert_eq!(world.map().await.ranges.len(), 1);
    let shard = world.meta.propose_to(ShardId(1), raise(&[]));
    shard.await.unwrap().unwrap();
    keeper.tick(0).await.unwrap();
    world.until_ranges(2).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_with_replicas_enough_get_no_more() {
    let mut world = World::new(7, FEATURE_LEVEL).await;
    world.write(200).await;
    let few = RangeKeeperConfig {
        replicas_per_node_max: 3,
        ..config()
    };
    let mut keeper = world.keeper(few);
    for _ in 0..40 {
        let _ = keeper.tick(0).await;
        world.pause().await;
    }
    assert_eq!(world.map().await.ranges.len(), 3);
    assert!(keeper.metrics.large_ranges.get() > 0, "it says so");
    let mut never = world.keeper(RangeKeeperConfig::above(0));
    assert_eq!(never.tick(0).await.unwrap(), Tick::Done);
    assert_eq!(world.map().await.ranges.len(), 3);
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_given_up_is_no_voter_of_a_new_shard() {
    let mut world = World::new(8, FEATURE_LEVEL).await;
    world.write(80).await;
    world.cluster.start(NodeId(4)).await;
    world.register(4).await;
    let removed = world.meta.propose(pb::RemoveNode { node: 3 }).await;
    removed.unwrap().unwrap();
    let mut keeper = world.keeper(config());
    for _ in 0..5 {
        keeper.tick(0).await.unwrap();
        world.pause().await;
    }
    assert_eq!(
        world.map().await.ranges.len(),
        1,
        "its shard has not let it go"
    );
    let nodes = Arc::new(Directory(Arc::clone(&world.cluster.network)));
    let mut members = MemberKeeper::new(world.meta.clone(), nodes, MemberKeeperConfig::default());
    for _ in 0..100 {
        let _ = members.tick(0).await;
        let _ = keeper.tick(0).await;
        world.pause().await;
        if world.map().await.ranges.len() > 1 {
            break;
        }
    }
    let map = world.map().await;
    assert_eq!(map.ranges.len(), 2);
    for hint in &map.ranges {
        let voters: BTreeSet<u64> = hint.voters.iter().copied().collect();
        assert_eq!(voters, BTreeSet::from([1, 2, 4]), "{hint:?}");
    }
    world.check().await;
}

/// The way to the nodes, with an eye on what is asked, and without one shard.
struct Way {
    nodes: Vec<Arc<MetaNode>>,
    hidden: Mutex<Option<ShardId>>,
    asked: Mutex<Vec<ShardId>>,
    split: Mutex<Vec<ShardId>>,
}

impl Way {
    fn check(&self, shard: ShardId) -> Result<(), MetaError> {
        match *self.hidden.lock() == Some(shard) {
            true => Err(MetaError::Unavailable("hidden".to_owned())),
            false => Ok(()),
        }
    }
}

fn no_leader(shard: ShardId) -> MetaError {
    MetaError::NotLeader {
        shard,
        leader: None,
    }
}

#[async_trait]
impl MetaService for Way {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        if matches!(command.command, Some(WireCommand::SplitRange(_))) {
            self.split.lock().push(shard);
        }
        self.check(shard)?;
        for node in &self.nodes {
            match node.propose(shard, command.clone()).await {
                Err(MetaError::NotLeader { .. }) => {}
                answer => return answer,
            }
        }
        Err(no_leader(shard))
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        self.asked.lock().push(shard);
        self.check(shard)?;
        for node in &self.nodes {
            match node.query(shard, query.clone()).await {
                Err(MetaError::NotLeader { .. }) => {}
                answer => return answer,
            }
        }
        Err(no_leader(shard))
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_left_alone_until_its_child_answers() {
    let mut world = World::new(9, FEATURE_LEVEL).await;
    world.write(200).await;
    let way = Arc::new(Way {
        nodes: (1..=3).map(|id| world.cluster.node(NodeId(id))).collect(),
        hidden: Mutex::default(),
        asked: Mutex::default(),
        split: Mutex::default(),
    });
    let runtime = world.cluster.runtime.clone();
    let meta = Meta::new(runtime.clone(), way.clone());
    let mut keeper = RangeKeeper::new(runtime, meta, WorkerMetrics::default(), config());
    keeper.tick(0).await.unwrap();
    world.until_ranges(2).await;
    assert_eq!(*way.split.lock(), [ShardId(1)]);
    let child = world.shards().await[1];
    *way.hidden.lock() = Some(child);
    way.split.lock().clear();
    for _ in 0..10 {
        let _ = keeper.tick(0).await;
        world.pause().await;
    }
    assert_eq!(
        *way.split.lock(),
        [],
        "both halves are too large, and one does not answer"
    );
    *way.hidden.lock() = None;
    for _ in 0..60 {
        way.asked.lock().clear();
        way.split.lock().clear();
        let shards = world.map().await.ranges.len();
        let _ = keeper.tick(0).await;
        let (asked, split) = (way.asked.lock().len(), way.split.lock().len());
        assert!(split <= SPLITS_PER_TICK, "{split} splits in a tick");
        assert!(
            asked <= 2 * shards + 2 + 4 * SPLITS_PER_TICK,
            "{asked} queries in a tick"
        );
        world.pause().await;
    }
    assert!(world.shards().await.len() >= 4, "it goes on");
    world.check().await;
}
