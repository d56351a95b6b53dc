//! A piece of a chunk from whichever copy gives it first and intact.
//!
//! Invariants: bytes are handed out only after their checksums were verified here. Slowness is met
//! by a second question for a bounded share of all reads, not for all of them; a full queue never.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use granary_blob_api::{BlobError, Block, ChunkRead, ErrorKind, GetChunk};
use granary_runtime::{Backoff, within};
use granary_types::DiskId;
use granary_types::limits::BLOCK_BYTES;

use crate::Shared;
use crate::error::ReadError;
use crate::extents::ChunkPiece;
use crate::hints::RepairHint;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Rounds over all copies, with the map read again in between, before a chunk counts as missing.
const MISSING_ROUNDS: u32 = 3;
/// A copy that says nothing for so long hangs: a disk with too much to do has said so before.
const HANGS_AFTER: Duration = Duration::from_secs(5);
/// When the queues of all copies are full, how long they are tried once more.
const BUSY_LIMIT: Duration = Duration::from_secs(3);

/// Reads a piece, as verified blocks trimmed to it.
pub(crate) async fn read_piece(
    shared: &Shared,
    piece: ChunkPiece,
) -> Result<Vec<Bytes>, ReadError> {
    let blocks = read_blocks(shared, piece).await?;
    shared.metrics.bytes_read.inc_by(u64::from(piece.length));
    Ok(trim(blocks.0, blocks.1, piece))
}

/// Reads the whole blocks that cover a piece; the number is the first block's offset.
pub(crate) async fn read_blocks(
    shared: &Shared,
    piece: ChunkPiece,
) -> Result<(u32, Vec<Block>), ReadError> {
    let limit = Duration::from_millis(shared.config.chunk_read_timeout_ms);
    let mut backoff = Backoff::new(&shared.runtime, FIRST_PAUSE, LONGEST_PAUSE, limit);
    let (mut rounds_missing, mut were_busy) = (0, false);
    shared.hedges.note_read();
    loop {
        let order = shared.view.read_order(piece.chunk, &shared.config.zone);
        let remaining = backoff.remaining(&shared.runtime);
        let limit = match were_busy {
            true => remaining.min(BUSY_LIMIT),
            false => remaining,
        };
        let failures = match race(shared, piece, &order, limit).await {
            Ok(read) => return Ok((read.offset, read.blocks)),
            Err(failures) => failures,
        };
        let all_said = !order.is_empty() && failures.len() == order.len();
        let all = |kind| failures.iter().all(|(_, error)| error.kind() == kind);
        if were_busy && all(ErrorKind::Busy) {
            return Err(ReadError::Overloaded);
        }
        were_busy = all_said && all(ErrorKind::Busy);
        let all_missing = all_said && all(ErrorKind::NotFound);
        rounds_missing = if all_missing { rounds_missing + 1 } else { 0 };
        if rounds_missing >= MISSING_ROUNDS {
            tracing::error!(chunk = %piece.chunk, "chunk is on none of its disks");
            return Err(ReadError::Missing(piece.chunk));
        }
        if !backoff.wait(&shared.runtime).await {
            return Err(unavailable(piece, &failures));
        }
        if let Err(error) = shared.view.refresh_map().await {
            tracing::debug!(%error, "cluster map not refreshed");
        }
    }
}

fn unavailable(piece: ChunkPiece, failures: &[(DiskId, BlobError)]) -> ReadError {
    let reasons: Vec<_> = failures
        .iter()
        .map(|(disk, error)| format!("disk {disk}: {error}"))
        .collect();
    let nobody = || "its placement group is not known".to_owned();
    ReadError::Unavailable {
        chunk: piece.chunk,
        reason: if reasons.is_empty() {
            nobody()
        } else {
            reasons.join("; ")
        },
    }
}

/// Asks the copies in order: the next one when one fails, when one hangs, and, as far as that may be
/// done, when one is slow.
async fn race(
    shared: &Shared,
    piece: ChunkPiece,
    order: &[DiskId],
    limit: Duration,
) -> Result<ChunkRead, Vec<(DiskId, BlobError)>> {
    let until = shared.runtime.monotonic() + limit;
    let at_least = Duration::from_millis(shared.config.hedge_min_ms);
    let mut waiting = order.iter().copied();
    let mut asked = FuturesUnordered::new();
    // In the order in which they were asked.
    let mut silent = Vec::new();
    let mut asked_last = shared.runtime.monotonic();
    let mut failures: Vec<(DiskId, BlobError)> = Vec::new();
    if let Some(first) = waiting.next() {
        silent.push(first);
        asked.push(get_one(shared, first, piece));
    }
    loop {
        let left = until.saturating_sub(shared.runtime.monotonic());
        let patience = match waiting.len() {
            0 => left,
            _ => shared.latency.hedge_after(at_least).min(left),
        };
        match within(patience, asked.next()).await {
            Ok(Some((disk, Ok(read)))) => {
                note_winner(shared, disk, &silent);
                return Ok(read);
            }
            Ok(Some((disk, Err(error)))) => {
                silent.retain(|&other| other != disk);
                note_failure(shared, piece, disk, &error);
                failures.push((disk, error));
            }
            Ok(None) => return Err(failures),
            Err(_) => {
                let now = shared.runtime.monotonic();
                if now >= until || waiting.len() == 0 {
                    return Err(failures);
                }
                let hangs = now.saturating_sub(asked_last) >= HANGS_AFTER;
                let last = failures.last();
                let busy = last.is_some_and(|(_, error)| error.kind() == ErrorKind::Busy);
                if !hangs && (busy || !shared.hedges.take()) {
                    continue;
                }
                shared.metrics.reads_hedged.inc();
            }
        }
        if let Some(next) = waiting.next() {
            silent.push(next);
            asked_last = shared.runtime.monotonic();
            asked.push(get_one(shared, next, piece));
        }
    }
}

/// Those that were asked before the winner and are still silent are slow.
fn note_winner(shared: &Shared, winner: DiskId, silent: &[DiskId]) {
    match silent.iter().position(|&disk| disk == winner) {
        Some(0) if silent.len() == 1 => shared.view.note_read(winner),
        Some(position) => {
            for &disk in &silent[..position] {
                shared.view.note_slow_read(disk);
            }
        }
        None => {}
    }
}

async fn get_one(
    shared: &Shared,
    disk: DiskId,
    piece: ChunkPiece,
) -> (DiskId, Result<ChunkRead, BlobError>) {
    let Some(node) = shared.view.node_of(disk) else {
        let what = "its node is not known here".to_owned();
        return (disk, Err(BlobError::Unreachable(what)));
    };
    let range = GetChunk {
        id: piece.chunk,
        offset: piece.offset,
        length: piece.length,
        background: false,
    };
    let started = shared.runtime.monotonic();
    let answer = node.get(disk, range).await;
    let checked = answer.and_then(|read| {
        shared
            .latency
            .record(shared.runtime.monotonic().saturating_sub(started));
        if covers(&read, piece) {
            Ok(read)
        } else {
            Err(BlobError::Corrupt(piece.chunk))
        }
    });
    (disk, checked)
}

/// True when the blocks are intact, of the right shape, and hold every byte of the piece.
fn covers(read: &ChunkRead, piece: ChunkPiece) -> bool {
    let (last, full) = match read.blocks.split_last() {
        Some((last, full)) => (last, full),
        None => return false,
    };
    let end = read.offset as usize + full.len() * BLOCK_BYTES + last.data.len();
    read.offset <= piece.offset
        && end >= piece.offset as usize + piece.length as usize
        && full.iter().all(|block| block.data.len() == BLOCK_BYTES)
        && read.blocks.iter().all(Block::is_intact)
}

fn note_failure(shared: &Shared, piece: ChunkPiece, disk: DiskId, error: &BlobError) {
    tracing::debug!(%disk, chunk = %piece.chunk, %error, "copy not read");
    shared.view.note_error(disk, error);
    if error.kind() == ErrorKind::Corrupt {
        shared.metrics.copies_corrupt.inc();
    }
    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
        shared.hints.add(RepairHint {
            chunk: piece.chunk,
            disk,
        });
    }
}

/// Cuts the first and the last block to the piece.
fn trim(first_offset: u32, blocks: Vec<Block>, piece: ChunkPiece) -> Vec<Bytes> {
    let mut skip = (piece.offset - first_offset) as usize;
    let mut wanted = piece.length as usize;
    let mut parts = Vec::with_capacity(blocks.len());
    for block in blocks {
        let mut bytes = block.data;
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        let bytes_left = bytes.split_off(skipped);
        let taken = wanted.min(bytes_left.len());
        wanted -= taken;
        if taken > 0 {
            parts.push(bytes_left.slice(..taken));
        }
    }
    parts
}
