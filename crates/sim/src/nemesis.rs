//! Faults from the seed, one after the other and overlapping, until the run says stop. Each undoes
//! itself; whatever is left is healed at the end.

use std::sync::Arc;
use std::time::Duration;

use granary_types::NodeId;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::Cluster;
use crate::cluster::NODES;
use crate::net::{Endpoint, LinkQuality};
use crate::scenario::{Stream, stream};
use crate::workload::FIRST_CLIENT;

/// Makes things go wrong until the run says stop.
pub async fn torment(cluster: Arc<Cluster>) {
    let Some(interval) = cluster.scenario().fault_interval else {
        return;
    };
    let mut rng = stream(cluster.scenario().seed, Stream::Nemesis, 0);
    loop {
        let pause = interval.mul_f64(rng.random_range(0.1..1.9));
        cluster.runtime().sleep(pause).await;
        if cluster.stopping() {
            return;
        }
        let lasts = Duration::from_millis(rng.random_range(50..9000));
        inflict(&cluster, &mut rng, lasts);
    }
}

fn any_node(rng: &mut StdRng) -> Endpoint {
    Endpoint(NODES[rng.random_range(0..NODES.len())].0)
}

fn everybody(cluster: &Cluster) -> Vec<Endpoint> {
    let clients = (0..cluster.scenario().clients).map(|number| Endpoint(FIRST_CLIENT + number));
    NODES
        .map(|node| Endpoint(node.0))
        .into_iter()
        .chain(clients)
        .collect()
}

fn inflict(cluster: &Arc<Cluster>, rng: &mut StdRng, lasts: Duration) {
    let (net, node) = (cluster.net(), any_node(rng));
    match rng.random_range(0..100) {
        0..30 => crash(cluster, vec![node], lasts),
        30..36 => {
            let spared = any_node(rng);
            let down = NODES.map(|node| Endpoint(node.0)).into_iter();
            crash(
                cluster,
                down.filter(|node| *node != spared).collect(),
                lasts,
            );
        }
        36..39 => {
            let all = NODES.map(|node| Endpoint(node.0)).to_vec();
            crash(cluster, all, lasts);
        }
        39..46 => isolate(cluster, node, everybody(cluster), lasts),
        // Its clients still reach it: a leader must not believe that it is one.
        46..54 => {
            let leaders = cluster.leaders();
            let node = leaders.get(rng.random_range(0..NODES.len())).copied();
            let peers = NODES.map(|other| Endpoint(other.0)).to_vec();
            // Long enough for the others to elect and serve.
            isolate(
                cluster,
                node.unwrap_or(any_node(rng)),
                peers,
                lasts + lasts / 2,
            );
        }
        54..62 => {
            let other = any_node(rng);
            net.trace().record("nemesis cut", &[node.0, other.0]);
            if other != node {
                net.block(node, other);
                net.block(other, node);
            }
            heal_later(cluster, node, lasts);
        }
        62..74 => one_way(cluster, node, rng.random_bool(0.5), lasts),
        74..84 => {
            net.trace().record("nemesis stall", &[node.0]);
            net.stall(node, lasts);
        }
        84..88 => {
            let to = any_node(rng);
            net.trace().record("nemesis hand-over", &[node.0, to.0]);
            cluster.hand_over(node, NodeId(to.0));
        }
        88..95 => {
            net.trace().record("nemesis degrade", &[node.0]);
            let quality = bad_quality(rng);
            for other in everybody(cluster)
                .into_iter()
                .filter(|other| *other != node)
            {
                net.degrade(node, other, quality);
                net.degrade(other, node, quality);
            }
            heal_later(cluster, node, lasts);
        }
        _ => {
            let jump_ms = rng.random_range(-3000..3000_i64);
            net.trace()
                .record("nemesis clock jump", &[node.0, jump_ms.unsigned_abs()]);
            cluster.set_clock_offset(node, jump_ms);
        }
    }
}

/// Cuts a node off from others, both ways.
fn isolate(cluster: &Arc<Cluster>, node: Endpoint, from: Vec<Endpoint>, lasts: Duration) {
    let net = cluster.net();
    net.trace()
        .record("nemesis isolate", &[node.0, from.len() as u64]);
    for other in from.into_iter().filter(|other| *other != node) {
        net.block(node, other);
        net.block(other, node);
    }
    heal_later(cluster, node, lasts);
}

/// A node that is heard but hears nothing, or the other way round.
fn one_way(cluster: &Arc<Cluster>, node: Endpoint, deaf: bool, lasts: Duration) {
    let label = if deaf { "nemesis deaf" } else { "nemesis mute" };
    cluster.net().trace().record(label, &[node.0]);
    for other in everybody(cluster)
        .into_iter()
        .filter(|other| *other != node)
    {
        match deaf {
            true => cluster.net().block(other, node),
            false => cluster.net().block(node, other),
        }
    }
    heal_later(cluster, node, lasts);
}

fn bad_quality(rng: &mut StdRng) -> LinkQuality {
    LinkQuality {
        latency_us: rng.random_range(100..100_000),
        jitter_us: rng.random_range(100..200_000),
        slow_per_mille: rng.random_range(0..300),
        slow_us: rng.random_range(1000..3_000_000),
        loss_per_mille: rng.random_range(0..300),
        duplicate_per_mille: rng.random_range(0..200),
    }
}

fn heal_later(cluster: &Arc<Cluster>, node: Endpoint, lasts: Duration) {
    let held = Arc::clone(cluster);
    cluster.runtime().spawn(async move {
        held.runtime().sleep(lasts).await;
        held.net().heal(node);
    });
}

/// Crashes nodes at once and starts each of them again, not at the same moment.
fn crash(cluster: &Arc<Cluster>, nodes: Vec<Endpoint>, lasts: Duration) {
    for (n, node) in nodes.into_iter().enumerate() {
        if !cluster.crash(node) {
            continue;
        }
        let held = Arc::clone(cluster);
        let lasts = lasts + Duration::from_millis(137 * n as u64);
        cluster.runtime().spawn(async move {
            held.runtime().sleep(lasts).await;
            held.start(node).await;
        });
    }
}
