//! One chunk that no object refers to: a part of the metadata's backup.

use bytes::Bytes;
use granary_blob_api::ChunkOwner;
use granary_types::{ChunkId, Redundancy};

use crate::Shared;
use crate::chunk_writer::store_chunk;
use crate::copy::take_write_memory;
use crate::digest::CutChunk;
use crate::error::WriteError;
use crate::session::WriteOwner;

/// Stores bytes as one chunk; that chunk first, then those that attempts in vain may have left.
pub(crate) async fn store_part(
    shared: &Shared,
    redundancy: Redundancy,
    owner: ChunkOwner,
    bytes: Bytes,
) -> Result<Vec<ChunkId>, WriteError> {
    let _share = take_write_memory(shared, bytes.len()).await?;
    let chunk = CutChunk::from_pieces(vec![bytes]);
    let owner = WriteOwner::of(owner);
    let extent = store_chunk(shared, redundancy, &owner, &chunk).await?;
    let mut chunks: Vec<ChunkId> = ChunkId::from_slice(&extent.chunk).into_iter().collect();
    chunks.extend(owner.abandoned());
    Ok(chunks)
}
