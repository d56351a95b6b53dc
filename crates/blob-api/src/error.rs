//! Why a storage node could not do what was asked.

use granary_types::{ChunkId, DiskId, PgId};

/// What a caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not on this disk: try another copy.
    NotFound,
    /// The caller's view is old, or the id is taken by other bytes.
    Conflict,
    /// The request breaks the protocol; repeating it cannot help.
    Invalid,
    /// Too much at once: try again, or elsewhere.
    Busy,
    /// The disk or the node is out: go elsewhere.
    Unavailable,
    /// The bytes on this disk are damaged: take another copy and report it.
    Corrupt,
}

/// Why a storage node could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The disk does not hold the chunk.
    #[error("chunk {0} is not on this disk")]
    ChunkNotFound(ChunkId),
    /// The chunk was deleted by command.
    #[error("chunk {0} was deleted")]
    ChunkDeleted(ChunkId),
    /// The id is taken by other bytes.
    #[error("chunk {0} exists with other content")]
    ChunkExists(ChunkId),
    /// The group is not open on the disk, or the caller's epoch is older than the disk's.
    #[error("placement group {pg} is at epoch {current}")]
    StaleEpoch {
        /// The group.
        pg: PgId,
        /// The disk's epoch; 0 when the group was never opened on it.
        current: u64,
    },
    /// The stored bytes do not match their checksum.
    #[error("chunk {0} is damaged on this disk")]
    Corrupt(ChunkId),
    /// The request breaks the protocol.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The disk is above its watermark and takes no new chunks; reads and deletions go on.
    #[error("disk {0} is full")]
    DiskFull(DiskId),
    /// The disk is out: it failed, or the node does not have it.
    #[error("disk {0} is out of service")]
    DiskFailed(DiskId),
    /// The disk's queue is full.
    #[error("disk {0} has too many requests in flight")]
    Busy(DiskId),
    /// The node could not be reached in time; whether it acted is unknown.
    #[error("storage node is unreachable: {0}")]
    Unreachable(String),
}

impl BlobError {
    /// What a caller may do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ChunkNotFound(_) | Self::ChunkDeleted(_) => ErrorKind::NotFound,
            Self::ChunkExists(_) | Self::StaleEpoch { .. } => ErrorKind::Conflict,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Busy(_) => ErrorKind::Busy,
            Self::DiskFull(_) | Self::DiskFailed(_) | Self::Unreachable(_) => {
                ErrorKind::Unavailable
            }
        }
    }
}
