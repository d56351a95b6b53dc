//! The signature of a callback: RSA with MD5 (RFC 8017, RSASSA-PKCS1-v1_5), as application servers
//! verify it for OSS. MD5 is what the protocol has; aws-lc-rs does not sign with it.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_runtime::Entropy;
use http::Uri;
use md5::{Digest as _, Md5};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::{Pkcs1v15Sign, RsaPrivateKey};

use crate::config::{ConfigError, GatewayConfig};

/// What stands before an MD5 digest that is signed (RFC 8017, section 9.2, note 1).
const MD5_PREFIX: [u8; 18] = [
    0x30, 0x20, 0x30, 0x0c, 0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05, 0x05, 0x00,
    0x04, 0x10,
];

/// Signs callbacks.
pub(super) struct Signer {
    key: RsaPrivateKey,
    /// Base64 of the URL at which servers find the public key.
    public_key_url: String,
}

impl Signer {
    /// Reads the key that the settings name; `None` when they name none.
    ///
    /// # Errors
    /// A key without the URL of its public key, or the other way round; a file that is no such key.
    pub(super) fn read(config: &GatewayConfig) -> Result<Option<Self>, ConfigError> {
        let (file, url) = (&config.callback_key_file, &config.callback_public_key_url);
        let wrong = |setting, reason: String| ConfigError { setting, reason };
        match (file.is_empty(), url.is_empty()) {
            (true, true) => return Ok(None),
            (true, false) => {
                let reason = "is set without callback_key_file".to_owned();
                return Err(wrong("callback_public_key_url", reason));
            }
            (false, _) => {}
        }
        let is_url = url.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
        });
        if !is_url {
            let reason = format!("`{url}` is not a URL at which the public key can be had");
            return Err(wrong("callback_public_key_url", reason));
        }
        let unreadable = |reason: String| wrong("callback_key_file", format!("{file}: {reason}"));
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        let key = RsaPrivateKey::from_pkcs8_pem(&text)
            .or_else(|_| RsaPrivateKey::from_pkcs1_pem(&text))
            .map_err(|_| unreadable("no RSA private key in PEM".to_owned()))?;
        Ok(Some(Self {
            key,
            public_key_url: STANDARD.encode(url),
        }))
    }

    /// The value of `x-oss-pub-key-url`.
    pub(super) fn public_key_url(&self) -> &str {
        &self.public_key_url
    }

    /// The value of `authorization`. Takes a millisecond or two; the randomness blinds the key.
    ///
    /// # Errors
    /// A key that cannot sign.
    pub(super) fn sign(&self, entropy: &dyn Entropy, text: &[u8]) -> Result<String, rsa::Error> {
        let scheme = Pkcs1v15Sign {
            hash_len: Some(16),
            prefix: MD5_PREFIX.into(),
        };
        let digest = Md5::digest(text);
        let signature = self
            .key
            .sign_with_rng(&mut Chance(entropy), scheme, &digest)?;
        Ok(STANDARD.encode(signature))
    }
}

/// The runtime's randomness, as `rsa` wants it.
struct Chance<'a>(&'a dyn Entropy);

impl TryRng for Chance<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Chance<'_> {}
