//! Gives back the space of replaced and deleted objects: what the shards have queued, once it is
//! due, is deleted on the disks by chunk id and then acknowledged.
//!
//! Invariant: a deletion is acknowledged only after every member in service of every chunk's group
//! has made it durable, so a crash anywhere in between repeats it and loses nothing.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use granary_datapath::ClusterView;
use granary_meta_api::pb::state::body::Place;
use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::{ChunkId, ShardId};

use crate::chunk_deleter::ChunkDeleter;
use crate::error::ACK;
use crate::worker::TICK_TIME;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};

/// Deletions taken from a shard at once.
const PAGE: u32 = 500;
/// Time one shard gets before the next has its turn.
const SHARD_TIME: Duration = Duration::from_secs(2);
/// References asked for at once of an object with many.
const EXTENTS_PER_PAGE: u32 = 1000;
/// Pages of references deleted per tick of one such object.
const EXTENT_PAGES_PER_TICK: usize = 16;
/// Acknowledgements of one batch until the shard has removed all rows; each removes a bounded
/// number of them.
const ACK_ROUNDS_MAX: usize = 10_000;

/// The deletion worker.
pub struct DeletionWorker {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    deleter: ChunkDeleter,
    metrics: WorkerMetrics,
    progress: Progress,
    /// Where to go on in shards whose time was up: entries that cannot be deleted now must not keep
    /// those behind them waiting for ever.
    cursors: HashMap<ShardId, u64>,
    turn: usize,
}

/// Objects of one shard whose progress is kept.
const PROGRESS_MAX: usize = PAGE as usize;

/// How far the deletion of objects with many chunks has come, in bytes of the object. Only to save
/// work: lost, it begins again. The entries at the front of a queue are never lost while this
/// process leads, so each of them comes to its end.
#[derive(Debug, Default)]
struct Progress(HashMap<ShardId, BTreeMap<u64, u64>>);

impl Progress {
    fn of(&self, shard: ShardId, seq: u64) -> u64 {
        let known = self.0.get(&shard).and_then(|seqs| seqs.get(&seq));
        known.copied().unwrap_or(0)
    }

    fn set(&mut self, shard: ShardId, seq: u64, offset: u64) {
        let seqs = self.0.entry(shard).or_default();
        seqs.insert(seq, offset);
        if seqs.len() > PROGRESS_MAX {
            seqs.pop_last();
        }
    }

    fn end(&mut self, shard: ShardId, seq: u64) {
        if let Some(seqs) = self.0.get_mut(&shard) {
            seqs.remove(&seq);
        }
    }
}

/// What one entry needs.
enum Expansion {
    /// All of its chunks.
    Chunks(Vec<ChunkId>),
    /// Its chunks stand in pages of their own.
    Paged,
}

impl DeletionWorker {
    /// A worker over all shards of the map.
    pub fn new(runtime: Runtime, meta: Meta, view: ClusterView, metrics: WorkerMetrics) -> Self {
        Self {
            runtime,
            meta,
            deleter: ChunkDeleter::new(view.clone()),
            view,
            metrics,
            progress: Progress::default(),
            cursors: HashMap::new(),
            turn: 0,
        }
    }

    /// Works through a part of a shard's queue; true when there is more that can be done now.
    async fn work_on(
        &mut self,
        shard: ShardId,
        lease_token: u64,
        pending: &mut u64,
    ) -> Result<bool, WorkerError> {
        let mut after_seq = self.cursors.remove(&shard).unwrap_or(0);
        let from_start = after_seq == 0;
        let until = self.runtime.monotonic() + SHARD_TIME;
        let mut page_number = 0;
        while self.runtime.monotonic() < until {
            let query = pb::ListDeletions {
                limit: PAGE,
                after_seq,
            };
            let page = self.meta.query_at(shard, query).await?;
            if page_number == 0 && from_start {
                *pending += page.pending;
            }
            page_number += 1;
            // A page without entries may have others behind it: what is not due yet, pinned, or a
            // sibling's in the same slab.
            after_seq = page.next_after_seq;
            let (more, entries) = (page.more, page.entries);
            let unfinished = self.delete_page(shard, entries, lease_token).await?;
            if unfinished {
                return Ok(true);
            }
            if !more {
                return Ok(false);
            }
        }
        self.cursors.insert(shard, after_seq);
        Ok(true)
    }

    /// Deletes the chunks of a page's entries and acknowledges those that are gone everywhere.
    /// True when an entry made progress but needs another tick.
    async fn delete_page(
        &mut self,
        shard: ShardId,
        entries: Vec<pb::DeletionEntry>,
        lease_token: u64,
    ) -> Result<bool, WorkerError> {
        let (mut small, mut done, mut unfinished) = (Vec::new(), Vec::new(), false);
        for entry in entries {
            match expand(&entry) {
                Expansion::Chunks(chunks) => small.push((entry.seq, chunks)),
                Expansion::Paged => match self.delete_paged(shard, &entry).await? {
                    Paged::Gone => done.push(entry.seq),
                    Paged::More => unfinished = true,
                    Paged::Blocked => {}
                },
            }
        }
        let chunks: Vec<_> = small
            .iter()
            .flat_map(|(_, chunks)| chunks)
            .copied()
            .collect();
        let confirmed = self.deleter.delete(&chunks).await;
        self.metrics.chunks_deleted.inc_by(confirmed.len() as u64);
        for (seq, chunks) in small {
            if chunks.iter().all(|chunk| confirmed.contains(chunk)) {
                done.push(seq);
            }
        }
        self.acknowledge(shard, done, lease_token).await?;
        Ok(unfinished)
    }

    /// Deletes a part of an object whose references stand in pages.
    async fn delete_paged(
        &mut self,
        shard: ShardId,
        entry: &pb::DeletionEntry,
    ) -> Result<Paged, WorkerError> {
        let Some(deletion) = &entry.deletion else {
            return Ok(Paged::Blocked);
        };
        let mut offset = self.progress.of(shard, entry.seq);
        for _ in 0..EXTENT_PAGES_PER_TICK {
            if offset >= deletion.size {
                self.progress.end(shard, entry.seq);
                return Ok(Paged::Gone);
            }
            let query = pb::ListExtents {
                at: Some(pb::Position {
                    bucket_id: deletion.bucket_id,
                    key: deletion.key.clone(),
                    generation: 0,
                }),
                object_id: deletion.object_id.clone(),
                body: deletion.body.clone(),
                offset,
                limit: EXTENTS_PER_PAGE,
            };
            let page = self.meta.query_at(shard, query).await?;
            let (chunks, length) = chunks_of(&page);
            let confirmed = self.deleter.delete(&chunks).await;
            self.metrics.chunks_deleted.inc_by(confirmed.len() as u64);
            if chunks.iter().any(|chunk| !confirmed.contains(chunk)) {
                return Ok(Paged::Blocked);
            }
            let end = page.first_offset + length;
            if !page.more || end <= offset {
                self.progress.end(shard, entry.seq);
                return Ok(Paged::Gone);
            }
            offset = end;
            self.progress.set(shard, entry.seq, offset);
        }
        Ok(Paged::More)
    }

    async fn acknowledge(
        &mut self,
        shard: ShardId,
        seqs: Vec<u64>,
        lease_token: u64,
    ) -> Result<(), WorkerError> {
        if seqs.is_empty() {
            return Ok(());
        }
        for _ in 0..ACK_ROUNDS_MAX {
            let ack = pb::AckDeletions {
                seqs: seqs.clone(),
                lease_token,
            };
            let answer = self.meta.propose_to(shard, ack).await?;
            let ack = answer.map_err(|no| WorkerError::refused(ACK, no))?;
            if !ack.more {
                return Ok(());
            }
        }
        Ok(())
    }
}

enum Paged {
    /// Every chunk is gone.
    Gone,
    /// Some are; the next tick goes on.
    More,
    /// A member did not confirm.
    Blocked,
}

fn expand(entry: &pb::DeletionEntry) -> Expansion {
    let body = entry.deletion.as_ref().and_then(|d| d.body.as_ref());
    match body.and_then(|body| body.place.as_ref()) {
        Some(Place::Pages(_) | Place::Parts(_) | Place::Appended(_)) => Expansion::Paged,
        Some(Place::Extents(body)) => Expansion::Chunks(
            body.extents
                .iter()
                .filter_map(|extent| ChunkId::from_slice(&extent.chunk))
                .collect(),
        ),
        Some(Place::Inline(_)) | None => Expansion::Chunks(Vec::new()),
    }
}

/// The chunks of a page and the bytes it covers.
fn chunks_of(page: &pb::ExtentsResult) -> (Vec<ChunkId>, u64) {
    use pb::extent_piece::Piece;
    let (mut chunks, mut length) = (Vec::new(), 0);
    for piece in &page.pieces {
        match &piece.piece {
            Some(Piece::Extent(extent)) => {
                length += u64::from(extent.length);
                chunks.extend(ChunkId::from_slice(&extent.chunk));
            }
            Some(Piece::Inline(bytes)) => length += bytes.len() as u64,
            None => {}
        }
    }
    (chunks, length)
}

impl Worker for DeletionWorker {
    const NAME: &'static str = "deletion";

    async fn tick(&mut self, lease_token: u64) -> Result<Tick, WorkerError> {
        let shards = self.view.map().shards().to_vec();
        let (mut tick, mut pending, mut failure) = (Tick::Done, 0, None);
        let until = self.runtime.monotonic() + TICK_TIME;
        let turn = self.turn;
        self.turn = self.turn.wrapping_add(1);
        for n in 0..shards.len() {
            if self.runtime.monotonic() >= until {
                tick = Tick::More;
                break;
            }
            // Another shard begins each time, so that none waits behind a busy one for ever.
            let shard = shards[turn.wrapping_add(n) % shards.len()];
            // A shard without a leader must not keep the others waiting.
            match self.work_on(shard, lease_token, &mut pending).await {
                Ok(true) => tick = Tick::More,
                Ok(false) => {}
                Err(WorkerError::LeaseLost) => return Err(WorkerError::LeaseLost),
                Err(error) => failure = Some(error),
            }
        }
        self.metrics.deletions_pending.set(pending);
        match failure {
            Some(error) => Err(error),
            None => Ok(tick),
        }
    }

    /// Another process may have led meanwhile and ended what was begun here.
    fn resume(&mut self, _cursor: &[u8]) {
        self.progress = Progress::default();
        self.cursors.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_front_goes_on_however_many_wait_behind_it() {
        let (mut progress, shard) = (Progress::default(), ShardId(3));
        let many = PROGRESS_MAX as u64 + 200;
        for offset in [10, 20] {
            for seq in 0..many {
                progress.set(shard, seq, offset);
            }
        }
        let front = PROGRESS_MAX as u64;
        assert!((0..front).all(|seq| progress.of(shard, seq) == 20));
        assert_eq!(progress.0[&shard].len(), PROGRESS_MAX);
        // Those in front end, and those behind them come up.
        for seq in 0..front {
            progress.end(shard, seq);
        }
        for seq in front..many {
            progress.set(shard, seq, 30);
            assert_eq!(progress.of(shard, seq), 30);
        }
        assert_eq!(progress.of(ShardId(4), many - 1), 0);
    }
}
