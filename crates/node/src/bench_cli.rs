//! `granary bench`: gives the measuring client its words, its variables and a way to be told that it is over.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use granary_bench::{BenchArgs, Console, Verdict};
use granary_runtime::{CancellationToken, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{complain, complain_if_read, descriptors, print_if_read};

/// A request failed, or an object is still there.
const FAILED: u8 = 3;
/// What a shell shows of a process that SIGINT has ended.
const INTERRUPTED: u8 = 128 + 2;

/// Runs it; the exit code says how it went.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    // A connection that there is no room for says so itself.
    let _ = descriptors::raise();
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = threads.block_on(Box::pin(measure(args)));
    threads.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn measure(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let (runtime, stop) = (Runtime::system(), CancellationToken::new());
    let interrupt = signal(SignalKind::interrupt())?;
    let terminate = signal(SignalKind::terminate())?;
    runtime.spawn(obey(interrupt, terminate, stop.clone()));
    let variable = |name: &str| std::env::var_os(name)?.into_string().ok();
    // Nobody reads it any more: there is no use in going on.
    let end_unless = |read: io::Result<()>| {
        if read.is_err() {
            stop.cancel();
        }
    };
    let console = Console {
        out: &|text| end_unless(print_if_read(text)),
        err: &|text| end_unless(complain_if_read(text)),
    };
    let verdict = granary_bench::run(args, &variable, &console, &runtime, &stop).await?;
    Ok(match verdict {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::from(FAILED),
        Verdict::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// The first signal ends the run in good order, the second at once.
async fn obey(mut interrupt: Signal, mut terminate: Signal, stop: CancellationToken) {
    let mut wait = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    wait().await;
    stop.cancel();
    complain("granary: ending; what was stored is deleted now (another signal ends it at once)");
    wait().await;
    std::process::exit(INTERRUPTED.into());
}
