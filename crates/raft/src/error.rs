//! What can go wrong, as callers see it. Nothing here names the consensus library.

use granary_kv::KvError;
use granary_types::{NodeId, ShardId};

use crate::StateMachineError;

/// This node does not lead the shard, or can't prove that it still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead the shard (leader: {leader:?})")]
pub struct NotLeader {
    /// Who leads it, as far as this node knows.
    pub leader: Option<NodeId>,
}

/// Why a proposal was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed: another node leads.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The deadline passed or leadership was lost meanwhile: the command may or may not be
    /// applied, now or later. Only a repeat with the same command id may be tried.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
    /// Nothing was proposed: the command alone exceeds `limits::LOG_ENTRY_BYTES_MAX`.
    #[error("a command of {bytes} bytes does not fit into a log entry")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Nothing was proposed: the shard's queue is full. Try again later.
    #[error("the shard's queue of proposals is full")]
    Busy,
    /// Nothing was proposed: the shard was stopped on this node.
    #[error("the shard is stopped on this node")]
    Stopped,
    /// The shard stopped on this node because its log or state machine failed; the command's
    /// outcome is unknown.
    #[error("the shard failed on this node")]
    Failed,
}

/// Why a group could not be opened, formed or changed, or a request of a peer not be handled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RaftError {
    /// The shard is not open on this node.
    #[error("shard {0} is not open on this node")]
    UnknownShard(ShardId),
    /// The shard is open already.
    #[error("shard {0} is open already")]
    AlreadyOpen(ShardId),
    /// This node does not lead the shard.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The settings contradict each other.
    #[error("raft settings are not usable: {0}")]
    Config(String),
    /// The store failed or holds what can't be read.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The log holds what can't be read, or lacks an entry.
    #[error("raft log of shard {shard} is corrupt: {reason}")]
    CorruptLog {
        /// Whose log.
        shard: ShardId,
        /// What is wrong.
        reason: String,
    },
    /// The state machine failed.
    #[error(transparent)]
    StateMachine(#[from] StateMachineError),
    /// The peer's message can't be understood.
    #[error("malformed raft message: {0}")]
    Malformed(&'static str),
    /// The request is fine but can't be served now: repeat it later.
    #[error("not now: {0}")]
    NotNow(&'static str),
    /// A membership change was refused.
    #[error("membership change refused: {0}")]
    Membership(String),
    /// The shard or the node was stopped, or failed earlier.
    #[error("shard is stopped: {0}")]
    Stopped(String),
}

/// Why a request did not reach a peer or was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer can't be reached (no address, refused, down): wait before the next try.
    #[error("peer {peer} is unreachable: {reason}")]
    Unreachable {
        /// Whom.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// No answer in time, or the connection broke: it may have been received.
    #[error("no answer from peer {peer}: {reason}")]
    NoAnswer {
        /// From whom.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// The peer answered with a refusal (not open there, starting, malformed).
    #[error("peer {peer} refused: {reason}")]
    Refused {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: String,
    },
}
