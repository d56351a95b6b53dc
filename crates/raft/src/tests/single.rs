//! One voter: the embedded store. Crashes at every point, batching, failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, MemoryKv, Scan, Space, WriteBatch};
use granary_types::{NodeId, limits};

use super::cluster::{Cluster, PATIENCE, SHARD};
use super::simulated;
use crate::log_scan::stored_indexes;
use crate::testsuite::MapMachine;
use crate::{NoPeers, ProposeError, RaftConfig, RaftError, RaftHost};

#[tokio::test(start_paused = true)]
async fn a_sole_voter_is_a_majority_however_long_nothing_happens() {
    let cluster = alone(1).await;
    let leader = cluster.leader().await;
    leader.put("before").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(leader.group.is_leader() && !leader.group.metrics().without_quorum);
}

async fn alone(seed: u64) -> Cluster {
    Cluster::formed(1, seed, RaftConfig::default()).await
}

const ONE: NodeId = NodeId(1);

#[tokio::test(start_paused = true)]
async fn a_sole_voter_serves_at_once_and_again_after_a_restart() {
    let mut cluster = alone(1).await;
    let begun = tokio::time::Instant::now();
    let answer = cluster.nodes[&ONE].put("a").await.unwrap();
    assert_eq!(answer.len(), 12);
    cluster.nodes[&ONE]
        .group
        .begin_read()
        .unwrap()
        .confirm()
        .await
        .unwrap();
    cluster.nodes[&ONE].group.read_barrier().await.unwrap();
    let left = cluster.kill(ONE, usize::MAX).await;
    cluster.start(ONE, left).await;
    let node = &cluster.nodes[&ONE];
    assert!(
        node.group.is_leader(),
        "a sole voter leads when open returns"
    );
    assert_eq!(node.map().get("a").unwrap(), Some(Bytes::from_static(b"v")));
    node.put("b").await.unwrap();
    let waited = begun.elapsed();
    assert!(
        waited < Duration::from_millis(200),
        "took {waited:?}, as long as an election"
    );
    // Forming it again changes nothing.
    node.host.bootstrap(SHARD, &[ONE]).await.unwrap();
    assert_eq!(node.map().keys().unwrap(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn acknowledged_commands_survive_a_crash_with_any_number_of_surviving_batches() {
    for survivors in 0..40 {
        let mut cluster = alone(survivors).await;
        let node = &cluster.nodes[&ONE];
        for number in 0..8 {
            node.put(&format!("acknowledged{number}")).await.unwrap();
        }
        // Proposed, but not waited for.
        let group = node.group.clone();
        let pending = node.runtime.spawn(async move {
            group
                .propose(Bytes::from_static(b"pending=v"), PATIENCE)
                .await
        });
        tokio::task::yield_now().await;
        let left = cluster.kill(ONE, usize::try_from(survivors).unwrap()).await;
        drop(pending);
        cluster.start(ONE, left).await;
        let keys = cluster.nodes[&ONE].map().keys().unwrap();
        for number in 0..8 {
            let key = format!("acknowledged{number}");
            assert!(
                keys.contains(&key),
                "{key} is lost with {survivors} survivors: {keys:?}"
            );
        }
        cluster.nodes[&ONE].put("after").await.unwrap();
    }
}

/// Counts syncs, which take a while, as on a disk.
struct SlowSync {
    inner: MemoryKv,
    syncs: AtomicU64,
}

impl KvRead for SlowSync {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(space, key)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, way: Direction) -> Scan<'_> {
        self.inner.scan(space, start, end, way)
    }
}

impl Kv for SlowSync {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        self.inner.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.inner.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        self.inner.sync()
    }

    fn stats(&self) -> KvStats {
        KvStats::default()
    }
}

/// Real threads and time: a thousand callers at once, over two shards of one store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_proposals_share_few_syncs() {
    let kv = Arc::new(SlowSync {
        inner: MemoryKv::new(),
        syncs: AtomicU64::new(0),
    });
    let runtime = granary_runtime::Runtime::system();
    let config = RaftConfig::default();
    let host = RaftHost::start(runtime.clone(), ONE, config, kv.clone(), Arc::new(NoPeers));
    let mut groups = Vec::new();
    for shard in [SHARD, granary_types::ShardId(4)] {
        let machine = Arc::new(MapMachine::new(shard, kv.clone()));
        groups.push(host.open(shard, machine).await.unwrap());
        host.bootstrap(shard, &[ONE]).await.unwrap();
    }
    let before = kv.syncs.load(Ordering::SeqCst);
    let proposals: Vec<_> = (0..1000)
        .map(|number| {
            let group = groups[number % 2].clone();
            let command = Bytes::from(format!("key{number}=v"));
            runtime.spawn(async move { group.propose(command, PATIENCE).await })
        })
        .collect();
    let mut answers = std::collections::BTreeSet::new();
    for (number, proposal) in proposals.into_iter().enumerate() {
        assert!(
            answers.insert((number % 2, proposal.await.unwrap().unwrap())),
            "answered twice"
        );
    }
    let syncs = kv.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs < 100, "{syncs} syncs for 1000 proposals");
    let machine = MapMachine::new(SHARD, kv.clone());
    assert_eq!(machine.keys().unwrap().len(), 500);
    // What comes while the disk syncs is one entry.
    let entries = machine.history().unwrap().len();
    assert!(entries < 20, "{entries} entries for 500 proposals");
    host.stop().await.unwrap();
    assert_eq!(kv.inner.unsynced(), 0, "stopping leaves nothing unsynced");
}

#[tokio::test(start_paused = true)]
async fn answers_come_back_by_position_and_times_never_go_back() {
    let cluster = alone(2).await;
    let node = &cluster.nodes[&ONE];
    let proposals: Vec<_> = (0..300)
        .map(|number| {
            let group = node.group.clone();
            let command = Bytes::from(format!("key{number:03}=v"));
            node.runtime
                .spawn(async move { group.propose(command, PATIENCE).await })
        })
        .collect();
    let mut order = Vec::new();
    for proposal in proposals {
        order.push(proposal.await.unwrap().unwrap());
    }
    // Answers are (index, position): in the order in which the commands were queued.
    assert!(order.is_sorted(), "{order:?}");
    let history = node.map().history().unwrap();
    assert!(
        history.len() < 100,
        "{} entries for 300 commands",
        history.len()
    );
    assert!(
        history.is_sorted_by_key(|(_, time_ms, _)| *time_ms),
        "{history:?}"
    );
    let entropy: std::collections::BTreeSet<u64> = history.iter().map(|line| line.2).collect();
    assert_eq!(entropy.len(), history.len(), "entries share entropy");
}

#[tokio::test(start_paused = true)]
async fn limits_are_kept() {
    let config = RaftConfig {
        queue_bytes: 3 << 20,
        ..RaftConfig::default()
    };
    let cluster = Cluster::formed(1, 3, config).await;
    let node = &cluster.nodes[&ONE];
    let command = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    let most = limits::LOG_ENTRY_BYTES_MAX;
    node.group.propose(command(most), PATIENCE).await.unwrap();
    let refused = node.group.propose(command(most + 1), PATIENCE).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes: most + 1 }));
    // Three megabytes may wait, the others are told so at once.
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let group = node.group.clone();
            let command = command(most - 100);
            node.runtime
                .spawn(async move { group.propose(command, PATIENCE).await })
        })
        .collect();
    let mut busy = 0;
    for proposal in flood {
        match proposal.await.unwrap() {
            Ok(_) => {}
            Err(ProposeError::Busy) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy, 5);
    node.put("after").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_log_is_cut_only_below_what_is_durably_applied() {
    let config = RaftConfig {
        snapshot_every_entries: 20,
        keep_entries: 5,
        ..RaftConfig::default()
    };
    for survivors in [0, 1, 3, usize::MAX] {
        let mut cluster = Cluster::formed(1, 4, config.clone()).await;
        for number in 0..100 {
            cluster.nodes[&ONE]
                .put(&format!("key{number:03}"))
                .await
                .unwrap();
        }
        let metrics = cluster.nodes[&ONE].group.metrics();
        assert!(
            metrics.purged_index >= Some(60),
            "nothing was cut: {metrics:?}"
        );
        let left = cluster.kill(ONE, survivors).await;
        cluster.start(ONE, left).await;
        let node = &cluster.nodes[&ONE];
        assert_eq!(
            node.map().keys().unwrap().len(),
            100,
            "{survivors} survivors"
        );
        assert!(stored_indexes(&node.kv, SHARD).len() < 60);
        node.put("after").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_state_machine_stops_the_group_and_skips_nothing() {
    let mut cluster = alone(5).await;
    let node = &cluster.nodes[&ONE];
    node.put("before").await.unwrap();
    let poisoned = node.put("poison").await;
    assert!(
        matches!(poisoned, Err(ProposeError::Failed | ProposeError::Unknown)),
        "{poisoned:?}"
    );
    while node.group.is_healthy() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.put("after").await, Err(ProposeError::Failed));
    assert!(node.group.begin_read().is_err() || node.group.read_barrier().await.is_err());
    assert_eq!(node.map().keys().unwrap(), ["before"]);
    // A restart meets the same entry again.
    let left = cluster.kill(ONE, usize::MAX).await;
    let runtime = simulated(6);
    let store: Arc<dyn Kv> = Arc::new(left);
    let config = RaftConfig::default();
    let host = RaftHost::start(runtime, ONE, config, store.clone(), Arc::new(NoPeers));
    let machine = MapMachine::new(SHARD, store);
    let opened = host.open(SHARD, Arc::new(machine.clone())).await;
    assert!(
        opened.is_err(),
        "a group that can't apply its log must not open as a leader"
    );
    assert_eq!(machine.keys().unwrap(), ["before"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_disk_acknowledges_nothing() {
    let cluster = alone(7).await;
    let node = &cluster.nodes[&ONE];
    node.put("before").await.unwrap();
    node.kv.fail("EIO");
    let refused = node.put("after").await;
    assert!(
        matches!(refused, Err(ProposeError::Failed | ProposeError::Unknown)),
        "{refused:?}"
    );
    assert_eq!(node.map().keys().unwrap(), ["before"]);
}

/// The part of the log that would rebuild it is gone, so an empty state machine must not serve.
#[tokio::test(start_paused = true)]
async fn a_lost_state_machine_does_not_open() {
    let config = RaftConfig {
        snapshot_every_entries: 10,
        keep_entries: 2,
        ..RaftConfig::default()
    };
    let mut cluster = Cluster::formed(1, 10, config.clone()).await;
    for number in 0..40 {
        cluster.nodes[&ONE]
            .put(&format!("key{number}"))
            .await
            .unwrap();
    }
    let left = cluster.kill(ONE, usize::MAX).await;
    let mut batch = WriteBatch::new();
    batch.delete_range(Space::State, &b""[..], &b"\xff"[..]);
    left.write(batch).unwrap();
    let store: Arc<dyn Kv> = Arc::new(left);
    let host = RaftHost::start(simulated(11), ONE, config, store.clone(), Arc::new(NoPeers));
    let opened = host
        .open(SHARD, Arc::new(MapMachine::new(SHARD, store)))
        .await;
    assert!(
        matches!(opened, Err(RaftError::CorruptLog { .. })),
        "{opened:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_with_a_hole_or_a_broken_entry_does_not_open() {
    type Damage = fn(&mut WriteBatch, Bytes);
    let damages: [(&str, Damage); 2] = [
        ("a missing entry", |batch, key| {
            batch.delete(Space::Log, key)
        }),
        ("a broken entry", |batch, key| {
            batch.put(Space::Log, key, &b"\x01\xff"[..])
        }),
    ];
    for (what, damage) in damages {
        let mut cluster = alone(8).await;
        for number in 0..5 {
            cluster.nodes[&ONE]
                .put(&format!("key{number}"))
                .await
                .unwrap();
        }
        let index = cluster.nodes[&ONE].group.last_applied().unwrap() - 2;
        let left = cluster.kill(ONE, 0).await;
        // Lose the applied state, so that the log is needed.
        let mut batch = WriteBatch::new();
        batch.delete_range(Space::State, &b""[..], &b"\xff"[..]);
        damage(
            &mut batch,
            crate::log_key::key(SHARD, crate::log_key::Kind::Entry, index),
        );
        left.write(batch).unwrap();
        let store: Arc<dyn Kv> = Arc::new(left);
        let config = RaftConfig::default();
        let host = RaftHost::start(simulated(9), ONE, config, store.clone(), Arc::new(NoPeers));
        let opened = host
            .open(SHARD, Arc::new(MapMachine::new(SHARD, store)))
            .await;
        let stopped = matches!(
            opened,
            Err(RaftError::Stopped(_) | RaftError::CorruptLog { .. })
        );
        assert!(stopped, "{what}: {opened:?}");
    }
}
