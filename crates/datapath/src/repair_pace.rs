//! How fast chunks are copied to make others good: what clients do goes first.
//!
//! Invariants: no disk gives or takes more for repair by this process than its share, however many
//! workers and groups ask for it at once; and what is on its way takes a small part of the memory that
//! clients write with. Jobs that other processes lead have a pace of their own.
//!
//! What makes a copy wait makes clients wait, too. So a disk's share shrinks while copies take much
//! longer than the fastest ones of the last minutes, and grows again while they do not, as LEDBAT
//! (RFC 6817) does it for transfers in the background. It never shrinks so far that a repair would not end.

use std::collections::HashMap;
use std::time::Duration;

use granary_runtime::Runtime;
use granary_types::DiskId;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::REPAIR_BYTES_PER_SEC_MIN;

/// What a disk that had nothing to do may be ahead of its pace.
const AHEAD_MAX: Duration = Duration::from_millis(250);
/// Chunks that are copied at once.
const COPIES_AT_ONCE: usize = 12;
/// A copy takes as long as one of so many bytes more would take without its syncs and messages.
const COPY_OVERHEAD_BYTES: u64 = 1024 * 1024;
/// So many times as long as the fastest ones take copies where somebody else is served.
const SLOW_FACTOR: u64 = 3;
/// A share in full.
const FULL: u64 = 1024;
/// What a share shrinks to by one copy that is slow, in parts of [`FULL`].
const SHRINK: u64 = FULL / 8 * 7;
/// What it grows by with one that is not.
const GROW: u64 = FULL / 32;
/// The smallest share.
const SHARE_MIN: u64 = FULL / 4;
/// What the fastest copy is remembered for, at least; a disk that has no copies is forgotten after that.
const REMEMBERED: Duration = Duration::from_secs(180);

/// The pace of a process.
#[derive(Debug)]
pub(crate) struct RepairPace {
    disks: Mutex<HashMap<DiskId, DiskPace>>,
    places: Semaphore,
}

/// The pace of one disk.
#[derive(Clone, Copy, Debug)]
struct DiskPace {
    /// When it may move the next bytes (monotonic).
    next: Duration,
    /// What it may move of the most it may, in parts of [`FULL`].
    share: u64,
    /// Time per MiB of the fastest copies, in microseconds, of the present period and the one before.
    fastest_us: [u64; 2],
    /// When the present period began (monotonic).
    since: Duration,
}

/// A copy whose turn it is. Holds a place among those on their way.
#[must_use]
pub(crate) struct Turn<'a> {
    pace: &'a RepairPace,
    disks: Vec<DiskId>,
    bytes: u64,
    began: Duration,
    _place: SemaphorePermit<'a>,
}

impl Turn<'_> {
    /// The chunk is copied: how long that took says how busy its disks are.
    pub(crate) fn done(self, runtime: &Runtime) {
        let now = runtime.monotonic();
        let took = now.saturating_sub(self.began);
        self.pace.note(&self.disks, self.bytes, took, now);
    }
}

impl Default for RepairPace {
    fn default() -> Self {
        Self {
            disks: Mutex::default(),
            places: Semaphore::new(COPIES_AT_ONCE),
        }
    }
}

impl RepairPace {
    /// Waits until these disks may move `bytes`, which count as moved from then on; then for a place
    /// among those that are on their way.
    pub(crate) async fn turn(
        &self,
        runtime: &Runtime,
        disks: impl IntoIterator<Item = DiskId>,
        bytes: u64,
        bytes_per_sec: u64,
    ) -> Option<Turn<'_>> {
        let (now, disks) = (runtime.monotonic(), disks.into_iter().collect::<Vec<_>>());
        let at = self.reserve(&disks, bytes, bytes_per_sec, now);
        runtime.sleep(at.saturating_sub(now)).await;
        let place = self.places.acquire().await.ok()?;
        Some(Turn {
            pace: self,
            disks,
            bytes,
            began: runtime.monotonic(),
            _place: place,
        })
    }

    fn reserve(&self, disks: &[DiskId], bytes: u64, bytes_per_sec: u64, now: Duration) -> Duration {
        let earliest = now.saturating_sub(AHEAD_MAX);
        let mut all = self.disks.lock();
        all.retain(|_, disk| disk.next + REMEMBERED > now);
        let mut begin = now;
        for disk in disks {
            let disk = all.entry(*disk).or_insert(DiskPace::new(now));
            disk.next = disk.next.max(earliest);
            begin = begin.max(disk.next);
            disk.next += disk.takes(bytes, bytes_per_sec);
        }
        begin
    }

    fn note(&self, disks: &[DiskId], bytes: u64, took: Duration, now: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let per_mib = took_us.saturating_mul(1024 * 1024) / (bytes + COPY_OVERHEAD_BYTES);
        let mut all = self.disks.lock();
        for disk in disks {
            if let Some(disk) = all.get_mut(disk) {
                disk.note(per_mib.max(1), now);
            }
        }
    }
}

impl DiskPace {
    fn new(now: Duration) -> Self {
        Self {
            next: now.saturating_sub(AHEAD_MAX),
            share: FULL,
            fastest_us: [u64::MAX; 2],
            since: now,
        }
    }

    /// How long it moves so many bytes.
    fn takes(&self, bytes: u64, bytes_per_sec: u64) -> Duration {
        let slowest = REPAIR_BYTES_PER_SEC_MIN.min(bytes_per_sec);
        let rate = u128::from(bytes_per_sec) * u128::from(self.share) / u128::from(FULL);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(slowest).max(1);
        Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
    }

    /// A copy took so long per MiB.
    fn note(&mut self, per_mib_us: u64, now: Duration) {
        if now.saturating_sub(self.since) >= REMEMBERED {
            self.fastest_us = [u64::MAX, self.fastest_us[0]];
            self.since = now;
        }
        self.fastest_us[0] = self.fastest_us[0].min(per_mib_us);
        let fastest = self.fastest_us[0].min(self.fastest_us[1]);
        self.share = match per_mib_us / SLOW_FACTOR > fastest {
            true => (self.share * SHRINK / FULL).max(SHARE_MIN),
            false => (self.share + GROW).min(FULL),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn each_disk_keeps_its_own_pace_and_saves_nothing_up() {
        let pace = RepairPace::default();
        let (a, b, c) = (DiskId(1), DiskId(2), DiskId(3));
        // A fifth of a second each.
        let reserve = |disks: &[DiskId], now| pace.reserve(disks, 20 * MIB, 100 * MIB, now);
        let mut now = ms(10_000);
        let mut begin = Vec::new();
        for _ in 0..4 {
            begin.push(reserve(&[a, b], now));
        }
        assert_eq!(begin, [10_000, 10_000, 10_150, 10_350].map(ms));
        // Another disk does not wait for them, nor does a copy between it and one of them less.
        assert_eq!(reserve(&[c], now), now);
        assert_eq!(reserve(&[c, b], now), ms(10_550));
        // After a rest it begins where a new one does.
        now = ms(600_000);
        assert_eq!(reserve(&[a], now), now);
        assert_eq!(reserve(&[a], now), now);
        assert_eq!(reserve(&[a], now), now + ms(150));
        assert_eq!(pace.disks.lock().len(), 1);
    }

    #[test]
    fn where_copies_wait_for_others_there_are_fewer_of_them() {
        let pace = RepairPace::default();
        let disk = DiskId(1);
        let mut now = ms(10_000);
        // What 4 MiB are from the next ones, of 128 MiB per second.
        let mut spacing = |took: Duration, times: usize| {
            let mut spaces = Vec::new();
            for _ in 0..times {
                now += ms(1000);
                pace.reserve(&[disk], 4 * MIB, 128 * MIB, now);
                pace.note(&[disk], 4 * MIB, took, now);
                spaces.push(pace.disks.lock()[&disk].takes(4 * MIB, 128 * MIB));
            }
            spaces
        };
        assert_eq!(
            spacing(ms(20), 3),
            [ms(31), ms(31), ms(31)].map(|t| t + Duration::from_micros(250))
        );
        // Twice as long is the disk's own doing.
        assert!(spacing(ms(45), 3).iter().all(|space| *space < ms(32)));
        // Clients are served: it goes down as far as may be, and up again when they are gone.
        let busy = spacing(ms(90), 30);
        assert!(busy[0] > ms(35) && busy[0] < ms(37), "{busy:?}");
        assert_eq!(busy[29], ms(125));
        let alone = spacing(ms(20), 40);
        assert!(alone[0] < ms(125) && alone[39] < ms(32), "{alone:?}");
        // What is slow for minutes is how the disk is.
        let slow = spacing(ms(90), 600);
        assert!(slow[30] == ms(125) && slow[599] < ms(32), "{slow:?}");
    }
}
