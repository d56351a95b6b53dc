//! Wall-clock and monotonic time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_types::Timestamp;
use parking_lot::Mutex;

/// A source of time. Waiting goes through `tokio::time`, which a simulation pauses.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. May step backwards; whoever stores it must not rely on its order.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary origin that never steps and goes on while the machine sleeps
    /// (`CLOCK_BOOTTIME`). Leases are measured with it.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let millis = u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
        Timestamp(seconds * 1000 + millis)
    }

    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    }
}

/// The machine's clocks, off by an offset (of the time of day) and a rate (of both), which tests change
/// while a process runs. What tokio waits for keeps the machine's rate.
#[derive(Debug)]
pub struct SkewedClock {
    skew: Mutex<Skew>,
}

#[derive(Clone, Copy, Debug)]
struct Skew {
    /// What is added to the time of day.
    offset_ms: i64,
    /// How many seconds it shows per true second, since `since`.
    rate: f64,
    /// True monotonic time when the rate was set, and what was shown then.
    since: Duration,
    shown: Duration,
}

impl Skew {
    fn monotonic(&self, real: Duration) -> Duration {
        self.shown + real.saturating_sub(self.since).mul_f64(self.rate)
    }
}

impl SkewedClock {
    /// A clock that is right until it is told otherwise.
    pub fn new() -> Self {
        let now = SystemClock.monotonic();
        Self {
            skew: Mutex::new(Skew {
                offset_ms: 0,
                rate: 1.0,
                since: now,
                shown: now,
            }),
        }
    }

    /// Sets both; the monotonic clock does not step. A rate below zero counts as zero.
    pub fn set(&self, offset_ms: i64, rate: f64) {
        let real = SystemClock.monotonic();
        let mut skew = self.skew.lock();
        *skew = Skew {
            offset_ms,
            rate: rate.max(0.0),
            since: real,
            shown: skew.monotonic(real),
        };
    }
}

impl Default for SkewedClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let (true_now, real) = (SystemClock.now(), SystemClock.monotonic());
        let skew = *self.skew.lock();
        let shown = i64::try_from(skew.monotonic(real).as_millis()).unwrap_or(i64::MAX);
        let ran = i64::try_from(real.as_millis()).unwrap_or(i64::MAX);
        Timestamp(
            true_now
                .0
                .saturating_add_signed(skew.offset_ms + shown - ran),
        )
    }

    fn monotonic(&self) -> Duration {
        let real = SystemClock.monotonic();
        self.skew.lock().monotonic(real)
    }
}

/// A clock that follows tokio's (pausable) time from a fixed start, with an adjustable offset.
#[derive(Debug)]
pub struct SimulatedClock {
    start_ms: u64,
    origin: tokio::time::Instant,
    offset_ms: AtomicU64,
}

impl SimulatedClock {
    /// A clock that shows `start_ms` now. Call it inside the runtime whose time it follows.
    pub fn starting_at(start_ms: u64) -> Self {
        Self {
            start_ms,
            origin: tokio::time::Instant::now(),
            offset_ms: AtomicU64::new(0),
        }
    }

    /// Moves the wall clock (not the monotonic one) forward by `millis` at once.
    pub fn advance_wall_clock(&self, millis: u64) {
        self.offset_ms.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let passed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.start_ms + passed + self.offset_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_off_by_what_it_was_told_and_never_steps_back() {
        let clock = SkewedClock::new();
        let near = |shown: Timestamp, ahead_ms: i64| {
            let off = shown
                .0
                .abs_diff(SystemClock.now().0.saturating_add_signed(ahead_ms));
            assert!(off < 2000, "{off} ms from what was asked for");
        };
        near(clock.now(), 0);
        clock.set(60_000, 1.0);
        near(clock.now(), 60_000);
        clock.set(-3_600_000, 1.0);
        near(clock.now(), -3_600_000);
        let before = clock.monotonic();
        clock.set(0, 0.0);
        let stopped = clock.monotonic();
        assert!(stopped >= before);
        assert_eq!(clock.monotonic(), stopped);
        clock.set(0, 1000.0);
        while clock.monotonic() < stopped + Duration::from_secs(1) {
            std::hint::spin_loop();
        }
        clock.set(0, 1.0);
        assert!(clock.monotonic() >= stopped + Duration::from_secs(1));
    }
}
