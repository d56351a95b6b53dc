//! What the roles of a process need to find each other's counterparts on other nodes.

use std::sync::Arc;

use async_trait::async_trait;
use granary_blob_api::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};
use granary_cluster::{BlobNodes, Links};
use granary_datapath::NodeDirectory;
use granary_meta_api::MetaControl;
use granary_meta_api::wire::GrpcMetaControl;
use granary_raft::grpc::{Dial, Lane as RaftLane};
use granary_types::{BucketId, ChunkId, DiskId, NodeId, PgId};
use granary_workers::MetaNodes;
use parking_lot::RwLock;
use tonic::transport::Channel;

/// Raft's connections, each lane on its own.
pub(super) struct RaftLinks(pub(super) Arc<Links>);

impl Dial for RaftLinks {
    fn dial(&self, to: NodeId, lane: RaftLane) -> Option<Channel> {
        let lane = match lane {
            RaftLane::Control => granary_cluster::Lane::Control,
            RaftLane::Log => granary_cluster::Lane::Log,
            RaftLane::Snapshot => granary_cluster::Lane::Snapshot,
        };
        self.0.channel(to, lane)
    }
}

/// The storage nodes, for whoever moves bytes.
pub(super) struct StorageNodes(pub(super) BlobNodes);

impl NodeDirectory for StorageNodes {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        self.0.blob_node(node)
    }
}

/// The metadata nodes, for whoever keeps their shards' members.
pub(super) struct MetadataNodes {
    pub(super) links: Arc<Links>,
    /// This process's own.
    pub(super) local: Option<Arc<dyn MetaControl>>,
}

impl MetaNodes for MetadataNodes {
    fn node(&self, node: NodeId) -> Option<Arc<dyn MetaControl>> {
        if self.links.security().local_node() == Some(node)
            && let Some(local) = &self.local
        {
            return Some(Arc::clone(local));
        }
        let channel = self.links.channel(node, granary_cluster::Lane::Meta)?;
        Some(Arc::new(GrpcMetaControl::new(channel)))
    }
}

/// A storage node whose disks are still being opened: the listener is there before them.
#[derive(Default)]
pub(super) struct LateDisks(RwLock<Option<Arc<dyn BlobNode>>>);

impl LateDisks {
    /// From now on the disks serve.
    pub(super) fn set(&self, disks: Arc<dyn BlobNode>) {
        *self.0.write() = Some(disks);
    }

    fn disks_now(&self) -> Result<Arc<dyn BlobNode>, BlobError> {
        let disks = self.0.read().clone();
        disks.ok_or_else(|| BlobError::Unreachable("the disks are being opened".to_owned()))
    }
}

#[async_trait]
impl BlobNode for LateDisks {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        self.disks_now()?.put(disk, chunk).await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.disks_now()?.get(disk, range).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        self.disks_now()?.copy(disk, copy).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.disks_now()?.delete(disk, pg, epoch, chunks).await
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.disks_now()?.forget(disk, pg, epoch, chunks).await
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.disks_now()?.evict(disk, pg, epoch, chunks).await
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        self.disks_now()?.groups(disk).await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        self.disks_now()?.list(disk, pg, after, limit).await
    }

    async fn list_owned(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
        bucket: BucketId,
    ) -> Result<ChunkPage, BlobError> {
        let disks = self.disks_now()?;
        disks.list_owned(disk, pg, after, limit, bucket).await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        let disks = self.disks_now()?;
        disks.verify(disk, pg, after, limit_bytes).await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        self.disks_now()?.open_pg(disk, pg, epoch).await
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        self.disks_now()?.disks().await
    }
}
