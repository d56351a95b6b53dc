//! Leaders whose time of day is wrong: what they stamp would be the shard's time for good.

use std::sync::atomic::Ordering;
use std::time::Duration;

use granary_runtime::Clock;
use granary_types::NodeId;

use super::cluster::{Cluster, PATIENCE};
use crate::{ProposeError, RaftConfig};

/// What a leader may be off without being refused.
const BEARABLE_MS: u64 = 10_000;

/// Puts a key at whoever leads, until it is acknowledged; how long that took.
async fn put(cluster: &Cluster, key: &str) -> Duration {
    let began = tokio::time::Instant::now();
    loop {
        match cluster.leader().await.put(key).await {
            Ok(_) => return began.elapsed(),
            Err(error @ ProposeError::NotLeader(_)) => {
                assert!(began.elapsed() < PATIENCE, "{key}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

/// The newest stamp is near the true time.
fn check_time(cluster: &Cluster, leader: NodeId, why: &str) {
    let history = cluster.nodes[&leader].map().history().unwrap();
    let (_, stamped, _) = *history.last().unwrap();
    let off = stamped.abs_diff(cluster.true_time.now().0);
    assert!(off <= BEARABLE_MS, "stamped {off} ms off, {why}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_a_wrong_clock_stamps_nothing_and_somebody_right_takes_over() {
    for seed in 1..=5 {
        for off_ms in [60_000, -60_000, 172_800_000, -1_600_000_000_000] {
            let why = format!("seed {seed}, {off_ms} ms off");
            let cluster = Cluster::formed(3, seed, RaftConfig::default()).await;
            let wrong = cluster.leader().await.id;
            put(&cluster, "before").await;
            cluster.clocks[&wrong].set_off(off_ms);
            let took = put(&cluster, "after").await;
            // A hand-over, not an election.
            assert!(took < Duration::from_millis(500), "{took:?}, {why}");
            let right = cluster.leader().await.id;
            assert_ne!(right, wrong, "{why}");
            check_time(&cluster, right, &why);
            assert!(cluster.nodes[&right].group.has_wrong_clock(wrong), "{why}");
            let told = cluster.nodes[&right].group.metrics().wrong_clocks;
            assert_eq!(told.keys().copied().collect::<Vec<_>>(), [wrong], "{why}");
            // It does not come back, nor does anybody else take turns.
            let term = cluster.nodes[&right].group.term();
            for number in 0..60 {
                put(&cluster, &format!("key{number}")).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            assert_eq!(cluster.leader().await.group.term(), term, "{why}");
            // Nor when it is elected, or given the shard by somebody who does not know.
            let group = &cluster.nodes[&right].group;
            group.transfer_leader(wrong).await.unwrap();
            cluster.leader_among(&[wrong]).await;
            put(&cluster, "late").await;
            let now = cluster.leader().await.id;
            assert_ne!(now, wrong, "{why}");
            check_time(&cluster, now, &why);
            // Put right, it may lead again.
            cluster.clocks[&wrong].set_off(0);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let group = &cluster.nodes[&now].group;
            assert!(!group.has_wrong_clock(wrong), "{why}");
            group.transfer_leader(wrong).await.unwrap();
            cluster.leader_among(&[wrong]).await;
            put(&cluster, "healed").await;
            assert_eq!(cluster.leader().await.id, wrong, "{why}");
            cluster.converge().await;
        }
    }
}

/// With one voter down the other two can't outvote each other; still only one of them leads for
/// long, the writes go on, and the time never goes ahead.
#[tokio::test(start_paused = true)]
async fn two_that_differ_do_not_take_turns() {
    for seed in 1..=5 {
        for off_ms in [60_000, -60_000] {
            for wrong_leads in [true, false] {
                let why = format!("seed {seed}, {off_ms} ms off, wrong leads: {wrong_leads}");
                let mut cluster = Cluster::formed(3, seed, RaftConfig::default()).await;
                let leader = cluster.leader().await.id;
                put(&cluster, "before").await;
                let others = cluster.ids().into_iter().filter(|id| *id != leader);
                let others: Vec<NodeId> = others.collect();
                cluster.kill(others[0], 0).await;
                let (wrong, right) = match wrong_leads {
                    true => (leader, others[1]),
                    false => (others[1], leader),
                };
                cluster.clocks[&wrong].set_off(off_ms);
                put(&cluster, "after").await;
                let leader = cluster.leader().await.id;
                assert_eq!(leader, right, "{why}");
                let term = cluster.nodes[&leader].group.term();
                for number in 0..60 {
                    put(&cluster, &format!("key{number}")).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                check_time(&cluster, leader, &why);
                assert_eq!(cluster.leader().await.group.term(), term, "{why}");
            }
        }
    }
}

/// A leader of a newer version whose voters do not tell, and a sole voter, know no better than
/// their own clock.
#[tokio::test(start_paused = true)]
async fn who_is_told_nothing_refuses_nothing() {
    for voters in [1, 3] {
        let cluster = Cluster::formed(voters, 1, RaftConfig::default()).await;
        let untold = &cluster.network.clocks_untold;
        untold.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let leader = cluster.leader().await.id;
        put(&cluster, "before").await;
        cluster.clocks[&leader].set_off(3_600_000);
        put(&cluster, "after").await;
        assert_eq!(cluster.leader().await.id, leader, "{voters} voters");
        assert!(
            cluster.nodes[&leader]
                .group
                .metrics()
                .wrong_clocks
                .is_empty()
        );
    }
}
