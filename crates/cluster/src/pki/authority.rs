//! A certificate authority: the only one who decides what a certificate says.

use std::fmt;
use std::time::Duration;

use granary_runtime::Runtime;
use granary_types::{NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::{CertificateFacts, Fingerprint, NodeKey, PkiError, certificate_pem};
use crate::{Peer, check_cluster_id};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a node's certificate counts.
const NODE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How long an operator's certificate counts. It does not renew itself.
const ADMIN_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);
/// How long an authority's own certificate counts.
const CA_LIFE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
/// Certificates count from a little before they were made: clocks differ.
const CLOCK_SKEW: Duration = DAY;
/// A serial number has 16 bytes, the first one positive and not 0.
const SERIAL_BYTES: usize = 16;
/// Bytes of a certificate request at most.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// A certificate authority with its private key. Not shown by `Debug`.
pub struct Authority {
    certificate: Vec<u8>,
    key: KeyPair,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority of a cluster. Its name is its own: during a rotation there are two.
    ///
    /// # Errors
    /// The cluster id cannot stand in a certificate, or the cryptographic library failed.
    pub fn generate(runtime: &Runtime, cluster_id: &str) -> Result<Self, PkiError> {
        check_cluster_id(cluster_id)?;
        let key = KeyPair::generate()?;
        let mut params = params(runtime, CA_LIFE)?;
        let distinct = runtime.entropy().next_u64();
        let name = format!("granary CA {distinct:016x}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { certificate, key })
    }

    /// An authority from its certificate (DER) and key (PKCS #8, DER).
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub fn from_der(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))
            .map_err(|error| PkiError::malformed("a CA's private key", error))?;
        Self::of(certificate.to_vec(), key)
    }

    /// An authority from its certificate and key in PEM.
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let mut certificates = super::certificates_from_pem(certificate.as_bytes())?;
        let key = KeyPair::from_pem(key)
            .map_err(|error| PkiError::malformed("a CA's private key", error))?;
        Self::of(certificates.swap_remove(0), key)
    }

    fn of(certificate: Vec<u8>, key: KeyPair) -> Result<Self, PkiError> {
        let facts = CertificateFacts::read(&certificate)?;
        if facts.public_key != key.public_key_raw() {
            return Err(PkiError::ForeignKey("the CA's private key"));
        }
        Ok(Self { certificate, key })
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// Its key, PKCS #8 in DER. The cluster's deepest secret.
    pub fn key_der(&self) -> Vec<u8> {
        self.key.serialize_der()
    }

    /// Its key, PKCS #8 in PEM. The cluster's deepest secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// By what tokens know it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Certifies the key of a request (DER) as that of a node, for 90 days. Whatever else the
    /// request asks for does not count.
    ///
    /// # Errors
    /// The request is damaged or not signed by its own key; the cluster id cannot stand in a
    /// certificate.
    pub fn issue_node(
        &self,
        runtime: &Runtime,
        cluster_id: &str,
        node: NodeId,
        request: &[u8],
    ) -> Result<Vec<u8>, PkiError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(PkiError::malformed("a certificate request", "too long"));
        }
        let request = CertificateSigningRequestDer::from(request);
        let request = rcgen::CertificateSigningRequestParams::from_der(&request)
            .map_err(|error| PkiError::malformed("a certificate request", error))?;
        let usages = [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = Leaf {
            peer: Peer::Node(node),
            cluster_id,
            life: NODE_LIFE,
            usages: &usages,
        };
        self.issue(runtime, &leaf, &request.public_key)
    }

    /// Certifies a key as an operator's: it may connect to nodes, and nobody connects to it.
    ///
    /// # Errors
    /// The cluster id cannot stand in a certificate.
    pub fn issue_admin(
        &self,
        runtime: &Runtime,
        cluster_id: &str,
        key: &NodeKey,
    ) -> Result<Vec<u8>, PkiError> {
        let leaf = Leaf {
            peer: Peer::Admin,
            cluster_id,
            life: ADMIN_LIFE,
            usages: &[ExtendedKeyUsagePurpose::ClientAuth],
        };
        self.issue(runtime, &leaf, key.pair())
    }

    fn issue(
        &self,
        runtime: &Runtime,
        leaf: &Leaf<'_>,
        key: &impl PublicKeyData,
    ) -> Result<Vec<u8>, PkiError> {
        check_cluster_id(leaf.cluster_id)?;
        let name = leaf.peer.name(leaf.cluster_id);
        let name = name.ok_or(PkiError::ClusterId(crate::InvalidClusterId))?;
        let mut params = params(runtime, leaf.life)?;
        params.subject_alt_names = CertificateParams::new(vec![name])?.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let own = CertificateDer::from(self.certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&own, &self.key)?;
        Ok(params.signed_by(key, &issuer)?.der().to_vec())
    }
}

struct Leaf<'a> {
    peer: Peer,
    cluster_id: &'a str,
    life: Duration,
    usages: &'a [ExtendedKeyUsagePurpose],
}

fn params(runtime: &Runtime, life: Duration) -> Result<CertificateParams, PkiError> {
    let mut serial = [0; SERIAL_BYTES];
    runtime.entropy().fill(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x01;
    let now = runtime.now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(now)? - CLOCK_SKEW;
    params.not_after = date(now)? + life;
    Ok(params)
}

fn date(at: Timestamp) -> Result<OffsetDateTime, PkiError> {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|error| PkiError::malformed("the clock's time", error))
}
