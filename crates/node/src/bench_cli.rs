//! `granary bench`: gives the measuring client its words, its variables and a way to be told that it is over.

use std::future::poll_fn;
use std::io;
use std::process::ExitCode;
use std::task::Poll;
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
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !outlives_its_terminal() {
        kinds.push(SignalKind::hangup());
    }
    let signals: io::Result<Vec<_>> = kinds.into_iter().map(signal).collect();
    runtime.spawn(obey(signals?, stop.clone()));
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

/// Whether whoever started it wants it to go on without its terminal, as nohup does: SIGHUP is ignored then.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first bit is that of signal 1.
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// The first signal ends the run in good order, the second at once.
async fn obey(mut signals: Vec<Signal>, stop: CancellationToken) {
    let mut wait = async || {
        poll_fn(|cx| {
            let came = |signal: &mut Signal| signal.poll_recv(cx).is_ready();
            match signals.iter_mut().any(came) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    };
    wait().await;
    stop.cancel();
    complain("granary: ending; what was stored is deleted now (another signal ends it at once)");
    wait().await;
    std::process::exit(INTERRUPTED.into());
}
