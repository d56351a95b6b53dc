//! The bytes of a part of a backup. Integers are little endian.
//!
//! ```text
//! magic "GRNYBKUP" (8) · format (u32) · CRC-32C of all that follows (u32)
//! kind (u8) · shard (u32) · writer (u64) · term, index (u64, u64) · part (u32)
//! previous term, index (u64, u64)      log: the entry before the first one; otherwise zero
//! length of the cluster id (u16) · cluster id
//! number of items (u32) · per item: length (u32) · bytes
//! ```
//!
//! Items of a checkpoint's part are chunks of a snapshot (`state::SnapshotRows`), of a manifest the
//! bookkeeping as of the snapshot and how many items the parts have together (u64; early ones do not
//! say), of a log part its entries as the log stores them. A part says all that its name says, and the
//! name is checked against it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use granary_raft::LogPosition;
use granary_types::{BackupKind, BackupObject, ShardId};

use super::BackupError;

const MAGIC: &[u8; 8] = b"GRNYBKUP";
/// The only format so far.
const FORMAT: u32 = 1;
/// Before the checksummed bytes.
const HEAD_BYTES: usize = 16;
/// What stands beside the items and the cluster id.
const FIXED_BYTES: usize = HEAD_BYTES + 1 + 4 + 8 + 16 + 4 + 16 + 2 + 4;
/// What an item costs beside its bytes.
pub(super) const ITEM_OVERHEAD_BYTES: usize = 4;

/// A part of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) kind: BackupKind,
    pub(super) shard: ShardId,
    /// Random, of the attempt at a checkpoint, or of the leader's task that wrote the log.
    pub(super) writer: u64,
    /// See [`BackupObject::position`].
    pub(super) position: LogPosition,
    /// See [`BackupObject::part`].
    pub(super) part: u32,
    pub(super) previous: LogPosition,
    pub(super) cluster_id: String,
    pub(super) items: Vec<Bytes>,
}

impl Part {
    /// Its name; `None` when a number of it is beyond what a name can say.
    pub(super) fn name(&self) -> Option<BackupObject> {
        let name = BackupObject {
            shard: self.shard,
            position: (self.position.term, self.position.index),
            writer: short(self.writer),
            kind: self.kind,
            part: self.part,
        };
        name.to_object_id().map(|_| name)
    }

    pub(super) fn encode(&self) -> Bytes {
        let items: usize = self
            .items
            .iter()
            .map(|item| ITEM_OVERHEAD_BYTES + item.len())
            .sum();
        let mut out = BytesMut::with_capacity(FIXED_BYTES + self.cluster_id.len() + items);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(0);
        out.put_u8(match self.kind {
            BackupKind::Checkpoint => 0,
            BackupKind::Manifest => 1,
            BackupKind::Log => 2,
        });
        out.put_u32_le(self.shard.0);
        out.put_u64_le(self.writer);
        out.put_u64_le(self.position.term);
        out.put_u64_le(self.position.index);
        out.put_u32_le(self.part);
        out.put_u64_le(self.previous.term);
        out.put_u64_le(self.previous.index);
        // Lengths that do not fit are cut off and fail the reader's checks; none comes near it.
        out.put_u16_le(u16::try_from(self.cluster_id.len()).unwrap_or(u16::MAX));
        out.put_slice(self.cluster_id.as_bytes());
        out.put_u32_le(u32::try_from(self.items.len()).unwrap_or(u32::MAX));
        for item in &self.items {
            out.put_u32_le(u32::try_from(item.len()).unwrap_or(u32::MAX));
            out.put_slice(item);
        }
        let crc = crc32c::crc32c(&out[HEAD_BYTES..]);
        out[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Reads a part. Items share the bytes.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, BackupError> {
        let damaged = BackupError::Damaged;
        if bytes.len() < FIXED_BYTES || bytes[..8] != MAGIC[..] {
            return Err(damaged("it is no part of a backup"));
        }
        bytes.advance(8);
        if bytes.get_u32_le() != FORMAT {
            return Err(damaged("its format is unknown to this version"));
        }
        if bytes.get_u32_le() != crc32c::crc32c(&bytes) {
            return Err(damaged("its checksum is wrong"));
        }
        let kind = match bytes.get_u8() {
            0 => BackupKind::Checkpoint,
            1 => BackupKind::Manifest,
            2 => BackupKind::Log,
            _ => return Err(damaged("its kind is unknown to this version")),
        };
        let shard = ShardId(bytes.get_u32_le());
        let writer = bytes.get_u64_le();
        let position = LogPosition {
            term: bytes.get_u64_le(),
            index: bytes.get_u64_le(),
        };
        let part = bytes.get_u32_le();
        let previous = LogPosition {
            term: bytes.get_u64_le(),
            index: bytes.get_u64_le(),
        };
        let length = usize::from(bytes.get_u16_le());
        let short = || damaged("it is cut off");
        if bytes.len() < length + 4 {
            return Err(short());
        }
        let cluster_id = String::from_utf8(bytes.split_to(length).to_vec());
        let cluster_id = cluster_id.map_err(|_| damaged("its cluster id is no text"))?;
        let mut items = Vec::new();
        for _ in 0..bytes.get_u32_le() {
            let length = bytes.try_get_u32_le().map_err(|_| short())?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if bytes.len() < length {
                return Err(short());
            }
            items.push(bytes.split_to(length));
        }
        if !bytes.is_empty() {
            return Err(damaged("something follows it"));
        }
        Ok(Self {
            kind,
            shard,
            writer,
            position,
            part,
            previous,
            cluster_id,
            items,
        })
    }
}

/// What of a writer stands in the names of its parts.
pub(super) fn short(writer: u64) -> u8 {
    writer.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> Part {
        Part {
            kind: BackupKind::Log,
            shard: ShardId(3),
            writer: 0x0102_0304_0506_0708,
            position: LogPosition {
                term: 5,
                index: 300,
            },
            part: 2,
            previous: LogPosition {
                term: 4,
                index: 298,
            },
            cluster_id: "c1".to_owned(),
            items: vec![Bytes::from_static(b"ab"), Bytes::new()],
        }
    }

    #[test]
    fn the_stored_form_is_frozen() {
        let golden = "47524e59424b5550010000008cb1509e\
                      02030000000807060504030201\
                      05000000000000002c01000000000000\
                      02000000\
                      04000000000000002a01000000000000\
                      02006331\
                      02000000020000006162\
                      00000000";
        let encoded = part().encode();
        assert_eq!(hex::encode(&encoded), golden);
        assert_eq!(Part::decode(encoded).unwrap(), part());
    }

    proptest! {
        #[test]
        fn a_part_that_was_cut_off_or_changed_is_refused(at in 0usize..1000, flip in 1u8..) {
            let whole = part().encode();
            let at = at % whole.len();
            let mut changed = whole.to_vec();
            changed[at] ^= flip;
            prop_assert!(Part::decode(changed.into()).is_err());
            prop_assert!(Part::decode(whole.slice(..at)).is_err());
        }
    }
}
