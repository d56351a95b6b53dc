//! How fast one process copies chunks to make others good. That such copies wait for clients is up to
//! each disk, which knows of them.
//!
//! Invariants: no disk gives or takes more for repair by this process than its share, however many
//! workers and groups ask for it at once; and what is on its way takes a small part of the memory that
//! clients write with. Jobs that other processes lead have a pace of their own.

use std::collections::HashMap;
use std::time::Duration;

use granary_runtime::Runtime;
use granary_types::DiskId;
use granary_types::limits::CHUNK_BYTES_MAX;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What a disk that had nothing to do may be ahead of its pace.
const AHEAD_MAX: Duration = Duration::from_millis(250);

/// Chunks that are copied at once, where memory allows for them.
const COPIES_AT_ONCE: usize = 12;
/// The share of the memory for writes that they may take.
const MEMORY_SHARE: u64 = 4;

/// The pace of a process.
#[derive(Debug)]
pub(crate) struct RepairPace {
    /// When each disk may move the next bytes (monotonic); those at rest are left out.
    next: Mutex<HashMap<DiskId, Duration>>,
    places: Semaphore,
}

impl RepairPace {
    /// A process in which so many bytes may be on their way to disks.
    pub(crate) fn beside_writes(buffer_bytes: u64) -> Self {
        let chunks = buffer_bytes / MEMORY_SHARE / CHUNK_BYTES_MAX as u64;
        Self {
            next: Mutex::default(),
            places: Semaphore::new((chunks as usize).clamp(1, COPIES_AT_ONCE)),
        }
    }

    /// Waits until these disks may move `bytes`, which count as moved from then on; then for a place
    /// among those that are on their way, which is held by what is returned.
    pub(crate) async fn turn(
        &self,
        runtime: &Runtime,
        disks: impl IntoIterator<Item = DiskId>,
        bytes: u64,
        bytes_per_sec: u64,
    ) -> Option<SemaphorePermit<'_>> {
        let now = runtime.monotonic();
        let takes_us = bytes.saturating_mul(1_000_000) / bytes_per_sec.max(1);
        let at = self.reserve(disks, Duration::from_micros(takes_us), now);
        runtime.sleep(at.saturating_sub(now)).await;
        self.places.acquire().await.ok()
    }

    fn reserve(
        &self,
        disks: impl IntoIterator<Item = DiskId>,
        takes: Duration,
        now: Duration,
    ) -> Duration {
        let earliest = now.saturating_sub(AHEAD_MAX);
        let mut next = self.next.lock();
        next.retain(|_, at| *at > earliest);
        let mut begin = now;
        for disk in disks {
            let at = next.entry(disk).or_insert(earliest);
            begin = begin.max(*at);
            *at += takes;
        }
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_keeps_its_own_pace_and_saves_nothing_up() {
        let pace = RepairPace::beside_writes(1 << 30);
        let ms = Duration::from_millis;
        let (a, b, c) = (DiskId(1), DiskId(2), DiskId(3));
        let mut now = ms(10_000);
        let mut begin = Vec::new();
        for _ in 0..4 {
            begin.push(pace.reserve([a, b], ms(200), now));
        }
        assert_eq!(begin, [10_000, 10_000, 10_150, 10_350].map(ms));
        // Another disk does not wait for them, nor does a copy between it and one of them less.
        assert_eq!(pace.reserve([c], ms(200), now), now);
        assert_eq!(pace.reserve([c, b], ms(200), now), ms(10_550));
        // After a rest it begins where a new one does.
        now = ms(60_000);
        assert_eq!(pace.reserve([a], ms(200), now), now);
        assert_eq!(pace.reserve([a], ms(200), now), now);
        assert_eq!(pace.reserve([a], ms(200), now), ms(60_150));
        assert_eq!(pace.next.lock().len(), 1);
    }
}
