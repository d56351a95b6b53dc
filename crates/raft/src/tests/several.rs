//! Three voters and more: lost leaders, partitions, snapshots, membership, hand-over, reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_kv::MemoryKv;
use granary_types::NodeId;

use super::cluster::{Cluster, PATIENCE};
use crate::{ProposeError, RaftConfig, RequestKind};

async fn three(seed: u64) -> Cluster {
    Cluster::formed(3, seed, RaftConfig::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    for seed in 1..=5 {
        let mut cluster = three(seed).await;
        let first = cluster.leader().await.id;
        for number in 0..20 {
            cluster.nodes[&first]
                .put(&format!("before{number:02}"))
                .await
                .unwrap();
        }
        let follower = cluster.ids().into_iter().find(|id| *id != first).unwrap();
        match cluster.nodes[&follower].put("refused").await {
            Err(ProposeError::NotLeader(error)) => {
                assert_eq!(error.leader, Some(first), "seed {seed}");
            }
            other => panic!("a follower answered {other:?}, seed {seed}"),
        }
        let left = cluster.kill(first, 0).await;
        let second = cluster.leader().await;
        assert_ne!(second.id, first);
        for number in 0..20 {
            second.put(&format!("after{number:02}")).await.unwrap();
        }
        second.group.begin_read().unwrap().confirm().await.unwrap();
        let keys = second.map().keys().unwrap();
        assert_eq!(
            keys.iter().filter(|key| key.starts_with("before")).count(),
            20
        );
        cluster.start(first, left).await;
        cluster.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_partitioned_leader_stops_serving_before_another_one_starts() {
    for seed in 1..=5 {
        let cluster = three(seed).await;
        let old = cluster.leader().await;
        old.put("before").await.unwrap();
        let (ids, term) = (cluster.ids(), old.group.term());
        let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != old.id).collect();
        cluster.network.cut_off(old.id, &ids);
        // Whatever the moment: as long as the old one confirms reads, no other one leads.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let new = loop {
            let confirmed = match old.group.begin_read() {
                Ok(read) => read.confirm().await.is_ok(),
                Err(_) => false,
            };
            let elected = cluster.nodes.values().find(|node| {
                node.id != old.id && node.group.is_leader() && node.group.term() > term
            });
            assert!(
                !(confirmed && elected.is_some()),
                "two leaders serve reads, seed {seed}"
            );
            if let Some(node) = elected {
                break node;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no new leader, seed {seed}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(others.contains(&new.id));
        new.put("meanwhile").await.unwrap();
        if let Ok(read) = old.group.begin_read() {
            assert!(
                read.confirm().await.is_err(),
                "a deposed leader confirmed a read"
            );
        }
        assert!(old.group.read_barrier().await.is_err());
        let deadline = Duration::from_secs(2);
        let lost = old
            .group
            .propose(Bytes::from_static(b"lost=v"), deadline)
            .await;
        assert!(
            matches!(
                lost,
                Err(ProposeError::Unknown | ProposeError::NotLeader(_))
            ),
            "seed {seed}: {lost:?}"
        );
        // It calls itself a leader still; its numbers say that it can decide nothing.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(old.group.metrics().without_quorum, "seed {seed}");
        assert!(!new.group.metrics().without_quorum, "seed {seed}");
        cluster.network.heal();
        cluster.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lossy_network_loses_no_acknowledged_command() {
    for seed in 1..=5 {
        let cluster = three(seed).await;
        cluster.leader().await;
        cluster.network.lose(10);
        let mut acknowledged = Vec::new();
        for number in 0..60 {
            let key = format!("key{number:02}");
            if cluster.leader().await.put(&key).await.is_ok() {
                acknowledged.push(key);
            }
        }
        cluster.network.lose(0);
        cluster.converge().await;
        assert!(
            acknowledged.len() > 30,
            "seed {seed}: only {} went through",
            acknowledged.len()
        );
        let keys = cluster.leader().await.map().keys().unwrap();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|key| !keys.contains(key))
            .collect();
        assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    }
}

fn compacting() -> RaftConfig {
    RaftConfig {
        snapshot_every_entries: 40,
        keep_entries: 10,
        lag_entries: 20,
        ..RaftConfig::default()
    }
}

/// A node id is never used twice, so a wiped node comes back under a new one.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_is_replaced_by_a_new_one_through_a_snapshot() {
    for seed in 1..=3 {
        let mut cluster = Cluster::formed(3, seed, compacting()).await;
        let leader = cluster.leader().await.id;
        for number in 0..200 {
            cluster.nodes[&leader]
                .put(&format!("key{number:03}"))
                .await
                .unwrap();
        }
        let lost = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        cluster.kill(lost, 0).await;
        let new = NodeId(9);
        cluster.start(new, MemoryKv::new()).await;
        let group = cluster.nodes[&leader].group.clone();
        group.add_learner(new, PATIENCE).await.unwrap();
        let sent = cluster.network.sent.lock().clone();
        let chunks = sent.get(&RequestKind::Snapshot).copied().unwrap_or(0);
        assert!(
            chunks > 10,
            "seed {seed}: caught up without a snapshot: {sent:?}"
        );
        let mut voters: Vec<NodeId> = cluster.ids();
        group.change_membership(&voters, PATIENCE).await.unwrap();
        voters.sort_unstable();
        let members = group.members();
        assert_eq!((members.voters, members.changing), (voters, false));
        cluster.converge().await;
        assert_eq!(cluster.nodes[&new].map().keys().unwrap().len(), 201);
        // The new one counts: without another old one there is still a majority.
        let third = cluster
            .ids()
            .into_iter()
            .find(|id| *id != leader && *id != new)
            .unwrap();
        cluster.kill(third, 0).await;
        cluster
            .leader()
            .await
            .put("with the new one")
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_too_long_catches_up_by_a_snapshot() {
    for (seed, survivors) in [(1, 0), (2, 3), (3, usize::MAX)] {
        let mut cluster = Cluster::formed(3, seed, compacting()).await;
        let leader = cluster.leader().await.id;
        for number in 0..30 {
            cluster.nodes[&leader]
                .put(&format!("early{number:02}"))
                .await
                .unwrap();
        }
        let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        let left = cluster.kill(away, survivors).await;
        for number in 0..150 {
            cluster.nodes[&leader]
                .put(&format!("late{number:03}"))
                .await
                .unwrap();
        }
        cluster.start(away, left).await;
        cluster.converge().await;
        let sent = cluster.network.sent.lock().clone();
        assert!(
            sent.contains_key(&RequestKind::Snapshot),
            "seed {seed}: {sent:?}"
        );
        // What it installed survives its next crash.
        let left = cluster.kill(away, 0).await;
        cluster.start(away, left).await;
        cluster.converge().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_breaks_off_harms_nothing() {
    let mut cluster = Cluster::formed(3, 11, compacting()).await;
    let leader = cluster.leader().await.id;
    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let left = cluster.kill(away, 0).await;
    for number in 0..400 {
        cluster.nodes[&leader]
            .put(&format!("key{number:03}"))
            .await
            .unwrap();
    }
    cluster.start(away, left).await;
    // Cut the line again and again while chunks are on their way.
    let chunks = |cluster: &Cluster| {
        cluster
            .network
            .sent
            .lock()
            .get(&RequestKind::Snapshot)
            .copied()
            .unwrap_or(0)
    };
    for _ in 0..5 {
        let before = chunks(&cluster);
        while chunks(&cluster) < before + 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.network.cut_off(away, &cluster.ids());
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.network.heal();
        if cluster.nodes[&away].map().keys().unwrap().len() >= 400 {
            break;
        }
    }
    cluster.converge().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_hands_over_reads_no_longer_on_what_voters_said_before() {
    let cluster = three(22).await;
    let old = cluster.leader().await;
    old.put("before").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let to = cluster.ids().into_iter().find(|id| *id != old.id).unwrap();
    cluster.network.cut_off(old.id, &cluster.ids());
    // Its lease: nobody else leads for a while, and nobody need be asked.
    old.group.begin_read().unwrap().confirm().await.unwrap();
    old.group.transfer_leader(to).await.unwrap();
    // The other may lead as soon as it hears of it.
    if let Ok(read) = old.group.begin_read() {
        let confirmed = tokio::time::timeout(Duration::from_millis(50), read.confirm()).await;
        assert!(!matches!(confirmed, Ok(Ok(_))), "read on an old lease");
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_on_request() {
    let cluster = three(21).await;
    let old = cluster.leader().await;
    old.put("before").await.unwrap();
    let to = cluster.ids().into_iter().find(|id| *id != old.id).unwrap();
    assert!(
        cluster.nodes[&to].group.transfer_leader(to).await.is_err(),
        "only a leader can"
    );
    assert!(
        old.group.transfer_leader(NodeId(77)).await.is_err(),
        "only to a voter"
    );
    let asked = tokio::time::Instant::now();
    old.group.transfer_leader(to).await.unwrap();
    let new = cluster.leader_among(&[to]).await;
    let took = asked.elapsed();
    assert!(
        took < Duration::from_millis(1000),
        "took {took:?}, as long as an election"
    );
    new.put("after").await.unwrap();
    assert!(
        old.group.begin_read().is_err(),
        "the old leader still serves"
    );
    cluster.converge().await;
}

/// A restarted follower has forgotten whom it promised a lease; it must not help to elect anybody
/// within that lease, or two leaders serve reads.
#[tokio::test(start_paused = true)]
async fn a_restarted_node_keeps_the_promise_it_forgot() {
    for seed in 1..=8 {
        let mut cluster = three(seed).await;
        let old = cluster.leader().await.id;
        cluster.nodes[&old].put("before").await.unwrap();
        let others: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != old).collect();
        // One follower has long not heard of the leader and wants to lead; the other one restarts.
        cluster.network.cut_off(others[0], &[old]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let left = cluster.kill(others[1], 0).await;
        cluster.start(others[1], left).await;
        cluster.network.cut_off(others[1], &[old]);
        let term = cluster.nodes[&old].group.term();
        for _ in 0..200 {
            let confirmed = match cluster.nodes[&old].group.begin_read() {
                Ok(read) => read.confirm().await.is_ok(),
                Err(_) => false,
            };
            let elected = others.iter().any(|id| {
                let group = &cluster.nodes[id].group;
                group.is_leader() && group.term() > term
            });
            assert!(
                !(confirmed && elected),
                "two leaders serve reads, seed {seed}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.network.heal();
        cluster.converge().await;
    }
}

/// Followers with a shorter election timeout than their leader's lease would be done electing while
/// it still serves: they must keep to what it relies on.
#[tokio::test(start_paused = true)]
async fn nodes_that_do_not_agree_on_the_timeouts_serve_nothing_stale() {
    for seed in 1..=8 {
        let slow = RaftConfig::with_election(3000, 100);
        let mut cluster = Cluster::formed(3, seed, slow).await;
        let old = cluster.leader().await.id;
        cluster.nodes[&old].put("before").await.unwrap();
        cluster.config = RaftConfig::with_election(600, 100);
        let ids = cluster.ids();
        for id in ids.iter().filter(|id| **id != old) {
            let left = cluster.kill(*id, 0).await;
            cluster.start(*id, left).await;
        }
        // What is kept after a restart is over.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let term = cluster.nodes[&old].group.term();
        assert!(cluster.nodes[&old].group.is_leader(), "seed {seed}");
        cluster.network.cut_off(old, &ids);
        let (mut confirmed_to, began) = (Duration::ZERO, tokio::time::Instant::now());
        loop {
            let confirmed = match cluster.nodes[&old].group.begin_read() {
                Ok(read) => read.confirm().await.is_ok(),
                Err(_) => false,
            };
            if confirmed {
                confirmed_to = began.elapsed();
            }
            let elected = cluster
                .nodes
                .values()
                .any(|node| node.id != old && node.group.is_leader() && node.group.term() > term);
            assert!(
                !(confirmed && elected),
                "two leaders serve reads, seed {seed}"
            );
            if elected {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "no new leader, seed {seed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            confirmed_to > Duration::from_secs(2),
            "its lease is short: {confirmed_to:?}"
        );
        cluster.network.heal();
        cluster.converge().await;
    }
}

/// How long writes wait for the successor of a leader that is gone.
#[tokio::test(start_paused = true)]
async fn a_dead_leader_has_a_successor_within_two_election_timeouts() {
    for seed in 1..=10 {
        let mut cluster = three(seed).await;
        let old = cluster.leader().await.id;
        cluster.nodes[&old].put("before").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let began = tokio::time::Instant::now();
        cluster.kill(old, 0).await;
        cluster.leader().await.put("after").await.unwrap();
        let spent = began.elapsed();
        let timeout = Duration::from_millis(RaftConfig::default().election_max_ms);
        assert!(spent <= timeout * 2, "seed {seed}: {spent:?}");
    }
}

/// Where in a read the process stops for a while.
#[derive(Clone, Copy, Debug)]
enum Pause {
    /// It hears nothing until after it has tried to confirm.
    CutOff,
    /// It hears again just before that.
    Healed,
    /// It leads again by then, in another term.
    LeadsAgain,
}

/// A leader that stands still in the middle of a read, before or after the store's snapshot, while
/// another one is elected and takes writes.
#[tokio::test(start_paused = true)]
async fn a_leader_paused_in_a_read_serves_nothing_stale() {
    for seed in 1..=4 {
        for pause in [Pause::CutOff, Pause::Healed, Pause::LeadsAgain] {
            let why = format!("seed {seed}, {pause:?}");
            let cluster = three(seed).await;
            let old = cluster.leader().await;
            old.put("before").await.unwrap();
            let ids = cluster.ids();
            let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != old.id).collect();
            let early = old.group.begin_read().unwrap();
            let late = old.group.begin_read().unwrap();
            let snapshot = old.map().keys().unwrap();
            cluster.network.cut_off(old.id, &ids);
            let new = loop {
                let term = old.group.term();
                let new = cluster.leader_among(&others).await;
                if new.group.term() > term {
                    break new;
                }
            };
            new.put("meanwhile").await.unwrap();
            if !matches!(pause, Pause::CutOff) {
                cluster.network.heal();
            }
            if matches!(pause, Pause::LeadsAgain) {
                let index = new.group.last_applied().unwrap();
                assert!(old.group.wait_applied(index, PATIENCE).await, "{why}");
                new.group.transfer_leader(old.id).await.unwrap();
                cluster.leader_among(&[old.id]).await;
                old.group.begin_read().unwrap().confirm().await.unwrap();
            }
            // Paused after the snapshot: it lacks what was acknowledged since.
            assert!(!snapshot.contains(&"meanwhile".to_owned()));
            assert!(late.confirm().await.is_err(), "a stale snapshot, {why}");
            // Paused before it.
            let current = old.map().keys().unwrap().contains(&"meanwhile".to_owned());
            let confirmed = early.confirm().await.is_ok();
            assert!(!confirmed || current, "a stale snapshot, {why}");
            cluster.network.heal();
            cluster.converge().await;
        }
    }
}

/// What a group began with is not in its log: however short that is, a replica without any state is
/// not sent it from the beginning, whoever leads and however short a time ago it was started.
#[tokio::test(start_paused = true)]
async fn a_new_replica_is_sent_a_snapshot_and_never_the_first_entry() {
    for restart in [false, true] {
        let mut cluster = Cluster::formed(1, 31, RaftConfig::default()).await;
        let first = cluster.leader().await.id;
        cluster.nodes[&first].put("one").await.unwrap();
        if restart {
            let left = cluster.kill(first, 0).await;
            cluster.start(first, left).await;
        }
        let new = NodeId(2);
        cluster.start(new, MemoryKv::new()).await;
        let group = cluster.nodes[&first].group.clone();
        group.add_learner(new, PATIENCE).await.unwrap();
        cluster.converge().await;
        let sent = cluster.network.sent.lock().clone();
        assert!(
            sent.contains_key(&RequestKind::Snapshot),
            "restart {restart}: {sent:?}"
        );
        let purged = cluster.nodes[&new].group.metrics().purged_index;
        assert!(purged.is_some(), "restart {restart}");
    }
}

/// While a large shard is sent, a busy one goes on: what is applied meanwhile must still be in the
/// log when the snapshot is there, or the next one is sent, and so on for ever.
#[tokio::test(start_paused = true)]
async fn a_busy_shard_is_taken_over_by_a_new_node_with_one_snapshot() {
    // Steps and transfer may take as long as they like, or steps have a limit that the whole exceeds.
    for snapshot_timeout_ms in [600_000, 1000] {
        let config = RaftConfig {
            snapshot_timeout_ms,
            ..compacting()
        };
        let mut cluster = Cluster::formed(1, 41, config).await;
        let leader = cluster.leader().await.id;
        let group = cluster.nodes[&leader].group.clone();
        let put = async |key: String| {
            let command = Bytes::from(format!("{key}=v"));
            group.propose(command, PATIENCE).await.unwrap()
        };
        for number in 0..1600 {
            put(format!("key{number:04}")).await;
        }
        // Each of its hundred and more chunks lets some twenty entries be made.
        let step_ms = &cluster.network.snapshot_step_ms;
        step_ms.store(50, Ordering::Relaxed);
        let new = NodeId(2);
        cluster.start(new, MemoryKv::new()).await;
        let done = Arc::new(AtomicBool::new(false));
        let writing = {
            let (done, group) = (Arc::clone(&done), group.clone());
            let runtime = cluster.nodes[&leader].runtime.clone();
            let sleeper = runtime.clone();
            runtime.spawn(async move {
                let mut written = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let command = Bytes::from(format!("key{:04}=w", written % 1600));
                    group.propose(command, PATIENCE).await.unwrap();
                    sleeper.sleep(Duration::from_millis(2)).await;
                    written += 1;
                }
                written
            })
        };
        let why = format!("{snapshot_timeout_ms} ms");
        let added = group.add_learner(new, PATIENCE).await;
        assert!(added.is_ok(), "{why}: {added:?}");
        let written = {
            done.store(true, Ordering::Relaxed);
            writing.await.unwrap()
        };
        assert!(written > 1000, "{why}: only {written} meanwhile");
        let sent = cluster.network.sent.lock()[&RequestKind::Snapshot];
        assert!(sent < 300, "{why}: more than one snapshot: {sent} messages");
        cluster.converge().await;
        // Once it has caught up, the log is cut as ever.
        for number in 0..200 {
            put(format!("late{number}")).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        put("last".to_owned()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let metrics = group.metrics();
        let kept = metrics.last_index.unwrap() - metrics.purged_index.unwrap();
        assert!(kept <= 60, "{why}: {kept} entries are kept");
    }
}

/// A node that is being sent a snapshot and dies does not hold the log for ever.
#[tokio::test(start_paused = true)]
async fn the_log_is_cut_when_the_node_that_was_sent_a_snapshot_is_gone() {
    let mut cluster = Cluster::formed(1, 42, compacting()).await;
    let leader = cluster.leader().await.id;
    let group = cluster.nodes[&leader].group.clone();
    let put = async |key: String| {
        let command = Bytes::from(format!("{key}=v"));
        group.propose(command, PATIENCE).await.unwrap()
    };
    for number in 0..400 {
        put(format!("key{number:04}")).await;
    }
    let step_ms = &cluster.network.snapshot_step_ms;
    step_ms.store(200, Ordering::Relaxed);
    let new = NodeId(2);
    cluster.start(new, MemoryKv::new()).await;
    group.admit_learner(new, PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.kill(new, 0).await;
    for number in 0..400 {
        put(format!("late{number}")).await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    put("last".to_owned()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let metrics = group.metrics();
    let kept = metrics.last_index.unwrap() - metrics.purged_index.unwrap();
    assert!(kept <= 60, "{kept} entries are kept");
}

/// A node that was given up although a shard has no majority without it: it votes still, and leads
/// nothing, for nobody would find it.
#[tokio::test(start_paused = true)]
async fn a_removed_node_hands_over_and_goes_on_voting() {
    for seed in 1..=5 {
        let mut cluster = three(seed).await;
        let removed = cluster.leader().await.id;
        cluster.nodes[&removed].put("before").await.unwrap();
        let others: Vec<NodeId> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != removed)
            .collect();
        cluster.kill(others[0], 0).await;
        cluster.network.removed.lock().insert(removed);
        let next = cluster.leader_among(&others).await;
        next.put("with its vote").await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(next.group.is_leader(), "seed {seed}");
        // Even when it is elected once more.
        next.group.transfer_leader(removed).await.unwrap();
        cluster.leader_among(&[removed]).await;
        cluster
            .leader_among(&others)
            .await
            .put("again")
            .await
            .unwrap();
    }
}

/// Two of three were given up at once: they do not hand the shard to each other for ever.
#[tokio::test(start_paused = true)]
async fn a_majority_of_removed_nodes_hands_over_to_who_is_left() {
    for seed in 1..=5 {
        let cluster = three(seed).await;
        let ids = cluster.ids();
        for left in ids.iter().copied() {
            let gone = ids.iter().filter(|id| **id != left);
            *cluster.network.removed.lock() = gone.copied().collect();
            let next = cluster.leader_among(&[left]).await;
            next.put("with their votes").await.unwrap();
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert!(next.group.is_leader(), "seed {seed}, {left} is left");
        }
    }
}
