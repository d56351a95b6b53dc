//! Pacing: bytes that move no faster than their request asked for (`x-oss-traffic-limit`).
//!
//! A pacer holds bytes back by not asking for more of them, never by keeping them; what it holds
//! back is its own doing and no sign of a slow client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use granary_datapath::{BodyError, ReadStream};
use granary_runtime::Runtime;

use crate::server::socket::Alarm;

/// Time that may be made up for after a pause that was not ours, or that came too late.
const CATCH_UP: Duration = Duration::from_millis(250);
/// Steps in which bytes are let through, so that a slow limit does not look like a stall.
const STEPS_PER_SECOND: u64 = 8;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Says when the next bytes may move.
pub(crate) struct Pacer {
    runtime: Runtime,
    alarm: Alarm,
    bytes_per_second: u64,
    /// When everything let through so far is paid for.
    free_at: Duration,
}

impl Pacer {
    /// `bits_per_second` is the limit as clients spell it.
    pub(crate) fn new(runtime: Runtime, bits_per_second: u64) -> Self {
        Self {
            free_at: runtime.monotonic(),
            runtime,
            alarm: Alarm::default(),
            bytes_per_second: (bits_per_second / 8).max(STEPS_PER_SECOND),
        }
    }

    /// Ready once bytes may move.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.runtime.monotonic();
        self.alarm.poll_until(&self.runtime, now, self.free_at, cx)
    }

    /// Bytes that should move at once at most.
    pub(crate) fn step_bytes(&self) -> usize {
        usize::try_from(self.bytes_per_second / STEPS_PER_SECOND).unwrap_or(usize::MAX)
    }

    /// Bytes have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let earliest = self.runtime.monotonic().saturating_sub(CATCH_UP);
        let nanos = (bytes as u64).saturating_mul(NANOS_PER_SECOND) / self.bytes_per_second;
        self.free_at = self.free_at.max(earliest) + Duration::from_nanos(nanos);
    }
}

/// Bytes of an object on their way into another one, paced.
pub(crate) struct PacedRead {
    stream: ReadStream,
    pacer: Pacer,
    /// What is left of a piece larger than a step.
    rest: Bytes,
}

impl PacedRead {
    pub(crate) fn new(stream: ReadStream, pacer: Pacer) -> Self {
        Self {
            stream,
            pacer,
            rest: Bytes::new(),
        }
    }
}

impl Stream for PacedRead {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        ready!(this.pacer.poll_turn(cx));
        if this.rest.is_empty() {
            match ready!(this.stream.poll_next_unpin(cx)) {
                Some(Ok(piece)) => this.rest = piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::new(error)))),
                None => return Poll::Ready(None),
            }
        }
        let step = this.rest.len().min(this.pacer.step_bytes());
        let step = this.rest.split_to(step);
        this.pacer.moved(step.len());
        Poll::Ready(Some(Ok(step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_runtime::{SeededEntropy, SimulatedClock};
    use std::future::poll_fn;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time_and_no_more() {
        let clock = Arc::new(SimulatedClock::starting_at(0));
        let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(1)));
        for bits_per_second in [245_760, 819_200, 838_860_800] {
            let mut pacer = Pacer::new(runtime.clone(), bits_per_second);
            let started = runtime.monotonic();
            let total = usize::try_from(bits_per_second).unwrap() * 2;
            let mut left = total;
            while left > 0 {
                poll_fn(|cx| pacer.poll_turn(cx)).await;
                let step = left.min(pacer.step_bytes()).min(256 * 1024);
                pacer.moved(step);
                left -= step;
            }
            // Sixteen seconds' worth.
            let took = (runtime.monotonic() - started).as_secs_f64();
            assert!((15.7..16.4).contains(&took), "{bits_per_second}: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_is_not_made_up_for() {
        let clock = Arc::new(SimulatedClock::starting_at(0));
        let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(1)));
        let mut pacer = Pacer::new(runtime.clone(), 8_000_000);
        runtime.sleep(Duration::from_secs(60)).await;
        let started = runtime.monotonic();
        for _ in 0..20 {
            poll_fn(|cx| pacer.poll_turn(cx)).await;
            pacer.moved(100_000);
        }
        poll_fn(|cx| pacer.poll_turn(cx)).await;
        let took = (runtime.monotonic() - started).as_secs_f64();
        assert!(took > 1.7, "two megabytes at one a second: {took} s");
    }
}
