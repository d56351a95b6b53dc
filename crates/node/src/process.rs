//! What every long-running command of this program does: logs, signals, a stop in a bounded time.

use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_runtime::{Runtime, within};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Readiness;
use crate::config::LogFormat;
use crate::telemetry::Telemetry;

/// How long a stop takes at most, besides requests in flight: a disk may hang.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a process logs, and how long it waits for requests in flight when it stops.
pub(crate) struct Settings {
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) drain: Duration,
}

/// A process that has started.
pub(crate) trait Running {
    /// What it answers to `/health/ready`.
    fn readiness(&self) -> &Readiness;

    /// Waits until it can't go on, for ever if that never happens; what the operator is told.
    async fn failed(&self) -> String;

    /// Stops everything in its order.
    async fn stop(self, runtime: &Runtime);
}

/// Starts a process and runs it until a signal says stop.
pub(crate) fn run<R: Running>(
    settings: &Settings,
    start: impl AsyncFnOnce(&Runtime, &Telemetry) -> anyhow::Result<R>,
) -> anyhow::Result<()> {
    // Memory that was freed goes back to the system without waiting for the next allocation.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "no background thread for the allocator");
    }
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = threads.block_on(serve(settings, start));
    // A call may hang in a disk that no longer answers.
    threads.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve<R: Running>(
    settings: &Settings,
    start: impl AsyncFnOnce(&Runtime, &Telemetry) -> anyhow::Result<R>,
) -> anyhow::Result<()> {
    let telemetry = Telemetry::install(
        &settings.log,
        settings.log_format,
        settings.otlp_endpoint.as_deref(),
    )?;
    let unknown = crate::unknown_variables();
    if !unknown.is_empty() {
        tracing::warn!(
            variables = unknown.join(", "),
            "environment variables that are no settings"
        );
    }
    let outcome = Box::pin(until_signal(settings, &telemetry, start)).await;
    telemetry.stop();
    outcome
}

async fn until_signal<R: Running>(
    settings: &Settings,
    telemetry: &Telemetry,
    start: impl AsyncFnOnce(&Runtime, &Telemetry) -> anyhow::Result<R>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let runtime = crate::test_clock::runtime();
    let running = tokio::select! {
        running = start(&runtime, telemetry) => running?,
        // As after a power cut: whatever was acknowledged is durable, the next start recovers.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let failure = tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("SIGTERM: stopping");
            None
        }
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: stopping");
            None
        }
        failure = running.failed() => Some(failure),
    };
    running.readiness().set(false);
    let limit = match &failure {
        None => settings.drain + STOP_LIMIT,
        Some(failure) => {
            tracing::error!("{failure}");
            // What is under way waits for metadata that will not answer.
            STOP_LIMIT
        }
    };
    let stopped = within(limit, running.stop(&runtime)).await;
    if failure.is_some() {
        bail!("stopped because the metadata directory failed");
    }
    if stopped.is_err() {
        bail!("a disk hangs: stopped without waiting for it; nothing acknowledged is lost");
    }
    Ok(())
}
