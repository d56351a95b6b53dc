//! The receiving side: hands requests to a metadata service of this process.

use std::sync::Arc;

use async_trait::async_trait;
use granary_types::ShardId;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use crate::pb::meta_server::{Meta, MetaServer};
use crate::{MetaError, MetaService, pb};

/// Whether a command may be proposed by whom the listener noted in the request's extensions.
pub type ProposeCheck =
    Arc<dyn Fn(&tonic::Extensions, &pb::Command) -> Result<(), MetaError> + Send + Sync>;

/// What the node's internal listener serves.
pub fn routes(service: Arc<dyn MetaService>) -> Routes {
    checked_routes(service, Arc::new(|_, _| Ok(())))
}

/// The same, for a listener that does not let everybody propose everything.
pub fn checked_routes(service: Arc<dyn MetaService>, check: ProposeCheck) -> Routes {
    Routes::new(
        MetaServer::new(Adapter { service, check })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}

struct Adapter {
    service: Arc<dyn MetaService>,
    check: ProposeCheck,
}

#[async_trait]
impl Meta for Adapter {
    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeReply>, Status> {
        let (_, sender, request) = request.into_parts();
        let command = request.command;
        let command = command.ok_or_else(|| Status::invalid_argument("no command"))?;
        let decision = match (self.check)(&sender, &command) {
            Ok(()) => self.service.propose(ShardId(request.shard), command).await,
            Err(refused) => Err(refused),
        };
        let reply = match decision {
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
