//! A metadata service grows from one node to three and loses one of them, while clients write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use granary_meta::MetaConfig;
use granary_meta::testsuite::{Network, TestCluster};
use granary_meta_api::{Meta, MetaControl, pb};
use granary_raft::RaftConfig;
use granary_types::{NodeId, ShardId};

use super::{MemberKeeper, MemberKeeperConfig, MetaNodes};
use crate::{Tick, Worker};

struct Directory(Arc<Network>);

impl MetaNodes for Directory {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        self.0.control(node)
    }
}

fn keeper(cluster: &TestCluster) -> MemberKeeper {
    let nodes = Arc::new(Directory(Arc::clone(&cluster.network)));
    MemberKeeper::new(cluster.client(), nodes, MemberKeeperConfig::default())
}

fn config() -> MetaConfig {
    MetaConfig {
        data_shards: 4,
        raft: RaftConfig {
            snapshot_every_entries: 40,
            keep_entries: 20,
            ..RaftConfig::default()
        },
        ..MetaConfig::default()
    }
}

async fn register(meta: &Meta, id: u64) {
    let node = pb::state::Node {
        id,
        zone: format!("z{id}"),
        address: format!("n{id}.example:9100"),
        feature_level: granary_meta::FEATURE_LEVEL,
        ..Default::default()
    };
    let registered = meta.propose(pb::RegisterNode { node: Some(node) }).await;
    registered.unwrap().unwrap();
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

async fn bucket(meta: &Meta, n: u32) -> pb::state::Bucket {
    let create = pb::CreateBucket {
        bucket: Some(pb::state::Bucket {
            name: format!("bucket{n}"),
            owner: 1,
            storage_class: granary_types::StorageClass::Standard.number(),
            redundancy: granary_types::Redundancy::Lrs.number(),
            acl: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    meta.create_bucket(create).await.unwrap().unwrap()
}

/// Clients of several shards: everything that is acknowledged counts.
struct Writers {
    meta: Meta,
    buckets: Vec<pb::state::Bucket>,
    acknowledged: AtomicU32,
}

impl Writers {
    async fn write_one(&self) {
        let n = self.acknowledged.load(Ordering::SeqCst);
        let bucket = &self.buckets[n as usize % self.buckets.len()];
        self.meta.propose(put(bucket, n)).await.unwrap().unwrap();
        self.acknowledged.store(n + 1, Ordering::SeqCst);
    }

    async fn check(&self) {
        for n in 0..self.acknowledged.load(Ordering::SeqCst) {
            let bucket = &self.buckets[n as usize % self.buckets.len()];
            let query = pb::GetVersion {
                at: put(bucket, n).at,
                with_body: true,
                ..Default::default()
            };
            let found = self.meta.query(query).await.unwrap();
            assert_eq!(found.inline, format!("{n}"), "key{n} is lost");
        }
    }
}

/// Writes until the keeper has nothing left to do and every shard has these voters.
async fn keep_until(cluster: &TestCluster, writers: &Writers, voters: &[u64]) {
    let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    let shards: Vec<ShardId> = (0..=4).map(ShardId).collect();
    for _ in 0..1000 {
        // A new one every time: nothing may depend on what it remembers.
        let mut keeper = keeper(cluster);
        let (tick, ()) = tokio::join!(keeper.tick(0), writers.write_one());
        let done = matches!(tick, Ok(Tick::Done));
        let mut all = done;
        for shard in &shards {
            let leader = cluster.leader(*shard).await;
            let members = leader.raft().group(*shard).unwrap().members();
            all &= members.voters == voters && !members.changing && members.learners.is_empty();
        }
        if all {
            cluster.settled(&shards, &voters).await;
            return;
        }
        cluster.runtime.sleep(Duration::from_millis(200)).await;
    }
    panic!("never {voters:?}");
}

#[tokio::test(start_paused = true)]
async fn one_voter_becomes_three_and_a_lost_one_is_replaced_under_writes() {
    for seed in [1, 2] {
        let mut cluster = TestCluster::formed(1, seed, config()).await;
        let meta = cluster.client();
        register(&meta, 1).await;
        let mut buckets = Vec::new();
        for n in 0..6 {
            buckets.push(bucket(&meta, n).await);
        }
        let writers = Writers {
            meta: meta.clone(),
            buckets,
            acknowledged: AtomicU32::new(0),
        };
        for _ in 0..60 {
            writers.write_one().await;
        }
        keep_until(&cluster, &writers, &[1]).await;
        // A second node is not enough for an odd number.
        cluster.start(NodeId(2)).await;
        register(&meta, 2).await;
        keep_until(&cluster, &writers, &[1]).await;
        cluster.start(NodeId(3)).await;
        register(&meta, 3).await;
        keep_until(&cluster, &writers, &[1, 2, 3]).await;
        // Five shards on three nodes: nobody leads more than two of them.
        spread(&cluster, &writers).await;
        writers.check().await;
        // One is lost for good. Nothing happens to its places before it is given up.
        cluster.lose(NodeId(1)).await;
        for _ in 0..20 {
            writers.write_one().await;
        }
        cluster.start(NodeId(4)).await;
        register(&meta, 4).await;
        let members = cluster.leader(ShardId(1)).await.raft().group(ShardId(1));
        let members = members.unwrap().members();
        assert!(members.voters.contains(&NodeId(1)), "{members:?}");
        let removed = meta.propose(pb::RemoveNode { node: 1 }).await;
        removed.unwrap().unwrap();
        keep_until(&cluster, &writers, &[2, 3, 4]).await;
        writers.check().await;
        cluster.lose(NodeId(2)).await;
        writers.check().await;
        writers.write_one().await;
    }
}

/// Ticks until nobody leads more than two of the five shards.
async fn spread(cluster: &TestCluster, writers: &Writers) {
    let mut led = BTreeMap::<NodeId, u32>::new();
    for _ in 0..1000 {
        led.clear();
        for shard in 0..=4 {
            let leader = cluster.leader(ShardId(shard)).await.node();
            *led.entry(leader).or_default() += 1;
        }
        if led.len() == 3 && led.values().all(|led| *led <= 2) {
            return;
        }
        let mut keeper = keeper(cluster);
        // A tick that failed is repeated.
        let _ = tokio::join!(keeper.tick(0), writers.write_one());
        cluster.runtime.sleep(Duration::from_millis(200)).await;
    }
    panic!("leaders are not spread: {led:?}");
}
