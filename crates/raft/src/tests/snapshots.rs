//! Receiving snapshots: one at a time, whatever the senders do, and nothing half-received stays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, MemoryKv, Scan, Space, WriteBatch};
use granary_runtime::Runtime;
use granary_types::NodeId;
use tokio::sync::watch;

use super::cluster::SHARD;
use super::simulated;
use crate::format::{Bookkeeping, vote_to_proto};
use crate::log_key::{Kind, key, kind_end};
use crate::testsuite::MapMachine;
use crate::types::{LogId, Membership, StoredMembership, Vote};
use crate::wire::proto::{self, request};
use crate::{
    Committed, Group, NoPeers, RaftConfig, RaftError, RaftHost, RaftReply, RaftRequest,
    SnapshotReader, SnapshotWriter, StateMachine, StateMachineError,
};

const LEADER: u64 = 1;

/// Where calls wait until they are let through.
struct Gate {
    entered: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    fn new(open: bool) -> Self {
        Self {
            entered: watch::Sender::new(false),
            open: watch::Sender::new(open),
        }
    }

    fn pass(&self) {
        self.entered.send_replace(true);
        while !*self.open.borrow() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A map with a gate before its answers to questions and one before its restores.
struct Gated {
    map: MapMachine,
    questions: Gate,
    restores: Gate,
    /// It has said yes to a snapshot that did not come yet.
    promised: watch::Sender<bool>,
}

impl StateMachine for Gated {
    fn load_bookkeeping(&self) -> Result<Option<Bytes>, StateMachineError> {
        self.map.load_bookkeeping()
    }

    fn apply(
        &self,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
    ) -> Result<Vec<Vec<Bytes>>, StateMachineError> {
        self.map.apply(entries, bookkeeping)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, StateMachineError> {
        self.map.snapshot()
    }

    fn may_restore(&self, _: &Bytes) -> Result<bool, StateMachineError> {
        self.questions.pass();
        self.promised.send_replace(true);
        Ok(true)
    }

    fn restore_given_up(&self) {
        self.promised.send_replace(false);
    }

    fn restore(&self) -> Result<Box<dyn SnapshotWriter>, StateMachineError> {
        self.restores.pass();
        self.promised.send_replace(false);
        self.map.restore()
    }
}

/// A leader's snapshot with `keys` keys at index `applied`, as messages of one transfer.
struct Transfer {
    begin: RaftRequest,
    chunks: Vec<RaftRequest>,
    finish: RaftRequest,
}

fn leaders_vote() -> Option<proto::Vote> {
    Some(vote_to_proto(&Vote::new_committed(1, LEADER)))
}

fn transfer(number: u64, applied: u64, keys: usize) -> Transfer {
    let map = MapMachine::new(SHARD, Arc::new(MemoryKv::new()));
    let voters = Membership::new_with_defaults(vec![[LEADER].into_iter().collect()], [2]);
    let books = Bookkeeping {
        applied: Some(LogId::new_term_index(1, applied)),
        membership: StoredMembership::new(Some(LogId::new_term_index(1, 0)), voters),
        time_ms: 7,
    };
    let commands = (0..keys).map(|key| Bytes::from(format!("key{key:03}=v")));
    let entry = Committed {
        index: applied,
        term: 1,
        time_ms: 7,
        entropy: 1,
        commands: commands.collect(),
    };
    map.apply(vec![entry], books.encode()).unwrap();
    let mut reader = map.snapshot().unwrap();
    let mut chunks = Vec::new();
    while let Some(data) = reader.next_chunk().unwrap() {
        chunks.push(RaftRequest(request::Body::SnapshotChunk(
            proto::SnapshotChunk {
                transfer: number,
                sequence: chunks.len() as u64,
                crc32c: crc32c::crc32c(&data),
                data,
            },
        )));
    }
    let begin = request::Body::SnapshotBegin(proto::SnapshotBegin {
        vote: leaders_vote(),
        transfer: number,
        bookkeeping: books.encode(),
    });
    let finish = request::Body::SnapshotFinish(proto::SnapshotFinish {
        vote: leaders_vote(),
        transfer: number,
        chunks: chunks.len() as u64,
    });
    Transfer {
        begin: RaftRequest(begin),
        chunks,
        finish: RaftRequest(finish),
    }
}

struct Follower {
    kv: MemoryKv,
    host: Arc<RaftHost>,
    group: Group,
    machine: Arc<Gated>,
}

impl Follower {
    async fn start(runtime: Runtime, gate_open: bool) -> Self {
        let kv = MemoryKv::new();
        let store: Arc<dyn Kv> = Arc::new(kv.clone());
        let machine = Arc::new(Gated {
            map: MapMachine::new(SHARD, store.clone()),
            questions: Gate::new(true),
            restores: Gate::new(gate_open),
            promised: watch::Sender::new(false),
        });
        let config = RaftConfig::default();
        let host = RaftHost::start(runtime, NodeId(2), config, store, Arc::new(NoPeers));
        let group = host.open(SHARD, machine.clone()).await.unwrap();
        Self {
            kv,
            host,
            group,
            machine,
        }
    }

    async fn take(&self, request: RaftRequest) -> Result<RaftReply, RaftError> {
        self.host.handle(SHARD, request).await
    }

    async fn take_all(&self, transfer: Transfer) {
        self.take(transfer.begin).await.unwrap();
        for chunk in transfer.chunks {
            self.take(chunk).await.unwrap();
        }
        self.take(transfer.finish).await.unwrap();
    }

    /// Nothing is kept from other replicas of the node.
    fn is_free(&self) -> bool {
        !*self.machine.promised.borrow()
    }

    fn staged(&self) -> usize {
        let (start, end) = (
            key(SHARD, Kind::StagedChunk, 0),
            kind_end(SHARD, Kind::Staged),
        );
        self.kv
            .scan(Space::Log, &start, Some(&end), Direction::Forward)
            .count()
    }
}

/// A vote given before the lease of the leader that was acknowledged is over would let two nodes
/// serve reads. Nodes that do not say how long theirs is rely on three seconds.
#[tokio::test(start_paused = true)]
async fn no_vote_is_given_while_the_acknowledged_leader_may_serve() {
    for (lease_ms, kept_ms) in [(0, 3000), (2500, 2500), (100, 1500)] {
        let follower = Follower::start(simulated(1), true).await;
        let heartbeat = RaftRequest(request::Body::Append(proto::Append {
            vote: leaders_vote(),
            lease_ms,
            ..proto::Append::default()
        }));
        follower.take(heartbeat).await.unwrap();
        let granted = async |pre_vote| {
            let vote = RaftRequest(request::Body::Vote(proto::VoteCall {
                vote: Some(vote_to_proto(&Vote::new(2, 3))),
                last: Some(proto::LogId { term: 1, index: 9 }),
                leadership_transfer: false,
                pre_vote,
            }));
            let reply = follower.take(vote).await.map(|RaftReply(reply)| reply);
            matches!(reply, Ok(crate::wire::proto::reply::Body::Vote(vote)) if vote.granted)
        };
        tokio::time::sleep(Duration::from_millis(kept_ms - 1)).await;
        assert!(!granted(true).await && !granted(false).await, "{lease_ms}");
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(granted(true).await && granted(false).await, "{lease_ms}");
    }
}

/// The sender's patience ends before a large snapshot is installed: it begins another transfer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_begins_during_an_installation_does_not_disturb_it() {
    let runtime = Runtime::system();
    let follower = Arc::new(Follower::start(runtime.clone(), false).await);
    let first = transfer(1, 90, 60);
    follower.take(first.begin).await.unwrap();
    for chunk in first.chunks {
        follower.take(chunk).await.unwrap();
    }
    let (finishing, finish) = (Arc::clone(&follower), first.finish);
    let finishing = runtime.spawn(async move { finishing.take(finish).await });
    let mut entered = follower.machine.restores.entered.subscribe();
    entered.wait_for(|entered| *entered).await.unwrap();
    // The call that waits may be dropped too: the connection broke.
    finishing.abort();
    let second = transfer(2, 95, 60);
    let refused = follower.take(second.begin.clone()).await;
    assert!(
        matches!(refused, Err(RaftError::NotNow(_))),
        "a second transfer during an installation: {refused:?}"
    );
    follower.machine.restores.open.send_replace(true);
    assert!(
        follower
            .group
            .wait_applied(90, Duration::from_secs(30))
            .await,
        "the first snapshot was not installed"
    );
    assert!(follower.group.is_healthy());
    assert_eq!(follower.machine.map.keys().unwrap().len(), 60);
    // Once it is done, the next one is taken.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while follower.take(second.begin.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "never taken again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for chunk in second.chunks {
        follower.take(chunk).await.unwrap();
    }
    follower.take(second.finish).await.unwrap();
    assert_eq!(follower.group.last_applied(), Some(95));
    assert_eq!(follower.staged(), 0);
    follower.host.stop().await.unwrap();
}

/// A large snapshot is installed for longer than the sender waits for one answer: it asks again, and
/// does not begin from the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_transfer_may_be_asked_for_again() {
    let runtime = Runtime::system();
    let follower = Arc::new(Follower::start(runtime.clone(), false).await);
    let sent = transfer(1, 90, 60);
    follower.take(sent.begin).await.unwrap();
    for chunk in sent.chunks {
        follower.take(chunk).await.unwrap();
    }
    let mut asked = Vec::new();
    for _ in 0..2 {
        let (waiting, finish) = (Arc::clone(&follower), sent.finish.clone());
        asked.push(runtime.spawn(async move { waiting.take(finish).await }));
        let mut entered = follower.machine.restores.entered.subscribe();
        entered.wait_for(|entered| *entered).await.unwrap();
        // The first one is given up.
        if let [first] = asked.as_slice() {
            first.abort();
        }
    }
    follower.machine.restores.open.send_replace(true);
    let answer = asked.pop().unwrap().await.unwrap();
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(follower.group.last_applied(), Some(90));
    // And once more, when it is long done.
    let again = follower.take(sent.finish).await;
    assert!(again.is_ok(), "{again:?}");
    assert_eq!(follower.staged(), 0);
    follower.host.stop().await.unwrap();
}

/// A store whose syncs wait until they are let through.
struct SlowSync {
    store: MemoryKv,
    entered: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl KvRead for SlowSync {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.store.get(space, key)
    }

    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, order: Direction) -> Scan<'_> {
        self.store.scan(space, start, end, order)
    }
}

impl Kv for SlowSync {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        self.store.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.store.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        if !*self.open.borrow() {
            self.entered.send_replace(true);
        }
        while !*self.open.borrow() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.store.sync()
    }

    fn stats(&self) -> KvStats {
        self.store.stats()
    }
}

/// The leader counts its lease from when it sent an append, the node that stores it for long must
/// not help anybody else meanwhile, however short its own timeouts are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_holds_while_what_it_is_given_for_is_being_stored() {
    let runtime = Runtime::system();
    let store = Arc::new(SlowSync {
        store: MemoryKv::new(),
        entered: watch::Sender::new(false),
        open: watch::Sender::new(true),
    });
    let config = RaftConfig::with_election(200, 50);
    let kv: Arc<dyn Kv> = store.clone();
    let host = RaftHost::start(
        runtime.clone(),
        NodeId(2),
        config,
        kv.clone(),
        Arc::new(NoPeers),
    );
    let machine = Arc::new(MapMachine::new(SHARD, kv));
    let _group = host.open(SHARD, machine).await.unwrap();
    let take = async |request| host.handle(SHARD, RaftRequest(request)).await;
    let snapshot = transfer(1, 9, 1);
    take(snapshot.begin.0).await.unwrap();
    for chunk in snapshot.chunks {
        take(chunk.0).await.unwrap();
    }
    take(snapshot.finish.0).await.unwrap();
    // What the snapshot promised is over.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    store.open.send_replace(false);
    let append = request::Body::Append(proto::Append {
        vote: leaders_vote(),
        previous: Some(proto::LogId { term: 1, index: 9 }),
        entries: vec![proto::Entry {
            id: Some(proto::LogId { term: 1, index: 10 }),
            payload: Some(proto::entry::Payload::Blank(proto::Blank {})),
        }],
        lease_ms: 3000,
        ..proto::Append::default()
    });
    let (storing, append) = (Arc::clone(&host), RaftRequest(append));
    let storing = runtime.spawn(async move { storing.handle(SHARD, append).await });
    let mut entered = store.entered.subscribe();
    entered.wait_for(|entered| *entered).await.unwrap();
    // Its own timeout is over, the leader's lease is not.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let vote = request::Body::Vote(proto::VoteCall {
        vote: Some(vote_to_proto(&Vote::new(2, 3))),
        last: Some(proto::LogId { term: 1, index: 99 }),
        leadership_transfer: false,
        pre_vote: true,
    });
    let reply = take(vote).await.map(|RaftReply(reply)| reply);
    let granted = matches!(&reply, Ok(proto::reply::Body::Vote(vote)) if vote.granted);
    // First, or a failure would wait for it for ever.
    store.open.send_replace(true);
    assert!(!granted, "{reply:?}");
    storing.await.unwrap().unwrap();
    host.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_received_half_does_not_stay() {
    let follower = Follower::start(simulated(1), true).await;
    // A newer transfer replaces an unfinished one.
    let (half, whole) = (transfer(1, 90, 60), transfer(2, 80, 20));
    follower.take(half.begin).await.unwrap();
    for chunk in half.chunks {
        follower.take(chunk).await.unwrap();
    }
    assert!(follower.staged() > 0);
    follower.take_all(whole).await;
    assert_eq!(follower.group.last_applied(), Some(80));
    assert_eq!(follower.machine.map.keys().unwrap().len(), 20);
    assert_eq!(follower.staged(), 0);
    // One that is older than what is there is not installed, nor kept.
    follower.take_all(transfer(3, 70, 60)).await;
    assert_eq!(follower.group.last_applied(), Some(80));
    assert_eq!(follower.staged(), 0, "a refused snapshot stays");
    assert!(follower.is_free());
    // One whose sender went away goes once the leader is heard without it.
    let half = transfer(4, 99, 60);
    follower.take(half.begin).await.unwrap();
    for chunk in half.chunks {
        follower.take(chunk).await.unwrap();
    }
    let heartbeat = || {
        RaftRequest(request::Body::Append(proto::Append {
            vote: leaders_vote(),
            ..proto::Append::default()
        }))
    };
    follower.take(heartbeat()).await.unwrap();
    assert!(follower.staged() > 0, "a transfer under way is kept");
    assert!(!follower.is_free());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    follower.take(heartbeat()).await.unwrap();
    assert_eq!(follower.staged(), 0, "an abandoned snapshot stays");
    assert!(follower.is_free());
}

/// What another replica of the node waits for does not stay promised to a transfer that ended in the
/// middle of a step: there may be no later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_or_is_dropped_gives_up_what_was_promised() {
    let runtime = Runtime::system();
    let follower = Arc::new(Follower::start(runtime.clone(), true).await);
    for too_early in [false, true] {
        let mut sent = transfer(1, 90, 60);
        follower.take(sent.begin).await.unwrap();
        let last = match too_early {
            true => sent.finish,
            false => sent.chunks[0].clone(),
        };
        follower.take(sent.chunks.swap_remove(0)).await.unwrap();
        assert!(!follower.is_free());
        let refused = follower.take(last).await;
        assert!(
            matches!(refused, Err(RaftError::Malformed(_))),
            "{refused:?}"
        );
        assert!(follower.is_free());
    }
    // The connection breaks while the machine thinks about it.
    let mut sent = transfer(2, 90, 60);
    follower.take(sent.begin).await.unwrap();
    let questions = &follower.machine.questions;
    questions.entered.send_replace(false);
    questions.open.send_replace(false);
    let (asking, first) = (Arc::clone(&follower), sent.chunks.swap_remove(0));
    let asking = runtime.spawn(async move { asking.take(first).await });
    let mut entered = questions.entered.subscribe();
    entered.wait_for(|entered| *entered).await.unwrap();
    let mut promised = follower.machine.promised.subscribe();
    promised.borrow_and_update();
    asking.abort();
    assert!(asking.await.is_err());
    questions.open.send_replace(true);
    let promises_and_gives_up = async {
        promised.changed().await.unwrap();
        promised.wait_for(|promised| !promised).await.unwrap();
    };
    let limit = Duration::from_secs(30);
    let ended = tokio::time::timeout(limit, promises_and_gives_up).await;
    assert!(ended.is_ok(), "promised for ever");
    follower.host.stop().await.unwrap();
}
