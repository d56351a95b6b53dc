//! Invariant: two replicas of a shard at the same log index hold identical key spaces.
//!
//! All shards of a node share one store, and slabs are shared between a range and those split off
//! it. So the whole State spaces are compared, at a moment when every shard has applied the same
//! index on every node.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use granary_kv::{Direction, KvRead, MemoryKv, Space};
use granary_types::{NodeId, ShardId};

use super::eventually;
use crate::Cluster;
use crate::cluster::NODES;

/// How long a healed cluster may take until its replicas meet at one index.
const MEET_WITHIN: Duration = Duration::from_secs(120);
/// How often it is tried: replicas meet for moments only.
const LOOK_EVERY: Duration = Duration::from_millis(37);
/// Differences shown.
const SHOWN: usize = 8;

/// Compares the nodes' State spaces.
pub async fn check(cluster: &Cluster) {
    let met = eventually(cluster, MEET_WITHIN, LOOK_EVERY, || async {
        compare(cluster)
    });
    match met.await {
        Ok(()) => cluster.net().trace().count("replicas compared"),
        Err(wrong) => cluster.findings().report(format!("replicas: {wrong}")),
    }
}

/// Applied index by shard; `None` while the node is not up.
fn applied(cluster: &Cluster, node: NodeId) -> Option<BTreeMap<ShardId, Option<u64>>> {
    let raft = cluster.raft(node)?;
    Some(
        raft.groups()
            .iter()
            .map(|group| (group.shard(), group.last_applied()))
            .collect(),
    )
}

/// One synchronous step: nothing is applied while it runs.
fn compare(cluster: &Cluster) -> Result<(), String> {
    let mut indexes = NODES.iter().map(|node| (*node, applied(cluster, *node)));
    let Some((first, Some(expected))) = indexes.next() else {
        return Err("a node is not up".to_owned());
    };
    for (node, found) in indexes {
        if found.as_ref() != Some(&expected) {
            return Err(format!(
                "nodes {first} and {node} do not meet: {expected:?} against {found:?}"
            ));
        }
    }
    let rows = dump(&cluster.meta_store(first))?;
    for node in NODES.iter().skip(1) {
        let other = dump(&cluster.meta_store(*node))?;
        let differences = differences(&rows, &other);
        if !differences.is_empty() {
            // Same indexes, other rows: waiting does not help.
            cluster.findings().report(format!(
                "nodes {first} and {node} differ at the same indexes {expected:?}:\n  {}",
                differences.join("\n  ")
            ));
            return Ok(());
        }
    }
    Ok(())
}

fn dump(kv: &MemoryKv) -> Result<BTreeMap<Bytes, Bytes>, String> {
    kv.scan(Space::State, b"", None, Direction::Forward)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn differences(a: &BTreeMap<Bytes, Bytes>, b: &BTreeMap<Bytes, Bytes>) -> Vec<String> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let different = keys.filter(|key| a.get(*key) != b.get(*key));
    let shown = |row: Option<&Bytes>| row.map_or("nothing".to_owned(), hex::encode);
    different
        .take(SHOWN)
        .map(|key| {
            let slab = key
                .get(..4)
                .map_or(0, |s| u32::from_be_bytes([s[0], s[1], s[2], s[3]]));
            let kind = key.get(4).copied().unwrap_or_default();
            format!(
                "slab {slab} kind {kind} {}: {} against {}",
                hex::encode(key),
                shown(a.get(key)),
                shown(b.get(key))
            )
        })
        .collect()
}
