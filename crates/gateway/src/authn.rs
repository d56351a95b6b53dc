//! Who asks: finds the signature, the key it names and the account behind the key.
//!
//! Keys are cached for a bounded time, in opened form, so that a signature costs no call to the
//! root; unknown keys are never remembered. What the caller may do is decided elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::{Meta, pb};
use granary_oss::sign::post_policy::PostSignature;
use granary_oss::sign::{SigningSecret, parse_authorization};
use granary_oss::{ErrorCode, OssError};
use granary_policy::Caller;
use granary_runtime::Runtime;
use granary_types::AccountId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::failure;
use crate::head::Head;

/// Keys kept at most.
const KEYS_MAX: usize = 16 * 1024;
/// Longest access key id that is looked up; longer ones are not ours.
const KEY_ID_BYTES_MAX: usize = 128;

/// A secret that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretString(String);

impl SecretString {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}

/// Opens the access key secrets that the metadata keeps sealed.
pub trait KeyVault: Send + Sync + 'static {
    /// The secret; `None` when it was sealed with another master key or is damaged.
    fn open(&self, sealed: &[u8]) -> Option<SecretString>;
}

/// A caller, and how they proved it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) caller: Caller,
    pub(crate) signature: &'static str,
}

impl Identity {
    /// Somebody who showed no signature.
    pub(crate) const ANONYMOUS: Self = Self {
        caller: Caller::Anonymous,
        signature: "anonymous",
    };
}

/// Verifies signatures.
pub(crate) struct Authenticator {
    runtime: Runtime,
    meta: Meta,
    vault: Arc<dyn KeyVault>,
    region: String,
    life: Duration,
    lookups: Counter,
    keys: Mutex<HashMap<String, Known>>,
}

struct Known {
    key: Arc<Key>,
    dies_at: Duration,
}

struct Key {
    account: AccountId,
    secret: SigningSecret,
    disabled: bool,
}

impl Authenticator {
    pub(crate) fn new(
        runtime: Runtime,
        meta: Meta,
        vault: Arc<dyn KeyVault>,
        region: String,
        life: Duration,
        lookups: Counter,
    ) -> Self {
        Self {
            runtime,
            meta,
            vault,
            region,
            life,
            lookups,
            keys: Mutex::default(),
        }
    }

    /// Establishes who asks.
    ///
    /// # Errors
    /// The errors of the signature; InvalidAccessKeyId; InvalidSecurityToken, since no temporary
    /// keys are issued; ServiceUnavailable when the key cannot be looked up.
    pub(crate) async fn authenticate(&self, head: &Head) -> Result<Identity, OssError> {
        let signed = head.signed();
        let Some(presented) = parse_authorization(&signed)? else {
            return Ok(Identity::ANONYMOUS);
        };
        let id = presented.access_key_id();
        let unknown = || OssError::new(ErrorCode::InvalidAccessKeyId).extra("OSSAccessKeyId", id);
        let key = self.find(id).await?.ok_or_else(unknown)?;
        if key.disabled {
            return Err(unknown().message("The OSS Access Key Id is disabled."));
        }
        presented.verify(&key.secret, self.runtime.now(), &self.region, &signed)?;
        if presented.security_token().is_some() {
            return Err(OssError::new(ErrorCode::InvalidSecurityToken));
        }
        let signature = presented.kind().as_str();
        Ok(Identity {
            caller: Caller::Account(key.account),
            signature,
        })
    }

    /// Establishes who signed the policy of a form.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub(crate) async fn authenticate_form(
        &self,
        presented: &PostSignature,
    ) -> Result<Identity, OssError> {
        let id = presented.access_key_id();
        let unknown = || OssError::new(ErrorCode::InvalidAccessKeyId).extra("OSSAccessKeyId", id);
        let key = self.find(id).await?.ok_or_else(unknown)?;
        if key.disabled {
            return Err(unknown().message("The OSS Access Key Id is disabled."));
        }
        presented.verify(&key.secret, self.runtime.now(), &self.region)?;
        if presented.security_token().is_some() {
            return Err(OssError::new(ErrorCode::InvalidSecurityToken));
        }
        Ok(Identity {
            caller: Caller::Account(key.account),
            signature: presented.kind(),
        })
    }

    async fn find(&self, id: &str) -> Result<Option<Arc<Key>>, OssError> {
        if id.len() > KEY_ID_BYTES_MAX {
            return Ok(None);
        }
        let asked_at = self.runtime.monotonic();
        let known = self
            .keys
            .lock()
            .get(id)
            .and_then(|known| (known.dies_at > asked_at).then(|| Arc::clone(&known.key)));
        if known.is_some() {
            return Ok(known);
        }
        self.lookups.inc();
        let query = pb::GetAccessKey { id: id.to_owned() };
        let answer = self.meta.query(query).await.map_err(failure::of_meta)?;
        let Some(record) = answer.key.filter(|_| answer.found) else {
            self.keys.lock().remove(id);
            return Ok(None);
        };
        let secret = self.vault.open(&record.sealed_secret).ok_or_else(|| {
            OssError::new(ErrorCode::InternalError)
                .source("the secret of an access key cannot be opened with this master key")
        })?;
        let key = Arc::new(Key {
            account: AccountId(record.account),
            secret: SigningSecret::new(secret.expose()),
            disabled: record.disabled,
        });
        let mut keys = self.keys.lock();
        if keys.len() >= KEYS_MAX {
            keys.retain(|_, known| known.dies_at > asked_at);
        }
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        let dies_at = asked_at + self.life;
        keys.insert(
            id.to_owned(),
            Known {
                key: Arc::clone(&key),
                dies_at,
            },
        );
        Ok(Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_themselves() {
        assert!(!format!("{:?}", SecretString::new("hunter2")).contains("hunter2"));
    }
}
