//! Tests of finding a shard's leader: hints, silence, shards that move.

use std::sync::atomic::{AtomicUsize, Ordering};

use granary_meta_api::pb::query::Query as Question;
use granary_meta_api::pb::query_reply::Reply;

use super::*;
use crate::testing::{CLUSTER, TestNode, World, record};
use crate::{ListenerConfig, Peer, Security};

const SHARD: ShardId = ShardId(3);
const ATTEMPT: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug)]
enum Does {
    Leads,
    Names(Option<u64>),
    Hangs,
}

struct Scripted {
    does: Mutex<Does>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(does: Does) -> Arc<Self> {
        Arc::new(Self {
            does: Mutex::new(does),
            asked: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn act(&self, shard: ShardId) -> Result<(), MetaError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let does = *self.does.lock();
        match does {
            Does::Leads => Ok(()),
            Does::Hangs => std::future::pending().await,
            Does::Names(leader) => Err(MetaError::NotLeader {
                shard,
                leader: leader.map(NodeId),
            }),
        }
    }
}

#[async_trait]
impl MetaService for Scripted {
    async fn propose(&self, shard: ShardId, _: pb::Command) -> Result<pb::CommandReply, MetaError> {
        self.act(shard).await.map(|()| pb::CommandReply::default())
    }

    async fn query(&self, shard: ShardId, _: pb::Query) -> Result<pb::QueryReply, MetaError> {
        self.act(shard).await?;
        let shard = Reply::Shard(pb::ShardDescription::default());
        Ok(pb::QueryReply { reply: Some(shard) })
    }
}

fn plain(id: u64) -> Security {
    Security::Plain {
        cluster_id: CLUSTER.to_owned(),
        local: Peer::Node(NodeId(id)),
    }
}

async fn node(world: &World, id: u64, service: &Arc<Scripted>) -> TestNode {
    let routes = granary_meta_api::wire::routes(Arc::clone(service) as _);
    let config = ListenerConfig::default();
    world
        .node_serving(id, &["meta"], plain(id), config, vec![routes])
        .await
}

fn router(world: &World, local: u64, service: Option<&Arc<Scripted>>) -> MetaRouter {
    let links = world.links(plain(local));
    let service = service.map(|service| Arc::clone(service) as _);
    let router = MetaRouter::new(world.runtime.clone(), links, service).with_attempt(ATTEMPT);
    router.learn_map(&pb::ClusterMap {
        ranges: vec![pb::state::RangeHint {
            shard: SHARD.0,
            voters: vec![1, 2, 3],
            ..Default::default()
        }],
        ..Default::default()
    });
    router
}

fn question() -> pb::Query {
    pb::Query {
        query: Some(Question::DescribeShard(pb::DescribeShard {})),
    }
}

/// Attempts until an answer comes.
async fn attempts(router: &MetaRouter) -> usize {
    for count in 1..20 {
        if router.query(SHARD, question()).await.is_ok() {
            return count;
        }
    }
    panic!("no answer in 20 attempts");
}

#[tokio::test]
async fn it_follows_hints_and_remembers_the_leader() {
    let world = World::new();
    let scripts = [Does::Names(Some(3)), Does::Names(Some(3)), Does::Leads].map(Scripted::new);
    let _one = node(&world, 1, &scripts[0]).await;
    let _two = node(&world, 2, &scripts[1]).await;
    let _three = node(&world, 3, &scripts[2]).await;
    let router = router(&world, 9, None);
    assert_eq!(attempts(&router).await, 2);
    assert_eq!(router.leader(SHARD), Some(NodeId(3)));
    assert_eq!(attempts(&router).await, 1);
    assert!(router.propose(SHARD, pb::Command::default()).await.is_ok());
    assert_eq!(scripts.map(|script| script.asked()), [1, 0, 3]);
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_silent_leader_costs_one_attempt_and_old_hints_do_not_lead_back_to_it() {
    let world = World::new();
    let scripts = [Does::Leads, Does::Names(Some(1)), Does::Names(Some(1))].map(Scripted::new);
    let _one = node(&world, 1, &scripts[0]).await;
    let _two = node(&world, 2, &scripts[1]).await;
    let _three = node(&world, 3, &scripts[2]).await;
    let router = router(&world, 9, None);
    assert_eq!(attempts(&router).await, 1);
    *scripts[0].does.lock() = Does::Hangs;
    let began = world.runtime.monotonic();
    let outcome = router.propose(SHARD, pb::Command::default()).await;
    assert!(
        matches!(outcome, Err(MetaError::UnknownOutcome(_))),
        "{outcome:?}"
    );
    // The others still name it; then one of them takes over.
    for _ in 0..2 {
        assert!(router.query(SHARD, question()).await.is_err());
    }
    *scripts[2].does.lock() = Does::Leads;
    assert!(attempts(&router).await <= 3);
    let spent = world.runtime.monotonic() - began;
    assert!(spent < ATTEMPT * 3, "{spent:?}");
    assert_eq!(scripts[0].asked(), 2);
    assert_eq!(router.leader(SHARD), Some(NodeId(3)));
    world.runtime.stop().await;
}

/// A node that is gone without a word leads many shards: their requests must not each wait for it.
#[tokio::test]
async fn a_silent_node_holds_up_one_request_at_a_time_over_all_its_shards() {
    let world = World::new();
    let scripts = [Does::Hangs, Does::Names(Some(1)), Does::Names(Some(1))].map(Scripted::new);
    let _one = node(&world, 1, &scripts[0]).await;
    let _two = node(&world, 2, &scripts[1]).await;
    let _three = node(&world, 3, &scripts[2]).await;
    let router = router(&world, 9, None);
    let shards: Vec<ShardId> = (1..=20).map(ShardId).collect();
    for shard in &shards {
        router.known.lock().leaders.insert(*shard, NodeId(1));
    }
    assert!(router.query(shards[0], question()).await.is_err());
    let began = world.runtime.monotonic();
    for shard in &shards {
        assert!(router.query(*shard, question()).await.is_err());
    }
    let spent = world.runtime.monotonic() - began;
    assert!(spent < REST_FIRST, "{spent:?}");
    assert_eq!(scripts[0].asked(), 1);
    // It was only slow: once its rest is over the next request finds it, and then all do.
    *scripts[0].does.lock() = Does::Leads;
    world.runtime.sleep(REST_FIRST).await;
    assert!(attempts(&router).await <= 2);
    for shard in &shards {
        assert!(router.query(*shard, question()).await.is_ok());
    }
    world.runtime.stop().await;
}

#[tokio::test]
async fn this_process_is_asked_without_a_network_between() {
    let world = World::new();
    let own = Scripted::new(Does::Leads);
    for id in 1..=3 {
        world.root.put_node(record(id, "127.0.0.1:1", &["meta"]));
    }
    let router = router(&world, 2, Some(&own));
    assert_eq!(attempts(&router).await, 1);
    // Nothing listens at the others' addresses: when it leads no more, they are tried.
    *own.does.lock() = Does::Names(Some(3));
    assert!(router.query(SHARD, question()).await.is_err());
    let outcome = router.query(SHARD, question()).await;
    assert!(
        matches!(outcome, Err(MetaError::Unavailable(_))),
        "{outcome:?}"
    );
    assert_eq!(own.asked(), 2);
    world.runtime.stop().await;
}

/// A node that starts before the others asks itself first, and the others before they listen.
#[tokio::test]
async fn nodes_that_did_not_answer_are_asked_again_while_those_that_do_cannot_help() {
    let world = World::new();
    let scripts = [Does::Hangs, Does::Hangs].map(Scripted::new);
    let _one = node(&world, 1, &scripts[0]).await;
    let _two = node(&world, 2, &scripts[1]).await;
    let own = Scripted::new(Does::Names(None));
    world.root.put_node(record(9, "127.0.0.1:1", &["meta"]));
    // Nobody has told it who has the shard.
    let links = world.links(plain(9));
    let router = MetaRouter::new(world.runtime.clone(), links, Some(Arc::clone(&own) as _))
        .with_attempt(ATTEMPT);
    while scripts.iter().any(|script| script.asked() == 0) {
        assert!(router.query(SHARD, question()).await.is_err());
    }
    *scripts[1].does.lock() = Does::Leads;
    let found = granary_runtime::within(REST * 3, async {
        while router.query(SHARD, question()).await.is_err() {
            world.runtime.sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.expect("the leader is found");
    world.runtime.stop().await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_holds_up_nobody_elses_call() {
    let world = World::new();
    let (hangs, leads) = (Scripted::new(Does::Hangs), Scripted::new(Does::Leads));
    let _one = node(&world, 1, &hangs).await;
    let _two = node(&world, 2, &leads).await;
    let router = Arc::new(router(&world, 9, None).with_attempt(Duration::from_secs(5)));
    let slow = Arc::clone(&router);
    let waiting = world
        .runtime
        .spawn(async move { slow.query(SHARD, question()).await });
    let known = granary_runtime::within(Duration::from_secs(5), async {
        while hangs.asked() == 0 {
            world.runtime.sleep(Duration::from_millis(10)).await;
        }
    });
    known.await.unwrap();
    router.known.lock().leaders.insert(ShardId(4), NodeId(2));
    let other = granary_runtime::within(ATTEMPT * 5, router.query(ShardId(4), question()));
    assert!(other.await.expect("it does not wait for the other").is_ok());
    waiting.abort();
    world.runtime.stop().await;
}
