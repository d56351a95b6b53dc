//! Joining a cluster, keeping certificates valid, and changing the cluster's authority.

mod client;
mod renewal;
mod rotation;
mod server;

use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::{Meta, MetaError, pb};
use granary_runtime::Runtime;
use granary_types::NodeId;
use tonic::Status;

pub use client::{JoinError, JoinParameters, Joined, join_cluster};
pub use renewal::{Renewal, RenewalError};
pub use rotation::{CaRotation, RotationError, RotationStep};
pub use server::JoinServer;

use crate::pki::{Fingerprint, JoinToken};

/// Roles a node may have.
const ROLES: [&str; 4] = ["gateway", "meta", "storage", "worker"];
/// Roles that need the master key: nodes with one of them can sign, and read every secret. Which
/// nodes these are is decided when they join, so an old address book is never wrong about it.
pub const KEY_ROLES: [&str; 3] = ["gateway", "meta", "worker"];
/// Longest token life.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Seals secrets with the cluster's master key. Both calls are short and do not block.
pub trait KeySealer: Send + Sync + 'static {
    /// Seals bytes; `None` when the cryptographic library failed.
    fn seal(&self, secret: &[u8]) -> Option<Vec<u8>>;

    /// Opens what was sealed; `None` when it was sealed with another key or is damaged.
    fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>>;

    /// The master key itself, for a node that joins and needs it.
    fn master_key(&self) -> Vec<u8>;
}

/// Whether a node may be given up for good, because another one takes its place.
#[async_trait]
pub trait GiveUpCheck: Send + Sync + 'static {
    /// Refuses to give up a node that serves or that others need, as far as the operator has not
    /// said that it is to go all the same.
    ///
    /// # Errors
    /// It may not go now, and why; or nobody knows.
    async fn may_go(&self, node: NodeId, meant: GiveUp) -> Result<(), Status>;
}

/// What an operator has said of a node that is to be given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GiveUp {
    /// It goes even if it serves, or if a shard has no majority without it.
    pub force: bool,
    /// It goes even if it has what no other node has.
    pub accept_loss: bool,
}

fn needs_master_key(roles: &[String]) -> bool {
    roles.iter().any(|role| KEY_ROLES.contains(&role.as_str()))
}

/// Makes a join token that counts for `life`.
///
/// # Errors
/// Longer than a year; or the root gave no answer in time, refused it, or knows no authority yet.
pub async fn new_token(
    runtime: &Runtime,
    meta: &Meta,
    life: Duration,
) -> Result<JoinToken, MetaError> {
    if life > TOKEN_LIFE_MAX {
        return Err(MetaError::Invalid(
            "a join token counts for 365 days at most".to_owned(),
        ));
    }
    let trust = meta.query(pb::GetTrust {}).await?;
    let signer = trust.ca_certificates.first();
    let signer =
        signer.ok_or_else(|| MetaError::Invalid("the cluster has no CA yet".to_owned()))?;
    let token = JoinToken::make(runtime, Fingerprint::of(signer));
    let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    let expires = runtime.now().plus_millis(life_ms);
    let kept = pb::PutJoinToken {
        token: Some(token.record(expires)),
    };
    match meta.propose(kept).await? {
        Ok(_) => Ok(token),
        Err(rejection) => Err(MetaError::Invalid(rejection.detail)),
    }
}

#[cfg(test)]
mod tests;
