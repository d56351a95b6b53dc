//! The consensus library's type parameters, chosen once.
//!
//! Standard leader ids: a term has at most one leader, which is what makes (term, counter) unique
//! for whoever derives identifiers from a log entry.

use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::raft::responder::Responder;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

/// The runtime that openraft runs on: tokio's tasks, channels and (pausable) time, with election
/// timeouts drawn from a seed.
///
/// openraft's runtime is a type, not a value, so it can't be handed a [`granary_runtime::Runtime`];
/// its only ways to randomness are a thread's generator or a task-local seed. This wrapper of
/// openraft's is the second one: a group is started inside [`seeded`] with a number drawn from our
/// runtime's entropy, and every task it spawns inherits a derived seed. So a simulation's seed
/// decides the election timeouts, and there is no static of ours. (Two runs under one seed may still
/// differ in order: tokio wakes several receivers of a `watch` channel at random.)
pub(crate) type RaftRuntime = DeterministicRng<TokioRuntime>;

/// Runs `future`, and everything openraft spawns from within it, under `seed`.
pub(crate) fn seeded<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    RaftRuntime::scope(seed, future)
}

/// Commands that travel in one log entry, stamped by their leader.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) time_ms: u64,
    pub(crate) entropy: u64,
    pub(crate) commands: Vec<Bytes>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands at {} ms", self.commands.len(), self.time_ms)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Type parameters of every Granary group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Batch;
    type R = Vec<Bytes>;
    type NodeId = u64;
    type Node = openraft::EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = RaftRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Takes the outcome of a proposal where it is known, without a task that waits for it. Dropped
/// uncalled when the group stops first.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Callback<T> {
    fn on_complete(self, outcome: T) {
        (self.0)(outcome);
    }
}

pub(crate) type Clid = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Clid>;
pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<Clid, u64, openraft::EmptyNode>;
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, openraft::EmptyNode>;
pub(crate) type Entry = openraft::Entry<Clid, Payload>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Clid, u64, openraft::EmptyNode>;
pub(crate) type Snapshot =
    openraft::Snapshot<Clid, u64, openraft::EmptyNode, crate::snapshot::SnapshotData>;
pub(crate) type Raft = openraft::Raft<Types, crate::machine::Machine>;
pub(crate) type Fatal = openraft::errors::Fatal<Types>;

/// An error as the consensus library takes it; it stops the group.
pub(crate) fn io_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use openraft::AsyncRuntime;

    use super::*;

    #[tokio::test]
    async fn election_timeouts_come_from_the_seed_in_spawned_tasks_too() {
        let draw = |seed| {
            seeded(seed, async {
                let own = RaftRuntime::thread_rng();
                let task = RaftRuntime::spawn(async { RaftRuntime::thread_rng() });
                (own, task.await.unwrap(), RaftRuntime::thread_rng())
            })
        };
        let first = draw(1).await;
        assert!(first == draw(1).await, "the same seed draws something else");
        assert!(first != draw(2).await, "the seed decides nothing");
        assert!(first.0 != first.1 && first.0 != first.2, "draws repeat");
    }
}
