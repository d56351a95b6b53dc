//! The repair primitives: one chunk from a good copy to a disk that lacks it, or once more into another
//! group.
//!
//! Which chunk, from where and to which disk or redundancy is the caller's, who compared listings.

use std::time::Duration;

use bytes::BytesMut;
use granary_blob_api::{BlobError, Block, ChunkEntry, ErrorKind, GetChunk, PutChunk};
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, Redundancy};

use crate::Shared;
use crate::copy::take_write_memory;
use crate::digest::CutChunk;
use crate::error::WriteError;
use crate::part::store_part;

/// Why a chunk was not restored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RestoreError {
    /// The chunk was deleted by command, or every source answered that it does not have it: there
    /// is nothing to restore.
    #[error("chunk was deleted meanwhile")]
    Gone,
    /// No source has an intact copy that can be read now.
    #[error("no intact copy can be read: {0}")]
    NoSource(String),
    /// The disk that lacks it did not take it.
    #[error("disk did not take the chunk: {0}")]
    Target(BlobError),
    /// No group took the bytes.
    #[error("no group took the chunk")]
    Nowhere(#[from] WriteError),
    /// Memory is short; try later.
    #[error("too much in transit")]
    Overloaded,
}

/// Copies a chunk from the first of `sources` that holds it intact to `target`, when it is their
/// turn.
pub(crate) async fn restore_chunk(
    shared: &Shared,
    entry: &ChunkEntry,
    sources: &[DiskId],
    target: DiskId,
    pg_epoch: u64,
) -> Result<(), RestoreError> {
    let pair = sources.first().copied().into_iter().chain([target]);
    let rate = shared.config.repair_bytes_per_sec;
    let pace = &shared.repair_pace;
    let turn = pace.turn(&shared.runtime, pair, u64::from(entry.length), rate);
    let _place = turn.await;
    let _share = take_write_memory(shared, entry.length as usize)
        .await
        .map_err(|_| RestoreError::Overloaded)?;
    let blocks = read_whole(shared, entry, sources).await?;
    let unreachable = |what: &str| RestoreError::Target(BlobError::Unreachable(what.to_owned()));
    let node = shared
        .view
        .node_of(target)
        .ok_or_else(|| unreachable("its node is not known here"))?;
    let put = PutChunk {
        id: entry.id,
        owner: entry.owner,
        pg_epoch,
        blocks,
        background: true,
    };
    let limit = Duration::from_millis(shared.config.chunk_write_timeout_ms);
    match within(limit, node.put(target, put)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(BlobError::ChunkDeleted(_))) => Err(RestoreError::Gone),
        Ok(Err(error)) => Err(RestoreError::Target(error)),
        Err(_) => Err(unreachable("no answer in time")),
    }
}

/// Stores what a chunk holds once more, in a group that takes bytes of a redundancy now, from the first
/// of `sources` that has it intact. Returns what attempts in vain may have left.
pub(crate) async fn store_again(
    shared: &Shared,
    entry: &ChunkEntry,
    sources: &[DiskId],
    redundancy: Redundancy,
) -> Result<Vec<ChunkId>, RestoreError> {
    let source = sources.first().copied();
    let rate = shared.config.repair_bytes_per_sec;
    let pace = &shared.repair_pace;
    let turn = pace.turn(&shared.runtime, source, u64::from(entry.length), rate);
    let _place = turn.await;
    let share = take_write_memory(shared, entry.length as usize)
        .await
        .map_err(|_| RestoreError::Overloaded)?;
    let blocks = read_whole(shared, entry, sources).await?;
    let mut bytes = BytesMut::with_capacity(entry.length as usize);
    for block in blocks {
        bytes.extend_from_slice(&block.data);
    }
    drop(share);
    let stored = store_part(shared, redundancy, entry.owner, bytes.freeze()).await?;
    Ok(stored.into_iter().skip(1).collect())
}

/// The blocks of a whole chunk whose digest is the listed one.
async fn read_whole(
    shared: &Shared,
    entry: &ChunkEntry,
    sources: &[DiskId],
) -> Result<Vec<Block>, RestoreError> {
    let limit = Duration::from_millis(shared.config.chunk_read_timeout_ms);
    let mut last = "no other disk holds it".to_owned();
    let mut missing = 0;
    for &disk in sources {
        let Some(node) = shared.view.node_of(disk) else {
            last = format!("disk {disk}: its node is not known here");
            continue;
        };
        let range = GetChunk {
            id: entry.id,
            offset: 0,
            length: entry.length,
            background: true,
        };
        match within(limit, node.get(disk, range)).await {
            Ok(Ok(read)) if is_intact(entry, &read.blocks) => return Ok(read.blocks),
            Ok(Ok(_)) => last = format!("disk {disk}: bytes do not fit the listed digest"),
            // One disk that heard of the deletion is enough.
            Ok(Err(BlobError::ChunkDeleted(_))) => return Err(RestoreError::Gone),
            Ok(Err(BlobError::ChunkNotFound(_))) => missing += 1,
            Ok(Err(error)) => last = format!("disk {disk}: {error}"),
            Err(_) => last = format!("disk {disk}: no answer in time"),
        }
    }
    // A disk that could not be asked may still have it.
    Err(if missing > 0 && missing == sources.len() {
        RestoreError::Gone
    } else {
        RestoreError::NoSource(last)
    })
}

/// What a look at one copy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyCheck {
    /// The disk holds the chunk as it is listed, every byte of it.
    Good,
    /// The disk answered, and what it holds is damaged, something else, or nothing.
    Bad,
    /// The chunk was deleted by command: the disk need not hold it.
    Deleted,
    /// Nobody knows: the disk did not answer, or memory was short.
    Unknown,
}

/// Reads a copy as a whole.
pub(crate) async fn verify_copy(shared: &Shared, entry: &ChunkEntry, disk: DiskId) -> CopyCheck {
    let share = take_write_memory(shared, entry.length as usize).await;
    let (Ok(_share), Some(node)) = (share, shared.view.node_of(disk)) else {
        return CopyCheck::Unknown;
    };
    let range = GetChunk {
        id: entry.id,
        offset: 0,
        length: entry.length,
        background: false,
    };
    let limit = Duration::from_millis(shared.config.chunk_read_timeout_ms);
    match within(limit, node.get(disk, range)).await {
        Ok(Ok(read)) if is_intact(entry, &read.blocks) => CopyCheck::Good,
        Ok(Ok(_)) => CopyCheck::Bad,
        Ok(Err(BlobError::ChunkDeleted(_))) => CopyCheck::Deleted,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid => CopyCheck::Bad,
            _ => CopyCheck::Unknown,
        },
        Err(_) => CopyCheck::Unknown,
    }
}

fn is_intact(entry: &ChunkEntry, blocks: &[Block]) -> bool {
    let cut = CutChunk::from_blocks(blocks.to_vec());
    cut.length == entry.length && cut.digest == entry.digest && blocks.iter().all(Block::is_intact)
}
