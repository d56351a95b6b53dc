//! Why the metadata service gave no answer. A "no" of the cluster is a `pb::Rejection`, not this.

use granary_types::{NodeId, ShardId};

use crate::pb;

/// What a caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again, with the same command id.
    Retry,
    /// The map of ranges is old: refresh it, then try again.
    Reroute,
    /// Repeating it cannot help.
    Permanent,
}

/// Why the metadata service gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// This node does not lead the shard.
    #[error("shard {shard} is led by another node ({leader:?})")]
    NotLeader {
        /// The shard.
        shard: ShardId,
        /// Who leads it, when known.
        leader: Option<NodeId>,
    },
    /// The shard does not own the position, or this node does not have the shard.
    #[error("shard {0} does not own this position")]
    WrongShard(ShardId),
    /// The command may or may not have been decided; a repeat with the same id finds out.
    #[error("outcome unknown: {0}")]
    UnknownOutcome(String),
    /// The shard has too much queued.
    #[error("shard {0} is busy")]
    Busy(ShardId),
    /// The shard or the node cannot be reached or has no quorum.
    #[error("metadata service unavailable: {0}")]
    Unavailable(String),
    /// The deadline passed; an undecided command will be refused from now on.
    #[error("deadline has passed: {0}")]
    Expired(String),
    /// The command's deadline lies before the shard's time, which never goes back: this command was
    /// refused and always will be. [`crate::Meta`] never shows it: it sends the command anew, made
    /// for the shard's time, or says [`MetaError::Expired`].
    #[error("the deadline had passed: the shard's time is {shard_ms}")]
    Late {
        /// The shard's time, in milliseconds since the epoch.
        shard_ms: u64,
        /// True when no earlier attempt of the command was applied either.
        never_applied: bool,
    },
    /// The metadata directory is nearly full: only commands that free space are taken. It may pass,
    /// but not within one request: [`crate::Meta`] does not wait for it.
    #[error("no space for metadata: {0}")]
    NoSpace(String),
    /// The request breaks the protocol.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The service failed in a way a human must look at.
    #[error("metadata service failed: {0}")]
    Internal(String),
}

impl MetaError {
    /// What a caller may do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLeader { .. }
            | Self::UnknownOutcome(_)
            | Self::Busy(_)
            | Self::NoSpace(_)
            | Self::Unavailable(_) => ErrorKind::Retry,
            Self::WrongShard(_) => ErrorKind::Reroute,
            Self::Expired(_) | Self::Late { .. } | Self::Invalid(_) | Self::Internal(_) => {
                ErrorKind::Permanent
            }
        }
    }

    /// True when the command may have been applied although this was the answer.
    pub fn may_be_applied(&self) -> bool {
        !matches!(
            self,
            Self::WrongShard(_)
                | Self::Busy(_)
                | Self::Late { .. }
                | Self::NoSpace(_)
                | Self::Invalid(_)
        )
    }
}

/// An error as it crosses the wire.
impl From<MetaError> for pb::Fault {
    fn from(error: MetaError) -> Self {
        use pb::fault::Kind;
        let (mut shard_ms, mut never_applied) = (0, false);
        let (kind, leader, message) = match error {
            MetaError::NotLeader { leader, .. } => (
                Kind::NotLeader,
                leader.map_or(0, |node| node.0),
                String::new(),
            ),
            MetaError::WrongShard(_) => (Kind::WrongShard, 0, String::new()),
            MetaError::UnknownOutcome(message) => (Kind::UnknownOutcome, 0, message),
            MetaError::Busy(_) => (Kind::Busy, 0, String::new()),
            MetaError::Unavailable(message) => (Kind::Unavailable, 0, message),
            MetaError::Expired(message) => (Kind::Expired, 0, message),
            MetaError::Late {
                shard_ms: time_ms,
                never_applied: never,
            } => {
                (shard_ms, never_applied) = (time_ms, never);
                (Kind::Expired, 0, String::new())
            }
            MetaError::NoSpace(message) => (Kind::NoSpace, 0, message),
            MetaError::Invalid(message) => (Kind::Invalid, 0, message),
            MetaError::Internal(message) => (Kind::Internal, 0, message),
        };
        Self {
            kind: kind.into(),
            leader,
            message,
            shard_ms,
            never_applied,
        }
    }
}

impl MetaError {
    /// Reads what `pb::Fault::from` wrote, for a request to `shard`.
    pub fn from_fault(shard: ShardId, fault: pb::Fault) -> Self {
        use pb::fault::Kind;
        let message = fault.message;
        match Kind::try_from(fault.kind).unwrap_or(Kind::Internal) {
            Kind::NotLeader => {
                let leader = (fault.leader != 0).then_some(NodeId(fault.leader));
                Self::NotLeader { shard, leader }
            }
            Kind::WrongShard => Self::WrongShard(shard),
            Kind::UnknownOutcome => Self::UnknownOutcome(message),
            Kind::Busy => Self::Busy(shard),
            Kind::Unavailable => Self::Unavailable(message),
            Kind::Expired if fault.shard_ms != 0 => Self::Late {
                shard_ms: fault.shard_ms,
                never_applied: fault.never_applied,
            },
            Kind::Expired => Self::Expired(message),
            Kind::NoSpace => Self::NoSpace(message),
            Kind::Invalid => Self::Invalid(message),
            Kind::None | Kind::Internal => Self::Internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one side says is what the other side reads.
    #[test]
    fn errors_cross_the_wire_unchanged() {
        let shard = ShardId(3);
        let text = || "why".to_owned();
        let leader = Some(NodeId(7));
        for error in [
            MetaError::NotLeader { shard, leader },
            MetaError::NotLeader {
                shard,
                leader: None,
            },
            MetaError::WrongShard(shard),
            MetaError::UnknownOutcome(text()),
            MetaError::Busy(shard),
            MetaError::Unavailable(text()),
            MetaError::Expired(text()),
            MetaError::Late {
                shard_ms: 9,
                never_applied: true,
            },
            MetaError::NoSpace(text()),
            MetaError::Invalid(text()),
            MetaError::Internal(text()),
        ] {
            let fault = pb::Fault::from(error.clone());
            assert_eq!(MetaError::from_fault(shard, fault), error);
        }
    }
}
