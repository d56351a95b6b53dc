//! The root account's access key: given by the operator, or made once and kept. It is the only key
//! that a start installs, and those that earlier starts installed are disabled by the next one.

use std::path::{Path, PathBuf};

use anyhow::bail;
use granary_meta_api::{Meta, pb};
use granary_runtime::Entropy;
use serde::{Deserialize, Serialize};

use crate::config::Credentials;
use crate::files;
use crate::roles::meta::ROOT_ACCOUNT;
use crate::vault::Vault;

/// Letters and digits without those that people mistake for one another.
const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789";
const ID_RANDOM_CHARS: usize = 20;
const SECRET_CHARS: usize = 30;
/// Keeps a made pair.
pub(crate) const PAIR_FILE: &str = "root-credentials.toml";
/// Keeps the ids that starts have installed and not disabled yet.
const INSTALLED_FILE: &str = "root-key-ids.toml";

/// The file that keeps a made pair.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    access_key_id: String,
    access_key_secret: String,
    /// No start that made it has succeeded yet, so nobody was shown it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unseen: bool,
}

/// The file that keeps which keys starts have installed.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Installed {
    ids: Vec<String>,
}

/// The pair in force, and where it comes from.
pub(crate) struct RootCredentials {
    pub(crate) pair: Credentials,
    /// The file that keeps it, when Granary made it.
    pub(crate) kept_in: Option<PathBuf>,
    /// Made, and not shown to the operator yet.
    pub(crate) unseen: bool,
}

impl RootCredentials {
    /// Remembers that the operator was shown the pair.
    pub(crate) fn note_seen(&self) -> anyhow::Result<()> {
        match &self.kept_in {
            Some(file) if self.unseen => keep(file, &self.pair, false),
            _ => Ok(()),
        }
    }
}

/// Makes the configured pair, or else the made one, the root account's access key, and disables the
/// ones that earlier starts installed. `dir` is the metadata directory.
///
/// # Errors
/// Files that cannot be read or written; metadata that does not answer.
pub(crate) async fn install(
    meta: &Meta,
    vault: &Vault,
    entropy: &dyn Entropy,
    dir: &Path,
    given: Option<&Credentials>,
) -> anyhow::Result<RootCredentials> {
    let pair_file = dir.join(PAIR_FILE);
    let credentials = root(given, &pair_file, entropy)?;
    let id = &credentials.pair.id;
    let installed_file = dir.join(INSTALLED_FILE);
    let known: Installed = read(&installed_file)?.unwrap_or_default();
    let mut old = known.ids.clone();
    // Installations from before that file was written had this one at least.
    if let Some(kept) = read::<Kept>(&pair_file)? {
        old.push(kept.access_key_id);
    }
    old.retain(|other| other != id);
    old.sort();
    old.dedup();
    // Noted before it is installed: a key that works is never forgotten.
    let noted = Installed {
        ids: std::iter::once(id.clone()).chain(old.clone()).collect(),
    };
    if noted != known {
        files::write_secret(&installed_file, &toml::to_string(&noted)?)?;
    }
    put(meta, vault, entropy, &credentials.pair).await?;
    for other in &old {
        disable(meta, other).await?;
    }
    if !old.is_empty() {
        let only = Installed {
            ids: vec![id.clone()],
        };
        files::write_secret(&installed_file, &toml::to_string(&only)?)?;
    }
    Ok(credentials)
}

/// Makes a pair known to the cluster and enables it, unless it is in force already.
async fn put(
    meta: &Meta,
    vault: &Vault,
    entropy: &dyn Entropy,
    pair: &Credentials,
) -> anyhow::Result<()> {
    let known = find(meta, &pair.id).await?.unwrap_or_default();
    let same = vault.open_text(&known.sealed_secret).as_deref() == Some(pair.secret.as_str());
    if same && !known.disabled && known.account == ROOT_ACCOUNT.0 {
        return Ok(());
    }
    let key = pb::state::AccessKey {
        id: pair.id.clone(),
        account: ROOT_ACCOUNT.0,
        sealed_secret: vault.seal(&pair.secret, entropy)?.into(),
        disabled: false,
        created_ms: 0,
    };
    replace(meta, key).await
}

async fn disable(meta: &Meta, id: &str) -> anyhow::Result<()> {
    let Some(mut key) = find(meta, id).await? else {
        return Ok(());
    };
    if key.disabled || key.account != ROOT_ACCOUNT.0 {
        return Ok(());
    }
    key.disabled = true;
    replace(meta, key).await?;
    tracing::info!(
        access_key_id = id,
        "access key of the root account disabled: another one is configured now"
    );
    Ok(())
}

async fn find(meta: &Meta, id: &str) -> anyhow::Result<Option<pb::state::AccessKey>> {
    let answer = meta.query(pb::GetAccessKey { id: id.to_owned() }).await?;
    Ok(answer.key.filter(|_| answer.found))
}

async fn replace(meta: &Meta, key: pb::state::AccessKey) -> anyhow::Result<()> {
    let decision = meta.propose(pb::PutAccessKey { key: Some(key) }).await?;
    decision
        .map(|_| ())
        .map_err(|no| anyhow::anyhow!("the root access key was refused: {no:?}"))
}

/// The operator's pair, else the kept one, else a new one that is kept in `file` (mode 0600).
fn root(
    given: Option<&Credentials>,
    file: &Path,
    entropy: &dyn Entropy,
) -> anyhow::Result<RootCredentials> {
    if let Some(pair) = given {
        return Ok(RootCredentials {
            pair: pair.clone(),
            kept_in: None,
            unseen: false,
        });
    }
    let kept_in = Some(file.to_owned());
    if let Some(kept) = read::<Kept>(file)? {
        if kept.access_key_id.is_empty() || kept.access_key_secret.is_empty() {
            bail!("{} holds an empty access key", file.display());
        }
        let pair = Credentials {
            id: kept.access_key_id,
            secret: kept.access_key_secret,
        };
        return Ok(RootCredentials {
            pair,
            kept_in,
            unseen: kept.unseen,
        });
    }
    let pair = new_pair(entropy);
    keep(file, &pair, true)?;
    Ok(RootCredentials {
        pair,
        kept_in,
        unseen: true,
    })
}

/// A pair that nobody has.
pub(crate) fn new_pair(entropy: &dyn Entropy) -> Credentials {
    Credentials {
        id: format!("GRNY{}", random_text(entropy, ID_RANDOM_CHARS)),
        secret: random_text(entropy, SECRET_CHARS),
    }
}

fn keep(file: &Path, pair: &Credentials, unseen: bool) -> anyhow::Result<()> {
    let kept = Kept {
        access_key_id: pair.id.clone(),
        access_key_secret: pair.secret.clone(),
        unseen,
    };
    files::write_secret(file, &toml::to_string(&kept)?)
}

fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> anyhow::Result<Option<T>> {
    let Some(text) = files::read_if_present(file)? else {
        return Ok(None);
    };
    let read = toml::from_str(&text);
    // The parser's message quotes the line, which may be the secret.
    let read = read.map_err(|_| anyhow::anyhow!("{} does not hold an access key", file.display()));
    read.map(Some)
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
        assert!(first.unseen && second.unseen, "nobody was shown it yet");
        second.note_seen().unwrap();
        assert!(!root(None, &file, &SystemEntropy).unwrap().unseen);
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
