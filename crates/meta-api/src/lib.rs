//! The seam to the metadata service: commands, queries, replies, the client trait and its error,
//! both gRPC adapters and the conformance suite.
//!
//! It must not know RocksDB, Raft or HTTP. Commands change state once, by id; queries read the
//! newest state from the leader.

pub mod client;
mod command;
mod control;
pub mod detail;
pub mod disk_state;
mod error;
pub mod feature_level;
#[cfg(test)]
mod golden;
mod query;
mod service;
#[cfg(feature = "testsuite")]
pub mod testsuite;
pub mod wire;

/// Messages of proto/meta.proto: the wire, the log and the disk share them.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_imports,
    reason = "generated; documented in proto/meta.proto"
)]
pub mod pb {
    tonic::include_proto!("granary.meta");

    /// Records, proto/meta_state.proto.
    pub mod state {
        tonic::include_proto!("granary.meta.state");
    }
}

pub use client::Meta;
pub use command::Command;
pub use control::MetaControl;
pub use error::{ErrorKind, MetaError};
pub use query::Query;
pub use service::MetaService;
