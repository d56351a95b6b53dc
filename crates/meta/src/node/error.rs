//! Why a node's metadata service could not be opened, formed or stopped.

use granary_meta_api::MetaError;
use granary_raft::{RaftError, StateMachineError};
use granary_runtime::BlockingCancelled;
use granary_types::ShardId;

/// Why a node's metadata service could not be opened, formed or stopped.
#[derive(Debug, thiserror::Error)]
pub enum MetaNodeError {
    /// A shard's group failed.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// A shard's state cannot be read.
    #[error(transparent)]
    State(#[from] StateMachineError),
    /// The metadata service gave no answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The cluster could not be formed.
    #[error("the cluster was not formed: {0}")]
    NotFormed(String),
    /// The metadata is newer than this version.
    #[error(
        "the metadata is at feature level {active}, and this version of Granary applies levels up to \
         {known}: start the version that the other nodes of the cluster run, or a newer one"
    )]
    TooOld {
        /// The level of the metadata.
        active: u64,
        /// The newest one that this version applies.
        known: u64,
    },
    /// A shard has no leader.
    #[error("shard {0} has no leader yet")]
    NotReady(ShardId),
    /// The process is going away.
    #[error("a blocking call did not finish")]
    Cancelled,
}

impl From<BlockingCancelled> for MetaNodeError {
    fn from(_: BlockingCancelled) -> Self {
        Self::Cancelled
    }
}
