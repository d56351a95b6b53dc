//! Whether this process serves, for `/health/ready`. It asks nobody: it goes by what others have seen
//! on the way, so that a probe is cheap whatever the cluster does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use granary_runtime::Runtime;

/// A root without a leader for less than this makes no gateway unready: elections take up to 4 s.
const SILENCE_LEAST: Duration = Duration::from_secs(10);

/// Whether the process can serve.
#[derive(Default)]
pub(crate) struct Readiness {
    started: AtomicBool,
    /// Of a gateway in a cluster.
    root: OnceLock<RootContact>,
}

impl Readiness {
    /// Says whether requests will be served from now on.
    pub(crate) fn set(&self, ready: bool) {
        self.started.store(ready, Ordering::SeqCst);
    }

    /// From now on it is ready only while the root is heard. Only the first call counts.
    pub(crate) fn depends_on(&self, root: RootContact) {
        let _ = self.root.set(root);
    }

    /// Ready.
    ///
    /// # Errors
    /// Not ready, and why.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.started.load(Ordering::SeqCst) {
            return Err("not ready".to_owned());
        }
        match self.root.get().and_then(RootContact::silence) {
            Some(silence) => Err(format!(
                "not ready: the leader of shard 0 has not answered for {} s (are a majority of the \
                 metadata nodes there?)",
                silence.as_secs()
            )),
            None => Ok(()),
        }
    }
}

/// When the leader of the root shard last answered. A gateway that does not reach it can authenticate
/// nobody and finds no bucket, whatever the other shards do.
#[derive(Clone)]
pub(crate) struct RootContact {
    runtime: Runtime,
    limit: Duration,
    /// Monotonic.
    heard_ms: Arc<AtomicU64>,
}

impl RootContact {
    /// Heard now; `patience` is how long a request waits for a shard without a leader.
    pub(crate) fn new(runtime: Runtime, patience: Duration) -> Self {
        let contact = Self {
            runtime,
            limit: SILENCE_LEAST.max(patience + patience / 3),
            heard_ms: Arc::default(),
        };
        contact.note_heard();
        contact
    }

    /// It has just answered.
    pub(crate) fn note_heard(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// For how long it has not answered, if that is too long.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let silence = Duration::from_millis(self.now_ms().saturating_sub(heard_ms));
        (silence > self.limit).then_some(silence)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.runtime.monotonic().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use granary_runtime::SimulatedClock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_without_the_root_is_not_ready_until_it_answers_again() {
        let secs = Duration::from_secs;
        for (patience_secs, limit_secs) in [(6, 10), (30, 40)] {
            let runtime = Runtime::with_clock(Arc::new(SimulatedClock::starting_at(0)));
            let readiness = Readiness::default();
            let contact = RootContact::new(runtime.clone(), secs(patience_secs));
            readiness.depends_on(contact.clone());
            assert_eq!(readiness.check(), Err("not ready".to_owned()));
            readiness.set(true);
            runtime.sleep(secs(limit_secs - 1)).await;
            assert_eq!(readiness.check(), Ok(()));
            runtime.sleep(secs(2)).await;
            let said = readiness.check().unwrap_err();
            let silence = format!("has not answered for {} s", limit_secs + 1);
            assert!(said.contains(&silence), "{said}");
            contact.note_heard();
            assert_eq!(readiness.check(), Ok(()));
            readiness.set(false);
            assert!(readiness.check().is_err());
        }
    }

    #[test]
    fn a_process_without_a_gateway_in_a_cluster_needs_no_root() {
        let readiness = Readiness::default();
        readiness.set(true);
        assert_eq!(readiness.check(), Ok(()));
    }
}
