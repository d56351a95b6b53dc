//! What every long-running command of this program does: logs, signals, a stop in a bounded time.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use granary_runtime::{Runtime, within};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::LogFormat;
use crate::readiness::Readiness;
use crate::telemetry::Telemetry;

/// How long a stop takes at most, besides requests in flight: a disk may hang.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Threads for calls that may block, besides those that disks may hold up.
const THREADS: usize = 512;

/// How a process logs, how long it waits for requests in flight when it stops, and what may hang in it.
pub(crate) struct Settings {
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) drain: Duration,
    /// Calls that its disks may hold up for as long as they like.
    pub(crate) disk_calls: usize,
}

/// What a stop is at, for whoever has waited long enough.
#[derive(Debug)]
pub(crate) struct Step(Mutex<&'static str>);

impl Step {
    fn new() -> Self {
        Self(Mutex::new("the process"))
    }

    /// From now on it waits for this.
    pub(crate) fn set(&self, what: &'static str) {
        *self.0.lock() = what;
    }

    fn get(&self) -> &'static str {
        *self.0.lock()
    }
}

/// A process that has something to stop.
pub(crate) trait Running {
    /// What it answers to `/health/ready`.
    fn readiness(&self) -> &Readiness;

    /// Does what is left of the start, for as long as that takes; cut off when the process is to stop.
    async fn complete(&self, _runtime: &Runtime) -> anyhow::Result<()> {
        Ok(())
    }

    /// Waits until it can't go on, for ever if that never happens; what the operator is told.
    async fn failed(&self) -> String;

    /// Stops everything in its order, and says what it is at.
    async fn stop(self, runtime: &Runtime, step: &Step);
}

/// Why a process stops.
enum End {
    /// Somebody asked it to.
    Asked,
    /// It can't go on.
    Failed(String),
    /// The start did not come to its end.
    NotStarted(anyhow::Error),
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
    let threads = executor(settings.disk_calls).context("cannot start the async runtime")?;
    let outcome = threads.block_on(serve(settings, start));
    // A call may hang in a disk that no longer answers.
    threads.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The threads of a process. Metadata, on a disk that is well, does not wait for disks that hang.
fn executor(disk_calls: usize) -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(THREADS + disk_calls)
        .build()
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
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let starting = start(&runtime, telemetry);
    Box::pin(run_until(&runtime, settings.drain, asked, starting)).await
}

async fn run_until<R: Running>(
    runtime: &Runtime,
    drain: Duration,
    asked: impl Future<Output = &'static str>,
    starting: impl Future<Output = anyhow::Result<R>>,
) -> anyhow::Result<()> {
    tokio::pin!(asked);
    let running = tokio::select! {
        running = starting => running?,
        // As after a power cut: whatever was acknowledged is durable, the next start recovers.
        _ = &mut asked => return Ok(()),
    };
    let completing = async {
        match running.complete(runtime).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let end = tokio::select! {
        signal = &mut asked => {
            tracing::info!("{signal}: stopping");
            End::Asked
        }
        failure = running.failed() => End::Failed(failure),
        error = Box::pin(completing) => End::NotStarted(error),
    };
    running.readiness().set(false);
    let limit = match &end {
        End::Asked => drain + STOP_LIMIT,
        End::NotStarted(_) => STOP_LIMIT,
        End::Failed(failure) => {
            tracing::error!("{failure}");
            // What is under way waits for metadata that will not answer.
            STOP_LIMIT
        }
    };
    let step = Step::new();
    let stopped = within(limit, running.stop(runtime, &step)).await;
    match end {
        End::Failed(failure) => bail!("stopped: {failure}"),
        End::NotStarted(error) => return Err(error),
        End::Asked => {}
    }
    if stopped.is_err() {
        bail!(
            "{} did not end within {} s (a disk may hang): stopped without waiting any longer; nothing \
             acknowledged is lost",
            step.get(),
            limit.as_secs()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use granary_blob::BlobConfig;
    use parking_lot::Condvar;
    use tokio::sync::Notify;

    use super::*;

    /// A process that never gets through its start.
    #[derive(Default)]
    struct Waiting {
        readiness: Readiness,
        fails: bool,
        breaks: bool,
        hangs: bool,
        begun: Arc<Notify>,
        stopped: Arc<AtomicBool>,
    }

    impl Running for Waiting {
        fn readiness(&self) -> &Readiness {
            &self.readiness
        }

        async fn complete(&self, _: &Runtime) -> anyhow::Result<()> {
            self.begun.notify_one();
            match self.breaks {
                true => bail!("given up for good"),
                false => std::future::pending().await,
            }
        }

        async fn failed(&self) -> String {
            match self.fails {
                true => "the disk is gone".to_owned(),
                false => std::future::pending().await,
            }
        }

        async fn stop(self, _: &Runtime, step: &Step) {
            step.set("handing over");
            self.stopped.store(true, Ordering::SeqCst);
            if self.hangs {
                std::future::pending().await
            }
        }
    }

    /// How a process ends that is asked to stop while it completes its start, or never, and whether it was stopped in order.
    async fn ends(asked: bool, process: Waiting) -> (String, bool) {
        let (begun, stopped) = (Arc::clone(&process.begun), Arc::clone(&process.stopped));
        let signal = async {
            match asked {
                true => begun.notified().await,
                false => std::future::pending().await,
            }
            "SIGTERM"
        };
        let runtime = Runtime::system();
        let starting = std::future::ready(Ok(process));
        let outcome = run_until(&runtime, Duration::ZERO, signal, starting).await;
        let said = outcome.err().map(|error| error.to_string());
        (said.unwrap_or_default(), stopped.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_waits_for_others_is_stopped_in_order_too() {
        let waiting = Waiting::default;
        assert_eq!(ends(true, waiting()).await, (String::new(), true));
        let fails = Waiting {
            fails: true,
            ..waiting()
        };
        let (said, stopped) = ends(false, fails).await;
        assert!(said.contains("the disk is gone") && stopped, "{said}");
        let breaks = Waiting {
            breaks: true,
            ..waiting()
        };
        let (said, stopped) = ends(false, breaks).await;
        assert!(said.contains("given up for good") && stopped, "{said}");
        let hangs = Waiting {
            hangs: true,
            ..waiting()
        };
        let (said, _) = ends(true, hangs).await;
        assert!(said.starts_with("handing over did not end"), "{said}");
    }

    #[test]
    fn calls_that_hang_in_disks_leave_threads_to_the_others() {
        let calls = 16 * BlobConfig::for_cluster("test").calls_max();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let begun = Arc::new(AtomicUsize::new(0));
        let executor = executor(calls).unwrap();
        executor.block_on(async {
            let runtime = Runtime::system();
            for _ in 0..calls {
                let (pool, gate, begun) = (runtime.clone(), gate.clone(), begun.clone());
                let hang = move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let mut open = gate.0.lock();
                    while !*open {
                        gate.1.wait(&mut open);
                    }
                };
                runtime.spawn(async move { pool.blocking(hang).await });
            }
            let answered = async {
                while begun.load(Ordering::SeqCst) < calls {
                    runtime.sleep(Duration::from_millis(5)).await;
                }
                runtime.blocking(|| ()).await
            };
            let answered = within(Duration::from_secs(60), answered).await;
            *gate.0.lock() = true;
            gate.1.notify_all();
            assert!(matches!(answered, Ok(Ok(()))), "it waits for disks");
        });
    }
}
