//! The Admin service: what operators ask of a cluster, answered by any node.
//!
//! It must not decide anything by itself: it gathers what nodes say, and proposes commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use granary_blob_api::DiskHealth;
use granary_cluster::{Identity, KeySealer, Lane, Links, new_token};
use granary_datapath::{ClusterView, Group};
use granary_meta_api::{Meta, MetaError, pb as meta};
use granary_runtime::{Runtime, within};
use granary_types::{DiskId, NodeId, ShardId};
use granary_workers::{Fsck, MetaNodes, Scrub};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::pb::admin_client::AdminClient;
use super::pb::admin_server::{Admin, AdminServer};
use super::pb::{
    CreateTokenReply, CreateTokenRequest, DescribeNodeRequest, Done, FsckRequest,
    LearnPeersRequest, ListPeersRequest, RemoveDiskRequest, RemoveNodeRequest, Report,
    RotateCaReply, RotateCaRequest, ScrubRequest, StatusRequest, TriggerRequest,
};
use super::reports::{Reports, Tell, follow, json};
use super::status::{
    Capacity, ClusterStatus, DiskStatus, GroupCounts, NodeReport, NodeStatus, Peers,
    RedundancyReport, RepairStatus, ShardStatus, WorkerReport, ZoneStatus,
};
use crate::roles::worker::WorkerRole;

/// Longest time for one node's answer, so that a status never waits for those that are away.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Format of the reports.
const FORMAT: u32 = 1;
/// `state` of a disk record that is given up for good.
const DISK_REMOVED: u32 = 2;

/// Answers operators.
#[derive(Clone)]
pub(super) struct AdminService {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    links: Arc<Links>,
    metadata: Arc<dyn MetaNodes>,
    identity: Identity,
    /// On nodes that have the master key.
    sealer: Option<Arc<dyn KeySealer>>,
    parts: OnceLock<Parts>,
}

/// What is there only after the cluster has answered.
struct Parts {
    workers: Option<Arc<WorkerRole>>,
    map: watch::Receiver<Arc<meta::ClusterMap>>,
    scrub: ScrubMaker,
}

/// Makes a pass over every copy.
pub(super) type ScrubMaker = Box<dyn Fn() -> Scrub + Send + Sync>;

impl AdminService {
    pub(super) fn new(
        runtime: Runtime,
        meta: Meta,
        view: ClusterView,
        links: Arc<Links>,
        metadata: Arc<dyn MetaNodes>,
        identity: Identity,
        sealer: Option<Arc<dyn KeySealer>>,
    ) -> Self {
        let shared = Shared {
            runtime,
            meta,
            view,
            links,
            metadata,
            identity,
            sealer,
            parts: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The rest of the node; only the first call counts.
    pub(super) fn set_parts(
        &self,
        workers: Option<Arc<WorkerRole>>,
        map: watch::Receiver<Arc<meta::ClusterMap>>,
        scrub: ScrubMaker,
    ) {
        let parts = Parts {
            workers,
            map,
            scrub,
        };
        let _ = self.shared.parts.set(parts);
    }

    pub(super) fn routes(&self) -> Routes {
        Routes::new(AdminServer::new(self.clone()))
    }
}

impl Shared {
    /// This node's own report.
    fn report(&self) -> NodeReport {
        let workers = self.parts.get().and_then(|parts| parts.workers.as_ref());
        let states = workers.map_or_else(Vec::new, |role| {
            let states = role.handles().iter().map(|handle| {
                let state = handle.state();
                WorkerReport {
                    name: handle.name().to_owned(),
                    leads: state.leads,
                    idle: state.idle,
                    last_error: state.last_error,
                }
            });
            states.collect()
        });
        let leads = states
            .iter()
            .any(|worker: &WorkerReport| worker.leads && worker.name == "redundancy");
        let redundancy = workers.filter(|_| leads).map(|role| {
            let status = role.redundancy();
            RedundancyReport {
                current: status.current,
                below_target: status.below_target,
                groups_unknown: status.groups_unknown,
                began_ms: status.began_ms,
                groups_done: status.progress.0,
                groups: status.progress.1,
                running_ms: None,
            }
        });
        NodeReport {
            node: self.identity.node.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: states,
            redundancy,
        }
    }

    /// Every node's report, of those that answer.
    async fn reports(&self, nodes: &[NodeId]) -> BTreeMap<NodeId, NodeReport> {
        let asked = nodes.iter().map(|&node| async move {
            if node == self.identity.node {
                return Some((node, self.report()));
            }
            let channel = self.links.channel(node, Lane::Meta)?;
            let mut client = AdminClient::new(channel);
            let asked = client.describe_node(DescribeNodeRequest {});
            let answer = within(ANSWER_LIMIT, asked).await.ok()?.ok()?.into_inner();
            let report = serde_json::from_str(&answer.json).ok()?;
            Some((node, report))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The map as the root has it, or as it was known last.
    async fn map(&self) -> Result<(Arc<meta::ClusterMap>, Option<MetaError>), MetaError> {
        let asked = self.meta.query(meta::GetClusterMap::default());
        let error = match within(ANSWER_LIMIT, asked).await {
            Ok(Ok(map)) => return Ok((Arc::new(map), None)),
            Ok(Err(error)) => error,
            Err(late) => MetaError::Unavailable(late.to_string()),
        };
        match self.parts.get() {
            Some(parts) => Ok((parts.map.borrow().clone(), Some(error))),
            None => Err(error),
        }
    }

    async fn status(&self) -> Result<ClusterStatus, MetaError> {
        let (map, root_error) = self.map().await?;
        let nodes: Vec<NodeId> = map.nodes.iter().map(|node| NodeId(node.id)).collect();
        let in_service: Vec<&meta::state::Node> =
            map.nodes.iter().filter(|node| !node.removed).collect();
        let asked: Vec<NodeId> = in_service.iter().map(|node| NodeId(node.id)).collect();
        let (reports, shards, deletions, _) = tokio::join!(
            self.reports(&asked),
            self.shards(&map),
            self.deletions(&map),
            within(ANSWER_LIMIT, self.view.refresh()),
        );
        let info = map.info.clone().unwrap_or_default();
        let mut status = ClusterStatus {
            format: FORMAT,
            cluster_id: self.identity.cluster_id.clone(),
            region: info.region,
            zones: zones(&in_service),
            nodes: node_statuses(&map, &reports),
            disks: self.disks(&map),
            shards,
            groups: self.groups(),
            deletions_queued: deletions,
            ..ClusterStatus::default()
        };
        self.sum_up(&mut status, &reports);
        let root_silent = root_error.is_some();
        if let Some(error) = root_error {
            status
                .problems
                .push(format!("the root shard does not answer: {error}"));
        }
        judge(&mut status, &nodes);
        if root_silent {
            "unavailable".clone_into(&mut status.health);
        }
        Ok(status)
    }

    /// Refuses to give up a node that serves, or without which a shard could decide nothing any more:
    /// not even that was to be undone then.
    async fn check_may_go(&self, node: NodeId) -> Result<(), Status> {
        let (map, _) = self.map().await.map_err(unavailable)?;
        let known = map.nodes.iter().find(|known| known.id == node.0);
        if known.is_none_or(|known| known.removed) {
            return Ok(());
        }
        let asked = [node];
        let (reports, replicas) = tokio::join!(self.reports(&asked), self.replicas(&map));
        let refused = |why: String| {
            let said = format!("{why}; --force gives it up all the same");
            Err(Status::failed_precondition(said))
        };
        if reports.contains_key(&node) {
            return refused(format!(
                "node {node} answers: stop it first, if it is to go"
            ));
        }
        match needed_by(node, &shard_statuses(&map, &replicas), &replicas) {
            Some(shard) => refused(format!(
                "without node {node} there is no majority of the voters of shard {shard}: bring back \
                 another one first"
            )),
            None => Ok(()),
        }
    }

    async fn shards(&self, map: &meta::ClusterMap) -> Vec<ShardStatus> {
        shard_statuses(map, &self.replicas(map).await)
    }

    /// What the meta nodes that answer have.
    async fn replicas(&self, map: &meta::ClusterMap) -> Replicas {
        let meta_nodes = map.nodes.iter().filter(|node| {
            !node.removed && (node.roles.is_empty() || node.roles.iter().any(|role| role == "meta"))
        });
        let asked = meta_nodes.map(|node| async move {
            let node = NodeId(node.id);
            let control = self.metadata.node(node)?;
            let replicas = within(ANSWER_LIMIT, control.list_replicas())
                .await
                .ok()?
                .ok()?;
            Some((node, replicas))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn deletions(&self, map: &meta::ClusterMap) -> Option<u64> {
        let shards: BTreeSet<u32> = map.ranges.iter().map(|hint| hint.shard).collect();
        let asked = shards.into_iter().map(|shard| async move {
            let query = meta::ListDeletions {
                limit: 1,
                after_seq: 0,
            };
            let asked = self.meta.query_at(ShardId(shard), query);
            let page = within(ANSWER_LIMIT, asked).await.ok()?.ok()?;
            Some(page.pending)
        });
        let pending = join_all(asked).await;
        pending.into_iter().sum()
    }

    fn disks(&self, map: &meta::ClusterMap) -> Vec<DiskStatus> {
        let known = self.view.map();
        let needed: BTreeSet<DiskId> = known.groups().flat_map(Group::disks).collect();
        let mut disks: Vec<DiskStatus> = map
            .disks
            .iter()
            .map(|disk| {
                let node = map.nodes.iter().find(|node| node.id == disk.node);
                let known = self.view.status(DiskId(disk.id));
                let state = match (&known, disk.state) {
                    (_, DISK_REMOVED) => "removed",
                    _ if node.is_some_and(|node| node.removed) => "removed",
                    (Some(status), _) => match status.health {
                        DiskHealth::Healthy => "up",
                        DiskHealth::Full => "full",
                        DiskHealth::Failed => "failed",
                        DiskHealth::Opening => "opening",
                    },
                    (None, _) if self.view.is_opening(DiskId(disk.id)) => "opening",
                    (None, _) if self.view.is_missing(DiskId(disk.id)) => "missing",
                    (None, _) => "unknown",
                };
                let (total, free) = known.map_or((disk.total_bytes, 0), |status| {
                    (status.total_bytes, status.free_bytes)
                });
                DiskStatus {
                    id: disk.id,
                    node: disk.node,
                    zone: node.map(|node| node.zone.clone()).unwrap_or_default(),
                    path: disk.path.clone(),
                    state: state.to_owned(),
                    total_bytes: total,
                    used_bytes: total.saturating_sub(free),
                    free_bytes: free,
                }
            })
            .collect();
        disks.sort_by_key(|disk| (disk.node, disk.id));
        mark_replaced(&mut disks, |disk| needed.contains(&disk));
        disks
    }

    fn groups(&self) -> GroupCounts {
        let map = self.view.map();
        let mut counts = GroupCounts::default();
        for group in map.groups() {
            *self.count_of(group, &mut counts) += 1;
        }
        counts
    }

    fn count_of<'c>(&self, group: &Group, counts: &'c mut GroupCounts) -> &'c mut u64 {
        let map = self.view.map();
        let serves = |disk: DiskId| map.is_in(disk) && self.view.is_readable(disk);
        let serving = group.disks().filter(|&disk| serves(disk)).count();
        if serving == 0 {
            &mut counts.unavailable
        } else if serving < group.members.len() {
            &mut counts.degraded
        } else if group.members.iter().any(|member| !member.complete) {
            &mut counts.backfilling
        } else {
            &mut counts.healthy
        }
    }

    /// Numbers that come from the whole.
    fn sum_up(&self, status: &mut ClusterStatus, reports: &BTreeMap<NodeId, NodeReport>) {
        let known = status.disks.iter().filter(|disk| disk.is_in_service());
        for disk in known {
            status.capacity = Capacity {
                total_bytes: status.capacity.total_bytes + disk.total_bytes,
                used_bytes: status.capacity.used_bytes + disk.used_bytes,
                free_bytes: status.capacity.free_bytes + disk.free_bytes,
            };
        }
        let reclaimable = status
            .disks
            .iter()
            .filter(|disk| disk.is_in_service())
            .map(|disk| Some(self.view.status(DiskId(disk.id))?.reclaimable_bytes));
        status.reclaimable_bytes = reclaimable.sum();
        let counted = reports
            .values()
            .find_map(|report| report.redundancy.as_ref());
        if let Some(counted) = counted {
            if counted.current && counted.groups_unknown == 0 {
                status.chunks_below_target = Some(counted.below_target);
                status.chunks_below_target_counted_at = Some(counted.began_ms as f64 / 1000.0);
            }
            status.repair = RepairStatus {
                running: counted.groups_done < counted.groups,
                groups_done: counted.groups_done,
                groups: counted.groups,
                eta_secs: None,
            };
        }
    }

    async fn remove_disk(&self, disk: u64) -> Result<(), Status> {
        let map = self.meta.query(meta::GetClusterMap::default()).await;
        let map = map.map_err(unavailable)?;
        let known = map.disks.into_iter().find(|known| known.id == disk);
        let mut record =
            known.ok_or_else(|| Status::not_found(format!("there is no disk {disk}")))?;
        record.state = DISK_REMOVED;
        let command = meta::RegisterDisk { disk: Some(record) };
        decided(self.meta.propose(command).await)
    }
}

fn zones(nodes: &[&meta::state::Node]) -> Vec<ZoneStatus> {
    let mut zones: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for node in nodes {
        zones.entry(node.zone.clone()).or_default().push(node.id);
    }
    let statuses = zones.into_iter().map(|(id, mut nodes)| {
        nodes.sort_unstable();
        ZoneStatus { id, nodes }
    });
    statuses.collect()
}

fn node_statuses(
    map: &meta::ClusterMap,
    reports: &BTreeMap<NodeId, NodeReport>,
) -> Vec<NodeStatus> {
    let mut nodes: Vec<NodeStatus> = map
        .nodes
        .iter()
        .map(|node| {
            let report = reports.get(&NodeId(node.id));
            let state = match (node.removed, report.is_some()) {
                (true, _) => "removed",
                (false, true) => "up",
                (false, false) => "down",
            };
            NodeStatus {
                id: node.id,
                zone: node.zone.clone(),
                address: node.address.clone(),
                roles: node.roles.clone(),
                state: state.to_owned(),
                version: report
                    .map(|report| report.version.clone())
                    .unwrap_or_default(),
            }
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// A disk that is gone is no problem any more once another one has its place and no group needs it:
/// an empty disk in the directory of a lost one is all that an operator has to give.
fn mark_replaced(disks: &mut [DiskStatus], needed: impl Fn(DiskId) -> bool) {
    let present: BTreeSet<(u64, String)> = disks
        .iter()
        .filter(|disk| matches!(disk.state.as_str(), "up" | "full"))
        .map(|disk| (disk.node, disk.path.clone()))
        .collect();
    for disk in disks.iter_mut().filter(|disk| disk.state == "missing") {
        if present.contains(&(disk.node, disk.path.clone())) && !needed(DiskId(disk.id)) {
            disk.state = "replaced".to_owned();
        }
    }
}

/// What nodes have of the shards.
type Replicas = Vec<(NodeId, Vec<meta::Replica>)>;

fn shard_statuses(map: &meta::ClusterMap, replicas: &Replicas) -> Vec<ShardStatus> {
    let mut ids: BTreeSet<u32> = map.ranges.iter().map(|hint| hint.shard).collect();
    ids.insert(ShardId::ROOT.0);
    ids.into_iter()
        .map(|id| shard_status(id, replicas))
        .collect()
}

/// A shard that a node votes in and whose other voters that answer are no majority.
fn needed_by(node: NodeId, shards: &[ShardStatus], replicas: &Replicas) -> Option<u32> {
    let answers = |voter: &u64| {
        *voter != node.0 && replicas.iter().any(|(answering, _)| answering.0 == *voter)
    };
    let needs = |shard: &&ShardStatus| {
        let left = shard.voters.iter().filter(|voter| answers(voter)).count();
        shard.voters.contains(&node.0) && left * 2 <= shard.voters.len()
    };
    shards.iter().find(needs).map(|shard| shard.id)
}

/// A shard, as its leader tells it; of several that call themselves that, the one of the newest term.
fn shard_status(id: u32, replicas: &[(NodeId, Vec<meta::Replica>)]) -> ShardStatus {
    let own = replicas
        .iter()
        .flat_map(|(node, replicas)| replicas.iter().map(move |replica| (*node, replica)))
        .filter(|(_, replica)| replica.shard == id);
    let all: Vec<(NodeId, &meta::Replica)> = own.collect();
    // One that nobody answers calls itself a leader for as long as it is left alone.
    let leads = |(node, replica): &&(NodeId, &meta::Replica)| {
        replica.leader == node.0 && !replica.without_quorum
    };
    let leader = all
        .iter()
        .filter(leads)
        .max_by_key(|(_, replica)| replica.term);
    let Some((node, replica)) = leader else {
        let newest = all.iter().max_by_key(|(_, replica)| replica.term);
        return ShardStatus {
            id,
            leader: None,
            term: newest.map_or(0, |(_, replica)| replica.term),
            voters: newest
                .map(|(_, replica)| replica.voters.clone())
                .unwrap_or_default(),
            ..ShardStatus::default()
        };
    };
    let lag = |member: u64| {
        if member == node.0 {
            return Some(0);
        }
        let follower = replica
            .followers
            .iter()
            .find(|known| known.node == member)?;
        let answers = all.iter().any(|(node, _)| node.0 == member);
        answers.then(|| replica.last_log.saturating_sub(follower.matched))
    };
    let members = replica.voters.iter().chain(&replica.learners);
    ShardStatus {
        id,
        leader: Some(node.0),
        term: replica.term,
        voters: replica.voters.clone(),
        learners: replica.learners.clone(),
        applied: replica.last_applied,
        lag: members.map(|&member| (member, lag(member))).collect(),
    }
}

/// Says what is wrong, in sentences.
fn judge(status: &mut ClusterStatus, nodes: &[NodeId]) {
    let problems = &mut status.problems;
    for node in &status.nodes {
        if node.state == "down" {
            problems.push(format!(
                "node {} ({}) does not answer",
                node.id, node.address
            ));
        }
    }
    for disk in &status.disks {
        if matches!(
            disk.state.as_str(),
            "failed" | "missing" | "full" | "unknown" | "opening"
        ) {
            problems.push(format!(
                "disk {} on node {} ({}): {}",
                disk.id, disk.node, disk.path, disk.state
            ));
        }
    }
    let mut leaderless = 0;
    for shard in &status.shards {
        leaderless += usize::from(shard.leader.is_none());
        if shard.leader.is_none() {
            problems.push(format!("shard {} has no leader", shard.id));
        }
        let removed = shard.voters.iter().filter(|voter| {
            let known = status.nodes.iter().find(|node| node.id == **voter);
            known.is_none_or(|node| node.state == "removed")
        });
        if removed.count() > 0 {
            problems.push(format!(
                "shard {} still has a voter that was removed",
                shard.id
            ));
        }
    }
    let groups = &status.groups;
    if groups.unavailable > 0 {
        problems.push(format!(
            "{} placement groups cannot be read at all",
            groups.unavailable
        ));
    }
    if groups.degraded + groups.backfilling > 0 {
        problems.push(format!(
            "{} placement groups lack a member, {} are being filled",
            groups.degraded, groups.backfilling
        ));
    }
    if let Some(below) = status.chunks_below_target.filter(|below| *below > 0) {
        problems.push(format!("{below} chunks have too few good copies"));
    }
    let unavailable = leaderless > 0 || groups.unavailable > 0 || nodes.is_empty();
    status.health = match (unavailable, problems.is_empty()) {
        (true, _) => "unavailable",
        (false, false) => "degraded",
        (false, true) => "ok",
    }
    .to_owned();
}

fn unavailable(error: MetaError) -> Status {
    Status::unavailable(error.to_string())
}

fn decided<R>(decision: Result<Result<R, meta::Rejection>, MetaError>) -> Result<(), Status> {
    match decision.map_err(unavailable)? {
        Ok(_) => Ok(()),
        Err(rejection) => Err(Status::failed_precondition(rejection.detail)),
    }
}

#[async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<Report>, Status> {
        let status = self.shared.status().await.map_err(unavailable)?;
        Ok(Response::new(json(&status)?))
    }

    async fn describe_node(
        &self,
        _: Request<DescribeNodeRequest>,
    ) -> Result<Response<Report>, Status> {
        Ok(Response::new(json(&self.shared.report())?))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let shared = &self.shared;
        let life = Duration::from_secs(request.into_inner().ttl_secs);
        let token = new_token(&shared.runtime, &shared.meta, life).await;
        let token = token.map_err(unavailable)?;
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(CreateTokenReply {
            token: token.reveal(),
            expires_ms: shared.runtime.now().plus_millis(life_ms).as_millis(),
        }))
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<Done>, Status> {
        let RemoveNodeRequest { node, force } = request.into_inner();
        if !force {
            self.shared.check_may_go(NodeId(node)).await?;
        }
        decided(self.shared.meta.propose(meta::RemoveNode { node }).await)?;
        tracing::warn!(node, "node is given up for good");
        Ok(Response::new(Done {}))
    }

    async fn remove_disk(
        &self,
        request: Request<RemoveDiskRequest>,
    ) -> Result<Response<Done>, Status> {
        let disk = request.into_inner().disk;
        self.shared.remove_disk(disk).await?;
        tracing::warn!(disk, "disk is given up for good");
        Ok(Response::new(Done {}))
    }

    async fn trigger(&self, request: Request<TriggerRequest>) -> Result<Response<Done>, Status> {
        let name = request.into_inner().worker;
        let workers = self
            .shared
            .parts
            .get()
            .and_then(|parts| parts.workers.as_ref());
        let handles = workers.map_or(&[][..], |role| role.handles());
        for handle in handles.iter().filter(|handle| handle.name() == name) {
            handle.trigger();
        }
        Ok(Response::new(Done {}))
    }

    async fn list_peers(&self, _: Request<ListPeersRequest>) -> Result<Response<Report>, Status> {
        let book = self.shared.links.book();
        let peers = Peers {
            epoch: book.epoch(),
            nodes: book.nodes(),
        };
        Ok(Response::new(json(&peers)?))
    }

    async fn learn_peers(
        &self,
        request: Request<LearnPeersRequest>,
    ) -> Result<Response<Done>, Status> {
        let peers: Peers = serde_json::from_str(&request.into_inner().json)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (shared, epoch) = (&self.shared, peers.epoch);
        let learnt = shared.links.book();
        let learnt = learnt.learn(&shared.runtime, &peers.into_map()).await;
        if learnt.map_err(|error| Status::internal(error.to_string()))? {
            tracing::warn!(
                epoch,
                "told by an operator or another node where the nodes are"
            );
        }
        Ok(Response::new(Done {}))
    }

    type FsckStream = Reports;

    async fn fsck(
        &self,
        request: Request<FsckRequest>,
    ) -> Result<Response<Self::FsckStream>, Status> {
        let shared = &self.shared;
        let deep = request.into_inner().deep;
        let fsck = Fsck::new(shared.meta.clone(), shared.view.clone(), deep);
        let work = |tell: Tell<_>| async move { fsck.run(tell).await };
        Ok(Response::new(follow(&shared.runtime, work)))
    }

    type ScrubStream = Reports;

    async fn scrub(&self, _: Request<ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        let parts = self.shared.parts.get();
        let parts = parts.ok_or_else(|| Status::unavailable("this node has just started"))?;
        let scrub = (parts.scrub)();
        let work = |tell: Tell<_>| async move { scrub.run(tell).await };
        Ok(Response::new(follow(&self.shared.runtime, work)))
    }

    async fn rotate_ca(
        &self,
        request: Request<RotateCaRequest>,
    ) -> Result<Response<RotateCaReply>, Status> {
        let shared = &self.shared;
        let sealer = shared.sealer.clone();
        let reply =
            super::rotate::step(&shared.meta, &shared.links, sealer, request.get_ref()).await?;
        Ok(Response::new(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u64, node: u64, path: &str, state: &str) -> DiskStatus {
        DiskStatus {
            id,
            node,
            path: path.to_owned(),
            state: state.to_owned(),
            ..DiskStatus::default()
        }
    }

    #[test]
    fn a_lost_disk_is_replaced_when_another_has_its_place_and_no_group_needs_it() {
        for (successor, needed, expected) in [
            (disk(2, 1, "/a", "up"), false, "replaced"),
            (disk(2, 1, "/a", "full"), false, "replaced"),
            (disk(2, 1, "/a", "up"), true, "missing"),
            (disk(2, 1, "/a", "failed"), false, "missing"),
            (disk(2, 1, "/b", "up"), false, "missing"),
            (disk(2, 2, "/a", "up"), false, "missing"),
        ] {
            let mut disks = [disk(1, 1, "/a", "missing"), successor];
            mark_replaced(&mut disks, |disk| needed && disk == DiskId(1));
            assert_eq!(disks[0].state, expected, "beside {:?}", disks[1]);
            assert_ne!(disks[1].state, "replaced");
        }
    }

    #[test]
    fn a_node_that_a_majority_needs_is_not_given_up() {
        let shard = |id, voters: &[u64]| ShardStatus {
            id,
            voters: voters.to_vec(),
            ..ShardStatus::default()
        };
        let shards = [shard(0, &[1, 2, 3]), shard(5, &[2, 3, 4])];
        let answering = |nodes: &[u64]| -> Replicas {
            nodes
                .iter()
                .map(|node| (NodeId(*node), Vec::new()))
                .collect()
        };
        for (node, answers, needed) in [
            (1, &[2, 3, 4][..], None),
            // Dead already, and the others are a majority.
            (3, &[1, 2, 4], None),
            (2, &[1, 2, 4], Some(0)),
            (4, &[1, 2, 4], Some(5)),
            (4, &[1, 2, 3], None),
            // It votes nowhere.
            (9, &[1], None),
        ] {
            let found = needed_by(NodeId(node), &shards, &answering(answers));
            assert_eq!(found, needed, "node {node} of {answers:?}");
        }
    }

    #[test]
    fn only_disks_in_service_are_a_problem() {
        for (state, health) in [
            ("up", "ok"),
            ("replaced", "ok"),
            ("removed", "ok"),
            ("missing", "degraded"),
            ("failed", "degraded"),
        ] {
            let mut status = ClusterStatus {
                disks: vec![disk(1, 1, "/a", state)],
                ..ClusterStatus::default()
            };
            judge(&mut status, &[NodeId(1)]);
            assert_eq!(status.health, health, "a disk that is {state}");
        }
    }
}
