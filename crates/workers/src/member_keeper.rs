//! Keeps the voters of every metadata shard: as many as there should be, on nodes in service, in
//! different zones where there are zones, and their leaders spread.
//!
//! It remembers nothing: what is so is asked of the nodes at every tick, and what was begun shows in
//! it. So it goes on after a restart anywhere, and every step may be repeated.
//!
//! Invariants: a shard has one step at a time, each bounded in time; a shard is changed only by what
//! its leader of the newest known term says of it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use granary_meta_api::{Meta, MetaControl, MetaError, pb};
use granary_placement::{MetaMember, ShardReplicas, VoterStep, plan_voters};
use granary_runtime::within;
use granary_types::{NodeId, ShardId, SlabId};

use crate::{Tick, Worker, WorkerError};

/// Longest wait for a node to tell what it has.
const LIST_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for one step.
const STEP_LIMIT: Duration = Duration::from_secs(12);
/// Entries a member may lack and count as caught up: less than a node refuses to let vote.
const LAG_ENTRIES_MAX: u64 = 500;
/// The role, as node records name it; a record without roles has all.
const META_ROLE: &str = "meta";

/// Where the meta nodes are.
pub trait MetaNodes: Send + Sync + 'static {
    /// The replicas of a node; `None` when nobody knows where it is.
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>>;
}

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemberKeeperConfig {
    /// Voters of every shard, 3 or 5; fewer while fewer nodes are in service.
    pub voters: usize,
}

impl Default for MemberKeeperConfig {
    fn default() -> Self {
        Self { voters: 3 }
    }
}

/// True for a node that may have replicas.
pub(crate) fn is_meta(node: &pb::state::Node) -> bool {
    node.roles.is_empty() || node.roles.iter().any(|role| role == META_ROLE)
}

/// The member keeper.
pub struct MemberKeeper {
    meta: Meta,
    nodes: Arc<dyn MetaNodes>,
    config: MemberKeeperConfig,
}

impl MemberKeeper {
    /// A keeper that asks the root who is in service, and the nodes what they have.
    pub fn new(meta: Meta, nodes: Arc<dyn MetaNodes>, config: MemberKeeperConfig) -> Self {
        Self {
            meta,
            nodes,
            config,
        }
    }

    /// What every node in service tells of its replicas; nodes that do not answer are missing.
    async fn replicas(&self, ids: Vec<NodeId>) -> BTreeMap<NodeId, Vec<pb::Replica>> {
        let mut asking = Vec::with_capacity(ids.len());
        for id in ids {
            asking.push(self.ask(id));
        }
        join_all(asking).await.into_iter().flatten().collect()
    }

    async fn ask(&self, id: NodeId) -> Option<(NodeId, Vec<pb::Replica>)> {
        let node = self.nodes.node(id)?;
        match within(LIST_LIMIT, node.list_replicas()).await {
            Ok(Ok(replicas)) => Some((id, replicas)),
            Ok(Err(error)) => {
                tracing::debug!(node = %id, %error, "replicas not told");
                None
            }
            Err(_) => None,
        }
    }

    /// True when the step was done.
    async fn perform(&self, step: &VoterStep, world: &World) -> bool {
        let done = within(STEP_LIMIT, self.execute(step, world)).await;
        let done = done.unwrap_or_else(|_| Err(MetaError::Unavailable("too slow".to_owned())));
        match &done {
            Ok(()) => tracing::info!(?step, "the members of a shard change"),
            Err(error) => tracing::debug!(?step, %error, "the members of a shard stay for now"),
        }
        done.is_ok()
    }

    async fn execute(&self, step: &VoterStep, world: &World) -> Result<(), MetaError> {
        let node = |id: NodeId| {
            let unknown = || MetaError::Unavailable(format!("node {id} is not known"));
            self.nodes.node(id).ok_or_else(unknown)
        };
        let shard = step.shard();
        let leader = || {
            let leader = world.leader(shard).ok_or(MetaError::NotLeader {
                shard,
                leader: None,
            });
            leader.and_then(node)
        };
        match step {
            VoterStep::OpenReplica { node: at, .. } => {
                let home = world.homes.get(&shard).copied().unwrap_or(SlabId(0));
                node(*at)?.open_replica(shard, home).await
            }
            VoterStep::AddLearner { node, .. } => leader()?.add_learner(shard, *node).await,
            VoterStep::ChangeVoters { voters, .. } => {
                let voters: Vec<NodeId> = voters.iter().copied().collect();
                leader()?.change_voters(shard, &voters).await
            }
            VoterStep::TransferLeader { to, .. } => leader()?.transfer_leader(shard, *to).await,
        }
    }
}

impl Worker for MemberKeeper {
    const NAME: &'static str = "member-keeper";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        let map = self
            .meta
            .query(pb::GetClusterMap { known_epoch: 0 })
            .await?;
        let known: Vec<_> = map.nodes.iter().filter(|node| is_meta(node)).collect();
        let in_service = known.iter().filter(|node| !node.removed);
        let replicas = self.replicas(in_service.map(|node| NodeId(node.id)).collect());
        let world = World::new(&replicas.await);
        let members: Vec<MetaMember> = known
            .iter()
            .map(|node| MetaMember {
                id: NodeId(node.id),
                zone: node.zone.clone(),
                removed: node.removed,
                reachable: world.answered.contains(&NodeId(node.id)),
            })
            .collect();
        let steps = plan_voters(&members, &world.shards, self.config.voters);
        let mut doing = Vec::with_capacity(steps.len());
        for step in &steps {
            doing.push(self.perform(step, &world));
        }
        let done = join_all(doing).await;
        // What failed is tried again after the interval, and so is what has to catch up first.
        Ok(if done.contains(&true) {
            Tick::More
        } else {
            Tick::Done
        })
    }
}

/// What the nodes told.
struct World {
    answered: BTreeSet<NodeId>,
    shards: Vec<ShardReplicas>,
    homes: BTreeMap<ShardId, SlabId>,
}

impl World {
    fn new(replicas: &BTreeMap<NodeId, Vec<pb::Replica>>) -> Self {
        let mut open: BTreeMap<ShardId, BTreeSet<NodeId>> = BTreeMap::new();
        let mut homes = BTreeMap::new();
        let mut leading: BTreeMap<ShardId, (NodeId, &pb::Replica)> = BTreeMap::new();
        for (node, told) in replicas {
            for replica in told {
                let shard = ShardId(replica.shard);
                open.entry(shard).or_default().insert(*node);
                homes.insert(shard, SlabId(replica.home_slab));
                let known = leading.get(&shard);
                let newer = known.is_none_or(|(_, known)| known.term < replica.term);
                if replica.leader == node.0 && !replica.without_quorum && newer {
                    leading.insert(shard, (*node, replica));
                }
            }
        }
        // Of a shard that nobody leads nothing certain is known: it waits for a leader.
        let shards = leading.into_iter().map(|(shard, (leader, told))| {
            let open = open.remove(&shard).unwrap_or_default();
            shard_of(shard, leader, told, open)
        });
        Self {
            shards: shards.collect(),
            answered: replicas.keys().copied().collect(),
            homes,
        }
    }

    fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let found = self.shards.iter().find(|known| known.shard == shard);
        found?.leader
    }
}

fn shard_of(
    shard: ShardId,
    leader: NodeId,
    told: &pb::Replica,
    open: BTreeSet<NodeId>,
) -> ShardReplicas {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    let near = told.followers.iter().filter(|follower| {
        let node = NodeId(follower.node);
        follower.matched + LAG_ENTRIES_MAX >= told.last_log && open.contains(&node)
    });
    let mut caught_up: BTreeSet<NodeId> = near.map(|follower| NodeId(follower.node)).collect();
    caught_up.insert(leader);
    ShardReplicas {
        shard,
        leader: Some(leader),
        voters: ids(&told.voters),
        learners: ids(&told.learners),
        changing: told.changing,
        open,
        caught_up,
    }
}
