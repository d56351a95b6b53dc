//! The way to the metadata service in a cluster: whichever node leads a shard, this process's own
//! without a network between.
//!
//! It neither retries nor reads the map: [`granary_meta_api::Meta`] above does. One call is one
//! attempt at one node in bounded time; what it learns (leaders, silent nodes) decides where the
//! next attempt goes. Nothing is held while a call is under way, so a node that is cut off holds
//! up nobody else's call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::wire::GrpcMeta;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_runtime::{Runtime, within};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;

use crate::{Lane, Links};

/// Longest time for one attempt, unless set otherwise.
const ATTEMPT_DEFAULT: Duration = Duration::from_secs(2);
/// How long a node that has just not answered is left alone, if others can be asked.
const REST_FIRST: Duration = Duration::from_millis(500);
/// The same after another attempt that it did not answer.
const REST: Duration = Duration::from_secs(1);
const META_ROLE: &str = "meta";

/// The way to the metadata service.
pub struct MetaRouter {
    runtime: Runtime,
    links: Arc<Links>,
    local: Option<(NodeId, Arc<dyn MetaService>)>,
    attempt: Duration,
    known: Mutex<Known>,
}

impl std::fmt::Debug for MetaRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaRouter").finish_non_exhaustive()
    }
}

/// Bounded by the shards asked for and the nodes of the book.
#[derive(Default)]
struct Known {
    voters: BTreeMap<ShardId, Vec<NodeId>>,
    leaders: BTreeMap<ShardId, NodeId>,
    /// How many candidates in a row could not help.
    turns: BTreeMap<ShardId, usize>,
    /// Nodes that did not answer, and when one attempt may be made at them again: one at a time, so
    /// that a node that is gone without a word holds up few, and one that was slow is back at once.
    suspects: BTreeMap<NodeId, Duration>,
}

impl MetaRouter {
    /// A way over `links`; `local` is this process's own service, if it has the role.
    pub fn new(runtime: Runtime, links: Arc<Links>, local: Option<Arc<dyn MetaService>>) -> Self {
        let node = links.security().local_node();
        Self {
            runtime,
            local: node.zip(local),
            links,
            attempt: ATTEMPT_DEFAULT,
            known: Mutex::default(),
        }
    }

    /// The same way with another bound for one attempt.
    #[must_use]
    pub fn with_attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    /// Takes over which nodes have which shards. It is a hint: nothing depends on it being new.
    pub fn learn_map(&self, map: &pb::ClusterMap) {
        if map.unchanged || map.ranges.is_empty() {
            return;
        }
        let mut voters: BTreeMap<ShardId, Vec<NodeId>> = BTreeMap::new();
        for hint in map.ranges.iter().filter(|hint| !hint.voters.is_empty()) {
            let nodes = hint.voters.iter().copied().map(NodeId).collect();
            voters.insert(ShardId(hint.shard), nodes);
        }
        self.known.lock().voters = voters;
    }

    /// The node that leads a shard as far as is known.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.known.lock().leaders.get(&shard).copied()
    }

    fn reachable(&self, node: NodeId) -> bool {
        let local = self.local.as_ref().is_some_and(|(local, _)| *local == node);
        local || self.links.book().address(node).is_some()
    }

    /// Where the next attempt goes.
    fn pick(&self, shard: ShardId) -> Option<NodeId> {
        let others = self.links.book().with_role(META_ROLE);
        let now = self.runtime.monotonic();
        let mut known = self.known.lock();
        let leader = known.leaders.get(&shard).copied();
        if let Some(leader) = leader.filter(|leader| self.reachable(*leader))
            && known.may_ask(leader, now, self.attempt)
        {
            return Some(leader);
        }
        let mut candidates = known.voters.get(&shard).cloned().unwrap_or_default();
        candidates.retain(|node| self.reachable(*node));
        if let Some((local, _)) = &self.local {
            // Those that are near first, but only among those that have the shard.
            if candidates.is_empty() {
                candidates.push(*local);
            }
            candidates.sort_by_key(|node| node != local);
        }
        for node in others {
            if !candidates.contains(&node) {
                candidates.push(node);
            }
        }
        if candidates.is_empty() {
            return None;
        }
        let turn = known.turns.get(&shard).copied().unwrap_or(0) % candidates.len();
        candidates.rotate_left(turn);
        // Suspects come to their turn as well when they have rested: those that answer may not have
        // the shard, this process least of all.
        let mut tried = candidates.iter().copied();
        tried
            .find(|node| known.may_ask(*node, now, self.attempt))
            .or(candidates.first().copied())
    }

    fn learn<T>(&self, shard: ShardId, asked: NodeId, outcome: &Result<T, MetaError>) {
        let now = self.runtime.monotonic();
        let mut known = self.known.lock();
        match outcome {
            Ok(_) | Err(MetaError::Busy(_) | MetaError::Late { .. } | MetaError::NoSpace(_)) => {
                known.leaders.insert(shard, asked);
                known.turns.remove(&shard);
                known.suspects.remove(&asked);
            }
            Err(MetaError::NotLeader { leader, .. }) => {
                known.suspects.remove(&asked);
                // A follower names the leader it last heard of, dead or not.
                match leader.filter(|leader| *leader != asked) {
                    Some(leader) if known.suspects.contains_key(&leader) => {
                        // Another call may have learnt of a newer one meanwhile.
                        let better = known.leaders.get(&shard).is_some_and(|other| {
                            *other != asked && !known.suspects.contains_key(other)
                        });
                        if !better {
                            known.leaders.insert(shard, leader);
                            known.next_candidate(shard);
                        }
                    }
                    Some(leader) => {
                        known.leaders.insert(shard, leader);
                    }
                    None => known.move_on(shard, asked),
                }
            }
            Err(MetaError::WrongShard(_)) => known.move_on(shard, asked),
            Err(MetaError::Unavailable(_) | MetaError::UnknownOutcome(_)) => {
                known.suspect(asked, now);
                known.move_on(shard, asked);
            }
            Err(MetaError::Expired(_) | MetaError::Invalid(_) | MetaError::Internal(_)) => {}
        }
    }

    fn service(&self, shard: ShardId) -> Result<(NodeId, Arc<dyn MetaService>), MetaError> {
        let unknown = || MetaError::Unavailable("no metadata node is known".to_owned());
        let node = self.pick(shard).ok_or_else(unknown)?;
        if let Some((local, service)) = &self.local
            && *local == node
        {
            return Ok((node, Arc::clone(service)));
        }
        let channel = self.links.channel(node, Lane::Meta).ok_or_else(unknown)?;
        Ok((node, Arc::new(GrpcMeta::new(channel))))
    }

    fn silent(&self, node: NodeId) -> String {
        format!("node {node} did not answer within {:?}", self.attempt)
    }
}

impl Known {
    fn move_on(&mut self, shard: ShardId, asked: NodeId) {
        // Another call may have learnt of a leader meanwhile.
        if self.leaders.get(&shard) == Some(&asked) {
            self.leaders.remove(&shard);
        }
        self.next_candidate(shard);
    }

    /// Whether a node may be asked now; a suspect may be once, and then not for a while.
    fn may_ask(&mut self, node: NodeId, now: Duration, attempt: Duration) -> bool {
        match self.suspects.get_mut(&node) {
            None => true,
            Some(at) if *at <= now => {
                *at = now + attempt;
                true
            }
            Some(_) => false,
        }
    }

    fn suspect(&mut self, node: NodeId, now: Duration) {
        let at = match self.suspects.get(&node) {
            None => now + REST_FIRST,
            // Others that waited for the same node: they count as one.
            Some(at) if *at > now => (now + REST).min(*at),
            Some(_) => now + REST,
        };
        self.suspects.insert(node, at);
    }

    fn next_candidate(&mut self, shard: ShardId) {
        let turn = self.turns.entry(shard).or_default();
        *turn = turn.wrapping_add(1);
    }
}

#[async_trait]
impl MetaService for MetaRouter {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let (node, service) = self.service(shard)?;
        let outcome = match within(self.attempt, service.propose(shard, command)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(MetaError::UnknownOutcome(self.silent(node))),
        };
        self.learn(shard, node, &outcome);
        outcome
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let (node, service) = self.service(shard)?;
        let outcome = match within(self.attempt, service.query(shard, query)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(MetaError::Unavailable(self.silent(node))),
        };
        self.learn(shard, node, &outcome);
        outcome
    }
}

#[cfg(test)]
mod tests;
