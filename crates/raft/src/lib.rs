//! Replicated state machines: many Raft groups of one node over one key-value store.
//!
//! This crate alone knows the consensus library; nothing of it shows in the API. It does not know
//! what the commands mean, and it must not: a [`StateMachine`] applies them.
//!
//! * [`RaftHost`] is one per node. It owns the one stream of syncs over the store, so that many
//!   groups' entries become durable together, and takes the peers' requests ([`RaftHost::handle`]).
//! * [`Group`] is one shard on this node: propose, confirm reads, change members.
//! * [`RaftTransport`] carries messages; [`grpc`] is the real one.
//!
//! Invariants:
//! * what was acknowledged is durable on a majority, and applied in log order, exactly once;
//! * two replicas at the same log index were given the same entries, with the time and entropy
//!   that the leader stamped;
//! * a log entry or vote that can't be read stops the group: nothing is skipped or guessed;
//! * the log is cut only below what is durably applied, and kept within a limit of bytes;
//! * a group whose log or state machine failed leads no more, and its host says so
//!   ([`RaftHost::failed`]);
//! * a group forms only by an explicit [`RaftHost::bootstrap`], never because nobody answered.

mod backup;
mod clocks;
mod config;
mod error;
mod format;
mod group;
pub mod grpc;
mod handle;
mod health;
mod host;
mod lease;
mod log_key;
mod log_scan;
mod log_store;
mod machine;
mod network;
mod promise;
mod proposer;
mod retention;
mod snapshot;
mod state_machine;
mod tail;
mod transport;
mod types;
mod wire;

#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testsuite"))]
pub mod testsuite;

pub use backup::{AppliedEntries, LogPosition, Replay, Step};
pub use config::RaftConfig;
pub use error::{NotLeader, ProposeError, RaftError, TransportError};
pub use group::{Group, GroupMetrics, Members};
pub use health::RaftFailure;
pub use host::{RaftHost, Seal};
pub use lease::LeaseRead;
pub use state_machine::{
    Committed, SNAPSHOT_CHUNK_BYTES_MAX, SnapshotReader, SnapshotWriter, StateMachine,
    StateMachineError,
};
pub use transport::{NoPeers, RaftTransport};
pub use wire::{RaftReply, RaftRequest, RequestKind};
