//! Shards of several nodes: replicas that begin empty, members that change, leaders that are handed
//! over, and shards without a quorum.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_kv::KvRead as _;
use granary_meta_api::{Meta, MetaControl, MetaError, MetaService, pb};
use granary_raft::RaftConfig;
use granary_types::{NodeId, ShardId};

use super::super::MetaConfig;
use super::{bucket_record, put, split};
use crate::testsuite::TestCluster;

const ROOT: ShardId = ShardId::ROOT;

/// Logs that are cut soon.
fn config() -> MetaConfig {
    MetaConfig {
        data_shards: 2,
        raft: RaftConfig {
            snapshot_every_entries: 40,
            keep_entries: 10,
            ..RaftConfig::default()
        },
        ..MetaConfig::default()
    }
}

async fn bucket(meta: &Meta) -> pb::state::Bucket {
    let create = pb::CreateBucket {
        bucket: Some(bucket_record()),
        ..Default::default()
    };
    meta.create_bucket(create).await.unwrap().unwrap()
}

async fn write(meta: &Meta, bucket: &pb::state::Bucket, numbers: std::ops::Range<u32>) {
    for n in numbers {
        meta.propose(put(bucket, n)).await.unwrap().unwrap();
    }
}

async fn check(meta: &Meta, bucket: &pb::state::Bucket, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let found = super::read(meta, bucket, n).await;
        assert_eq!(found, format!("{n}"), "key{n}");
    }
}

/// The home slab of a shard, as a node that has it says.
async fn home(cluster: &TestCluster, shard: ShardId) -> granary_types::SlabId {
    let replicas = cluster.leader(shard).await.list_replicas().await.unwrap();
    let found = replicas.iter().find(|replica| replica.shard == shard.0);
    granary_types::SlabId(found.unwrap().home_slab)
}

/// Where a node's replica is, if it is open.
async fn replica(cluster: &TestCluster, node: u64, shard: ShardId) -> Option<pb::Replica> {
    let replicas = cluster.node(NodeId(node)).list_replicas().await.unwrap();
    replicas
        .into_iter()
        .find(|replica| replica.shard == shard.0)
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Makes these the voters, as the keeper does.
async fn make_voters(cluster: &TestCluster, shard: ShardId, voters: &[u64]) {
    let slab = home(cluster, shard).await;
    let members = cluster
        .leader(shard)
        .await
        .raft()
        .group(shard)
        .unwrap()
        .members();
    let new: Vec<NodeId> = ids(voters)
        .into_iter()
        .filter(|v| !members.voters.contains(v))
        .collect();
    for node in &new {
        let opened = cluster.node(*node).open_replica(shard, slab).await;
        opened.unwrap();
        // Every call can be repeated.
        cluster.node(*node).open_replica(shard, slab).await.unwrap();
        cluster
            .leader(shard)
            .await
            .add_learner(shard, *node)
            .await
            .unwrap();
        cluster
            .leader(shard)
            .await
            .add_learner(shard, *node)
            .await
            .unwrap();
    }
    for _ in 0..1000 {
        let changed = cluster
            .leader(shard)
            .await
            .change_voters(shard, &ids(voters))
            .await;
        match changed {
            Ok(()) => return,
            Err(MetaError::Unavailable(_) | MetaError::NotLeader { .. }) => {
                cluster.runtime.sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("shard {shard} does not get voters {voters:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_empty_gets_its_first_state_by_a_snapshot() {
    for restart in [false, true] {
        let mut cluster = TestCluster::formed(
            1,
            31,
            MetaConfig {
                data_shards: 2,
                ..MetaConfig::default()
            },
        )
        .await;
        let meta = cluster.client();
        let bucket = bucket(&meta).await;
        // Few entries: nothing but the first one has ever been cut.
        write(&meta, &bucket, 0..3).await;
        if restart {
            cluster.kill(NodeId(1), 0).await;
            cluster.start(NodeId(1)).await;
        }
        for node in 2..=3 {
            cluster.start(NodeId(node)).await;
        }
        let shards = [ROOT, ShardId(1), ShardId(2)];
        for shard in shards {
            make_voters(&cluster, shard, &[1, 2, 3]).await;
        }
        cluster.settled(&shards, &ids(&[1, 2, 3])).await;
        write(&meta, &bucket, 3..6).await;
        // The new ones know everything: without the old one they are a majority.
        cluster.lose(NodeId(1)).await;
        check(&meta, &bucket, 0..6).await;
        write(&meta, &bucket, 6..9).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_missed_a_split_and_its_report_catches_up_with_parent_and_child() {
    for (seed, child_first) in [(41, false), (42, true)] {
        let mut cluster = TestCluster::formed(3, seed, config()).await;
        let meta = cluster.client();
        let bucket = bucket(&meta).await;
        write(&meta, &bucket, 0..10).await;
        let segments = meta
            .segments(granary_types::BucketId(bucket.id))
            .await
            .unwrap();
        let parent = segments[0].shard;
        cluster.settled(&[parent], &ids(&[1, 2, 3])).await;
        let leader = cluster.leader(parent).await.node();
        let away = ids(&[1, 2, 3])
            .into_iter()
            .find(|id| *id != leader)
            .unwrap();
        cluster.kill(away, usize::MAX).await;
        // While it is down: a split, its report, and writes on both sides until the log is cut.
        let child = split(&meta, &bucket, "key5".to_owned(), 1).await;
        for _ in 0..1000 {
            let described = meta.query_at(parent, pb::DescribeShard {}).await.unwrap();
            if described.descriptor.unwrap().unreported_children.is_empty() {
                break;
            }
            cluster.runtime.sleep(Duration::from_millis(50)).await;
        }
        meta.refresh_map().await.unwrap();
        for _ in 0..12 {
            write(&meta, &bucket, 0..10).await;
        }
        let cut = |shard| {
            let node = cluster.network.reachable(leader).unwrap();
            node.raft().group(shard).unwrap().metrics().purged_index > Some(10)
        };
        cluster
            .until("the parent's log is cut", || cut(parent))
            .await;
        let slab = home(&cluster, child).await;
        if child_first {
            // It comes back without hearing of the parent.
            cluster.cut_off(away);
        }
        cluster.start(away).await;
        let back = cluster.node(away);
        if child_first {
            back.open_replica(child, slab).await.unwrap();
            cluster.heal();
        } else {
            cluster.settled(&[parent], &ids(&[1, 2, 3])).await;
        }
        back.open_replica(child, slab).await.unwrap();
        cluster.settled(&[parent, child], &ids(&[1, 2, 3])).await;
        assert!(replica(&cluster, away.0, child).await.unwrap().healthy);
        // It counts: with another one gone it serves, and has all of both.
        let other = ids(&[1, 2, 3]).into_iter().find(|id| *id != away).unwrap();
        write(&meta, &bucket, 0..12).await;
        cluster
            .settled(&[ROOT, parent, child], &ids(&[1, 2, 3]))
            .await;
        cluster.lose(other).await;
        check(&meta, &bucket, 0..12).await;
        write(&meta, &bucket, 12..14).await;
        // Its next life opens both by itself.
        cluster.kill(away, 0).await;
        cluster.start(away).await;
        check(&meta, &bucket, 0..14).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fourth_node_takes_the_place_of_a_voter_under_writes() {
    let mut cluster = TestCluster::formed(3, 51, config()).await;
    let meta = cluster.client();
    let bucket = bucket(&meta).await;
    write(&meta, &bucket, 0..60).await;
    let child = split(&meta, &bucket, "key3".to_owned(), 2).await;
    cluster.settled(&[child], &ids(&[1, 2, 3])).await;
    let gone = NodeId(2);
    cluster.lose(gone).await;
    cluster.start(NodeId(4)).await;
    let shards = [ROOT, ShardId(1), ShardId(2), child];
    let writing = async { write(&meta, &bucket, 60..160).await };
    let moving = async {
        for shard in shards {
            make_voters(&cluster, shard, &[1, 3, 4]).await;
        }
    };
    tokio::join!(writing, moving);
    cluster.settled(&shards, &ids(&[1, 3, 4])).await;
    // The root was told of it by whoever leads.
    let mut told = false;
    for _ in 0..1000 {
        let map = meta.query(pb::GetClusterMap::default()).await.unwrap();
        told = map.ranges.iter().all(|hint| {
            let mut voters = hint.voters.clone();
            voters.sort_unstable();
            voters == [1, 3, 4]
        });
        if told {
            break;
        }
        cluster.runtime.sleep(Duration::from_millis(50)).await;
    }
    assert!(told, "the root has other voters");
    cluster.kill(NodeId(1), 0).await;
    check(&meta, &bucket, 0..160).await;
    write(&meta, &bucket, 160..170).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_hands_over_what_it_leads_and_then_stops_at_once() {
    let cluster = TestCluster::formed(3, 61, config()).await;
    let meta = cluster.client();
    let bucket = bucket(&meta).await;
    write(&meta, &bucket, 0..5).await;
    let shards = [ROOT, ShardId(1), ShardId(2)];
    cluster.settled(&shards, &ids(&[1, 2, 3])).await;
    for shard in shards {
        let leader = cluster.leader(shard).await;
        leader.transfer_leader(shard, NodeId(1)).await.unwrap();
        leader.transfer_leader(shard, NodeId(1)).await.unwrap();
    }
    let node = cluster.node(NodeId(1));
    cluster
        .until("node 1 leads", || {
            shards
                .iter()
                .all(|shard| node.raft().group(*shard).unwrap().is_leader())
        })
        .await;
    let began = cluster.runtime.monotonic();
    assert_eq!(node.hand_over(Duration::from_secs(10)).await, 0);
    for shard in shards {
        assert_ne!(cluster.leader(shard).await.node(), NodeId(1));
    }
    let took = cluster.runtime.monotonic() - began;
    assert!(took < Duration::from_secs(1), "handing over took {took:?}");
    // Nobody gives it back what it handed over, and nobody counts on it.
    assert!(node.list_replicas().await.is_err());
    for shard in shards {
        let leader = cluster.leader(shard).await;
        let given = leader.transfer_leader(shard, NodeId(1)).await;
        assert!(given.is_err(), "{given:?}");
        assert_ne!(cluster.leader(shard).await.node(), NodeId(1));
    }
    let began = cluster.runtime.monotonic();
    node.stop().await.unwrap();
    let took = cluster.runtime.monotonic() - began;
    assert!(took < Duration::from_millis(500), "stopping took {took:?}");
    // Whoever asks it now does not take its map for old.
    let query = pb::Query {
        query: Some(pb::query::Query::DescribeShard(pb::DescribeShard {})),
    };
    let asked = node.query(ShardId(1), query).await;
    assert!(matches!(asked, Err(MetaError::Unavailable(_))), "{asked:?}");
    let command = pb::Command {
        command: Some(pb::command::Command::Tick(pb::Tick {})),
        ..Default::default()
    };
    let asked = node.propose(ShardId(1), command).await;
    assert!(matches!(asked, Err(MetaError::Unavailable(_))), "{asked:?}");
    let asked = node.list_replicas().await;
    assert!(matches!(asked, Err(MetaError::Unavailable(_))), "{asked:?}");
    check(&meta, &bucket, 0..5).await;
    write(&meta, &bucket, 5..8).await;
}

/// The one with most of the log may be gone, or may never have got the request.
#[tokio::test(start_paused = true)]
async fn a_voter_that_is_silent_does_not_hold_up_a_node_that_stops() {
    for silent in [NodeId(2), NodeId(3)] {
        let cluster = TestCluster::formed(3, 63, config()).await;
        let meta = cluster.client();
        let bucket = bucket(&meta).await;
        write(&meta, &bucket, 0..5).await;
        let shard = ShardId(1);
        let leader = cluster.leader(shard).await;
        if leader.node() != NodeId(1) {
            leader.transfer_leader(shard, NodeId(1)).await.unwrap();
        }
        let node = cluster.node(NodeId(1));
        cluster
            .until("node 1 leads", || {
                node.raft().group(shard).unwrap().is_leader()
            })
            .await;
        cluster.cut_off(silent);
        let began = cluster.runtime.monotonic();
        assert_eq!(node.hand_over(Duration::from_secs(10)).await, 0);
        let took = cluster.runtime.monotonic() - began;
        // Less than any election timeout.
        assert!(took < Duration::from_millis(750), "{silent}: {took:?}");
    }
}

/// A node without others has nobody to hand over to, and does not wait for one.
#[tokio::test(start_paused = true)]
async fn a_sole_voter_hands_nothing_over() {
    let cluster = TestCluster::formed(1, 62, config()).await;
    let node = cluster.node(NodeId(1));
    let began = cluster.runtime.monotonic();
    assert_eq!(node.hand_over(Duration::from_secs(10)).await, 0);
    assert_eq!(cluster.runtime.monotonic(), began);
}

#[tokio::test(start_paused = true)]
async fn a_shard_without_a_quorum_says_so_long_before_its_clients_give_up() {
    const BOUND: Duration = Duration::from_secs(12);
    let mut cluster = TestCluster::formed(3, 71, config()).await;
    let meta = cluster.client();
    let bucket = bucket(&meta).await;
    write(&meta, &bucket, 0..5).await;
    let segments = meta
        .segments(granary_types::BucketId(bucket.id))
        .await
        .unwrap();
    let shard = segments[0].shard;
    cluster.settled(&[shard], &ids(&[1, 2, 3])).await;
    let leader = cluster.leader(shard).await;
    for other in ids(&[1, 2, 3]) {
        if other != leader.node() {
            cluster.kill(other, usize::MAX).await;
        }
    }
    let decide = async |deadline_ms| {
        let command = pb::Command {
            id: bytes::Bytes::copy_from_slice(&cluster.runtime.entropy().next_u128().to_be_bytes()),
            deadline_ms: cluster.runtime.now().as_millis() + deadline_ms,
            command: Some(pb::command::Command::PutObject(put(&bucket, 9))),
        };
        leader.propose(shard, command).await
    };
    for round in 0..3 {
        let began = cluster.runtime.monotonic();
        let answer = decide(30_000).await;
        let took = cluster.runtime.monotonic() - began;
        let unsure = matches!(
            answer,
            Err(MetaError::UnknownOutcome(_)
                | MetaError::Unavailable(_)
                | MetaError::NotLeader { .. })
        );
        assert!(
            unsure && took < BOUND,
            "round {round}, {took:?}: {answer:?}"
        );
        let began = cluster.runtime.monotonic();
        let query = pb::Query {
            query: Some(pb::query::Query::DescribeShard(pb::DescribeShard {})),
        };
        let answer = leader.query(shard, query).await;
        let took = cluster.runtime.monotonic() - began;
        assert!(
            answer.is_err() && took < BOUND,
            "round {round}, {took:?}: {answer:?}"
        );
    }
    // With the others it goes on, and nothing is lost.
    for other in ids(&[1, 2, 3]) {
        if other != leader.node() {
            cluster.start(other).await;
        }
    }
    check(&meta, &bucket, 0..5).await;
    write(&meta, &bucket, 5..8).await;
}

/// What a node's store holds of a shard: keys of its log and of its home slab.
fn leftovers(
    cluster: &TestCluster,
    node: u64,
    shard: ShardId,
    home: granary_types::SlabId,
) -> usize {
    let store = cluster.store(NodeId(node));
    let rows = |space, start: [u8; 4]| {
        let end = granary_kv::prefix_end(&start);
        let found = store.scan(
            space,
            &start,
            end.as_deref(),
            granary_kv::Direction::Forward,
        );
        found.count()
    };
    rows(granary_kv::Space::Log, shard.0.to_be_bytes())
        + rows(granary_kv::Space::State, home.0.to_be_bytes())
}

/// A node that has left a shard gives its replica up, whether it heard of it or not, and can come
/// back; a crash at any moment of that does no harm.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_no_member_any_more_is_closed_and_may_come_back() {
    for (seed, missed) in [(71, false), (72, true)] {
        let mut cluster = TestCluster::formed(3, seed, config()).await;
        let meta = cluster.client();
        let bucket = bucket(&meta).await;
        write(&meta, &bucket, 0..10).await;
        let shards = [ROOT, ShardId(1), ShardId(2)];
        cluster.settled(&shards, &ids(&[1, 2, 3])).await;
        cluster.start(NodeId(4)).await;
        if missed {
            cluster.kill(NodeId(3), usize::MAX).await;
        }
        let mut homes = Vec::new();
        for shard in shards {
            homes.push((shard, home(&cluster, shard).await));
            make_voters(&cluster, shard, &[1, 2, 4]).await;
        }
        cluster.settled(&shards, &ids(&[1, 2, 4])).await;
        let terms = [1, 2, 4].map(|id| cluster.node(NodeId(id)).raft().group(ROOT).unwrap().term());
        if missed {
            cluster.start(NodeId(3)).await;
            assert!(replica(&cluster, 3, ROOT).await.is_some());
        }
        let three = cluster.node(NodeId(3));
        let gone = || !three.has_shards();
        cluster
            .until("the replicas of node 3 are closed", gone)
            .await;
        for (shard, home) in &homes {
            assert_eq!(
                leftovers(&cluster, 3, *shard, *home),
                0,
                "shard {shard}, missed {missed}"
            );
            assert!(leftovers(&cluster, 1, *shard, *home) > 0);
        }
        // It disturbed nobody, and members keep what they have.
        let after = [1, 2, 4].map(|id| cluster.node(NodeId(id)).raft().group(ROOT).unwrap().term());
        assert_eq!(terms, after, "elections, missed {missed}");
        cluster.runtime.sleep(Duration::from_secs(120)).await;
        for member in [1, 2, 4] {
            assert_eq!(
                cluster
                    .node(NodeId(member))
                    .list_replicas()
                    .await
                    .unwrap()
                    .len(),
                3
            );
        }
        check(&meta, &bucket, 0..10).await;
        // Restarted it has nothing, and forms nothing of its own accord.
        cluster.kill(NodeId(3), 0).await;
        cluster.start(NodeId(3)).await;
        assert!(!cluster.node(NodeId(3)).has_shards());
        for shard in shards {
            make_voters(&cluster, shard, &[2, 3, 4]).await;
        }
        cluster.settled(&shards, &ids(&[2, 3, 4])).await;
        cluster.lose(NodeId(2)).await;
        check(&meta, &bucket, 0..10).await;
        write(&meta, &bucket, 10..13).await;
    }
}

/// Without the word of a leader nothing is closed: a majority may be gone, or the node be cut off.
#[tokio::test(start_paused = true)]
async fn a_replica_without_a_leader_stays() {
    let mut cluster = TestCluster::formed(3, 73, config()).await;
    let meta = cluster.client();
    let bucket = bucket(&meta).await;
    write(&meta, &bucket, 0..3).await;
    cluster
        .settled(&[ROOT, ShardId(1), ShardId(2)], &ids(&[1, 2, 3]))
        .await;
    cluster.kill(NodeId(1), 0).await;
    cluster.kill(NodeId(2), 0).await;
    cluster.runtime.sleep(Duration::from_secs(600)).await;
    assert_eq!(
        cluster.node(NodeId(3)).list_replicas().await.unwrap().len(),
        3
    );
    cluster.start(NodeId(1)).await;
    cluster.start(NodeId(2)).await;
    check(&meta, &bucket, 0..3).await;
    // A replica that was opened and is not admitted yet is no member, and goes only after a while.
    cluster.start(NodeId(4)).await;
    let slab = home(&cluster, ShardId(1)).await;
    cluster
        .node(NodeId(4))
        .open_replica(ShardId(1), slab)
        .await
        .unwrap();
    cluster.runtime.sleep(Duration::from_secs(20)).await;
    assert!(replica(&cluster, 4, ShardId(1)).await.is_some());
    let four = cluster.node(NodeId(4));
    cluster.until("it is closed", || !four.has_shards()).await;
}

/// The root, when nobody answers.
struct Silent;

#[async_trait]
impl MetaService for Silent {
    async fn propose(&self, _: ShardId, _: pb::Command) -> Result<pb::CommandReply, MetaError> {
        std::future::pending().await
    }

    async fn query(&self, _: ShardId, _: pb::Query) -> Result<pb::QueryReply, MetaError> {
        std::future::pending().await
    }
}

/// Its vote is what the others of a shard without a leader wait for: it must not be kept away from
/// them while it asks whether it is a member still.
#[tokio::test(start_paused = true)]
async fn a_replica_without_a_leader_hears_the_others() {
    let mut cluster = TestCluster::formed(3, 75, config()).await;
    let meta = cluster.client();
    let bucket = bucket(&meta).await;
    write(&meta, &bucket, 0..3).await;
    let shards = [ROOT, ShardId(1), ShardId(2)];
    cluster.settled(&shards, &ids(&[1, 2, 3])).await;
    cluster.kill(NodeId(1), 0).await;
    cluster.kill(NodeId(2), 0).await;
    let three = cluster.node(NodeId(3));
    three.route_root_through(Arc::new(Silent));
    for second in 0..120 {
        cluster.runtime.sleep(Duration::from_secs(1)).await;
        for shard in shards {
            assert!(!three.raft().is_sealed(shard), "{shard} after {second} s");
        }
    }
    drop(three);
    cluster.start(NodeId(1)).await;
    check(&meta, &bucket, 0..3).await;
}

/// A crash at any write of the closing: what is left goes when the node starts again, and nothing
/// stands in the way of a new replica.
#[tokio::test(start_paused = true)]
async fn a_closing_that_a_crash_interrupts_is_ended_at_the_next_start() {
    for survivors in 0..6 {
        let mut cluster = TestCluster::formed(3, 74, config()).await;
        let meta = cluster.client();
        let bucket = bucket(&meta).await;
        write(&meta, &bucket, 0..10).await;
        let shard = ShardId(1);
        cluster.settled(&[shard], &ids(&[1, 2, 3])).await;
        cluster.start(NodeId(4)).await;
        let slab = home(&cluster, shard).await;
        make_voters(&cluster, shard, &[1, 2, 4]).await;
        cluster.settled(&[shard], &ids(&[1, 2, 4])).await;
        let three = cluster.node(NodeId(3));
        let closed = || three.raft().group(shard).is_none();
        cluster
            .until("the replica of node 3 is closed", closed)
            .await;
        drop(three);
        cluster.kill(NodeId(3), survivors).await;
        cluster.start(NodeId(3)).await;
        assert!(replica(&cluster, 3, shard).await.is_none(), "{survivors}");
        assert_eq!(leftovers(&cluster, 3, shard, slab), 0, "{survivors}");
        make_voters(&cluster, shard, &[1, 2, 3]).await;
        cluster.settled(&[shard], &ids(&[1, 2, 3])).await;
        check(&meta, &bucket, 0..10).await;
    }
}
