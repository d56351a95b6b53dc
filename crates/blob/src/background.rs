//! The pace of copies that restore redundancy, on a disk that clients use.
//!
//! A repair may take hours, and nobody waits for a single copy of it; clients wait for each of their
//! calls. It is the disk that holds copies back: it knows what clients do there, and sees the repairs of
//! all processes. What clients do in the metadata, small objects included, it does not see.

use std::time::Duration;

use parking_lot::Mutex;

/// Weight of the calls of clients within a second, the current one or the last, from which they use a
/// disk: so many small calls, or a single one of a chunk.
const CLIENTS_WEIGHT_MIN: u64 = 5;
/// A call weighs as much as one more for so many bytes of it.
const WEIGHT_BYTES: u64 = 256 * 1024;

#[derive(Debug, Default)]
struct State {
    /// Of the clock, and what clients did in it and in the one before.
    second: u64,
    weight: u64,
    weight_before: u64,
    /// When the next copy may begin while clients use the disk (monotonic).
    next: Duration,
}

impl State {
    fn at(&mut self, now: Duration) -> &mut Self {
        let second = now.as_secs();
        // Another thread may have looked at the clock earlier and come later.
        if second > self.second {
            let follows = second == self.second + 1;
            self.weight_before = if follows { self.weight } else { 0 };
            self.weight = 0;
            self.second = second;
        }
        self
    }

    fn clients_use_it(&self) -> bool {
        self.weight.max(self.weight_before) >= CLIENTS_WEIGHT_MIN
    }
}

#[derive(Debug, Default)]
pub(crate) struct Background(Mutex<State>);

impl Background {
    /// A client reads or writes so many bytes.
    pub(crate) fn note_client(&self, now: Duration, bytes: u64) {
        let mut state = self.0.lock();
        let weight = &mut state.at(now).weight;
        *weight = weight.saturating_add(1 + bytes / WEIGHT_BYTES);
    }

    /// How long a copy of so many bytes waits. It counts as moved from then on.
    pub(crate) fn pause(&self, now: Duration, bytes: u64, bytes_per_sec: u64) -> Duration {
        let mut state = self.0.lock();
        let state = state.at(now);
        let begin = match state.clients_use_it() {
            true => now.max(state.next),
            false => now,
        };
        let takes_us = bytes.saturating_mul(1_000_000) / bytes_per_sec.max(1);
        state.next = begin + Duration::from_micros(takes_us);
        begin - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn copies_keep_a_pace_only_while_clients_use_the_disk() {
        let background = Background::default();
        let pause = |now| background.pause(now, MIB, 10 * MIB);
        let now = ms(60_000);
        assert_eq!([pause(now), pause(now)], [ms(0), ms(0)]);
        for _ in 1..CLIENTS_WEIGHT_MIN {
            background.note_client(now, 4096);
        }
        assert_eq!(pause(now), ms(0), "now and then a call");
        background.note_client(now, 4096);
        // Counted from the last copy, and from one to the next.
        assert_eq!([pause(now), pause(now)], [ms(100), ms(200)]);
        // Nothing is saved up.
        assert_eq!([pause(ms(61_500)), pause(ms(61_500))], [ms(0), ms(100)]);
        // The clients are gone.
        let now = ms(62_000);
        assert_eq!([pause(now), pause(now)], [ms(0), ms(0)]);
        // One who moves much is back.
        background.note_client(now, 4 * MIB);
        assert_eq!(pause(now), ms(100));
    }

    #[test]
    fn a_steady_trickle_is_no_use() {
        let background = Background::default();
        for at in (0..20_000).step_by(250) {
            background.note_client(ms(at), 4096);
            assert_eq!(background.pause(ms(at), MIB, MIB), ms(0));
        }
    }

    #[test]
    fn whoever_looked_at_the_clock_earlier_forgets_nothing() {
        let background = Background::default();
        background.note_client(ms(1000), 4 * MIB);
        background.note_client(ms(999), 4096);
        background.pause(ms(1000), MIB, MIB);
        assert_eq!(background.pause(ms(1000), MIB, MIB), ms(1000));
    }
}
