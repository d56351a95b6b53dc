//! Disks that have just let a request down, and how long they are left alone. Pure.
//!
//! A disk that hangs must not hold up one write after the other: the rest it gets doubles with
//! every timeout that follows another, and after it one write at a time tries whether the disk
//! answers again.

use std::collections::HashMap;
use std::time::Duration;

use granary_types::DiskId;

/// A disk that could not be reached is left alone this long at first, and no longer than
/// [`REST_MAX`] in the end.
const REST_FIRST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(60);
/// A disk that said it is full or failed is left alone until its node will have been asked.
const REST_OUT: Duration = Duration::from_secs(10);
/// A write that tries a disk has ended by then, whatever became of it.
const PROBE_MAX: Duration = Duration::from_secs(15);

/// All times are monotonic.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Duration,
    until: Duration,
    /// The rest after the last timeout; zero when it did not time out.
    rest: Duration,
    /// A write is trying the disk; it has no answer before this time, or it never gets one.
    probed_until: Duration,
}

impl Suspicion {
    /// Left alone even when nothing else is left to try.
    fn rests_at_least(&self, now: Duration) -> bool {
        let least = if self.rest.is_zero() {
            REST_OUT
        } else {
            REST_FIRST
        };
        now < self.until.min(self.since + least)
    }
}

/// The disks under suspicion.
#[derive(Debug, Default)]
pub(crate) struct Suspects(HashMap<DiskId, Suspicion>);

impl Suspects {
    /// The disk said that it is full or failed.
    pub(crate) fn is_out(&mut self, disk: DiskId, now: Duration) {
        let suspicion = Suspicion {
            since: now,
            until: now + REST_OUT,
            rest: Duration::ZERO,
            probed_until: Duration::ZERO,
        };
        self.0.insert(disk, suspicion);
    }

    /// The disk gave no answer.
    pub(crate) fn timed_out(&mut self, disk: DiskId, now: Duration) {
        let rest = match self.0.get(&disk) {
            // Many requests may have waited for the same disk: they count as one.
            Some(known) if now < known.until => return,
            Some(known) => (known.rest * 2).clamp(REST_FIRST, REST_MAX),
            None => REST_FIRST,
        };
        let suspicion = Suspicion {
            since: now,
            until: now + rest,
            rest,
            probed_until: Duration::ZERO,
        };
        self.0.insert(disk, suspicion);
    }

    /// The disk did what it was asked.
    pub(crate) fn answered(&mut self, disk: DiskId) {
        if !self.0.is_empty() {
            self.0.remove(&disk);
        }
    }

    /// Disks that are to be left alone.
    pub(crate) fn resting(&mut self, now: Duration) -> Vec<DiskId> {
        self.0.retain(|_, known| now < known.until + REST_MAX);
        self.disks(|known| now < known.until)
    }

    /// Disks that new writes should not wait for: those at rest and those another write tries.
    pub(crate) fn avoided(&mut self, now: Duration) -> Vec<DiskId> {
        self.0.retain(|_, known| now < known.until + REST_MAX);
        self.disks(|known| now < known.until.max(known.probed_until))
    }

    /// Disks that are left alone even when there is no group without them.
    pub(crate) fn hopeless(&self, now: Duration) -> Vec<DiskId> {
        self.disks(|known| known.rests_at_least(now))
    }

    /// A write is about to go to these disks: for those whose rest is over it is the one that
    /// tries them. False when another write has become that one meanwhile.
    pub(crate) fn claim(&mut self, disks: &[DiskId], now: Duration) -> bool {
        let taken = |disk: &DiskId| {
            let known = self.0.get(disk);
            known.is_some_and(|known| now < known.until.max(known.probed_until))
        };
        if disks.iter().any(taken) {
            return false;
        }
        self.probe(disks, now);
        true
    }

    /// A write goes to these disks, whoever else tries them.
    pub(crate) fn probe(&mut self, disks: &[DiskId], now: Duration) {
        for disk in disks {
            if let Some(known) = self.0.get_mut(disk) {
                known.probed_until = now + PROBE_MAX;
            }
        }
    }

    fn disks(&self, which: impl Fn(&Suspicion) -> bool) -> Vec<DiskId> {
        let found = self.0.iter().filter(|(_, known)| which(known));
        found.map(|(&disk, _)| disk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskId = DiskId(7);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn rest_doubles_with_every_timeout_and_ends_with_an_answer() {
        let (mut suspects, mut now) = (Suspects::default(), s(100));
        for rest in [2, 4, 8, 16, 32, 60, 60] {
            suspects.timed_out(DISK, now);
            // Others that waited for the same disk.
            suspects.timed_out(DISK, now + s(1));
            assert_eq!(suspects.resting(now + s(rest) - s(1)), [DISK]);
            assert!(suspects.resting(now + s(rest)).is_empty(), "{rest}");
            // Without another group it is tried after the first pause.
            assert_eq!(suspects.hopeless(now + s(1)), [DISK]);
            assert!(suspects.hopeless(now + s(2)).is_empty());
            now += s(rest) + s(5);
        }
        suspects.answered(DISK);
        suspects.timed_out(DISK, now);
        assert!(suspects.resting(now + s(2)).is_empty());
    }

    #[test]
    fn one_write_at_a_time_tries_a_disk_and_one_that_goes_away_does_not_block_it() {
        let mut suspects = Suspects::default();
        suspects.timed_out(DISK, s(100));
        assert!(suspects.avoided(s(102)).is_empty());
        assert!(!suspects.claim(&[DISK], s(101)));
        assert!(suspects.claim(&[DISK, DiskId(8)], s(102)));
        assert!(!suspects.claim(&[DISK], s(102)), "two at a time");
        assert_eq!(suspects.avoided(s(103)), [DISK]);
        assert!(suspects.avoided(s(102) + PROBE_MAX).is_empty());
    }

    #[test]
    fn old_suspicions_are_forgotten() {
        let mut suspects = Suspects::default();
        suspects.timed_out(DISK, s(100));
        suspects.timed_out(DISK, s(103));
        assert!(suspects.avoided(s(1000)).is_empty());
        suspects.timed_out(DISK, s(1000));
        assert!(suspects.resting(s(1002)).is_empty());
    }
}
