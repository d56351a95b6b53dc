//! An unfinished write: its id, its lease, and the references to chunks it has so far.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_blob_api::ChunkOwner;
use granary_meta_api::pb;
use granary_types::{BucketId, ChunkId, ObjectId};
use parking_lot::Mutex;

use crate::Shared;
use crate::config::EXTENTS_HELD_MAX;
use crate::error::WriteError;

/// Who owns the chunks of a write, and what its failed attempts left behind. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct WriteOwner {
    chunks: ChunkOwner,
    abandoned: Arc<Mutex<Vec<ChunkId>>>,
}

impl WriteOwner {
    /// An owner that is no write of an object.
    pub(crate) fn of(chunks: ChunkOwner) -> Self {
        Self {
            chunks,
            abandoned: Arc::default(),
        }
    }

    /// What failed attempts left behind, once.
    pub(crate) fn abandoned(&self) -> Vec<ChunkId> {
        std::mem::take(&mut *self.abandoned.lock())
    }

    /// The owner that stands with each chunk.
    pub(crate) fn of_chunks(&self) -> ChunkOwner {
        self.chunks
    }

    /// Notes a chunk that may be on some disks and that the write will not refer to. Its owner
    /// lives as long as the object does, so only a command can have it deleted.
    pub(crate) fn abandon(&self, chunk: ChunkId) {
        self.abandoned.lock().push(chunk);
    }

    fn take_abandoned(&self) -> Vec<Bytes> {
        let bytes = |chunk: ChunkId| Bytes::copy_from_slice(&chunk.to_bytes());
        self.abandoned().into_iter().map(bytes).collect()
    }
}

/// One write id and what was written under it. References beyond a bound are staged in the shard,
/// which also renews the lease.
pub(crate) struct WriteSession {
    shared: Arc<Shared>,
    at: pb::Position,
    write_id: Bytes,
    owner: WriteOwner,
    lease: Duration,
    /// Monotonic time after which the lease should be renewed.
    renew_at: Duration,
    staged: u64,
    held: Vec<pb::state::Extent>,
}

impl WriteSession {
    /// Takes a write id from the shard of `at`.
    pub(crate) async fn begin(shared: &Arc<Shared>, at: &pb::Position) -> Result<Self, WriteError> {
        let asked_at = shared.runtime.monotonic();
        let (write_id, lease) = shared.meta.begin_write(at.clone()).await?;
        let Some(object) = ObjectId::from_slice(&write_id) else {
            let what = "write id has another length".to_owned();
            return Err(granary_meta_api::MetaError::Internal(what).into());
        };
        Ok(Self {
            shared: Arc::clone(shared),
            owner: WriteOwner {
                chunks: ChunkOwner {
                    bucket: BucketId(at.bucket_id),
                    object,
                },
                abandoned: Arc::default(),
            },
            at: at.clone(),
            write_id,
            lease,
            renew_at: asked_at + lease / 2,
            staged: 0,
            held: Vec::new(),
        })
    }

    /// Who owns the chunks of this write.
    pub(crate) fn owner(&self) -> WriteOwner {
        self.owner.clone()
    }

    /// Adds the next reference.
    pub(crate) async fn push(&mut self, extent: pb::state::Extent) -> Result<(), WriteError> {
        self.held.push(extent);
        let abandoned = self.owner.abandoned.lock().len();
        if self.held.len() >= EXTENTS_HELD_MAX || abandoned >= EXTENTS_HELD_MAX {
            self.stage().await?;
        }
        Ok(())
    }

    /// Renews the lease once half of it has passed. Call it while bytes arrive.
    pub(crate) async fn renew_if_due(&mut self) -> Result<(), WriteError> {
        if self.shared.runtime.monotonic() >= self.renew_at {
            self.stage().await?;
        }
        Ok(())
    }

    async fn stage(&mut self) -> Result<(), WriteError> {
        let asked_at = self.shared.runtime.monotonic();
        let extents = std::mem::take(&mut self.held);
        let count = extents.len() as u64;
        let command = pb::StageExtents {
            at: Some(self.at.clone()),
            write_id: self.write_id.clone(),
            first: self.staged,
            extents,
            abandoned: self.owner.take_abandoned(),
        };
        let decision = self.shared.meta.propose(command).await?;
        decision.map_err(WriteError::Refused)?;
        self.staged += count;
        self.renew_at = asked_at + self.lease / 2;
        Ok(())
    }

    /// The payload that commits what was written.
    pub(crate) fn into_payload(self, size: u64) -> pb::Payload {
        pb::Payload {
            abandoned: self.owner.take_abandoned(),
            write_id: self.write_id,
            inline: Bytes::new(),
            extents: self.held,
            staged_extents: self.staged,
            size,
        }
    }
}
