//! Whether this node's clock shows what a majority's clocks show: what it stamps as a leader becomes
//! the shard's time, and that never goes back.
//!
//! Every answer of a peer says what its clock shows. A leader whose own is more than [`BOUND`] from
//! the median of what a majority of the voters showed lately stamps nothing (`proposer`), and hands
//! over to a voter that is right; by the median there is always one, since some voter's clock is it.
//! A sole voter is its own majority. Where too few tell (a majority is not reachable, or is of
//! versions that do not tell), nothing is known, and nothing is refused.
//!
//! When as many are told as can't outvote each other (two voters of three are there and differ), it
//! can't be known who is right. Then the earlier one counts: a shard's time that stands still for a
//! while can be made good, one that went into the future cannot. Unless the earlier one is behind
//! what is stamped already: a majority has believed the later one before. Whoever that makes the
//! leader is right by the same rule in the eyes of the other one, so nobody hands back.
//!
//! It must not know what the time is used for. One per node, for all its groups; memory: one row
//! per peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::Runtime;
use granary_types::NodeId;
use parking_lot::Mutex;

/// How far a leader's clock may be from the median.
pub(crate) const BOUND_MS: u64 = 10_000;
/// How far that of a voter may be which is asked to take over: less, so that it does not have to
/// hand over itself a moment later.
const BOUND_OF_HEIRS_MS: u64 = BOUND_MS / 2;
/// How long what a peer told counts.
const FRESH: Duration = Duration::from_secs(5);
/// An answer that took longer is not believed: the clock was read at any moment of it, and this
/// process may have stood still in between.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// What the peers' clocks showed. Clones share it.
#[derive(Clone)]
pub(crate) struct Clocks {
    runtime: Runtime,
    told: Arc<Mutex<BTreeMap<NodeId, Told>>>,
}

#[derive(Clone, Copy)]
struct Told {
    wall_ms: u64,
    /// When (monotonic).
    at: Duration,
}

impl Clocks {
    pub(crate) fn new(runtime: Runtime) -> Self {
        let told = Arc::default();
        Self { runtime, told }
    }

    /// What this node's clock shows, in milliseconds since the epoch.
    pub(crate) fn own_ms(&self) -> u64 {
        self.runtime.now().as_millis()
    }

    /// A peer's answer to a request that was sent at `sent` (monotonic) says what its clock shows; 0
    /// from peers that do not say.
    pub(crate) fn heard(&self, peer: NodeId, wall_ms: u64, sent: Duration) {
        let at = self.runtime.monotonic();
        if wall_ms > 0 && at.saturating_sub(sent) <= ROUND_TRIP_MAX {
            self.told.lock().insert(peer, Told { wall_ms, at });
        }
    }

    /// Whether a peer has told what its clock shows, and so was there, a moment ago.
    pub(crate) fn heard_lately(&self, peer: NodeId) -> bool {
        let told = self.told.lock().get(&peer).map(|told| told.at);
        told.is_some_and(|at| self.runtime.monotonic().saturating_sub(at) <= FRESH)
    }

    /// How far the clocks of `node` (this one) and of other voters are from their median, in
    /// milliseconds, those ahead of it above 0; `None` when less than a majority is known.
    /// `stamped_ms`: the shard's time.
    pub(crate) fn off(
        &self,
        node: NodeId,
        voters: &[NodeId],
        stamped_ms: u64,
    ) -> Option<BTreeMap<NodeId, i64>> {
        let now = self.runtime.monotonic();
        let shown: BTreeMap<NodeId, u64> = {
            let told = self.told.lock();
            let shown = |voter: &NodeId| {
                if *voter == node {
                    return Some(self.own_ms());
                }
                let told = told.get(voter)?;
                let age = now.saturating_sub(told.at);
                let age_ms = u64::try_from(age.as_millis()).ok()?;
                (age <= FRESH).then(|| told.wall_ms.saturating_add(age_ms))
            };
            voters
                .iter()
                .filter_map(|voter| Some((*voter, shown(voter)?)))
                .collect()
        };
        if shown.len() <= voters.len() / 2 {
            return None;
        }
        let median = median(shown.values().copied().collect(), stamped_ms)?;
        let off = |shown: u64| {
            let by = i64::try_from(shown.abs_diff(median)).unwrap_or(i64::MAX);
            if shown < median { -by } else { by }
        };
        Some(shown.into_iter().map(|(id, ms)| (id, off(ms))).collect())
    }
}

/// The middle one; of two the one that does less harm (see the top of the file).
fn median(mut shown: Vec<u64>, stamped_ms: u64) -> Option<u64> {
    shown.sort_unstable();
    let upper = *shown.get(shown.len() / 2)?;
    let lower = *shown.get((shown.len() - 1) / 2)?;
    let behind = lower.saturating_add(BOUND_MS) < stamped_ms;
    Some(if behind { upper } else { lower })
}

/// True for a clock that is too far from the median to stamp.
pub(crate) fn is_wrong(off_ms: i64) -> bool {
    off_ms.unsigned_abs() > BOUND_MS
}

/// True for a clock that is near enough to take over from a wrong one.
pub(crate) fn is_right(off_ms: i64) -> bool {
    off_ms.unsigned_abs() <= BOUND_OF_HEIRS_MS
}

#[cfg(test)]
mod tests {
    use granary_runtime::{Entropy, SeededEntropy, SimulatedClock};

    use super::*;

    const START: u64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn clocks() -> Clocks {
        let clock = Arc::new(SimulatedClock::starting_at(START));
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        Clocks::new(Runtime::simulated(clock, entropy))
    }

    fn at(off_ms: i64) -> u64 {
        START.saturating_add_signed(off_ms)
    }

    #[tokio::test(start_paused = true)]
    async fn the_majority_is_right() {
        // Voters, what the others show (node 1 is right on time), the shard's time; who is off.
        type Case = (u64, &'static [i64], i64, Option<&'static [i64]>);
        let cases: [Case; 12] = [
            (1, &[], 0, Some(&[0])),
            (3, &[], 0, None),
            (5, &[0], 0, None),
            (3, &[20, -20], 0, Some(&[0, 20, -20])),
            (3, &[HOUR, HOUR + 5], 0, Some(&[-HOUR, 0, 5])),
            (3, &[-HOUR, 0], 0, Some(&[0, -HOUR, 0])),
            // Nobody agrees: the one in the middle.
            (3, &[HOUR, 2 * HOUR], 0, Some(&[-HOUR, 0, HOUR])),
            (5, &[HOUR, HOUR], 0, Some(&[-HOUR, 0, 0])),
            // Two that differ: the earlier one, unless it is behind what was stamped.
            (3, &[HOUR], 0, Some(&[0, HOUR])),
            (3, &[-HOUR], -2 * HOUR, Some(&[HOUR, 0])),
            (3, &[-HOUR], 0, Some(&[0, -HOUR])),
            (3, &[HOUR], HOUR, Some(&[-HOUR, 0])),
        ];
        for (count, others, stamped, expected) in cases {
            let clocks = clocks();
            let voters: Vec<NodeId> = (1..=count).map(NodeId).collect();
            for (peer, off) in (2..).zip(others) {
                clocks.heard(NodeId(peer), at(*off), Duration::ZERO);
            }
            // No voter: it does not count.
            clocks.heard(NodeId(77), at(-HOUR), Duration::ZERO);
            let off = clocks.off(NodeId(1), &voters, at(stamped));
            let off = off.map(|off| off.into_values().collect::<Vec<_>>());
            let why = format!("{count} voters, {others:?}, stamped {stamped}");
            assert_eq!(off.as_deref(), expected, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_or_took_long_does_not_count() {
        let clocks = clocks();
        let voters = [NodeId(1), NodeId(2)];
        let off = || clocks.off(NodeId(1), &voters, 0);
        clocks.heard(NodeId(2), 0, Duration::ZERO);
        assert_eq!(off(), None, "a node that does not tell");
        clocks.heard(NodeId(2), at(-HOUR), Duration::ZERO);
        tokio::time::sleep(FRESH).await;
        // It has gone on as this one has.
        assert_eq!(off().unwrap()[&NodeId(1)], HOUR);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(off(), None, "what it showed long ago");
        let sent = clocks.runtime.monotonic();
        tokio::time::sleep(ROUND_TRIP_MAX + Duration::from_millis(1)).await;
        clocks.heard(NodeId(2), START, sent);
        assert_eq!(off(), None, "an answer that was long on its way");
    }
}
