//! Keeps a node's certificate valid and its trust that of the cluster, while it runs.
//!
//! The certificate is renewed at two thirds of its life, or as soon as another authority signs;
//! the CA certificates follow the root whenever the cluster map changed. The key stays: then the
//! certificate alone is replaced, which one rename does.

use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::{Meta, MetaError, pb as meta};
use granary_runtime::{Runtime, Task, within};
use granary_types::NodeId;

use super::client::blocking;
use super::{JoinServer, KEY_ROLES};
use crate::failure::plain;
use crate::pb::join_client::JoinClient;
use crate::pki::{Fingerprint, PkiError};
use crate::trust::BUNDLE_MAX;
use crate::{Credentials, Lane, Links, StateDir, StateError, Trust, TrustError, pb};

/// How often it is looked whether something is to do.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time for one node's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// Pause after a renewal that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Why trust could not be brought up to date. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The root gave no answer.
    #[error("the cluster's trust cannot be read: {0}")]
    Meta(#[from] MetaError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What came makes no sense.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No node signed.
    #[error("no node gave a new certificate; last: {0}")]
    NoAnswer(String),
}

impl From<PkiError> for RenewalError {
    fn from(error: PkiError) -> Self {
        Self::Trust(error.into())
    }
}

/// Keeps one node's trust up to date.
pub struct Renewal {
    runtime: Runtime,
    node: NodeId,
    state: StateDir,
    trust: Arc<Trust>,
    links: Arc<Links>,
    meta: Meta,
    own_server: Option<Arc<JoinServer>>,
    /// Epoch of the map at which the root's trust was read last.
    seen_epoch: Option<u64>,
    /// Who signs now, as far as is known.
    signer: Option<Fingerprint>,
    not_before: Duration,
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal").finish_non_exhaustive()
    }
}

impl Renewal {
    /// For the node whose trust it is. `own_server` on a node that can sign: it asks nobody else.
    ///
    /// # Errors
    /// The trust is not a node's.
    pub fn new(
        runtime: Runtime,
        state: StateDir,
        trust: Arc<Trust>,
        links: Arc<Links>,
        meta: Meta,
        own_server: Option<Arc<JoinServer>>,
    ) -> Result<Self, TrustError> {
        let local = trust.local();
        let crate::Peer::Node(node) = local else {
            let cluster_id = trust.cluster_id();
            return Err(TrustError::OtherName {
                expected: local,
                cluster_id,
            });
        };
        Ok(Self {
            runtime,
            node,
            state,
            trust,
            links,
            meta,
            own_server,
            seen_epoch: None,
            signer: None,
            not_before: Duration::ZERO,
        })
    }

    /// Works until the runtime stops.
    pub fn start(mut self) -> Task<()> {
        let runtime = self.runtime.clone();
        let stopping = runtime.shutdown().clone();
        let working = async move {
            loop {
                if let Err(error) = self.tick().await {
                    let not_after_ms = self.trust.not_after().0;
                    tracing::warn!(%error, not_after_ms, "certificates are not up to date");
                    self.not_before = self.runtime.monotonic() + RETRY_PAUSE;
                }
                self.runtime.sleep(INTERVAL).await;
            }
        };
        runtime.spawn(async move {
            tokio::select! {
                () = Box::pin(working) => {}
                () = stopping.cancelled() => {}
            }
        })
    }

    /// Does what is to do now. Returns whether anything changed.
    ///
    /// # Errors
    /// See [`RenewalError`]; what was in use stays in use.
    pub async fn tick(&mut self) -> Result<bool, RenewalError> {
        if self.runtime.monotonic() < self.not_before {
            return Ok(false);
        }
        let mut changed = false;
        let epoch = self.links.book().epoch();
        if self.seen_epoch != Some(epoch) {
            changed = self.follow_root().await?;
            self.seen_epoch = Some(epoch);
        }
        let other_signer = self
            .signer
            .is_some_and(|signer| signer != self.trust.issuer());
        if other_signer || self.runtime.now() >= self.trust.renew_at() {
            self.renew().await?;
            changed = true;
        }
        Ok(changed)
    }

    /// Trusts whom the root says.
    async fn follow_root(&mut self) -> Result<bool, RenewalError> {
        let known = self.meta.query(meta::GetTrust {}).await?;
        let bundle: Vec<Vec<u8>> = known
            .ca_certificates
            .iter()
            .map(|der| der.to_vec())
            .collect();
        let Some(signer) = bundle.first() else {
            return Ok(false);
        };
        self.signer = Some(Fingerprint::of(signer));
        let before = self.trust.credentials();
        if before.bundle == bundle {
            return Ok(false);
        }
        let credentials = Credentials { bundle, ..before };
        // Refuses a bundle without the own issuer: the renewal that is due brings it in.
        if credentials.check().is_err() && self.signer != Some(self.trust.issuer()) {
            return Ok(false);
        }
        credentials.check()?;
        let kept = credentials.bundle.clone();
        blocking(&self.runtime, &self.state, move |state| {
            state.put_bundle(&kept)
        })
        .await?;
        self.trust.swap(credentials)?;
        tracing::info!("trusts other CA certificates now");
        Ok(true)
    }

    async fn renew(&mut self) -> Result<(), RenewalError> {
        let before = self.trust.credentials();
        let csr = before.key.request()?;
        let reply = self.signed(csr).await?;
        let bundle: Vec<Vec<u8>> = reply
            .ca_certificates
            .iter()
            .map(|der| der.to_vec())
            .collect();
        let credentials = Credentials {
            certificate: reply.certificate.to_vec(),
            bundle,
            ..before.clone()
        };
        credentials.check()?;
        // Whatever of this a crash leaves undone, certificate and bundle belong together.
        let mut both = credentials.bundle.clone();
        both.extend(
            before
                .bundle
                .into_iter()
                .filter(|old| !credentials.bundle.contains(old)),
        );
        both.truncate(BUNDLE_MAX.max(credentials.bundle.len()));
        let kept = credentials.clone();
        let keep = move |state: &StateDir| {
            state.put_bundle(&both)?;
            state.put_certificate(&kept.certificate)?;
            state.put_bundle(&kept.bundle)
        };
        blocking(&self.runtime, &self.state, keep).await?;
        self.signer = Some(Fingerprint::of(&credentials.bundle[0]));
        self.trust.swap(credentials)?;
        let not_after_ms = self.trust.not_after().0;
        tracing::info!(not_after_ms, "has a new certificate");
        Ok(())
    }

    async fn signed(&self, csr: Vec<u8>) -> Result<pb::RenewReply, RenewalError> {
        let mut last = "no node with the master key is known".to_owned();
        if let Some(server) = &self.own_server {
            match Box::pin(server.renew(self.node, &csr)).await {
                Ok(reply) => return Ok(reply),
                Err(status) => last = plain(&status),
            }
        }
        let mut signers: Vec<NodeId> = self
            .links
            .book()
            .nodes()
            .iter()
            .filter(|known| KEY_ROLES.iter().any(|role| known.serves(role)))
            .map(crate::PeerNode::id)
            .filter(|node| *node != self.node)
            .collect();
        // Not everybody asks the same node.
        let count = u64::try_from(signers.len()).unwrap_or(1);
        let first = self.runtime.entropy().below(count);
        signers.rotate_left(usize::try_from(first).unwrap_or(0));
        for node in signers {
            let Some(channel) = self.links.channel(node, Lane::Meta) else {
                continue;
            };
            let request = pb::RenewRequest {
                csr: csr.clone().into(),
            };
            let mut client = JoinClient::new(channel);
            match within(ANSWER_LIMIT, client.renew(request)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => last = format!("node {node}: {}", plain(&status)),
                Err(elapsed) => last = format!("node {node}: {elapsed}"),
            }
        }
        Err(RenewalError::NoAnswer(last))
    }
}
