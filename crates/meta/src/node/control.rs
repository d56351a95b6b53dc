//! What whoever keeps the members of the shards asks of this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::{MetaControl, MetaError, pb};
use granary_raft::{GroupMetrics, RaftError};
use granary_types::{NodeId, ShardId, SlabId};

use super::{MetaNode, MetaNodeError, Shard};
use crate::apply::FEATURE_LEVEL;

/// Longest wait for the entry that adds a learner, and for a change of voters.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for another voter to take over.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);
/// How long a node that stops waits for the first voter that is to take over: it takes a round trip and
/// two syncs, and writes wait meanwhile. A request that was lost is not repeated by anybody else.
const HAND_OVER_FIRST: Duration = Duration::from_millis(300);
/// The longest wait for one voter, when disks are slow.
const HAND_OVER_LONGEST: Duration = Duration::from_secs(1);
/// Entries a learner may lack when it is made a voter: it gets them in one or two messages.
const LAG_ENTRIES_MAX: u64 = 1000;

#[async_trait]
impl MetaControl for MetaNode {
    async fn list_replicas(&self) -> Result<Vec<pb::Replica>, MetaError> {
        self.serving()?;
        if self.leaving.load(Ordering::Relaxed) {
            // Whoever spreads the leaders would give it back what it hands over.
            return Err(MetaError::Unavailable("the node is stopping".to_owned()));
        }
        let shards: Vec<Arc<Shard>> = self.shards.read().values().cloned().collect();
        Ok(shards.iter().map(|shard| replica(shard)).collect())
    }

    async fn feature_level(&self) -> Result<u64, MetaError> {
        self.serving()?;
        Ok(FEATURE_LEVEL)
    }

    async fn open_replica(&self, shard: ShardId, home: SlabId) -> Result<(), MetaError> {
        self.serving()?;
        if home.0 == 0 && shard != ShardId::ROOT {
            return Err(MetaError::Invalid("no home slab".to_owned()));
        }
        if self.opening.lock().contains(&shard) {
            let why = "the replica is being opened or closed";
            return Err(MetaError::Unavailable(why.to_owned()));
        }
        if let Some(open) = self.shard(shard) {
            let same = open.machine.home() == home;
            let other = || MetaError::Invalid(format!("{shard} has another home slab"));
            return same.then_some(()).ok_or_else(other);
        }
        let taken = |open: &Arc<Shard>| open.machine.home() == home;
        if self.shards.read().values().any(taken) {
            let why = format!("slab {home} is another shard's");
            return Err(MetaError::Invalid(why));
        }
        let stopping = || MetaError::Unavailable("the node is stopping".to_owned());
        let meta = self.this.upgrade().ok_or_else(stopping)?;
        let opened = meta.open_shard(shard, home).await;
        opened.map_err(|error| match error {
            MetaNodeError::Raft(error) => raft_error(shard, error),
            MetaNodeError::Meta(error) => error,
            MetaNodeError::Cancelled | MetaNodeError::NotReady(_) => stopping(),
            MetaNodeError::State(_)
            | MetaNodeError::NotFormed(_)
            | MetaNodeError::TooOld { .. } => MetaError::Internal(error.to_string()),
        })
    }

    async fn add_learner(&self, shard: ShardId, node: NodeId) -> Result<(), MetaError> {
        let led = self.led(shard)?;
        let members = led.group.members();
        if members.voters.contains(&node) || members.learners.contains(&node) {
            return Ok(());
        }
        let added = led.group.admit_learner(node, CHANGE_LIMIT).await;
        added.map_err(|error| raft_error(shard, error))
    }

    async fn change_voters(&self, shard: ShardId, voters: &[NodeId]) -> Result<(), MetaError> {
        let led = self.led(shard)?;
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        if voters.is_empty() {
            return Err(MetaError::Invalid("no voters".to_owned()));
        }
        let metrics = led.group.metrics();
        may_vote(&metrics, &voters)?;
        let voters: Vec<NodeId> = voters.into_iter().collect();
        if metrics.members.changing || metrics.members.voters != voters {
            let changed = led.group.change_membership(&voters, CHANGE_LIMIT).await;
            changed.map_err(|error| raft_error(shard, error))?;
        }
        if !voters.contains(&self.node) {
            // It leads no more; its successor lets the learners go when it is asked again.
            return Ok(());
        }
        let dismissed = led.group.dismiss_learners(CHANGE_LIMIT).await;
        dismissed.map_err(|error| raft_error(shard, error))
    }

    async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), MetaError> {
        let replica = self.find(shard)?;
        if to != self.node && replica.group.leader() == Some(to) {
            return Ok(());
        }
        let led = self.led(shard)?;
        if to == self.node {
            return Ok(());
        }
        if !led.group.members().voters.contains(&to) {
            return Err(MetaError::Invalid(format!("node {to} does not vote")));
        }
        if led.group.has_wrong_clock(to) {
            // It would hand over itself at once.
            let why = format!("the clock of node {to} is far from those of the others");
            return Err(MetaError::Unavailable(why));
        }
        let handed = led.group.hand_over(to, TRANSFER_LIMIT).await;
        handed.map_err(|error| raft_error(shard, error))?;
        // Its outcome is who leads, which is asked for next.
        let _ = led.group.wait_ready(TRANSFER_LIMIT).await;
        match led.group.leader() {
            Some(leader) if leader == to => Ok(()),
            leader => {
                let why = format!("node {to} was to lead, and now {leader:?} does");
                Err(MetaError::Unavailable(why))
            }
        }
    }
}

impl MetaNode {
    /// A shard that this node leads.
    fn led(&self, shard: ShardId) -> Result<Arc<Shard>, MetaError> {
        let found = self.find(shard)?;
        if found.group.is_leader() {
            return Ok(found);
        }
        let leader = found.group.leader().filter(|leader| *leader != self.node);
        Err(MetaError::NotLeader { shard, leader })
    }

    /// Hands every shard that this node leads over to the voter that has most of its log, so that
    /// the node can stop without anybody waiting for an election. Ends within `limit`; answers how
    /// many shards it leads still, those without another voter left out.
    pub async fn hand_over(&self, limit: Duration) -> usize {
        let deadline = self.runtime.monotonic() + limit;
        self.leaving.store(true, Ordering::Relaxed);
        let shards: Vec<Arc<Shard>> = self.shards.read().values().cloned().collect();
        for shard in &shards {
            shard.group.leave();
        }
        let handing = shards
            .iter()
            .map(|shard| self.hand_over_one(shard, deadline));
        let handed = futures_util::future::join_all(handing).await;
        handed.into_iter().filter(|handed| !handed).count()
    }

    /// True when this node does not lead the shard any more, or nobody else can.
    async fn hand_over_one(&self, shard: &Shard, deadline: Duration) -> bool {
        let mut tried = BTreeSet::new();
        let mut patience = HAND_OVER_FIRST;
        // Also while it has been elected and does not serve yet.
        while shard.group.leader() == Some(self.node) {
            let left = deadline.saturating_sub(self.runtime.monotonic());
            if left.is_zero() {
                return false;
            }
            let metrics = shard.group.metrics();
            let others = metrics.members.voters.iter().copied();
            let others: Vec<NodeId> = others.filter(|node| *node != self.node).collect();
            let untried = others.iter().filter(|node| !tried.contains(*node));
            let matched = |node: &&NodeId| metrics.matched.get(*node).copied().flatten();
            let Some(to) = untried.max_by_key(matched).copied() else {
                if others.is_empty() {
                    return true;
                }
                // Once more from the best one: it may have caught up meanwhile.
                tried.clear();
                self.runtime
                    .sleep(left.min(Duration::from_millis(100)))
                    .await;
                continue;
            };
            tried.insert(to);
            let limit = left.min(patience);
            patience = (patience * 2).min(HAND_OVER_LONGEST);
            if let Err(error) = shard.group.hand_over(to, limit).await {
                tracing::debug!(shard = shard.group.shard().0, %to, %error, "not handed over");
            }
        }
        true
    }
}

/// Whether every one of these votes already, or is a learner that has nearly everything.
fn may_vote(metrics: &GroupMetrics, voters: &BTreeSet<NodeId>) -> Result<(), MetaError> {
    let members = &metrics.members;
    for node in voters.iter().filter(|node| !members.voters.contains(node)) {
        if !members.learners.contains(node) {
            return Err(MetaError::Invalid(format!("node {node} is no learner")));
        }
        let matched = metrics.matched.get(node).copied().flatten();
        let last = metrics.last_index.unwrap_or_default();
        if matched.is_none_or(|matched| matched + LAG_ENTRIES_MAX < last) {
            let why = format!("node {node} has not caught up yet");
            return Err(MetaError::Unavailable(why));
        }
    }
    Ok(())
}

fn replica(shard: &Shard) -> pb::Replica {
    let metrics = shard.group.metrics();
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let (matched, wrong) = (metrics.matched.iter(), metrics.wrong_clocks.iter());
    pb::Replica {
        shard: metrics.shard.0,
        home_slab: shard.machine.home().0,
        term: metrics.term,
        leader: metrics.leader.map_or(0, |node| node.0),
        last_log: metrics.last_index.unwrap_or_default(),
        last_applied: metrics.applied_index.unwrap_or_default(),
        applied_ms: shard.group.applied_time_ms(),
        voters: ids(&metrics.members.voters),
        learners: ids(&metrics.members.learners),
        changing: metrics.members.changing,
        followers: matched
            .filter_map(|(node, matched)| {
                let matched = (*matched)?;
                Some(pb::Follower {
                    node: node.0,
                    matched,
                })
            })
            .collect(),
        healthy: metrics.healthy,
        without_quorum: metrics.without_quorum,
        wrong_clocks: wrong
            .map(|(node, ahead_ms)| pb::WrongClock {
                node: node.0,
                ahead_ms: *ahead_ms,
            })
            .collect(),
    }
}

fn raft_error(shard: ShardId, error: RaftError) -> MetaError {
    match error {
        RaftError::NotLeader(error) => MetaError::NotLeader {
            shard,
            leader: error.leader,
        },
        RaftError::UnknownShard(shard) => MetaError::WrongShard(shard),
        RaftError::NotNow(_)
        | RaftError::AlreadyOpen(_)
        | RaftError::Membership(_)
        | RaftError::Stopped(_) => MetaError::Unavailable(error.to_string()),
        RaftError::Malformed(_) => MetaError::Invalid(error.to_string()),
        RaftError::Config(_)
        | RaftError::Kv(_)
        | RaftError::CorruptLog { .. }
        | RaftError::StateMachine(_) => MetaError::Internal(error.to_string()),
    }
}
