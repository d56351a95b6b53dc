//! What the one writer of a disk is asked to do, and what it has done that is not indexed yet.

use std::collections::HashMap;

use bytes::Bytes;
use granary_blob_api::{BlobError, Block, ChunkOwner, PutChunk};
use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use granary_types::{ChunkId, PgId};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::format::{Header, PgEpoch, Tombstone};
use crate::index::Place;

/// A verified chunk to store.
#[derive(Debug)]
pub(crate) struct NewChunk {
    pub(crate) id: ChunkId,
    pub(crate) owner: ChunkOwner,
    pub(crate) pg_epoch: u64,
    pub(crate) length: u32,
    pub(crate) digest: u32,
    pub(crate) blocks: Vec<Block>,
    /// Where the disk holds the chunk already with damaged bytes: this record takes its place.
    pub(crate) replaces: Option<Place>,
}

impl NewChunk {
    /// Checks what a writer sent; only then it is worth a place in the queue.
    pub(crate) fn check(chunk: PutChunk) -> Result<Self, BlobError> {
        let invalid = |why: &str| Err(BlobError::Invalid(why.to_owned()));
        let Some((last, full)) = chunk.blocks.split_last() else {
            return invalid("a chunk has at least one block");
        };
        if full.iter().any(|block| block.data.len() != BLOCK_BYTES) {
            return invalid("every block but the last is full");
        }
        if last.data.is_empty() || last.data.len() > BLOCK_BYTES {
            return invalid("the last block has 1 to 65536 bytes");
        }
        let length = full.len() * BLOCK_BYTES + last.data.len();
        if length > CHUNK_BYTES_MAX {
            return invalid("a chunk has at most 4 MiB");
        }
        if !chunk.blocks.iter().all(Block::is_intact) {
            return invalid("a block does not match its checksum");
        }
        let digest = chunk.blocks.iter().fold(0, |digest, block| {
            crc32c::crc32c_append(digest, &block.crc32c.to_le_bytes())
        });
        Ok(Self {
            id: chunk.id,
            owner: chunk.owner,
            pg_epoch: chunk.pg_epoch,
            length: length as u32,
            digest,
            blocks: chunk.blocks,
            replaces: None,
        })
    }
}

/// A record that compaction takes along.
#[derive(Debug)]
pub(crate) struct MovedChunk {
    pub(crate) from: Place,
    pub(crate) header: Header,
    /// As it is on disk, damaged or not.
    pub(crate) body: Bytes,
}

#[derive(Debug)]
pub(crate) enum Work {
    Put(NewChunk),
    /// Chunks of one group, by whoever knows it at this epoch.
    Delete(PgEpoch, Vec<ChunkId>),
    Forget(PgEpoch, Vec<ChunkId>),
    Evict(PgEpoch, Vec<ChunkId>),
    OpenPg(PgEpoch),
    /// The rest is compaction's.
    Move(MovedChunk),
    MoveTombstones(u32, Vec<Tombstone>),
    MoveEpochs(u32, Vec<PgEpoch>),
    /// Ends the active volume if it is this one, so that it can be compacted.
    Seal(u32),
}

impl Work {
    /// Whether it changes where things are, and nothing else.
    pub(crate) fn is_compaction(&self) -> bool {
        match self {
            Work::Put(_)
            | Work::Delete(..)
            | Work::Forget(..)
            | Work::Evict(..)
            | Work::OpenPg(_) => false,
            Work::Move(_) | Work::MoveTombstones(..) | Work::MoveEpochs(..) | Work::Seal(_) => true,
        }
    }

    /// Whether a disk above its watermark refuses it.
    pub(crate) fn needs_room(&self) -> bool {
        matches!(self, Work::Put(_))
    }
}

pub(crate) type Answer = oneshot::Sender<Result<(), BlobError>>;

/// Work in the queue. It holds its share of the queue until it is answered.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) answer: Answer,
    pub(crate) room: OwnedSemaphorePermit,
}

/// A change of the index, in the order of the records.
#[derive(Debug)]
pub(crate) enum Change {
    Used(u32, u64),
    Chunk(Place, Header),
    Tombstone(Place, Tombstone),
    /// The tombstone with this order number is not needed outside any more.
    Forget(ChunkId, u64),
    Epoch(u32, PgEpoch),
}

/// Records that were written together. They become durable, indexed and answered together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: u64,
    pub(crate) changes: Vec<Change>,
    /// What the index reflects once the changes are in it.
    pub(crate) place: Place,
    pub(crate) next_seq: u64,
    pub(crate) answers: Vec<(Answer, OwnedSemaphorePermit)>,
}

/// A chunk as the records written so far, indexed or not, leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Current {
    Absent,
    Live {
        place: Place,
        length: u32,
        digest: u32,
        owner: ChunkOwner,
    },
    Deleted {
        volume: u32,
        seq: u64,
    },
}

#[derive(Debug, Default)]
struct PendingState {
    chunks: HashMap<ChunkId, (u64, Current)>,
    epochs: HashMap<PgId, (u64, u64)>,
}

/// What is written but not indexed yet; bounded by the queue.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<PendingState>);

impl Pending {
    pub(crate) fn chunk(&self, id: ChunkId) -> Option<Current> {
        self.0.lock().chunks.get(&id).map(|(_, current)| *current)
    }

    pub(crate) fn epoch(&self, pg: PgId) -> Option<u64> {
        self.0.lock().epochs.get(&pg).map(|(_, epoch)| *epoch)
    }

    pub(crate) fn set_chunk(&self, batch: u64, id: ChunkId, current: Current) {
        self.0.lock().chunks.insert(id, (batch, current));
    }

    pub(crate) fn set_epoch(&self, batch: u64, epoch: PgEpoch) {
        self.0.lock().epochs.insert(epoch.pg, (batch, epoch.epoch));
    }

    /// A batch is indexed, or was never written: the index says the truth about it.
    pub(crate) fn settle(&self, number: u64) {
        let mut state = self.0.lock();
        state.chunks.retain(|_, (batch, _)| *batch != number);
        state.epochs.retain(|_, (batch, _)| *batch != number);
    }
}
