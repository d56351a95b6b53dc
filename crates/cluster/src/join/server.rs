//! The receiving side of joining and renewing: checks who asks, lets the root decide, signs.
//!
//! Only a node with the master key can unseal the authority's key; one without says so, and the
//! other side asks another node. Invariants: the secret of a token is compared before anything
//! else is looked at; a certificate names the node that the root allocated or the one whose
//! certificate the connection showed, never what a request says.

use std::sync::Arc;

use async_trait::async_trait;
use granary_meta_api::pb::state;
use granary_meta_api::{Command, Meta, MetaError, pb as meta};
use granary_runtime::Runtime;
use granary_types::NodeId;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use super::{GiveUp, GiveUpCheck, KeySealer, ROLES, needs_master_key};
use crate::pb::join_server::{Join, JoinServer as Grpc};
use crate::pki::{Authority, Fingerprint, secret_matches};
use crate::{Peer, Security, pb};

/// Requests of strangers that are looked at at once.
const STRANGERS_AT_ONCE: usize = 8;
const NONCE_BYTES: usize = 16;
/// Longest zone, address or token id, in bytes.
const TEXT_BYTES_MAX: usize = 255;
/// Bytes of a request at most.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Answers nodes that join or renew.
pub struct JoinServer {
    runtime: Runtime,
    meta: Meta,
    sealer: Option<Arc<dyn KeySealer>>,
    security: Security,
    check: Arc<dyn GiveUpCheck>,
    strangers: Semaphore,
}

impl std::fmt::Debug for JoinServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinServer").finish_non_exhaustive()
    }
}

impl JoinServer {
    /// A server over the metadata service; `sealer` on nodes that have the master key. `check` is
    /// asked before a node is given up for another one.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        sealer: Option<Arc<dyn KeySealer>>,
        security: Security,
        check: Arc<dyn GiveUpCheck>,
    ) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            meta,
            sealer,
            security,
            check,
            strangers: Semaphore::new(STRANGERS_AT_ONCE),
        })
    }

    /// What the node's listener serves.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let service = Grpc::new(Service(Arc::clone(self)));
        Routes::new(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn join(&self, mut request: pb::JoinRequest) -> Result<pb::JoinReply, Status> {
        let _place = self.strangers.try_acquire().map_err(|_| {
            Status::resource_exhausted("too many nodes want to join at once: try again")
        })?;
        let node = checked(&mut request)?;
        self.check_token(&request).await?;
        let (signer, bundle) = self.signer().await?;
        let map = self.cluster_map().await?;
        let replaces = NodeId(request.replaces);
        let replaced = map.nodes.iter().find(|known| known.id == replaces.0);
        if replaces.0 != 0 && replaced.is_none() {
            let said = format!("there is no node {replaces} to replace");
            return Err(Status::invalid_argument(said));
        }
        // The same join again has given it up itself, and is in the map under its address.
        let again = |known: &state::Node| !known.removed && known.address == node.address;
        if replaced.is_some_and(|replaced| replaced.removed) && !map.nodes.iter().any(again) {
            return Err(Status::invalid_argument(format!(
                "node {replaces} was given up already, and nobody has to take its place: join without \
                 --replaces, or name the node that is meant"
            )));
        }
        // Before anything is decided: a node that is refused leaves no trace.
        self.check_replaced(replaces, &request).await?;
        let allocate = meta::AllocateNode {
            nonce: request.nonce.clone(),
            node: Some(node.clone()),
        };
        let id = NodeId(self.decided(allocate).await?.id);
        let mut peers = map.nodes;
        if peers.iter().any(|known| known.id == id.0 && known.removed) {
            return Err(Status::failed_precondition(format!(
                "this node joined before as node {id}, which was given up: join with an empty state \
                 directory"
            )));
        }
        if replaces.0 != 0 && replaces != id {
            self.decided(meta::RemoveNode { node: replaces.0 }).await?;
            let gone = peers.iter_mut().filter(|known| known.id == replaces.0);
            gone.for_each(|known| known.removed = true);
        }
        if !peers.iter().any(|known| known.id == id.0) {
            peers.push(state::Node {
                id: id.0,
                ..node.clone()
            });
        }
        let certificate = self.sign(&signer, id, &request.csr)?;
        tracing::info!(node = %id, address = %node.address, "a node joins");
        let master_key = match &self.sealer {
            Some(sealer) if needs_master_key(&node.roles) => sealer.master_key(),
            _ => Vec::new(),
        };
        Ok(pb::JoinReply {
            cluster_id: self.security.cluster_id(),
            node: id.0,
            certificate: certificate.into(),
            ca_certificates: bundle,
            master_key: master_key.into(),
            peers,
            map_epoch: map.epoch,
        })
    }

    async fn check_token(&self, request: &pb::JoinRequest) -> Result<(), Status> {
        let id = request.token_id.clone();
        let kept = self.meta.query(meta::GetJoinToken { id }).await;
        let kept = kept.map_err(|error| no_answer(&error))?;
        let matches = |token: &state::JoinToken| secret_matches(token, &request.token_secret);
        if kept.found && kept.token.as_ref().is_some_and(matches) {
            return Ok(());
        }
        Err(Status::permission_denied(
            "the join token is not known, or has expired: `granary admin token` makes a new one",
        ))
    }

    async fn check_replaced(
        &self,
        replaces: NodeId,
        request: &pb::JoinRequest,
    ) -> Result<(), Status> {
        if replaces.0 == 0 {
            return Ok(());
        }
        let meant = GiveUp {
            force: request.force,
            accept_loss: request.accept_loss,
        };
        let outcome = self.check.may_go(replaces, meant).await;
        outcome.map_err(|status| match status.code() {
            // For the joining side that would mean to ask another node.
            Code::FailedPrecondition => Status::permission_denied(status.message()),
            _ => status,
        })
    }

    /// A new certificate for a node, and the CA certificates to trust.
    pub(super) async fn renew(&self, node: NodeId, csr: &[u8]) -> Result<pb::RenewReply, Status> {
        let (signer, ca_certificates) = self.signer().await?;
        let map = self.cluster_map().await?;
        let known = map.nodes.iter().find(|known| known.id == node.0);
        if known.is_none_or(|known| known.removed) {
            let said = format!("node {node} is not in the cluster");
            return Err(Status::permission_denied(said));
        }
        Ok(pb::RenewReply {
            certificate: self.sign(&signer, node, csr)?.into(),
            ca_certificates,
        })
    }

    fn sign(&self, signer: &Authority, node: NodeId, csr: &[u8]) -> Result<Vec<u8>, Status> {
        let cluster_id = self.security.cluster_id();
        signer
            .issue_node(&self.runtime, &cluster_id, node, csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// The authority that signs, and all that are trusted.
    async fn signer(&self) -> Result<(Authority, Vec<bytes::Bytes>), Status> {
        let Some(sealer) = &self.sealer else {
            return Err(Status::failed_precondition(
                "this node does not have the master key: ask a gateway, meta or worker node",
            ));
        };
        let trust = self.meta.query(meta::GetTrust {}).await;
        let trust = trust.map_err(|error| no_answer(&error))?;
        let Some(certificate) = trust.ca_certificates.first() else {
            return Err(Status::failed_precondition("the cluster has no CA yet"));
        };
        let Some(key) = sealer.unseal(&trust.sealed_ca_key) else {
            tracing::error!("the key of the cluster's CA does not open with this master key");
            return Err(Status::failed_precondition(
                "the CA's key does not open with this node's master key",
            ));
        };
        let signer = Authority::from_der(certificate, &key).map_err(|error| {
            tracing::error!(%error, "the cluster's CA is damaged");
            Status::failed_precondition(error.to_string())
        })?;
        Ok((signer, trust.ca_certificates))
    }

    async fn cluster_map(&self) -> Result<meta::ClusterMap, Status> {
        let map = self
            .meta
            .query(meta::GetClusterMap { known_epoch: 0 })
            .await;
        map.map_err(|error| no_answer(&error))
    }

    async fn decided<C: Command>(&self, command: C) -> Result<C::Reply, Status> {
        match self.meta.propose(command).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(rejection)) => Err(Status::failed_precondition(rejection.detail)),
            Err(error) => Err(no_answer(&error)),
        }
    }

    fn describe(&self) -> Result<pb::DescribeTrustReply, Status> {
        let Security::Tls(trust) = &self.security else {
            return Err(Status::failed_precondition("this node does not use TLS"));
        };
        let digest = |der: &Vec<u8>| Fingerprint::of(der).0.to_vec().into();
        Ok(pb::DescribeTrustReply {
            ca_sha256: trust.credentials().bundle.iter().map(digest).collect(),
            issuer_sha256: trust.issuer().0.to_vec().into(),
            not_after_ms: trust.not_after().0,
        })
    }
}

fn no_answer(error: &MetaError) -> Status {
    Status::unavailable(error.to_string())
}

/// The node's record, of a request that is well-formed.
fn checked(request: &mut pb::JoinRequest) -> Result<state::Node, Status> {
    let bad = |what: &str| Err(Status::invalid_argument(what.to_owned()));
    if request.nonce.len() != NONCE_BYTES {
        return bad("a nonce has 16 bytes");
    }
    if request.token_id.len() > TEXT_BYTES_MAX {
        return bad("no such token");
    }
    let Some(mut node) = request.node.take() else {
        return bad("no record of the node");
    };
    let texts = [&node.zone, &node.address, &node.gateway];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return bad("zone or address too long");
    }
    if node.zone.is_empty() || !is_host_and_port(&node.address) {
        return bad("a node needs a zone, and an address of the form host:port");
    }
    let known = |role: &String| ROLES.contains(&role.as_str());
    if node.roles.is_empty() || node.roles.len() > ROLES.len() || !node.roles.iter().all(known) {
        return bad("a node has some of the roles gateway, meta, storage, worker");
    }
    node.id = 0;
    node.removed = false;
    Ok(node)
}

pub(super) fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Who asks, as the listener knows it.
fn peer<T>(request: &Request<T>) -> Peer {
    let known = request.extensions().get::<Peer>();
    known.copied().unwrap_or(Peer::Anonymous)
}

struct Service(Arc<JoinServer>);

#[async_trait]
impl Join for Service {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, Status> {
        // Boxed: the requests to the metadata service in it are large.
        let joining = Box::pin(self.0.join(request.into_inner()));
        joining.await.map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::RenewReply>, Status> {
        let Peer::Node(node) = peer(&request) else {
            return Err(Status::permission_denied("only a node can renew"));
        };
        let csr = request.into_inner().csr;
        Box::pin(self.0.renew(node, &csr)).await.map(Response::new)
    }

    async fn describe_trust(
        &self,
        request: Request<pb::DescribeTrustRequest>,
    ) -> Result<Response<pb::DescribeTrustReply>, Status> {
        if peer(&request) == Peer::Anonymous {
            return Err(Status::permission_denied(
                "only nodes and operators may ask",
            ));
        }
        self.0.describe().map(Response::new)
    }
}
