//! For tests: metadata nodes of one process over a network in memory, which can be killed, cut off
//! and wiped, and a client that finds their leaders.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_kv::{Kv, MemoryKv};
use granary_meta_api::{Meta, MetaControl, MetaError, MetaService, pb};
use granary_raft::{RaftReply, RaftRequest, RaftTransport, TransportError};
use granary_runtime::{Entropy, Runtime, SeededEntropy, SimulatedClock};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;

use crate::{MetaConfig, MetaNode, NewCluster};

/// The wall clock at the beginning, in milliseconds.
const START_MS: u64 = 1_800_000_000_000;

/// Who is up, and who hears whom.
pub struct Network {
    nodes: Mutex<BTreeMap<NodeId, Arc<MetaNode>>>,
    /// Nodes that neither hear others nor are heard.
    cut: Mutex<BTreeSet<NodeId>>,
    entropy: SeededEntropy,
}

impl Network {
    fn reaches(&self, from: NodeId, to: NodeId) -> Option<Arc<MetaNode>> {
        let cut = self.cut.lock();
        if from != to && (cut.contains(&from) || cut.contains(&to)) {
            return None;
        }
        self.nodes.lock().get(&to).cloned()
    }

    /// A node that is up and not cut off.
    pub fn reachable(&self, node: NodeId) -> Option<Arc<MetaNode>> {
        let cut = self.cut.lock().contains(&node);
        self.nodes.lock().get(&node).filter(|_| !cut).cloned()
    }

    /// The control of a node that is up and not cut off.
    pub fn control(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        let node: Arc<dyn MetaControl> = self.reachable(node)?;
        Some(node)
    }

    fn all(&self) -> Vec<Arc<MetaNode>> {
        let ids: Vec<NodeId> = self.nodes.lock().keys().copied().collect();
        ids.into_iter()
            .filter_map(|id| self.reachable(id))
            .collect()
    }
}

/// Carries the nodes' messages.
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
        let delay = 1 + self.network.entropy.below(3);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let away = || TransportError::Unreachable {
            peer: to,
            reason: "away".to_owned(),
        };
        let node = self.network.reaches(self.from, to).ok_or_else(away)?;
        let reply = node.raft().handle(shard, request).await;
        let reply = reply.map_err(|error| TransportError::Refused {
            peer: to,
            reason: error.to_string(),
        })?;
        self.network.reaches(to, self.from).ok_or_else(away)?;
        Ok(reply)
    }
}

/// Asks whoever leads: what a gateway's routing does, without its memory.
pub struct Router(Arc<Network>);

impl Router {
    fn by_leadership(&self, shard: ShardId) -> Vec<Arc<MetaNode>> {
        let mut nodes = self.0.all();
        let leads = |node: &Arc<MetaNode>| {
            let group = node.raft().group(shard);
            group.is_some_and(|group| group.is_leader())
        };
        nodes.sort_by_key(|node| !leads(node));
        nodes
    }
}

fn no_leader(shard: ShardId) -> MetaError {
    MetaError::NotLeader {
        shard,
        leader: None,
    }
}

#[async_trait]
impl MetaService for Router {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        for node in self.by_leadership(shard) {
            match node.propose(shard, command.clone()).await {
                Err(MetaError::NotLeader { .. }) => {}
                Err(MetaError::WrongShard(_)) if node.raft().group(shard).is_none() => {}
                answer => return answer,
            }
        }
        Err(no_leader(shard))
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        for node in self.by_leadership(shard) {
            match node.query(shard, query.clone()).await {
                Err(MetaError::NotLeader { .. }) => {}
                Err(MetaError::WrongShard(_)) if node.raft().group(shard).is_none() => {}
                answer => return answer,
            }
        }
        Err(no_leader(shard))
    }
}

/// Metadata nodes in one process.
pub struct TestCluster {
    /// How they reach each other.
    pub network: Arc<Network>,
    /// The client's time and tasks.
    pub runtime: Runtime,
    clock: Arc<SimulatedClock>,
    stores: BTreeMap<NodeId, MemoryKv>,
    config: MetaConfig,
    seed: u64,
    starts: u64,
}

impl TestCluster {
    /// No nodes yet.
    pub fn new(seed: u64, config: MetaConfig) -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(START_MS));
        let runtime = Runtime::simulated(clock.clone(), Arc::new(SeededEntropy::new(seed)));
        let network = Network {
            nodes: Mutex::default(),
            cut: Mutex::default(),
            entropy: SeededEntropy::new(seed ^ 0x5eed),
        };
        Self {
            network: Arc::new(network),
            runtime,
            clock,
            stores: BTreeMap::new(),
            config,
            seed,
            starts: 0,
        }
    }

    /// Nodes 1 to `voters`, all of them voters of every shard.
    pub async fn formed(voters: u64, seed: u64, config: MetaConfig) -> Self {
        let mut cluster = Self::new(seed, config);
        let ids: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        for id in &ids {
            cluster.start(*id).await;
        }
        let new = NewCluster {
            cluster_id: "test".to_owned(),
            region: "cn-test-1".to_owned(),
            root_account: pb::state::Account {
                id: 1,
                name: "root".to_owned(),
            },
            voters: ids.clone(),
        };
        let nodes = ids.iter().map(|id| cluster.node(*id));
        let forming = nodes.map(|node| {
            let new = new.clone();
            async move { node.bootstrap(new).await }
        });
        for formed in futures_util::future::join_all(forming).await {
            formed.unwrap();
        }
        cluster
    }

    /// Starts a node on what its disk holds, which is nothing at first.
    pub async fn start(&mut self, id: NodeId) {
        self.starts += 1;
        let seed = self.seed.wrapping_mul(1000) + self.starts;
        let runtime = Runtime::simulated(self.clock.clone(), Arc::new(SeededEntropy::new(seed)));
        let link = Arc::new(Link {
            from: id,
            network: Arc::clone(&self.network),
        });
        let kv: Arc<dyn Kv> = Arc::new(self.stores.entry(id).or_default().clone());
        let node = MetaNode::open(runtime, id, kv, link, self.config.clone()).await;
        let node = node.unwrap();
        node.route_root_through(Arc::new(Router(Arc::clone(&self.network))));
        self.network.nodes.lock().insert(id, node);
    }

    /// Takes a node down as a power cut does; `survivors` of the writes that were not synced stay.
    pub async fn kill(&mut self, id: NodeId, survivors: usize) {
        let node = self.network.nodes.lock().remove(&id).unwrap();
        let store = self.stores.get_mut(&id).unwrap();
        *store = store.crash(survivors);
        // Only ends the tasks: its store answers nothing any more.
        let _ = node.stop().await;
    }

    /// Takes a node away for good, with its disk.
    pub async fn lose(&mut self, id: NodeId) {
        self.kill(id, 0).await;
        self.stores.remove(&id);
    }

    /// Neither lets a node hear the others nor the others hear it.
    pub fn cut_off(&self, id: NodeId) {
        self.network.cut.lock().insert(id);
    }

    /// Ends every [`TestCluster::cut_off`].
    pub fn heal(&self) {
        self.network.cut.lock().clear();
    }

    /// A node that is up.
    pub fn node(&self, id: NodeId) -> Arc<MetaNode> {
        Arc::clone(&self.network.nodes.lock()[&id])
    }

    /// What its disk holds.
    pub fn store(&self, id: NodeId) -> &MemoryKv {
        &self.stores[&id]
    }

    /// A client that finds leaders.
    pub fn client(&self) -> Meta {
        let router = Router(Arc::clone(&self.network));
        Meta::new(self.runtime.clone(), Arc::new(router))
    }

    /// The node that leads a shard, once there is one.
    pub async fn leader(&self, shard: ShardId) -> Arc<MetaNode> {
        let mut found = None;
        self.until("a leader", || {
            let nodes = self.network.all().into_iter();
            let leading = nodes.filter_map(|node| {
                let group = node.raft().group(shard).filter(|group| group.is_leader())?;
                Some((group.term(), node))
            });
            found = leading.max_by_key(|(term, _)| *term).map(|(_, node)| node);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..6000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never came: {what}, seed {}", self.seed);
    }

    /// Waits until every shard in `shards` has exactly these voters, and each of them has applied
    /// what the leader has.
    pub async fn settled(&self, shards: &[ShardId], voters: &[NodeId]) {
        for shard in shards {
            let what = format!("{voters:?} vote in {shard} and have caught up");
            let leader = self.leader(*shard).await.raft().group(*shard).unwrap();
            self.until(&what, || {
                let members = leader.members();
                let applied = leader.last_applied();
                members.voters == voters
                    && !members.changing
                    && voters.iter().all(|voter| {
                        let node = self.network.reachable(*voter);
                        let group = node.and_then(|node| node.raft().group(*shard));
                        group.is_some_and(|group| {
                            group.is_healthy() && group.last_applied() >= applied
                        })
                    })
            })
            .await;
        }
    }
}
