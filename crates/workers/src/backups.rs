//! Which chunks of the metadata's backup are superseded, as a pass of the sweep learns it from the
//! chunks it meets.
//!
//! Whoever writes a backup deletes what it supersedes; this finds what others have left: former
//! leaders, and attempts that failed. Invariant: of a shard's backup the two newest complete
//! checkpoints that were seen stay, and everything that is not older than both.

use std::collections::BTreeMap;

use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_types::{BACKUP_BUCKET, BackupKind, BackupObject, ShardId};

/// A term and an index.
type Position = (u64, u64);

/// True for a chunk of the metadata's backup: no shard knows its owner, and it is no garbage.
pub(crate) fn is_backup(owner: &ChunkOwner) -> bool {
    owner.bucket == BACKUP_BUCKET
}

/// What a newer version names in a way of its own is not for this one to judge.
fn part_of(entry: &ChunkEntry) -> Option<BackupObject> {
    let named = is_backup(&entry.owner).then_some(entry.owner.object)?;
    BackupObject::of_object_id(named)
}

/// What passes have seen. Memory: two positions per shard.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    /// In this pass: the newest complete checkpoint, and the one before.
    seen: BTreeMap<ShardId, (Position, Option<Position>)>,
    /// From the last pass: what is older is garbage.
    keep_from: BTreeMap<ShardId, Position>,
}

impl Backups {
    /// Looks at a chunk; true when it is superseded.
    pub(crate) fn look(&mut self, entry: &ChunkEntry) -> bool {
        if let Some(part) = part_of(entry)
            && part.kind == BackupKind::Manifest
            && !entry.damaged
            && !entry.deleted
        {
            self.note(part.shard, part.position);
        }
        self.is_superseded(entry)
    }

    /// The same, and a manifest does not count: the copy may be the only one.
    pub(crate) fn is_superseded(&self, entry: &ChunkEntry) -> bool {
        part_of(entry).is_some_and(|part| {
            let keep = self.keep_from.get(&part.shard);
            keep.is_some_and(|keep| part.position < *keep)
        })
    }

    fn note(&mut self, shard: ShardId, position: Position) {
        let (newest, before) = self.seen.entry(shard).or_insert((position, None));
        if position > *newest {
            *before = Some(*newest);
            *newest = position;
        } else if position < *newest {
            *before = (*before).max(Some(position));
        }
    }

    /// A pass has ended.
    pub(crate) fn turn(&mut self) {
        let seen = std::mem::take(&mut self.seen).into_iter();
        self.keep_from = seen
            .filter_map(|(shard, (_, before))| Some((shard, before?)))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use granary_types::{BucketId, ChunkId, PgId};

    use super::*;

    fn entry(kind: BackupKind, position: Position) -> ChunkEntry {
        let object = BackupObject {
            shard: ShardId(4),
            position,
            writer: 1,
            kind,
            part: 1,
        };
        ChunkEntry {
            id: ChunkId::new(PgId(1), u128::from(position.1)),
            owner: ChunkOwner {
                bucket: BACKUP_BUCKET,
                object: object.to_object_id().unwrap(),
            },
            length: 1,
            digest: 0,
            deleted: false,
            damaged: false,
        }
    }

    #[test]
    fn what_is_older_than_the_two_newest_checkpoints_goes() {
        use BackupKind::{Checkpoint, Log, Manifest};
        let mut backups = Backups::default();
        let chunks = [
            (Log, (1, 90), true),
            (Checkpoint, (1, 100), true),
            (Manifest, (1, 100), true),
            (Log, (1, 199), true),
            (Checkpoint, (1, 200), false),
            (Manifest, (1, 200), false),
            (Log, (1, 210), false),
            // Its index is lower, its term is not: somebody began again from an older state.
            (Checkpoint, (2, 150), false),
            (Manifest, (2, 150), false),
            (Log, (2, 160), false),
            // Under way.
            (Checkpoint, (2, 170), false),
        ];
        for (kind, position, _) in chunks {
            assert!(
                !backups.look(&entry(kind, position)),
                "nothing is known yet"
            );
        }
        backups.turn();
        for (kind, position, superseded) in chunks {
            let found = backups.look(&entry(kind, position));
            assert_eq!(found, superseded, "{kind:?} {position:?}");
        }
        // A pass that sees one checkpoint only lets nothing go.
        backups.turn();
        backups.look(&entry(Manifest, (2, 150)));
        backups.turn();
        assert!(!backups.look(&entry(Log, (1, 90))));
        let mut other = entry(Log, (1, 1));
        other.owner.bucket = BucketId(7);
        assert!(!backups.look(&other));
    }
}
