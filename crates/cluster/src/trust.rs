//! What a node or an operator shows and whom it believes: rustls configurations that can be
//! swapped while connections are made.
//!
//! TLS 1.3 only and without resumption, so that every connection checks certificates anew. The
//! server takes clients without a certificate and says so; which services they may use is the
//! listener's business. The client checks that it reached the node it meant.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use granary_runtime::Runtime;
use granary_types::{NodeId, Timestamp};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::pki::{CertificateFacts, Fingerprint, NodeKey, PkiError};
use crate::{Identity, Peer};

mod any_node;

pub(crate) use any_node::client_pinned_to;

/// The protocol spoken inside TLS.
const ALPN_HTTP2: &[u8] = b"h2";
/// CA certificates that are trusted at once at most.
pub(crate) const BUNDLE_MAX: usize = 8;

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate or key is damaged.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The certificate names somebody else.
    #[error("the certificate is not that of {expected} of cluster {cluster_id}")]
    OtherName {
        /// Whom it should name.
        expected: Peer,
        /// Of which cluster.
        cluster_id: String,
    },
    /// None of the trusted authorities signed the certificate.
    #[error("the certificate is signed by none of the trusted authorities")]
    UnknownIssuer,
    /// No authority, or too many.
    #[error("{0} CA certificates: there must be 1 to {BUNDLE_MAX}")]
    Bundle(usize),
    /// The TLS library does not take them.
    #[error("TLS: {0}")]
    Tls(String),
}

/// Key, certificate and whom to believe.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The cluster.
    pub cluster_id: String,
    /// Whose they are: a node's or an operator's.
    pub local: Peer,
    /// The private key.
    pub key: Arc<NodeKey>,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// CA certificates, DER. The order does not matter here.
    pub bundle: Vec<Vec<u8>>,
}

impl Credentials {
    /// Checks that its parts belong together. Whether it is still valid is not looked at.
    ///
    /// # Errors
    /// They don't.
    pub fn check(&self) -> Result<(), TrustError> {
        let facts = CertificateFacts::read(&self.certificate)?;
        if facts.public_key != self.key.public_key() {
            return Err(PkiError::ForeignKey("the node's private key").into());
        }
        if self.local == Peer::Anonymous || facts.peer(&self.cluster_id) != Some(self.local) {
            return Err(TrustError::OtherName {
                expected: self.local,
                cluster_id: self.cluster_id.clone(),
            });
        }
        if !(1..=BUNDLE_MAX).contains(&self.bundle.len()) {
            return Err(TrustError::Bundle(self.bundle.len()));
        }
        self.issuer(&facts)?;
        Ok(())
    }

    /// What the own certificate says.
    ///
    /// # Errors
    /// It is damaged.
    pub fn facts(&self) -> Result<CertificateFacts, PkiError> {
        CertificateFacts::read(&self.certificate)
    }

    /// The node whose they are, if they are a node's.
    pub fn identity(&self) -> Option<Identity> {
        let Peer::Node(node) = self.local else {
            return None;
        };
        let cluster_id = self.cluster_id.clone();
        Some(Identity { cluster_id, node })
    }

    /// The CA certificate of the bundle that signed the own one.
    fn issuer(&self, facts: &CertificateFacts) -> Result<&[u8], TrustError> {
        for authority in &self.bundle {
            if CertificateFacts::read(authority)?.subject == facts.issuer {
                return Ok(authority);
            }
        }
        Err(TrustError::UnknownIssuer)
    }
}

struct Current {
    credentials: Credentials,
    facts: CertificateFacts,
    issuer: Fingerprint,
    /// An operator's certificate cannot serve.
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
    client_of_any: Arc<ClientConfig>,
}

/// Credentials in use. New connections take what was swapped in last.
pub struct Trust {
    runtime: Runtime,
    current: ArcSwap<Current>,
    swapped: watch::Sender<()>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("Trust")
            .field("local", &current.credentials.local)
            .field("not_after", &current.facts.not_after)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Trust by these credentials.
    ///
    /// # Errors
    /// Their parts do not belong together.
    pub fn new(runtime: Runtime, credentials: Credentials) -> Result<Self, TrustError> {
        let current = Current::build(&runtime, credentials)?;
        Ok(Self {
            runtime,
            current: ArcSwap::from_pointee(current),
            swapped: watch::Sender::new(()),
        })
    }

    /// Uses other credentials for every connection made from now on.
    ///
    /// # Errors
    /// Their parts do not belong together; the old ones stay.
    pub fn swap(&self, credentials: Credentials) -> Result<(), TrustError> {
        let current = Current::build(&self.runtime, credentials)?;
        self.current.store(Arc::new(current));
        self.swapped.send_replace(());
        Ok(())
    }

    /// Waits until whoever signed a certificate (its issuer's name) is trusted no more.
    pub(crate) async fn until_distrusted(self: Arc<Self>, issuer: Vec<u8>) {
        let mut swaps = self.swapped.subscribe();
        // `self` holds the sender: it can't be dropped meanwhile.
        while self.trusts(&issuer) && swaps.changed().await.is_ok() {}
    }

    fn trusts(&self, issuer: &[u8]) -> bool {
        let current = self.current.load();
        let mut bundle = current.credentials.bundle.iter();
        bundle.any(|authority| {
            CertificateFacts::read(authority).is_ok_and(|facts| facts.subject == issuer)
        })
    }

    /// What is in use.
    pub fn credentials(&self) -> Credentials {
        self.current.load().credentials.clone()
    }

    /// Until when the own certificate counts.
    pub fn not_after(&self) -> Timestamp {
        self.current.load().facts.not_after
    }

    /// From when on the own certificate should be renewed.
    pub fn renew_at(&self) -> Timestamp {
        self.current.load().facts.renew_at()
    }

    /// Who signed the own certificate.
    pub fn issuer(&self) -> Fingerprint {
        self.current.load().issuer
    }

    /// The cluster.
    pub fn cluster_id(&self) -> String {
        self.current.load().credentials.cluster_id.clone()
    }

    /// Whose credentials they are.
    pub fn local(&self) -> Peer {
        self.current.load().credentials.local
    }

    /// For accepted connections; `None` for an operator's credentials.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.current.load().server.clone()
    }

    /// For connections to a node whose name is known.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().client)
    }

    /// For connections to an address at which any node of the cluster may answer.
    pub fn any_node_client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().client_of_any)
    }

    /// Whom certificates of a handshake that succeeded show.
    ///
    /// # Errors
    /// They show nobody of this cluster.
    pub fn peer(&self, shown: Option<&[CertificateDer<'_>]>) -> Result<Peer, TrustError> {
        Ok(self.peer_and_issuer(shown)?.0)
    }

    /// The same, and the name of who signed the certificate, if one was shown.
    pub(crate) fn peer_and_issuer(
        &self,
        shown: Option<&[CertificateDer<'_>]>,
    ) -> Result<(Peer, Option<Vec<u8>>), TrustError> {
        let Some(certificate) = shown.and_then(<[_]>::first) else {
            return Ok((Peer::Anonymous, None));
        };
        let current = self.current.load();
        let cluster_id = &current.credentials.cluster_id;
        let facts = CertificateFacts::read(certificate)?;
        match facts.peer(cluster_id) {
            Some(peer) => Ok((peer, Some(facts.issuer))),
            None => Err(TrustError::OtherName {
                expected: Peer::Anonymous,
                cluster_id: cluster_id.clone(),
            }),
        }
    }
}

impl Current {
    fn build(runtime: &Runtime, credentials: Credentials) -> Result<Self, TrustError> {
        credentials.check()?;
        let facts = CertificateFacts::read(&credentials.certificate)?;
        let issuer = credentials.issuer(&facts)?.to_vec();
        let mut roots = RootCertStore::empty();
        for authority in &credentials.bundle {
            let authority = CertificateDer::from(authority.clone());
            roots.add(authority).map_err(tls)?;
        }
        let roots = Arc::new(roots);
        // The issuer comes along so that a joining node can compare it with its token.
        let chain = vec![
            CertificateDer::from(credentials.certificate.clone()),
            CertificateDer::from(issuer.clone()),
        ];
        let server = match credentials.local {
            Peer::Node(_) => Some(server(runtime, &roots, chain.clone(), &credentials.key)?),
            Peer::Admin | Peer::Anonymous => None,
        };
        let client = client(runtime, &roots, chain.clone(), &credentials.key)?;
        let anchor = any_node::Anchor::Bundle(roots, credentials.cluster_id.clone());
        let client_of_any = any_node::builder(runtime, anchor)?
            .with_client_auth_cert(chain, private_key(&credentials.key))
            .map_err(tls)?;
        Ok(Self {
            issuer: Fingerprint::of(&issuer),
            credentials,
            facts,
            server,
            client,
            client_of_any: any_node::finished(client_of_any),
        })
    }
}

fn server(
    runtime: &Runtime,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: &NodeKey,
) -> Result<Arc<ServerConfig>, TrustError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(tls)?;
    let mut config = ServerConfig::builder_with_details(provider, clock(runtime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private_key(key))
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(
    runtime: &Runtime,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: &NodeKey,
) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
            .build()
            .map_err(tls)?;
    let config = ClientConfig::builder_with_details(provider, clock(runtime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, private_key(key))
        .map_err(tls)?;
    Ok(any_node::finished(config))
}

/// AES-128 comes first: on the way to and from a disk, encryption is the largest single cost, and ten
/// rounds of it take a quarter less than the fourteen of AES-256. Nodes offer all, in this order.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn private_key(key: &NodeKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_der()))
}

fn tls(error: impl ToString) -> TrustError {
    TrustError::Tls(error.to_string())
}

/// The runtime's clock, for the TLS library.
#[derive(Debug)]
struct RuntimeTime(Runtime);

impl TimeProvider for RuntimeTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = Duration::from_millis(self.0.now().0);
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
}

fn clock(runtime: &Runtime) -> Arc<dyn TimeProvider> {
    Arc::new(RuntimeTime(runtime.clone()))
}

/// How connections between nodes are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS with certificates of the cluster's authority.
    Tls(Arc<Trust>),
    /// None: whoever reaches the port is believed what it says. Cluster id and node are still
    /// compared, against mistakes.
    Plain {
        /// The cluster.
        cluster_id: String,
        /// Who this process is.
        local: Peer,
    },
}

impl Security {
    /// The cluster.
    pub fn cluster_id(&self) -> String {
        match self {
            Self::Tls(trust) => trust.cluster_id(),
            Self::Plain { cluster_id, .. } => cluster_id.clone(),
        }
    }

    /// Who this process is.
    pub fn local(&self) -> Peer {
        match self {
            Self::Tls(trust) => trust.local(),
            Self::Plain { local, .. } => *local,
        }
    }

    /// The node this process is, if it is one.
    pub fn local_node(&self) -> Option<NodeId> {
        match self.local() {
            Peer::Node(node) => Some(node),
            Peer::Admin | Peer::Anonymous => None,
        }
    }
}

/// The name a TLS client expects.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, TrustError> {
    ServerName::try_from(name.to_owned()).map_err(tls)
}
