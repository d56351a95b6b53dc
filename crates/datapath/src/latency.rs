//! How long a disk usually takes to answer, and from when on a second copy is asked.

use std::sync::atomic::{AtomicU64, Ordering};
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
}
