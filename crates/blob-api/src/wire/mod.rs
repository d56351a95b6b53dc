//! Both gRPC adapters of the storage-node trait and the one mapping between its types and the wire.

mod bulk;
mod client;
mod convert;
mod fault;
mod room;
mod server;

pub use client::GrpcBlobNode;
pub use server::{BlobService, ServerLimits};

/// Bytes of one gRPC message at most: a whole chunk and its framing fit twice over.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
