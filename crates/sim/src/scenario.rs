//! What a seed makes of the cluster: its size, its links, its settings and how much goes wrong.

use std::time::Duration;

use granary_raft::RaftConfig;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::net::LinkQuality;

/// Everything about a run that is decided before it starts.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of everything.
    pub seed: u64,
    /// Disks of each node.
    pub disks_per_node: u64,
    /// Gateways with a client each.
    pub clients: u64,
    /// How long the clients work.
    pub workload: Duration,
    /// Links while nothing is wrong with them.
    pub quality: LinkQuality,
    /// Pause between two faults; `None`: a calm run.
    pub fault_interval: Option<Duration>,
    /// Settings of the Raft groups.
    pub raft: RaftConfig,
    /// Ranges that the operator splits during the run.
    pub splits: u32,
    /// Bytes from which on a range is split by itself; 0: none is.
    pub split_bytes: u64,
    /// How long a gateway tries one request to the metadata service.
    pub meta_deadline: Duration,
    /// How long it waits for one answer before it asks another node.
    pub meta_attempt: Duration,
    /// How far apart the nodes' clocks are at most, in milliseconds.
    pub clock_skew_ms: u64,
}

/// Which of the seed's streams of numbers; adding one leaves the others as they are.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// The scenario itself.
    Scenario = 1,
    /// The network.
    Network,
    /// The nemesis.
    Nemesis,
    /// The operator: buckets and splits.
    Operator,
    /// Crashes: what disks keep.
    Crash,
    /// Clients, one stream each.
    Client = 1000,
    /// Entropy of nodes and gateways, one stream per life.
    Life = 1_000_000,
}

/// The seed of one stream.
pub fn stream_seed(seed: u64, stream: Stream, number: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(
        (stream as u64)
            .wrapping_add(number)
            .wrapping_mul(0xd1b5_4a32_d192_ed03),
    );
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The generator of one stream.
pub fn stream(seed: u64, stream: Stream, number: u64) -> StdRng {
    StdRng::seed_from_u64(stream_seed(seed, stream, number))
}

impl Scenario {
    /// What a seed makes of the cluster.
    pub fn of(seed: u64) -> Self {
        let rng = &mut stream(seed, Stream::Scenario, 0);
        let far = rng.random_bool(0.3);
        let quality = LinkQuality {
            latency_us: rng.random_range(50..if far { 20_000 } else { 800 }),
            jitter_us: rng.random_range(10..if far { 20_000 } else { 2000 }),
            slow_per_mille: rng.random_range(0..20),
            slow_us: rng.random_range(1000..300_000),
            loss_per_mille: if rng.random_bool(0.5) {
                rng.random_range(0..15)
            } else {
                0
            },
            duplicate_per_mille: if rng.random_bool(0.7) {
                rng.random_range(0..40)
            } else {
                0
            },
        };
        // A tenth of the seeds is calm: what fails there needs no fault to fail.
        let calm = rng.random_bool(0.1);
        // Short logs make restarted nodes catch up by snapshot.
        let short_logs = rng.random_bool(0.5);
        let keep_entries = if short_logs {
            rng.random_range(20..60)
        } else {
            5000
        };
        Self {
            seed,
            disks_per_node: rng.random_range(1..=2),
            clients: rng.random_range(2..=4),
            workload: Duration::from_secs(rng.random_range(30..70)),
            quality,
            fault_interval: (!calm).then(|| Duration::from_millis(rng.random_range(800..5000))),
            raft: RaftConfig {
                snapshot_every_entries: keep_entries,
                keep_entries: keep_entries / 2,
                lag_entries: keep_entries,
                ..RaftConfig::default()
            },
            splits: rng.random_range(0..=2),
            meta_deadline: Duration::from_millis(rng.random_range(1500..10_000)),
            meta_attempt: Duration::from_millis(rng.random_range(500..3000)),
            clock_skew_ms: rng.random_range(0..300),
            split_bytes: match rng.random_range(0..3) {
                0 => 0,
                _ => rng.random_range(700..6000),
            },
        }
    }
}

impl LinkQuality {
    /// Links that lose, double and delay nothing: how every run ends.
    pub fn healed(self) -> Self {
        Self {
            slow_per_mille: 0,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            ..self
        }
    }
}
