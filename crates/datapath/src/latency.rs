//! How long a disk usually takes to answer, from when on a second copy is asked, and how often that
//! may be.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A hedge waits no longer than this, however slow the disks have become.
const HEDGE_MAX: Duration = Duration::from_secs(2);

/// Moving mean and mean deviation of read times, as TCP keeps them for its round trips.
#[derive(Debug, Default)]
pub(crate) struct ReadLatency {
    mean_us: AtomicU64,
    deviation_us: AtomicU64,
}

impl ReadLatency {
    /// Takes a read's duration into account. Races lose a sample, which does not matter.
    pub(crate) fn record(&self, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 16);
        let mean = self.mean_us.load(Ordering::Relaxed);
        let deviation = self.deviation_us.load(Ordering::Relaxed);
        let distance = sample.abs_diff(mean);
        self.mean_us
            .store(mean - mean / 8 + sample / 8, Ordering::Relaxed);
        self.deviation_us
            .store(deviation - deviation / 4 + distance / 4, Ordering::Relaxed);
    }

    /// How long the first copy has before another is asked: mean plus four deviations, which few
    /// healthy reads exceed.
    pub(crate) fn hedge_after(&self, at_least: Duration) -> Duration {
        let mean = self.mean_us.load(Ordering::Relaxed);
        let deviation = self.deviation_us.load(Ordering::Relaxed);
        let usual = Duration::from_micros(mean.saturating_add(deviation.saturating_mul(4)));
        usual.min(HEDGE_MAX).max(at_least)
    }
}

/// Reads that earn one early question to a second copy.
const READS_PER_HEDGE: u32 = 10;
/// Early questions that may be saved up.
const HEDGES_MAX: u32 = 16;

/// Bounds early questions to a share of all reads: where every disk is slow because there is too
/// much to do, asking twice would make it more.
#[derive(Debug)]
pub(crate) struct HedgeBudget {
    /// In reads: so many of them were not used up yet.
    saved: AtomicU32,
}

impl Default for HedgeBudget {
    fn default() -> Self {
        Self {
            saved: AtomicU32::new(HEDGES_MAX * READS_PER_HEDGE),
        }
    }
}

impl HedgeBudget {
    /// A read begins.
    pub(crate) fn note_read(&self) {
        let most = HEDGES_MAX * READS_PER_HEDGE;
        let more = |saved: u32| (saved < most).then_some(saved + 1);
        let _ = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether a second copy may be asked early now; it counts as done.
    pub(crate) fn take(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(READS_PER_HEDGE);
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedging_follows_what_is_usual() {
        let latency = ReadLatency::default();
        let least = Duration::from_millis(50);
        assert_eq!(latency.hedge_after(least), least);
        for n in 0..200 {
            latency.record(Duration::from_millis(90 + n % 20));
        }
        let hedge = latency.hedge_after(least);
        assert!(
            hedge > Duration::from_millis(95) && hedge < Duration::from_millis(200),
            "{hedge:?}"
        );
        for _ in 0..200 {
            latency.record(Duration::from_secs(60));
        }
        assert_eq!(latency.hedge_after(least), HEDGE_MAX);
    }

    #[test]
    fn a_tenth_of_the_reads_may_ask_twice() {
        let budget = HedgeBudget::default();
        let taken = || std::iter::repeat_with(|| budget.take()).take_while(|&taken| taken);
        assert_eq!(taken().count(), 16);
        for _ in 0..45 {
            budget.note_read();
        }
        assert_eq!(taken().count(), 4);
        for _ in 0..100_000 {
            budget.note_read();
        }
        assert_eq!(taken().count(), 16);
    }
}
