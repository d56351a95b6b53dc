//! The protocol over gRPC: a transport for the sending node, routes for the receiving one.
//!
//! Heartbeats and votes, log entries, and snapshots each have a connection of their own, so that
//! a heartbeat never waits behind bulk data. Which address a node has, and how to connect to it,
//! is the caller's business ([`Dial`]).

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use async_trait::async_trait;
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::wire::proto::raft_client::RaftClient;
use crate::wire::proto::raft_server::{Raft, RaftServer};
use crate::wire::proto::{self, reply, request};
use crate::wire::{RaftReply, RaftRequest, RequestKind};
use crate::{RaftError, RaftHost, RaftTransport, TransportError};

/// Longest message, in bytes: a full append (its limit plus one entry) with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, hand-overs.
    Control,
    /// Log entries.
    Log,
    /// Snapshots.
    Snapshot,
}

impl Lane {
    fn of(request: &RaftRequest) -> Self {
        match request.kind() {
            RequestKind::Append if !request.is_heartbeat() => Self::Log,
            RequestKind::Snapshot => Self::Snapshot,
            _ => Self::Control,
        }
    }
}

/// Knows where nodes are. Implementations set connect timeout, keep-alive and TLS.
pub trait Dial: Send + Sync + 'static {
    /// A channel to `to` that connects when it is used; `None` when its address is unknown. Asked
    /// again after the node could not be reached, since its address may have changed.
    fn dial(&self, to: NodeId, lane: Lane) -> Option<Channel>;
}

/// Sends requests over gRPC.
pub struct GrpcTransport {
    dial: Arc<dyn Dial>,
    /// One per peer and lane.
    channels: Mutex<BTreeMap<(NodeId, Lane), Channel>>,
}

impl std::fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcTransport").finish_non_exhaustive()
    }
}

impl GrpcTransport {
    /// A transport over the connections that `dial` makes.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self {
            dial,
            channels: Mutex::new(BTreeMap::new()),
        }
    }

    fn channel(&self, to: NodeId, lane: Lane) -> Result<Channel, TransportError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(to, lane)) {
            return Ok(channel.clone());
        }
        let channel = self
            .dial
            .dial(to, lane)
            .ok_or_else(|| TransportError::Unreachable {
                peer: to,
                reason: "its address is unknown".to_owned(),
            })?;
        channels.insert((to, lane), channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl RaftTransport for GrpcTransport {
    async fn send(
        &self,
        to: NodeId,
        shard: ShardId,
        request: RaftRequest,
    ) -> Result<RaftReply, TransportError> {
        let lane = Lane::of(&request);
        let mut client = RaftClient::new(self.channel(to, lane)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let envelope = proto::Envelope {
            shard: shard.0,
            to: to.0,
            request: Some(proto::Request {
                body: Some(request.0),
            }),
        };
        let refused = |reason: String| TransportError::Refused { peer: to, reason };
        match client.send(envelope).await {
            Ok(reply) => match reply.into_inner().body {
                Some(body) => Ok(RaftReply(body)),
                None => Err(refused("the reply is empty".to_owned())),
            },
            Err(status) => {
                let reason = status.message().to_owned();
                match status.code() {
                    Code::Unavailable => {
                        self.channels.lock().remove(&(to, lane));
                        Err(TransportError::Unreachable { peer: to, reason })
                    }
                    // Made here, of a connection that ended because the node stops in an orderly way.
                    Code::Internal if status.source().is_some() => {
                        Err(TransportError::NoAnswer { peer: to, reason })
                    }
                    Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                        Err(TransportError::NoAnswer { peer: to, reason })
                    }
                    _ => Err(refused(reason)),
                }
            }
        }
    }
}

/// In a request's extensions: this node sent it, which was removed from the cluster. It is heard only
/// about shards of which it is a member still: without it they may have no majority to let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedSender(pub NodeId);

/// The receiving side, to be served by the node's internal listener.
pub fn routes(host: Arc<RaftHost>) -> Routes {
    Routes::new(
        RaftServer::new(Service { host })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}

pub(crate) struct Service {
    pub(crate) host: Arc<RaftHost>,
}

#[async_trait]
impl Raft for Service {
    async fn send(
        &self,
        envelope: Request<proto::Envelope>,
    ) -> Result<Response<proto::Reply>, Status> {
        // What the listener knows of the sender; a process without one has no other nodes.
        let sender = envelope.extensions().get::<NodeId>().copied();
        let removed = envelope.extensions().get::<RemovedSender>().copied();
        let proto::Envelope { shard, to, request } = envelope.into_inner();
        if let Some(RemovedSender(node)) = removed
            && !self.host.has_member(Some(ShardId(shard)), node)
        {
            let said = format!("node {node} was removed from the cluster and from shard {shard}");
            return Err(Status::permission_denied(said));
        }
        if NodeId(to) != self.host.node() {
            // A reused address: whoever the sender means, it is not this node.
            let node = self.host.node();
            return Err(Status::failed_precondition(format!(
                "this is node {node}, not {to}"
            )));
        }
        let body = request.and_then(|request| request.body);
        let body = body.ok_or_else(|| Status::invalid_argument("the request is empty"))?;
        if let (Some(RemovedSender(node)), request::Body::Append(append)) = (removed, &body)
            && !append.hands_over
        {
            // It would lead for ever, and nobody would find it.
            let said = format!("node {node} was removed from the cluster");
            return Err(Status::permission_denied(said));
        }
        let request = RaftRequest(body);
        check_sender(sender, &request)?;
        match self.host.handle(ShardId(shard), request).await {
            Ok(RaftReply(mut body)) => {
                if let reply::Body::Append(reply) = &mut body {
                    reply.sender_removed = removed.is_some();
                }
                Ok(Response::new(proto::Reply { body: Some(body) }))
            }
            Err(error) => Err(status(&error)),
        }
    }
}

/// A node speaks for itself only: nobody leads, or asks for votes, under another's name.
fn check_sender(sender: Option<NodeId>, request: &RaftRequest) -> Result<(), Status> {
    match (sender, request.claims()) {
        (Some(sender), Some(claimed)) if sender != claimed => {
            let said = format!("node {sender} may not speak for node {claimed}");
            Err(Status::permission_denied(said))
        }
        _ => Ok(()),
    }
}

fn status(error: &RaftError) -> Status {
    let message = error.to_string();
    match error {
        RaftError::UnknownShard(_) => Status::not_found(message),
        RaftError::Malformed(_) => Status::invalid_argument(message),
        RaftError::NotNow(_) => Status::failed_precondition(message),
        RaftError::Stopped(_) => Status::aborted(message),
        _ => Status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::proto::request::Body;
    use super::*;

    #[test]
    fn a_node_speaks_for_itself_only() {
        let vote = Some(proto::Vote {
            term: 7,
            node: 2,
            committed: true,
        });
        let begin = proto::SnapshotBegin {
            vote,
            ..Default::default()
        };
        let finish = proto::SnapshotFinish {
            vote,
            ..Default::default()
        };
        let transfer = proto::TransferLeader {
            from: vote,
            to: 3,
            last: None,
        };
        let append = proto::Append {
            vote,
            ..Default::default()
        };
        let call = proto::VoteCall {
            vote,
            ..Default::default()
        };
        for body in [
            Body::Append(append),
            Body::Vote(call),
            Body::SnapshotBegin(begin),
            Body::SnapshotFinish(finish),
            Body::TransferLeader(transfer),
        ] {
            let request = RaftRequest(body);
            assert!(check_sender(Some(NodeId(2)), &request).is_ok());
            assert!(check_sender(None, &request).is_ok());
            let refused = check_sender(Some(NodeId(3)), &request).unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{request:?}");
        }
        let chunk = RaftRequest(Body::SnapshotChunk(proto::SnapshotChunk::default()));
        assert!(check_sender(Some(NodeId(3)), &chunk).is_ok());
    }
}
