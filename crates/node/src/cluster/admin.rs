//! The Admin service: what operators ask of a cluster, answered by any node.
//!
//! It must not decide anything by itself: it gathers what nodes say, and proposes commands.

mod gather;
mod repairing;
mod verdict;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use granary_cluster::{GiveUp, GiveUpCheck, Identity, KeySealer, Lane, Links, Peer, new_token};
use granary_datapath::{ClusterView, Group, GroupMember, RepairHints};
use granary_meta_api::{Meta, MetaError, disk_state, pb as meta};
use granary_runtime::{Runtime, within};
use granary_types::{NodeId, ShardId};
use granary_workers::{Fsck, MetaNodes, Scrub};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use self::gather::{ANSWER_LIMIT, Replicas, shard_statuses};
use super::hints::counts_here;
use super::pb::admin_client::AdminClient;
use super::pb::admin_server::{Admin, AdminServer};
use super::pb::{
    CreateTokenReply, CreateTokenRequest, DescribeNodeRequest, Done, FsckRequest,
    LearnPeersRequest, ListPeersRequest, ReadmitDiskRequest, RemoveDiskRequest, RemoveNodeRequest,
    Report, RotateCaReply, RotateCaRequest, ScrubRequest, StatusRequest, TakeHintsReply,
    TakeHintsRequest, TriggerRequest,
};
use super::reports::{Reports, Tell, follow, json};
use super::status::{Peers, ShardStatus};
use crate::roles::worker::WorkerRole;

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
    sweep_every: Duration,
    hints: RepairHints,
    /// Of every shard, where there are meta nodes enough.
    voters: usize,
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
        sweep_every: Duration,
        hints: RepairHints,
        voters: usize,
    ) {
        let parts = Parts {
            workers,
            map,
            scrub,
            sweep_every,
            hints,
            voters,
        };
        let _ = self.shared.parts.set(parts);
    }

    pub(super) fn routes(&self) -> Routes {
        Routes::new(AdminServer::new(self.clone()))
    }
}

impl Shared {
    async fn remove_disk(&self, disk: u64) -> Result<(), Status> {
        let (mut record, _) = self.disk_record(disk).await?;
        record.state = disk_state::REMOVED;
        let command = meta::RegisterDisk {
            disk: Some(record),
            state_only: true,
            ..Default::default()
        };
        decided(self.meta.propose(command).await)
    }

    /// Takes a disk back that was given up; true when it had been. What it missed does no harm: it
    /// is a member of no group that others took over, of others it is compared with the members that
    /// kept their tombstones for it, and what it has besides is copied only if a row names it.
    async fn readmit_disk(&self, disk: u64) -> Result<bool, Status> {
        let (mut record, map) = self.disk_record(disk).await?;
        let node = map.nodes.iter().find(|node| node.id == record.node);
        if node.is_none_or(|node| node.removed) {
            return Err(Status::failed_precondition(format!(
                "disk {disk} sits in node {}, which was given up: let that machine join as a new \
                 node, with an empty state directory and the data directories it had",
                record.node
            )));
        }
        if record.state != disk_state::REMOVED {
            return Ok(false);
        }
        record.state = disk_state::READMITTED;
        let command = meta::RegisterDisk {
            disk: Some(record),
            state_only: true,
            ..Default::default()
        };
        decided(self.meta.propose(command).await)?;
        Ok(true)
    }

    /// Refuses to give up a node that serves, or without which a shard could decide nothing any more:
    /// not even that was to be undone then.
    async fn check_may_go(&self, node: NodeId) -> Result<(), Status> {
        let (map, silent_root) = self.map().await.map_err(unavailable)?;
        let known = map.nodes.iter().find(|known| known.id == node.0);
        if known.is_none_or(|known| known.removed) {
            return Ok(());
        }
        let asked = [node];
        let (reports, replicas) = tokio::join!(self.reports(&asked), self.replicas(&map));
        let shards = shard_statuses(&map, &replicas);
        // Who votes although it was given up is not asked: a root that answers has its majority.
        let silent = silent_root.and_then(|_| silent_majority(&shards, &replicas));
        if let Some(silent) = silent {
            return Err(Status::failed_precondition(undecidable(&silent)));
        }
        let refused = |why: String| {
            let said = format!("{why}; --force gives it up all the same");
            Err(Status::failed_precondition(said))
        };
        if reports.contains_key(&node) {
            return refused(format!(
                "node {node} answers: stop it first, if it is to go"
            ));
        }
        match needed_by(node, &shards, &replicas) {
            Some(shard) => refused(format!(
                "without node {node} there is no majority of the voters of shard {shard}: bring back \
                 another one first"
            )),
            None => Ok(()),
        }
    }

    /// Refuses to give a node up that answers, while others are still to be filled from it: nobody
    /// reads it once it is given up.
    async fn keep_what_only_it_has(&self, node: NodeId) -> Result<(), Status> {
        self.view.refresh().await.map_err(unavailable)?;
        let map = self.view.map();
        let is_here = |member: &GroupMember| map.node_of(member.disk) == Some(node);
        let depends = |group: &&Group| {
            // Without a complete member each may have what nobody else has.
            let sourced = group.members.iter().any(|member| member.complete);
            let gives = |member: &&GroupMember| {
                (member.complete || !sourced) && self.view.is_readable(member.disk)
            };
            let mut sources = group.members.iter().filter(gives).peekable();
            sources.peek().is_some()
                && match sourced {
                    true => sources.all(is_here),
                    false => sources.any(is_here),
                }
        };
        match map.groups().filter(depends).count() {
            0 => Ok(()),
            groups => Err(Status::failed_precondition(format!(
                "{groups} placement groups have no complete member that answers but on node {node}: \
                 wait until granary admin repair is done, or add --accept-loss"
            ))),
        }
    }

    /// What a change that the root has not decided failed from: for good, if a majority of its voters
    /// does not answer.
    async fn why_undecided(&self, status: Status) -> Status {
        if status.code() != Code::Unavailable {
            return status;
        }
        let Ok((map, Some(_))) = self.map().await else {
            return status;
        };
        let replicas = self.replicas(&map).await;
        match silent_majority(&shard_statuses(&map, &replicas), &replicas) {
            Some(silent) => Status::failed_precondition(undecidable(&silent)),
            None => status,
        }
    }

    /// What is missing before the voters that were given up have successors, if anything.
    async fn nobody_to_vote(&self) -> Option<String> {
        let (map, _) = self.map().await.ok()?;
        let shards = shard_statuses(&map, &self.replicas(&map).await);
        verdict::no_successor(&shards, &gather::node_statuses(&map, &BTreeMap::new()))
    }

    /// Wakes a job of this process.
    fn trigger_here(&self, name: &str) {
        let workers = self.parts.get().and_then(|parts| parts.workers.as_ref());
        let handles = workers.map_or(&[][..], |role| role.handles());
        for handle in handles.iter().filter(|handle| handle.name() == name) {
            handle.trigger();
        }
    }

    /// Has every other node wake it that may run it: whoever leads it is one of them.
    async fn trigger_elsewhere(&self, name: &str) {
        let book = self.links.book();
        let others = book.nodes().into_iter().filter(|node| {
            let may_run = node.roles.is_empty() || node.serves("worker");
            may_run && !node.removed && node.id() != self.identity.node
        });
        let told = others.map(|node| async move {
            let channel = self.links.channel(node.id(), Lane::Meta)?;
            let request = TriggerRequest {
                worker: name.to_owned(),
            };
            let mut client = AdminClient::new(channel);
            // One that does not answer, or is of an older version, looks for work by itself later.
            within(ANSWER_LIMIT, client.trigger(request)).await.ok()
        });
        join_all(told).await;
    }

    /// What the root says of a disk, and of the rest.
    async fn disk_record(
        &self,
        disk: u64,
    ) -> Result<(meta::state::Disk, meta::ClusterMap), Status> {
        let map = self.meta.query(meta::GetClusterMap::default()).await;
        let map = map.map_err(unavailable)?;
        let known = map.disks.iter().find(|known| known.id == disk).cloned();
        let known = known.ok_or_else(|| Status::not_found(format!("there is no disk {disk}")))?;
        Ok((known, map))
    }
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

/// Voters of the root that do not answer, when the others are no majority.
fn silent_majority(shards: &[ShardStatus], replicas: &Replicas) -> Option<Vec<u64>> {
    let root = shards.iter().find(|shard| shard.id == ShardId::ROOT.0)?;
    let answers = |voter: &u64| replicas.iter().any(|(node, _)| node.0 == *voter);
    let (there, silent): (Vec<u64>, Vec<u64>) = root.voters.iter().partition(|v| answers(v));
    (!silent.is_empty() && there.len() <= silent.len()).then_some(silent)
}

fn undecidable(silent: &[u64]) -> String {
    let silent: Vec<String> = silent.iter().map(u64::to_string).collect();
    format!(
        "of the voters of shard 0 a majority is needed to decide anything, --force or not, and these do \
         not answer: node {}. Bring some of them back; if they are gone for good, stop the metadata nodes \
         that are left and put the metadata back from its backup with granary admin rebuild \
         --accept-loss",
        silent.join(", ")
    )
}

fn just_started() -> Status {
    Status::unavailable("this node has just started")
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
impl GiveUpCheck for AdminService {
    async fn may_go(&self, node: NodeId, meant: GiveUp) -> Result<(), Status> {
        if !meant.force {
            self.shared.check_may_go(node).await?;
        }
        if !meant.accept_loss {
            self.shared.keep_what_only_it_has(node).await?;
        }
        Ok(())
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
        let RemoveNodeRequest {
            node,
            force,
            accept_loss,
        } = request.into_inner();
        let meant = GiveUp { force, accept_loss };
        let outcome = match self.may_go(NodeId(node), meant).await {
            Ok(()) => decided(self.shared.meta.propose(meta::RemoveNode { node }).await),
            refused => refused,
        };
        if let Err(status) = outcome {
            return Err(self.shared.why_undecided(status).await);
        }
        tracing::warn!(node, "node is given up for good");
        let note = self.shared.nobody_to_vote().await.unwrap_or_default();
        Ok(Response::new(Done { note }))
    }

    async fn remove_disk(
        &self,
        request: Request<RemoveDiskRequest>,
    ) -> Result<Response<Done>, Status> {
        let disk = request.into_inner().disk;
        self.shared.remove_disk(disk).await?;
        tracing::warn!(disk, "disk is given up for good");
        Ok(Response::new(Done::default()))
    }

    async fn readmit_disk(
        &self,
        request: Request<ReadmitDiskRequest>,
    ) -> Result<Response<Done>, Status> {
        let disk = request.into_inner().disk;
        if !self.shared.readmit_disk(disk).await? {
            let note = format!("disk {disk} was never given up: nothing was to be done");
            return Ok(Response::new(Done { note }));
        }
        tracing::warn!(disk, "disk that was given up is taken back");
        Ok(Response::new(Done::default()))
    }

    async fn trigger(&self, request: Request<TriggerRequest>) -> Result<Response<Done>, Status> {
        let from_node = matches!(request.extensions().get(), Some(Peer::Node(_)));
        let name = request.into_inner().worker;
        self.shared.trigger_here(&name);
        if !from_node {
            self.shared.trigger_elsewhere(&name).await;
        }
        Ok(Response::new(Done::default()))
    }

    async fn take_hints(
        &self,
        request: Request<TakeHintsRequest>,
    ) -> Result<Response<TakeHintsReply>, Status> {
        let parts = self.shared.parts.get();
        let counting = parts.filter(|parts| counts_here(parts.workers.as_deref()));
        if let Some(parts) = counting {
            super::hints::take(&parts.hints, request.into_inner());
        }
        let taken = counting.is_some();
        Ok(Response::new(TakeHintsReply { taken }))
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
        let learnt = learnt.learn_told(&shared.runtime, &peers.into_map()).await;
        if learnt.map_err(|error| Status::internal(error.to_string()))? {
            tracing::warn!(
                epoch,
                "told by an operator or another node where the nodes are"
            );
        }
        Ok(Response::new(Done::default()))
    }

    type FsckStream = Reports;

    async fn fsck(
        &self,
        request: Request<FsckRequest>,
    ) -> Result<Response<Self::FsckStream>, Status> {
        let shared = &self.shared;
        let deep = request.into_inner().deep;
        let sweep_every = shared.parts.get().map(|parts| parts.sweep_every);
        let sweep_every = sweep_every.ok_or_else(just_started)?;
        let fsck = Fsck::new(shared.meta.clone(), shared.view.clone(), deep, sweep_every);
        let work = |tell: Tell<_>| async move { fsck.run(tell).await };
        Ok(Response::new(follow(&shared.runtime, work)))
    }

    type ScrubStream = Reports;

    async fn scrub(&self, _: Request<ScrubRequest>) -> Result<Response<Self::ScrubStream>, Status> {
        let parts = self.shared.parts.get();
        let parts = parts.ok_or_else(just_started)?;
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

    #[test]
    fn a_root_that_can_decide_nothing_is_told_by_who_is_silent() {
        let shard = |id, voters: &[u64]| ShardStatus {
            id,
            voters: voters.to_vec(),
            ..ShardStatus::default()
        };
        // Another shard's majority is its own affair.
        let shards = [shard(5, &[7, 8, 9]), shard(0, &[1, 2, 3])];
        for (answering, silent) in [
            (&[1, 2, 3][..], None),
            (&[1, 3], None),
            (&[1, 7, 8], Some(vec![2, 3])),
            (&[], Some(vec![1, 2, 3])),
        ] {
            let replicas: Replicas = answering.iter().map(|n| (NodeId(*n), Vec::new())).collect();
            assert_eq!(silent_majority(&shards, &replicas), silent, "{answering:?}");
        }
        let replicas = vec![(NodeId(1), Vec::new())];
        let two = [shard(0, &[1, 2])];
        assert_eq!(silent_majority(&two, &replicas), Some(vec![2]));
        assert_eq!(silent_majority(&[shard(0, &[])], &replicas), None);
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
}
