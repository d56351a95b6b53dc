//! What a certificate says, its fingerprint, and PEM.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use granary_types::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;

use super::PkiError;
use crate::Peer;

/// Certificates that a PEM file may hold.
const CERTIFICATES_MAX: usize = 16;
/// Characters per line of PEM, RFC 7468.
const PEM_LINE: usize = 64;

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// As tokens carry it: base64url without padding.
    pub fn encoded(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`Fingerprint::encoded`] wrote.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a certificate says. Nothing of it is verified here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its DNS names.
    pub names: Vec<String>,
    /// From when it counts.
    pub not_before: Timestamp,
    /// Until when it counts.
    pub not_after: Timestamp,
    /// The subject, DER.
    pub subject: Vec<u8>,
    /// The subject of who signed it, DER. Every authority of ours has a name of its own.
    pub issuer: Vec<u8>,
    /// The subject's public key: the bits of its key info.
    pub(crate) public_key: Vec<u8>,
}

impl CertificateFacts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is not one.
    pub fn read(der: &[u8]) -> Result<Self, PkiError> {
        let bad = |reason: String| PkiError::malformed("a certificate", reason);
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|error| bad(error.to_string()))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow it".to_owned()));
        }
        let alternatives = parsed
            .subject_alternative_name()
            .map_err(|error| bad(error.to_string()))?;
        let mut names = Vec::new();
        for name in alternatives.iter().flat_map(|san| &san.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                names.push((*name).to_owned());
            }
        }
        let millis = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0) * 1000);
        Ok(Self {
            names,
            not_before: millis(parsed.validity().not_before.timestamp()),
            not_after: millis(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Whom the certificate names in a cluster: it has exactly one name, of that cluster.
    pub fn peer(&self, cluster_id: &str) -> Option<Peer> {
        let [name] = self.names.as_slice() else {
            return None;
        };
        let (peer, named) = Peer::of_name(name)?;
        (named == cluster_id).then_some(peer)
    }

    /// When two thirds of its life are over.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        Timestamp(self.not_before.0 + life / 3 * 2)
    }
}

/// A certificate in PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(PEM_LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The certificates of a PEM file, in DER and in order: at least one.
///
/// # Errors
/// It is damaged, or holds none or too many.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, PkiError> {
    let bad = |reason: String| PkiError::malformed("a PEM file of certificates", reason);
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        if certificates.len() == CERTIFICATES_MAX {
            return Err(bad("too many certificates".to_owned()));
        }
        CertificateFacts::read(&certificate)?;
        certificates.push(certificate.to_vec());
    }
    if certificates.is_empty() {
        return Err(bad("no certificate".to_owned()));
    }
    Ok(certificates)
}
