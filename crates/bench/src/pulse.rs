//! When something of a request or its answer last moved, so that what is slow is told from what stands still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use granary_runtime::{Elapsed, Runtime, within};

/// The last time that a byte was sent or received over a connection.
pub(crate) struct Pulse {
    runtime: Runtime,
    beat_us: AtomicU64,
}

impl Pulse {
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            beat_us: AtomicU64::new(0),
        }
    }

    /// Something moves.
    pub(crate) fn beat(&self) {
        let now = self.runtime.monotonic().as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.beat_us.store(now, Ordering::Relaxed);
    }

    /// Awaits what moves it, for as long as it does.
    ///
    /// # Errors
    /// Nothing has moved for `limit`; the future is dropped.
    pub(crate) async fn watch<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        self.beat();
        let mut future = std::pin::pin!(future);
        let mut left = limit;
        loop {
            if let Ok(output) = within(left, future.as_mut()).await {
                return Ok(output);
            }
            left = limit.saturating_sub(self.idle());
            if left.is_zero() {
                return Err(Elapsed);
            }
        }
    }

    /// How long nothing has moved.
    fn idle(&self) -> Duration {
        let beat = Duration::from_micros(self.beat_us.load(Ordering::Relaxed));
        self.runtime.monotonic().saturating_sub(beat)
    }
}
