//! The files that make a process a node: who it is, its key and certificate, whom it trusts, where
//! the others are.
//!
//! Calls block: run them away from the async threads. It must not know what is in `db/` or how the
//! master key is used. Every file is written whole: a temporary file, synced, renamed, and the
//! folder synced; so a file is the old one or the new one. `identity.json` is written last when a
//! node joins: with it the rest is there too.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use granary_runtime::Runtime;
use granary_types::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pki::{NodeKey, certificate_pem, certificates_from_pem};
use crate::{Credentials, Peer, PeerNode, check_cluster_id};

const FORMAT: u32 = 1;
const NONCE_BYTES: usize = 16;
/// Bytes of a file at most: an address book of some ten thousand nodes fits.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const IDENTITY: &str = "identity.json";
const JOIN: &str = "join.json";
const PEERS: &str = "peers.json";
const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.pem";
const BUNDLE: &str = "ca.pem";
const MASTER_KEY: &str = "master.key";

const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// Why a file of the state directory is no good.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is there and makes no sense.
    #[error("{} is damaged ({reason}); restore it from a copy, or join as a new node", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer program wrote the file.
    #[error(
        "{} has format {format}, this program knows formats up to {FORMAT}: start the newer version",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// A file that the others need is missing.
    #[error("{} is missing; restore it from a copy, or join as a new node", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

/// Which node this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of which cluster.
    pub cluster_id: String,
    /// Which one.
    pub node: NodeId,
}

/// What makes a join repeatable.
#[derive(Debug)]
pub struct JoinAttempt {
    /// 16 random bytes: the same ones get the same node id.
    pub nonce: [u8; NONCE_BYTES],
    /// The node's key.
    pub key: NodeKey,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    cluster_id: String,
    node_id: u64,
}

#[derive(Serialize, Deserialize)]
struct JoinFile {
    format: u32,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
struct PeersFile {
    format: u32,
    cluster_id: String,
    epoch: u64,
    nodes: Vec<PeerNode>,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// A node's state directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The directory at `root`, made if need be (mode 0700).
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateError> {
        let root = root.into();
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root);
        made.map_err(failed(&root, "create"))?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Which node this is; `None` before it joined.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or newer than this program.
    pub fn identity(&self) -> Result<Option<Identity>, StateError> {
        let Some(file) = self.read_json::<IdentityFile>(IDENTITY)? else {
            return Ok(None);
        };
        if let Err(error) = check_cluster_id(&file.cluster_id) {
            return Err(self.damaged(IDENTITY, error));
        }
        if file.node_id == 0 {
            return Err(self.damaged(IDENTITY, "there is no node 0"));
        }
        Ok(Some(Identity {
            cluster_id: file.cluster_id,
            node: NodeId(file.node_id),
        }))
    }

    /// Makes the directory that node's.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_identity(&self, identity: &Identity) -> Result<(), StateError> {
        let file = IdentityFile {
            format: FORMAT,
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node.0,
        };
        self.write_json(IDENTITY, PUBLIC_MODE, &file)
    }

    /// The nonce and key of this directory's join, made and kept when there are none yet.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn join_attempt(&self, runtime: &Runtime) -> Result<JoinAttempt, StateError> {
        let key = self.key_or_new()?;
        if let Some(file) = self.read_json::<JoinFile>(JOIN)? {
            let nonce = hex::decode(&file.nonce).ok();
            let nonce = nonce.and_then(|bytes| bytes.try_into().ok());
            let nonce = nonce.ok_or_else(|| self.damaged(JOIN, "its nonce is cut off"))?;
            return Ok(JoinAttempt { nonce, key });
        }
        let mut nonce = [0; NONCE_BYTES];
        runtime.entropy().fill(&mut nonce);
        let file = JoinFile {
            format: FORMAT,
            nonce: hex::encode(nonce),
        };
        self.write_json(JOIN, SECRET_MODE, &file)?;
        Ok(JoinAttempt { nonce, key })
    }

    /// Whether the directory became a node's by joining: then it can join again as the same one.
    pub fn has_joined(&self) -> bool {
        self.root.join(JOIN).exists()
    }

    /// The node's key; `None` when it has none yet.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn key(&self) -> Result<Option<NodeKey>, StateError> {
        let Some(bytes) = self.read(KEY)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(KEY, error))?;
        let key = NodeKey::from_pem(&text).map_err(|error| self.damaged(KEY, error))?;
        Ok(Some(key))
    }

    /// The node's key, made and kept (mode 0600) when there is none yet.
    ///
    /// # Errors
    /// It cannot be read, made or written.
    pub fn key_or_new(&self) -> Result<NodeKey, StateError> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let key = NodeKey::generate().map_err(|error| self.damaged(KEY, error))?;
        self.write(KEY, SECRET_MODE, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// Keeps the node's certificate (DER).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_certificate(&self, certificate: &[u8]) -> Result<(), StateError> {
        let pem = certificate_pem(certificate);
        self.write(CERTIFICATE, PUBLIC_MODE, pem.as_bytes())
    }

    /// Keeps the CA certificates (DER) that the node trusts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_bundle(&self, certificates: &[Vec<u8>]) -> Result<(), StateError> {
        let pem: String = certificates
            .iter()
            .map(|der| certificate_pem(der))
            .collect();
        self.write(BUNDLE, PUBLIC_MODE, pem.as_bytes())
    }

    /// Everything the node needs for TLS; `None` before it joined.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not belong to the others.
    pub fn credentials(&self) -> Result<Option<Credentials>, StateError> {
        let Some(identity) = self.identity()? else {
            return Ok(None);
        };
        let certificates = |name: &str| {
            let pem = self.read(name)?.ok_or_else(|| self.missing(name))?;
            certificates_from_pem(&pem).map_err(|error| self.damaged(name, error))
        };
        let key = self.key()?.ok_or_else(|| self.missing(KEY))?;
        let credentials = Credentials {
            cluster_id: identity.cluster_id,
            local: Peer::Node(identity.node),
            key: std::sync::Arc::new(key),
            certificate: certificates(CERTIFICATE)?.swap_remove(0),
            bundle: certificates(BUNDLE)?,
        };
        let fits = credentials.check();
        fits.map_err(|error| self.damaged(CERTIFICATE, error))?;
        Ok(Some(credentials))
    }

    /// Keeps the master key, in hexadecimal (mode 0600).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_master_key(&self, key: &[u8]) -> Result<(), StateError> {
        self.write(MASTER_KEY, SECRET_MODE, hex::encode(key).as_bytes())
    }

    /// The address book and the epoch of the map it is from; `None` when there is none, or when it
    /// is of another cluster.
    ///
    /// # Errors
    /// The file cannot be read, is damaged or newer than this program.
    pub fn peers(&self, cluster_id: &str) -> Result<Option<(u64, Vec<PeerNode>)>, StateError> {
        let file = self.read_json::<PeersFile>(PEERS)?;
        let file = file.filter(|file| file.cluster_id == cluster_id);
        Ok(file.map(|file| (file.epoch, file.nodes)))
    }

    /// Keeps the address book.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put_peers(
        &self,
        cluster_id: &str,
        epoch: u64,
        nodes: Vec<PeerNode>,
    ) -> Result<(), StateError> {
        let file = PeersFile {
            format: FORMAT,
            cluster_id: cluster_id.to_owned(),
            epoch,
            nodes,
        };
        self.write_json(PEERS, PUBLIC_MODE, &file)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        let damaged = |error| self.damaged(name, error);
        let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if format > u64::from(FORMAT) {
            let path = self.root.join(name);
            return Err(StateError::Newer { path, format });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    fn write_json<T: Serialize>(&self, name: &str, mode: u32, value: &T) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(value);
        let mut text = text.map_err(|error| self.damaged(name, error))?;
        text.push(b'\n');
        self.write(name, mode, &text)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.root.join(name);
        let size = match fs::metadata(&path) {
            Ok(about) => about.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, "read")(error)),
        };
        if size > FILE_BYTES_MAX {
            return Err(self.damaged(name, "it is far too long"));
        }
        fs::read(&path).map(Some).map_err(failed(&path, "read"))
    }

    fn write(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.root.join(name);
        let temporary = self.root.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            // Not the file of an attempt that was cut off: it may have another mode.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.root)?.sync_all()
        };
        write().map_err(failed(&path, "write"))
    }

    fn damaged(&self, name: &str, reason: impl ToString) -> StateError {
        StateError::Damaged {
            path: self.root.join(name),
            reason: reason.to_string(),
        }
    }

    fn missing(&self, name: &str) -> StateError {
        let path = self.root.join(name);
        StateError::Missing { path }
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        path,
        doing,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::Authority;

    fn state() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        (folder, state)
    }

    /// A directory as joining leaves it.
    fn joined(state: &StateDir) -> Identity {
        let runtime = Runtime::system();
        let attempt = state.join_attempt(&runtime).unwrap();
        let authority = Authority::generate(&runtime, "c1").unwrap();
        let request = attempt.key.request().unwrap();
        let issued = authority.issue_node(&runtime, "c1", NodeId(4), &request);
        state.put_certificate(&issued.unwrap()).unwrap();
        state
            .put_bundle(&[authority.certificate().to_vec()])
            .unwrap();
        let identity = Identity {
            cluster_id: "c1".to_owned(),
            node: NodeId(4),
        };
        state.put_identity(&identity).unwrap();
        identity
    }

    #[test]
    fn what_was_written_is_read_after_a_restart() {
        let (_folder, state) = state();
        assert_eq!(state.identity().unwrap(), None);
        assert!(state.credentials().unwrap().is_none());
        let identity = joined(&state);
        let again = StateDir::open(state.path()).unwrap();
        assert_eq!(again.identity().unwrap(), Some(identity));
        let credentials = again.credentials().unwrap().unwrap();
        assert_eq!(credentials.local, Peer::Node(NodeId(4)));
        for secret in [KEY, JOIN] {
            let mode = fs::metadata(state.path().join(secret)).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{secret}");
        }
    }

    #[test]
    fn a_join_that_was_cut_off_goes_on_with_the_same_nonce_and_key() {
        let (_folder, state) = state();
        let runtime = Runtime::system();
        let first = state.join_attempt(&runtime).unwrap();
        // A crash left a temporary file.
        fs::write(state.path().join("join.json.new"), "{").unwrap();
        let second = state.join_attempt(&runtime).unwrap();
        assert_eq!(first.nonce, second.nonce);
        assert_eq!(first.key.to_pem(), second.key.to_pem());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file_and_what_to_do() {
        let (_folder, state) = state();
        joined(&state);
        let spoil = |name: &str, text: &str| {
            let path = state.path().join(name);
            let before = fs::read(&path).unwrap();
            fs::write(&path, text).unwrap();
            let said = state.credentials().unwrap_err().to_string();
            fs::write(&path, before).unwrap();
            said
        };
        let other_key = NodeKey::generate().unwrap().to_pem();
        for (name, text, expected) in [
            (IDENTITY, "", "identity.json is damaged"),
            (IDENTITY, "{\"format\":1}", "identity.json is damaged"),
            (
                IDENTITY,
                "{\"format\":2,\"something\":true}",
                "format 2, this program knows formats up to 1",
            ),
            (
                IDENTITY,
                "{\"format\":1,\"cluster_id\":\"c1\",\"node_id\":5}",
                "node.pem is damaged",
            ),
            (KEY, "-----BEGIN", "node.key is damaged"),
            (KEY, &other_key, "node.pem is damaged"),
            (CERTIFICATE, "nothing", "node.pem is damaged"),
            (BUNDLE, "", "ca.pem is damaged"),
        ] {
            let said = spoil(name, text);
            assert!(said.contains(expected), "{name} {text}: {said}");
        }
        fs::remove_file(state.path().join(BUNDLE)).unwrap();
        let said = state.credentials().unwrap_err().to_string();
        assert!(said.contains("ca.pem is missing"), "{said}");
    }

    #[test]
    fn another_clusters_address_book_does_not_count() {
        let (_folder, state) = state();
        state.put_peers("c1", 7, Vec::new()).unwrap();
        assert_eq!(state.peers("c1").unwrap(), Some((7, Vec::new())));
        assert_eq!(state.peers("c2").unwrap(), None);
    }
}
