//! `granary admin rebuild`: makes the first meta node of a cluster that has lost all of them, from
//! the backup in the storage pool. It runs on the machine of that node, which does not run meanwhile.
//!
//! Invariants: nothing that exists is changed before the new state directory is complete; it becomes
//! a node's by its last file; a run that was cut off leaves what the next one throws away.

mod place;
mod sources;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_blob::BlobStore;
use granary_blob_api::BlobNode;
use granary_cluster::{
    Authority, CertificateFacts, Credentials, Identity, NodeKey, Peer, Security, Trust,
    certificates_from_pem,
};
use granary_kv::Kv;
use granary_kv_rocks::RocksBudget;
use granary_meta::{
    RenewedRoot, RestoreError, RestoredShard, renew_root, restore_shard, split_off, verify_whole,
};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::Runtime;
use granary_types::{NodeId, PgId, ShardId};
use serde::Serialize;

use self::place::Place;
use self::sources::Sources;
use super::record;
use super::status::Peers;
use crate::files;
use crate::roles::meta::{Member, MetaRole, open_database};
use crate::start_config::{Role, StartConfig};

/// Longest wait for the shards of the new node.
const READY_LIMIT: Duration = Duration::from_secs(600);

/// What the operator says.
pub(crate) struct Wanted<'a> {
    /// The directory that `granary admin init` wrote.
    pub(crate) admin_dir: &'a Path,
    /// Nodes that run, HOST:PORT.
    pub(crate) from: &'a [String],
    /// Go on although something is missing.
    pub(crate) accept_loss: bool,
}

/// What was found, and what became of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rebuilt {
    pub(crate) cluster_id: String,
    /// The state directory is that of this node now.
    pub(crate) node_id: Option<u64>,
    /// Why it is not.
    pub(crate) refused: Option<String>,
    pub(crate) shards: Vec<ShardFound>,
    /// Shards that the cluster has, and that cannot be put back.
    pub(crate) missing: Vec<u32>,
    /// Disks that were read.
    pub(crate) disks: usize,
    /// What could not be read.
    pub(crate) problems: Vec<String>,
    /// Meta nodes that did not answer and are given up for good.
    pub(crate) removed: Vec<u64>,
    /// Nodes that were not told of the new one; it tells them when it runs.
    pub(crate) not_told: Vec<String>,
}

/// What was found of a shard.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ShardFound {
    pub(crate) shard: u32,
    /// Complete checkpoints.
    pub(crate) checkpoints: usize,
    /// Index of the last entry in the checkpoint that was used.
    pub(crate) checkpoint: Option<u64>,
    /// Index of the last entry that was put back.
    pub(crate) reached: Option<u64>,
    /// How old the newest command in it is, in seconds.
    pub(crate) age_secs: Option<u64>,
    /// What is there and could not be used.
    pub(crate) problems: Vec<String>,
}

/// Who the cluster is, from the operator's copy.
struct Cluster {
    cluster_id: String,
    authority: Authority,
    master_key: String,
    security: Security,
}

impl Cluster {
    fn read(runtime: &Runtime, dir: &Path, plaintext: bool) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let file = dir.join(name);
            let text = files::read_if_present(&file)?;
            text.with_context(|| {
                format!(
                    "{} is missing: is it the directory that granary admin init wrote?",
                    file.display()
                )
            })
        };
        let authority = Authority::from_pem(&read("ca.pem")?, &read("ca.key")?)?;
        let mut own = certificates_from_pem(read("admin.pem")?.as_bytes())?;
        let names = CertificateFacts::read(&own.swap_remove(0))?.names;
        let cluster_id = names.iter().find_map(|name| Peer::of_name(name));
        let cluster_id = cluster_id
            .context("admin.pem names no cluster")?
            .1
            .to_owned();
        let security = match plaintext {
            true => Security::Plain {
                cluster_id: cluster_id.clone(),
                local: Peer::Admin,
            },
            // The one that lies there may have expired since.
            false => {
                let key = NodeKey::generate()?;
                let certificate = authority.issue_admin(runtime, &cluster_id, &key)?;
                Security::Tls(Arc::new(Trust::new(
                    runtime.clone(),
                    Credentials {
                        cluster_id: cluster_id.clone(),
                        local: Peer::Admin,
                        key: Arc::new(key),
                        certificate,
                        bundle: certificates_from_pem(read("ca.pem")?.as_bytes())?,
                    },
                )?))
            }
        };
        Ok(Self {
            cluster_id,
            authority,
            master_key: read("master.key")?,
            security,
        })
    }
}

/// Rebuilds the metadata in the state directory of `config`.
///
/// # Errors
/// The directory is in use or not empty, nobody answers, or something could not be read or
/// written. What is missing from the backup is no error: see [`Rebuilt::refused`].
pub(crate) async fn rebuild(
    runtime: &Runtime,
    config: &StartConfig,
    wanted: &Wanted<'_>,
) -> anyhow::Result<Rebuilt> {
    if !config.has(Role::Meta) {
        bail!("the node that is rebuilt needs the role meta");
    }
    let cluster = Cluster::read(runtime, wanted.admin_dir, config.plaintext)?;
    let place = match Place::prepare(&config.state_dir, wanted.admin_dir)? {
        Ok(place) => place,
        Err(identity) => return again(runtime, &cluster, config, wanted, &identity).await,
    };
    let mut sources = Sources::connect(&cluster.security, wanted.from).await?;
    let local = local_disks(runtime, config, &cluster, &mut sources).await?;
    sources.scan().await;
    let mut report = Rebuilt {
        cluster_id: cluster.cluster_id.clone(),
        disks: sources.disks_read,
        ..Rebuilt::default()
    };
    let built = build(
        runtime,
        config,
        &cluster,
        wanted,
        &sources,
        &place,
        &mut report,
    )
    .await;
    if let Some(store) = local {
        store.shutdown().await;
    }
    report.problems.append(&mut sources.problems);
    if let Some((identity, peers)) = built? {
        place.complete(&cluster, wanted.admin_dir, &identity, &peers)?;
        report.node_id = Some(identity.node.0);
        report.not_told = sources.tell(&peers).await?;
    }
    Ok(report)
}

/// The state directory is complete already: the others are told once more.
async fn again(
    _runtime: &Runtime,
    cluster: &Cluster,
    config: &StartConfig,
    wanted: &Wanted<'_>,
    identity: &Identity,
) -> anyhow::Result<Rebuilt> {
    if identity.cluster_id != cluster.cluster_id || !place::was_rebuilt(&config.state_dir) {
        bail!(
            "{} is the state directory of node {} of cluster {}: a lost cluster is rebuilt in an \
             empty one",
            config.state_dir.display(),
            identity.node,
            identity.cluster_id
        );
    }
    let mut sources = Sources::connect(&cluster.security, wanted.from).await?;
    let peers = place::peers(&config.state_dir, &cluster.cluster_id)?;
    Ok(Rebuilt {
        cluster_id: cluster.cluster_id.clone(),
        node_id: Some(identity.node.0),
        not_told: sources.tell(&peers).await?,
        problems: sources.problems,
        ..Rebuilt::default()
    })
}

/// Opens the disks in this machine's data directories, if it has any.
async fn local_disks(
    runtime: &Runtime,
    config: &StartConfig,
    cluster: &Cluster,
    sources: &mut Sources,
) -> anyhow::Result<Option<BlobStore>> {
    let opened = sources::open_local(
        runtime,
        &cluster.cluster_id,
        &config.data,
        &config.storage,
        RocksBudget::new(config.meta.memory_bytes),
    );
    let Some((store, disks)) = opened.await? else {
        return Ok(None);
    };
    let local: Arc<dyn BlobNode> = Arc::new(store.clone());
    sources.add_local(local, disks);
    Ok(Some(store))
}

/// Builds the new state; `None` when it is refused.
async fn build(
    runtime: &Runtime,
    config: &StartConfig,
    cluster: &Cluster,
    wanted: &Wanted<'_>,
    sources: &Sources,
    place: &Place,
    report: &mut Rebuilt,
) -> anyhow::Result<Option<(Identity, Peers)>> {
    let budget = RocksBudget::new(config.meta.memory_bytes);
    let kv = open_database(runtime, place.path(), budget.clone()).await?;
    let mut restored = put_back(runtime, &kv, cluster, sources, report).await?;
    if let Some(why) = lacking(runtime, &kv, &mut restored, wanted.accept_loss, report).await? {
        report.refused = Some(why);
        return Ok(None);
    }
    let groups: Vec<(PgId, u64)> = sources.groups.iter().map(|(pg, e)| (*pg, *e)).collect();
    let mut used = sources.nodes();
    used.extend(sources.known.keys().map(|node| NodeId(*node)));
    let finish = move || -> anyhow::Result<RenewedRoot> {
        let root = renew_root(kv.as_ref(), &groups, &used)?;
        for shard in restored {
            shard.go_on_alone(root.node)?;
        }
        kv.sync()?;
        Ok(root)
    };
    let root = runtime.blocking(finish).await??;
    let identity = Identity {
        cluster_id: cluster.cluster_id.clone(),
        node: root.node,
    };
    files::write_secret(&place.path().join("master.key"), &cluster.master_key)?;
    let member = Member {
        identity: &identity,
        section: &config.meta,
        transport: Arc::new(NoPeers),
    };
    let through = |node: Arc<granary_meta::MetaNode>| {
        let service: Arc<dyn MetaService> = node;
        Meta::new(runtime.clone(), service)
    };
    let meta = MetaRole::open(runtime, place.path(), budget, member, through).await?;
    let renewed = renew(&meta, config, sources, &root, report).await;
    meta.stop().await;
    place.certify(runtime, &cluster.authority, &identity)?;
    Ok(Some((identity, renewed?)))
}

/// Puts every shard back of which there is a backup, parents before their children.
async fn put_back(
    runtime: &Runtime,
    kv: &Arc<dyn Kv>,
    cluster: &Cluster,
    sources: &Sources,
    report: &mut Rebuilt,
) -> anyhow::Result<Vec<RestoredShard>> {
    let now_ms = runtime.now().as_millis();
    let mut restored = Vec::new();
    for shard in sources.catalog.shards() {
        let summary = sources.catalog.summary(shard);
        let mut found = ShardFound {
            shard: shard.0,
            checkpoints: summary.checkpoints,
            ..ShardFound::default()
        };
        let whose = (cluster.cluster_id.as_str(), shard);
        let put_back = restore_shard(runtime, Arc::clone(kv), sources, &sources.catalog, whose);
        match put_back.await {
            Ok(put_back) => {
                found.checkpoint = Some(put_back.checkpoint.index);
                found.reached = Some(put_back.reached.index);
                found.age_secs = Some(now_ms.saturating_sub(put_back.time_ms) / 1000);
                found.problems.clone_from(&put_back.problems);
                restored.push(put_back);
            }
            Err(RestoreError::NoCheckpoint { reason, .. }) => found.problems.push(reason),
            Err(error) => return Err(error.into()),
        }
        report.shards.push(found);
    }
    Ok(restored)
}

/// Why the cluster should not be rebuilt from this, if so.
async fn lacking(
    runtime: &Runtime,
    kv: &Arc<dyn Kv>,
    restored: &mut Vec<RestoredShard>,
    accept_loss: bool,
    report: &mut Rebuilt,
) -> anyhow::Result<Option<String>> {
    let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
    if !there.contains(&ShardId::ROOT) {
        report.missing.push(ShardId::ROOT.0);
        return Ok(Some(
            "nothing is left of the root shard, which knows the cluster: name more nodes (--from), \
             or start those that have disks"
                .to_owned(),
        ));
    }
    let store = Arc::clone(kv);
    let whole = runtime
        .blocking(move || verify_whole(store.as_ref(), &there))
        .await??;
    let missing = whole.missing;
    report.missing = missing.iter().map(|shard| shard.0).collect();
    if let Some((one, other)) = whole.overlapping.first() {
        return Ok(Some(format!(
            "shards {one} and {other} both own the same keys: one was put back from before a split \
             of it; name more nodes (--from), so that its newer log is found"
        )));
    }
    if !missing.is_empty() && !accept_loss {
        return Ok(Some(
            "shards are missing, and what is in them would be lost: name more nodes (--from), start \
             those that have disks, or say --accept-loss"
                .to_owned(),
        ));
    }
    // What a parent gave to a shard that has no checkpoint of its own yet is better than nothing.
    let store = Arc::clone(kv);
    let late = move || -> Result<Vec<RestoredShard>, RestoreError> {
        let found = missing
            .iter()
            .map(|shard| split_off(Arc::clone(&store), *shard));
        Ok(found
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    };
    restored.extend(runtime.blocking(late).await??);
    Ok(None)
}

/// Tells the root what is new: this node and its disks, and the meta nodes that are gone.
async fn renew(
    meta: &MetaRole,
    config: &StartConfig,
    sources: &Sources,
    root: &RenewedRoot,
    report: &mut Rebuilt,
) -> anyhow::Result<Peers> {
    meta.node.wait_ready(READY_LIMIT).await?;
    let client = &meta.client;
    let node = record(config, root.node);
    let registered = client
        .propose(pb::RegisterNode { node: Some(node) })
        .await?;
    registered.map_err(|no| anyhow::anyhow!("the new node was refused: {}", no.detail))?;
    let map = client.query(pb::GetClusterMap::default()).await?;
    for disk in &map.disks {
        if sources.local_disks.iter().any(|local| local.0 == disk.id) {
            let disk = pb::state::Disk {
                node: root.node.0,
                ..disk.clone()
            };
            let moved = client
                .propose(pb::RegisterDisk { disk: Some(disk) })
                .await?;
            moved.map_err(|no| anyhow::anyhow!("a disk was refused: {}", no.detail))?;
        }
    }
    let answering = sources.nodes();
    for node in &root.nodes {
        let meta_node = node.roles.is_empty() || node.roles.iter().any(|role| role == "meta");
        if node.removed || !meta_node || answering.contains(&NodeId(node.id)) {
            continue;
        }
        let removed = client.propose(pb::RemoveNode { node: node.id }).await?;
        removed.map_err(|no| anyhow::anyhow!("node {} stays: {}", node.id, no.detail))?;
        report.removed.push(node.id);
    }
    // Shards were put back from different moments: each hears of every bucket that the root knows.
    for bucket in &root.buckets {
        client.configure_again(bucket).await?;
    }
    let map = client.query(pb::GetClusterMap::default()).await?;
    Ok(Peers::of(&map))
}

/// Where it is remembered that a node was rebuilt, until all others know.
pub(crate) fn marker(state_dir: &Path) -> PathBuf {
    state_dir.join(place::MARKER)
}
