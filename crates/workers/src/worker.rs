//! What a background job looks like.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::WorkerError;

/// What a tick left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// There is more to do now.
    More,
    /// Nothing more until the next interval.
    Done,
}

/// Time after which a tick should come to an end by itself, well before it is cut off.
pub(crate) const TICK_TIME: Duration = Duration::from_secs(10);

/// A background job. A tick is bounded, may be repeated, and may be cut off at any await.
pub trait Worker: Send + 'static {
    /// Name of its lease and its metrics.
    const NAME: &'static str;

    /// Does a bounded amount of work. `lease_token` goes into the commands that ask for one.
    fn tick(&mut self, lease_token: u64) -> impl Future<Output = Result<Tick, WorkerError>> + Send;

    /// True when another process may do better than the tick that has just ended: the lease is let go, and
    /// asked for again after all others had the chance.
    fn gives_way(&self) -> bool {
        false
    }

    /// Where a successor should go on; empty when it does not matter.
    fn cursor(&self) -> Bytes {
        Bytes::new()
    }

    /// Goes on where another process left off. A cursor it cannot read means the beginning.
    fn resume(&mut self, _cursor: &[u8]) {}
}
