//! The metadata role: one database, the root and the data shards, and a client to them in process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_cluster::Identity;
use granary_kv::{Kv, KvError};
use granary_kv_rocks::{RocksBudget, RocksConfig, RocksKv};
use granary_meta::{MetaConfig, MetaNode, NewCluster};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::{NoPeers, RaftTransport};
use granary_runtime::{Entropy, Runtime};
use granary_types::{AccountId, NodeId};
use granary_vfs::{DirLock, RealVfs, Vfs as _};

use crate::config::MetaSection;
use crate::files;
use crate::vault::Vault;

/// The account that owns everything until there are others.
pub(crate) const ROOT_ACCOUNT: AccountId = AccountId(1);
/// The one node of `granary server`; a cluster's root hands out later ones.
pub(crate) const FIRST_NODE: NodeId = NodeId(1);
/// The region of whoever names none.
pub(crate) const REGION_DEFAULT: &str = "cn-granary-1";
/// Layout of the metadata directory that this version writes and reads.
const FORMAT: u32 = 1;
/// Beside the database: the stamp that the database must have.
pub(crate) const STAMP_FILE: &str = "db.stamp";

/// How often the room under the metadata is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// The share of what is free there that one shard's log may have while a peer is sent its snapshot.
const LOG_SHARE: u64 = 8;

/// The running metadata service of this process.
pub(crate) struct MetaRole {
    pub(crate) node: Arc<MetaNode>,
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) client: Meta,
    pub(crate) cluster_id: String,
    /// Opens the secrets that the metadata keeps.
    pub(crate) vault: Arc<Vault>,
    dir: PathBuf,
    _lock: DirLock,
}

/// What a new installation is told.
pub(crate) struct FirstStart<'a> {
    /// Its region; `None`: the one it has, or the default one.
    pub(crate) region: Option<&'a str>,
    pub(crate) section: &'a MetaSection,
    /// The cluster that the data directories belong to already, if any.
    pub(crate) disks_belong_to: Option<&'a str>,
    /// A metadata directory in one of the data directories, other than the one that is asked for.
    pub(crate) found_elsewhere: Option<PathBuf>,
}

/// A node of a cluster, as its metadata service needs it.
pub(crate) struct Member<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) section: &'a MetaSection,
    pub(crate) transport: Arc<dyn RaftTransport>,
}

impl FirstStart<'_> {
    /// Refuses a new installation over data directories that belong to one.
    fn check(&self, dir: &Path) -> anyhow::Result<()> {
        let Some(cluster) = self.disks_belong_to else {
            return Ok(());
        };
        let shown = dir.display();
        if let Some(found) = &self.found_elsewhere {
            bail!(
                "the metadata directory {shown} is empty, but the data directories belong to cluster \
                 {cluster} and there is metadata in {found}: start with --meta-dir {found}, or with \
                 the data directories in the order they had",
                found = found.display()
            );
        }
        bail!(
            "the metadata directory {shown} is empty, but the data directories belong to cluster \
             {cluster}: the names of their objects were in the metadata; give back the metadata \
             directory (--meta-dir names it; its default is `meta` in the first data directory), or \
             start with empty data directories"
        );
    }
}

impl MetaRole {
    /// Opens the metadata directory, or makes a new installation in an empty one.
    pub(crate) async fn start(
        runtime: &Runtime,
        dir: &Path,
        budget: RocksBudget,
        first: FirstStart<'_>,
    ) -> anyhow::Result<Self> {
        let vfs = RealVfs;
        if !dir.exists() {
            // Before it is made: a start that is refused leaves nothing behind.
            first.check(dir)?;
        }
        vfs.create_dir_all(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = vfs.lock(dir)?;
        let state = check_format(dir)?;
        if state == DirState::Empty {
            first.check(dir)?;
        }
        let vault = open_vault(runtime, dir, state)?;
        let kv = open_database(runtime, dir, budget).await?;
        let config = meta_config(first.section);
        let node = MetaNode::open(
            runtime.clone(),
            FIRST_NODE,
            Arc::clone(&kv),
            Arc::new(NoPeers),
            config,
        )
        .await
        .context("the metadata service cannot start")?;
        if state != DirState::Complete {
            let cluster = new_cluster(runtime, first.region.unwrap_or(REGION_DEFAULT));
            node.bootstrap(cluster)
                .await
                .context("the metadata service cannot be set up")?;
            files::write_secret(&dir.join("format"), &format!("{FORMAT}\n"))?;
        }
        let service: Arc<dyn MetaService> = node.clone();
        let client = Meta::new(runtime.clone(), service);
        let map = client.query(pb::GetClusterMap::default()).await?;
        let info = map.info.unwrap_or_default();
        if let Some(region) = first.region
            && info.region != region
        {
            bail!(
                "this installation has region {}, not {region}: run it with --region {}",
                info.region,
                info.region
            );
        }
        warn_of_fixed_settings(first.section, &info);
        Ok(Self {
            node,
            kv,
            client,
            cluster_id: info.cluster_id,
            vault: Arc::new(vault),
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Opens the metadata of a node of a cluster. It forms nothing: a new node's shards come from
    /// the others. `through` makes the way to the whole service from this node's own part of it.
    pub(crate) async fn open(
        runtime: &Runtime,
        dir: &Path,
        budget: RocksBudget,
        member: Member<'_>,
        through: impl FnOnce(Arc<MetaNode>) -> Meta,
    ) -> anyhow::Result<Self> {
        let lock = RealVfs.lock(dir)?;
        check_format(dir)?;
        let vault = Vault::open(&dir.join("master.key"))?;
        let kv = open_database(runtime, dir, budget).await?;
        let (own, shown) = (Arc::clone(&kv), dir.to_owned());
        let (node, entropy) = (member.identity.node, Arc::clone(runtime.entropy()));
        let same = move || same_database(own.as_ref(), &shown, node, entropy.as_ref());
        runtime.blocking(same).await??;
        let config = MetaConfig {
            backs_up: member.section.backup,
            ..meta_config(member.section)
        };
        let node = MetaNode::open(
            runtime.clone(),
            member.identity.node,
            Arc::clone(&kv),
            member.transport,
            config,
        );
        let node = node.await.context("the metadata service cannot start")?;
        files::write_secret(&dir.join("format"), &format!("{FORMAT}\n"))?;
        Ok(Self {
            client: through(Arc::clone(&node)),
            node,
            kv,
            cluster_id: member.identity.cluster_id.clone(),
            vault: Arc::new(vault),
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Waits until the metadata can't be written or read any more, for ever if that never happens;
    /// what the operator is told then.
    pub(crate) async fn failed(&self) -> String {
        let failure = self.node.raft().failed().await;
        format!(
            "the metadata service failed: {failure}. Granary stops, and nothing that was \
             acknowledged is lost by that. If {} can no longer be written or read (the disk or the \
             file system under it is full, read-only, or has I/O errors in the kernel's log), repair \
             it or move the directory to a sound disk; then start Granary again",
            self.dir.display()
        )
    }

    /// Refuses what needs room while the file system under the metadata has too little, so that
    /// deletes still have some and the database never runs into the end of it. Until the shutdown.
    pub(crate) fn watch_space(self: &Arc<Self>, runtime: &Runtime, min_free_bytes: u64) {
        let (role, watching) = (Arc::clone(self), runtime.clone());
        runtime.spawn(async move {
            let mut refusing = false;
            loop {
                let dir = role.dir.clone();
                let space = watching.blocking(move || RealVfs.space(&dir)).await;
                if let Ok(Ok(space)) = space {
                    refusing = too_little(space.free_bytes, min_free_bytes, refusing);
                    role.refuse_growth(refusing, space.free_bytes);
                    let room = space.free_bytes.saturating_sub(min_free_bytes) / LOG_SHARE;
                    role.node.raft().set_log_room(room);
                }
                tokio::select! {
                    () = watching.sleep(SPACE_INTERVAL) => {}
                    () = watching.shutdown().cancelled() => return,
                }
            }
        });
    }

    fn refuse_growth(&self, refuse: bool, free_bytes: u64) {
        if self.node.refuse_growth(refuse) == refuse {
            return;
        }
        let (dir, free) = (self.dir.display(), free_bytes >> 20);
        if refuse {
            tracing::error!(
                "only {free} MiB are free under the metadata in {dir}: writes are refused until \
                 there is more; reads and deletes go on"
            );
        } else {
            tracing::info!("{free} MiB are free under the metadata in {dir}: writes go on");
        }
    }

    /// Stops the shards; everything acknowledged is durable already.
    pub(crate) async fn stop(&self) {
        let stopped = self.node.stop().await;
        // A failure before was told when it happened.
        if let Err(error) = stopped
            && self.node.raft().failure().is_none()
        {
            tracing::error!(%error, "metadata service did not stop cleanly");
        }
    }
}

fn meta_config(section: &MetaSection) -> MetaConfig {
    MetaConfig {
        data_shards: section.shards,
        reader_grace_ms: section.reader_grace_secs * 1000,
        write_lease_ms: section.write_lease_secs * 1000,
        raft: section.raft(),
        ..MetaConfig::default()
    }
}

/// Whether writes should be refused; once they are, until there is half as much room again.
fn too_little(free_bytes: u64, min_free_bytes: u64, refusing: bool) -> bool {
    let wanted = match refusing {
        true => min_free_bytes.saturating_add(min_free_bytes / 2),
        false => min_free_bytes,
    };
    free_bytes < wanted
}

/// Says which settings an installation has had since its first start, where others are asked for now.
fn warn_of_fixed_settings(asked: &MetaSection, info: &pb::state::ClusterInfo) {
    let settings = info.settings.unwrap_or_default();
    for (name, fixed, asked) in [
        (
            "shards",
            u64::from(info.first_shards),
            u64::from(asked.shards),
        ),
        (
            "reader_grace_secs",
            settings.reader_grace_ms / 1000,
            asked.reader_grace_secs,
        ),
        (
            "write_lease_secs",
            settings.write_lease_ms / 1000,
            asked.write_lease_secs,
        ),
    ] {
        if fixed != asked {
            tracing::warn!(
                "meta.{name} is {fixed} since the first start, and stays so: {asked} is ignored"
            );
        }
    }
}

fn new_cluster(runtime: &Runtime, region: &str) -> NewCluster {
    NewCluster {
        cluster_id: format!("{:032x}", runtime.entropy().next_u128()),
        region: region.to_owned(),
        root_account: pb::state::Account {
            id: ROOT_ACCOUNT.0,
            name: "root".to_owned(),
        },
        voters: vec![FIRST_NODE],
    }
}

/// The master key is made before the set-up is complete, and never later.
fn open_vault(runtime: &Runtime, dir: &Path, state: DirState) -> anyhow::Result<Vault> {
    let file = dir.join("master.key");
    match state {
        DirState::Complete => Vault::open(&file),
        DirState::Empty | DirState::Begun => Vault::open_or_make(&file, runtime.entropy().as_ref()),
    }
}

pub(crate) async fn open_database(
    runtime: &Runtime,
    dir: &Path,
    budget: RocksBudget,
) -> anyhow::Result<Arc<dyn Kv>> {
    let path = dir.join("db");
    let shown = path.display().to_string();
    let config = RocksConfig {
        budget,
        ..RocksConfig::default()
    };
    let opened = runtime
        .blocking(move || RocksKv::open(path, config))
        .await?;
    match opened {
        Ok(kv) => Ok(Arc::new(kv)),
        Err(KvError::InUse(_)) => {
            bail!("{shown} is in use by another process; stop that one first")
        }
        Err(error) => Err(error).with_context(|| format!("cannot open the database in {shown}")),
    }
}

/// Refuses a database that is not the one that this node had: as a voter it would not remember what
/// it has acknowledged. A node that starts for the first time, or for the first time with a version
/// that looks, gets its stamp. Blocks.
fn same_database(
    kv: &dyn Kv,
    dir: &Path,
    node: NodeId,
    entropy: &dyn Entropy,
) -> anyhow::Result<()> {
    let file = dir.join(STAMP_FILE);
    let kept = files::read_if_present(&file)?.map(|text| text.trim().to_owned());
    let found = granary_meta::database_stamp(kv)?.map(hex::encode);
    match (kept, found) {
        (Some(kept), Some(found)) if kept == found => Ok(()),
        (Some(_), _) => bail!(
            "the metadata of node {node} is gone from {}: another database is there, or an empty one. \
             Mount the file system it is on, or give its directory back; if it is lost, empty the state \
             directory {} and join as a new node (granary admin join --replaces {node})",
            dir.join("db").display(),
            dir.display()
        ),
        // The database was stamped, and then the start was interrupted.
        (None, Some(found)) => files::write_secret(&file, &format!("{found}\n")),
        (None, None) => {
            let stamp = entropy.next_u128().to_be_bytes();
            granary_meta::stamp_database(kv, bytes::Bytes::copy_from_slice(&stamp))?;
            files::write_secret(&file, &format!("{}\n", hex::encode(stamp)))
        }
    }
}

/// How far the set-up of a metadata directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirState {
    /// Nothing is there.
    Empty,
    /// A first start was interrupted; setting up goes on where it stopped.
    Begun,
    /// An installation.
    Complete,
}

/// The metadata directory that one of the data directories has, if it is not `asked`.
pub(crate) fn found_elsewhere(data: &[PathBuf], asked: &Path) -> Option<PathBuf> {
    data.iter()
        .map(|dir| dir.join("meta"))
        .find(|dir| dir != asked && dir.join("format").exists())
}

/// Looks at the format file, which is written when the set-up is complete; refuses one that a
/// newer version wrote.
fn check_format(dir: &Path) -> anyhow::Result<DirState> {
    let file = dir.join("format");
    let Some(text) = files::read_if_present(&file)? else {
        return Ok(if dir.join("db").exists() {
            DirState::Begun
        } else {
            DirState::Empty
        });
    };
    let found: u32 = text
        .trim()
        .parse()
        .with_context(|| format!("{} does not hold a format number", file.display()))?;
    if found > FORMAT {
        bail!(
            "{} was written by a newer Granary (metadata format {found}, this one knows up to \
             {FORMAT}): run that version or a newer one",
            dir.display()
        );
    }
    Ok(DirState::Complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_in_place_of_a_nodes_own_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let entropy = granary_runtime::SeededEntropy::new(1);
        let (own, dir) = (granary_kv::MemoryKv::new(), folder.path());
        let start = |kv: &dyn Kv| same_database(kv, dir, NodeId(7), &entropy);
        start(&own).unwrap();
        start(&own).unwrap();
        for other in [granary_kv::MemoryKv::new(), granary_kv::MemoryKv::new()] {
            let error = start(&other).unwrap_err().to_string();
            assert!(error.contains("the metadata of node 7 is gone"), "{error}");
            // Another node's.
            granary_meta::stamp_database(&other, bytes::Bytes::from_static(b"other")).unwrap();
            assert!(start(&other).is_err());
        }
        // Interrupted between the two writes.
        std::fs::remove_file(dir.join(STAMP_FILE)).unwrap();
        start(&own).unwrap();
        assert!(start(&granary_kv::MemoryKv::new()).is_err());
    }

    #[test]
    fn a_newer_format_is_refused_with_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_format(folder.path()).unwrap(), DirState::Empty);
        std::fs::create_dir(folder.path().join("db")).unwrap();
        assert_eq!(check_format(folder.path()).unwrap(), DirState::Begun);
        std::fs::write(folder.path().join("format"), "1\n").unwrap();
        assert_eq!(check_format(folder.path()).unwrap(), DirState::Complete);
        std::fs::write(folder.path().join("format"), "2\n").unwrap();
        let error = check_format(folder.path()).unwrap_err().to_string();
        assert!(error.contains("newer Granary"), "{error}");
    }
}
