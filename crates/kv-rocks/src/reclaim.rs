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
use granary_runtime::{Clock as _, SystemClock};
use parking_lot::{Condvar, Mutex};
use rocksdb::perf::{PerfContext, PerfMetric};
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB};

/// Tombstones stepped over, since the scan began or the last interval was reported, that make it worth a compaction:
/// some milliseconds.
const SKIPPED_MIN: u64 = 20_000;

/// As many of them for each row that was returned.
const SKIPPED_PER_ROW: u64 = 8;

/// Rest after a compaction, in times of what it took: the rows between tombstones, and the file of the last level
/// that a short interval lies in, are written again each time, so a tenth of the time is for it and no more.
const REST_SHARE: u32 = 9;
/// The shortest rest.
const REST_MIN: Duration = Duration::from_secs(1);

/// From one key to another; `None` is an end of the space.
struct Interval {
    space: Space,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    /// No tombstone that was stepped over in it is younger.
    sequence: u64,
}

/// Compacts what scans report, one interval at a time, on a thread of its own.
pub(crate) struct Reclaimer {
    db: Arc<DB>,
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
        let (database, reports) = (Arc::clone(&db), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("reclaim".into())
            .spawn(move || reclaim(&database, &reports))?;
        Ok(Self {
            db,
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

impl Shared {
    /// The next interval; `None` when the database closes.
    fn next(&self) -> Option<Interval> {
        let mut wanted = self.wanted.lock();
        let idle = |wanted: &mut Wanted| wanted.interval.is_none() && !wanted.closing;
        self.changed.wait_while(&mut wanted, idle);
        if wanted.closing {
            return None;
        }
        wanted.interval.take()
    }

    /// Waits, and forgets what was reported meanwhile: it may be gone. Where it is not, a scan reports it again.
    /// False when the database closes.
    fn rest(&self, time: Duration) -> bool {
        let mut wanted = self.wanted.lock();
        let resting = |wanted: &mut Wanted| !wanted.closing;
        self.changed.wait_while_for(&mut wanted, resting, time);
        wanted.interval = None;
        !wanted.closing
    }
}

fn reclaim(db: &DB, shared: &Shared) {
    while let Some(interval) = shared.next() {
        while is_kept(db, &interval) {
            if !shared.rest(REST_MIN) {
                return;
            }
        }
        let began = SystemClock.monotonic();
        compact(db, &interval);
        let took = SystemClock.monotonic().saturating_sub(began);
        shared.rest(REST_MIN.max(took * REST_SHARE));
    }
}

/// Whether a snapshot may be older than some of the tombstones: a compaction would only write them again.
fn is_kept(db: &DB, interval: &Interval) -> bool {
    // Zero where there is no snapshot.
    let oldest = db.property_int_value(c"rocksdb.oldest-snapshot-sequence");
    oldest.is_ok_and(|oldest| oldest.is_some_and(|oldest| (1..interval.sequence).contains(&oldest)))
}

fn compact(db: &DB, interval: &Interval) {
    let Some(family) = db.cf_handle(interval.space.name()) else {
        return;
    };
    let mut options = CompactOptions::default();
    // An exclusive one keeps automatic ones from starting until it is through with the whole interval.
    options.set_exclusive_manual_compaction(false);
    // Otherwise files may be moved to the last level as they are, and stay.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    let (start, end) = (interval.start.as_ref(), interval.end.as_ref());
    db.compact_range_cf_opt(&family, start, end, &options);
}

/// What a thread has stepped over so far, in all its reads.
pub(crate) fn skipped_by_this_thread() -> u64 {
    thread_local! {
        // Counting is on unless it is turned off.
        static COUNTERS: PerfContext = PerfContext::default();
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
            sequence: self.reclaimer.db.latest_sequence_number(),
        });
        (self.skipped, self.rows) = (0, 0);
    }
}
