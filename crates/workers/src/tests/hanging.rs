//! A storage node that says how its disks do and then answers nothing else.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use granary_blob::BlobStore;
use granary_blob_api::{
    BlobError, BlobNode, ChunkPage, ChunkRead, CopyChunk, DiskStatus, GetChunk, PutChunk,
    VerifyPage,
};
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

/// Disks that hang now. Clones share them.
pub(super) type HungDisks = Arc<Mutex<BTreeSet<DiskId>>>;

/// A node some of whose disks may hang.
pub(super) struct Hanging {
    pub(super) store: BlobStore,
    pub(super) hung: HungDisks,
    /// Disks that know no epoch, until they are told one.
    pub(super) forgetful: HungDisks,
}

impl Hanging {
    async fn unless_hung(&self, disk: DiskId) {
        if self.hung.lock().contains(&disk) {
            pending::<()>().await;
        }
    }
}

#[async_trait]
impl BlobNode for Hanging {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.store.put(disk, chunk).await
    }

    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.unless_hung(disk).await;
        self.store.get(disk, range).await
    }

    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.store.copy(disk, copy).await
    }

    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.store.delete(disk, pg, epoch, chunks).await
    }

    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.store.forget(disk, pg, epoch, chunks).await
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.store.evict(disk, pg, epoch, chunks).await
    }

    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        self.unless_hung(disk).await;
        if self.forgetful.lock().contains(&disk) {
            return Ok(Vec::new());
        }
        self.store.groups(disk).await
    }

    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        self.unless_hung(disk).await;
        self.store.list(disk, pg, after, limit).await
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        self.unless_hung(disk).await;
        self.store.verify(disk, pg, after, limit_bytes).await
    }

    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        self.unless_hung(disk).await;
        self.forgetful.lock().remove(&disk);
        self.store.open_pg(disk, pg, epoch).await
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        self.store.disks().await
    }
}
