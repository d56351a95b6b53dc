//! One read of the cluster map at a time, however many requests find that theirs is old.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::MetaError;

/// Lets one caller refresh; those who came before it began get its outcome.
#[derive(Debug)]
pub(super) struct SingleFlight {
    turn: Semaphore,
    /// Refreshes begun so far.
    begun: AtomicU64,
    /// Number and outcome of the newest refresh that ended.
    ended: Mutex<(u64, Result<(), MetaError>)>,
}

impl Default for SingleFlight {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            begun: AtomicU64::new(0),
            ended: Mutex::new((0, Ok(()))),
        }
    }
}

impl SingleFlight {
    /// The outcome of a refresh that began after this call did: a caller's own, or that of another
    /// who waited as well. One that was under way already may have read what is old by now.
    pub(super) async fn refresh<F>(&self, read: impl Fn() -> F + Send) -> Result<(), MetaError>
    where
        F: Future<Output = Result<(), MetaError>> + Send,
    {
        let begun_before = self.begun.load(Ordering::SeqCst);
        // Never closed: without a turn everybody reads for himself.
        let _turn = self.turn.acquire().await;
        {
            let ended = self.ended.lock();
            if ended.0 > begun_before {
                return ended.1.clone();
            }
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = read().await;
        *self.ended.lock() = (number, outcome.clone());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_a_read_that_began_after_they_came() {
        let flight = Arc::new(SingleFlight::default());
        let reads = Arc::new(AtomicU64::new(0));
        let call = |pause: u64| {
            let (flight, reads) = (Arc::clone(&flight), Arc::clone(&reads));
            async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let came = reads.load(Ordering::SeqCst);
                let read = || async {
                    reads.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Err(MetaError::Unavailable("as it was".to_owned()))
                };
                let outcome = flight.refresh(read).await;
                assert!(
                    reads.load(Ordering::SeqCst) > came,
                    "a read of its own time"
                );
                outcome
            }
        };
        // One begins; a hundred come while it runs.
        let calls = (0..101).map(|n| call(if n == 0 { 0 } else { 1 + n % 5 }));
        for outcome in futures_util::future::join_all(calls).await {
            assert!(outcome.is_err());
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        flight.refresh(|| async { Ok(()) }).await.unwrap();
    }
}
