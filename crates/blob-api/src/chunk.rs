//! What is said about chunks.

use bytes::Bytes;
use granary_types::limits::BLOCK_BYTES;
use granary_types::{BucketId, ChunkId, ObjectId, PgId};

/// Who owns a chunk: never a key, so that a rename moves no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkOwner {
    /// The bucket.
    pub bucket: BucketId,
    /// The object version, or the unfinished write.
    pub object: ObjectId,
}

/// Bytes and the checksum that travels with them from the gateway to the disk and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// CRC-32C of `data`.
    pub crc32c: u32,
    /// At most [`BLOCK_BYTES`]; every block of a chunk but its last is full.
    pub data: Bytes,
}

impl Block {
    /// A block with its checksum computed.
    pub fn new(data: Bytes) -> Self {
        Self {
            crc32c: crc32c::crc32c(&data),
            data,
        }
    }

    /// Whether the bytes are the ones that were checksummed.
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(&self.data) == self.crc32c
    }

    /// Cuts a chunk into blocks, computing their checksums; copies nothing.
    pub fn cut(mut chunk: Bytes) -> Vec<Block> {
        let mut blocks = Vec::with_capacity(chunk.len().div_ceil(BLOCK_BYTES));
        while chunk.len() > BLOCK_BYTES {
            blocks.push(Block::new(chunk.split_to(BLOCK_BYTES)));
        }
        if !chunk.is_empty() {
            blocks.push(Block::new(chunk));
        }
        blocks
    }
}

/// Stores a chunk on one disk. Repeating it is harmless; the same id with other bytes is refused.
#[derive(Clone, Debug)]
pub struct PutChunk {
    /// The chunk; its group must be open on the disk.
    pub id: ChunkId,
    /// Who owns it.
    pub owner: ChunkOwner,
    /// The group's epoch as the writer knows it; an older one than the disk's is refused.
    pub pg_epoch: u64,
    /// The bytes, 1 to [`granary_types::limits::CHUNK_BYTES_MAX`] together.
    pub blocks: Vec<Block>,
    /// True of a copy that restores redundancy: it waits for clients that use the disk.
    pub background: bool,
}

/// Reads bytes of a chunk from one disk.
#[derive(Clone, Copy, Debug)]
pub struct GetChunk {
    /// The chunk.
    pub id: ChunkId,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted, at least 1; must end inside the chunk.
    pub length: u32,
    /// True of a copy that restores redundancy: it waits for clients that use the disk.
    pub background: bool,
}

/// The answer to [`GetChunk`]: the whole blocks that cover the wanted bytes, verified by the disk.
#[derive(Clone, Debug)]
pub struct ChunkRead {
    /// Offset in the chunk of the first block's first byte, a multiple of [`BLOCK_BYTES`].
    pub offset: u32,
    /// The blocks.
    pub blocks: Vec<Block>,
}

/// Copies a chunk on one disk under a new id and owner, without moving bytes over the network.
#[derive(Clone, Copy, Debug)]
pub struct CopyChunk {
    /// The chunk to read.
    pub source: ChunkId,
    /// The chunk to write, in the same group.
    pub target: ChunkId,
    /// Who owns the target.
    pub owner: ChunkOwner,
    /// The group's epoch as the writer knows it.
    pub pg_epoch: u64,
}

/// A chunk as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Who owns it.
    pub owner: ChunkOwner,
    /// Bytes of object data.
    pub length: u32,
    /// CRC-32C of the block checksums in order (little endian): equal chunks have equal digests.
    pub digest: u32,
    /// True for a tombstone: the chunk was deleted by command and must not come back.
    pub deleted: bool,
    /// True when the disk has found that the bytes it holds are not the ones that were stored, and
    /// they were not replaced since. False says nothing: the disk may not have looked.
    pub damaged: bool,
}

/// One page of a listing in id order.
#[derive(Clone, Debug, Default)]
pub struct ChunkPage {
    /// The entries.
    pub entries: Vec<ChunkEntry>,
    /// Where the next page starts (exclusive); `None` when this was the last.
    pub next_after: Option<ChunkId>,
}

/// What a disk found when it read its own copies of some chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyPage {
    /// Live chunks that were read, the damaged ones among them.
    pub checked_chunks: u64,
    /// Bytes of object data of those.
    pub checked_bytes: u64,
    /// The damaged ones, in id order. Listings show them as damaged until they are whole again.
    pub damaged: Vec<ChunkId>,
    /// Where the next page starts (exclusive); `None` when the end of the group was reached.
    pub next_after: Option<ChunkId>,
}

impl ChunkEntry {
    /// The group that holds the chunk.
    pub fn pg(&self) -> PgId {
        self.id.pg()
    }
}
