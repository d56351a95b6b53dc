//! The storage-node trait.

use async_trait::async_trait;
use granary_types::{BucketId, ChunkId, DiskId, PgId};

use crate::{BlobError, ChunkPage, ChunkRead, CopyChunk, GetChunk, PutChunk, VerifyPage};

/// How a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskHealth {
    /// Reads and writes.
    Healthy,
    /// Above the watermark: reads and deletions only, until space comes back.
    Full,
    /// Out of service: the disk answers `DiskFailed` to everything, reads too, and acknowledges
    /// nothing more.
    ///
    /// What leads to it: a write, a sync, a truncation or a new file that fails with anything but a
    /// lack of room, of descriptors or of memory (EIO, EROFS, …; a failed sync is never tried
    /// again); an index that cannot be read or written; a directory that is gone or is another one
    /// (unmounted, removed, replaced), or whose room cannot be asked for; a file system that owes an
    /// answer for longer than the node waits (30 s unless set otherwise); and a read that fails when
    /// a write to the same disk fails too. What does not: damaged bytes, a read that fails on a disk that can still be written
    /// (that chunk is damaged), a full disk (that is `Full`).
    ///
    /// How it ends: not by itself, and not while the disk stays open, even if the cause passes.
    /// The disk has to be closed and opened again, which recovers it from what is on the medium
    /// (nothing acknowledged is lost if the medium kept it): by a restart of the node, or by
    /// whoever opened the disk, as a server does after a pause that grows with each attempt. A disk
    /// that was lost is replaced by a new one with another id. A
    /// disk that the node never managed to open is not among its disks.
    Failed,
    /// Being opened, which may take hours when its index has to be made anew: it answers
    /// `DiskFailed` to everything until then. Nothing else is known of it, its numbers are 0.
    Opening,
}

/// One disk of a node.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// Identity, from the directory itself.
    pub id: DiskId,
    /// How it does.
    pub health: DiskHealth,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
    /// Bytes free for new chunks.
    pub free_bytes: u64,
    /// Bytes of live chunks.
    pub live_bytes: u64,
    /// Bytes that compaction gives back once the disk is idle: then it goes to zero in a time that
    /// depends on what is to be moved. Not counted is what stays: tombstones that are not forgotten,
    /// dead bytes too few for what would have to be written again for them, and files that cannot
    /// be read well enough to be given up.
    pub reclaimable_bytes: u64,
    /// Live chunks.
    pub chunks: u64,
}

impl DiskStatus {
    /// Of a disk that is being opened.
    pub fn opening(id: DiskId) -> Self {
        Self {
            id,
            health: DiskHealth::Opening,
            total_bytes: 0,
            free_bytes: 0,
            live_bytes: 0,
            reclaimable_bytes: 0,
            chunks: 0,
        }
    }
}

/// One storage node. Every call names the disk; calls are idempotent and may be repeated.
#[async_trait]
pub trait BlobNode: Send + Sync + 'static {
    /// Stores a chunk; answers after it is durable on the disk.
    ///
    /// The disk verifies every block's checksum before it acknowledges.
    ///
    /// # Errors
    /// `Invalid` (checksum or length), `StaleEpoch`, `ChunkExists`, `ChunkDeleted`, `DiskFull`,
    /// `DiskFailed`, `Busy`, `Unreachable`.
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError>;

    /// Reads the blocks that cover a range of a chunk. Damaged bytes are never returned.
    ///
    /// # Errors
    /// `ChunkNotFound`, `ChunkDeleted`, `Corrupt`, `Invalid` (range), `DiskFailed`, `Busy`,
    /// `Unreachable`.
    async fn get(&self, disk: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError>;

    /// Copies a chunk under a new id on the same disk; answers after it is durable.
    ///
    /// # Errors
    /// As for [`BlobNode::get`] and [`BlobNode::put`].
    async fn copy(&self, disk: DiskId, copy: CopyChunk) -> Result<(), BlobError>;

    /// Deletes named chunks of a group, leaving tombstones; answers after that is durable. Unknown
    /// ids get a tombstone too, so that a late write or a repair cannot bring them back.
    ///
    /// # Errors
    /// `StaleEpoch` when the disk knows a newer epoch than `epoch` or the group was never opened on
    /// it: its members may be others than the caller believes. `Invalid` (a chunk of another group,
    /// or too many), `DiskFailed`, `Busy`, `Unreachable`.
    async fn delete(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError>;

    /// Drops tombstones that every member of the group has confirmed.
    ///
    /// # Errors
    /// As for [`BlobNode::delete`].
    async fn forget(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError>;

    /// Removes copies, and tombstones, from a disk that is no member of the group any more; leaves
    /// no tombstones, because the chunks live on elsewhere and the disk may become a member again.
    /// Answers after that is durable. Unknown ids are none to remove.
    ///
    /// # Errors
    /// `StaleEpoch` when the disk knows a newer epoch than `epoch`: it may be a member again. A
    /// group that was never opened on it has nothing there, which is no error. The others as for
    /// [`BlobNode::delete`].
    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError>;

    /// Every group that was ever opened on the disk and its epoch there, in the order of the
    /// groups: a disk holds chunks of no other ones.
    ///
    /// # Errors
    /// `DiskFailed`, `Busy`, `Unreachable`.
    async fn groups(&self, disk: DiskId) -> Result<Vec<(PgId, u64)>, BlobError>;

    /// Lists chunks and tombstones of a group in id order, after `after`, at most `limit`.
    ///
    /// # Errors
    /// `DiskFailed`, `Busy`, `Unreachable`.
    async fn list(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError>;

    /// Lists what a bucket owns of a group, in id order after `after`. A page ends after about `limit`
    /// chunks, whoever owns them were looked at, and may be empty before the last one.
    ///
    /// # Errors
    /// `DiskFailed`, `Busy`, `Unreachable`.
    async fn list_owned(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
        bucket: BucketId,
    ) -> Result<ChunkPage, BlobError> {
        let mut page = self.list(disk, pg, after, limit).await?;
        page.entries.retain(|entry| entry.owner.bucket == bucket);
        Ok(page)
    }

    /// Reads every copy of the group that the disk holds after `after`, in id order, and checks it:
    /// every block against its checksum, the record against the index. No object bytes travel. What
    /// is damaged is answered, and shown by [`BlobNode::list`], as after a failed read.
    ///
    /// A page ends after about `limit_bytes` of object data (at least one chunk, at most what the
    /// node takes at once), or earlier when it takes long; `next_after` says where to go on. The
    /// disk reads one chunk after the other, one page at a time, from the medium rather than from
    /// memory as well as the system lets it.
    ///
    /// # Errors
    /// `DiskFailed`, `Busy` (another page of this disk is under way, or its queue is full),
    /// `Unreachable`.
    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError>;

    /// Opens a group on a disk, or raises its epoch; answers after that is durable. Writes with an
    /// older epoch are refused from then on.
    ///
    /// # Errors
    /// `StaleEpoch` when the disk already knows a newer one, `DiskFailed`, `Unreachable`.
    async fn open_pg(&self, disk: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError>;

    /// The node's disks and how they do.
    ///
    /// # Errors
    /// `Unreachable`.
    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError>;
}
