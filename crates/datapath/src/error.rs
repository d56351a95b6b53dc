//! Why bytes could not be written, read or copied. The gateway turns each into an answer; nothing
//! here knows wire codes.

use std::sync::Arc;

use granary_meta_api::{MetaError, pb};
use granary_types::ChunkId;

/// The client's body failed: the connection broke, or its framing or checksum was wrong.
///
/// Carries whatever error the source of the body had, so that the gateway finds its own again
/// with [`BodyError::downcast_ref`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("request body failed: {0}")]
pub struct BodyError(Arc<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// Wraps the error of the body's source.
    pub fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The wrapped error, if it is an `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

/// Why a write did not produce a payload. Nothing of it is visible; the sweep removes what it left.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The body's source failed: the client's doing.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is, or is declared to be, longer than allowed.
    #[error("body exceeds {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The body ended before the declared length.
    #[error("body ended after {received} of {declared} bytes")]
    Short {
        /// Bytes declared.
        declared: u64,
        /// Bytes that came.
        received: u64,
    },
    /// The body went on after the declared length.
    #[error("body is longer than the declared {declared} bytes")]
    Long {
        /// Bytes declared.
        declared: u64,
    },
    /// No placement group of the class takes the bytes: none exists, or too many disks are out or
    /// full. Try later.
    #[error("no placement group can take the chunk: {0}")]
    Unavailable(String),
    /// Memory or disk queues are full. Try later.
    #[error("too many writes at once")]
    Overloaded,
    /// The metadata service gave no answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The metadata service said no: the write expired, or the bucket is gone or changed.
    #[error("write refused: {}", .0.detail)]
    Refused(pb::Rejection),
    /// Only in [`crate::DataPath::copy`]: the source could not be read.
    #[error("source of the copy: {0}")]
    Source(#[from] ReadError),
    /// The process is going away.
    #[error("shutting down")]
    ShuttingDown,
}

/// Why the rest of an object could not be read. Bytes that were already sent were right.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No intact copy of a chunk can be reached now. Try later.
    #[error("chunk {chunk} cannot be read now: {reason}")]
    Unavailable {
        /// The chunk.
        chunk: ChunkId,
        /// What its copies answered.
        reason: String,
    },
    /// Every copy of a chunk was reached and none holds it.
    #[error("chunk {0} is on none of its disks")]
    Missing(ChunkId),
    /// The object has another length than its record says, or a reference of an unknown kind.
    #[error("object record does not fit its bytes: {0}")]
    Malformed(String),
    /// Memory for reading is exhausted. Try later.
    #[error("too many reads at once")]
    Overloaded,
    /// The read lasted longer than the documented age.
    #[error("read lasted too long")]
    TooOld,
    /// The metadata service gave no answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The process is going away.
    #[error("shutting down")]
    ShuttingDown,
}
