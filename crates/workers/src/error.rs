//! Why a tick did not do its work. Every one of them may be tried again.

use granary_blob_api::BlobError;
use granary_meta_api::{MetaError, pb};
use granary_types::DiskId;

/// Why a tick did not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WorkerError {
    /// The metadata service gave no answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The metadata service said no.
    #[error("{what} was refused: {detail}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its reason.
        detail: String,
    },
    /// Another process has this worker's lease now.
    #[error("another process holds the lease")]
    LeaseLost,
    /// A disk did not do its part.
    #[error("disk {disk}: {error}")]
    Disk {
        /// The disk.
        disk: DiskId,
        /// What it said.
        error: BlobError,
    },
    /// A tick did not end in its time; what it did so far stays.
    #[error("tick took too long")]
    TooLong,
}

impl WorkerError {
    /// A "no" of the metadata service; a stale one means that the lease is lost.
    pub(crate) fn refused(what: &'static str, rejection: pb::Rejection) -> Self {
        if rejection.reason() == pb::rejection::Reason::Stale && what == ACK {
            return Self::LeaseLost;
        }
        Self::Refused {
            what,
            detail: format!("{:?} {}", rejection.reason(), rejection.detail),
        }
    }
}

/// The one command that carries the lease token.
pub(crate) const ACK: &str = "acknowledging deletions";
