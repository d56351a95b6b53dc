//! The log's storage: what fails is said, what is cut and kept, and what is read back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, MemoryKv, Scan, Space, WriteBatch};
use granary_runtime::{GroupCommit, within};
use granary_types::NodeId;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};

use super::cluster::{Cluster, PATIENCE, SHARD};
use super::simulated;
use crate::health::{Health, HostHealth};
use crate::log_key::{Kind, key, kind_end};
use crate::log_store::{Keep, LogEnvironment, LogStore, Peers, ROOM_BYTES};
use crate::machine::Machine;
use crate::snapshot::Stage;
use crate::testsuite::MapMachine;
use crate::types::{Batch, Entry, LogId, Payload};
use crate::{NoPeers, ProposeError, RaftConfig, RaftHost};

const ONE: NodeId = NodeId(1);

/// Bytes of the log entries in a store.
fn log_bytes(kv: &dyn KvRead) -> usize {
    let (start, end) = (key(SHARD, Kind::Entry, 0), kind_end(SHARD, Kind::Entry));
    kv.scan(Space::Log, &start, Some(&end), Direction::Forward)
        .map(|entry| entry.unwrap().1.len())
        .sum()
}

fn large(number: usize) -> Bytes {
    let mut command = format!("key{number:04}=").into_bytes();
    command.resize(100_000, b'v');
    command.into()
}

#[tokio::test(start_paused = true)]
async fn what_fails_leads_no_more_and_is_said() {
    type Fault = fn(&MemoryKv) -> Bytes;
    let faults: [(&str, &str, Fault); 2] = [
        ("a full disk", "ENOSPC", |kv| {
            kv.fail("ENOSPC");
            Bytes::from_static(b"after=v")
        }),
        ("an unknown command", "poison", |_| {
            Bytes::from_static(b"poison")
        }),
    ];
    for (what, reason, fault) in faults {
        let cluster = Cluster::formed(1, 1, RaftConfig::default()).await;
        let node = &cluster.nodes[&ONE];
        node.put("before").await.unwrap();
        assert_eq!(node.host.failure(), None);
        let failed = within(Duration::from_secs(1), node.host.failed()).await;
        assert!(failed.is_err(), "{what}: a healthy host says {failed:?}");
        let command = fault(&node.kv);
        let refused = node.group.propose(command, PATIENCE).await;
        assert!(
            matches!(refused, Err(ProposeError::Failed | ProposeError::Unknown)),
            "{what}: {refused:?}"
        );
        let failure = within(PATIENCE, node.host.failed()).await.unwrap();
        assert!(failure.to_string().contains(reason), "{what}: {failure}");
        assert_eq!(node.host.failure(), Some(failure));
        // At once, not only when the library has noticed.
        assert!(!node.group.is_healthy(), "{what}");
        assert!(!node.group.is_leader(), "{what}: it claims to lead");
        assert_eq!(node.group.leader(), None, "{what}");
        assert!(node.group.begin_read().is_err(), "{what}");
        assert!(node.group.read_barrier().await.is_err(), "{what}");
        assert_eq!(node.put("late").await, Err(ProposeError::Failed), "{what}");
        let metrics = node.group.metrics();
        assert_eq!((metrics.healthy, metrics.leader), (false, None), "{what}");
        // It can still be taken down in time.
        within(PATIENCE, node.host.stop()).await.unwrap().ok();
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_keeps_little_and_others_keep_so_many_bytes() {
    const KEEP: usize = 4_000_000;
    let config = RaftConfig {
        keep_bytes: KEEP as u64,
        ..RaftConfig::default()
    };
    for voters in [1, 3] {
        let mut cluster = Cluster::formed(voters, 5, config.clone()).await;
        let leader = cluster.leader().await.id;
        let away = cluster.ids().into_iter().find(|id| *id != leader);
        let left = match away {
            Some(away) => Some(cluster.kill(away, usize::MAX).await),
            None => None,
        };
        let most = if voters == 1 {
            KEEP / 16
        } else {
            KEEP + KEEP / 16
        };
        for number in 0..150 {
            let node = &cluster.nodes[&leader];
            node.group.propose(large(number), PATIENCE).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Beside what is being applied and cut.
            let bytes = log_bytes(&node.kv);
            assert!(
                bytes <= most + 1_000_000,
                "{voters} voters: {bytes} bytes after {number} entries"
            );
        }
        if voters > 1 {
            let bytes = log_bytes(&cluster.nodes[&leader].kv);
            assert!(bytes > KEEP / 2, "only {bytes} bytes are kept for peers");
        }
        // What was cut is not missed: by a restart, nor by a peer that was away.
        if let (Some(away), Some(left)) = (away, left) {
            cluster.start(away, left).await;
            cluster.converge().await;
            // Nor does a log grow without limit while everybody is there.
            for number in 0..60 {
                let node = cluster.leader().await;
                node.group.propose(large(number), PATIENCE).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
                for node in cluster.nodes.values() {
                    let bytes = log_bytes(&node.kv);
                    assert!(bytes <= most + 1_000_000, "node {}: {bytes} bytes", node.id);
                }
            }
        }
        let leader = cluster.leader().await.id;
        let left = cluster.kill(leader, 0).await;
        cluster.start(leader, left).await;
        let node = cluster.leader().await;
        assert!(node.map().keys().unwrap().len() >= 150);
        node.put("after").await.unwrap();
    }
}

/// A snapshot takes as long as it takes; what comes meanwhile must not make it worthless.
#[tokio::test(start_paused = true)]
async fn more_is_kept_while_a_snapshot_is_sent() {
    let kv = MemoryKv::new();
    let room = Arc::new(AtomicU64::new(ROOM_BYTES));
    let (mut log, _) = log_with(&kv, Arc::clone(&room));
    let cut = |log: &LogStore| {
        let needed = [
            (Peers::None, None),
            (Peers::Following, None),
            (Peers::Following, Some(1200)),
        ];
        needed.map(|(peers, needed)| log.first_to_keep(peers, needed))
    };
    log.append((0..900).map(entry), IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(cut(&log), [None, None, None]);
    log.append((900..2500).map(entry), IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(cut(&log), [Some(2500), Some(1500), Some(1200)]);
    log.append((2500..9500).map(entry), IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(cut(&log), [Some(9500), Some(8500), Some(1200)]);
    // Unless the disk has no room for it.
    room.store(1000, Ordering::Relaxed);
    assert_eq!(cut(&log), [Some(9500), Some(8500), Some(8500)]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_left_long_is_cut_after_the_start() {
    let mut cluster = Cluster::formed(1, 6, RaftConfig::default()).await;
    for number in 0..30 {
        let group = &cluster.nodes[&ONE].group;
        group.propose(large(number), PATIENCE).await.unwrap();
    }
    let left = cluster.kill(ONE, usize::MAX).await;
    assert!(log_bytes(&left) > 2_900_000, "it was cut already");
    let store: Arc<dyn Kv> = Arc::new(left.clone());
    let config = RaftConfig {
        keep_bytes: 2_000_000,
        ..RaftConfig::default()
    };
    let host = RaftHost::start(simulated(7), ONE, config, store.clone(), Arc::new(NoPeers));
    let machine = MapMachine::new(SHARD, store);
    host.open(SHARD, Arc::new(machine.clone())).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while log_bytes(&left) > 200_000 {
        let bytes = log_bytes(&left);
        assert!(tokio::time::Instant::now() < deadline, "{bytes} bytes stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(machine.keys().unwrap().len(), 30);
    host.stop().await.unwrap();
}

/// Counts reads of the log.
struct CountedReads {
    inner: MemoryKv,
    log_reads: AtomicU64,
}

impl CountedReads {
    fn count(&self, space: Space) {
        if space == Space::Log {
            self.log_reads.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl KvRead for CountedReads {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.count(space);
        self.inner.get(space, key)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, way: Direction) -> Scan<'_> {
        self.count(space);
        self.inner.scan(space, start, end, way)
    }
}

impl Kv for CountedReads {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        self.inner.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.inner.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.inner.sync()
    }

    fn stats(&self) -> KvStats {
        KvStats::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_just_appended_is_not_read_back() {
    let kv = Arc::new(CountedReads {
        inner: MemoryKv::new(),
        log_reads: AtomicU64::new(0),
    });
    let runtime = simulated(8);
    let config = RaftConfig::default();
    let host = RaftHost::start(runtime.clone(), ONE, config, kv.clone(), Arc::new(NoPeers));
    let machine = MapMachine::new(SHARD, kv.clone());
    let group = host.open(SHARD, Arc::new(machine.clone())).await.unwrap();
    host.bootstrap(SHARD, &[ONE]).await.unwrap();
    let before = kv.log_reads.load(Ordering::SeqCst);
    let proposals: Vec<_> = (0..500)
        .map(|number| {
            let group = group.clone();
            let command = Bytes::from(format!("key{number}=v"));
            runtime.spawn(async move { group.propose(command, PATIENCE).await })
        })
        .collect();
    for proposal in proposals {
        proposal.await.unwrap().unwrap();
    }
    let reads = kv.log_reads.load(Ordering::SeqCst) - before;
    assert_eq!(reads, 0, "reads of the log for 500 commands");
    assert_eq!(machine.keys().unwrap().len(), 500);
    host.stop().await.unwrap();
}

fn entry(index: u64) -> Entry {
    let commands = vec![Bytes::from(format!("key{index}=v"))];
    Entry {
        log_id: LogId::new_term_index(1, index),
        payload: Payload::Normal(Batch {
            time_ms: 1,
            entropy: 1,
            commands,
        }),
    }
}

/// A log over `kv`, and what it has told of failures.
fn log_over(kv: &MemoryKv) -> (LogStore, HostHealth) {
    log_with(kv, Arc::new(AtomicU64::new(ROOM_BYTES)))
}

fn log_with(kv: &MemoryKv, room: Arc<AtomicU64>) -> (LogStore, HostHealth) {
    let (runtime, kv) = (simulated(9), Arc::new(kv.clone()));
    let (synced, host) = (kv.clone(), HostHealth::default());
    let syncs = GroupCommit::start(&runtime, KvError::Closed, move || synced.sync());
    let environment = LogEnvironment {
        kv,
        runtime,
        syncs,
        health: Health::new(SHARD, host.clone()),
        page_bytes: 1 << 20,
        room,
        keep: Keep {
            bytes: 1 << 20,
            entries: 1000,
            slack_entries: 1000,
        },
    };
    (LogStore::open(SHARD, environment).unwrap(), host)
}

async fn streamed(log: &mut LogStore, start: u64, end: u64) -> (Vec<u64>, bool) {
    let items: Vec<_> = log.entries_stream(start..end).await.collect().await;
    let failed = items.iter().any(Result::is_err);
    let found = items.into_iter().flatten();
    (found.map(|entry| entry.log_id.index).collect(), failed)
}

#[tokio::test(start_paused = true)]
async fn a_committed_entry_that_is_missing_is_never_skipped() {
    let kv = MemoryKv::new();
    let (mut log, _) = log_over(&kv);
    log.append((0..600).map(entry), IOFlushed::noop())
        .await
        .unwrap();
    log.save_committed(Some(LogId::new_term_index(1, 599)))
        .await
        .unwrap();
    log.purge(LogId::new_term_index(1, 9)).await.unwrap();
    assert_eq!(
        streamed(&mut log, 10, 600).await,
        ((10..600).collect(), false)
    );
    // A fresh handle reads the store; the first one has the entries in memory.
    for fresh in [false, true] {
        let reopen = || {
            if fresh {
                log_over(&kv)
            } else {
                (log.clone(), HostHealth::default())
            }
        };
        let (mut log, _) = reopen();
        assert_eq!(
            streamed(&mut log, 10, 600).await,
            ((10..600).collect(), false)
        );
        // Cut already, or beyond the end of the log although it is known to be committed.
        let (found, failed) = streamed(&mut log, 5, 20).await;
        assert!(failed && found.is_empty(), "fresh {fresh}: {found:?}");
        log.save_committed(Some(LogId::new_term_index(1, 700)))
            .await
            .unwrap();
        let (found, failed) = streamed(&mut log, 590, 650).await;
        assert!(failed && found.len() == 10, "fresh {fresh}: {found:?}");
    }
    // A hole in the store.
    let mut batch = WriteBatch::new();
    batch.delete(Space::Log, key(SHARD, Kind::Entry, 400));
    kv.write(batch).unwrap();
    let (mut log, host) = log_over(&kv);
    let (found, failed) = streamed(&mut log, 10, 600).await;
    assert!(
        failed && found.iter().all(|index| *index < 400),
        "{found:?}"
    );
    assert!(host.failure().is_some(), "nobody is told");
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_not_applied() {
    for indexes in [&[0, 1, 3][..], &[1, 2], &[0, 1, 1], &[0, 0]] {
        let kv = MemoryKv::new();
        let (log, host) = log_over(&kv);
        let store: Arc<dyn Kv> = Arc::new(kv.clone());
        let map = MapMachine::new(SHARD, store.clone());
        let stage = Stage::new(SHARD, store);
        let (mut machine, _) = Machine::open(SHARD, Arc::new(map.clone()), log, stage).unwrap();
        let items = indexes.iter().map(|index| Ok((entry(*index), None)));
        let applied = machine.apply(futures_util::stream::iter(items)).await;
        assert!(applied.is_err(), "{indexes:?} were applied");
        assert!(host.failure().is_some(), "nobody is told");
        assert_eq!(map.keys().unwrap(), Vec::<String>::new(), "{indexes:?}");
    }
}
