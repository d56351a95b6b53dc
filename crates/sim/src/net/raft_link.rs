//! Raft messages of one life of a node.

use std::time::Duration;

use async_trait::async_trait;
use granary_raft::{RaftReply, RaftRequest, RaftTransport, RequestKind, TransportError};
use granary_types::{NodeId, ShardId};

use super::{Endpoint, Life, Message, NetError, SimNet};

/// A node's way to its peers.
pub struct RaftLink {
    net: SimNet,
    life: Life,
}

impl RaftLink {
    /// The way of one life.
    pub fn new(net: SimNet, life: Life) -> Self {
        Self { net, life }
    }
}

/// Longer than any caller waits; callers drop the future at their own limit.
const TIMEOUT: Duration = Duration::from_secs(30);

#[async_trait]
impl RaftTransport for RaftLink {
    async fn send(
        &self,
        to: NodeId,
        shard: ShardId,
        request: RaftRequest,
    ) -> Result<RaftReply, TransportError> {
        let label = match request.kind() {
            RequestKind::Append if request.is_heartbeat() => "raft heartbeat",
            RequestKind::Append => "raft append",
            RequestKind::Vote => "raft vote",
            RequestKind::PreVote => "raft pre-vote",
            RequestKind::Snapshot => "raft snapshot",
            RequestKind::TransferLeader => "raft transfer",
        };
        let detail = u64::from(shard.0) << 32 | request.encoded_len() as u64;
        let message = Message {
            label,
            detail,
            timeout: TIMEOUT,
        };
        let served = self
            .net
            .call(&self.life, Endpoint(to.0), message, move |services| {
                let request = request.clone();
                async move {
                    match services.raft {
                        Some(raft) => raft.handle(shard, request).await.map_err(|e| e.to_string()),
                        None => Err("starting".to_owned()),
                    }
                }
            });
        match served.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(reason)) => Err(TransportError::Refused { peer: to, reason }),
            Err(NetError::Refused) => Err(TransportError::Unreachable {
                peer: to,
                reason: "refused".to_owned(),
            }),
            Err(NetError::NoAnswer) => Err(TransportError::NoAnswer {
                peer: to,
                reason: "no answer".to_owned(),
            }),
        }
    }
}
