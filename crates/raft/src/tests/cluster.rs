//! Nodes in one process over a transport that can lose, delay and cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_kv::{Kv, MemoryKv};
use granary_runtime::{Clock, Entropy, Runtime, SeededEntropy, SimulatedClock};
use granary_types::{NodeId, ShardId, Timestamp};
use parking_lot::Mutex;

use crate::testsuite::MapMachine;
use crate::wire::proto::reply;
use crate::{
    Group, RaftConfig, RaftHost, RaftReply, RaftRequest, RaftTransport, RequestKind, TransportError,
};

pub(crate) const SHARD: ShardId = ShardId(3);
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Connects hosts in memory.
pub(crate) struct Network {
    hosts: Mutex<BTreeMap<NodeId, Weak<RaftHost>>>,
    /// Pairs (from, to) that don't hear each other.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    entropy: SeededEntropy,
    /// Requests and replies lost, in percent.
    loss: Mutex<u64>,
    pub(crate) sent: Mutex<BTreeMap<RequestKind, u64>>,
    /// As between nodes that do not tell what their clocks show.
    pub(crate) clocks_untold: AtomicBool,
    /// Nodes that are told that they were removed.
    pub(crate) removed: Mutex<BTreeSet<NodeId>>,
    /// How long each step of a snapshot takes, in milliseconds.
    pub(crate) snapshot_step_ms: AtomicU64,
}

impl Network {
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().contains(&(from, to)) && self.entropy.below(100) >= *self.loss.lock()
    }

    pub(crate) fn cut_off(&self, node: NodeId, others: &[NodeId]) {
        let mut cut = self.cut.lock();
        for other in others.iter().filter(|other| **other != node) {
            cut.insert((node, *other));
            cut.insert((*other, node));
        }
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().clear();
    }

    pub(crate) fn lose(&self, percent: u64) {
        *self.loss.lock() = percent;
    }
}

struct Link {
    from: NodeId,
    network: Arc<Network>,
}

#[async_trait]
impl RaftTransport for Link {
    async fn send(
        &self,
        to: NodeId,
        shard: ShardId,
        request: RaftRequest,
    ) -> Result<RaftReply, TransportError> {
        *self.network.sent.lock().entry(request.kind()).or_default() += 1;
        let mut delay = 1 + self.network.entropy.below(5);
        if request.kind() == RequestKind::Snapshot {
            delay += self.network.snapshot_step_ms.load(Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let lost = || TransportError::NoAnswer {
            peer: to,
            reason: "lost on the way".to_owned(),
        };
        if !self.network.passes(self.from, to) {
            return Err(lost());
        }
        let host = self.network.hosts.lock().get(&to).and_then(Weak::upgrade);
        let host = host.ok_or_else(|| TransportError::Unreachable {
            peer: to,
            reason: "down".to_owned(),
        })?;
        let reply = host
            .handle(shard, request)
            .await
            .map_err(|error| TransportError::Refused {
                peer: to,
                reason: error.to_string(),
            })?;
        let reply = match (reply, self.network.removed.lock().contains(&self.from)) {
            (RaftReply(reply::Body::Append(mut reply)), true) => {
                reply.sender_removed = true;
                RaftReply(reply::Body::Append(reply))
            }
            (reply, _) => reply,
        };
        let reply = match self.network.clocks_untold.load(Ordering::Relaxed) {
            true => without_clock(reply),
            false => reply,
        };
        if self.network.passes(to, self.from) {
            Ok(reply)
        } else {
            Err(lost())
        }
    }
}

fn without_clock(RaftReply(mut reply): RaftReply) -> RaftReply {
    match &mut reply {
        reply::Body::Append(reply) => reply.wall_ms = 0,
        reply::Body::Vote(reply) => reply.wall_ms = 0,
        reply::Body::Snapshot(_) | reply::Body::TransferLeader(_) => {}
    }
    RaftReply(reply)
}

/// What a node takes for the time of day: the true one, and how far it is off.
pub(crate) struct NodeClock {
    true_time: Arc<SimulatedClock>,
    off_ms: AtomicI64,
}

impl NodeClock {
    pub(crate) fn set_off(&self, off_ms: i64) {
        self.off_ms.store(off_ms, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        let off_ms = self.off_ms.load(Ordering::Relaxed);
        Timestamp(self.true_time.now().0.saturating_add_signed(off_ms))
    }

    fn monotonic(&self) -> Duration {
        self.true_time.monotonic()
    }
}

/// One node of a simulated cluster.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) kv: MemoryKv,
    pub(crate) runtime: Runtime,
    pub(crate) host: Arc<RaftHost>,
    pub(crate) group: Group,
}

impl Node {
    pub(crate) fn map(&self) -> MapMachine {
        MapMachine::new(SHARD, Arc::new(self.kv.clone()))
    }

    pub(crate) async fn put(&self, key: &str) -> Result<Bytes, crate::ProposeError> {
        self.group
            .propose(Bytes::from(format!("{key}=v")), PATIENCE)
            .await
    }
}

/// A cluster under one seed.
pub(crate) struct Cluster {
    pub(crate) network: Arc<Network>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Of the nodes that are started from now on.
    pub(crate) config: RaftConfig,
    pub(crate) true_time: Arc<SimulatedClock>,
    /// Over restarts.
    pub(crate) clocks: BTreeMap<NodeId, Arc<NodeClock>>,
    seed: u64,
    starts: u64,
}

impl Cluster {
    /// `voters` nodes that have formed the shard.
    pub(crate) async fn formed(voters: u64, seed: u64, config: RaftConfig) -> Self {
        let network = Network {
            hosts: Mutex::default(),
            cut: Mutex::default(),
            entropy: SeededEntropy::new(seed),
            loss: Mutex::new(0),
            sent: Mutex::default(),
            clocks_untold: AtomicBool::new(false),
            removed: Mutex::default(),
            snapshot_step_ms: AtomicU64::new(0),
        };
        let nodes = BTreeMap::new();
        let mut cluster = Self {
            network: Arc::new(network),
            nodes,
            config,
            true_time: Arc::new(SimulatedClock::starting_at(1_700_000_000_000)),
            clocks: BTreeMap::new(),
            seed,
            starts: 0,
        };
        let ids: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        for id in &ids {
            cluster.start(*id, MemoryKv::new()).await;
        }
        for node in cluster.nodes.values() {
            node.host.bootstrap(SHARD, &ids).await.unwrap();
        }
        cluster
    }

    pub(crate) async fn start(&mut self, id: NodeId, kv: MemoryKv) {
        self.starts += 1;
        let clock = self.clocks.entry(id).or_insert_with(|| {
            Arc::new(NodeClock {
                true_time: Arc::clone(&self.true_time),
                off_ms: AtomicI64::new(0),
            })
        });
        let seed = self.seed.wrapping_mul(1000) + self.starts;
        let runtime = Runtime::simulated(clock.clone(), Arc::new(SeededEntropy::new(seed)));
        let link = Link {
            from: id,
            network: Arc::clone(&self.network),
        };
        let store: Arc<dyn Kv> = Arc::new(kv.clone());
        let host = RaftHost::start(
            runtime.clone(),
            id,
            self.config.clone(),
            Arc::clone(&store),
            Arc::new(link),
        );
        let group = host
            .open(SHARD, Arc::new(MapMachine::new(SHARD, store)))
            .await
            .unwrap();
        self.network.hosts.lock().insert(id, Arc::downgrade(&host));
        self.nodes.insert(
            id,
            Node {
                id,
                kv,
                runtime,
                host,
                group,
            },
        );
    }

    /// Takes a node down as a power cut does; the store with what its disk kept.
    pub(crate) async fn kill(&mut self, id: NodeId, survivors: usize) -> MemoryKv {
        self.network.hosts.lock().remove(&id);
        let node = self.nodes.remove(&id).unwrap();
        let left = node.kv.crash(survivors);
        // Only ends the tasks: the store answers nothing any more.
        let _ = node.host.stop().await;
        left
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The node that leads and serves, once there is one among `among`.
    pub(crate) async fn leader_among(&self, among: &[NodeId]) -> &Node {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self
                .nodes
                .values()
                .filter(|node| among.contains(&node.id) && node.group.is_leader())
                .max_by_key(|node| node.group.term());
            if let Some(node) = found {
                return node;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no leader, seed {}",
                self.seed
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn leader(&self) -> &Node {
        self.leader_among(&self.ids()).await
    }

    /// Waits until every node has applied what the leader has, then compares their content.
    pub(crate) async fn converge(&self) {
        let leader = self.leader().await;
        leader.put("fence").await.unwrap();
        let index = leader.group.last_applied().unwrap();
        for node in self.nodes.values() {
            let caught_up = node.group.wait_applied(index, PATIENCE).await;
            assert!(
                caught_up,
                "node {} stays behind, seed {}",
                node.id, self.seed
            );
            let (expected, found) = (leader.map(), node.map());
            assert_eq!(
                found.keys().unwrap(),
                expected.keys().unwrap(),
                "seed {}",
                self.seed
            );
            assert_eq!(
                found.history().unwrap(),
                expected.history().unwrap(),
                "seed {}",
                self.seed
            );
        }
    }
}
