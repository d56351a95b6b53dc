//! Which volume is worth a compaction, and what that gives back.
//!
//! While clients write, only volumes with a large dead share are taken: what lives in them has to be
//! written again. A disk that nobody writes to takes smaller ones as well, down to a floor that
//! bounds what is written for a byte that comes back, whatever trickle of deletions runs. What is
//! below the floor is not counted as reclaimable. Invariant: the gain of a volume is never more than
//! what its compaction gives back, but for notes that were forgotten since they were written; those
//! are counted once they were moved. So no sequence of compactions goes on for ever.

use super::{STEP_BYTES, STEP_RECORDS, Stuck};
use crate::config::{IDLE_DEAD_PERCENT, IDLE_GAIN_MIN};
use crate::disk::Disk;
use crate::format::{HEADER_BYTES, NOTE_BYTES, PAGE_BYTES, TOMBSTONES_PER_RECORD, VolumeStats};

/// Share of dead bytes, in percent, from which a full disk compacts a volume.
const FULL_DEAD_PERCENT: u64 = 5;

// What a step looks at bounds it as what it moves does; see `note_bytes_max`.
const _: () = assert!(STEP_RECORDS as u64 * PAGE_BYTES == STEP_BYTES);

/// A volume that gives something back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) volume: u32,
    stats: VolumeStats,
    /// Bytes that come back, the new places of what lives taken off.
    gain: u64,
    /// An older volume holds dead chunks.
    older_dead: bool,
}

/// Bytes of records that `notes` tombstones and epochs take after they were moved out of a volume
/// with `used_bytes`, at most. A step writes one record of each kind, and those that are full.
fn note_bytes_max(notes: u64, used_bytes: u64) -> u64 {
    let steps = 2 * (used_bytes / STEP_BYTES) + 1;
    let records = 2 * steps + notes / TOMBSTONES_PER_RECORD as u64;
    let together = notes * NOTE_BYTES as u64 + records * (HEADER_BYTES as u64 + PAGE_BYTES);
    together.min(notes * PAGE_BYTES)
}

impl Candidate {
    fn new(volume: u32, stats: VolumeStats, older_dead: bool) -> Self {
        // Forgotten tombstones are there for older records only.
        let kept_notes = if older_dead { stats.kept_notes } else { 0 };
        let notes = note_bytes_max(stats.live_notes + kept_notes, stats.used_bytes);
        let stays = stats.live_chunk_bytes + notes;
        Self {
            volume,
            stats,
            gain: stats.used_bytes.saturating_sub(stays),
            older_dead,
        }
    }

    fn is_share(&self, percent: u64) -> bool {
        self.gain > 0 && self.gain * 100 >= self.stats.used_bytes * percent
    }

    fn percent(&self) -> u64 {
        self.gain * 100 / self.stats.used_bytes.max(1)
    }

    /// Whether it is worth it while clients write.
    fn is_due(&self, disk: &Disk, active: Option<u32>) -> bool {
        let config = disk.config();
        let percent = if disk.is_full() {
            FULL_DEAD_PERCENT
        } else {
            u64::from(config.compact_dead_percent)
        };
        // The active volume only when it is worth ending.
        let ends = active != Some(self.volume) || self.gain >= config.volume_bytes / 8;
        self.is_share(percent) && ends
    }

    /// Whether it is worth it when nobody writes.
    fn is_due_when_idle(&self, disk: &Disk) -> bool {
        let percent = IDLE_DEAD_PERCENT.min(disk.config().compact_dead_percent);
        let is_dead = self.gain == self.stats.used_bytes;
        self.is_share(u64::from(percent)) && (is_dead || self.gain >= IDLE_GAIN_MIN)
    }

    /// Whether it was tried in vain and nothing changed since.
    fn is_stuck(&self, stuck: Option<&Stuck>) -> bool {
        stuck.is_some_and(|stuck| {
            stuck.stats == self.stats && (!stuck.waits_for_older || self.older_dead)
        })
    }
}

/// Every volume that may be compacted, oldest first.
fn candidates(disk: &Disk) -> Vec<Candidate> {
    let mut older_dead = false;
    let mut candidates = Vec::new();
    let stuck = disk.stuck.lock();
    for (volume, stats) in disk.index().volumes() {
        let candidate = Candidate::new(volume, stats, older_dead);
        if !candidate.is_stuck(stuck.get(&volume)) {
            candidates.push(candidate);
        }
        older_dead |= stats.has_dead_chunks();
    }
    candidates
}

/// The volume with the largest dead share, of equal ones the oldest, if any is worth it.
pub(super) fn pick(disk: &Disk) -> Option<Candidate> {
    let (active, idle) = (disk.active_volume(), disk.is_idle());
    let due = |candidate: &Candidate| {
        candidate.is_due(disk, active) || (idle && candidate.is_due_when_idle(disk))
    };
    // The last of equal ones wins.
    let due = candidates(disk).into_iter().rev().filter(due);
    due.max_by_key(Candidate::percent)
}

/// Bytes that compaction gives back as soon as the disk is idle.
pub(crate) fn reclaimable_bytes(disk: &Disk) -> u64 {
    let active = disk.active_volume();
    let due =
        |candidate: &&Candidate| candidate.is_due_when_idle(disk) || candidate.is_due(disk, active);
    let candidates = candidates(disk);
    candidates.iter().filter(due).map(|due| due.gain).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compaction may not find work in what it wrote itself.
    #[test]
    fn notes_that_were_just_moved_gain_nothing() {
        for (tombstones, epochs) in [(0, 1), (1, 0), (1, 1), (63, 63), (1024, 1), (5000, 300)] {
            let record = |notes: u64| match notes {
                0 => 0,
                notes => crate::format::pages(HEADER_BYTES as u64 + notes * NOTE_BYTES as u64),
            };
            let full = tombstones / 1024 * record(1024);
            let stats = VolumeStats {
                used_bytes: full + record(tombstones % 1024) + record(epochs),
                live_notes: tombstones + epochs,
                ..VolumeStats::default()
            };
            let gain = Candidate::new(1, stats, true).gain;
            assert_eq!(gain, 0, "{tombstones} tombstones, {epochs} epochs");
        }
    }

    #[test]
    fn forgotten_tombstones_are_dead_when_nothing_older_is() {
        let stats = VolumeStats {
            used_bytes: 100 * PAGE_BYTES,
            kept_notes: 100,
            ..VolumeStats::default()
        };
        assert_eq!(Candidate::new(1, stats, false).gain, 100 * PAGE_BYTES);
        let needed = Candidate::new(1, stats, true).gain;
        assert!((80..100).contains(&(needed / PAGE_BYTES)), "{needed}");
    }
}
