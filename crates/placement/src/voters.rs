//! Which meta nodes vote in which shard: what there is in, the next steps out.
//!
//! A shard's voters change in one go: the new ones follow as learners until all of them have caught
//! up, then the whole set changes at once, so that it never has an even number on the way. What was
//! begun is gone on with, since learners show it; nothing is remembered between two plans.
//!
//! Invariants:
//! - a voter that is not removed leaves only for another one that has caught up;
//! - nothing moves but for a removed node, a missing voter, a zone without one, or a load that
//!   differs by more than one shard;
//! - a shard has at most one step at a time, and a node is new to at most one shard at a time.

mod leaders;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{NodeId, ShardId};

/// A node with the meta role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaMember {
    /// Identity.
    pub id: NodeId,
    /// Its zone.
    pub zone: String,
    /// Given up for good.
    pub removed: bool,
    /// It answers now. One that does not keeps what it has, and gets nothing new.
    pub reachable: bool,
}

/// A shard, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardReplicas {
    /// The shard.
    pub shard: ShardId,
    /// Who leads it; steps that need a leader wait for one.
    pub leader: Option<NodeId>,
    /// Who votes; while a change is under way those of both sets.
    pub voters: BTreeSet<NodeId>,
    /// Who only follows.
    pub learners: BTreeSet<NodeId>,
    /// A change of voters is under way.
    pub changing: bool,
    /// Nodes where a replica is open.
    pub open: BTreeSet<NodeId>,
    /// Members that have nearly all of the leader's log.
    pub caught_up: BTreeSet<NodeId>,
}

/// What to do next for a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterStep {
    /// Open a replica on a node.
    OpenReplica {
        /// The shard.
        shard: ShardId,
        /// Where.
        node: NodeId,
    },
    /// Let a node with an open replica follow.
    AddLearner {
        /// The shard.
        shard: ShardId,
        /// Who.
        node: NodeId,
    },
    /// Make these nodes the members.
    ChangeVoters {
        /// The shard.
        shard: ShardId,
        /// Voters from then on; nobody else is a member.
        voters: BTreeSet<NodeId>,
    },
    /// Hand the shard over.
    TransferLeader {
        /// The shard.
        shard: ShardId,
        /// To this voter.
        to: NodeId,
    },
}

impl VoterStep {
    /// The shard it is about.
    pub fn shard(&self) -> ShardId {
        match self {
            Self::OpenReplica { shard, .. }
            | Self::AddLearner { shard, .. }
            | Self::ChangeVoters { shard, .. }
            | Self::TransferLeader { shard, .. } => *shard,
        }
    }
}

/// The next steps that bring every shard to `wanted` voters (3 or 5), or to the largest odd number
/// that the nodes in service allow; none when all is well or has to be waited for.
///
/// A removed voter without a successor leaves only when an odd number of others is left: otherwise
/// its leaving would cost a healthy copy, or win nothing.
pub fn plan_voters(
    nodes: &[MetaMember],
    shards: &[ShardReplicas],
    wanted: usize,
) -> Vec<VoterStep> {
    if nodes.iter().all(|node| node.removed) {
        // A map without nodes is one that has just begun: nothing can be said yet.
        return Vec::new();
    }
    let mut plan = Plan::new(nodes, wanted);
    let mut order: Vec<&ShardReplicas> = shards.iter().collect();
    // Those that have begun come first: they go on with the nodes they have.
    order.sort_by_key(|shard| (shard.learners.is_empty(), shard.shard));
    for shard in &order {
        for learner in &shard.learners {
            plan.joining.entry(*learner).or_insert(shard.shard);
        }
    }
    let goals: Vec<_> = plan.goals(&order);
    let mut steps = Vec::new();
    for (shard, goal) in order.into_iter().zip(goals) {
        steps.extend(plan.next_step(shard, &goal));
    }
    let stepping: BTreeSet<ShardId> = steps.iter().map(VoterStep::shard).collect();
    let resting = shards
        .iter()
        .filter(|shard| !stepping.contains(&shard.shard));
    let resting: Vec<&ShardReplicas> = resting.filter(|shard| !shard.changing).collect();
    steps.extend(leaders::spread(&plan.nodes, shards, &resting));
    steps
}

/// The voters that a shard should have with so many meta nodes in service: an odd number.
pub fn voters_possible(nodes: usize, wanted: usize) -> usize {
    wanted.min(nodes.saturating_sub(usize::from(nodes.is_multiple_of(2))))
}

struct Plan<'a> {
    nodes: BTreeMap<NodeId, &'a MetaMember>,
    /// Voters a shard should have, when there are nodes enough and as things are.
    wanted: usize,
    size: usize,
    /// Shards that each node in service votes in, as planned so far.
    load: BTreeMap<NodeId, usize>,
    /// Which shard a node is becoming a member of.
    joining: BTreeMap<NodeId, ShardId>,
}

impl<'a> Plan<'a> {
    fn new(nodes: &'a [MetaMember], wanted: usize) -> Self {
        let in_service = nodes.iter().filter(|node| !node.removed);
        Self {
            nodes: nodes.iter().map(|node| (node.id, node)).collect(),
            wanted,
            size: voters_possible(in_service.clone().count(), wanted),
            load: in_service.map(|node| (node.id, 0)).collect(),
            joining: BTreeMap::new(),
        }
    }

    /// A voter that the map does not name yet counts: only an operator takes a node out of service.
    fn in_service(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_none_or(|node| !node.removed)
    }

    fn usable(&self, id: NodeId) -> bool {
        let node = self.nodes.get(&id);
        node.is_some_and(|node| !node.removed && node.reachable)
    }

    fn zone(&self, id: NodeId) -> &'a str {
        self.nodes.get(&id).map_or("", |node| node.zone.as_str())
    }

    fn zones(&self, voters: &BTreeSet<NodeId>) -> usize {
        let zones: BTreeSet<&str> = voters.iter().map(|node| self.zone(*node)).collect();
        zones.len()
    }

    fn load(&self, id: NodeId) -> usize {
        self.load.get(&id).copied().unwrap_or(0)
    }

    fn count(&mut self, voters: &BTreeSet<NodeId>) {
        for voter in voters {
            if let Some(load) = self.load.get_mut(voter) {
                *load += 1;
            }
        }
    }

    fn uncount(&mut self, voters: &BTreeSet<NodeId>) {
        for voter in voters {
            if let Some(load) = self.load.get_mut(voter) {
                *load = load.saturating_sub(1);
            }
        }
    }

    /// Who should vote in each shard.
    fn goals(&mut self, shards: &[&ShardReplicas]) -> Vec<BTreeSet<NodeId>> {
        for shard in shards {
            self.count(&shard.voters);
        }
        let mut goals = Vec::with_capacity(shards.len());
        for shard in shards {
            self.uncount(&shard.voters);
            let goal = self.filled(shard);
            self.count(&goal);
            goals.push(goal);
        }
        // Only now, when every load is known: one exchange of a shard at a time.
        for (shard, goal) in shards.iter().zip(&mut goals) {
            let whole = goal == &shard.voters && !shard.changing;
            if whole && let Some(better) = self.exchanged(shard, goal) {
                self.uncount(goal);
                self.count(&better);
                *goal = better;
            }
        }
        goals
    }

    /// The voters that stay, and new ones for those that are missing.
    fn filled(&self, shard: &ShardReplicas) -> BTreeSet<NodeId> {
        let stay = shard.voters.iter().copied();
        let mut goal: BTreeSet<NodeId> = stay.filter(|node| self.in_service(*node)).collect();
        let lost = shard.voters.len() - goal.len();
        if shard.changing {
            self.drop_surplus(shard, &mut goal, lost);
        }
        // Whoever votes goes on voting; so does a larger number that somebody asked for once.
        let size = if lost == 0 {
            self.size.max(goal.len())
        } else {
            self.size
        };
        while goal.len() < size {
            let new = self.nodes.keys().filter(|node| self.usable(**node));
            let new = new.filter(|node| !goal.contains(*node));
            let used: BTreeSet<&str> = goal.iter().map(|node| self.zone(*node)).collect();
            let best = new.min_by_key(|node| {
                let begun = shard.learners.contains(*node);
                (
                    used.contains(self.zone(**node)),
                    !begun,
                    self.load(**node),
                    **node,
                )
            });
            let Some(best) = best else { break };
            goal.insert(*best);
        }
        let even = goal.len().is_multiple_of(2);
        if goal.is_empty() || (even && goal.len() < size) || (even && lost > 0) {
            return self.patched(shard, goal);
        }
        goal
    }

    /// A change that was left half done shows both sets: as many stay as should be there, and an odd
    /// number.
    fn drop_surplus(&self, shard: &ShardReplicas, goal: &mut BTreeSet<NodeId>, lost: usize) {
        while goal.len() > self.wanted || (lost == 0 && goal.len().is_multiple_of(2)) {
            let worst = goal.iter().copied().max_by_key(|node| {
                let mut rest = goal.clone();
                rest.remove(node);
                let lags = !shard.caught_up.contains(node);
                let leads = shard.leader == Some(*node);
                (lags, self.zones(&rest), !leads, self.load(*node), *node)
            });
            let Some(worst) = worst else { return };
            goal.remove(&worst);
        }
    }

    /// When not enough nodes are there: successors for as many removed voters as possible, and the
    /// rest stays.
    fn patched(&self, shard: &ShardReplicas, goal: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut removed = shard.voters.iter().filter(|node| !self.in_service(**node));
        let mut patched = goal;
        while patched.len() < shard.voters.len() && patched.len().is_multiple_of(2) {
            let Some(back) = removed.next() else { break };
            patched.insert(*back);
        }
        if patched.len().is_multiple_of(2) {
            shard.voters.clone()
        } else {
            patched
        }
    }

    /// A set with one voter exchanged for another node that is better: in more zones, or in as many
    /// with a more even load.
    fn exchanged(
        &self,
        shard: &ShardReplicas,
        voters: &BTreeSet<NodeId>,
    ) -> Option<BTreeSet<NodeId>> {
        // While a voter is away or behind, the others stay where they are.
        if !voters.is_subset(&shard.caught_up) || !voters.iter().all(|node| self.usable(*node)) {
            return None;
        }
        // A sole voter gets company some time; until then its place does not matter.
        if voters.len() == 1 && self.wanted > 1 {
            return None;
        }
        let zones = self.zones(voters);
        let new = self.nodes.keys().copied().filter(|node| self.usable(*node));
        let mut best = None;
        for to in new.filter(|node| !voters.contains(node)) {
            for from in voters.iter().copied() {
                let mut set = voters.clone();
                set.remove(&from);
                set.insert(to);
                let (before, after) = (self.load(from), self.load(to));
                let spread = self.zones(&set);
                let better = spread > zones || (spread == zones && before > after + 1);
                let begun = shard.learners.contains(&to);
                let leads = shard.leader == Some(from);
                let gain = before.saturating_sub(after);
                let rank = (spread, begun, gain, !leads, std::cmp::Reverse((to, from)));
                if better && best.as_ref().is_none_or(|(known, _)| *known < rank) {
                    best = Some((rank, set));
                }
            }
        }
        best.map(|(_, set)| set)
    }

    /// What brings a shard nearer to its goal.
    fn next_step(&mut self, shard: &ShardReplicas, goal: &BTreeSet<NodeId>) -> Option<VoterStep> {
        let id = shard.shard;
        let closed = goal.iter().copied().find(|node| {
            shard.voters.contains(node) && !shard.open.contains(node) && self.usable(*node)
        });
        if let Some(node) = closed {
            // It votes, but never opened its replica.
            return Some(VoterStep::OpenReplica { shard: id, node });
        }
        let leader = shard.leader?;
        let new: Vec<NodeId> = goal.difference(&shard.voters).copied().collect();
        for node in &new {
            let joins = *self.joining.entry(*node).or_insert(id);
            if joins != id && !shard.learners.contains(node) {
                // Whoever waits holds nobody else up.
                let strays = !shard.learners.is_subset(goal) && !shard.changing;
                return strays.then(|| VoterStep::ChangeVoters {
                    shard: id,
                    voters: shard.voters.clone(),
                });
            }
        }
        for node in new.iter().copied() {
            if !shard.open.contains(&node) {
                return Some(VoterStep::OpenReplica { shard: id, node });
            }
            if !shard.learners.contains(&node) {
                return Some(VoterStep::AddLearner { shard: id, node });
            }
        }
        if new.iter().any(|node| !shard.caught_up.contains(node)) {
            return None;
        }
        if *goal == shard.voters && !shard.changing && shard.learners.is_empty() {
            return None;
        }
        if !goal.contains(&leader) {
            // Whoever leaves hands over first, where somebody can take over.
            let heirs = goal.iter().copied();
            let mut heirs = heirs.filter(|node| {
                shard.voters.contains(node) && shard.caught_up.contains(node) && self.usable(*node)
            });
            if let Some(to) = heirs.next() {
                return Some(VoterStep::TransferLeader { shard: id, to });
            }
        }
        Some(VoterStep::ChangeVoters {
            shard: id,
            voters: goal.clone(),
        })
    }
}
