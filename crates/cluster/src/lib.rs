//! How the nodes of a cluster know, trust and reach each other: certificates and join tokens, a
//! node's state directory, the listener for node-to-node gRPC, connections to the other nodes, the
//! way to the metadata service and to storage nodes, joining, and renewing certificates.
//!
//! It must not know Raft, RocksDB, the OSS dialect or what the services it carries mean.
//!
//! Invariants: a certificate's names are decided by the authority that signs it, never by whoever
//! asks; nothing is sent before what would be needed to repeat it is durable; a stranger can hold a
//! bounded number of connections for a bounded time.

mod addresses;
mod blob_nodes;
mod failure;
mod join;
mod links;
mod listener;
mod meta_router;
mod peer;
mod pki;
mod state_dir;
#[cfg(test)]
mod testing;
mod trust;
mod wire;

/// Messages of proto/cluster.proto.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_imports,
    reason = "generated; documented in proto/cluster.proto"
)]
pub(crate) mod pb {
    tonic::include_proto!("granary.cluster");
}

pub use addresses::{AddressBook, PeerNode};
pub use blob_nodes::BlobNodes;
pub use failure::{is_heard, plain, says_removed};
pub use join::{
    CaRotation, GiveUp, GiveUpCheck, JoinError, JoinParameters, JoinServer, Joined, KEY_ROLES,
    KeySealer, Renewal, RenewalError, RotationError, RotationStep, join_cluster, new_token,
};
pub use links::{CONNECT_LIMIT, Lane, Links, connect_to_address};
pub use listener::{Access, AccessTable, Listener, ListenerConfig};
pub use meta_router::MetaRouter;
pub use peer::{InvalidClusterId, Peer, check_cluster_id};
pub use pki::{
    Authority, CertificateFacts, Fingerprint, JoinToken, NodeKey, PkiError, certificate_pem,
    certificates_from_pem,
};
pub use state_dir::{Identity, JoinAttempt, StateDir, StateError};
pub use trust::{Credentials, Security, Trust, TrustError};
