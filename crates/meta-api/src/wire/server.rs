//! The receiving side: hands requests to a metadata service of this process.

use std::sync::Arc;

use async_trait::async_trait;
use granary_types::ShardId;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use crate::pb::meta_server::{Meta, MetaServer};
use crate::{MetaService, pb};

/// What the node's internal listener serves.
pub fn routes(service: Arc<dyn MetaService>) -> Routes {
    Routes::new(
        MetaServer::new(Adapter { service })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}

struct Adapter {
    service: Arc<dyn MetaService>,
}

#[async_trait]
impl Meta for Adapter {
    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeReply>, Status> {
        let request = request.into_inner();
        let command = request.command;
        let command = command.ok_or_else(|| Status::invalid_argument("no command"))?;
        let reply = match self.service.propose(ShardId(request.shard), command).await {
            Ok(reply) => pb::ProposeReply {
                reply: Some(reply),
                fault: None,
            },
            Err(error) => pb::ProposeReply {
                reply: None,
                fault: Some(error.into()),
            },
        };
        Ok(Response::new(reply))
    }

    async fn query(
        &self,
        request: Request<pb::QueryRequest>,
    ) -> Result<Response<pb::QueryResponse>, Status> {
        let request = request.into_inner();
        let query = request.query;
        let query = query.ok_or_else(|| Status::invalid_argument("no query"))?;
        let reply = match self.service.query(ShardId(request.shard), query).await {
            Ok(reply) => pb::QueryResponse {
                reply: Some(reply),
                fault: None,
            },
            Err(error) => pb::QueryResponse {
                reply: None,
                fault: Some(error.into()),
            },
        };
        Ok(Response::new(reply))
    }
}
