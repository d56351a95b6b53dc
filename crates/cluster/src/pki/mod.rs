//! Certificates: who signs them, what they say, and tokens that let a node ask for its first one.
//!
//! It must not know connections or files. Times come from the runtime's clock.

mod authority;
mod facts;
mod node_key;
mod token;

pub use authority::Authority;
pub use facts::{CertificateFacts, Fingerprint, certificate_pem, certificates_from_pem};
pub use node_key::NodeKey;
pub use token::JoinToken;
pub(crate) use token::secret_matches;

/// Why a certificate, a key or a token is no good.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The bytes are not what they should be.
    #[error("{what} cannot be read: {reason}")]
    Malformed {
        /// What it should have been.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A key and a certificate that do not belong together.
    #[error("{0} is the key of another certificate")]
    ForeignKey(&'static str),
    /// A cluster id that cannot stand in a certificate.
    #[error(transparent)]
    ClusterId(#[from] crate::InvalidClusterId),
    /// Making a key or a signature failed.
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
}

impl PkiError {
    pub(crate) fn malformed(what: &'static str, reason: impl ToString) -> Self {
        Self::Malformed {
            what,
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
