//! A cluster that was made by an older version is upgraded node by node.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use granary_meta::testsuite::{Network, TestCluster};
use granary_meta::{FEATURE_LEVEL, MetaConfig};
use granary_meta_api::{Meta, MetaControl, MetaError, pb};
use granary_types::{NodeId, ShardId, SlabId};
use parking_lot::Mutex;

use super::FeatureKeeper;
use crate::{MetaNodes, Tick, Worker};

/// The nodes, and what those of other versions say of themselves; `None`: nothing at all.
#[derive(Clone)]
struct Directory {
    network: Arc<Network>,
    told: Arc<Mutex<BTreeMap<NodeId, Option<u64>>>>,
}

impl MetaNodes for Directory {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        let told = self.told.lock().get(&node).copied();
        match told {
            Some(Some(level)) => Some(Arc::new(OtherVersion(level))),
            Some(None) => None,
            None => self.network.control(node),
        }
    }
}

/// A node that is asked for nothing but what it applies.
struct OtherVersion(u64);

fn not_asked<T>() -> Result<T, MetaError> {
    Err(MetaError::Unavailable("not asked".to_owned()))
}

#[async_trait]
impl MetaControl for OtherVersion {
    async fn list_replicas(&self) -> Result<Vec<pb::Replica>, MetaError> {
        not_asked()
    }
    async fn feature_level(&self) -> Result<u64, MetaError> {
        Ok(self.0)
    }
    async fn open_replica(&self, _: ShardId, _: SlabId) -> Result<(), MetaError> {
        not_asked()
    }
    async fn add_learner(&self, _: ShardId, _: NodeId) -> Result<(), MetaError> {
        not_asked()
    }
    async fn change_voters(&self, _: ShardId, _: &[NodeId]) -> Result<(), MetaError> {
        not_asked()
    }
    async fn transfer_leader(&self, _: ShardId, _: NodeId) -> Result<(), MetaError> {
        not_asked()
    }
}

fn record(id: u64, roles: &[&str], feature_level: u64) -> pb::state::Node {
    pb::state::Node {
        id,
        zone: format!("z{id}"),
        address: format!("n{id}.example:9100"),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        feature_level,
        ..Default::default()
    }
}

async fn register(meta: &Meta, node: pb::state::Node) -> Result<(), pb::Rejection> {
    let node = Some(node);
    let registered = meta.propose(pb::RegisterNode { node }).await.unwrap();
    registered.map(|_| ())
}

/// The level of the root as the map tells it, and of the root and every data shard.
async fn levels(meta: &Meta) -> (u64, Vec<u64>) {
    let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
    let mut levels = Vec::new();
    for shard in 0..=2 {
        let shard = meta.query_at(ShardId(shard), pb::DescribeShard {});
        levels.push(shard.await.unwrap().clock.unwrap().feature_level);
    }
    (map.info.unwrap().feature_level, levels)
}

async fn cluster(seed: u64, first_feature_level: u64) -> (TestCluster, Meta, Directory) {
    let config = MetaConfig {
        data_shards: 2,
        first_feature_level,
        ..MetaConfig::default()
    };
    let cluster = TestCluster::formed(3, seed, config).await;
    let meta = cluster.client();
    let directory = Directory {
        network: Arc::clone(&cluster.network),
        told: Arc::default(),
    };
    (cluster, meta, directory)
}

/// Ticks until a tick has nothing to complain of; a leader may change meanwhile.
async fn keep(cluster: &TestCluster, meta: &Meta, directory: &Directory) {
    let mut keeper = FeatureKeeper::new(meta.clone(), Arc::new(directory.clone()));
    for _ in 0..100 {
        if let Ok(Tick::Done) = keeper.tick(0).await {
            return;
        }
        let pause = std::time::Duration::from_millis(200);
        cluster.runtime.sleep(pause).await;
    }
    panic!("the keeper never ends");
}

#[tokio::test(start_paused = true)]
async fn the_level_rises_with_the_last_node_and_not_before() {
    let (cluster, meta, directory) = cluster(1, 1).await;
    for id in 1..=3 {
        register(&meta, record(id, &[], FEATURE_LEVEL))
            .await
            .unwrap();
    }
    // A version that applies the first level alone keeps no more than that, so no replica may.
    let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
    assert!(map.nodes.iter().all(|node| node.feature_level == 0));
    let refused = meta.propose(pb::RenewRoot::default()).await;
    assert!(
        matches!(refused, Err(MetaError::Unavailable(_))),
        "{refused:?}"
    );
    // One that stores bytes alone is not waited for.
    register(&meta, record(4, &["storage"], 0)).await.unwrap();
    for held in [Some(1), None] {
        directory.told.lock().insert(NodeId(2), held);
        keep(&cluster, &meta, &directory).await;
        assert_eq!(levels(&meta).await, (1, vec![1; 3]), "{held:?}");
    }
    // One that was given up is not waited for either; here it is exchanged.
    directory.told.lock().clear();
    keep(&cluster, &meta, &directory).await;
    let all = vec![FEATURE_LEVEL; 3];
    assert_eq!(levels(&meta).await, (FEATURE_LEVEL, all.clone()));
    keep(&cluster, &meta, &directory).await;
    assert_eq!(levels(&meta).await, (FEATURE_LEVEL, all));

    // From now on records say what nodes apply, and nobody comes who applies less.
    register(&meta, record(1, &[], FEATURE_LEVEL))
        .await
        .unwrap();
    let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
    let first = map.nodes.iter().find(|node| node.id == 1).unwrap();
    assert_eq!(first.feature_level, FEATURE_LEVEL);
    let no = register(&meta, record(5, &["meta"], 0)).await.unwrap_err();
    let level = format!("level {FEATURE_LEVEL}");
    assert!(no.detail.contains(&level), "{no:?}");
    register(&meta, record(4, &["storage"], 0)).await.unwrap();
    let join = |roles: &[&str], level| pb::AllocateNode {
        nonce: vec![level as u8 + 1; 16].into(),
        node: Some(record(0, roles, level)),
    };
    let refused = meta.propose(join(&["meta"], 0)).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    let joined = meta.propose(join(&["meta"], FEATURE_LEVEL)).await.unwrap();
    assert!(joined.is_ok(), "{joined:?}");
}

#[tokio::test(start_paused = true)]
async fn the_root_refuses_a_level_that_was_not_asked_of_all_it_knows() {
    let (_cluster, meta, _) = cluster(2, 1).await;
    for id in 1..=3 {
        register(&meta, record(id, &[], 0)).await.unwrap();
    }
    let raise = |nodes: &[u64]| pb::ActivateFeature {
        level: FEATURE_LEVEL,
        nodes: nodes.to_vec(),
    };
    let refused = meta
        .propose_to(ShardId::ROOT, raise(&[1, 2]))
        .await
        .unwrap();
    assert_eq!(refused.unwrap_err().reason(), pb::rejection::Reason::Stale);
    assert_eq!(levels(&meta).await, (1, vec![1; 3]));
    meta.propose(pb::RemoveNode { node: 3 })
        .await
        .unwrap()
        .unwrap();
    let raised = meta
        .propose_to(ShardId::ROOT, raise(&[1, 2]))
        .await
        .unwrap();
    assert!(raised.is_ok(), "{raised:?}");
    assert_eq!(
        levels(&meta).await,
        (FEATURE_LEVEL, vec![FEATURE_LEVEL, 1, 1])
    );
    let unknown = pb::ActivateFeature {
        level: FEATURE_LEVEL + 1,
        nodes: vec![1, 2],
    };
    let refused = meta.propose_to(ShardId::ROOT, unknown).await;
    assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_cluster_begins_at_the_newest_level() {
    let (_cluster, meta, _) = cluster(3, FEATURE_LEVEL).await;
    let all = vec![FEATURE_LEVEL; 3];
    assert_eq!(levels(&meta).await, (FEATURE_LEVEL, all));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_given_up_counts_until_its_shards_have_let_it_go() {
    let (cluster, meta, directory) = cluster(4, 1).await;
    for id in 1..=3 {
        register(&meta, record(id, &[], FEATURE_LEVEL))
            .await
            .unwrap();
    }
    directory.told.lock().insert(NodeId(3), Some(1));
    let remove = pb::RemoveNode { node: 3 };
    meta.propose(remove).await.unwrap().unwrap();
    keep(&cluster, &meta, &directory).await;
    assert_eq!(levels(&meta).await, (1, vec![1; 3]), "it votes still");

    let staying = [NodeId(1), NodeId(2)];
    for shard in 0..=2 {
        let let_go = async || {
            for node in [1, 2, 3] {
                let control = cluster.network.control(NodeId(node)).unwrap();
                if control
                    .change_voters(ShardId(shard), &staying)
                    .await
                    .is_ok()
                {
                    return true;
                }
            }
            false
        };
        for tries in 0.. {
            if let_go().await {
                break;
            }
            assert!(tries < 100, "shard {shard} does not let it go");
            cluster
                .runtime
                .sleep(std::time::Duration::from_millis(200))
                .await;
        }
    }
    keep(&cluster, &meta, &directory).await;
    let all = vec![FEATURE_LEVEL; 3];
    assert_eq!(levels(&meta).await, (FEATURE_LEVEL, all));
}
