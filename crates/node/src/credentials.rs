//! The root account's access key: given by the operator, or made once and kept.

use std::path::Path;

use anyhow::{Context as _, bail};
use granary_runtime::Entropy;
use serde::{Deserialize, Serialize};

use crate::config::Credentials;
use crate::files;

/// Letters and digits without those that people mistake for one another.
const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789";
const ID_RANDOM_CHARS: usize = 20;
const SECRET_CHARS: usize = 30;

/// The file that keeps a made pair.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    access_key_id: String,
    access_key_secret: String,
}

/// Where the pair comes from.
pub(crate) struct RootCredentials {
    pub(crate) pair: Credentials,
    /// Made just now: the operator has not seen it yet.
    pub(crate) fresh: bool,
}

/// The operator's pair, else the kept one, else a new one that is kept in `file` (mode 0600).
pub(crate) fn root(
    given: Option<&Credentials>,
    file: &Path,
    entropy: &dyn Entropy,
) -> anyhow::Result<RootCredentials> {
    if let Some(pair) = given {
        return Ok(RootCredentials {
            pair: pair.clone(),
            fresh: false,
        });
    }
    if let Some(text) = files::read_if_present(file)? {
        let kept: Kept = toml::from_str(&text)
            .with_context(|| format!("{} does not hold an access key", file.display()))?;
        if kept.access_key_id.is_empty() || kept.access_key_secret.is_empty() {
            bail!("{} holds an empty access key", file.display());
        }
        let pair = Credentials {
            id: kept.access_key_id,
            secret: kept.access_key_secret,
        };
        return Ok(RootCredentials { pair, fresh: false });
    }
    let pair = Credentials {
        id: format!("GRNY{}", random_text(entropy, ID_RANDOM_CHARS)),
        secret: random_text(entropy, SECRET_CHARS),
    };
    let kept = Kept {
        access_key_id: pair.id.clone(),
        access_key_secret: pair.secret.clone(),
    };
    files::write_secret(file, &toml::to_string(&kept)?)?;
    Ok(RootCredentials { pair, fresh: true })
}

fn random_text(entropy: &dyn Entropy, chars: usize) -> String {
    let count = ALPHABET.len() as u64;
    (0..chars)
        .map(|_| {
            let index = usize::try_from(entropy.below(count)).unwrap_or(0);
            char::from(ALPHABET[index])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use granary_runtime::SystemEntropy;

    use super::*;

    #[test]
    fn a_made_pair_is_kept_and_only_the_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root-credentials.toml");
        let first = root(None, &file, &SystemEntropy).unwrap();
        let second = root(None, &file, &SystemEntropy).unwrap();
        assert!(first.fresh && !second.fresh);
        assert_eq!(first.pair.id, second.pair.id);
        assert_eq!(first.pair.secret, second.pair.secret);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_operators_pair_wins_and_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root-credentials.toml");
        let given = Credentials {
            id: "id".to_owned(),
            secret: "a secret".to_owned(),
        };
        assert_eq!(
            root(Some(&given), &file, &SystemEntropy).unwrap().pair.id,
            "id"
        );
        assert!(!file.exists());
    }
}
