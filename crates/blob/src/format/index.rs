//! Keys and values of the chunk index. Keys are big endian, so that chunks sort by group and id.

use granary_blob_api::ChunkOwner;
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};

use super::{Fields, set};

const VERSION: u16 = 1;
/// Prefix of chunk entries.
pub(crate) const INDEX_CHUNKS: u8 = b'c';
/// Prefix of group epochs.
pub(crate) const INDEX_EPOCHS: u8 = b'p';
/// Prefix of volume accounts.
pub(crate) const INDEX_VOLUMES: u8 = b'v';
/// Key of the index's own state.
pub(crate) const INDEX_META: &[u8] = b"m";

const ENTRY_BYTES: usize = 60;
const STATS_BYTES: usize = 48;
const META_BYTES: usize = 40;
const EPOCH_BYTES: usize = 16;

pub(crate) fn chunk_key(id: ChunkId) -> Vec<u8> {
    let mut key = vec![INDEX_CHUNKS];
    key.extend_from_slice(&id.to_bytes());
    key
}

pub(crate) fn id_of_key(key: &[u8]) -> Option<ChunkId> {
    key.strip_prefix(&[INDEX_CHUNKS])
        .and_then(ChunkId::from_slice)
}

pub(crate) fn epoch_key(pg: PgId) -> Vec<u8> {
    let mut key = vec![INDEX_EPOCHS];
    key.extend_from_slice(&pg.0.to_be_bytes());
    key
}

pub(crate) fn pg_of_key(key: &[u8]) -> Option<PgId> {
    let bytes = key.strip_prefix(&[INDEX_EPOCHS])?;
    Some(PgId(u32::from_be_bytes(bytes.try_into().ok()?)))
}

pub(crate) fn volume_key(volume: u32) -> Vec<u8> {
    let mut key = vec![INDEX_VOLUMES];
    key.extend_from_slice(&volume.to_be_bytes());
    key
}

pub(crate) fn volume_of_key(key: &[u8]) -> Option<u32> {
    let bytes = key.strip_prefix(&[INDEX_VOLUMES])?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Whether the chunk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    /// Deleted; first said so in this volume.
    Deleted {
        origin: u32,
    },
}

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) state: State,
    /// The bytes of its record were found not to be the ones that were stored.
    pub(crate) damaged: bool,
    /// Where its record (of a deleted chunk: the tombstone's) is.
    pub(crate) volume: u32,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
    pub(crate) owner: ChunkOwner,
    pub(crate) length: u32,
    pub(crate) digest: u32,
}

impl IndexEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_BYTES];
        let (tag, origin) = match self.state {
            State::Live => (1, 0),
            State::Deleted { origin } => (2, origin),
        };
        bytes[0] = tag;
        bytes[1] = u8::from(self.damaged);
        set(&mut bytes, 4, &self.volume.to_le_bytes());
        set(&mut bytes, 8, &self.offset.to_le_bytes());
        set(&mut bytes, 16, &self.seq.to_le_bytes());
        set(&mut bytes, 24, &self.owner.bucket.0.to_le_bytes());
        set(&mut bytes, 32, &self.owner.object.to_bytes());
        set(&mut bytes, 48, &self.length.to_le_bytes());
        set(&mut bytes, 52, &self.digest.to_le_bytes());
        set(&mut bytes, 56, &origin.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != ENTRY_BYTES {
            return None;
        }
        let state = match bytes[0] {
            1 => State::Live,
            2 => State::Deleted {
                origin: bytes.u32_at(56),
            },
            _ => return None,
        };
        Some(Self {
            state,
            damaged: bytes[1] == 1,
            volume: bytes.u32_at(4),
            offset: bytes.u64_at(8),
            seq: bytes.u64_at(16),
            owner: ChunkOwner {
                bucket: BucketId(bytes.u64_at(24)),
                object: ObjectId(u128::from_be_bytes(bytes.array(32))),
            },
            length: bytes.u32_at(48),
            digest: bytes.u32_at(52),
        })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }
}

/// A group's epoch and the volume that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochEntry {
    pub(crate) epoch: u64,
    pub(crate) volume: u32,
}

impl EpochEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; EPOCH_BYTES];
        set(&mut bytes, 0, &self.epoch.to_le_bytes());
        set(&mut bytes, 8, &self.volume.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == EPOCH_BYTES).then(|| Self {
            epoch: bytes.u64_at(0),
            volume: bytes.u32_at(8),
        })
    }
}

/// What a volume holds. One per volume, kept in memory too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeStats {
    /// Bytes of pages with records.
    pub(crate) used_bytes: u64,
    /// Chunk records written.
    pub(crate) chunks: u64,
    /// Chunk records the index points to.
    pub(crate) live_chunks: u64,
    /// Bytes of their pages.
    pub(crate) live_chunk_bytes: u64,
    /// Tombstones and epochs the index points to.
    pub(crate) live_notes: u64,
    /// Forgotten tombstones that older records still need.
    pub(crate) kept_notes: u64,
}

impl VolumeStats {
    /// True when the volume holds a chunk record that must not come back.
    pub(crate) fn has_dead_chunks(&self) -> bool {
        self.chunks > self.live_chunks
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        [
            self.used_bytes,
            self.chunks,
            self.live_chunks,
            self.live_chunk_bytes,
            self.live_notes,
            self.kept_notes,
        ]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == STATS_BYTES).then(|| Self {
            used_bytes: bytes.u64_at(0),
            chunks: bytes.u64_at(8),
            live_chunks: bytes.u64_at(16),
            live_chunk_bytes: bytes.u64_at(24),
            live_notes: bytes.u64_at(32),
            kept_notes: bytes.u64_at(40),
        })
    }
}

/// What the index reflects: every record before this place, no record after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexMeta {
    pub(crate) disk: DiskId,
    pub(crate) volume: u32,
    pub(crate) offset: u64,
    /// Larger than the order number of every record.
    pub(crate) next_seq: u64,
}

impl IndexMeta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; META_BYTES];
        set(&mut bytes, 0, &VERSION.to_le_bytes());
        set(&mut bytes, 4, &self.volume.to_le_bytes());
        set(&mut bytes, 8, &self.disk.0.to_le_bytes());
        set(&mut bytes, 16, &self.offset.to_le_bytes());
        set(&mut bytes, 24, &self.next_seq.to_le_bytes());
        bytes
    }

    /// `None` also for another version: the index is derived and is made again.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == META_BYTES && bytes.u16_at(0) == VERSION).then(|| Self {
            volume: bytes.u32_at(4),
            disk: DiskId(bytes.u64_at(8)),
            offset: bytes.u64_at(16),
            next_seq: bytes.u64_at(24),
        })
    }
}
