//! How the parts of the metadata's backup are named among the chunks of the storage pool.
//!
//! A part is a chunk whose owner is [`BACKUP_BUCKET`] and an object id made of these fields, so
//! that the listing of a disk alone tells what there is. The layout is frozen:
//!
//! ```text
//! shard (24 bits) · term (28) · index (40) · writer (8) · kind (2) · part (26)
//! ```
//!
//! Invariant: parts sort by shard and then by how much of the shard's history they hold, whoever
//! wrote them and whatever his clock said.

use crate::{BucketId, ObjectId, ShardId};

/// The bucket that owns backups. The root gives out the bit-reversed numbers from 1 on, and would
/// have to make 2^64 buckets to come to this one.
pub const BACKUP_BUCKET: BucketId = BucketId(u64::MAX);

const SHARD_BITS: u32 = 24;
const TERM_BITS: u32 = 28;
const INDEX_BITS: u32 = 40;
const WRITER_BITS: u32 = 8;
const KIND_BITS: u32 = 2;
const PART_BITS: u32 = 26;

/// Largest number of a part, and of log entries in one.
pub const BACKUP_PART_MAX: u32 = (1 << PART_BITS) - 1;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackupKind {
    /// Rows of a checkpoint.
    Checkpoint,
    /// The last part of a checkpoint, which says that it is complete.
    Manifest,
    /// Log entries.
    Log,
}

/// The name of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupObject {
    /// Whose history it is.
    pub shard: ShardId,
    /// Position in the shard's log, a term and an index: of a checkpoint the last entry that is in
    /// it, of a log part its last entry.
    pub position: (u64, u64),
    /// Some bits of whoever wrote it.
    pub writer: u8,
    /// What it is.
    pub kind: BackupKind,
    /// Of a checkpoint: which part, from 0. Of a manifest: how many there are. Of a log part: how
    /// many entries it has.
    pub part: u32,
}

impl BackupObject {
    /// The object id that carries the name. `None` when a field is too large.
    pub fn to_object_id(self) -> Option<ObjectId> {
        let (term, index) = self.position;
        let kind = match self.kind {
            BackupKind::Checkpoint => 0u8,
            BackupKind::Manifest => 1,
            BackupKind::Log => 2,
        };
        let fields = [
            (u64::from(self.shard.0), SHARD_BITS),
            (term, TERM_BITS),
            (index, INDEX_BITS),
            (u64::from(self.writer), WRITER_BITS),
            (u64::from(kind), KIND_BITS),
            (u64::from(self.part), PART_BITS),
        ];
        let mut id = 0u128;
        for (value, bits) in fields {
            if value >> bits != 0 {
                return None;
            }
            id = (id << bits) | u128::from(value);
        }
        Some(ObjectId(id))
    }

    /// The name that an object id carries; `None` when its kind is unknown to this version.
    pub fn of_object_id(id: ObjectId) -> Option<Self> {
        let mut rest = id.0;
        let mut take = |bits: u32| {
            let value = rest & ((1u128 << bits) - 1);
            rest >>= bits;
            u64::try_from(value).unwrap_or_default()
        };
        let part = take(PART_BITS);
        let kind = match take(KIND_BITS) {
            0 => BackupKind::Checkpoint,
            1 => BackupKind::Manifest,
            2 => BackupKind::Log,
            _ => return None,
        };
        let writer = take(WRITER_BITS);
        let index = take(INDEX_BITS);
        let term = take(TERM_BITS);
        let shard = take(SHARD_BITS);
        Some(Self {
            shard: ShardId(u32::try_from(shard).ok()?),
            position: (term, index),
            writer: u8::try_from(writer).ok()?,
            kind,
            part: u32::try_from(part).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [BackupKind; 3] = [
        BackupKind::Checkpoint,
        BackupKind::Manifest,
        BackupKind::Log,
    ];

    #[test]
    fn the_layout_is_frozen() {
        let object = BackupObject {
            shard: ShardId(0x01_0203),
            position: (0x405_0607, 0x08_090a_0b0c),
            writer: 0x0d,
            kind: BackupKind::Log,
            part: 0x3f_fffe,
        };
        let id = object.to_object_id().unwrap();
        assert_eq!(format!("{:032x}", id.0), "010203405060708090a0b0c0d83ffffe");
        assert_eq!(BackupObject::of_object_id(id), Some(object));
        let unknown = ObjectId(id.0 | (3 << PART_BITS));
        assert_eq!(BackupObject::of_object_id(unknown), None);
        for large in [
            BackupObject {
                shard: ShardId(1 << SHARD_BITS),
                ..object
            },
            BackupObject {
                position: (1 << TERM_BITS, 1),
                ..object
            },
            BackupObject {
                position: (1, 1 << INDEX_BITS),
                ..object
            },
            BackupObject {
                part: BACKUP_PART_MAX + 1,
                ..object
            },
        ] {
            assert_eq!(large.to_object_id(), None, "{large:?}");
        }
    }

    #[test]
    fn no_bucket_gets_the_backups_id() {
        // As the root allocates them; see CreateBucket.
        assert_eq!(BACKUP_BUCKET.0.reverse_bits(), u64::MAX);
    }

    proptest! {
        #[test]
        fn names_survive_and_sort_by_position(
            shard in 0u32..1 << 24, term in 0u64..1 << 28, a in 0u64..1 << 40, b in 0u64..1 << 40,
            writer: u8, kind in 0usize..3, part in 0u32..1 << 26,
        ) {
            let name = |index| BackupObject {
                shard: ShardId(shard), position: (term, index), writer, kind: KINDS[kind], part,
            };
            let (x, y) = (name(a).to_object_id().unwrap(), name(b).to_object_id().unwrap());
            prop_assert_eq!(BackupObject::of_object_id(x), Some(name(a)));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
