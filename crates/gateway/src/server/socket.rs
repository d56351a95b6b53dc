//! A socket that gives up on a client that does not move: no first byte, half a head, idle too long,
//! or not reading its answer, or hardly. hyper has no deadline for the first and the last of these.
//!
//! A read deadline looks like the end of the stream, which hyper answers by closing; a write
//! deadline is an error.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use granary_runtime::Runtime;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::phase::Phase;
use crate::config::{RATE_WINDOW, Timeouts};

/// A stream with deadlines.
pub(super) struct Socket<T> {
    io: TokioIo<T>,
    runtime: Runtime,
    phase: Arc<Phase>,
    timeouts: Timeouts,
    read_alarm: Alarm,
    write_alarm: Alarm,
    write_blocked: Option<Blocked>,
    /// Time blocked and bytes taken in the window that judges the rate.
    window_blocked: Duration,
    window_bytes: u64,
}

/// A write that the client does not take.
#[derive(Clone, Copy)]
struct Blocked {
    since: Duration,
    /// Until when its time is counted in the window.
    counted: Duration,
}

impl<T> Socket<T> {
    pub(super) fn new(io: T, runtime: Runtime, phase: Arc<Phase>, timeouts: Timeouts) -> Self {
        Self {
            io: TokioIo::new(io),
            runtime,
            phase,
            timeouts,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
            write_blocked: None,
            window_blocked: Duration::ZERO,
            window_bytes: 0,
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.io.into_inner()
    }

    /// Judges a write that made progress, or did not. Only blocked time counts: an answer that we
    /// are slow to make, or asked to pace, is not the client's doing.
    fn judge_write<R>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<R>>,
        taken: impl FnOnce(&R) -> usize,
    ) -> Poll<io::Result<R>> {
        if let Poll::Ready(outcome) = outcome {
            if let Some(blocked) = self.write_blocked.take() {
                self.window_blocked += self.runtime.monotonic().saturating_sub(blocked.counted);
            }
            let taken = outcome.as_ref().map_or(0, |written| taken(written) as u64);
            self.window_bytes = self.window_bytes.saturating_add(taken);
            return Poll::Ready(outcome);
        }
        loop {
            let now = self.runtime.monotonic();
            let Some(deadline) = self.write_deadline(now) else {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            ready!(
                self.write_alarm
                    .poll_until(&self.runtime, now, deadline, cx)
            );
        }
    }

    /// When to judge a blocked write again; `None` when the client has stalled or trickles.
    fn write_deadline(&mut self, now: Duration) -> Option<Duration> {
        let blocked = self.write_blocked.get_or_insert(Blocked {
            since: now,
            counted: now,
        });
        self.window_blocked += now.saturating_sub(blocked.counted);
        blocked.counted = now;
        let stalled_at = blocked.since + self.timeouts.write_stall;
        if now >= stalled_at {
            return None;
        }
        if self.window_blocked >= RATE_WINDOW {
            let seconds = self.window_blocked.as_secs();
            if self.window_bytes < self.timeouts.body_rate_min.saturating_mul(seconds) {
                return None;
            }
            self.window_blocked = Duration::ZERO;
            self.window_bytes = 0;
        }
        let window_ends = now + RATE_WINDOW.saturating_sub(self.window_blocked);
        Some(stalled_at.min(window_ends))
    }
}

impl<T: AsyncRead + Unpin> Read for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_read(cx, buf);
        let now = self.runtime.monotonic();
        if outcome.is_ready() {
            self.phase.received(now);
            return outcome;
        }
        let Some(deadline) = self.phase.deadline(&self.timeouts) else {
            self.phase.waits(cx);
            return Poll::Pending;
        };
        let this = &mut *self;
        // Ready without bytes: the end of the stream.
        this.read_alarm
            .poll_until(&this.runtime, now, deadline, cx)
            .map(Ok)
    }
}

impl<T: AsyncWrite + Unpin> Write for Socket<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge_write(cx, outcome, |written| *written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.judge_write(cx, outcome, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge_write(cx, outcome, |()| 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge_write(cx, outcome, |written| *written)
    }
}

/// A timer that is armed again only when it rings, not at every deadline that moves.
#[derive(Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    rings_at: Duration,
}

impl Alarm {
    /// Ready once `deadline` has passed.
    pub(crate) fn poll_until(
        &mut self,
        runtime: &Runtime,
        mut now: Duration,
        deadline: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if now >= deadline {
            self.sleep = None;
            return Poll::Ready(());
        }
        if self.rings_at > deadline {
            self.sleep = None;
        }
        loop {
            let sleep = self.sleep.get_or_insert_with(|| {
                let runtime = runtime.clone();
                // A little late rather than a second time: timers have millisecond ticks.
                let pause = deadline - now + Duration::from_millis(1);
                self.rings_at = deadline;
                Box::pin(async move { runtime.sleep(pause).await })
            });
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
            now = runtime.monotonic();
            if now >= deadline {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_runtime::{SeededEntropy, SimulatedClock};
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use crate::config::{GatewayConfig, Settings};

    const BUFFER_BYTES: usize = 16 * 1024;

    fn socket() -> (Runtime, Socket<DuplexStream>, DuplexStream) {
        let clock = Arc::new(SimulatedClock::starting_at(0));
        let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(1)));
        let settings = Settings::try_from(GatewayConfig::default()).unwrap();
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let phase = Arc::new(Phase::new(runtime.monotonic()));
        let socket = Socket::new(ours, runtime.clone(), phase, settings.timeouts);
        (runtime, socket, theirs)
    }

    /// Writes until the socket gives up or `bytes` are written; the time that it took.
    async fn write(
        runtime: &Runtime,
        socket: &mut Socket<DuplexStream>,
        bytes: usize,
    ) -> Result<Duration, Duration> {
        let (started, block, mut written) = (runtime.monotonic(), [7; 4096], 0);
        while written < bytes {
            match poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, &block)).await {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    return Err(runtime.monotonic() - started);
                }
            }
        }
        Ok(runtime.monotonic() - started)
    }

    /// Reads `bytes` every `pause` until the other side is gone.
    async fn read(runtime: Runtime, mut stream: DuplexStream, bytes: usize, pause: Duration) {
        let mut scratch = vec![0; bytes];
        while stream.read_exact(&mut scratch).await.is_ok() {
            runtime.sleep(pause).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sips_its_answer_is_given_up() {
        for (bytes, pause_ms) in [(1, 20_000), (100, 1_000), (500, 900)] {
            let (runtime, mut socket, theirs) = socket();
            let pause = Duration::from_millis(pause_ms);
            let reader = runtime.spawn(read(runtime.clone(), theirs, bytes, pause));
            let gave_up = write(&runtime, &mut socket, 64 * 1024 * 1024).await;
            let after = gave_up.expect_err("given up").as_secs();
            // What both buffers took at once earns some time.
            assert!((60..200).contains(&after), "{bytes} bytes: {after} s");
            drop(socket);
            reader.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_but_enough_is_served() {
        for (bytes, pause_ms) in [(2048, 1_000), (80_000, 50_000)] {
            let (runtime, mut socket, theirs) = socket();
            let pause = Duration::from_millis(pause_ms);
            let reader = runtime.spawn(read(runtime.clone(), theirs, bytes, pause));
            let took = write(&runtime, &mut socket, 1024 * 1024).await;
            assert!(took.expect("served").as_secs() > 300);
            drop(socket);
            reader.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_client_did_not_take_is_not_its_own() {
        let (runtime, mut socket, theirs) = socket();
        let reader = runtime.spawn(read(
            runtime.clone(),
            theirs,
            4096,
            Duration::from_millis(1),
        ));
        for _ in 0..100 {
            // A paced answer: a few bytes, then nothing for a while.
            write(&runtime, &mut socket, 4096).await.unwrap();
            runtime.sleep(Duration::from_secs(30)).await;
        }
        drop(socket);
        reader.await.unwrap();
    }
}
