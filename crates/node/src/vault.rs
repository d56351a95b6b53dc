//! Secrets at rest: AES-256-GCM under a master key that a file holds.
//!
//! A sealed secret is a format byte, a random nonce of 96 bits and the ciphertext with its tag.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use granary_cluster::KeySealer;
use granary_gateway::{KeyVault, SecretString};
use granary_runtime::{Entropy, Runtime};

use crate::files;

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;
const MASTER_KEY_BYTES: usize = 32;

/// Seals and opens the secrets of access keys.
pub(crate) struct Vault {
    key: LessSafeKey,
    bytes: Vec<u8>,
}

impl Vault {
    /// Reads the master key from `file`.
    ///
    /// # Errors
    /// The file is missing, which is never made good by a new key: what the old one sealed would be
    /// lost without a word.
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let Some(text) = files::read_if_present(file)? else {
            let shown = file.display();
            bail!(
                "{shown} is missing: it opens the secrets of this installation's access keys. Put it \
                 back from a backup. If it is lost for good, make a new one (openssl rand -hex 32 > \
                 {shown}): the root access key is sealed again with it, any other access key must be \
                 made again"
            );
        };
        let bytes = hex::decode(text.trim())
            .with_context(|| format!("{} does not hold a master key", file.display()))?;
        let Ok(key) = UnboundKey::new(&AES_256_GCM, &bytes) else {
            bail!(
                "{} must hold {MASTER_KEY_BYTES} bytes in hexadecimal",
                file.display()
            );
        };
        Ok(Self {
            key: LessSafeKey::new(key),
            bytes,
        })
    }

    /// Reads the master key of an installation that is being made; makes one at random when there
    /// is none yet (mode 0600).
    pub(crate) fn open_or_make(file: &Path, entropy: &dyn Entropy) -> anyhow::Result<Self> {
        if files::read_if_present(file)?.is_none() {
            let mut bytes = [0; MASTER_KEY_BYTES];
            entropy.fill(&mut bytes);
            files::write_secret(file, &hex::encode(bytes))?;
        }
        Self::open(file)
    }

    /// Seals a secret.
    pub(crate) fn seal(&self, secret: &str, entropy: &dyn Entropy) -> anyhow::Result<Vec<u8>> {
        self.seal_bytes(secret.as_bytes(), entropy)
    }

    /// Seals a secret that is no text.
    pub(crate) fn seal_bytes(
        &self,
        secret: &[u8],
        entropy: &dyn Entropy,
    ) -> anyhow::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let mut sealed = vec![FORMAT];
        sealed.extend_from_slice(&nonce);
        let mut text = secret.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| anyhow::anyhow!("the secret could not be sealed"))?;
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens a sealed secret; `None` when it was sealed with another key or is damaged.
    pub(crate) fn open_text(&self, sealed: &[u8]) -> Option<String> {
        String::from_utf8(self.open_bytes(sealed)?).ok()
    }

    /// Opens a sealed secret that is no text.
    pub(crate) fn open_bytes(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (format, rest) = sealed.split_first()?;
        if *format != FORMAT || rest.len() < NONCE_BYTES {
            return None;
        }
        let (nonce, text) = rest.split_at(NONCE_BYTES);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let secret = self
            .key
            .open_in_place(nonce, Aad::empty(), &mut text)
            .ok()?;
        Some(secret.to_vec())
    }

    /// The master key itself.
    pub(crate) fn master_key(&self) -> &[u8] {
        &self.bytes
    }
}

/// The vault with what sealing needs, for the crate that lets nodes join.
pub(crate) struct Sealer {
    pub(crate) vault: Arc<Vault>,
    pub(crate) runtime: Runtime,
}

impl KeySealer for Sealer {
    fn seal(&self, secret: &[u8]) -> Option<Vec<u8>> {
        let entropy = self.runtime.entropy().as_ref();
        self.vault.seal_bytes(secret, entropy).ok()
    }

    fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.vault.open_bytes(sealed)
    }

    fn master_key(&self) -> Vec<u8> {
        self.vault.master_key().to_vec()
    }
}

impl KeyVault for Vault {
    fn open(&self, sealed: &[u8]) -> Option<SecretString> {
        self.open_text(sealed).map(SecretString::new)
    }
}

#[cfg(test)]
mod tests {
    use granary_runtime::SystemEntropy;

    use super::*;

    #[test]
    fn opens_what_it_sealed_after_a_restart_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master.key");
        assert!(Vault::open(&file).is_err() && !file.exists());
        let vault = Vault::open_or_make(&file, &SystemEntropy).unwrap();
        let mut sealed = vault.seal("secret", &SystemEntropy).unwrap();
        let again = Vault::open_or_make(&file, &SystemEntropy).unwrap();
        assert_eq!(again.open_text(&sealed).as_deref(), Some("secret"));
        assert_eq!(again.open_text(&sealed[..9]), None);
        sealed[20] ^= 1;
        assert_eq!(again.open_text(&sealed), None);
    }
}
