//! The seam to one node's replicas over gRPC, both sides. A call that got no answer may have been
//! done: whoever asked repeats it.

use std::sync::Arc;

use async_trait::async_trait;
use granary_types::{NodeId, ShardId, SlabId};
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::client::failed;
use crate::pb::meta_node_client::MetaNodeClient;
use crate::pb::meta_node_server::{MetaNode, MetaNodeServer};
use crate::{MetaControl, MetaError, pb};

/// The replicas of another node.
#[derive(Clone, Debug)]
pub struct GrpcMetaControl {
    client: MetaNodeClient<Channel>,
}

impl GrpcMetaControl {
    /// A client over a channel; whoever dials sets connect timeout, keep-alive and TLS.
    pub fn new(channel: Channel) -> Self {
        let client = MetaNodeClient::new(channel);
        Self { client }
    }
}

fn lost(status: &Status) -> MetaError {
    failed(status, MetaError::Unavailable)
}

fn done(
    shard: ShardId,
    reply: Result<Response<pb::ControlReply>, Status>,
) -> Result<(), MetaError> {
    let reply = reply.map_err(|status| lost(&status))?.into_inner();
    match reply.fault {
        Some(fault) => Err(MetaError::from_fault(shard, fault)),
        None => Ok(()),
    }
}

/// What nodes of versions that tell no feature level apply.
const FIRST_LEVEL: u64 = 1;

impl GrpcMetaControl {
    async fn ask(&self) -> Result<pb::ListReplicasReply, MetaError> {
        let mut client = self.client.clone();
        let asked = client.list_replicas(pb::ListReplicasRequest {}).await;
        let reply = asked.map_err(|status| lost(&status))?.into_inner();
        match reply.fault {
            Some(fault) => Err(MetaError::from_fault(ShardId::ROOT, fault)),
            None => Ok(reply),
        }
    }
}

#[async_trait]
impl MetaControl for GrpcMetaControl {
    async fn list_replicas(&self) -> Result<Vec<pb::Replica>, MetaError> {
        Ok(self.ask().await?.replicas)
    }

    async fn feature_level(&self) -> Result<u64, MetaError> {
        Ok(self.ask().await?.feature_level.max(FIRST_LEVEL))
    }

    async fn open_replica(&self, shard: ShardId, home: SlabId) -> Result<(), MetaError> {
        let request = pb::OpenReplicaRequest {
            shard: shard.0,
            home_slab: home.0,
        };
        done(shard, self.client.clone().open_replica(request).await)
    }

    async fn add_learner(&self, shard: ShardId, node: NodeId) -> Result<(), MetaError> {
        let request = pb::AddLearnerRequest {
            shard: shard.0,
            node: node.0,
        };
        done(shard, self.client.clone().add_learner(request).await)
    }

    async fn change_voters(&self, shard: ShardId, voters: &[NodeId]) -> Result<(), MetaError> {
        let request = pb::ChangeVotersRequest {
            shard: shard.0,
            voters: voters.iter().map(|node| node.0).collect(),
        };
        done(shard, self.client.clone().change_voters(request).await)
    }

    async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), MetaError> {
        let request = pb::TransferLeaderRequest {
            shard: shard.0,
            to: to.0,
        };
        done(shard, self.client.clone().transfer_leader(request).await)
    }
}

/// What the node's internal listener serves for whoever keeps the members of the shards.
pub fn control_routes(control: Arc<dyn MetaControl>) -> Routes {
    Routes::new(MetaNodeServer::new(Adapter { control }))
}

struct Adapter {
    control: Arc<dyn MetaControl>,
}

fn answered(outcome: Result<(), MetaError>) -> Result<Response<pb::ControlReply>, Status> {
    Ok(Response::new(pb::ControlReply {
        fault: outcome.err().map(Into::into),
    }))
}

#[async_trait]
impl MetaNode for Adapter {
    async fn list_replicas(
        &self,
        _: Request<pb::ListReplicasRequest>,
    ) -> Result<Response<pb::ListReplicasReply>, Status> {
        let (replicas, level) =
            futures_util::join!(self.control.list_replicas(), self.control.feature_level());
        let reply = match (replicas, level) {
            (Ok(replicas), Ok(feature_level)) => pb::ListReplicasReply {
                replicas,
                fault: None,
                feature_level,
            },
            (Err(error), _) | (_, Err(error)) => pb::ListReplicasReply {
                fault: Some(error.into()),
                ..Default::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn open_replica(
        &self,
        request: Request<pb::OpenReplicaRequest>,
    ) -> Result<Response<pb::ControlReply>, Status> {
        let asked = request.into_inner();
        let (shard, home) = (ShardId(asked.shard), SlabId(asked.home_slab));
        answered(self.control.open_replica(shard, home).await)
    }

    async fn add_learner(
        &self,
        request: Request<pb::AddLearnerRequest>,
    ) -> Result<Response<pb::ControlReply>, Status> {
        let asked = request.into_inner();
        let (shard, node) = (ShardId(asked.shard), NodeId(asked.node));
        answered(self.control.add_learner(shard, node).await)
    }

    async fn change_voters(
        &self,
        request: Request<pb::ChangeVotersRequest>,
    ) -> Result<Response<pb::ControlReply>, Status> {
        let asked = request.into_inner();
        let voters: Vec<NodeId> = asked.voters.into_iter().map(NodeId).collect();
        answered(
            self.control
                .change_voters(ShardId(asked.shard), &voters)
                .await,
        )
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::ControlReply>, Status> {
        let asked = request.into_inner();
        let (shard, to) = (ShardId(asked.shard), NodeId(asked.to));
        answered(self.control.transfer_leader(shard, to).await)
    }
}
