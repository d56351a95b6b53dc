//! A storage node behind a gRPC channel.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use granary_runtime::within;
use granary_types::{BucketId, ChunkId, DiskId, PgId};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{MESSAGE_BYTES_MAX, bulk, convert, fault};
use crate::pb::{self, blob_client::BlobClient};
use crate::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};

/// A remote storage node. Every call has the same deadline, which the server learns too.
///
/// A channel is one connection; bulk bytes must not share it with Raft or heartbeats.
#[derive(Clone, Debug)]
pub struct GrpcBlobNode {
    channel: Channel,
    /// For the calls that move no chunks.
    client: BlobClient<Channel>,
    deadline: Duration,
}

impl GrpcBlobNode {
    /// A node behind `channel`; a call that takes longer than `deadline` is `Unreachable`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let client = BlobClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            channel,
            client,
            deadline,
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }

    async fn listed(&self, request: pb::ListRequest) -> Result<ChunkPage, BlobError> {
        let mut client = self.client.clone();
        convert::chunk_page(self.answer(client.list(self.request(request))).await?)
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, BlobError> {
        self.reply(async { call.await.map(Response::into_inner) })
            .await
    }

    async fn reply<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, BlobError> {
        match within(self.deadline, call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => Err(fault::from_status(&status)),
            Err(elapsed) => Err(BlobError::Unreachable(elapsed.to_string())),
        }
    }
}

#[async_trait]
impl BlobNode for GrpcBlobNode {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        let request = self.request(convert::put_request(disk, chunk));
        let call = bulk::call(self.channel.clone(), bulk::PUT, request);
        match self.reply(call).await {
            Ok(pb::PutReply {}) => Ok(()),
            // A node without memory says so before it has read which disk the chunk is for.
            Err(BlobError::Busy(_)) => Err(BlobError::Busy(disk)),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        let request = self.request(convert::get_request(disk, range));
        let call = bulk::call(self.channel.clone(), bulk::GET, request);
        convert::chunk_read(self.reply(call).await?)
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        let request = self.request(convert::copy_request(disk, copy));
        let mut client = self.client.clone();
        self.answer(client.copy(request)).await.map(|_| ())
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let request = self.request(pb::DeleteRequest {
            disk: disk.0,
            pg: pg.0,
            epoch,
            chunks: chunks.into_iter().map(convert::id_bytes).collect(),
        });
        let mut client = self.client.clone();
        self.answer(client.delete(request)).await.map(|_| ())
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let request = self.request(pb::ForgetRequest {
            disk: disk.0,
            pg: pg.0,
            epoch,
            chunks: chunks.into_iter().map(convert::id_bytes).collect(),
        });
        let mut client = self.client.clone();
        self.answer(client.forget(request)).await.map(|_| ())
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let request = self.request(pb::EvictRequest {
            disk: disk.0,
            pg: pg.0,
            epoch,
            chunks: chunks.into_iter().map(convert::id_bytes).collect(),
        });
        let mut client = self.client.clone();
        self.answer(client.evict(request)).await.map(|_| ())
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        let request = self.request(pb::GroupsRequest { disk: disk.0 });
        let mut client = self.client.clone();
        let reply = self.answer(client.groups(request)).await?;
        let groups = reply.groups.into_iter();
        Ok(groups.map(|group| (PgId(group.pg), group.epoch)).collect())
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        let request = convert::list_request(disk, pg, after, limit, None);
        self.listed(request).await
    }

    async fn list_owned(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
        bucket: BucketId,
    ) -> Result<ChunkPage, BlobError> {
        let request = convert::list_request(disk, pg, after, limit, Some(bucket));
        let mut page = self.listed(request).await?;
        // An earlier server answers everything.
        page.entries.retain(|entry| entry.owner.bucket == bucket);
        Ok(page)
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        let request = self.request(pb::VerifyRequest {
            disk: disk.0,
            pg: pg.0,
            after: after.map(convert::id_bytes).unwrap_or_default(),
            limit_bytes,
        });
        let mut client = self.client.clone();
        convert::verify_page(self.answer(client.verify(request)).await?)
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        let request = self.request(pb::OpenPgRequest {
            disk: disk.0,
            pg: pg.0,
            epoch,
        });
        let mut client = self.client.clone();
        self.answer(client.open_pg(request)).await.map(|_| ())
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        let request = self.request(pb::DisksRequest {});
        let mut client = self.client.clone();
        let reply = self.answer(client.disks(request)).await?;
        Ok(convert::disk_statuses(&reply))
    }
}
