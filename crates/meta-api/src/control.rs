//! The seam to one node's replicas, for whoever keeps the members of the shards.

use async_trait::async_trait;
use granary_types::{NodeId, ShardId, SlabId};

use crate::{MetaError, pb};

/// One node's replicas. Every call can be repeated: what is so already is answered as done. Each
/// ends within a bounded time.
#[async_trait]
pub trait MetaControl: Send + Sync + 'static {
    /// The replicas that are open on this node.
    ///
    /// # Errors
    /// See [`MetaError`].
    async fn list_replicas(&self) -> Result<Vec<pb::Replica>, MetaError>;

    /// The newest feature level that the node's binary applies.
    ///
    /// # Errors
    /// See [`MetaError`].
    async fn feature_level(&self) -> Result<u64, MetaError>;

    /// Opens a replica of a shard that exists elsewhere. It is empty, and neither leads nor forms
    /// anything: the shard's leader sends it a snapshot once it is a member.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] when the shard is open with another home slab; see [`MetaError`].
    async fn open_replica(&self, shard: ShardId, home: SlabId) -> Result<(), MetaError>;

    /// Lets a node follow a shard that this node leads. Done when it is a member, which is before
    /// it has caught up (see [`pb::Replica::followers`]).
    ///
    /// # Errors
    /// [`MetaError::NotLeader`]; see [`MetaError`].
    async fn add_learner(&self, shard: ShardId, node: NodeId) -> Result<(), MetaError>;

    /// Makes exactly these nodes the members of a shard that this node leads, all of them voters.
    /// New ones must be learners that have caught up. A change that was left half done is ended
    /// first.
    ///
    /// # Errors
    /// [`MetaError::NotLeader`], [`MetaError::Invalid`] when a new voter is no learner,
    /// [`MetaError::Unavailable`] when one has not caught up or the change takes longer (it may
    /// still come to pass); see [`MetaError`].
    async fn change_voters(&self, shard: ShardId, voters: &[NodeId]) -> Result<(), MetaError>;

    /// Hands a shard that this node leads over to another voter. Done when that one leads.
    ///
    /// # Errors
    /// [`MetaError::NotLeader`], [`MetaError::Invalid`] when the node does not vote,
    /// [`MetaError::Unavailable`] when it did not take over in time; see [`MetaError`].
    async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), MetaError>;
}
