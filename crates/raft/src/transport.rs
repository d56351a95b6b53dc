//! How requests reach peers. The real one is gRPC (`grpc`); tests pass messages in memory.

use async_trait::async_trait;
use granary_types::{NodeId, ShardId};

use crate::TransportError;
use crate::wire::{RaftReply, RaftRequest};

/// Carries requests to peers. Each call is answered or fails within a bounded time; the caller
/// drops the future at its own deadline.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends `request` to `shard` on node `to` and waits for the reply. The receiver hands it to
    /// [`RaftHost::handle`](crate::RaftHost::handle).
    ///
    /// # Errors
    /// See [`TransportError`].
    async fn send(
        &self,
        to: NodeId,
        shard: ShardId,
        request: RaftRequest,
    ) -> Result<RaftReply, TransportError>;
}

/// The transport of a node that has no peers: every send fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

#[async_trait]
impl RaftTransport for NoPeers {
    async fn send(
        &self,
        to: NodeId,
        _shard: ShardId,
        _request: RaftRequest,
    ) -> Result<RaftReply, TransportError> {
        Err(TransportError::Unreachable {
            peer: to,
            reason: "this node has no peers".to_owned(),
        })
    }
}
