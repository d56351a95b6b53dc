//! A private key (ECDSA P-256) and what it asks to have signed.

use std::fmt;

use rcgen::{CertificateParams, KeyPair};

use super::PkiError;

/// A private key of a node or an operator. Not shown by `Debug`.
pub struct NodeKey {
    pair: KeyPair,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

impl NodeKey {
    /// A new key, from the cryptographic library's own randomness.
    ///
    /// # Errors
    /// The library failed.
    pub fn generate() -> Result<Self, PkiError> {
        let pair = KeyPair::generate()?;
        Ok(Self { pair })
    }

    /// Reads a key in PEM (PKCS #8).
    ///
    /// # Errors
    /// It is not one.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let pair = KeyPair::from_pem(pem);
        let pair = pair.map_err(|error| PkiError::malformed("a private key", error))?;
        Ok(Self { pair })
    }

    /// The key in PEM. A secret.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The key in DER (PKCS #8). A secret.
    pub fn to_der(&self) -> Vec<u8> {
        self.pair.serialize_der()
    }

    /// A request to have the key certified, in DER. It names nobody: the authority decides.
    ///
    /// # Errors
    /// Signing failed.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// The bits of its public key, as certificates hold them.
    pub(crate) fn public_key(&self) -> &[u8] {
        self.pair.public_key_raw()
    }
}
