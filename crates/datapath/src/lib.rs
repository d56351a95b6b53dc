//! Object bytes between a request and N storage nodes: chunking, quorum writes, hedged reads,
//! copies, digests, and the memory they may take.
//!
//! It must not know HTTP, permissions or keys' meaning. It writes bytes and hands out a payload;
//! whether they become an object is decided by the commit that carries the payload. It never
//! deletes: what a refused or broken write leaves behind is found by the sweep.

mod budget;
mod chunk_reader;
mod chunk_writer;
mod cluster;
mod config;
mod copy;
mod digest;
mod error;
mod extents;
mod fold;
mod hints;
mod latency;
mod map;
mod metrics;
mod pace;
mod part;
mod pin;
mod read;
mod repair_pace;
mod restore;
mod session;
mod suspects;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::{ByteRange, ChunkId, DiskId, Redundancy, StorageClass};
use prometheus_client::registry::Registry;

use latency::{HedgeBudget, ReadLatency};
use metrics::Metrics;
use repair_pace::RepairPace;

pub use budget::{BufferBudget, Share};
pub use cluster::{ClusterView, MAP_AGE_MAX, NodeDirectory};
pub use config::{DataPathConfig, InvalidConfig};
pub use digest::RunningMd5;
pub use error::{BodyError, ReadError, WriteError};
pub use fold::Folded;
pub use hints::{RepairHint, RepairHints};
pub use map::{ClusterMap, Group, GroupMember};
pub use read::ReadStream;
pub use restore::{CopyCheck, RestoreError};

/// Where bytes are going to belong.
#[derive(Clone, Debug)]
pub struct WriteTarget {
    /// Bucket, key and the bucket generation the caller saw.
    pub at: pb::Position,
    /// The bucket's redundancy: which pool takes the bytes.
    pub redundancy: Redundancy,
    /// The object's storage class.
    pub storage_class: StorageClass,
    /// A digest that goes on over the bytes, see [`Written::continued`].
    pub continues: Option<RunningMd5>,
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Length the client declared; a body of another length is refused.
    pub declared_length: Option<u64>,
    /// Bytes the body may have at most.
    pub max_bytes: u64,
}

/// Bytes that are durable but belong to nothing until a command with their payload is applied.
#[derive(Clone, Debug)]
pub struct Written {
    /// Goes into `PutObject` or `PutPart`.
    pub payload: pb::Payload,
    /// Bytes.
    pub size: u64,
    /// MD5 of the bytes.
    pub md5: [u8; 16],
    /// CRC-64/XZ of the bytes.
    pub crc64: u64,
    /// [`WriteTarget::continues`], with the bytes added.
    pub continued: Option<RunningMd5>,
}

/// A version to read from, as `GetVersion { with_body: true }` answered it.
#[derive(Clone, Debug)]
pub struct ReadSource {
    /// Bucket, key and generation it was found at.
    pub at: pb::Position,
    /// The version, with its body.
    pub version: pb::state::Version,
    /// The bytes of an inline body; empty otherwise.
    pub inline: Bytes,
}

/// Which digests a copy must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDigests {
    /// A whole object is copied and keeps its ETag and CRC-64: the bytes may go from disk to disk.
    Keep,
    /// MD5 and CRC-64 of the copied range are needed: the bytes are streamed and hashed.
    Compute,
}

/// Copied bytes, durable but belonging to nothing yet.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Goes into `PutObject` or `PutPart`.
    pub payload: pb::Payload,
    /// Bytes.
    pub size: u64,
    /// MD5 and CRC-64/XZ of the bytes; always there with [`CopyDigests::Compute`], otherwise
    /// `None` may mean that those of the source hold.
    pub digests: Option<([u8; 16], u64)>,
    /// [`WriteTarget::continues`], with the bytes added; where digests are computed.
    pub continued: Option<RunningMd5>,
}

/// The way of object bytes. Cheap to clone; clones share buffers, map and health.
#[derive(Clone)]
pub struct DataPath {
    shared: Arc<Shared>,
}

/// What the parts of one data path share.
struct Shared {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    config: DataPathConfig,
    write_budget: BufferBudget,
    read_budget: BufferBudget,
    latency: ReadLatency,
    hedges: HedgeBudget,
    hints: RepairHints,
    repair_pace: RepairPace,
    metrics: Metrics,
}

impl Shared {
    /// Pools that take bytes of a redundancy, best first.
    fn pools(&self, redundancy: Redundancy) -> Vec<u32> {
        let map = self.view.map();
        let pools = map.pools_for(redundancy, &self.config.zone);
        pools.iter().map(|pool| pool.id).collect()
    }

    /// Copies that bytes of a redundancy should have; 0 when no pool serves it.
    fn copies(&self, redundancy: Redundancy) -> usize {
        let map = self.view.map();
        let pools = map.pools_for(redundancy, &self.config.zone);
        pools.first().map_or(0, |pool| pool.copies as usize)
    }
}

impl DataPath {
    /// A data path that finds disks and places chunks by `view`.
    pub fn new(runtime: Runtime, meta: Meta, view: ClusterView, config: DataPathConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                meta,
                view,
                write_budget: BufferBudget::new(config.write_buffer_bytes),
                read_budget: BufferBudget::new(config.read_buffer_bytes),
                repair_pace: RepairPace::beside_writes(config.write_buffer_bytes),
                config,
                latency: ReadLatency::default(),
                hedges: HedgeBudget::default(),
                hints: RepairHints::default(),
                metrics: Metrics::default(),
            }),
        }
    }

    /// The view of the cluster it works with.
    pub fn view(&self) -> &ClusterView {
        &self.shared.view
    }

    /// Adds its metrics to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let shared = &self.shared;
        shared
            .metrics
            .register(registry, &shared.write_budget, &shared.read_budget);
    }

    /// Copies that reads found damaged or missing.
    pub fn repair_hints(&self) -> RepairHints {
        self.shared.hints.clone()
    }

    /// Copies that bytes of a redundancy get in this cluster; `None` when no pool serves it.
    pub fn copies(&self, redundancy: Redundancy) -> Option<u32> {
        let copies = self.shared.copies(redundancy);
        u32::try_from(copies).ok().filter(|&copies| copies > 0)
    }

    /// Whether the nodes there are can keep what a redundancy promises: LRS three nodes of one zone,
    /// ZRS three zones. A store of one node promises nothing but what its disks allow.
    pub fn honours(&self, redundancy: Redundancy) -> bool {
        match redundancy {
            Redundancy::Zrs => self.copies(redundancy).is_some(),
            Redundancy::Lrs => self.shared.view.map().honours_lrs(),
        }
    }

    /// Streams a body to disks (or into the payload, when it is small) and hashes it.
    ///
    /// A write that is dropped or fails leaves at most unreferenced chunks, which the sweep finds.
    ///
    /// # Errors
    /// See [`WriteError`]; after any of them there is no payload, so nothing can be committed.
    pub async fn write<S>(
        &self,
        target: WriteTarget,
        body: S,
        limits: BodyLimits,
    ) -> Result<Written, WriteError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Send + Unpin,
    {
        write::write(&self.shared, target, body, limits).await
    }

    /// Streams a range of an object, in order. `range` must lie inside the version's size.
    ///
    /// The stream ends after the last byte or with one error. Reading is driven by the consumer.
    pub fn read(&self, source: ReadSource, range: ByteRange) -> ReadStream {
        ReadStream::new(Arc::clone(&self.shared), source, range)
    }

    /// Copies a range of an object under a write of its own: from disk to disk where pool and
    /// range allow and [`CopyDigests::Keep`] is enough, streamed in bounded memory otherwise.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn copy(
        &self,
        source: ReadSource,
        range: ByteRange,
        target: WriteTarget,
        digests: CopyDigests,
    ) -> Result<Copied, WriteError> {
        copy::copy(&self.shared, source, range, target, digests).await
    }

    /// Whether a payload can be appended to an appendable version as it is. If not, a fold makes room.
    pub fn takes(version: &pb::state::Version, payload: &pb::Payload) -> bool {
        fold::takes(version, payload)
    }

    /// Writes what an appendable version has in small pieces once more as one; `None` when it has
    /// none. It is the `FoldTail` that makes it part of the object.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn fold(
        &self,
        source: ReadSource,
        target: WriteTarget,
    ) -> Result<Option<Folded>, WriteError> {
        fold::fold(&self.shared, source, target).await
    }

    /// Stores bytes, at most a chunk of them, for an owner that is no object; the chunk that holds
    /// them, then those that attempts in vain may have left. They are the owner's to delete.
    ///
    /// # Errors
    /// See [`WriteError`]; chunks of that owner may be there all the same.
    pub async fn store_part(
        &self,
        redundancy: Redundancy,
        owner: ChunkOwner,
        bytes: Bytes,
    ) -> Result<Vec<ChunkId>, WriteError> {
        part::store_part(&self.shared, redundancy, owner, bytes).await
    }

    /// Copies one chunk from the first of `sources` that holds it intact to `target`.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn restore_chunk(
        &self,
        entry: &ChunkEntry,
        sources: &[DiskId],
        target: DiskId,
        pg_epoch: u64,
    ) -> Result<(), RestoreError> {
        restore::restore_chunk(&self.shared, entry, sources, target, pg_epoch).await
    }

    /// The safest redundancy that bytes can get now, for those that nobody has asked one for.
    pub fn safest(&self) -> Redundancy {
        match self.copies(Redundancy::Zrs) {
            Some(_) => Redundancy::Zrs,
            None => Redundancy::Lrs,
        }
    }

    /// Stores a chunk of the metadata's backup once more, under the same owner, as
    /// [`DataPath::store_part`] does; from the first of `sources` that holds it intact. Returns what
    /// attempts in vain may have left: that, and the old chunk, is the caller's to delete.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn store_part_again(
        &self,
        entry: &ChunkEntry,
        sources: &[DiskId],
        redundancy: Redundancy,
    ) -> Result<Vec<ChunkId>, RestoreError> {
        restore::store_again(&self.shared, entry, sources, redundancy).await
    }

    /// Whether a disk holds a chunk as it is listed, every byte of it.
    pub async fn verify_copy(&self, entry: &ChunkEntry, disk: DiskId) -> CopyCheck {
        restore::verify_copy(&self.shared, entry, disk).await
    }
}
