//! A metadata service on another node.

use async_trait::async_trait;
use granary_types::ShardId;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::MESSAGE_BYTES_MAX;
use crate::pb::meta_client::MetaClient;
use crate::{MetaError, MetaService, pb};

/// A metadata service on another node.
#[derive(Clone, Debug)]
pub struct GrpcMeta {
    client: MetaClient<Channel>,
}

impl GrpcMeta {
    /// A client over a channel; whoever dials sets connect timeout, keep-alive and TLS.
    pub fn new(channel: Channel) -> Self {
        let client = MetaClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client }
    }
}

#[async_trait]
impl MetaService for GrpcMeta {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let request = pb::ProposeRequest {
            shard: shard.0,
            command: Some(command),
        };
        // It may have arrived: only a repeat with the same id finds out.
        let lost = |status: Status| failed(&status, MetaError::UnknownOutcome);
        let reply = self
            .client
            .clone()
            .propose(request)
            .await
            .map_err(lost)?
            .into_inner();
        answered(shard, reply.reply, reply.fault)
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let request = pb::QueryRequest {
            shard: shard.0,
            query: Some(query),
        };
        let lost = |status: Status| failed(&status, MetaError::Unavailable);
        let reply = self
            .client
            .clone()
            .query(request)
            .await
            .map_err(lost)?
            .into_inner();
        answered(shard, reply.reply, reply.fault)
    }
}

fn answered<R>(shard: ShardId, reply: Option<R>, fault: Option<pb::Fault>) -> Result<R, MetaError> {
    if let Some(fault) = fault {
        return Err(MetaError::from_fault(shard, fault));
    }
    reply.ok_or_else(|| MetaError::Internal("an empty reply".to_owned()))
}

/// The service answers its own failures as faults; a status comes from the transport.
pub(super) fn failed(status: &Status, lost: fn(String) -> MetaError) -> MetaError {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => {
            MetaError::Invalid(message)
        }
        Code::Internal | Code::DataLoss => MetaError::Internal(message),
        _ => lost(message),
    }
}
