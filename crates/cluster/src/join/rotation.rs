//! Changing the cluster's authority while it runs: the new one is trusted by all, then it signs,
//! then the old one goes.
//!
//! Each step looks at what the root and the nodes say and does the next thing, so it can be cut
//! off and repeated. A node that does not answer holds the next step up: it would be locked out.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state::ClusterTrust;
use granary_meta_api::{Meta, MetaError, pb as meta};
use granary_runtime::within;
use granary_types::NodeId;

use super::KeySealer;
use crate::failure::plain;
use crate::pb::join_client::JoinClient;
use crate::pki::{Authority, Fingerprint};
use crate::trust::BUNDLE_MAX;
use crate::{Lane, Links, pb};

/// Longest time for one node's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// The new authority is in the bundle; the nodes take it over now.
    Added,
    /// Waits for these nodes to follow, or to answer; why, for each.
    Waiting(Vec<(NodeId, String)>),
    /// The new authority signs; the nodes renew now.
    Signs,
    /// The old authority is gone: every node trusts only the new one.
    Finished,
}

/// Why a step failed. It can be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The root gave no answer.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Somebody else changes the trust at the same time.
    #[error("somebody else changes the cluster's CA at the same time")]
    Concurrent,
    /// The root refused.
    #[error("refused: {0}")]
    Refused(String),
    /// The new key could not be sealed.
    #[error("the new CA's key could not be sealed")]
    Seal,
    /// The cluster has no authority yet.
    #[error("the cluster has no CA yet")]
    NoAuthority,
    /// One more could not be trusted by any node.
    #[error(
        "{0} CAs are trusted already, of changes that were begun and never finished: finish one of them \
         from the admin directory it was begun from"
    )]
    TooMany(usize),
}

/// Changes the cluster's authority to a new one.
pub struct CaRotation {
    meta: Meta,
    links: Arc<Links>,
    sealer: Arc<dyn KeySealer>,
    /// Until it signs, only the caller has its key: it must be kept before the first step.
    next: Authority,
}

impl std::fmt::Debug for CaRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaRotation")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl CaRotation {
    /// A rotation to `next`, whose key the caller keeps until it signs. `links` are those of a node:
    /// they follow the root, and so are let in at every step.
    pub fn new(meta: Meta, links: Arc<Links>, sealer: Arc<dyn KeySealer>, next: Authority) -> Self {
        Self {
            meta,
            links,
            sealer,
            next,
        }
    }

    /// The new authority.
    pub fn next(&self) -> &Authority {
        &self.next
    }

    /// Does the next thing. To be repeated, with pauses, until [`RotationStep::Finished`].
    ///
    /// # Errors
    /// See [`RotationError`].
    pub async fn step(&self) -> Result<RotationStep, RotationError> {
        let mut trust = self.meta.query(meta::GetTrust {}).await?;
        let next = self.next.certificate();
        let place = trust.ca_certificates.iter().position(|known| known == next);
        if trust.ca_certificates.is_empty() {
            return Err(RotationError::NoAuthority);
        }
        match place {
            None if trust.ca_certificates.len() >= BUNDLE_MAX => {
                Err(RotationError::TooMany(trust.ca_certificates.len()))
            }
            None => {
                let others = trust.ca_certificates.len() - 1;
                if others > 0 {
                    tracing::warn!(
                        others,
                        "another change of the CA begins before those before it were finished: they \
                         end with it"
                    );
                }
                trust.ca_certificates.push(next.to_vec().into());
                self.put(trust).await?;
                Ok(RotationStep::Added)
            }
            Some(0) if trust.ca_certificates.len() == 1 => self.finished_everywhere().await,
            Some(0) => {
                let behind = self
                    .nodes_that(|shown, next| shown.issuer_sha256 != next)
                    .await?;
                if !behind.is_empty() {
                    return Ok(RotationStep::Waiting(behind));
                }
                trust.ca_certificates.truncate(1);
                self.put(trust).await?;
                self.finished_everywhere().await
            }
            Some(place) => {
                let unaware = |shown: &pb::DescribeTrustReply, next: &[u8]| {
                    !shown.ca_sha256.iter().any(|known| known == next)
                };
                let behind = self.nodes_that(unaware).await?;
                if !behind.is_empty() {
                    return Ok(RotationStep::Waiting(behind));
                }
                trust.ca_certificates[..=place].rotate_right(1);
                let sealed = self.sealer.seal(&self.next.key_der());
                trust.sealed_ca_key = sealed.ok_or(RotationError::Seal)?.into();
                self.put(trust).await?;
                Ok(RotationStep::Signs)
            }
        }
    }

    /// The root has dropped the old authority; done when no node believes it any more.
    async fn finished_everywhere(&self) -> Result<RotationStep, RotationError> {
        let believes_others = |shown: &pb::DescribeTrustReply, next: &[u8]| {
            shown.ca_sha256.iter().any(|known| known != next)
        };
        let behind = self.nodes_that(believes_others).await?;
        Ok(if behind.is_empty() {
            RotationStep::Finished
        } else {
            RotationStep::Waiting(behind)
        })
    }

    async fn put(&self, trust: ClusterTrust) -> Result<(), RotationError> {
        let change = meta::PutTrust {
            expected_generation: trust.generation,
            trust: Some(trust),
        };
        match self.meta.propose(change).await? {
            Ok(_) => Ok(()),
            Err(rejection) if rejection.reason() == Reason::Stale => Err(RotationError::Concurrent),
            Err(rejection) => Err(RotationError::Refused(rejection.detail)),
        }
    }

    /// Nodes of the newest map that are behind or do not answer.
    async fn nodes_that(
        &self,
        behind: impl Fn(&pb::DescribeTrustReply, &[u8]) -> bool,
    ) -> Result<Vec<(NodeId, String)>, RotationError> {
        let map = self
            .meta
            .query(meta::GetClusterMap { known_epoch: 0 })
            .await?;
        self.links.book().take(map.epoch, &map.nodes);
        let next = Fingerprint::of(self.next.certificate()).0;
        let mut found = Vec::new();
        for node in map.nodes.iter().filter(|node| !node.removed) {
            let node = NodeId(node.id);
            match self.shown_by(node).await {
                Ok(shown) if behind(&shown, &next) => {
                    found.push((node, "has not followed yet".to_owned()));
                }
                Ok(_) => {}
                Err(reason) => found.push((node, reason)),
            }
        }
        Ok(found)
    }

    async fn shown_by(&self, node: NodeId) -> Result<pb::DescribeTrustReply, String> {
        let channel = self.links.channel(node, Lane::Meta);
        let channel = channel.ok_or_else(|| "its address is unknown".to_owned())?;
        let mut client = JoinClient::new(channel);
        let asked = client.describe_trust(pb::DescribeTrustRequest {});
        match within(ANSWER_LIMIT, asked).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(format!("does not answer: {}", plain(&status))),
            Err(_) => Err("does not answer in time".to_owned()),
        }
    }
}
