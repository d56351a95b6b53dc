//! A client that believes any node of a cluster, whichever answers: for nodes that have no
//! certificate yet and know the fingerprint of the CA, and for operators who know an address only.

use std::sync::Arc;

use granary_runtime::Runtime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, PeerMisbehaved,
    RootCertStore, SignatureScheme,
};

use super::{ALPN_HTTP2, TrustError, clock, provider, tls};
use crate::Peer;
use crate::pki::{CertificateFacts, Fingerprint};

/// Under whom the node's certificate must be.
#[derive(Debug)]
pub(super) enum Anchor {
    /// The CA certificate with this fingerprint, which the node shows.
    Pinned(Fingerprint),
    /// A CA of this bundle; the certificate is of this cluster.
    Bundle(Arc<RootCertStore>, String),
}

/// A client that shows nothing and believes nodes under the CA with this fingerprint.
pub(crate) fn client_pinned_to(
    runtime: &Runtime,
    fingerprint: Fingerprint,
) -> Result<Arc<ClientConfig>, TrustError> {
    let config = builder(runtime, Anchor::Pinned(fingerprint))?.with_no_client_auth();
    Ok(finished(config))
}

pub(super) fn builder(
    runtime: &Runtime,
    anchor: Anchor,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TrustError> {
    let provider = provider();
    let verifier = AnyNode {
        anchor,
        provider: Arc::clone(&provider),
    };
    Ok(ClientConfig::builder_with_details(provider, clock(runtime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

pub(super) fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyNode {
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
}

impl AnyNode {
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        match &self.anchor {
            Anchor::Bundle(roots, _) => Ok(Arc::clone(roots)),
            Anchor::Pinned(fingerprint) => {
                let pinned = shown
                    .iter()
                    .find(|one| Fingerprint::of(one) == *fingerprint);
                let pinned = pinned.ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(pinned.clone().into_owned())?;
                Ok(Arc::new(roots))
            }
        }
    }
}

impl ServerCertVerifier for AnyNode {
    /// The chain ends at the anchor, and the server's own certificate names a node. Which one does
    /// not matter: the name that was dialled is not looked at.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            self.roots(intermediates)?.as_ref(),
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let facts = CertificateFacts::read(end_entity);
        let facts = facts.map_err(|_| CertificateError::BadEncoding)?;
        let named = facts.names.first().and_then(|name| Peer::of_name(name));
        let Some((Peer::Node(_), named)) = named else {
            return Err(CertificateError::NotValidForName.into());
        };
        match &self.anchor {
            Anchor::Bundle(_, cluster_id) if named != cluster_id => {
                Err(CertificateError::NotValidForName.into())
            }
            Anchor::Bundle(..) | Anchor::Pinned(_) => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.2 is not offered.
        Err(PeerMisbehaved::SelectedUnofferedCipherSuite.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
