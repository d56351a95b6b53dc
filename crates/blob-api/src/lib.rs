//! The seam between whoever moves object bytes and the storage nodes that keep them.
//!
//! Owns the narrow trait [`BlobNode`], its error, both gRPC adapters and one conformance suite, so
//! the same data path runs on an in-process store, a remote one or a faulty one. It must not know
//! buckets' names, keys, permissions or visibility: a chunk is bytes under an id.

mod chunk;
mod error;
mod node;
#[cfg(feature = "testsuite")]
pub mod testsuite;
mod wire;

pub use chunk::{
    Block, ChunkEntry, ChunkOwner, ChunkPage, ChunkRead, CopyChunk, GetChunk, PutChunk, VerifyPage,
};
pub use error::{BlobError, ErrorKind};
pub use node::{BlobNode, DiskHealth, DiskStatus};
pub use wire::{BlobService, GrpcBlobNode, MESSAGE_BYTES_MAX, ServerLimits};

/// Messages of proto/blob.proto.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_imports,
    reason = "generated; documented in proto/blob.proto"
)]
pub(crate) mod pb {
    tonic::include_proto!("granary.blob");
}
