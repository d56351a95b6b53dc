//! A socket that gives up on a client that does not move: no first byte, half a head, idle too long,
//! or not reading its answer. hyper has no deadline for the first and the last of these.
//!
//! A read deadline looks like the end of the stream, which hyper answers by closing; a write
//! deadline is an error.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use granary_runtime::Runtime;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::phase::Phase;
use crate::config::Timeouts;

/// A stream with deadlines.
pub(super) struct Socket<T> {
    io: TokioIo<T>,
    runtime: Runtime,
    phase: Arc<Phase>,
    timeouts: Timeouts,
    read_alarm: Alarm,
    write_alarm: Alarm,
    write_blocked_since: Option<Duration>,
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
            write_blocked_since: None,
        }
    }

    pub(super) fn into_inner(self) -> T {
        self.io.into_inner()
    }

    /// Judges a write that made progress, or did not.
    fn judge_write<R>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.write_blocked_since = None;
            return outcome;
        }
        let now = self.runtime.monotonic();
        let since = *self.write_blocked_since.get_or_insert(now);
        let deadline = since + self.timeouts.write_stall;
        if self
            .write_alarm
            .poll_until(&self.runtime, now, deadline, cx)
            .is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
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
        self.judge_write(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.judge_write(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge_write(cx, outcome)
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
        self.judge_write(cx, outcome)
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
