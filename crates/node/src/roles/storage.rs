//! The storage role: this process's data directories as the disks of one storage node.
//!
//! A directory whose disk fails takes only itself out, as long as one is left; one that another
//! process holds, or that belongs to another cluster or a newer version, stops the start, because
//! that is a mistake and not a failure. A directory that is out is looked at again: a new, empty
//! one becomes a new disk, one that came back with its data is opened again.
//!
//! Invariant: directories do not wait for each other. One may hang for ever, or take hours until its
//! index was made anew: the others serve.

mod directories;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_blob::{BlobConfig, BlobStore, DiskConfig, OpenError, OpeningDisk};
use granary_blob_api::{BlobNode, DiskHealth, DiskStatus};
use granary_datapath::NodeDirectory;
use granary_kv::Kv;
use granary_kv_rocks::{RocksBudget, RocksConfig, RocksKv};
use granary_meta_api::{Meta, disk_state, pb};
use granary_runtime::{Runtime, within};
use granary_types::{DiskId, NodeId};
use granary_vfs::{DirLock, RealVfs, Vfs};
use parking_lot::Mutex;

/// How long a warning about empty directories waits for the root.
const MAP_LIMIT: Duration = Duration::from_secs(5);
/// How long a start waits for disks that are being opened; what takes longer is there later.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// How long the node that had a disk gets to say whether it still has it.
const OWNER_LIMIT: Duration = Duration::from_secs(5);

/// The disks of this process.
pub(crate) struct StorageRole {
    runtime: Runtime,
    /// Whatever works on directories: it ends before the disks are closed.
    work: Runtime,
    vfs: Arc<dyn Vfs>,
    budget: RocksBudget,
    meta: Meta,
    /// The node whose disks they are.
    node: NodeId,
    /// The other nodes, of which one may have what a directory holds; none without a cluster.
    others: OnceLock<Arc<dyn NodeDirectory>>,
    cluster_id: String,
    pub(crate) store: BlobStore,
    directories: Mutex<Vec<Directory>>,
}

/// A data directory.
#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    /// The disk that was opened in it.
    disk: Option<DiskId>,
    /// Whether the root knows of that disk.
    enrolled: bool,
    /// Whether somebody is working on it, or hangs in it.
    busy: bool,
    /// Whether it was the root of a file system of its own when it was last in use.
    mounted: bool,
    /// Attempts to open it again, and when the next one is due, on the monotonic clock.
    attempts: u32,
    due: Option<Duration>,
}

/// What a start waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// At least one disk that is open: without it there is nothing to serve with.
    OneDisk,
    /// A disk that is open, or one that may be later: other nodes, and the other roles of this one,
    /// serve meanwhile.
    Hope,
}

/// What is in a directory that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing that can be used.
    Nothing,
    /// A directory for a new disk.
    Empty,
    /// A mount point, without what was mounted there.
    NotMounted,
    /// A disk of this cluster.
    Disk(DiskId),
}

/// The nodes of an installation with one process.
struct OneNode {
    id: NodeId,
    node: Arc<dyn BlobNode>,
}

impl NodeDirectory for OneNode {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        (node == self.id).then(|| Arc::clone(&self.node))
    }
}

/// The cluster that the data directories belong to; `None` when all are empty or out.
pub(crate) fn cluster_of(directories: &[PathBuf]) -> anyhow::Result<Option<String>> {
    let vfs = RealVfs;
    let mut cluster: Option<String> = None;
    for path in directories {
        let identity = match granary_blob::read_identity(&vfs, path) {
            Ok(Some(identity)) => identity,
            Ok(None) | Err(OpenError::Io { .. } | OpenError::Damaged { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match &cluster {
            Some(known) if *known != identity.cluster_id => bail!(
                "{} belongs to cluster {}, another data directory to {known}",
                path.display(),
                identity.cluster_id
            ),
            _ => cluster = Some(identity.cluster_id),
        }
    }
    Ok(cluster)
}

impl StorageRole {
    /// Opens the data directories and tells the root of the disks; at least one must be there.
    pub(crate) async fn start(
        runtime: &Runtime,
        node: NodeId,
        config: BlobConfig,
        directories: &[PathBuf],
        budget: RocksBudget,
        meta: Meta,
    ) -> anyhow::Result<Arc<Self>> {
        let role = Self::new(runtime, node, config, directories, budget, meta).await?;
        role.open_all(Wanted::OneDisk).await?;
        role.enrol().await?;
        Ok(role)
    }

    /// The data directories, none of which is open yet.
    pub(crate) async fn new(
        runtime: &Runtime,
        node: NodeId,
        config: BlobConfig,
        directories: &[PathBuf],
        budget: RocksBudget,
        meta: Meta,
    ) -> anyhow::Result<Arc<Self>> {
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
        Self::over(runtime, node, config, directories, budget, meta, vfs).await
    }

    async fn over(
        runtime: &Runtime,
        node: NodeId,
        config: BlobConfig,
        directories: &[PathBuf],
        budget: RocksBudget,
        meta: Meta,
        vfs: Arc<dyn Vfs>,
    ) -> anyhow::Result<Arc<Self>> {
        let cluster_id = config.cluster_id.clone();
        let store = BlobStore::open(runtime.clone(), config, Arc::clone(&vfs), Vec::new()).await?;
        Ok(Arc::new(Self {
            runtime: runtime.clone(),
            work: runtime.child(),
            vfs,
            budget,
            meta,
            node,
            others: OnceLock::new(),
            cluster_id,
            store,
            directories: Mutex::new(directories.iter().map(|dir| Directory::new(dir)).collect()),
        }))
    }

    /// The data directories, each with whether its disk reads and writes.
    pub(crate) async fn directories(&self) -> Vec<(PathBuf, bool)> {
        let statuses = self.store.disks().await.unwrap_or_default();
        let serves = |disk: DiskId| {
            statuses
                .iter()
                .any(|status| status.id == disk && status.health != DiskHealth::Failed)
        };
        let directories = self.directories.lock();
        directories
            .iter()
            .map(|directory| (directory.path.clone(), directory.disk.is_some_and(serves)))
            .collect()
    }

    /// The data directories that are full, when no other one could take chunks instead.
    pub(crate) async fn all_full(&self) -> Option<Vec<PathBuf>> {
        let statuses = self.store.disks().await.unwrap_or_default();
        let directories = self.directories.lock();
        let (mut full, mut failed) = (Vec::new(), 0);
        for directory in directories.iter() {
            let is_it = |status: &&DiskStatus| Some(status.id) == directory.disk;
            match statuses.iter().find(is_it).map(|status| status.health) {
                Some(DiskHealth::Full) => full.push(directory.path.clone()),
                Some(DiskHealth::Failed) => failed += 1,
                _ => {}
            }
        }
        (!full.is_empty() && full.len() + failed == directories.len()).then_some(full)
    }

    /// Names the other nodes of the cluster, once.
    pub(crate) fn know(&self, others: Arc<dyn NodeDirectory>) {
        let _ = self.others.set(others);
    }

    /// This process as a directory of storage nodes.
    pub(crate) fn nodes(&self) -> Arc<dyn NodeDirectory> {
        Arc::new(OneNode {
            id: self.node,
            node: Arc::new(self.store.clone()),
        })
    }

    /// Tells the root about the disks that are open. Repeating it is harmless.
    ///
    /// # Errors
    /// The root gave no answer, or refused every disk; those that it refuses are closed.
    pub(crate) async fn enrol(&self) -> anyhow::Result<()> {
        let open: Vec<(PathBuf, DiskId)> = {
            let directories = self.directories.lock();
            let open = directories.iter();
            open.filter_map(|known| Some((known.path.clone(), known.disk?)))
                .collect()
        };
        let (mut enrolled, mut last_error) = (false, None);
        for (path, disk) in open {
            match self.enrol_disk(&path, disk).await {
                Ok(()) => enrolled = true,
                Err(error) if error.is::<granary_meta_api::MetaError>() => return Err(error),
                Err(error) => {
                    tracing::error!(directory = %path.display(), error = format!("{error:#}"), "data directory is out of service");
                    last_error = Some(error);
                }
            }
        }
        match last_error {
            Some(error) if !enrolled => Err(error),
            _ => Ok(()),
        }
    }

    async fn enrol_disk(&self, path: &Path, disk: DiskId) -> anyhow::Result<()> {
        let Err(error) = self.register(path, disk).await else {
            self.update(path, |directory| directory.enrolled = true);
            return Ok(());
        };
        if !error.is::<granary_meta_api::MetaError>() {
            self.update(path, |directory| directory.disk = None);
            self.store.remove_disk(disk).await;
        }
        Err(error)
    }

    /// Opens the disk in a directory and tells the root about it.
    async fn open(&self, path: &Path) -> anyhow::Result<()> {
        let disk = self.open_disk(path).await?;
        let enrolled = self.enrol_disk(path, disk).await;
        if enrolled.is_err() {
            // Opened again when it is looked at next.
            self.update(path, |directory| directory.disk = None);
            self.store.remove_disk(disk).await;
        }
        enrolled
    }

    /// Opens the disk in a directory.
    async fn open_disk(&self, path: &Path) -> anyhow::Result<DiskId> {
        let (vfs, dir, budget) = (Arc::clone(&self.vfs), path.to_owned(), self.budget.clone());
        let (store, cluster_id) = (self.store.clone(), self.cluster_id.clone());
        let opening = move || -> anyhow::Result<(DiskConfig, Option<OpeningDisk>)> {
            vfs.create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            // The cluster is to wait for it rather than take it for one that is not there any more.
            let told = match granary_blob::read_identity(vfs.as_ref(), &dir) {
                Ok(Some(known)) if known.cluster_id == cluster_id => {
                    Some(store.note_opening(known.disk))
                }
                _ => None,
            };
            Ok((open_directory(vfs.as_ref(), dir, budget)?, told))
        };
        let (config, _told) = self.runtime.blocking(opening).await??;
        let disk = self.store.add_disk(config).await?;
        let mounted = self.is_mount_point(path).await;
        self.update(path, |directory| {
            (directory.disk, directory.enrolled) = (Some(disk), false);
            directory.mounted = mounted;
        });
        Ok(disk)
    }

    fn update(&self, path: &Path, change: impl FnOnce(&mut Directory)) {
        let mut directories = self.directories.lock();
        if let Some(directory) = directories.iter_mut().find(|known| known.path == path) {
            change(directory);
        }
    }

    async fn is_mount_point(&self, path: &Path) -> bool {
        let path = path.to_owned();
        let looking = self.runtime.blocking(move || is_mount_point(&path));
        looking.await.unwrap_or(false)
    }

    /// Says so when a directory is empty where another disk is known to have been: most likely its
    /// file system is not mounted, and a new disk would be made in its mount point.
    async fn warn_of_empty(&self, directories: &[PathBuf]) {
        let Ok(map) = self.meta.query(pb::GetClusterMap::default()).await else {
            return;
        };
        for path in directories {
            let shown = path.display().to_string();
            let known = map
                .disks
                .iter()
                .find(|disk| disk.node == self.node.0 && disk.path == shown);
            let (vfs, dir) = (Arc::clone(&self.vfs), path.clone());
            let empty = self.runtime.blocking(move || match vfs.list(&dir) {
                Ok(names) => is_new(&names),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            });
            if let Some(known) = known
                && empty.await.unwrap_or(false)
            {
                tracing::warn!(
                    directory = %shown,
                    disk = known.id,
                    "data directory is empty but was a disk before: is its file system mounted? \
                     It becomes a new disk now; if it should be the old one, stop Granary, remove \
                     what it made there and mount the file system"
                );
            }
        }
    }

    /// Refuses a disk that another node serves, as after a copy of its directory: two that take
    /// writes for one disk would each have half of them. A disk that was moved is served by nobody.
    async fn check_not_elsewhere(&self, disk: DiskId) -> anyhow::Result<()> {
        let Some(others) = self.others.get() else {
            return Ok(());
        };
        let map = self.meta.query(pb::GetClusterMap::default()).await?;
        let known = map.disks.iter().find(|known| known.id == disk.0);
        let Some(owner) = known.map(|known| NodeId(known.node)) else {
            return Ok(());
        };
        let other = others.node(owner).filter(|_| owner != self.node);
        let Some(other) = other else {
            return Ok(());
        };
        let told = within(OWNER_LIMIT, other.disks()).await;
        let disks = told.ok().and_then(Result::ok).unwrap_or_default();
        let serves = |status: &DiskStatus| status.id == disk && status.health != DiskHealth::Failed;
        if disks.iter().any(serves) {
            bail!(
                "node {} serves disk {} already: this data directory is a copy of that one, and only \
                 one of them may be used",
                owner.0,
                disk.0
            );
        }
        Ok(())
    }

    async fn register(&self, path: &Path, disk: DiskId) -> anyhow::Result<()> {
        self.check_not_elsewhere(disk).await?;
        let statuses = self.store.disks().await?;
        let total_bytes = statuses
            .iter()
            .find(|status| status.id == disk)
            .map(|s| s.total_bytes);
        let record = pb::state::Disk {
            id: disk.0,
            node: self.node.0,
            total_bytes: total_bytes.unwrap_or(0),
            state: disk_state::IN,
            path: path.display().to_string(),
        };
        let decision = self
            .meta
            .propose(pb::RegisterDisk {
                disk: Some(record),
                keep_state: true,
                ..Default::default()
            })
            .await?;
        decision
            .map(|_| ())
            .map_err(|no| anyhow::anyhow!("the disk was refused: {no:?}"))
    }

    /// Makes the indexes durable and closes the disks.
    pub(crate) async fn stop(&self) {
        self.work.stop().await;
        self.store.shutdown().await;
    }
}

impl Directory {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            disk: None,
            enrolled: false,
            busy: false,
            mounted: false,
            attempts: 0,
            due: None,
        }
    }

    /// What is in it now. Blocks.
    fn find(&self, vfs: &dyn Vfs, cluster_id: &str) -> Found {
        match vfs.list(&self.path) {
            Ok(names) if is_new(&names) => {
                if self.mounted && !is_mount_point(&self.path) {
                    Found::NotMounted
                } else {
                    Found::Empty
                }
            }
            Ok(_) => match granary_blob::read_identity(vfs, &self.path) {
                Ok(Some(identity)) if identity.cluster_id == cluster_id => {
                    Found::Disk(identity.disk)
                }
                _ => Found::Nothing,
            },
            Err(_) => Found::Nothing,
        }
    }
}

/// The disks that lie in directories.
pub(crate) struct Existing {
    pub(crate) store: BlobStore,
    pub(crate) disks: Vec<DiskId>,
    /// Why there may be more of them, in sentences.
    pub(crate) problems: Vec<String>,
}

/// Opens the disks there are in directories that no process uses; none is made and nobody is told.
pub(crate) async fn open_existing(
    runtime: &Runtime,
    config: BlobConfig,
    directories: &[PathBuf],
    budget: RocksBudget,
) -> anyhow::Result<Existing> {
    let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
    let cluster_id = config.cluster_id.clone();
    let store = BlobStore::open(runtime.clone(), config, Arc::clone(&vfs), Vec::new()).await?;
    let (mut disks, mut problems) = (Vec::new(), Vec::new());
    for path in directories {
        let (vfs, dir, budget) = (Arc::clone(&vfs), path.clone(), budget.clone());
        let cluster_id = cluster_id.clone();
        let opening = move || match granary_blob::read_identity(vfs.as_ref(), &dir)? {
            Some(identity) if identity.cluster_id == cluster_id => {
                open_directory(vfs.as_ref(), dir, budget).map(Some)
            }
            _ => Ok(None),
        };
        let added = match runtime.blocking(opening).await? {
            Ok(None) => continue,
            Ok(Some(disk)) => store.add_disk(disk).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match added {
            Ok(disk) => disks.push(disk),
            Err(error) => problems.push(format!("{}: {error:#}", path.display())),
        }
    }
    Ok(Existing {
        store,
        disks,
        problems,
    })
}

/// Takes a directory for this process, and opens its index. Blocks.
fn open_directory(vfs: &dyn Vfs, dir: PathBuf, budget: RocksBudget) -> anyhow::Result<DiskConfig> {
    let lock = lock(vfs, &dir)?;
    let config = RocksConfig {
        budget,
        ..RocksConfig::default()
    };
    let index = RocksKv::open(dir.join("index"), config)
        .with_context(|| format!("cannot open the chunk index in {}", dir.display()))?;
    Ok(DiskConfig {
        path: dir,
        index: Arc::new(index) as Arc<dyn Kv>,
        lock: Some(lock),
    })
}

/// Whether a directory is the root of a file system. Blocks.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    match (device(path), device(&path.join(".."))) {
        (Ok(own), Ok(above)) => own != above,
        _ => false,
    }
}

/// Takes a directory for this process. Blocks.
fn lock(vfs: &dyn Vfs, dir: &Path) -> Result<DirLock, OpenError> {
    vfs.lock(dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse(error),
        _ => OpenError::Io {
            path: dir.to_owned(),
            source: error,
        },
    })
}

/// Whether a directory has nothing in it but what making an ext file system leaves there.
fn is_new(names: &[String]) -> bool {
    names.iter().all(|name| name == "lost+found")
}

/// Whether the operator must decide, rather than the process go on without the directory.
fn is_mistake(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<OpenError>(),
        Some(
            OpenError::Config(_)
                | OpenError::InUse(_)
                | OpenError::NewerFormat { .. }
                | OpenError::OtherCluster { .. }
                | OpenError::NoIdentity { .. }
                | OpenError::Duplicate(_)
        )
    )
}

/// Whether a directory that could not be opened may be usable later without anybody's doing, as that of
/// a disk that is full: not one whose path is wrong.
fn may_pass(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| {
        let cause = cause.downcast_ref::<io::Error>()?;
        Some(cause.kind())
    });
    !kinds.into_iter().any(|kind| {
        matches!(
            kind,
            io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::PermissionDenied
        )
    })
}

#[cfg(test)]
mod copied;
#[cfg(test)]
mod hanging;
#[cfg(test)]
mod root;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_that_somebody_holds_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(&RealVfs, dir.path()).unwrap();
        let in_use = lock(&RealVfs, dir.path()).unwrap_err();
        assert!(is_mistake(&in_use.into()));
        drop(held);
        // A lock that cannot be taken for another reason: the disk is out, and nothing else.
        std::fs::remove_file(dir.path().join("lock")).unwrap();
        std::fs::create_dir(dir.path().join("lock")).unwrap();
        let broken = lock(&RealVfs, dir.path()).unwrap_err();
        assert!(matches!(broken, OpenError::Io { .. }), "{broken}");
        assert!(!is_mistake(&broken.into()));
    }

    #[test]
    fn a_directory_that_is_out_is_known_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(dir.path());
        assert_eq!(directory.find(&RealVfs, "c"), Found::Empty);
        // Empty since the file system that was there is not mounted.
        directory.mounted = true;
        assert_eq!(directory.find(&RealVfs, "c"), Found::NotMounted);
        std::fs::write(dir.path().join("something"), "x").unwrap();
        assert_eq!(directory.find(&RealVfs, "c"), Found::Nothing);
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(directory.find(&RealVfs, "c"), Found::Nothing);
        assert!(!is_mount_point(dir.path()));
        assert!(is_mount_point(Path::new("/proc")));
    }
}
