//! Raises the cluster's feature level: in the root, then in every shard, once every metadata node in
//! service applies it. So a cluster that is upgraded node by node stays as it is until the last node
//! follows, and needs nobody to say so.
//!
//! What a node applies it says itself; of one that does not answer its record counts, which it left at
//! its last start. A node of a version that tells nothing applies the first level.
//!
//! A node that was given up counts as long as it is a member of a shard.
//!
//! Invariants: the root comes first, which from then on lets nobody in who applies less; a shard never
//! has a higher level than the root. Levels only rise.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Meta, MetaControl, pb};
use granary_runtime::within;
use granary_types::{NodeId, ShardId};

use crate::member_keeper::is_meta;
use crate::{MetaNodes, Tick, Worker, WorkerError};

/// Longest wait for a node to tell what it applies.
const TELL_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for one shard: the others must not wait for one that has no leader.
const SHARD_LIMIT: Duration = Duration::from_secs(3);
/// What nodes that tell nothing apply.
const FIRST_LEVEL: u64 = 1;

/// The feature keeper.
pub struct FeatureKeeper {
    meta: Meta,
    nodes: Arc<dyn MetaNodes>,
    /// Levels that shards are known to have. They only rise, so what is known stays true.
    reached: BTreeMap<ShardId, u64>,
}

impl FeatureKeeper {
    /// A keeper that asks the root who is in service, and the nodes what they apply.
    pub fn new(meta: Meta, nodes: Arc<dyn MetaNodes>) -> Self {
        Self {
            meta,
            nodes,
            reached: BTreeMap::new(),
        }
    }

    /// The newest level that all of these nodes apply.
    async fn applied_by_all(&self, nodes: &[&pb::state::Node]) -> u64 {
        let told = nodes.iter().map(|node| self.applied_by(node));
        let told = join_all(told).await.into_iter();
        told.min().unwrap_or(FIRST_LEVEL)
    }

    async fn applied_by(&self, record: &pb::state::Node) -> u64 {
        let told = match self.nodes.node(NodeId(record.id)) {
            Some(node) => tell(node).await,
            None => None,
        };
        told.unwrap_or(record.feature_level).max(FIRST_LEVEL)
    }

    /// Whether no shard has a member that was given up and applies less: it takes part until it is let
    /// go, and may be needed for that.
    async fn members_apply(&self, map: &pb::ClusterMap, level: u64) -> Result<bool, WorkerError> {
        let given_up = map.nodes.iter().filter(|node| node.removed);
        let old: BTreeSet<u64> = given_up
            .filter(|node| node.feature_level < level)
            .map(|node| node.id)
            .collect();
        if old.is_empty() {
            return Ok(true);
        }
        let shards = map.ranges.iter().map(|hint| ShardId(hint.shard));
        let shards: BTreeSet<ShardId> = shards.chain([ShardId::ROOT]).collect();
        for shard in shards {
            let asked = self.meta.query_at(shard, pb::DescribeShard {});
            let told = within(SHARD_LIMIT, asked).await;
            let told = told.map_err(|_| WorkerError::TooLong)??;
            // Unknown while they change.
            let Some(members) = told.members else {
                return Ok(false);
            };
            let mut members = members.voters.iter().chain(&members.learners);
            if members.any(|member| old.contains(member)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Raises the level of the root; false when it knows a metadata node that was not asked.
    async fn raise_root(&self, level: u64, nodes: Vec<u64>) -> Result<bool, WorkerError> {
        let command = pb::ActivateFeature { level, nodes };
        match self.meta.propose_to(ShardId::ROOT, command).await? {
            Ok(_) => {
                tracing::info!(level, "every metadata node applies a newer feature level");
                Ok(true)
            }
            Err(no) if no.reason() == Reason::Stale => Ok(false),
            Err(no) => Err(WorkerError::refused("a feature level", no)),
        }
    }

    /// Raises the level of a shard, as far as it is below.
    async fn raise(&self, shard: ShardId, level: u64) -> Result<(), WorkerError> {
        let raising = async {
            let told = self.meta.query_at(shard, pb::DescribeShard {}).await?;
            if told.clock.is_some_and(|clock| clock.feature_level >= level) {
                return Ok(());
            }
            let nodes = Vec::new();
            let command = pb::ActivateFeature { level, nodes };
            let answer = self.meta.propose_to(shard, command).await?;
            answer.map_err(|no| WorkerError::refused("a feature level", no))?;
            Ok(())
        };
        let raised = within(SHARD_LIMIT, raising).await;
        raised.unwrap_or(Err(WorkerError::TooLong))
    }
}

async fn tell(node: Arc<dyn MetaControl>) -> Option<u64> {
    within(TELL_LIMIT, node.feature_level()).await.ok()?.ok()
}

impl Worker for FeatureKeeper {
    const NAME: &'static str = "feature-keeper";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        let map = self.meta.query(pb::GetClusterMap { known_epoch: 0 });
        let map = map.await?;
        let active = map.info.as_ref().map_or(0, |info| info.feature_level);
        let mut level = active.max(FIRST_LEVEL);
        let in_service = map.nodes.iter().filter(|node| !node.removed);
        let nodes: Vec<_> = in_service.filter(|node| is_meta(node)).collect();
        let applied = self.applied_by_all(&nodes).await;
        if applied > level && self.members_apply(&map, applied).await? {
            let asked = nodes.iter().map(|node| node.id).collect();
            if self.raise_root(applied, asked).await? {
                level = applied;
            }
        }
        let shards = map.ranges.iter().map(|hint| ShardId(hint.shard));
        let below = |shard: &ShardId| self.reached.get(shard).is_none_or(|&at| at < level);
        let mut below: Vec<ShardId> = shards.filter(below).collect();
        below.sort_unstable();
        below.dedup();
        let raising = below.iter().map(|&shard| self.raise(shard, level));
        let raised = join_all(raising).await;
        let mut failure = None;
        for (shard, raised) in below.into_iter().zip(raised) {
            match raised {
                Ok(()) => {
                    self.reached.insert(shard, level);
                }
                Err(error) => {
                    tracing::debug!(%shard, level, %error, "a shard's feature level is not raised");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Tick::Done),
        }
    }
}
