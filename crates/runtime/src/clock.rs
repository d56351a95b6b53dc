//! Wall-clock and monotonic time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_types::Timestamp;

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
