//! Messages between nodes: opaque to transports, which only look at their kind and size.

/// Generated from `proto/raft.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub(crate) mod proto {
    tonic::include_proto!("granary.raft.v1");
}

use granary_types::NodeId;

/// A message to a peer's shard.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftRequest(pub(crate) proto::request::Body);

/// The peer's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftReply(pub(crate) proto::reply::Body);

/// What a request is about; transports separate bulk from heartbeats by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestKind {
    /// Log entries, or an empty one as a heartbeat.
    Append,
    /// A vote is asked for.
    Vote,
    /// Would a vote be granted?
    PreVote,
    /// A step of a snapshot's transfer.
    Snapshot,
    /// The leader hands over.
    TransferLeader,
}

impl RaftRequest {
    /// What the request is about.
    pub fn kind(&self) -> RequestKind {
        use proto::request::Body;
        match &self.0 {
            Body::Append(_) => RequestKind::Append,
            Body::Vote(call) if call.pre_vote => RequestKind::PreVote,
            Body::Vote(_) => RequestKind::Vote,
            Body::SnapshotBegin(_) | Body::SnapshotChunk(_) | Body::SnapshotFinish(_) => {
                RequestKind::Snapshot
            }
            Body::TransferLeader(_) => RequestKind::TransferLeader,
        }
    }

    /// The node that the request says it is from; `None` when it says nothing of that.
    pub(crate) fn claims(&self) -> Option<NodeId> {
        use proto::request::Body;
        let vote = match &self.0 {
            Body::Append(append) => append.vote,
            Body::Vote(call) => call.vote,
            Body::SnapshotBegin(begin) => begin.vote,
            Body::SnapshotFinish(finish) => finish.vote,
            Body::TransferLeader(transfer) => transfer.from,
            Body::SnapshotChunk(_) => None,
        };
        vote.map(|vote| NodeId(vote.node))
    }

    /// True for an append without entries: a heartbeat, or a commit position.
    pub fn is_heartbeat(&self) -> bool {
        matches!(&self.0, proto::request::Body::Append(append) if append.entries.is_empty())
    }

    /// Bytes on the wire, without envelope and framing.
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }
}
