//! The state directory that is being rebuilt: made beside, and moved into place when it is complete.
//!
//! Invariant: whoever works in it holds the lock of the state directory, as a running node does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use granary_cluster::{Authority, Identity, PeerNode, StateDir};
use granary_runtime::Runtime;
use granary_vfs::{DirLock, LOCK_FILE, RealVfs, Vfs as _};

use super::Cluster;
use crate::cluster::status::Peers;
use crate::files;
use crate::roles::meta::STAMP_FILE;

/// The new directory while it is being made.
const BESIDE: &str = "rebuilding";
/// The operator's copy of the authority and the master key.
const ADMIN: &str = "admin";
/// There from a rebuild until every other node knows of this one.
pub(super) const MARKER: &str = "rebuilt";
/// What is moved into place. The identity makes it a node's, and comes afterwards.
const MOVED: [&str; 9] = [
    "db",
    // Without it a database that is lost before the first start would be missed by nobody.
    STAMP_FILE,
    "format",
    "master.key",
    "node.key",
    "node.pem",
    "ca.pem",
    "peers.json",
    MARKER,
];

/// What an empty state directory may have: ours, and what making an ext file system leaves.
const PASSED_OVER: [&str; 4] = [BESIDE, ADMIN, LOCK_FILE, "lost+found"];

/// A state directory that is being rebuilt.
pub(super) struct Place {
    target: PathBuf,
    beside: PathBuf,
    state: StateDir,
    _lock: DirLock,
}

/// Whether a state directory was made by a rebuild that not every node has heard of yet.
pub(super) fn was_rebuilt(target: &Path) -> bool {
    target.join(MARKER).exists()
}

/// The address book in a state directory.
pub(super) fn peers(target: &Path, cluster_id: &str) -> anyhow::Result<Peers> {
    let found = StateDir::open(target)?.peers(cluster_id)?;
    let (epoch, nodes) = found.context("the address book is missing")?;
    Ok(Peers { epoch, nodes })
}

impl Place {
    /// Takes an empty state directory, or what an earlier run has left of one; the inner error is
    /// the node whose it is already.
    pub(super) fn prepare(
        target: &Path,
        admin_dir: &Path,
    ) -> anyhow::Result<Result<Self, Identity>> {
        let (state, shown) = (StateDir::open(target)?, target.display());
        let lock = RealVfs.lock(target).with_context(|| {
            format!("{shown} is in use: another rebuild, or the node itself, runs there")
        })?;
        if let Some(identity) = state.identity()? {
            return Ok(Err(identity));
        }
        let beside = target.join(BESIDE);
        let begun = beside.exists();
        for entry in fs::read_dir(target).with_context(|| format!("cannot read {shown}"))? {
            let entry = entry?;
            let name = entry.file_name();
            let own = begun && MOVED.iter().any(|moved| name == *moved);
            if own {
                remove(&entry.path())?;
            } else if !PASSED_OVER.iter().any(|passed| name == *passed) && entry.path() != admin_dir
            {
                bail!(
                    "{shown} is not empty ({}): a lost cluster is rebuilt in an empty state \
                     directory; move what is there out of the way, and keep it",
                    name.to_string_lossy()
                );
            }
        }
        if begun {
            remove(&beside)?;
        }
        let state = StateDir::open(&beside)?;
        Ok(Ok(Self {
            target: target.to_owned(),
            beside,
            state,
            _lock: lock,
        }))
    }

    /// Where the new state is made.
    pub(super) fn path(&self) -> &Path {
        &self.beside
    }

    /// Gives the node a key and a certificate.
    pub(super) fn certify(
        &self,
        runtime: &Runtime,
        authority: &Authority,
        identity: &Identity,
    ) -> anyhow::Result<()> {
        let request = self.state.key_or_new()?.request()?;
        let (cluster_id, node) = (&identity.cluster_id, identity.node);
        let certificate = authority.issue_node(runtime, cluster_id, node, &request)?;
        self.state.put_bundle(&[authority.certificate().to_vec()])?;
        self.state.put_certificate(&certificate)?;
        Ok(())
    }

    /// Moves everything into place.
    pub(super) fn complete(
        &self,
        cluster: &Cluster,
        admin_dir: &Path,
        identity: &Identity,
        peers: &Peers,
    ) -> anyhow::Result<()> {
        let nodes: Vec<PeerNode> = peers.nodes.clone();
        self.state
            .put_peers(&cluster.cluster_id, peers.epoch, nodes)?;
        files::write_secret(&self.beside.join(MARKER), "")?;
        let admin = self.target.join(ADMIN);
        if !admin.exists() {
            let made = self.beside.join(ADMIN);
            copy_admin(admin_dir, &made)?;
            fs::rename(&made, &admin)
                .with_context(|| format!("cannot make {}", admin.display()))?;
        }
        for name in MOVED {
            let (from, to) = (self.beside.join(name), self.target.join(name));
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
        let target = StateDir::open(&self.target)?;
        // Last: from now on it is a node. It syncs the directory too.
        target.put_identity(identity)?;
        remove(&self.beside)
    }
}

/// Keeps the operator's copy where `granary admin --config` looks for it.
fn copy_admin(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for name in ["ca.pem", "ca.key", "admin.pem", "admin.key", "master.key"] {
        if let Some(text) = files::read_if_present(&from.join(name))? {
            files::write_secret(&to.join(name), &text)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}
