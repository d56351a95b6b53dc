//! The control of one node's replicas, in process and over gRPC on a pipe: the same answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use granary_kv::MemoryKv;
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::wire::{GrpcMetaControl, control_routes};
use granary_meta_api::{MetaControl, MetaError, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::{NodeId, ShardId, SlabId};
use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Server, Uri};
use tower::service_fn;

const NODE: NodeId = NodeId(1);

async fn node(runtime: &Runtime) -> Arc<MetaNode> {
    let config = MetaConfig {
        data_shards: 2,
        ..MetaConfig::default()
    };
    let kv = Arc::new(MemoryKv::new());
    let node = MetaNode::open(runtime.clone(), NODE, kv, Arc::new(NoPeers), config);
    let node = node.await.unwrap();
    let cluster = NewCluster {
        cluster_id: "test".to_owned(),
        region: "cn-test-1".to_owned(),
        root_account: pb::state::Account {
            id: 1,
            name: "root".to_owned(),
        },
        voters: vec![NODE],
    };
    node.bootstrap(cluster).await.unwrap();
    node
}

async fn remote(runtime: &Runtime, node: Arc<MetaNode>) -> GrpcMetaControl {
    let (near, far) = tokio::io::duplex(1 << 20);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
    let serving = Server::builder().add_routes(control_routes(node));
    runtime.spawn(serving.serve_with_incoming(incoming));
    let mut near = Some(near);
    let connector = service_fn(move |_: Uri| {
        let pipe = near.take();
        async move {
            let gone = || std::io::Error::other("there is one pipe");
            pipe.map(TokioIo::new).ok_or_else(gone)
        }
    });
    let endpoint = Endpoint::from_static("http://meta");
    GrpcMetaControl::new(endpoint.connect_with_connector(connector).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_node_answers_for_its_replicas_here_and_remotely() {
    for over_grpc in [false, true] {
        let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
        let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(5)));
        let node = node(&runtime).await;
        let control: Arc<dyn MetaControl> = match over_grpc {
            true => Arc::new(remote(&runtime, node.clone()).await),
            false => node.clone(),
        };
        let listed = control.list_replicas().await.unwrap();
        let shards: Vec<u32> = listed.iter().map(|replica| replica.shard).collect();
        assert_eq!(shards, [0, 1, 2]);
        for replica in &listed {
            assert!(replica.healthy && !replica.changing, "{replica:?}");
            assert_eq!((replica.leader, replica.voters.as_slice()), (1, &[1][..]));
            assert!(replica.last_log >= replica.last_applied && replica.last_applied > 0);
        }
        let (shard, home) = (ShardId(1), SlabId(listed[1].home_slab));
        // What is so already is done.
        control.open_replica(shard, home).await.unwrap();
        control.transfer_leader(shard, NODE).await.unwrap();
        control.add_learner(shard, NODE).await.unwrap();
        control.change_voters(shard, &[NODE]).await.unwrap();
        // A home slab belongs to one shard.
        let other_home = SlabId(home.0 + 1);
        let refused = control.open_replica(shard, other_home).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
        let refused = control.open_replica(ShardId(77), home).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
        // Who does not follow cannot vote, and who does not vote cannot lead.
        let stranger = NodeId(9);
        let refused = control.change_voters(shard, &[NODE, stranger]).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
        let refused = control.change_voters(shard, &[]).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
        let refused = control.transfer_leader(shard, stranger).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
        let unknown = control.add_learner(ShardId(77), stranger).await;
        assert_eq!(unknown, Err(MetaError::WrongShard(ShardId(77))));
        // An empty replica of a shard that is elsewhere waits, and forms nothing.
        let (elsewhere, slab) = (ShardId(78), SlabId(500));
        control.open_replica(elsewhere, slab).await.unwrap();
        control.open_replica(elsewhere, slab).await.unwrap();
        let listed = control.list_replicas().await.unwrap();
        let empty = listed.iter().find(|replica| replica.shard == 78).unwrap();
        assert!(empty.healthy && empty.leader == 0 && empty.voters.is_empty());
        let refused = control.change_voters(elsewhere, &[NODE]).await;
        let no_leader = MetaError::NotLeader {
            shard: elsewhere,
            leader: None,
        };
        assert_eq!(refused, Err(no_leader));
        // Learners follow, and leave with the next change.
        control.add_learner(shard, stranger).await.unwrap();
        control.add_learner(shard, stranger).await.unwrap();
        let learners = async || {
            let listed = control.list_replicas().await.unwrap();
            listed.into_iter().find(|r| r.shard == 1).unwrap().learners
        };
        assert_eq!(learners().await, [9]);
        let refused = control.change_voters(shard, &[NODE, stranger]).await;
        assert!(
            matches!(refused, Err(MetaError::Unavailable(_))),
            "{refused:?}"
        );
        control.change_voters(shard, &[NODE]).await.unwrap();
        assert!(learners().await.is_empty());
        node.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_replica_is_not_the_one_to_ask() {
    let clock = Arc::new(SimulatedClock::starting_at(1_800_000_000_000));
    let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(5)));
    let node = node(&runtime).await;
    let elsewhere = ShardId(77);
    let query = pb::Query {
        query: Some(pb::query::Query::DescribeShard(pb::DescribeShard {})),
    };
    // Not that the shard does not own what is asked for: only the shard can say that.
    let not_here = MetaError::NotLeader {
        shard: elsewhere,
        leader: None,
    };
    let asked = node.query(elsewhere, query).await;
    assert_eq!(asked, Err(not_here.clone()));
    let command = pb::Command {
        command: Some(pb::command::Command::Tick(pb::Tick::default())),
        ..Default::default()
    };
    let asked = node.propose(elsewhere, command).await;
    assert_eq!(asked, Err(not_here));
    node.stop().await.unwrap();
}
