//! The one loop around every worker: lease, jitter, trigger, backoff, pause.
//!
//! Invariant: a tick ends before its lease does. The lease is renewed, before a tick and while it
//! runs, once a quarter of its time has passed; a tick is cut off when three quarters have, and when
//! it takes too long by itself.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Meta, pb};
use granary_runtime::{Runtime, within};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::worker::TICK_TIME;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest time of a tick: what hangs must not keep the rest from its turn for ever. More than a tick
/// that ends by itself needs: its own time, one step more, and a look at every node before.
const TICK_LIMIT: Duration = Duration::from_secs(60);
const _: () = assert!(TICK_LIMIT.as_secs() >= 3 * TICK_TIME.as_secs());

/// How a worker runs.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Who asks for the lease: unique per process, the same after its restart.
    pub holder: String,
    /// Time between ticks when there is nothing more to do.
    pub interval: Duration,
    /// Life of the lease; a successor takes over this long after a crash.
    pub lease_ttl: Duration,
}

impl RunnerConfig {
    /// A worker of `holder` that looks for work every `interval`.
    pub fn every(holder: impl Into<String>, interval: Duration) -> Self {
        Self {
            holder: holder.into(),
            interval,
            lease_ttl: Duration::from_secs(60),
        }
    }
}

/// How a worker does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerState {
    /// This process has the lease.
    pub leads: bool,
    /// An operator paused it here.
    pub paused: bool,
    /// Ticks that ended well.
    pub ticks: u64,
    /// The last tick left nothing to do.
    pub idle: bool,
    /// Why the last tick failed; empty when it did not.
    pub last_error: String,
}

/// Steers a running worker. Dropping it does not stop the worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    name: &'static str,
    runtime: Runtime,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<WorkerState>,
    /// When (monotonic) the lease ends unless it is renewed: another process may lead from then on.
    leads_until: Mutex<Duration>,
    wake: Notify,
}

impl WorkerHandle {
    /// The worker's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Ticks as soon as possible.
    pub fn trigger(&self) {
        self.control.wake.notify_one();
    }

    /// Stops ticking after the current tick, until [`WorkerHandle::unpause`].
    pub fn pause(&self) {
        self.control.state.lock().paused = true;
    }

    /// Goes on.
    pub fn unpause(&self) {
        self.control.state.lock().paused = false;
        self.trigger();
    }

    /// How it does.
    pub fn state(&self) -> WorkerState {
        let mut state = self.control.state.lock().clone();
        state.leads &= self.runtime.monotonic() < *self.control.leads_until.lock();
        state
    }
}

/// Starts a worker; it ends with the runtime.
pub fn start<W: Worker>(
    runtime: &Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
    config: RunnerConfig,
    worker: W,
) -> WorkerHandle {
    let control = Arc::new(Control::default());
    let handle = WorkerHandle {
        name: W::NAME,
        runtime: runtime.clone(),
        control: Arc::clone(&control),
    };
    let runner = Runner {
        runtime: runtime.clone(),
        meta,
        metrics,
        config,
        worker,
        control,
        lease: None,
        pause: FIRST_PAUSE,
    };
    runtime.spawn(runner.run());
    handle
}

/// A lease this process has.
struct Lease {
    token: u64,
    renew_at: Duration,
}

struct Runner<W> {
    runtime: Runtime,
    meta: Meta,
    metrics: WorkerMetrics,
    config: RunnerConfig,
    worker: W,
    control: Arc<Control>,
    lease: Option<Lease>,
    /// Next pause after an error.
    pause: Duration,
}

impl<W: Worker> Runner<W> {
    async fn run(mut self) {
        let shutdown = self.runtime.shutdown().clone();
        loop {
            let round = shutdown.run_until_cancelled(self.round());
            let Some(wait) = round.await else { break };
            if wait.is_zero() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.runtime.sleep(wait) => {}
                () = self.control.wake.notified() => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.release().await;
    }

    /// One tick, if this process leads; returns how long to wait for the next.
    async fn round(&mut self) -> Duration {
        if self.control.state.lock().paused {
            return self.config.interval;
        }
        let token = match self.hold_lease().await {
            Ok(Some(token)) => token,
            Ok(None) => return self.jittered(self.config.lease_ttl / 2),
            Err(error) => return self.failed(&error),
        };
        match self.tick(token).await {
            Ok(tick) => {
                self.pause = FIRST_PAUSE;
                self.metrics.ticked(W::NAME, "ok");
                self.succeeded(tick);
                if self.worker.gives_way() {
                    tracing::info!(worker = W::NAME, "gives way to another process");
                    self.release().await;
                    self.lose_lease();
                    // Longer than anybody waits who asks for it now and then.
                    return self.jittered(self.config.lease_ttl * 2);
                }
                match tick {
                    Tick::More => Duration::ZERO,
                    Tick::Done => self.jittered(self.config.interval),
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Runs a tick, and keeps the lease meanwhile.
    async fn tick(&mut self, token: u64) -> Result<Tick, WorkerError> {
        let ttl = self.config.lease_ttl;
        // What the tick does in the end is told with the next renewal.
        let claim = self.claim(token, false);
        let ends = self.runtime.monotonic() + TICK_LIMIT;
        let mut renew_at = self.lease.as_ref().map_or(ends, |lease| lease.renew_at);
        let mut cut_at = ends.min(renew_at + ttl / 2);
        let mut tick = pin!(self.worker.tick(token));
        loop {
            let now = self.runtime.monotonic();
            if now >= cut_at {
                return Err(WorkerError::TooLong);
            }
            let wait = renew_at.min(cut_at).saturating_sub(now);
            if let Ok(ended) = within(wait, &mut tick).await {
                return ended;
            }
            let asked_at = self.runtime.monotonic();
            if asked_at >= cut_at {
                continue;
            }
            let renewal = within(cut_at - asked_at, self.meta.propose(claim.clone()));
            let renewed = tokio::select! {
                ended = &mut tick => return ended,
                renewed = renewal => renewed,
            };
            match renewed {
                Ok(Ok(Ok(_))) => {
                    renew_at = asked_at + ttl / 4;
                    cut_at = ends.min(renew_at + ttl / 2);
                    if let Some(lease) = &mut self.lease {
                        lease.renew_at = renew_at;
                    }
                    *self.control.leads_until.lock() = asked_at + ttl;
                }
                Ok(Ok(Err(no))) if no.reason() == Reason::Stale => {
                    return Err(WorkerError::LeaseLost);
                }
                // Asked again as long as there is time.
                Ok(_) | Err(_) => renew_at = asked_at + FIRST_PAUSE,
            }
        }
    }

    fn succeeded(&self, tick: Tick) {
        let mut state = self.control.state.lock();
        state.ticks += 1;
        state.idle = tick == Tick::Done;
        state.last_error.clear();
    }

    fn failed(&mut self, error: &WorkerError) -> Duration {
        tracing::debug!(worker = W::NAME, %error, "tick failed");
        self.metrics.ticked(W::NAME, "failed");
        self.control.state.lock().last_error = error.to_string();
        if matches!(error, WorkerError::LeaseLost) {
            self.lose_lease();
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.jittered(pause)
    }

    /// Between half and the whole of `wait`, so that many processes do not move in step.
    fn jittered(&self, wait: Duration) -> Duration {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let extra = self.runtime.entropy().below(micros / 2 + 1);
        (wait / 2 + Duration::from_micros(extra)).max(Duration::from_millis(1))
    }

    /// The token, taking or renewing the lease if need be; `None` while another process has it.
    async fn hold_lease(&mut self) -> Result<Option<u64>, WorkerError> {
        let now = self.runtime.monotonic();
        let held = self.lease.as_ref();
        if let Some(lease) = held.filter(|lease| now < lease.renew_at) {
            return Ok(Some(lease.token));
        }
        let token = held.map_or(0, |lease| lease.token);
        let answer = self.meta.propose(self.claim(token, false)).await?;
        let granted = match answer {
            Ok(granted) => granted,
            Err(no) if no.reason() == Reason::Stale => {
                self.lose_lease();
                return Ok(None);
            }
            Err(no) => return Err(WorkerError::refused("a lease", no)),
        };
        if token == 0 {
            self.worker.resume(&granted.cursor);
            tracing::debug!(worker = W::NAME, token = granted.token, "leading");
        }
        self.lease = Some(Lease {
            token: granted.token,
            // Measured from before the request, so that this clock's lease ends first.
            renew_at: now + self.config.lease_ttl / 4,
        });
        *self.control.leads_until.lock() = now + self.config.lease_ttl;
        self.control.state.lock().leads = true;
        self.metrics.lead(W::NAME, true);
        Ok(Some(granted.token))
    }

    fn lose_lease(&mut self) {
        self.lease = None;
        self.control.state.lock().leads = false;
        self.metrics.lead(W::NAME, false);
    }

    /// Lets a successor start at once. Best effort: the lease expires anyway.
    async fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            let claim = self.claim(lease.token, true);
            if let Err(error) = within(FIRST_PAUSE, self.meta.propose(claim)).await {
                tracing::debug!(worker = W::NAME, %error, "lease not released");
            }
        }
    }

    fn claim(&self, token: u64, release: bool) -> pb::AcquireLease {
        pb::AcquireLease {
            name: W::NAME.to_owned(),
            holder: self.config.holder.clone(),
            ttl_ms: u64::try_from(self.config.lease_ttl.as_millis()).unwrap_or(u64::MAX),
            token,
            release,
            // Whoever takes the lease first learns where the one before was.
            cursor: if token == 0 {
                Bytes::new()
            } else {
                self.worker.cursor()
            },
        }
    }
}
