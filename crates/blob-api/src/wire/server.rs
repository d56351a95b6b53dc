//! The gRPC service in front of any storage node.

use std::sync::Arc;

use granary_types::{BucketId, DiskId, PgId};
use tonic::{Request, Response, Status};

use super::{MESSAGE_BYTES_MAX, convert, fault};
use crate::pb::{self, blob_server::BlobServer};
use crate::{BlobError, BlobNode};

/// Serves a [`BlobNode`]. The deadline that a client sends is enforced by tonic's server.
#[derive(Clone)]
pub struct BlobService {
    node: Arc<dyn BlobNode>,
}

impl BlobService {
    /// The service to add to a tonic server, with its message limits set.
    pub fn server(node: Arc<dyn BlobNode>) -> BlobServer<Self> {
        BlobServer::new(Self { node })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn answer<T, R>(outcome: Result<T, BlobError>, reply: impl FnOnce(T) -> R) -> Answer<R> {
    match outcome {
        Ok(value) => Ok(Response::new(reply(value))),
        Err(error) => Err(fault::to_status(&error)),
    }
}

type Answer<R> = Result<Response<R>, Status>;

fn checked<T>(value: Result<T, BlobError>) -> Result<T, Status> {
    value.map_err(|error| fault::to_status(&error))
}

#[tonic::async_trait]
impl pb::blob_server::Blob for BlobService {
    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutReply> {
        let request = request.into_inner();
        let disk = DiskId(request.disk);
        let chunk = checked(convert::put_chunk(request))?;
        answer(self.node.put(disk, chunk).await, |()| pb::PutReply {})
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::GetReply> {
        let request = request.into_inner();
        let range = checked(convert::get_chunk(&request))?;
        answer(
            self.node.get(DiskId(request.disk), range).await,
            convert::get_reply,
        )
    }

    async fn copy(&self, request: Request<pb::CopyRequest>) -> Answer<pb::CopyReply> {
        let request = request.into_inner();
        let disk = DiskId(request.disk);
        let copy = checked(convert::copy_chunk(request))?;
        answer(self.node.copy(disk, copy).await, |()| pb::CopyReply {})
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Answer<pb::DeleteReply> {
        let request = request.into_inner();
        let chunks = checked(convert::chunk_ids(&request.chunks))?;
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        let deleted = self.node.delete(disk, pg, request.epoch, chunks).await;
        answer(deleted, |()| pb::DeleteReply {})
    }

    async fn forget(&self, request: Request<pb::ForgetRequest>) -> Answer<pb::ForgetReply> {
        let request = request.into_inner();
        let chunks = checked(convert::chunk_ids(&request.chunks))?;
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        let forgotten = self.node.forget(disk, pg, request.epoch, chunks).await;
        answer(forgotten, |()| pb::ForgetReply {})
    }

    async fn evict(&self, request: Request<pb::EvictRequest>) -> Answer<pb::EvictReply> {
        let request = request.into_inner();
        let chunks = checked(convert::chunk_ids(&request.chunks))?;
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        let evicted = self.node.evict(disk, pg, request.epoch, chunks).await;
        answer(evicted, |()| pb::EvictReply {})
    }

    async fn groups(&self, request: Request<pb::GroupsRequest>) -> Answer<pb::GroupsReply> {
        let listed = self.node.groups(DiskId(request.into_inner().disk)).await;
        answer(listed, |groups| {
            let group = |(pg, epoch): (PgId, u64)| pb::GroupEpoch { pg: pg.0, epoch };
            pb::GroupsReply {
                groups: groups.into_iter().map(group).collect(),
            }
        })
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListReply> {
        let request = request.into_inner();
        let after = checked(convert::optional_id(&request.after))?;
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        let node = &self.node;
        let listed = match request.owner_bucket.map(BucketId) {
            None => node.list(disk, pg, after, request.limit).await,
            Some(bucket) => {
                let listing = node.list_owned(disk, pg, after, request.limit, bucket);
                listing.await
            }
        };
        answer(listed, convert::list_reply)
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Answer<pb::VerifyReply> {
        let request = request.into_inner();
        let after = checked(convert::optional_id(&request.after))?;
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        let verified = self.node.verify(disk, pg, after, request.limit_bytes).await;
        answer(verified, convert::verify_reply)
    }

    async fn open_pg(&self, request: Request<pb::OpenPgRequest>) -> Answer<pb::OpenPgReply> {
        let request = request.into_inner();
        let (disk, pg) = (DiskId(request.disk), PgId(request.pg));
        answer(self.node.open_pg(disk, pg, request.epoch).await, |()| {
            pb::OpenPgReply {}
        })
    }

    async fn disks(&self, _: Request<pb::DisksRequest>) -> Answer<pb::DisksReply> {
        let disks = self.node.disks().await;
        answer(disks, |disks| convert::disks_reply(&disks))
    }
}
