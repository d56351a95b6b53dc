//! Spreads the leaders of shards evenly over the nodes that vote, with as few transfers as it takes.

use std::collections::{BTreeMap, VecDeque};

use granary_types::{NodeId, ShardId};

use super::{MetaMember, ShardReplicas, VoterStep};

/// Transfers after which no node leads two shards more than another one, as far as the voters that
/// have caught up allow. Only shards in `resting` are moved.
pub(super) fn spread(
    nodes: &BTreeMap<NodeId, &MetaMember>,
    shards: &[ShardReplicas],
    resting: &[&ShardReplicas],
) -> Vec<VoterStep> {
    let able = |node: &NodeId| {
        let node = nodes.get(node);
        node.is_some_and(|node| !node.removed && node.reachable)
    };
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for shard in shards {
        for voter in shard.voters.iter().filter(|voter| able(voter)) {
            led.entry(*voter).or_default();
        }
    }
    for leader in shards.iter().filter_map(|shard| shard.leader) {
        *led.entry(leader).or_default() += 1;
    }
    let mut leaders: BTreeMap<ShardId, NodeId> = resting
        .iter()
        .filter_map(|shard| Some((shard.shard, shard.leader?)))
        .collect();
    while let Some(path) = improvement(&led, &leaders, resting, &able) {
        for (shard, from, to) in path {
            leaders.insert(shard, to);
            *led.entry(from).or_default() -= 1;
            *led.entry(to).or_default() += 1;
        }
    }
    let moved = resting.iter().filter_map(|shard| {
        let to = *leaders.get(&shard.shard)?;
        let shard = (shard.leader != Some(to)).then_some(shard.shard)?;
        Some(VoterStep::TransferLeader { shard, to })
    });
    moved.collect()
}

/// Moves along which a node that leads much gives one shard away, and one that leads two less or
/// fewer gets one; the nodes between them pass one on.
fn improvement(
    led: &BTreeMap<NodeId, usize>,
    leaders: &BTreeMap<ShardId, NodeId>,
    resting: &[&ShardReplicas],
    able: &dyn Fn(&NodeId) -> bool,
) -> Option<Vec<(ShardId, NodeId, NodeId)>> {
    let mut from: Vec<_> = led.iter().map(|(node, count)| (*count, *node)).collect();
    from.sort_unstable_by(|a, b| b.cmp(a));
    for (most, start) in from {
        let mut reached: BTreeMap<NodeId, (ShardId, NodeId)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for shard in resting {
                if leaders.get(&shard.shard) != Some(&node) {
                    continue;
                }
                let heirs = shard.voters.intersection(&shard.caught_up);
                for to in heirs.copied().filter(|to| able(to)) {
                    if to == start || reached.contains_key(&to) {
                        continue;
                    }
                    reached.insert(to, (shard.shard, node));
                    if led.get(&to).copied().unwrap_or(0) + 1 < most {
                        return Some(path_to(to, start, &reached));
                    }
                    queue.push_back(to);
                }
            }
        }
    }
    None
}

fn path_to(
    end: NodeId,
    start: NodeId,
    reached: &BTreeMap<NodeId, (ShardId, NodeId)>,
) -> Vec<(ShardId, NodeId, NodeId)> {
    let (mut path, mut at) = (Vec::new(), end);
    while at != start {
        let Some((shard, before)) = reached.get(&at).copied() else {
            break;
        };
        path.push((shard, before, at));
        at = before;
    }
    path
}
