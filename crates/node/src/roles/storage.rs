//! The storage role: this process's data directories as the disks of one storage node.
//!
//! A directory whose disk fails takes only itself out, as long as one is left; one that another
//! process holds, or that belongs to another cluster or a newer version, stops the start, because
//! that is a mistake and not a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_blob::{BlobConfig, BlobStore, DiskConfig, OpenError};
use granary_blob_api::{BlobNode, DiskHealth};
use granary_datapath::NodeDirectory;
use granary_kv::Kv;
use granary_kv_rocks::{RocksBudget, RocksConfig, RocksKv};
use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::{DiskId, NodeId};
use granary_vfs::{RealVfs, Vfs};
use parking_lot::Mutex;

use crate::roles::meta::FIRST_NODE;

/// How often directories whose disk is out are looked at: the operator may have replaced one.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// `state` of a disk record in service.
const DISK_IN: u32 = 0;

/// The disks of this process.
pub(crate) struct StorageRole {
    runtime: Runtime,
    vfs: Arc<dyn Vfs>,
    budget: RocksBudget,
    meta: Meta,
    pub(crate) store: BlobStore,
    /// Each data directory and the disk that was opened in it.
    directories: Mutex<Vec<(PathBuf, Option<DiskId>)>>,
}

/// The nodes of an installation with one process.
struct OneNode(Arc<dyn BlobNode>);

impl NodeDirectory for OneNode {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        (node == FIRST_NODE).then(|| Arc::clone(&self.0))
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
    /// Opens every data directory that can be opened; at least one must.
    pub(crate) async fn start(
        runtime: &Runtime,
        config: BlobConfig,
        directories: &[PathBuf],
        budget: RocksBudget,
        meta: Meta,
    ) -> anyhow::Result<Arc<Self>> {
        let vfs: Arc<dyn Vfs> = Arc::new(RealVfs);
        let store = BlobStore::open(runtime.clone(), config, Arc::clone(&vfs), Vec::new()).await?;
        let role = Arc::new(Self {
            runtime: runtime.clone(),
            vfs,
            budget,
            meta,
            store,
            directories: Mutex::new(directories.iter().map(|dir| (dir.clone(), None)).collect()),
        });
        let mut last_error = None;
        for path in directories {
            match role.open(path).await {
                Ok(()) => {}
                Err(error) if is_mistake(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(directory = %path.display(), error = format!("{error:#}"), "data directory is out of service");
                    last_error = Some(error);
                }
            }
        }
        if role
            .directories
            .lock()
            .iter()
            .all(|(_, disk)| disk.is_none())
        {
            return Err(last_error.context("at least one data directory is needed")?);
        }
        Ok(role)
    }

    /// This process as a directory of storage nodes.
    pub(crate) fn nodes(&self) -> Arc<dyn NodeDirectory> {
        Arc::new(OneNode(Arc::new(self.store.clone())))
    }

    /// Watches for directories that were replaced, until the shutdown.
    pub(crate) fn watch(self: &Arc<Self>) {
        let role = Arc::clone(self);
        self.runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = role.runtime.sleep(LOOK_INTERVAL) => role.look().await,
                    () = role.runtime.shutdown().cancelled() => return,
                }
            }
        });
    }

    /// Opens the disk in a directory and tells the root about it.
    async fn open(&self, path: &Path) -> anyhow::Result<()> {
        let (vfs, dir, budget) = (Arc::clone(&self.vfs), path.to_owned(), self.budget.clone());
        let opening = move || -> anyhow::Result<DiskConfig> {
            vfs.create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            let lock = vfs.lock(&dir).map_err(OpenError::InUse)?;
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
        };
        let disk = self
            .store
            .add_disk(self.runtime.blocking(opening).await??)
            .await?;
        self.register(path, disk).await?;
        let mut directories = self.directories.lock();
        if let Some(entry) = directories.iter_mut().find(|(dir, _)| dir == path) {
            entry.1 = Some(disk);
        }
        Ok(())
    }

    async fn register(&self, path: &Path, disk: DiskId) -> anyhow::Result<()> {
        let statuses = self.store.disks().await?;
        let total_bytes = statuses
            .iter()
            .find(|status| status.id == disk)
            .map(|s| s.total_bytes);
        let record = pb::state::Disk {
            id: disk.0,
            node: FIRST_NODE.0,
            total_bytes: total_bytes.unwrap_or(0),
            state: DISK_IN,
            path: path.display().to_string(),
        };
        let decision = self
            .meta
            .propose(pb::RegisterDisk { disk: Some(record) })
            .await?;
        decision
            .map(|_| ())
            .map_err(|no| anyhow::anyhow!("the disk was refused: {no:?}"))
    }

    /// Opens directories that are out and hold an empty, new disk now.
    async fn look(&self) {
        let Ok(statuses) = self.store.disks().await else {
            return;
        };
        let failed = |disk: DiskId| {
            statuses
                .iter()
                .any(|s| s.id == disk && s.health == DiskHealth::Failed)
        };
        let out: Vec<_> = self
            .directories
            .lock()
            .iter()
            .filter(|(_, disk)| disk.is_none_or(failed))
            .cloned()
            .collect();
        for (path, disk) in out {
            let (vfs, dir) = (Arc::clone(&self.vfs), path.clone());
            let empty = self
                .runtime
                .blocking(move || vfs.list(&dir).is_ok_and(|names| is_new(&names)))
                .await
                .unwrap_or(false);
            if !empty {
                continue;
            }
            if let Some(disk) = disk {
                self.store.remove_disk(disk).await;
            }
            match self.open(&path).await {
                Ok(()) => tracing::info!(directory = %path.display(), "new disk in service"),
                Err(error) => {
                    tracing::warn!(directory = %path.display(), error = format!("{error:#}"), "new disk cannot be used yet")
                }
            }
        }
    }

    /// Makes the indexes durable and closes the disks.
    pub(crate) async fn stop(&self) {
        self.store.shutdown().await;
    }
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
