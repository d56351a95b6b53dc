//! The limit for PUTs in the benchmark: threads that append blocks to one file and share its syncs.
//!
//! `raw_writer --file FILE --block-bytes N [--threads N] [--seconds N]` makes FILE, which must not
//! exist, appends for a while, removes it, and prints one line of JSON. `cpu_seconds` in it is what the appending took,
//! without making the blocks and removing the file.
//!
//! An append is acknowledged when an fdatasync that *began* after its write has succeeded. One runs at a
//! time; whoever has written meanwhile shares the next one, and nobody waits for a timer. Room is
//! reserved as a disk's volumes do it: fallocate, in steps, so that the length of the file changes
//! once per step and not with every append. Every block has bytes of its own.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring tool outside the simulated world"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::FallocateFlags;
use rustix::time::{ClockId, clock_gettime};

/// As far apart, a block carries marks of its own.
const STAMP_EVERY_BYTES: usize = 4096;
/// Shorter than the shortest delayed acknowledgement of Linux (40 ms).
const SLOW: Duration = Duration::from_millis(35);

/// Appends blocks to one file from many threads that share its fdatasyncs, and prints how fast that was.
#[derive(Debug, Parser)]
struct Args {
    /// The file to append to; it must not exist, and is removed at the end.
    #[arg(long)]
    file: PathBuf,
    /// Bytes of one block, at least 16.
    #[arg(long)]
    block_bytes: usize,
    /// Threads, each with a block in memory and one append at a time.
    #[arg(short = 'T', long, default_value_t = 64)]
    threads: u32,
    /// How long to append.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Ends earlier when the file is as long as this.
    #[arg(long, default_value_t = 4 << 30)]
    file_bytes_max: u64,
    /// Step in which room is reserved, as `allocate_bytes` of a disk.
    #[arg(long, default_value_t = 64 << 20)]
    allocate_bytes: u64,
}

/// The file and what is known of it.
struct Log {
    file: File,
    allocate_bytes: u64,
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Default)]
struct State {
    end: u64,
    allocated: u64,
    syncing: bool,
    syncs_begun: u64,
    /// Every sync up to this one has ended well.
    syncs_ended: u64,
}

impl Log {
    fn create(path: &Path, allocate_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let log = Self {
            file,
            allocate_bytes,
            state: Mutex::default(),
            synced: Condvar::new(),
        };
        // A volume is durable with its first room before anything is appended.
        log.reserve(0)?;
        log.file.sync_all()?;
        Ok(log)
    }

    /// Appends a block, durably.
    fn append(&self, block: &[u8]) -> io::Result<()> {
        let offset = self.reserve(block.len() as u64)?;
        self.file.write_all_at(block, offset)?;
        self.sync()
    }

    /// Takes the next `length` bytes of the file.
    fn reserve(&self, length: u64) -> io::Result<u64> {
        let mut state = self.state.lock();
        let (start, end) = (state.end, state.end + length);
        if end >= state.allocated {
            let (from, ahead) = (
                state.allocated,
                (end / self.allocate_bytes + 1) * self.allocate_bytes,
            );
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, ahead - from)?;
            state.allocated = ahead;
        }
        state.end = end;
        Ok(start)
    }

    /// Waits for a sync that begins after this call, and runs it when no other thread does.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let wanted = state.syncs_begun + 1;
        while state.syncs_ended < wanted {
            if state.syncing {
                self.synced.wait(&mut state);
                continue;
            }
            state.syncing = true;
            state.syncs_begun += 1;
            let number = state.syncs_begun;
            let outcome = MutexGuard::unlocked(&mut state, || self.file.sync_data());
            state.syncing = false;
            self.synced.notify_all();
            outcome?;
            state.syncs_ended = number;
        }
        Ok(())
    }
}

/// When to stop.
#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    file_bytes: u64,
}

/// Appends up to the limit; how long each append took that was acknowledged in time.
fn append_until(
    limit: Limit,
    log: &Log,
    thread: u32,
    mut block: Vec<u8>,
) -> io::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for count in 0u64.. {
        stamp(&mut block, thread, count);
        let began = Instant::now();
        if began >= limit.at || log.state.lock().end >= limit.file_bytes {
            break;
        }
        log.append(&block)?;
        let ended = Instant::now();
        if ended <= limit.at {
            took.push(ended - began);
        }
    }
    Ok(took)
}

/// What a thread appends, but for the marks.
fn block_of(thread: u32, block_bytes: usize) -> Vec<u8> {
    let mut block = vec![0; block_bytes];
    granary_testkit::fill_random(&mut block, u64::from(thread) + 1);
    block
}

/// Makes a block different from all others, in every part of it.
fn stamp(block: &mut [u8], thread: u32, count: u64) {
    for piece in block.chunks_mut(STAMP_EVERY_BYTES) {
        if let Some(mark) = piece.first_chunk_mut::<12>() {
            mark[..4].copy_from_slice(&thread.to_le_bytes());
            mark[4..].copy_from_slice(&count.to_le_bytes());
        }
    }
}

/// The least value that so much of the sorted values does not exceed, in microseconds.
fn percentile_us(sorted: &[Duration], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among values that fit into memory"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let value = sorted.get(rank.max(1) - 1).copied().unwrap_or_default();
    value.as_secs_f64() * 1e6
}

fn run(args: &Args) -> io::Result<()> {
    let blocks: Vec<Vec<u8>> = (0..args.threads)
        .map(|thread| block_of(thread, args.block_bytes))
        .collect();
    let log = &Log::create(&args.file, args.allocate_bytes)?;
    let (began, cpu_before) = (Instant::now(), cpu_time());
    let limit = Limit {
        at: began + Duration::from_secs_f64(args.seconds),
        file_bytes: args.file_bytes_max,
    };
    let mut took = thread::scope(|scope| {
        let threads: Vec<_> = (0u32..)
            .zip(blocks)
            .map(|(thread, block)| scope.spawn(move || append_until(limit, log, thread, block)))
            .collect();
        let mut took = Vec::new();
        for thread in threads {
            let ended = thread.join();
            took.extend(ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?);
        }
        io::Result::Ok(took)
    })?;
    let seconds = began.elapsed().as_secs_f64().min(args.seconds);
    let cpu = cpu_time().saturating_sub(cpu_before);
    took.sort_unstable();
    report(args, seconds, cpu, &took, &log.state.lock());
    Ok(())
}

/// CPU time that this process has used so far.
fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    // It counts from zero upwards.
    Duration::new(
        u64::try_from(used.tv_sec).unwrap_or_default(),
        u32::try_from(used.tv_nsec).unwrap_or_default(),
    )
}

fn report(args: &Args, seconds: f64, cpu: Duration, took: &[Duration], state: &State) {
    let slow = took.iter().filter(|took| **took >= SLOW).count();
    let per_second = f64::from(u32::try_from(took.len()).unwrap_or(u32::MAX)) / seconds;
    let block_bytes = f64::from(u32::try_from(args.block_bytes).unwrap_or(u32::MAX));
    println!(
        "{{\"threads\":{},\"block_bytes\":{},\"seconds\":{seconds:.3},\"appends\":{},\"syncs\":{},\"written_bytes\":{},\
         \"appends_per_s\":{per_second:.1},\"mb_per_s\":{:.2},\
         \"p50_us\":{:.0},\"p90_us\":{:.0},\"p99_us\":{:.0},\"max_us\":{:.0},\"slow\":{slow},\"cpu_seconds\":{:.3}}}",
        args.threads,
        args.block_bytes,
        took.len(),
        state.syncs_ended,
        state.end,
        per_second * block_bytes / 1e6,
        percentile_us(took, 0.5),
        percentile_us(took, 0.9),
        percentile_us(took, 0.99),
        percentile_us(took, 1.0),
        cpu.as_secs_f64(),
    );
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let outcome = run(&args);
    if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
        std::fs::remove_file(&args.file)?;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_append_is_in_the_file_once_and_no_two_are_alike() {
        const BLOCK: usize = 8192;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::create(&path, 64 * 1024).unwrap();
        let limit = Limit {
            at: Instant::now() + Duration::from_secs(60),
            file_bytes: 100 * BLOCK as u64,
        };
        thread::scope(|scope| {
            for thread in 0..8 {
                let (log, block) = (&log, block_of(thread, BLOCK));
                scope.spawn(move || append_until(limit, log, thread, block).unwrap());
            }
        });
        let end = usize::try_from(log.state.lock().end).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() > end && bytes.len().is_multiple_of(64 * 1024));
        let halves: HashSet<&[u8]> = bytes[..end].chunks(BLOCK / 2).collect();
        assert_eq!((halves.len(), end % BLOCK), (end / (BLOCK / 2), 0));
        assert!((100 * BLOCK..108 * BLOCK).contains(&end));
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
        assert!((1..=108).contains(&log.state.lock().syncs_ended));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        let at = |share| percentile_us(&sorted, share);
        assert!((at(0.5) - 50.0).abs() < 1e-6 && (at(0.99) - 99.0).abs() < 1e-6);
        assert!((at(1.0) - 100.0).abs() < 1e-6 && percentile_us(&[], 0.5).abs() < 1e-6);
    }
}
