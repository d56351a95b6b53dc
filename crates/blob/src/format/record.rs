//! Records of a volume: a header of 128 bytes, a body, zeros up to the next page.
//!
//! The body of a chunk is its blocks, each behind its checksum, so that any range of blocks is one
//! read without the header. A stored block checksum is bound to the chunk and to the block's place
//! in it: a read that lands on other bytes finds them damaged, never believes them.

use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use granary_types::{BucketId, ChunkId, ObjectId, PgId};

use granary_blob_api::ChunkOwner;

use super::{Fields, pages, set};

/// First bytes of every record.
pub(crate) const MAGIC: &[u8; 4] = b"GRrc";
const VERSION: u8 = 1;
/// CRC-32C per 64 KiB block, bound to chunk and place.
const CHECKSUM_CRC32C: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of the checksum before a block.
pub(crate) const BLOCK_SUM_BYTES: usize = 4;
/// Bytes of one tombstone or epoch in a record.
pub(crate) const NOTE_BYTES: usize = 64;
pub(crate) const TOMBSTONES_PER_RECORD: usize = 1024;

const FORGOTTEN: u32 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes of a chunk.
    Chunk = 1,
    /// Names of chunks that were deleted.
    Tombstones = 2,
    /// Epochs of placement groups.
    PgEpochs = 3,
    /// Nothing: bytes that recovery found torn.
    Void = 4,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// The volume's.
    pub(crate) seal: u64,
    /// Header and body, without padding.
    pub(crate) length: u64,
    /// Order of changes on the disk; a record that compaction moves keeps it.
    pub(crate) seq: u64,
    /// Of a chunk, else zero.
    pub(crate) id: ChunkId,
    /// Of a chunk, else zero.
    pub(crate) owner: ChunkOwner,
    /// Object bytes of a chunk; bytes of the body of other kinds.
    pub(crate) payload: u32,
    /// Digest of a chunk (see `ChunkEntry`); CRC-32C of the body of other kinds.
    pub(crate) digest: u32,
}

/// Owner of what has none.
pub(crate) const NO_OWNER: ChunkOwner = ChunkOwner {
    bucket: BucketId(0),
    object: ObjectId(0),
};

impl Header {
    /// The header of a record that is no chunk.
    pub(crate) fn of_body(kind: Kind, seal: u64, seq: u64, body: &[u8]) -> Self {
        Self {
            kind,
            seal,
            length: (HEADER_BYTES + body.len()) as u64,
            seq,
            id: ChunkId(0),
            owner: NO_OWNER,
            payload: body.len() as u32,
            digest: crc32c::crc32c(body),
        }
    }

    /// The header that makes `length` bytes of a volume say nothing.
    pub(crate) fn void(seal: u64, length: u64) -> Self {
        Self {
            kind: Kind::Void,
            seal,
            length,
            seq: 0,
            id: ChunkId(0),
            owner: NO_OWNER,
            payload: 0,
            digest: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        set(&mut bytes, 0, MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6] = CHECKSUM_CRC32C;
        set(&mut bytes, 8, &self.seal.to_le_bytes());
        set(&mut bytes, 16, &self.length.to_le_bytes());
        set(&mut bytes, 24, &self.seq.to_le_bytes());
        set(&mut bytes, 32, &self.id.to_bytes());
        set(&mut bytes, 48, &self.owner.bucket.0.to_le_bytes());
        set(&mut bytes, 56, &self.owner.object.to_bytes());
        set(&mut bytes, 72, &self.payload.to_le_bytes());
        set(&mut bytes, 76, &self.digest.to_le_bytes());
        // 80: transform id (u32), 84: code, k, m, index (u8 each), 88: stripe (16 bytes): whole
        // copies as written have zeros there.
        let sum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        set(&mut bytes, HEADER_BYTES - 4, &sum.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, when it is one of the volume with this seal.
    pub(crate) fn decode(bytes: &[u8], seal: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != MAGIC[..] || bytes[4] != VERSION || bytes.u64_at(8) != seal {
            return None;
        }
        if crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != bytes.u32_at(HEADER_BYTES - 4) {
            return None;
        }
        let kind = match bytes[5] {
            1 => Kind::Chunk,
            2 => Kind::Tombstones,
            3 => Kind::PgEpochs,
            4 => Kind::Void,
            _ => return None,
        };
        let header = Self {
            kind,
            seal,
            length: bytes.u64_at(16),
            seq: bytes.u64_at(24),
            id: ChunkId(u128::from_be_bytes(bytes.array(32))),
            owner: ChunkOwner {
                bucket: BucketId(bytes.u64_at(48)),
                object: ObjectId(u128::from_be_bytes(bytes.array(56))),
            },
            payload: bytes.u32_at(72),
            digest: bytes.u32_at(76),
        };
        header.is_consistent().then_some(header)
    }

    fn is_consistent(&self) -> bool {
        match self.kind {
            Kind::Chunk => {
                (1..=CHUNK_BYTES_MAX).contains(&(self.payload as usize))
                    && self.length == chunk_record_bytes(self.payload)
            }
            Kind::Tombstones | Kind::PgEpochs => {
                self.length == HEADER_BYTES as u64 + u64::from(self.payload)
                    && self.payload as usize <= TOMBSTONES_PER_RECORD * NOTE_BYTES
            }
            Kind::Void => self.length >= HEADER_BYTES as u64,
        }
    }

    /// Bytes of the volume that the record takes.
    pub(crate) fn span(&self) -> u64 {
        pages(self.length)
    }

    /// Whether the body after a readable header is whole.
    pub(crate) fn body_is_intact(&self, body: &[u8]) -> bool {
        match self.kind {
            Kind::Void => true,
            Kind::Tombstones | Kind::PgEpochs => {
                body.len() == self.payload as usize && crc32c::crc32c(body) == self.digest
            }
            Kind::Chunk => {
                let mut left = self.payload as usize;
                let mut digest = 0;
                let mut rest = body;
                let mut index = 0;
                while left > 0 {
                    let length = left.min(BLOCK_BYTES);
                    if rest.len() < BLOCK_SUM_BYTES + length {
                        return false;
                    }
                    let (block, after) = rest.split_at(BLOCK_SUM_BYTES + length);
                    let sum = crc32c::crc32c(&block[BLOCK_SUM_BYTES..]);
                    if block[..BLOCK_SUM_BYTES] != block_sum(self.id, index, sum) {
                        return false;
                    }
                    digest = crc32c::crc32c_append(digest, &sum.to_le_bytes());
                    (left, rest, index) = (left - length, after, index + 1);
                }
                digest == self.digest
            }
        }
    }
}

/// Bytes of the record of a chunk with this many object bytes.
pub(crate) fn chunk_record_bytes(payload: u32) -> u64 {
    let blocks = u64::from(payload).div_ceil(BLOCK_BYTES as u64);
    HEADER_BYTES as u64 + u64::from(payload) + blocks * BLOCK_SUM_BYTES as u64
}

/// The stored form of a block's checksum; the same call turns it back.
pub(crate) fn block_sum(id: ChunkId, index: u32, crc32c: u32) -> [u8; BLOCK_SUM_BYTES] {
    let place = crc32c::crc32c(&id.to_bytes());
    let place = crc32c::crc32c_append(place, &index.to_le_bytes());
    (crc32c ^ place).to_le_bytes()
}

/// Where block `index` of a chunk begins in its record, checksum first.
pub(crate) fn block_span(index: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(index) * (BLOCK_BYTES + BLOCK_SUM_BYTES) as u64
}

/// The blocks that cover a range of a chunk (first, one past the last), and where in the record
/// they begin and end.
pub(crate) fn range_span(payload: u32, offset: u32, length: u32) -> (u32, u32, u64, u64) {
    let first = offset / BLOCK_BYTES as u32;
    let past = (offset + length).div_ceil(BLOCK_BYTES as u32);
    let end = block_span(past).min(chunk_record_bytes(payload));
    (first, past, block_span(first), end)
}

/// One deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) id: ChunkId,
    /// What the deleted chunk was; zeros when the disk never had it.
    pub(crate) owner: ChunkOwner,
    pub(crate) length: u32,
    pub(crate) digest: u32,
    /// Order of the deletion.
    pub(crate) seq: u64,
    /// The volume it was first written to: no later one holds the dead chunk.
    pub(crate) origin: u32,
    /// Confirmed by every member of the group; kept only against older records of the chunk.
    pub(crate) forgotten: bool,
}

pub(crate) fn encode_tombstones(tombstones: &[Tombstone]) -> Vec<u8> {
    let mut body = vec![0; tombstones.len() * NOTE_BYTES];
    for (entry, tombstone) in body.chunks_exact_mut(NOTE_BYTES).zip(tombstones) {
        set(entry, 0, &tombstone.id.to_bytes());
        set(entry, 16, &tombstone.owner.bucket.0.to_le_bytes());
        set(entry, 24, &tombstone.owner.object.to_bytes());
        set(entry, 40, &tombstone.length.to_le_bytes());
        set(entry, 44, &tombstone.digest.to_le_bytes());
        set(entry, 48, &tombstone.seq.to_le_bytes());
        set(entry, 56, &tombstone.origin.to_le_bytes());
        let flags = if tombstone.forgotten { FORGOTTEN } else { 0 };
        set(entry, 60, &flags.to_le_bytes());
    }
    body
}

pub(crate) fn decode_tombstones(body: &[u8]) -> Vec<Tombstone> {
    let decode = |entry: &[u8]| Tombstone {
        id: ChunkId(u128::from_be_bytes(entry.array(0))),
        owner: ChunkOwner {
            bucket: BucketId(entry.u64_at(16)),
            object: ObjectId(u128::from_be_bytes(entry.array(24))),
        },
        length: entry.u32_at(40),
        digest: entry.u32_at(44),
        seq: entry.u64_at(48),
        origin: entry.u32_at(56),
        forgotten: entry.u32_at(60) & FORGOTTEN != 0,
    };
    body.chunks_exact(NOTE_BYTES).map(decode).collect()
}

/// One group's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PgEpoch {
    pub(crate) pg: PgId,
    pub(crate) epoch: u64,
}

pub(crate) fn encode_epochs(epochs: &[PgEpoch]) -> Vec<u8> {
    let mut body = vec![0; epochs.len() * NOTE_BYTES];
    for (entry, epoch) in body.chunks_exact_mut(NOTE_BYTES).zip(epochs) {
        set(entry, 0, &epoch.pg.0.to_le_bytes());
        set(entry, 8, &epoch.epoch.to_le_bytes());
    }
    body
}

pub(crate) fn decode_epochs(body: &[u8]) -> Vec<PgEpoch> {
    let decode = |entry: &[u8]| PgEpoch {
        pg: PgId(entry.u32_at(0)),
        epoch: entry.u64_at(8),
    };
    body.chunks_exact(NOTE_BYTES).map(decode).collect()
}
