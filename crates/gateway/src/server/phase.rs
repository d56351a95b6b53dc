//! What a connection is doing, shared between its socket and its requests, so that the socket knows
//! which deadline applies.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::config::Timeouts;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Connected, nothing came yet.
    Fresh = 0,
    /// Between requests.
    Idle = 1,
    /// Some bytes of a request's head came.
    Head = 2,
    /// A request is being handled or answered; its body has deadlines of its own.
    Busy = 3,
}

/// What a connection is doing and since when.
#[derive(Debug)]
pub(crate) struct Phase {
    state: AtomicU8,
    since_ms: AtomicU64,
    linger: AtomicBool,
    /// The connection's task, when it waits for the socket while no deadline applies.
    reader: AtomicWaker,
}

impl Phase {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            state: AtomicU8::new(State::Fresh as u8),
            since_ms: AtomicU64::new(millis(now)),
            linger: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }

    /// Bytes came.
    pub(super) fn received(&self, now: Duration) {
        if matches!(self.state(), State::Fresh | State::Idle) {
            self.set(State::Head, now);
        }
    }

    /// A request's head is complete.
    pub(crate) fn busy(&self, now: Duration) {
        self.set(State::Busy, now);
    }

    /// The answer is complete.
    pub(crate) fn idle(&self, now: Duration) {
        self.set(State::Idle, now);
        // Whoever waits for bytes does so under a deadline from now on.
        self.reader.wake();
    }

    /// Remembers who waits for bytes while a request is handled.
    pub(super) fn waits(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
    }

    /// The client may still be sending what nobody reads: close gently.
    pub(crate) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    /// When the connection is closed unless something comes; `None` while a request is handled.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Duration> {
        let limit = match self.state() {
            State::Fresh => timeouts.first_byte,
            State::Idle => timeouts.idle,
            State::Head => timeouts.header,
            State::Busy => return None,
        };
        Some(Duration::from_millis(self.since_ms.load(Ordering::Relaxed)) + limit)
    }

    fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Fresh,
            1 => State::Idle,
            2 => State::Head,
            _ => State::Busy,
        }
    }

    /// One task owns the connection: there is no race to lose between the two stores.
    fn set(&self, state: State, now: Duration) {
        self.since_ms.store(millis(now), Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
