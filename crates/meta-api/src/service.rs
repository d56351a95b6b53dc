//! The narrow trait every way to the metadata service implements: in process, remote, faulty.

use async_trait::async_trait;
use granary_types::ShardId;

use crate::{MetaError, pb};

/// The metadata service as seen by its clients.
#[async_trait]
pub trait MetaService: Send + Sync + 'static {
    /// Decides a command on its shard. The answer is durable on a majority when it returns.
    ///
    /// A repeat of a command (same id) gets the first answer and changes nothing.
    ///
    /// # Errors
    /// See [`MetaError`]; a rejection by the cluster is not an error but part of the reply.
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError>;

    /// Reads the newest state of a shard.
    ///
    /// # Errors
    /// See [`MetaError`].
    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError>;
}
