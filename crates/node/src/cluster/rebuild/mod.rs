//! `granary admin rebuild`: makes the first meta node of a cluster that has lost all of them, from
//! the backup in the storage pool. It runs on the machine of that node, which does not run meanwhile.
//!
//! Invariants: nothing that exists is changed before the new state directory is complete; it becomes
//! a node's by its last file; a run that was cut off leaves what the next one throws away. Nothing is
//! rebuilt beside metadata that lives, whatever the operator says. What was not read, or was read and
//! cannot be used, refuses the rebuild unless the operator accepts the loss: from then on it is final.

mod place;
mod sources;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_cluster::{
    Authority, CertificateFacts, Credentials, Identity, NodeKey, Peer, Security, Trust,
    certificates_from_pem,
};
use granary_kv::Kv;
use granary_kv_rocks::RocksBudget;
use granary_meta::{
    FEATURE_LEVEL, Renewal, RestoreError, RestoredShard, buckets_in_use, plan_renewal,
    restore_shard, settle_overlap, verify_whole, without_backup,
};
use granary_meta_api::{Meta, MetaService, pb};
use granary_raft::NoPeers;
use granary_runtime::Runtime;
use granary_types::{NodeId, ShardId};
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

/// Hears how far it is.
pub(crate) type Tell<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Nothing goes on without it.
const NO_ROOT: &str = "nothing is left of the root shard, which knows the cluster: name more nodes \
                       (--from), or start those that have disks";
/// Nor with a loss that nobody has accepted.
const LOSS: &str = "not everything could be read, and what is only there would be lost for good: \
                    start those nodes, mount those disks, name more nodes (--from), and run this \
                    again, or say --accept-loss";

/// What the operator says.
pub(crate) struct Wanted<'a> {
    /// The directory that `granary admin init` wrote.
    pub(crate) admin_dir: &'a Path,
    /// Nodes that run, HOST:PORT.
    pub(crate) from: &'a [String],
    /// Go on although something could not be read or is missing.
    pub(crate) accept_loss: bool,
    pub(crate) tell: Tell<'a>,
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
    /// What could not be read, and may have had more.
    pub(crate) problems: Vec<String>,
    /// Placement groups on disks that the root does not know: their chunks belong to nothing.
    pub(crate) unknown_groups: Vec<u32>,
    /// Meta nodes that did not answer and are given up for good.
    pub(crate) removed: Vec<u64>,
    /// Nodes that were not told of the new one; it tells them when it runs.
    pub(crate) not_told: Vec<String>,
}

impl Rebuilt {
    /// Something of a shard is missing.
    fn lacks(&mut self, shard: ShardId, problems: &[String]) {
        let found = self.shards.iter_mut().find(|found| found.shard == shard.0);
        match found {
            Some(found) => found.problems.extend_from_slice(problems),
            None => self.shards.push(ShardFound {
                shard: shard.0,
                problems: problems.to_vec(),
                ..ShardFound::default()
            }),
        }
    }

    /// True when there may have been more than what was put back.
    fn may_lose(&self) -> bool {
        let shards = self.shards.iter().any(|shard| !shard.problems.is_empty());
        shards || !self.missing.is_empty() || !self.problems.is_empty()
    }
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
                    "{} is missing: name the directory that granary admin init wrote, or a copy of it, with --admin-dir",
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
    let (tell, own) = (wanted.tell, &config.cluster_address);
    tell("the nodes are asked".to_owned());
    let mut sources = Sources::connect(runtime, &cluster.security, wanted.from, own).await?;
    let mut report = Rebuilt {
        cluster_id: cluster.cluster_id.clone(),
        refused: sources.living.take(),
        ..Rebuilt::default()
    };
    if report.refused.is_some() {
        return Ok(report);
    }
    let budget = config.meta.budget();
    let local = sources::open_local(
        runtime,
        &cluster.cluster_id,
        &config.data,
        &config.storage,
        budget.clone(),
    );
    let local = local.await?;
    let store = local.store.clone();
    sources.add_local(local);
    sources.scan(tell).await;
    report.disks = sources.disks_read.len();
    report.problems = std::mem::take(&mut sources.problems);
    let build = Build {
        runtime,
        config,
        cluster: &cluster,
        wanted,
        sources: &sources,
        place: &place,
        budget,
    };
    let built = build.run(&mut report).await;
    store.shutdown().await;
    if let Some((identity, peers)) = built? {
        // That took its time: metadata may have come back meanwhile.
        let mut now = Sources::connect(runtime, &cluster.security, wanted.from, own).await?;
        report.refused = now.living.take();
        if report.refused.is_none() {
            place.complete(&cluster, wanted.admin_dir, &identity, &peers)?;
            report.node_id = Some(identity.node.0);
            report.not_told = now.tell(&peers).await?;
        }
    }
    Ok(report)
}

/// The state directory is complete already: the others are told once more.
async fn again(
    runtime: &Runtime,
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
    let own = &config.cluster_address;
    let mut sources = Sources::connect(runtime, &cluster.security, wanted.from, own).await?;
    let peers = place::peers(&config.state_dir, &cluster.cluster_id)?;
    Ok(Rebuilt {
        cluster_id: cluster.cluster_id.clone(),
        node_id: Some(identity.node.0),
        not_told: sources.tell(&peers).await?,
        ..Rebuilt::default()
    })
}

/// What a new state is built from, and where.
struct Build<'a> {
    runtime: &'a Runtime,
    config: &'a StartConfig,
    cluster: &'a Cluster,
    wanted: &'a Wanted<'a>,
    sources: &'a Sources,
    place: &'a Place,
    budget: RocksBudget,
}

impl Build<'_> {
    /// Builds the new state; `None` when it is refused.
    async fn run(&self, report: &mut Rebuilt) -> anyhow::Result<Option<(Identity, Peers)>> {
        let (runtime, path) = (self.runtime, self.place.path());
        let kv = open_database(runtime, path, self.budget.clone()).await?;
        let mut restored = self.put_back(&kv, report).await?;
        report.refused = self.lacking(&kv, &mut restored, report).await?;
        if report.refused.is_some() {
            return Ok(None);
        }
        let seen = self.sources.seen();
        let finish = move || -> anyhow::Result<Renewal> {
            let plan = plan_renewal(kv.as_ref(), &seen)?;
            for shard in restored {
                shard.go_on_alone(plan.node)?;
            }
            kv.sync()?;
            Ok(plan)
        };
        let plan = runtime.blocking(finish).await??;
        report.unknown_groups = plan.unknown_groups.iter().map(|pg| pg.0).collect();
        let identity = Identity {
            cluster_id: self.cluster.cluster_id.clone(),
            node: plan.node,
        };
        files::write_secret(&path.join("master.key"), &self.cluster.master_key)?;
        let member = Member {
            identity: &identity,
            section: &self.config.meta,
            transport: Arc::new(NoPeers),
        };
        let through = |node: Arc<granary_meta::MetaNode>| {
            let service: Arc<dyn MetaService> = node;
            Meta::new(runtime.clone(), service)
        };
        let budget = self.budget.clone();
        let meta = MetaRole::open(runtime, path, budget, member, through).await?;
        let renewed = renew(runtime, &meta, self.config, self.sources, &plan, report).await;
        meta.stop().await;
        let authority = &self.cluster.authority;
        self.place.certify(runtime, authority, &identity)?;
        Ok(Some((identity, renewed?)))
    }

    /// Puts every shard back of which there is a backup, parents before their children.
    async fn put_back(
        &self,
        kv: &Arc<dyn Kv>,
        report: &mut Rebuilt,
    ) -> anyhow::Result<Vec<RestoredShard>> {
        let catalog = &self.sources.catalog;
        let now_ms = self.runtime.now().as_millis();
        let mut restored = Vec::new();
        let shards = catalog.shards();
        for (n, shard) in shards.iter().copied().enumerate() {
            (self.wanted.tell)(format!("{n} of {} shards are put back", shards.len()));
            let mut found = ShardFound {
                shard: shard.0,
                checkpoints: catalog.summary(shard).checkpoints,
                ..ShardFound::default()
            };
            let (kv, whose) = (Arc::clone(kv), (self.cluster.cluster_id.as_str(), shard));
            match restore_shard(self.runtime, kv, self.sources, catalog, whose).await {
                Ok(put_back) => {
                    found.checkpoint = Some(put_back.checkpoint.index);
                    found.reached = Some(put_back.reached.index);
                    found.age_secs = age_secs(now_ms, put_back.time_ms);
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

    /// Why the cluster is not rebuilt from this, if so. Puts something in place of what is missing.
    async fn lacking(
        &self,
        kv: &Arc<dyn Kv>,
        restored: &mut Vec<RestoredShard>,
        report: &mut Rebuilt,
    ) -> anyhow::Result<Option<String>> {
        let there: Vec<ShardId> = restored.iter().map(|shard| shard.shard).collect();
        if !there.contains(&ShardId::ROOT) {
            report.problems.extend(self.sources.unread_nodes(&[]));
            report.missing.push(ShardId::ROOT.0);
            return Ok(Some(NO_ROOT.to_owned()));
        }
        let store = Arc::clone(kv);
        let whole = move || verify_whole(store.as_ref(), &there);
        let whole = self.runtime.blocking(whole).await??;
        report.missing = whole.missing.iter().map(|shard| shard.0).collect();
        let unread = self.sources.unread_nodes(&whole.disks);
        report.problems.extend(unread);
        for (disk, node) in whole.disks {
            if !self.sources.disks_read.contains(&disk) {
                let problem = format!("disk {disk} of node {node}: it was not listed");
                report.problems.push(problem);
            }
        }
        for pair in whole.overlapping {
            let (older, newer) = (pair.0.min(pair.1), pair.0.max(pair.1));
            report.problems.push(format!(
                "shard {older} was put back from before it gave keys to shard {newer}: what it did \
                 after that is missing"
            ));
            let store = Arc::clone(kv);
            let settle = move || settle_overlap(store.as_ref(), pair);
            self.runtime.blocking(settle).await??;
        }
        for shard in whole.missing {
            let store = Arc::clone(kv);
            let seen = self.sources.catalog.newest_term(shard);
            let begun = self
                .runtime
                .blocking(move || without_backup(store, shard, seen));
            let begun = match begun.await? {
                Ok(begun) => begun,
                Err(RestoreError::NoCheckpoint { shard, reason }) => {
                    return Ok(Some(format!("shard {shard} cannot begin anew: {reason}")));
                }
                Err(error) => return Err(error.into()),
            };
            report.lacks(shard, &begun.problems);
            restored.push(begun);
        }
        let loss = report.may_lose() && !self.wanted.accept_loss;
        Ok(loss.then(|| LOSS.to_owned()))
    }
}

/// Tells the root what is new: this node and its disks, and the meta nodes that are gone.
async fn renew(
    runtime: &Runtime,
    meta: &MetaRole,
    config: &StartConfig,
    sources: &Sources,
    plan: &Renewal,
    report: &mut Rebuilt,
) -> anyhow::Result<Peers> {
    meta.node.wait_ready(READY_LIMIT).await?;
    let client = &meta.client;
    raise_level(client).await?;
    let renewed = client.propose(plan.command.clone()).await?;
    renewed.map_err(|no| anyhow::anyhow!("the root was not renewed: {}", no.detail))?;
    let node = record(config, plan.node);
    let registered = client
        .propose(pb::RegisterNode { node: Some(node) })
        .await?;
    registered.map_err(|no| anyhow::anyhow!("the new node was refused: {}", no.detail))?;
    let map = client.query(pb::GetClusterMap::default()).await?;
    for disk in &map.disks {
        if sources.local_disks.iter().any(|local| local.0 == disk.id) {
            let disk = pb::state::Disk {
                node: plan.node.0,
                ..disk.clone()
            };
            let moved = client
                .propose(pb::RegisterDisk {
                    disk: Some(disk),
                    ..Default::default()
                })
                .await?;
            moved.map_err(|no| anyhow::anyhow!("a disk was refused: {}", no.detail))?;
        }
    }
    let answering = sources.nodes();
    for node in &plan.nodes {
        let meta_node = node.roles.is_empty() || node.roles.iter().any(|role| role == "meta");
        if node.removed || !meta_node || answering.contains(&NodeId(node.id)) {
            continue;
        }
        let removed = client.propose(pb::RemoveNode { node: node.id }).await?;
        removed.map_err(|no| anyhow::anyhow!("node {} stays: {}", node.id, no.detail))?;
        report.removed.push(node.id);
    }
    // Shards were put back from different moments: each hears of every bucket that the root knows.
    let kv = Arc::clone(&meta.kv);
    let buckets = runtime.blocking(move || buckets_in_use(kv.as_ref()));
    for bucket in buckets.await?? {
        client.configure_again(&bucket).await?;
    }
    let map = client.query(pb::GetClusterMap::default()).await?;
    Ok(Peers::of(&map))
}

/// The root is put back by a command that not every level has. No other node applies it now, whatever
/// it runs: those that had metadata lost it, and get it anew from this one.
async fn raise_level(client: &Meta) -> anyhow::Result<()> {
    let map = client.query(pb::GetClusterMap::default()).await?;
    let raise = pb::ActivateFeature {
        level: FEATURE_LEVEL,
        nodes: map.nodes.iter().map(|node| node.id).collect(),
    };
    let raised = client.propose_to(ShardId::ROOT, raise).await?;
    raised.map_err(|no| anyhow::anyhow!("the feature level was not raised: {}", no.detail))?;
    Ok(())
}

/// `None` of a shard whose log has no command with a time.
fn age_secs(now_ms: u64, time_ms: u64) -> Option<u64> {
    (time_ms > 0).then(|| now_ms.saturating_sub(time_ms) / 1000)
}

/// Where it is remembered that a node was rebuilt, until all others know.
pub(crate) fn marker(state_dir: &Path) -> PathBuf {
    state_dir.join(place::MARKER)
}
