//! Deleted rows that scans have to step over.
//!
//! RocksDB deletes by writing: until a compaction has met both, a deleted row and its tombstone stay, and a scan
//! steps over each. Compactions come with writes elsewhere, so after a million deletions every scan of that
//! interval could take tenths of a second for as long as nobody writes. Collectors that have files compacted for
//! the tombstones in them do not help: rows of all kinds share a file. So scans count what they step over, and an
//! interval that is nearly all tombstones is compacted, in the background. (RocksDB 11 can make one range of a run of
//! tombstones as it reads them, `min_tombstones_for_range_conversion`: too new to be trusted with the only copy.)

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use granary_kv::{Direction, Space};
use parking_lot::{Condvar, Mutex};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB};

/// Tombstones stepped over, since the scan began or the last interval was reported, that make it worth a compaction:
/// some milliseconds.
const SKIPPED_MIN: u64 = 20_000;

/// As many of them for each row that was returned.
const SKIPPED_PER_ROW: u64 = 8;

/// Between two compactions: while a snapshot keeps the tombstones, scans report the same interval again.
const REST: Duration = Duration::from_secs(30);

/// From one key to another; `None` is an end of the space.
struct Interval {
    space: Space,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

/// Compacts what scans report, one interval at a time, on a thread of its own.
pub(crate) struct Reclaimer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    /// The interval reported last.
    interval: Option<Interval>,
    closing: bool,
}

impl Reclaimer {
    /// # Errors
    /// When the operating system has no thread to give.
    pub(crate) fn start(db: Arc<DB>) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let reports = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("reclaim".into())
            .spawn(move || reclaim(&db, &reports))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits for the compaction that is under way: cancel the database's background work first.
    pub(crate) fn stop(&mut self) {
        self.shared.wanted.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the database closes all the same.
            let _ = thread.join();
        }
    }

    fn report(&self, interval: Interval) {
        self.shared.wanted.lock().interval = Some(interval);
        self.shared.changed.notify_all();
    }
}

fn reclaim(db: &DB, shared: &Shared) {
    loop {
        let mut wanted = shared.wanted.lock();
        shared.changed.wait_while(&mut wanted, |wanted| {
            wanted.interval.is_none() && !wanted.closing
        });
        if wanted.closing {
            return;
        }
        let interval = wanted.interval.take();
        drop(wanted);
        if let Some(interval) = interval {
            compact(db, &interval);
        }
        let mut wanted = shared.wanted.lock();
        let resting = |wanted: &mut Wanted| !wanted.closing;
        shared.changed.wait_while_for(&mut wanted, resting, REST);
        // It may be what was compacted just now.
        wanted.interval = None;
    }
}

fn compact(db: &DB, interval: &Interval) {
    let Some(family) = db.cf_handle(interval.space.name()) else {
        return;
    };
    let mut options = CompactOptions::default();
    // Automatic ones go on beside it.
    options.set_exclusive_manual_compaction(false);
    // Otherwise files may be moved to the last level as they are, and stay.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    let (start, end) = (interval.start.as_ref(), interval.end.as_ref());
    db.compact_range_cf_opt(&family, start, end, &options);
}

/// What a thread has stepped over so far, in all its reads.
pub(crate) fn skipped_by_this_thread() -> u64 {
    thread_local! {
        static COUNTERS: PerfContext = {
            set_perf_stats(PerfStatsLevel::EnableCount);
            PerfContext::default()
        };
    }
    COUNTERS.with(|counters| counters.metric(PerfMetric::InternalDeleteSkippedCount))
}

/// Counts what one scan steps over.
pub(crate) struct Watch<'a> {
    reclaimer: &'a Reclaimer,
    space: Space,
    direction: Direction,
    /// Where counting began, in the scan's direction; `None` is an end of the space.
    from: Option<Vec<u8>>,
    /// Where the scan ends.
    to: Option<Vec<u8>>,
    skipped: u64,
    rows: u64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        reclaimer: &'a Reclaimer,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Self {
        let (start, end) = (Some(start.to_vec()), end.map(<[u8]>::to_vec));
        let (from, to) = match direction {
            Direction::Forward => (start, end),
            Direction::Backward => (end, start),
        };
        Self {
            reclaimer,
            space,
            direction,
            from,
            to,
            skipped: 0,
            rows: 0,
        }
    }

    /// The scan has gone on to `row`, or to its end, and this thread had stepped over `before`.
    pub(crate) fn went_on(&mut self, before: u64, row: Option<&[u8]>) {
        self.skipped += skipped_by_this_thread().saturating_sub(before);
        self.rows += 1;
        if self.skipped < SKIPPED_MIN.max(self.rows * SKIPPED_PER_ROW) {
            return;
        }
        let to = row.map(<[u8]>::to_vec).or_else(|| self.to.clone());
        let from = std::mem::replace(&mut self.from, to.clone());
        let (start, end) = match self.direction {
            Direction::Forward => (from, to),
            Direction::Backward => (to, from),
        };
        self.reclaimer.report(Interval {
            space: self.space,
            start,
            end,
        });
        (self.skipped, self.rows) = (0, 0);
    }
}
