//! A disk checks its own copies of a group, page by page, for whoever scrubs.
//!
//! It stays behind clients: one page at a time on a disk, one read at a time in a page, each with a
//! place in the same queue as everybody's reads and given up in between. It must not know how often
//! the whole is read, nor what becomes of damaged copies. Invariants: a page holds a few chunks in
//! memory, and comes to an end in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::{BlobError, VerifyPage};
use granary_runtime::within;
use granary_types::{ChunkId, PgId};

use crate::disk::Disk;
use crate::examine::{Finding, Seals};
use crate::store::BlobStore;
use crate::work::{MovedChunk, Work};

/// Object bytes of one page, whatever is asked for; a page may be longer by a chunk.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Entries of the index, tombstones included, that one page looks at.
const PAGE_ENTRIES_MAX: usize = 1024;
/// A page that has taken this long ends with the step that is under way: callers have deadlines.
const PAGE_TIME: Duration = Duration::from_secs(2);
/// Object bytes that are read in one go, at least one chunk; a place among the reads is held as
/// long.
const STEP_BYTES: u64 = 4 << 20;
/// Chunks that are read in one go.
const STEP_CHUNKS: usize = 32;

/// What a step came to.
#[derive(Default)]
struct Step {
    checked_chunks: u64,
    checked_bytes: u64,
    damaged: Vec<ChunkId>,
    /// Chunks whose bytes are whole behind a damaged header.
    headless: Vec<MovedChunk>,
}

impl BlobStore {
    /// One page of [`granary_blob_api::BlobNode::verify`].
    pub(crate) async fn verify_page(
        &self,
        disk: &Arc<Disk>,
        pg: PgId,
        after: Option<ChunkId>,
        limit_bytes: u64,
    ) -> Result<VerifyPage, BlobError> {
        let limit_bytes = limit_bytes.min(PAGE_BYTES_MAX);
        let ends_at = disk.runtime().monotonic() + PAGE_TIME;
        // Kept by whatever is under way, also when its caller went away.
        let turn = Arc::clone(disk.verifying()).acquire_owned();
        let turn = match within(disk.config().busy_after, turn).await {
            Ok(Ok(turn)) => Arc::new(turn),
            _ => return Err(BlobError::Busy(disk.id())),
        };
        let listed = self.reading(disk, self.until(), move |disk| {
            let entries = disk.index().entries(pg, after, PAGE_ENTRIES_MAX);
            entries.map_err(|error| disk.index_failed(error))
        });
        let (entries, more) = listed.await?;
        let last_listed = entries.last().map(|(id, _)| *id);
        let live = entries.into_iter().filter(|(_, entry)| entry.is_live());
        let mut left: VecDeque<_> = live.map(|(id, entry)| (id, entry.length)).collect();
        let mut page = VerifyPage::default();
        while let Some(ids) = next_step(&mut left, limit_bytes.saturating_sub(page.checked_bytes)) {
            let (turn, last) = (Arc::clone(&turn), ids.last().copied());
            let step = self.reading(disk, self.until(), move |disk| {
                let _turn = turn;
                examine_all(disk, &ids)
            });
            match step.await {
                Ok(step) => take(disk, step, &mut page).await,
                // What was done is worth an answer.
                Err(BlobError::Busy(_)) if page.next_after.is_some() => return Ok(page),
                Err(error) => return Err(error),
            }
            page.next_after = last;
            let full = page.checked_bytes >= limit_bytes;
            if full || disk.runtime().monotonic() >= ends_at {
                break;
            }
        }
        if left.is_empty() {
            page.next_after = last_listed.filter(|_| more);
        }
        Ok(page)
    }
}

/// The chunks to read next, in order, at least one; `None` when none are left.
fn next_step(left: &mut VecDeque<(ChunkId, u32)>, bytes_max: u64) -> Option<Vec<ChunkId>> {
    let bytes_max = bytes_max.min(STEP_BYTES);
    let (first, length) = left.pop_front()?;
    let (mut ids, mut bytes) = (vec![first], u64::from(length));
    while let Some((id, length)) = left.front().copied()
        && ids.len() < STEP_CHUNKS
        && bytes + u64::from(length) <= bytes_max
    {
        left.pop_front();
        ids.push(id);
        bytes += u64::from(length);
    }
    Some(ids)
}

/// Reads and checks chunks. Blocks.
fn examine_all(disk: &Disk, ids: &[ChunkId]) -> Result<Step, BlobError> {
    let (mut step, mut seals) = (Step::default(), Seals::default());
    for id in ids {
        let length = match disk.examine(&mut seals, *id)? {
            Finding::Gone => continue,
            Finding::Whole(entry) => entry.length,
            Finding::HeaderDamaged(moved) => {
                let length = moved.header.payload;
                step.headless.push(moved);
                length
            }
            Finding::Damaged(entry) => {
                step.damaged.push(*id);
                entry.length
            }
        };
        step.checked_chunks += 1;
        step.checked_bytes += u64::from(length);
    }
    Ok(step)
}

/// Adds a step to a page. A chunk that is whole but for its header is written again: the index
/// knows what the header said.
async fn take(disk: &Disk, step: Step, page: &mut VerifyPage) {
    disk.metrics()
        .verified(step.checked_chunks, step.checked_bytes);
    page.checked_chunks += step.checked_chunks;
    page.checked_bytes += step.checked_bytes;
    page.damaged.extend(step.damaged);
    for moved in step.headless {
        let chunk = moved.header.id;
        if let Err(error) = disk.submit(Work::Move(moved)).await {
            // The next time, then; the chunk can be read.
            tracing::warn!(disk = disk.id().0, %chunk, %error, "header is not written again");
        }
    }
}
