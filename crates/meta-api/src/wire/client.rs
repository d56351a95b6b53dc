//! A metadata service on another node.

use std::error::Error as _;

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

/// The service answers its own failures as faults; a status comes from the transport. `Internal` with
/// a cause was made here of a connection that ended: a request that comes while a node stops in an orderly
/// way gets it.
pub(super) fn failed(status: &Status, lost: fn(String) -> MetaError) -> MetaError {
    let message = status.message().to_owned();
    match status.code() {
        Code::Internal if status.source().is_some() => lost(message),
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => {
            MetaError::Invalid(message)
        }
        Code::Internal | Code::DataLoss => MetaError::Internal(message),
        _ => lost(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_in_order_is_no_failure_of_the_service() {
        let gone = h2::Error::from(h2::Reason::NO_ERROR);
        let status = Status::from_error(Box::new(gone));
        assert_eq!(status.code(), Code::Internal);
        let query = failed(&status, MetaError::Unavailable);
        assert!(matches!(query, MetaError::Unavailable(_)), "{query:?}");
        let said = Status::internal("a message that cannot be read");
        let said = failed(&said, MetaError::Unavailable);
        assert!(matches!(said, MetaError::Internal(_)), "{said:?}");
    }
}
