//! The state of the cluster, from what its nodes say: each is asked, none is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use granary_blob_api::DiskHealth;
use granary_cluster::Lane;
use granary_datapath::Group;
use granary_meta::FEATURE_LEVEL;
use granary_meta_api::{MetaError, disk_state, pb as meta};
use granary_placement::voters_possible;
use granary_runtime::within;
use granary_types::{BACKUP_BUCKET, DiskId, NodeId, ShardId};
use granary_workers::{Away, Waits};

use super::Shared;
use super::repairing::{note_given_up, note_vacant, repair_status};
use super::verdict::{judge, mark_replaced};
use crate::cluster::pb::DescribeNodeRequest;
use crate::cluster::pb::admin_client::AdminClient;
use crate::cluster::status::{
    AwayReport, Capacity, ClusterStatus, DiskStatus, GroupCounts, NodeReport, NodeStatus,
    RangeStart, RedundancyReport, ShardStatus, SilenceReport, WaitsReport, WorkerReport,
    ZoneStatus,
};

/// Longest time for one node's answer, so that a status never waits for those that are away.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Format of the reports.
const FORMAT: u32 = 1;

impl Shared {
    /// This node's own report.
    pub(super) fn report(&self) -> NodeReport {
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
        let leads = |name: &str| {
            let mut states = states.iter();
            states.any(|worker: &WorkerReport| worker.leads && worker.name == name)
        };
        let keeper = workers.filter(|_| leads("placement-keeper"));
        let silence = keeper.and_then(|role| role.silence());
        let waits = keeper.and_then(|role| role.waits());
        let waits = waits.as_ref().map(waits_report);
        let silence = silence.map(|silence| SilenceReport {
            silent: silence.silent,
            disks: silence.disks,
        });
        let redundancy = workers.filter(|_| leads("redundancy")).map(|role| {
            let status = role.redundancy();
            let progress = status.progress;
            RedundancyReport {
                current: status.current,
                below_target: status.below_target,
                lost: Some(status.lost),
                narrow: Some(status.narrow),
                narrow_buckets: status
                    .narrow_buckets
                    .iter()
                    .map(|bucket| bucket.0)
                    .collect(),
                groups_unknown: status.groups_unknown,
                began_ms: status.began_ms,
                groups_done: progress.groups.0,
                groups: progress.groups.1,
                chunks_done: progress.chunks.0,
                chunks: progress.chunks.1,
                running_ms: progress.running.map(millis),
                begins_in_ms: status.begins_in.map(millis),
            }
        });
        NodeReport {
            node: self.identity.node.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: FEATURE_LEVEL,
            workers: states,
            redundancy,
            silence,
            waits,
        }
    }

    /// Every node's report, of those that answer.
    pub(super) async fn reports(&self, nodes: &[NodeId]) -> BTreeMap<NodeId, NodeReport> {
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
    pub(super) async fn map(
        &self,
    ) -> Result<(Arc<meta::ClusterMap>, Option<MetaError>), MetaError> {
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

    pub(super) async fn status(&self) -> Result<ClusterStatus, MetaError> {
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
            feature_level: info.feature_level,
            zones: zones(&in_service),
            nodes: node_statuses(&map, &reports),
            disks: self.disks(&map),
            shards,
            groups: self.groups(),
            deletions_queued: deletions,
            ..ClusterStatus::default()
        };
        self.sum_up(&mut status, &reports);
        status.owners_in_narrow_zones = self.narrow_owners(&reports).await;
        status.voters_per_shard = self.parts.get().map(|parts| {
            let meta_nodes = in_service.iter().filter(|node| is_meta(node)).count();
            voters_possible(meta_nodes, parts.voters) as u64
        });
        status.problems.extend(held_back(&reports));
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

    /// Whose chunks lie in zones without the disks for more copies: the first few, as people call them.
    async fn narrow_owners(&self, reports: &BTreeMap<NodeId, NodeReport>) -> Vec<String> {
        let mut counted = reports.values().filter_map(|r| r.redundancy.as_ref());
        let settled = counted.next().filter(|counted| counted.is_settled());
        let buckets = settled.map_or(&[][..], |c| &c.narrow_buckets);
        let names = buckets.iter().map(|&id| async move {
            if id == BACKUP_BUCKET.0 {
                return "backup".to_owned();
            }
            let asked = self.meta.query(meta::GetBucketById { id });
            let answer = within(ANSWER_LIMIT, asked).await;
            let found = answer.ok().and_then(Result::ok);
            let bucket = found.and_then(|found| found.bucket);
            bucket.map_or_else(|| id.to_string(), |bucket| bucket.name)
        });
        join_all(names).await
    }

    async fn shards(&self, map: &meta::ClusterMap) -> Vec<ShardStatus> {
        shard_statuses(map, &self.replicas(map).await)
    }

    /// What the meta nodes that answer have.
    pub(super) async fn replicas(&self, map: &meta::ClusterMap) -> Replicas {
        let meta_nodes = map.nodes.iter();
        let meta_nodes = meta_nodes.filter(|node| !node.removed && is_meta(node));
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
                    (_, disk_state::REMOVED) => "removed",
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
                let known = known.as_ref();
                let total = known.map_or(disk.total_bytes, |status| status.total_bytes);
                let free = known.map(|status| status.free_bytes);
                DiskStatus {
                    id: disk.id,
                    node: disk.node,
                    zone: node.map(|node| node.zone.clone()).unwrap_or_default(),
                    path: disk.path.clone(),
                    state: state.to_owned(),
                    given_up_in_secs: None,
                    total_bytes: total,
                    used_bytes: free.map(|free| total.saturating_sub(free)),
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
        status.capacity = capacity(&status.disks);
        let reclaimable = status
            .disks
            .iter()
            .filter(|disk| disk.is_in_service())
            .map(|disk| Some(self.view.status(DiskId(disk.id))?.reclaimable_bytes));
        status.reclaimable_bytes = reclaimable.sum();
        let counted = reports
            .values()
            .find_map(|report| report.redundancy.as_ref());
        let settled = counted.filter(|counted| counted.is_settled());
        if let Some(counted) = settled {
            status.chunks_below_target = Some(counted.below_target);
            status.chunks_lost = counted.lost;
            status.chunks_in_narrow_zones = counted.narrow;
            status.chunks_below_target_counted_at = Some(counted.began_ms as f64 / 1000.0);
        }
        let waits = reports.values().find_map(|report| report.waits.as_ref());
        if let Some(waits) = waits {
            note_given_up(status, waits);
            note_vacant(status, waits);
        }
        status.repair = repair_status(counted, waits, status);
    }
}

/// Whether a node may have replicas; a record without roles has all.
fn is_meta(node: &meta::state::Node) -> bool {
    node.roles.is_empty() || node.roles.iter().any(|role| role == "meta")
}

/// Of the disks that answer: what is on the others, and whether it comes back, nobody knows.
fn capacity(disks: &[DiskStatus]) -> Capacity {
    let mut capacity = Capacity::default();
    for disk in disks.iter().filter(|disk| disk.answers()) {
        capacity.total_bytes += disk.total_bytes;
        capacity.used_bytes += disk.used_bytes.unwrap_or(0);
        capacity.free_bytes += disk.free_bytes.unwrap_or(0);
    }
    capacity
}

/// That no disk is given up, and why.
fn held_back(reports: &BTreeMap<NodeId, NodeReport>) -> Option<String> {
    let mut told = reports
        .iter()
        .filter_map(|(node, report)| Some((node, report.silence?)));
    let (node, SilenceReport { silent, disks }) = told.next()?;
    Some(format!(
        "{silent} of {disks} disks do not answer node {node}: so many that it takes none of them out of service"
    ))
}

fn waits_report(waits: &Waits) -> WaitsReport {
    let gives_up = waits
        .gives_up_in
        .iter()
        .map(|(disk, (left, away))| AwayReport {
            disk: disk.0,
            in_ms: millis(*left),
            missing: *away == Away::Missing,
        });
    WaitsReport {
        replaces_in_ms: waits.replaces_in.map(millis),
        gives_up: gives_up.collect(),
        held_back: waits.held_back,
        groups_done: waits.groups.0,
        groups: waits.groups.1,
        since_ms: waits.since.map(millis),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

pub(super) fn node_statuses(
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
                given_up_in_secs: None,
                version: report
                    .map(|report| report.version.clone())
                    .unwrap_or_default(),
                feature_level: report
                    .map_or(node.feature_level, |report| report.feature_level)
                    .max(1),
            }
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// What nodes have of the shards.
pub(super) type Replicas = Vec<(NodeId, Vec<meta::Replica>)>;

pub(super) fn shard_statuses(map: &meta::ClusterMap, replicas: &Replicas) -> Vec<ShardStatus> {
    let mut ids: BTreeSet<u32> = map.ranges.iter().map(|hint| hint.shard).collect();
    ids.insert(ShardId::ROOT.0);
    ids.into_iter()
        .map(|id| ShardStatus {
            ranges: range_starts(map, id),
            ..shard_status(id, replicas)
        })
        .collect()
}

fn range_starts(map: &meta::ClusterMap, shard: u32) -> Vec<RangeStart> {
    let own = map.ranges.iter().filter(|hint| hint.shard == shard);
    let own = own.filter_map(|hint| hint.range.as_ref());
    own.map(|range| RangeStart {
        bucket_id: range.start_bucket,
        key: String::from_utf8_lossy(&range.start_key).into_owned(),
    })
    .collect()
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
        wrong_clocks: replica
            .wrong_clocks
            .iter()
            .map(|clock| (clock.node, clock.ahead_ms))
            .collect(),
        ranges: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_why_silent_disks_are_not_given_up() {
        let report = |silence| NodeReport {
            silence,
            ..NodeReport::default()
        };
        let silence = SilenceReport {
            silent: 6,
            disks: 9,
        };
        let mut reports = BTreeMap::from([(NodeId(1), report(None))]);
        assert_eq!(held_back(&reports), None);
        reports.insert(NodeId(2), report(Some(silence)));
        let said = held_back(&reports).unwrap_or_default();
        assert!(
            said.starts_with("6 of 9 disks do not answer node 2"),
            "{said}"
        );
    }

    #[test]
    fn a_disk_that_does_not_answer_is_not_full() {
        let disk = |state: &str, used_bytes| DiskStatus {
            state: state.to_owned(),
            total_bytes: 100,
            used_bytes: Some(used_bytes),
            free_bytes: Some(100 - used_bytes),
            ..DiskStatus::default()
        };
        let disks = [
            disk("up", 10),
            disk("full", 99),
            disk("unknown", 100),
            disk("missing", 100),
            disk("removed", 100),
        ];
        let found = capacity(&disks);
        assert_eq!(
            (found.total_bytes, found.used_bytes, found.free_bytes),
            (200, 109, 91)
        );
    }
}
