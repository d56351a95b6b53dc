//! What parts of a backup there are, by their names: gathered from the listings of disks.

use std::collections::{BTreeMap, BTreeSet};

use granary_raft::LogPosition;
use granary_types::{BackupKind, BackupObject, ChunkId, ObjectId, ShardId};

/// The chunks that hold a part; the same part may have been written more than once.
type Chunks = BTreeSet<ChunkId>;

/// The parts of a backup. Memory: one entry per part.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    parts: BTreeMap<BackupObject, Chunks>,
}

/// What there is of one shard, by names alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSummary {
    /// Checkpoints of which every part is there.
    pub checkpoints: usize,
    /// Checkpoints that lack a part, or whose writer did not end.
    pub incomplete: usize,
    /// Log parts.
    pub log_parts: usize,
}

/// A checkpoint of which every part is there.
#[derive(Clone, Debug)]
pub(super) struct FoundCheckpoint {
    pub(super) position: LogPosition,
    pub(super) manifest: Chunks,
    pub(super) parts: Vec<Chunks>,
}

/// A log part.
#[derive(Clone, Debug)]
pub(super) struct FoundLog {
    pub(super) first: u64,
    pub(super) last: LogPosition,
    pub(super) chunks: Chunks,
}

impl Catalog {
    /// Notes that a chunk is owned by an object of the backup's bucket. What names no part this
    /// version knows is passed over.
    pub fn note(&mut self, object: ObjectId, chunk: ChunkId) {
        if let Some(part) = BackupObject::of_object_id(object) {
            self.parts.entry(part).or_default().insert(chunk);
        }
    }

    /// Every shard of which there is anything.
    pub fn shards(&self) -> Vec<ShardId> {
        let shards: BTreeSet<ShardId> = self.parts.keys().map(|part| part.shard).collect();
        shards.into_iter().collect()
    }

    /// What there is of a shard.
    pub fn summary(&self, shard: ShardId) -> ShardSummary {
        let all: BTreeSet<((u64, u64), u8)> = self
            .of(shard)
            .filter(|(part, _)| part.kind != BackupKind::Log)
            .map(|(part, _)| (part.position, part.writer))
            .collect();
        let checkpoints = self.checkpoints(shard).len();
        ShardSummary {
            checkpoints,
            incomplete: all.len().saturating_sub(checkpoints),
            log_parts: self.logs(shard).len(),
        }
    }

    /// The highest term that any part of a shard names, whether it can be used or not; 0 for none.
    pub fn newest_term(&self, shard: ShardId) -> u64 {
        let terms = self.of(shard).map(|(part, _)| part.position.0);
        terms.max().unwrap_or(0)
    }

    fn of(&self, shard: ShardId) -> impl Iterator<Item = (&BackupObject, &Chunks)> {
        let first = BackupObject {
            shard,
            position: (0, 0),
            writer: 0,
            kind: BackupKind::Checkpoint,
            part: 0,
        };
        let from = self.parts.range(first..);
        from.take_while(move |(part, _)| part.shard == shard)
    }

    /// The complete checkpoints of a shard, the newest first.
    pub(super) fn checkpoints(&self, shard: ShardId) -> Vec<FoundCheckpoint> {
        let manifests = self
            .of(shard)
            .filter(|(part, _)| part.kind == BackupKind::Manifest);
        let complete = manifests.filter_map(|(manifest, chunks)| {
            let parts = (0..manifest.part).map(|part| {
                let kind = BackupKind::Checkpoint;
                let name = BackupObject {
                    kind,
                    part,
                    ..*manifest
                };
                self.parts.get(&name).cloned()
            });
            Some(FoundCheckpoint {
                position: position(manifest),
                manifest: chunks.clone(),
                parts: parts.collect::<Option<_>>()?,
            })
        });
        let mut complete: Vec<_> = complete.collect();
        complete.sort_by_key(|found| std::cmp::Reverse(found.position));
        complete
    }

    /// The log parts of a shard, in no order that matters.
    pub(super) fn logs(&self, shard: ShardId) -> Vec<FoundLog> {
        let logs = self
            .of(shard)
            .filter(|(part, _)| part.kind == BackupKind::Log);
        logs.map(|(part, chunks)| {
            let last = position(part);
            FoundLog {
                first: (last.index + 1).saturating_sub(u64::from(part.part)),
                last,
                chunks: chunks.clone(),
            }
        })
        .collect()
    }
}

fn position(part: &BackupObject) -> LogPosition {
    let (term, index) = part.position;
    LogPosition { term, index }
}
