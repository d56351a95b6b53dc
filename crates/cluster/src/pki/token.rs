//! Join tokens: `granary.<fingerprint of the CA>.<token id>.<secret>`.
//!
//! The fingerprint lets the joining node know the cluster before it tells the secret; the cluster
//! keeps the secret's SHA-256 only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use granary_meta_api::pb;
use granary_runtime::Runtime;
use granary_types::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Fingerprint, PkiError};

const PREFIX: &str = "granary";
const SECRET_BYTES: usize = 32;
/// Longest token id.
const ID_BYTES_MAX: usize = 64;

/// A join token with its secret. Not shown by `Debug`.
#[derive(Clone)]
pub struct JoinToken {
    fingerprint: Fingerprint,
    id: String,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("fingerprint", &self.fingerprint)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A new token of the cluster whose CA has this fingerprint.
    pub fn make(runtime: &Runtime, fingerprint: Fingerprint) -> Self {
        let mut secret = [0; SECRET_BYTES];
        runtime.entropy().fill(&mut secret);
        Self {
            fingerprint,
            id: format!("{:016x}", runtime.entropy().next_u64()),
            secret,
        }
    }

    /// Reads a token as [`JoinToken::reveal`] wrote it; white space around it does not matter.
    ///
    /// # Errors
    /// It is no token, or not all of it.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        let bad = |reason: &str| PkiError::malformed("the join token", reason);
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, fingerprint, id, secret] = parts.as_slice() else {
            return Err(bad("it has the form granary.FINGERPRINT.ID.SECRET"));
        };
        let fingerprint = Fingerprint::decode(fingerprint);
        let fingerprint = fingerprint.ok_or_else(|| bad("its second part is damaged"))?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(known) {
            return Err(bad("its third part is damaged"));
        }
        let secret = URL_SAFE_NO_PAD.decode(secret).ok();
        let secret = secret.and_then(|secret| secret.try_into().ok());
        Ok(Self {
            fingerprint,
            id: (*id).to_owned(),
            secret: secret.ok_or_else(|| bad("its last part is damaged or cut off"))?,
        })
    }

    /// The token as a text: a secret.
    pub fn reveal(&self) -> String {
        let (fingerprint, id) = (self.fingerprint.encoded(), &self.id);
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
        format!("{PREFIX}.{fingerprint}.{id}.{secret}")
    }

    /// Of the CA that must have signed whoever is told the secret.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// By what the cluster finds it.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// What the root keeps of it.
    pub fn record(&self, expires: Timestamp) -> pb::state::JoinToken {
        pb::state::JoinToken {
            id: self.id.clone(),
            secret_sha256: Sha256::digest(self.secret).to_vec().into(),
            expires_ms: expires.0,
        }
    }
}

/// True when `secret` is the one of a kept token; takes as long for a wrong one.
pub(crate) fn secret_matches(kept: &pb::state::JoinToken, secret: &[u8]) -> bool {
    let digest = Sha256::digest(secret);
    digest.as_slice().ct_eq(kept.secret_sha256.as_ref()).into()
}
