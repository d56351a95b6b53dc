//! Keys in [`Space::Log`](granary_kv::Space): shard (u32, big endian), kind (u8), number (u64, big
//! endian). Kinds are reserved forever; a kind that is one value has the number 0.

use bytes::Bytes;
use granary_types::ShardId;

/// What a key of the log space holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The vote: format byte, `Vote`.
    Vote = 0x01,
    /// The last purged position: format byte, `LogId`.
    Purged = 0x02,
    /// The last position known to be committed: format byte, `LogId`. May be behind.
    Committed = 0x03,
    /// One log entry; the number is its index: format byte, `Entry`.
    Entry = 0x10,
    /// A chunk of a received snapshot; the number is its sequence: raw bytes.
    StagedChunk = 0x20,
    /// A received snapshot is complete and being installed: chunk count (u64, big endian), then
    /// its encoded bookkeeping.
    Staged = 0x21,
}

const KEY_BYTES: usize = 13;

pub(crate) fn key(shard: ShardId, kind: Kind, number: u64) -> Bytes {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&shard.0.to_be_bytes());
    key[4] = kind as u8;
    key[5..].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The smallest key after every key of this kind.
pub(crate) fn kind_end(shard: ShardId, kind: Kind) -> Bytes {
    let mut key = [0; 5];
    key[..4].copy_from_slice(&shard.0.to_be_bytes());
    key[4] = kind as u8 + 1;
    Bytes::copy_from_slice(&key)
}

/// The smallest key of a shard.
pub(crate) fn shard_start(shard: ShardId) -> Bytes {
    Bytes::copy_from_slice(&shard.0.to_be_bytes())
}

/// The smallest key after every key of a shard.
pub(crate) fn shard_end(shard: ShardId) -> Bytes {
    let mut key = [0xff; 5];
    key[..4].copy_from_slice(&shard.0.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The number in a key that [`key`] made; `None` when the key has another length.
pub(crate) fn number(key: &[u8]) -> Option<u64> {
    let number = key.get(5..)?;
    number.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen_and_sort_by_index() {
        let shard = ShardId(0x0102_0304);
        let entry = key(shard, Kind::Entry, 0x1122);
        assert_eq!(entry.as_ref(), b"\x01\x02\x03\x04\x10\0\0\0\0\0\0\x11\x22");
        assert_eq!(number(&entry), Some(0x1122));
        let kinds = [
            (Kind::Vote, 1),
            (Kind::Purged, 2),
            (Kind::Committed, 3),
            (Kind::Entry, 16),
            (Kind::StagedChunk, 32),
            (Kind::Staged, 33),
        ];
        for (kind, byte) in kinds {
            assert_eq!(key(shard, kind, 0)[4], byte, "{kind:?} is reserved forever");
            assert!(key(shard, kind, u64::MAX) < kind_end(shard, kind));
            assert!(key(shard, kind, 0) > shard_start(shard));
            assert!(key(shard, kind, u64::MAX) < shard_end(shard));
        }
        assert!(shard_end(shard) < shard_start(ShardId(shard.0 + 1)));
        assert!(key(shard, Kind::Entry, 255) < key(shard, Kind::Entry, 256));
    }
}
