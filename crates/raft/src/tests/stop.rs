//! How a host ends: nothing is logged as an error, nothing acknowledged is missing, nothing leaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Kv, MemoryKv};
use granary_types::NodeId;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span;

use super::cluster::{PATIENCE, SHARD};
use super::simulated;
use crate::testsuite::MapMachine;
use crate::{NoPeers, ProposeError, RaftConfig, RaftError, RaftHost};

const ONE: NodeId = NodeId(1);

/// Keeps the ERROR and WARN lines of the thread it is installed on.
#[derive(Clone, Default)]
struct Alarms {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Alarms {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let ours = !metadata.target().starts_with("openraft");
        *metadata.level() <= tracing::Level::WARN
            && (ours || *metadata.level() == tracing::Level::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = event.metadata().target().to_owned();
        event.record(&mut Line(&mut line));
        self.lines.lock().push(line);
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

async fn host_over(kv: &MemoryKv, seed: u64) -> (Arc<RaftHost>, crate::Group) {
    let store: Arc<dyn Kv> = Arc::new(kv.clone());
    let config = RaftConfig::default();
    let host = RaftHost::start(
        simulated(seed),
        ONE,
        config,
        store.clone(),
        Arc::new(NoPeers),
    );
    let machine = Arc::new(MapMachine::new(SHARD, store));
    let group = host.open(SHARD, machine).await.unwrap();
    host.bootstrap(SHARD, &[ONE]).await.unwrap();
    (host, group)
}

#[tokio::test(start_paused = true)]
async fn callers_that_race_with_a_stop_are_told_so_and_nothing_is_logged() {
    for seed in 1..=10 {
        let alarms = Alarms::default();
        let _installed = tracing::subscriber::set_default(alarms.clone());
        let kv = MemoryKv::new();
        let (host, group) = host_over(&kv, seed).await;
        let runtime = simulated(seed + 100);
        let callers: Vec<_> = (0..30)
            .map(|caller| {
                let group = group.clone();
                runtime.spawn(async move {
                    let mut acknowledged = Vec::new();
                    for number in 0.. {
                        let key = format!("key{caller}-{number}");
                        let command = Bytes::from(format!("{key}=v"));
                        match group.propose(command, PATIENCE).await {
                            Ok(_) => acknowledged.push(key),
                            Err(ProposeError::Stopped) => return Ok(acknowledged),
                            Err(ProposeError::Unknown | ProposeError::NotLeader(_)) => {}
                            Err(error) => return Err(error),
                        }
                        if let Ok(read) = group.begin_read() {
                            tokio::task::yield_now().await;
                            let _ = read.confirm().await;
                        }
                        let _ = group.read_barrier().await;
                    }
                    Ok(acknowledged)
                })
            })
            .collect();
        for _ in 0..seed * 7 {
            tokio::task::yield_now().await;
        }
        assert!(host.stop().await.is_ok(), "seed {seed}");
        assert_eq!(kv.unsynced(), 0, "seed {seed}: something is not synced");
        let keys = MapMachine::new(SHARD, Arc::new(kv.clone())).keys().unwrap();
        for caller in callers {
            let acknowledged = caller.await.unwrap();
            let acknowledged = acknowledged.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            for key in acknowledged {
                assert!(keys.contains(&key), "seed {seed}: {key} is lost");
            }
        }
        assert_eq!(kv.unsynced(), 0, "seed {seed}: written after the stop");
        let lines = alarms.lines.lock().clone();
        assert!(lines.is_empty(), "seed {seed}: {lines:#?}");
    }
}

/// Whoever started the host may be stopping already; the order must not decide the outcome.
#[tokio::test(start_paused = true)]
async fn a_host_stops_cleanly_after_the_runtime_around_it() {
    let alarms = Alarms::default();
    let _installed = tracing::subscriber::set_default(alarms.clone());
    let (kv, outer) = (MemoryKv::new(), simulated(1));
    let store: Arc<dyn Kv> = Arc::new(kv.clone());
    let config = RaftConfig::default();
    let host = RaftHost::start(outer.clone(), ONE, config, store.clone(), Arc::new(NoPeers));
    let machine = Arc::new(MapMachine::new(SHARD, store));
    let group = host.open(SHARD, machine).await.unwrap();
    host.bootstrap(SHARD, &[ONE]).await.unwrap();
    group
        .propose(Bytes::from_static(b"key=v"), PATIENCE)
        .await
        .unwrap();
    outer.stop().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(host.stop().await.is_ok());
    assert_eq!(kv.unsynced(), 0);
    assert_eq!(
        group.propose(Bytes::from_static(b"late=v"), PATIENCE).await,
        Err(ProposeError::Stopped)
    );
    let lines = alarms.lines.lock().clone();
    assert!(lines.is_empty(), "{lines:#?}");
}

/// Whoever gives up on opening a shard can open it again, and the node can be stopped.
#[tokio::test(start_paused = true)]
async fn an_opening_that_is_given_up_leaves_nothing_behind() {
    for polls in 1..30 {
        let kv = MemoryKv::new();
        let (first, _) = host_over(&kv, 1).await;
        first.stop().await.unwrap();
        let store: Arc<dyn Kv> = Arc::new(kv.clone());
        let config = RaftConfig::default();
        let host = RaftHost::start(simulated(2), ONE, config, store.clone(), Arc::new(NoPeers));
        let machine = Arc::new(MapMachine::new(SHARD, store));
        {
            let mut opening = std::pin::pin!(host.open(SHARD, machine.clone()));
            for _ in 0..polls {
                if futures_util::poll!(opening.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        if host.group(SHARD).is_none() {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            let group = loop {
                match host.open(SHARD, machine.clone()).await {
                    Ok(group) => break group,
                    Err(RaftError::AlreadyOpen(_)) => {}
                    Err(error) => panic!("{polls} polls: {error}"),
                }
                assert!(
                    tokio::time::Instant::now() < deadline,
                    "{polls} polls: the shard can't be opened again"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let answer = group.propose(Bytes::from_static(b"key=v"), PATIENCE).await;
            assert!(answer.is_ok(), "{polls} polls: {answer:?}");
        }
        host.stop().await.unwrap();
        assert!(
            Arc::strong_count(&machine) == 1,
            "{polls} polls: a group still runs"
        );
    }
}
