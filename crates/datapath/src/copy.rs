//! Copying an object under a write of its own: from disk to disk where that is possible, through
//! bounded memory where it is not, never through the client.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use granary_blob_api::{BlobError, CopyChunk};
use granary_meta_api::pb;
use granary_types::limits::CHUNK_BYTES_MAX;
use granary_types::{ByteRange, ChunkId, DiskId, Redundancy};
use tokio_util::task::AbortOnDropHandle;

use crate::chunk_reader::read_blocks;
use crate::chunk_writer::{ask_disks, note_failures, store_chunk};
use crate::digest::CutChunk;
use crate::error::{BodyError, ReadError, WriteError};
use crate::extents::{ChunkPiece, ExtentCursor, WholePiece, chunk_of};
use crate::fold;
use crate::pin::ReadPin;
use crate::read::ReadStream;
use crate::session::{WriteOwner, WriteSession};
use crate::write::write;
use crate::{BodyLimits, Copied, CopyDigests, ReadSource, Shared, WriteTarget};

/// Chunks of one request that are copied at once.
const COPIES_IN_FLIGHT: usize = 4;

/// Copies a range; see [`crate::DataPath::copy`].
pub(crate) async fn copy(
    shared: &Arc<Shared>,
    source: ReadSource,
    range: ByteRange,
    target: WriteTarget,
    digests: CopyDigests,
) -> Result<Copied, WriteError> {
    let whole = range == ByteRange::whole(source.version.size);
    let small = range.length() <= shared.config.inline_max_bytes as u64;
    // The pieces of what was appended may change, and reach beyond the version that was read.
    let appended = fold::body_of(&source.version).is_some();
    if digests == CopyDigests::Compute || !whole || small || appended {
        return stream(shared, source, range, target, digests).await;
    }
    copy_chunks(shared, source, target).await
}

/// Reads and writes the range; memory is bounded by the read-ahead and the chunks in flight.
async fn stream(
    shared: &Arc<Shared>,
    source: ReadSource,
    range: ByteRange,
    target: WriteTarget,
    digests: CopyDigests,
) -> Result<Copied, WriteError> {
    let limits = BodyLimits {
        declared_length: Some(range.length()),
        max_bytes: range.length(),
    };
    let body = ReadStream::new(Arc::clone(shared), source, range)
        .map(|bytes| bytes.map_err(BodyError::new));
    let written = match write(shared, target, body, limits).await {
        Ok(written) => written,
        Err(WriteError::Body(error)) => {
            return Err(match error.downcast_ref::<ReadError>() {
                Some(source) => WriteError::Source(source.clone()),
                None => WriteError::Body(error),
            });
        }
        Err(error) => return Err(error),
    };
    // The caller keeps the source's digests; the computed ones need not even be the same kind
    // (a multipart object's ETag is no MD5 of its bytes).
    let computed = (digests == CopyDigests::Compute).then_some((written.md5, written.crc64));
    Ok(Copied {
        payload: written.payload,
        size: written.size,
        digests: computed,
        continued: written.continued,
    })
}

type Copying = AbortOnDropHandle<Result<pb::state::Extent, WriteError>>;

async fn copy_chunks(
    shared: &Arc<Shared>,
    source: ReadSource,
    target: WriteTarget,
) -> Result<Copied, WriteError> {
    let size = source.version.size;
    let _pin = ReadPin::start(shared, &source);
    let mut session = WriteSession::begin(shared, &target.at).await?;
    let mut cursor = ExtentCursor::new(Arc::clone(shared), source, ByteRange::whole(size))?;
    let mut in_flight: VecDeque<Copying> = VecDeque::new();
    loop {
        let next = cursor.next_whole().await?;
        let ended = next.is_none();
        if let Some(piece) = next {
            let (shared, owner) = (Arc::clone(shared), session.owner());
            let redundancy = target.redundancy;
            let task = shared.runtime.clone().spawn(async move {
                match piece {
                    WholePiece::Extent(extent) => {
                        copy_extent(&shared, redundancy, &owner, extent).await
                    }
                    WholePiece::Inline(bytes) => {
                        let chunk = CutChunk::from_pieces(vec![bytes]);
                        store_chunk(&shared, redundancy, &owner, &chunk).await
                    }
                }
            });
            in_flight.push_back(AbortOnDropHandle::new(task));
        }
        while in_flight.len() >= COPIES_IN_FLIGHT || (ended && !in_flight.is_empty()) {
            let Some(oldest) = in_flight.pop_front() else {
                break;
            };
            let extent = oldest.await.map_err(|_| WriteError::ShuttingDown)??;
            session.push(extent).await?;
            session.renew_if_due().await?;
        }
        if ended {
            break;
        }
    }
    Ok(Copied {
        payload: session.into_payload(size),
        size,
        digests: None,
        continued: None,
    })
}

/// Copies one chunk: on its own disks if all of them take part, else through memory.
async fn copy_extent(
    shared: &Shared,
    redundancy: Redundancy,
    owner: &WriteOwner,
    extent: pb::state::Extent,
) -> Result<pb::state::Extent, WriteError> {
    let source = chunk_of(&extent)?;
    if shared.pools(redundancy).first() == Some(&extent.pool)
        && extent.code == 0
        && let Some(chunk) = copy_on_disks(shared, source, owner).await
    {
        shared.metrics.chunks_copied.inc();
        return Ok(pb::state::Extent {
            chunk: Bytes::copy_from_slice(&chunk.to_bytes()),
            ..extent
        });
    }
    let _share = take_write_memory(shared, extent.length as usize).await?;
    let piece = ChunkPiece {
        chunk: source,
        offset: 0,
        length: extent.length,
    };
    let (_, blocks) = read_blocks(shared, piece).await?;
    store_chunk(shared, redundancy, owner, &CutChunk::from_blocks(blocks)).await
}

/// Copies a chunk on every disk of its group; `None` when a disk does not take part. What a
/// failed attempt may have left is noted with the owner.
async fn copy_on_disks(shared: &Shared, source: ChunkId, owner: &WriteOwner) -> Option<ChunkId> {
    let map = shared.view.map();
    let group = map.group(source.pg()).filter(|group| !group.closed)?;
    let disks: Vec<DiskId> = group.staying().collect();
    let complete = group.members.iter().all(|member| member.complete);
    let takes = |&disk: &DiskId| shared.view.is_writable(disk) && !shared.view.is_avoided(disk);
    let whole = complete && shared.view.is_confirmed();
    if disks.is_empty() || !whole || !disks.iter().all(takes) {
        return None;
    }
    let target = ChunkId::new(group.id, shared.runtime.entropy().next_u128());
    let copy = CopyChunk {
        source,
        target,
        owner: owner.of_chunks(),
        pg_epoch: group.epoch,
    };
    let limit = std::time::Duration::from_millis(shared.config.chunk_write_timeout_ms);
    let copied = ask_disks(shared, &disks, disks.len(), limit, |disk| async move {
        let copied = match shared.view.node_of(disk) {
            Some(node) => node.copy(disk, copy).await,
            None => Err(BlobError::Unreachable("node is not known".to_owned())),
        };
        (disk, copied)
    });
    let attempt = copied.await;
    if shared.view.count_copies(group.id, &attempt.acks) == disks.len() {
        return Some(target);
    }
    note_failures(shared, &attempt).await;
    owner.abandon(target);
    None
}

/// Memory for a chunk on its way from disks to disks.
pub(crate) async fn take_write_memory(
    shared: &Shared,
    bytes: usize,
) -> Result<crate::budget::Share, WriteError> {
    let wait = std::time::Duration::from_millis(shared.config.buffer_wait_ms);
    let share = shared
        .write_budget
        .take(bytes.min(CHUNK_BYTES_MAX), wait)
        .await;
    share.ok_or_else(|| {
        shared.metrics.overloaded.inc();
        WriteError::Overloaded
    })
}
