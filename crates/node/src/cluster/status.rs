//! What a cluster looks like: one definition for operators, programs and tests. Numbers that were
//! not counted are null, never 0.

use std::collections::BTreeMap;

use granary_cluster::PeerNode;
use granary_meta_api::pb;
use serde::{Deserialize, Serialize};

/// Where nodes are, from the cluster map of an epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Peers {
    pub(crate) epoch: u64,
    pub(crate) nodes: Vec<PeerNode>,
}

impl Peers {
    /// Those of a map.
    pub(crate) fn of(map: &pb::ClusterMap) -> Self {
        let nodes = map.nodes.iter().map(|node| PeerNode {
            node: node.id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            roles: node.roles.clone(),
            gateway: node.gateway.clone(),
            removed: node.removed,
        });
        Self {
            epoch: map.epoch,
            nodes: nodes.collect(),
        }
    }

    /// A map that says nothing but that.
    pub(crate) fn into_map(self) -> pb::ClusterMap {
        let nodes = self.nodes.into_iter().map(|node| pb::state::Node {
            id: node.node,
            address: node.address,
            zone: node.zone,
            roles: node.roles,
            gateway: node.gateway,
            removed: node.removed,
            ..Default::default()
        });
        pb::ClusterMap {
            epoch: self.epoch,
            nodes: nodes.collect(),
            ..Default::default()
        }
    }
}

/// The whole cluster, as one of its nodes sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterStatus {
    pub(crate) format: u32,
    pub(crate) cluster_id: String,
    pub(crate) region: String,
    /// What apply does, in the root. It rises when every metadata node applies more.
    pub(crate) feature_level: u64,
    /// `ok`, `degraded` or `unavailable`.
    pub(crate) health: String,
    /// Why it is not `ok`.
    pub(crate) problems: Vec<String>,
    pub(crate) zones: Vec<ZoneStatus>,
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) disks: Vec<DiskStatus>,
    pub(crate) shards: Vec<ShardStatus>,
    /// Voters that every shard should have, with the metadata nodes that were not given up; null from a
    /// node that has just started.
    pub(crate) voters_per_shard: Option<u64>,
    pub(crate) groups: GroupCounts,
    /// Chunks with fewer good copies than they should have.
    pub(crate) chunks_below_target: Option<u64>,
    /// Of those, chunks of which no disk that answers has a copy.
    pub(crate) chunks_lost: Option<u64>,
    /// Of those below, chunks whose zone has no disks for as many copies as LRS has elsewhere: no repair
    /// helps them.
    pub(crate) chunks_in_narrow_zones: Option<u64>,
    /// The first few owners of such chunks: names of buckets, or `backup` for the metadata's.
    pub(crate) owners_in_narrow_zones: Vec<String>,
    /// When the count began that the number is from, in seconds since the epoch.
    pub(crate) chunks_below_target_counted_at: Option<f64>,
    pub(crate) repair: RepairStatus,
    pub(crate) capacity: Capacity,
    /// Bytes of deleted chunks that compaction has not given back yet.
    pub(crate) reclaimable_bytes: Option<u64>,
    /// Entries in the deletion queues of all shards.
    pub(crate) deletions_queued: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ZoneStatus {
    pub(crate) id: String,
    pub(crate) nodes: Vec<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) id: u64,
    pub(crate) zone: String,
    pub(crate) address: String,
    pub(crate) roles: Vec<String>,
    /// `up`, `down` or `removed`.
    pub(crate) state: String,
    /// Seconds until the first of its disks is given up, unless it comes back; null while it is up.
    pub(crate) given_up_in_secs: Option<u64>,
    pub(crate) version: String,
    /// The newest feature level that it applies, as it says or has said at its last start; 1 for a
    /// version that does not tell.
    pub(crate) feature_level: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DiskStatus {
    pub(crate) id: u64,
    pub(crate) node: u64,
    pub(crate) zone: String,
    pub(crate) path: String,
    /// `up`, `full`, `failed`, `opening`, `missing`, `unknown`, `removed` or, gone and no longer needed because
    /// another disk has its directory, `replaced`.
    pub(crate) state: String,
    /// Seconds until it is given up, unless it comes back; null of one that is there, or waits for an
    /// operator.
    pub(crate) given_up_in_secs: Option<u64>,
    /// Of its file system, whoever uses it.
    pub(crate) total_bytes: u64,
    /// Null of a disk that does not say.
    pub(crate) used_bytes: Option<u64>,
    pub(crate) free_bytes: Option<u64>,
}

impl DiskStatus {
    /// Whether it says how full it is.
    pub(crate) fn answers(&self) -> bool {
        matches!(self.state.as_str(), "up" | "full")
    }

    /// False for a disk that nobody waits for.
    pub(crate) fn is_in_service(&self) -> bool {
        !matches!(self.state.as_str(), "removed" | "replaced")
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ShardStatus {
    /// 0 is the root.
    pub(crate) id: u32,
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    pub(crate) applied: u64,
    /// Entries that a member is behind its leader.
    pub(crate) lag: BTreeMap<u64, Option<u64>>,
    /// Voters whose clocks are far from those of the majority, and by how many milliseconds they are
    /// ahead: they lead nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) wrong_clocks: BTreeMap<u64, i64>,
    /// Where its ranges begin, as the root was told; each ends where the next one of any shard begins.
    pub(crate) ranges: Vec<RangeStart>,
}

/// The first position of a range.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RangeStart {
    pub(crate) bucket_id: u64,
    /// Empty for the bucket's beginning.
    pub(crate) key: String,
}

/// Placement groups by how they do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GroupCounts {
    /// Every member is complete and can be read.
    pub(crate) healthy: u64,
    /// A member is gone.
    pub(crate) degraded: u64,
    /// A member is gone, no disk can take its place, and no chunk lacks a copy for it.
    pub(crate) vacant: u64,
    /// A new member is being filled.
    pub(crate) backfilling: u64,
    /// No member can be read.
    pub(crate) unavailable: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RepairStatus {
    /// A comparison of all copies is under way.
    pub(crate) running: bool,
    /// `idle`, `waits` or `runs`: groups are being filled, or copies compared.
    pub(crate) state: String,
    /// What it waits for: the setting that says how long (`replace_after_secs`, `unreachable_out_secs`,
    /// `missing_out_secs`), the next `count` of all copies, `silence` of so many disks that none is given
    /// up, the `keeper` of the groups, whose node has not said anything yet, or `disks` that can take
    /// what is missing.
    pub(crate) waits_for: Option<String>,
    /// Seconds until then; null when nobody knows.
    pub(crate) waits_secs: Option<u64>,
    /// Groups that lacked a member and have it now, and all of them, since some did; 0 when none does.
    pub(crate) groups_filled: u64,
    pub(crate) groups_to_fill: u64,
    /// Groups that the present comparison is through with, and all of them.
    pub(crate) groups_done: u64,
    pub(crate) groups: u64,
    /// Chunks that it has compared, and about how many there are.
    pub(crate) chunks_done: u64,
    pub(crate) chunks: u64,
    /// Milliseconds since it began; null when none runs.
    pub(crate) running_ms: Option<u64>,
    /// Seconds until what it is at ends (groups are filled first, then copies compared) at the speed so
    /// far; null when that would be a guess.
    pub(crate) eta_secs: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capacity {
    pub(crate) total_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: u64,
}

/// What only a node itself knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeReport {
    pub(crate) node: u64,
    pub(crate) version: String,
    /// The newest one that this binary applies; 0 from a version that does not tell.
    pub(crate) feature_level: u64,
    pub(crate) workers: Vec<WorkerReport>,
    /// What the redundancy job counted, where it runs.
    pub(crate) redundancy: Option<RedundancyReport>,
    /// What does not answer it, where the placement keeper runs and gives up nobody for it.
    pub(crate) silence: Option<SilenceReport>,
    /// What it waits for, where the placement keeper runs.
    pub(crate) waits: Option<WaitsReport>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WaitsReport {
    /// Milliseconds until others may take the places of the first disk that is out.
    pub(crate) replaces_in_ms: Option<u64>,
    /// Disks in service that are away.
    pub(crate) gives_up: Vec<AwayReport>,
    /// So many are silent that none of them is taken out.
    pub(crate) held_back: bool,
    /// Groups that lacked something: done, and all.
    pub(crate) groups_done: u64,
    pub(crate) groups: u64,
    /// Milliseconds since there are some.
    pub(crate) since_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AwayReport {
    pub(crate) disk: u64,
    /// Milliseconds until it is given up.
    pub(crate) in_ms: u64,
    /// Its node answers without it.
    pub(crate) missing: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SilenceReport {
    /// Disks that cannot be asked, of all.
    pub(crate) silent: u64,
    pub(crate) disks: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WorkerReport {
    pub(crate) name: String,
    pub(crate) leads: bool,
    pub(crate) idle: bool,
    pub(crate) last_error: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RedundancyReport {
    pub(crate) current: bool,
    pub(crate) below_target: u64,
    pub(crate) lost: Option<u64>,
    pub(crate) narrow: Option<u64>,
    /// The first few buckets of such chunks.
    pub(crate) narrow_buckets: Vec<u64>,
    pub(crate) groups_unknown: u64,
    pub(crate) began_ms: u64,
    pub(crate) groups_done: u64,
    pub(crate) groups: u64,
    pub(crate) chunks_done: u64,
    pub(crate) chunks: u64,
    /// Milliseconds since the present comparison began.
    pub(crate) running_ms: Option<u64>,
    /// Milliseconds until the next one.
    pub(crate) begins_in_ms: Option<u64>,
}

impl RedundancyReport {
    /// True when the numbers hold for the cluster as it is now.
    pub(crate) fn is_settled(&self) -> bool {
        self.current && self.groups_unknown == 0
    }
}
