//! A secret that signatures are verified with.

use std::fmt;

use parking_lot::Mutex;

use super::v4::{Scope, SigningKey, signing_key};

/// The secret of an access key, and the V4 signing key that was last derived from it: it is the same
/// for a day. Does not show itself.
pub struct SigningSecret {
    text: String,
    v4: Mutex<Option<(Scope, SigningKey)>>,
}

impl SigningSecret {
    /// Nothing is derived yet.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            v4: Mutex::default(),
        }
    }

    /// The text. Never log it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The key of a scope.
    pub(super) fn v4_key(&self, scope: &Scope) -> SigningKey {
        let mut derived = self.v4.lock();
        match &*derived {
            Some((known, key)) if known == scope => key.clone(),
            _ => {
                let key = signing_key(&self.text, scope);
                *derived = Some((scope.clone(), key.clone()));
                key
            }
        }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}
