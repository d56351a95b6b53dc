//! Where copies that restore redundancy wait for clients.
//!
//! A repair may take hours, and nobody waits for a single copy of it; clients wait for each of their
//! calls. So a disk takes few copies at once, and while clients use it, these go at a pace of their own.
//! It is the disk that decides: it knows what clients do there, and sees the repairs of all processes.

use std::time::Duration;

use granary_runtime::Runtime;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Copies that are under way in one disk: the bytes of one may travel while another's are written.
const PLACES: usize = 2;
/// Calls of clients within a second, the current one or the last, from which they count as using a disk.
const CLIENT_CALLS_MIN: u32 = 10;

#[derive(Debug, Default)]
struct Clients {
    second: u64,
    calls: u32,
    /// Of the second before.
    calls_before: u32,
}

impl Clients {
    fn at(&mut self, now: Duration) -> &mut Self {
        let second = now.as_secs();
        if second != self.second {
            let follows = second == self.second + 1;
            self.calls_before = if follows { self.calls } else { 0 };
            self.calls = 0;
            self.second = second;
        }
        self
    }

    fn use_it(&self) -> bool {
        self.calls.max(self.calls_before) >= CLIENT_CALLS_MIN
    }
}

#[derive(Debug)]
pub(crate) struct Background {
    clients: Mutex<Clients>,
    /// When the next copy may begin while clients use the disk (monotonic).
    next: Mutex<Duration>,
    places: Semaphore,
}

impl Default for Background {
    fn default() -> Self {
        Self {
            clients: Mutex::default(),
            next: Mutex::default(),
            places: Semaphore::new(PLACES),
        }
    }
}

impl Background {
    /// A client reads or writes.
    pub(crate) fn note_client(&self, now: Duration) {
        let mut clients = self.clients.lock();
        let clients = clients.at(now);
        clients.calls = clients.calls.saturating_add(1);
    }

    /// Waits until a copy may move so many bytes; its place is held by what is returned.
    pub(crate) async fn turn(
        &self,
        runtime: &Runtime,
        bytes: u64,
        bytes_per_sec: u64,
    ) -> Option<SemaphorePermit<'_>> {
        let place = self.places.acquire().await.ok();
        let pause = self.pause(runtime.monotonic(), bytes, bytes_per_sec);
        runtime.sleep(pause).await;
        place
    }

    fn pause(&self, now: Duration, bytes: u64, bytes_per_sec: u64) -> Duration {
        let mut next = self.next.lock();
        let begin = if self.clients.lock().at(now).use_it() {
            now.max(*next)
        } else {
            now
        };
        let takes_us = bytes.saturating_mul(1_000_000) / bytes_per_sec.max(1);
        *next = begin + Duration::from_micros(takes_us);
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
        for _ in 1..CLIENT_CALLS_MIN {
            background.note_client(now);
        }
        assert_eq!(pause(now), ms(0), "now and then a call");
        background.note_client(now);
        // Counted from the last copy, and from one to the next.
        assert_eq!([pause(now), pause(now)], [ms(100), ms(200)]);
        // Nothing is saved up.
        assert_eq!([pause(ms(61_500)), pause(ms(61_500))], [ms(0), ms(100)]);
        // The clients are gone.
        let now = ms(62_000);
        assert_eq!([pause(now), pause(now)], [ms(0), ms(0)]);
    }

    #[test]
    fn a_steady_trickle_is_no_use() {
        let background = Background::default();
        for at in (0..20_000).step_by(250) {
            background.note_client(ms(at));
            assert_eq!(background.pause(ms(at), MIB, MIB), ms(0));
        }
    }

    #[tokio::test]
    async fn few_copies_are_under_way_at_once() {
        let runtime = Runtime::system();
        let background = Background::default();
        let turn = || background.turn(&runtime, MIB, MIB);
        let first = turn().await;
        let _second = turn().await;
        let mut third = Box::pin(turn());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_some());
    }
}
