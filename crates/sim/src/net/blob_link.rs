//! An endpoint's way to the storage nodes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_blob_api::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};
use granary_datapath::NodeDirectory;
use granary_types::{ChunkId, DiskId, NodeId, PgId};

use super::{Endpoint, Life, Message, NetError, SimNet};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The ways of one life to all storage nodes.
pub struct BlobLinks {
    net: SimNet,
    life: Life,
    nodes: Vec<NodeId>,
}

impl BlobLinks {
    /// Ways to `nodes`.
    pub fn new(net: SimNet, life: Life, nodes: Vec<NodeId>) -> Self {
        Self { net, life, nodes }
    }
}

impl NodeDirectory for BlobLinks {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        self.nodes.contains(&node).then(|| {
            Arc::new(BlobLink {
                net: self.net.clone(),
                life: self.life.clone(),
                to: Endpoint(node.0),
            }) as Arc<dyn BlobNode>
        })
    }
}

struct BlobLink {
    net: SimNet,
    life: Life,
    to: Endpoint,
}

impl BlobLink {
    async fn call<T, S, F>(
        &self,
        label: &'static str,
        detail: u64,
        serve: S,
    ) -> Result<T, BlobError>
    where
        S: Fn(Arc<dyn BlobNode>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        let message = Message {
            label,
            detail,
            timeout: TIMEOUT,
        };
        let serve = Arc::new(serve);
        let served = self
            .net
            .call(&self.life, self.to, message, move |services| {
                let serve = Arc::clone(&serve);
                async move {
                    match services.blob {
                        Some(blob) => serve(blob).await,
                        None => Err(BlobError::Unreachable("starting".to_owned())),
                    }
                }
            });
        match served.await {
            Ok(outcome) => outcome,
            Err(NetError::Refused) => Err(BlobError::Unreachable("refused".to_owned())),
            Err(NetError::NoAnswer) => Err(BlobError::Unreachable("no answer".to_owned())),
        }
    }
}

/// What tells chunks apart in the trace.
fn detail(id: ChunkId) -> u64 {
    (id.0 >> 64) as u64 ^ id.0 as u64
}

#[async_trait]
impl BlobNode for BlobLink {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        let id = detail(chunk.id);
        self.call("blob put", id, move |blob| {
            let chunk = chunk.clone();
            async move { blob.put(disk, chunk).await }
        })
        .await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        let serve = move |blob: Arc<dyn BlobNode>| async move { blob.get(disk, range).await };
        self.call("blob get", detail(range.id), serve).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        let serve = move |blob: Arc<dyn BlobNode>| async move { blob.copy(disk, copy).await };
        self.call("blob copy", detail(copy.target), serve).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let count = chunks.len() as u64;
        self.call("blob delete", count, move |blob| {
            let chunks = chunks.clone();
            async move { blob.delete(disk, pg, epoch, chunks).await }
        })
        .await
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let count = chunks.len() as u64;
        self.call("blob forget", count, move |blob| {
            let chunks = chunks.clone();
            async move { blob.forget(disk, pg, epoch, chunks).await }
        })
        .await
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        let count = chunks.len() as u64;
        self.call("blob evict", count, move |blob| {
            let chunks = chunks.clone();
            async move { blob.evict(disk, pg, epoch, chunks).await }
        })
        .await
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        let serve = move |blob: Arc<dyn BlobNode>| async move { blob.groups(disk).await };
        self.call("blob groups", disk.0, serve).await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        let serve =
            move |blob: Arc<dyn BlobNode>| async move { blob.list(disk, pg, after, limit).await };
        self.call("blob list", u64::from(pg.0), serve).await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        let serve = move |blob: Arc<dyn BlobNode>| async move {
            blob.verify(disk, pg, after, limit_bytes).await
        };
        self.call("blob verify", u64::from(pg.0), serve).await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        let serve =
            move |blob: Arc<dyn BlobNode>| async move { blob.open_pg(disk, pg, epoch).await };
        self.call("blob open-pg", u64::from(pg.0), serve).await
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        let serve = move |blob: Arc<dyn BlobNode>| async move { blob.disks().await };
        self.call("blob disks", 0, serve).await
    }
}
