//! What this node has promised the leader it acknowledged last: to help nobody else to lead while
//! that leader may still serve reads from the acknowledgement.
//!
//! The consensus library has a promise of its own, as long as this node's election timeout. The
//! leader's lease is as long as the leader's: a node with a shorter timeout, or a newer version with
//! a shorter default, would elect a successor while the old leader still answers. So the leader says
//! how long it relies on an acknowledgement, and here that is kept: no vote is given and none is
//! asked for before. What a node promised before it restarted nobody knows any more, so it waits for
//! the longest lease of all (see `handle`). An election that the leader asked for itself is let
//! through.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// The promise of one group on this node. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise(Arc<Mutex<Duration>>);

impl Promise {
    /// A leader was acknowledged, which relies on it for `lease` from now (monotonic).
    pub(crate) fn give(&self, now: Duration, lease: Duration) {
        let mut until = self.0.lock();
        *until = (*until).max(now + lease);
    }

    /// True while somebody may rely on it.
    pub(crate) fn binds(&self, now: Duration) -> bool {
        now < *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_promise_counts() {
        let (promise, second) = (Promise::default(), Duration::from_secs(1));
        assert!(!promise.binds(Duration::ZERO));
        promise.clone().give(second, second * 3);
        promise.give(second * 2, second);
        assert!(promise.binds(second * 4 - Duration::from_nanos(1)));
        assert!(!promise.binds(second * 4));
    }
}
