//! Deadlines and retries: every wait ends.

use std::future::Future;
use std::time::Duration;

use crate::Runtime;

/// The wait ended before the future did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl std::error::Error for Elapsed {}

/// Awaits `future` for at most `limit` of (possibly simulated) time.
///
/// # Errors
/// [`Elapsed`] when the limit passed first; the future is dropped.
pub async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| Elapsed)
}

/// Exponential backoff with full jitter that gives up at a deadline.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
    deadline: Duration,
}

impl Backoff {
    /// Waits from `first` doubling up to `most`, giving up `limit` from now.
    pub fn new(runtime: &Runtime, first: Duration, most: Duration, limit: Duration) -> Self {
        Self {
            next: first,
            most,
            deadline: runtime.monotonic() + limit,
        }
    }

    /// Waits before the next try; false when the deadline would pass meanwhile.
    pub async fn wait(&mut self, runtime: &Runtime) -> bool {
        let jitter_us = u64::try_from(self.next.as_micros()).unwrap_or(u64::MAX);
        let pause =
            self.next / 2 + Duration::from_micros(runtime.entropy().below(jitter_us / 2 + 1));
        if runtime.monotonic() + pause >= self.deadline {
            return false;
        }
        self.next = (self.next * 2).min(self.most);
        runtime.sleep(pause).await;
        true
    }

    /// Time left until the deadline.
    pub fn remaining(&self, runtime: &Runtime) -> Duration {
        self.deadline.saturating_sub(runtime.monotonic())
    }
}
