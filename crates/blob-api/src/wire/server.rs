//! The gRPC service in front of any storage node.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use granary_types::limits::CHUNK_BYTES_MAX;
use granary_types::{BucketId, DiskId, PgId};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use super::room::{Room, Share, SharedBody};
use super::{MESSAGE_BYTES_MAX, bulk, convert, fault};
use crate::pb;
use crate::pb::blob_server::{Blob, BlobServer};
use crate::{BlobError, BlobNode};

/// Memory that the chunks of all callers together may take up.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// For chunks to be stored, from their first byte until the disk has answered, in bytes. Half of
    /// it is the most for one disk.
    pub put_bytes: u64,
    /// For chunks that were asked for, until they are sent, in bytes. Half of it is the most for one
    /// disk.
    pub get_bytes: u64,
}

impl Default for ServerLimits {
    /// One gateway's whole write buffer fits into the half of a disk (192 MiB), and everything that a
    /// disk reads at once (128 MiB).
    fn default() -> Self {
        Self {
            put_bytes: 512 * 1024 * 1024,
            get_bytes: 512 * 1024 * 1024,
        }
    }
}

/// Serves a [`BlobNode`]. The deadline that a client sends is enforced by tonic's server.
#[derive(Clone)]
pub struct BlobService {
    calls: Calls,
    /// For the calls that move no chunks.
    server: BlobServer<Calls>,
    puts: Arc<Room>,
    gets: Arc<Room>,
}

impl BlobService {
    /// The service to add to a tonic server, with its message limits set.
    pub fn new(node: Arc<dyn BlobNode>, limits: ServerLimits) -> Self {
        let calls = Calls { node };
        let server = BlobServer::new(calls.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            calls,
            server,
            puts: Room::new(limits.put_bytes),
            gets: Room::new(limits.get_bytes),
        }
    }
}

impl NamedService for BlobService {
    const NAME: &'static str = <BlobServer<Calls> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for BlobService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, mut body) = request.into_parts();
        let path = parts.uri.path();
        let (is_put, is_get) = (path == bulk::PUT, path == bulk::GET);
        let share = if is_put {
            let share = Share::of(&self.puts);
            body = SharedBody::coming_in(body, &share);
            share
        } else {
            Share::of(&self.gets)
        };
        parts.extensions.insert(Arc::clone(&share));
        let request = http::Request::from_parts(parts, body);
        let calls = self.calls.clone();
        let answering: BoxFuture<_, Infallible> = if is_put {
            let put = move |request| async move { calls.put(request).await };
            Box::pin(async move { Ok(bulk::answer(request, put).await) })
        } else if is_get {
            let get = move |request| async move { calls.get(request).await };
            Box::pin(async move { Ok(bulk::answer(request, get).await) })
        } else {
            self.server.call(request)
        };
        Box::pin(async move {
            let (parts, body) = answering.await?.into_parts();
            let body = SharedBody::going_out(body, share);
            Ok(http::Response::from_parts(parts, body))
        })
    }
}

/// The calls themselves.
#[derive(Clone)]
struct Calls {
    node: Arc<dyn BlobNode>,
}

/// Counts what a call holds as a disk's, with so many bytes more.
fn take_room<T>(request: &Request<T>, disk: DiskId, bytes: u64) -> Result<(), Status> {
    let Some(share) = request.extensions().get::<Arc<Share>>() else {
        return Ok(());
    };
    let taken = match share.grow(bytes) {
        true => share.assign(disk),
        false => Err(BlobError::Busy(disk)),
    };
    checked(taken)
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
impl Blob for Calls {
    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutReply> {
        take_room(&request, DiskId(request.get_ref().disk), 0)?;
        let request = request.into_inner();
        let disk = DiskId(request.disk);
        let chunk = checked(convert::put_chunk(request))?;
        answer(self.node.put(disk, chunk).await, |()| pb::PutReply {})
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<pb::GetReply> {
        let disk = DiskId(request.get_ref().disk);
        let range = checked(convert::get_chunk(request.get_ref()))?;
        let length = (range.length as usize).min(CHUNK_BYTES_MAX);
        take_room(&request, disk, length as u64)?;
        answer(self.node.get(disk, range).await, convert::get_reply)
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
