//! An endpoint's way to the replicas of each node, for the keeper of the shards' members.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::{MetaControl, MetaError, pb};
use granary_types::{NodeId, ShardId, SlabId};
use granary_workers::MetaNodes;

use super::{Endpoint, Life, Message, NetError, Services, SimNet};

/// Longest wait for one answer; the keeper waits no longer for its steps.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The ways of one life to every node's replicas.
pub struct ControlLinks {
    net: SimNet,
    life: Life,
    nodes: Vec<NodeId>,
}

impl ControlLinks {
    /// Ways to these nodes.
    pub fn new(net: SimNet, life: Life, nodes: Vec<NodeId>) -> Self {
        Self { net, life, nodes }
    }
}

impl MetaNodes for ControlLinks {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        self.nodes.contains(&node).then(|| {
            let link: Arc<dyn MetaControl> = Arc::new(ControlLink {
                net: self.net.clone(),
                life: self.life.clone(),
                to: Endpoint(node.0),
            });
            link
        })
    }
}

struct ControlLink {
    net: SimNet,
    life: Life,
    to: Endpoint,
}

impl ControlLink {
    async fn ask<T, S, F>(
        &self,
        label: &'static str,
        shard: ShardId,
        serve: S,
    ) -> Result<T, MetaError>
    where
        S: Fn(Arc<dyn MetaControl>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, MetaError>> + Send + 'static,
        T: Send + 'static,
    {
        let message = Message {
            label,
            detail: u64::from(shard.0),
            timeout: TIMEOUT,
        };
        let serve = Arc::new(serve);
        let served = self
            .net
            .call(&self.life, self.to, message, move |services: Services| {
                let serve = Arc::clone(&serve);
                async move {
                    match services.control {
                        Some(control) => serve(control).await,
                        None => Err(MetaError::Unavailable("starting".to_owned())),
                    }
                }
            });
        match served.await {
            Ok(outcome) => outcome,
            Err(NetError::Refused) => Err(MetaError::Unavailable("refused".to_owned())),
            Err(NetError::NoAnswer) => Err(MetaError::UnknownOutcome("no answer".to_owned())),
        }
    }
}

#[async_trait]
impl MetaControl for ControlLink {
    async fn list_replicas(&self) -> Result<Vec<pb::Replica>, MetaError> {
        self.ask("replicas list", ShardId::ROOT, |control| async move {
            control.list_replicas().await
        })
        .await
    }

    async fn feature_level(&self) -> Result<u64, MetaError> {
        self.ask("feature level", ShardId::ROOT, |control| async move {
            control.feature_level().await
        })
        .await
    }

    async fn open_replica(&self, shard: ShardId, home: SlabId) -> Result<(), MetaError> {
        self.ask("replica open", shard, move |control| async move {
            control.open_replica(shard, home).await
        })
        .await
    }

    async fn add_learner(&self, shard: ShardId, node: NodeId) -> Result<(), MetaError> {
        self.ask("replica learner", shard, move |control| async move {
            control.add_learner(shard, node).await
        })
        .await
    }

    async fn change_voters(&self, shard: ShardId, voters: &[NodeId]) -> Result<(), MetaError> {
        let voters = voters.to_vec();
        self.ask("replica voters", shard, move |control| {
            let voters = voters.clone();
            async move { control.change_voters(shard, &voters).await }
        })
        .await
    }

    async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), MetaError> {
        self.ask("replica hand-over", shard, move |control| async move {
            control.transfer_leader(shard, to).await
        })
        .await
    }
}
