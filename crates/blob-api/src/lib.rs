//! The seam between whoever moves object bytes and the storage nodes that keep them.
//!
//! Owns the narrow trait [`BlobNode`], its error, both gRPC adapters and one conformance suite, so
//! the same data path runs on an in-process store, a remote one or a faulty one. It must not know
//! buckets' names, keys, permissions or visibility: a chunk is bytes under an id.

mod chunk;
mod error;
mod node;

pub use chunk::{
    Block, ChunkEntry, ChunkOwner, ChunkPage, ChunkRead, CopyChunk, GetChunk, PutChunk,
};
pub use error::{BlobError, ErrorKind};
pub use node::{BlobNode, DiskHealth, DiskStatus};
