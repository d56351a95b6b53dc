//! Why a command was not carried out.

use granary_kv::KvError;
use granary_meta_api::pb;
use granary_meta_api::pb::fault::Kind;
use granary_meta_api::pb::rejection::Reason;
use granary_raft::StateMachineError;

/// Why a command was not carried out. In every case its writes are undone.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The cluster decided "no"; recorded and replayed like any answer.
    Rejected(pb::Rejection),
    /// Not decided: the sender has to do something else (another shard, a new command).
    Fault(pb::Fault),
    /// The replica cannot go on.
    Failed(StateMachineError),
}

impl From<StateMachineError> for Refusal {
    fn from(error: StateMachineError) -> Self {
        Self::Failed(error)
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Rejected(pb::Rejection::of(reason))
    }
}

impl From<pb::Rejection> for Refusal {
    fn from(rejection: pb::Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl Refusal {
    /// A fault with a sentence.
    pub(crate) fn fault(kind: Kind, message: impl Into<String>) -> Self {
        Self::Fault(pb::Fault {
            kind: kind.into(),
            message: message.into(),
            ..Default::default()
        })
    }

    /// A command whose deadline lies before the shard's time. `never_applied`: no earlier attempt
    /// of it was applied either.
    pub(crate) fn late(shard_ms: u64, never_applied: bool) -> Self {
        Self::Fault(pb::Fault {
            kind: Kind::Expired.into(),
            shard_ms,
            never_applied,
            ..Default::default()
        })
    }

    /// A rejection of a command that makes no sense.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::Rejected(pb::Rejection::with_detail(Reason::Invalid, detail))
    }

    /// A rejection with a sentence.
    pub(crate) fn because(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Rejected(pb::Rejection::with_detail(reason, detail))
    }

    /// A rejection that names a part.
    pub(crate) fn part(reason: Reason, number: u32) -> Self {
        Self::Rejected(pb::Rejection {
            reason: reason.into(),
            part_number: number,
            ..Default::default()
        })
    }
}
