//! Runs seeds of the simulation, each in a process of its own.
//!
//! `cargo test --release -p granary-sim` runs a hundred of them. `GRANARY_SIM_SEEDS=0..1000` or
//! `=500` chooses others, `GRANARY_SIM_SEED=17` one, with its events counted; `GRANARY_SIM_LOG=debug`
//! adds its log lines. The first, a middle and the last seed are run twice, and both runs must be
//! the same.
//!
//! Why processes: tokio's `select!` and the standard library's hash maps draw their randomness from
//! the operating system, with process-wide counters on top. Here that source is the seed (see
//! `getrandom` below), and every run begins with the same counters.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's own main: it prints its verdicts, reads its environment and its clock"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_sim::Findings;
use granary_sim::run::{Report, error_lines, run};
use parking_lot::Mutex;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

/// Seeds of an ordinary run.
const SEEDS: u64 = 100;
/// A seed that takes longer than this hangs.
const WALL_CLOCK_MAX: Duration = Duration::from_secs(120);
/// How a child is told its seed.
const CHILD: &str = "--child-seed";

/// What this process takes for the operating system's randomness.
static OS_RANDOMNESS: AtomicU64 = AtomicU64::new(0x5eed);

/// The C library's `getrandom`, for this test binary alone: the standard library looks the symbol
/// up weakly so that it can be interposed. Without it hash maps and `tokio::select!` would differ
/// from run to run.
#[allow(
    unsafe_code,
    reason = "a C function can only be defined so; it fills the caller's buffer"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller of `getrandom` passes a buffer of `length` writable bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for piece in bytes.chunks_mut(8) {
        let mut z = OS_RANDOMNESS.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        piece.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..piece.len()]);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if let Some(at) = arguments.iter().position(|argument| argument == CHILD) {
        let seed = arguments
            .get(at + 1)
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(0);
        return child(seed);
    }
    if let Ok(seed) = std::env::var("GRANARY_SIM_SEED") {
        let seed = seed.parse().expect("GRANARY_SIM_SEED is a number");
        let output = spawn(seed);
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return if output.status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    parent()
}

fn chosen() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("GRANARY_SIM_SEEDS") else {
        return 0..SEEDS;
    };
    let number = |text: &str| text.parse().expect("GRANARY_SIM_SEEDS is N or FROM..TO");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

fn spawn(seed: u64) -> Output {
    let this = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(this).args([CHILD, &seed.to_string()]).output();
    output.expect("this program can be started once more")
}

fn parent() -> ExitCode {
    let seeds = chosen();
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let verdicts = Mutex::new(BTreeMap::new());
    let jobs = std::env::var("GRANARY_SIM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok());
    let jobs = jobs
        .or(std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let output = spawn(seed);
                    if !output.status.success() {
                        println!("{}", String::from_utf8_lossy(&output.stdout));
                        println!("{}", String::from_utf8_lossy(&output.stderr));
                        println!("{}", rerun(seed));
                        failed.lock().push(seed);
                    }
                    let verdict = verdict_line(&output);
                    println!("{verdict}");
                    verdicts.lock().insert(seed, verdict);
                }
            });
        }
    });
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    let verdicts = verdicts.into_inner();
    let twice = BTreeSet::from([
        seeds.start,
        seeds.start.midpoint(seeds.end),
        seeds.end.saturating_sub(1),
    ]);
    let differing: Vec<u64> = twice
        .into_iter()
        .filter(|seed| verdicts.get(seed) != Some(&verdict_line(&spawn(*seed))))
        .collect();
    if !differing.is_empty() {
        println!("seeds {differing:?} are not the same run twice: their events differ");
    }
    let seconds = began.elapsed().as_secs();
    println!(
        "simulation: seeds {seeds:?}, {} failed {failed:?}, {seconds} s",
        failed.len()
    );
    for seed in &failed {
        println!("{}", rerun(*seed));
    }
    if failed.is_empty() && differing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn rerun(seed: u64) -> String {
    format!("rerun: GRANARY_SIM_SEED={seed} cargo test --release -p granary-sim --test seeds")
}

/// The line that says what a run was: its seed, the digest of its events, its operations.
fn verdict_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find(|line| line.starts_with("seed "))
        .unwrap_or_default()
        .to_owned()
}

/// One run. A panic of the harness itself must not look like success.
fn child(seed: u64) -> ExitCode {
    std::thread::spawn(move || {
        std::thread::sleep(WALL_CLOCK_MAX);
        eprintln!("seed {seed} hangs: not done after {WALL_CLOCK_MAX:?}");
        std::process::exit(3);
    });
    let findings = Findings::default();
    show_logs(&findings);
    // From here on: logging has its randomness behind it, so that it does not change the run.
    OS_RANDOMNESS.store(
        seed.wrapping_add(1).wrapping_mul(0x2545_f491_4f6c_dd1d),
        Ordering::Relaxed,
    );
    // A thread whose hash keys are not drawn yet.
    let thread = std::thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(move || run(seed, findings));
    let report = thread.expect("a thread can be started").join();
    match report {
        Ok(report) => show(&report),
        Err(_) => {
            eprintln!("seed {seed}: the harness panicked");
            ExitCode::FAILURE
        }
    }
}

/// ERROR lines become findings; the others are shown if they are asked for.
fn show_logs(findings: &Findings) {
    let shown = std::env::var("GRANARY_SIM_LOG").ok().map(|filter| {
        let filter: Targets = filter.parse().expect("GRANARY_SIM_LOG is TARGET=LEVEL,...");
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .with_filter(filter)
    });
    let subscriber = tracing_subscriber::registry()
        .with(error_lines(findings.clone()).with_filter(LevelFilter::ERROR))
        .with(shown);
    tracing::subscriber::set_global_default(subscriber).expect("nobody has set one before");
}

fn show(report: &Report) -> ExitCode {
    let (operations, unknown) = report.operations;
    println!(
        "seed {} digest {:016x}: {operations} operations, {unknown} unknown, {} s simulated",
        report.seed,
        report.digest,
        report.simulated_ms / 1000
    );
    for (label, count) in &report.counts {
        println!("  {count:7} {label}");
    }
    for finding in &report.findings {
        println!("FOUND {finding}");
    }
    if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
