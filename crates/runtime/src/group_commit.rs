//! Group commit: concurrent writers share one sync.
//!
//! Whoever has written something calls [`GroupCommit::synced`] and is answered after a sync that
//! *started* after the call. While one sync runs, callers gather for the next; nobody waits for a
//! timer. A failed sync is final: its callers and all later ones get the error, because after a
//! failed fsync the kernel may have dropped the dirty pages and a second success would be a lie.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::Runtime;

type Waiter<E> = oneshot::Sender<Result<(), E>>;

/// One stream of syncs over one file set or database. Cheap to clone.
#[derive(Debug)]
pub struct GroupCommit<E> {
    waiters: mpsc::Sender<Waiter<E>>,
    stopped: E,
}

impl<E: Clone> Clone for GroupCommit<E> {
    fn clone(&self) -> Self {
        Self {
            waiters: self.waiters.clone(),
            stopped: self.stopped.clone(),
        }
    }
}

/// Callers that may wait for their sync at once; more wait for a place.
const WAITERS_MAX: usize = 4096;

impl<E: Clone + Display + Send + Sync + 'static> GroupCommit<E> {
    /// Starts the stream. `sync` makes everything written before its start durable; it runs as a
    /// blocking call, one at a time. `stopped` is what callers get once the stream has ended.
    pub fn start<F>(runtime: &Runtime, stopped: E, sync: F) -> Self
    where
        F: Fn() -> Result<(), E> + Send + Sync + 'static,
    {
        let (waiters, queue) = mpsc::channel(WAITERS_MAX);
        runtime.spawn(run(runtime.clone(), queue, Arc::new(sync), stopped.clone()));
        Self { waiters, stopped }
    }

    /// Waits until everything the caller wrote before this call is durable.
    ///
    /// # Errors
    /// The sync's error (final for the stream), or `stopped`.
    pub async fn synced(&self) -> Result<(), E> {
        let (answer, outcome) = oneshot::channel();
        if self.waiters.send(answer).await.is_err() {
            return Err(self.stopped.clone());
        }
        outcome.await.unwrap_or_else(|_| Err(self.stopped.clone()))
    }
}

async fn run<E, F>(runtime: Runtime, mut queue: mpsc::Receiver<Waiter<E>>, sync: Arc<F>, stopped: E)
where
    E: Clone + Display + Send + Sync + 'static,
    F: Fn() -> Result<(), E> + Send + Sync + 'static,
{
    let mut waiting = Vec::new();
    loop {
        let received = tokio::select! {
            received = queue.recv_many(&mut waiting, WAITERS_MAX) => received,
            () = runtime.shutdown().cancelled() => {
                // Writers that were already waiting get their sync; later ones are refused.
                queue.close();
                queue.recv_many(&mut waiting, WAITERS_MAX).await
            }
        };
        if received == 0 {
            return;
        }
        let call = Arc::clone(&sync);
        let outcome = runtime
            .blocking(move || call())
            .await
            .unwrap_or(Err(stopped.clone()));
        for waiter in waiting.drain(..) {
            // A caller that went away does not care about its answer.
            let _ = waiter.send(outcome.clone());
        }
        if let Err(error) = outcome {
            tracing::error!(%error, "sync failed, no later write will be acknowledged");
            refuse_all(&runtime, queue, error).await;
            return;
        }
    }
}

async fn refuse_all<E: Clone>(runtime: &Runtime, mut queue: mpsc::Receiver<Waiter<E>>, error: E) {
    let refusing = async {
        while let Some(waiter) = queue.recv().await {
            let _ = waiter.send(Err(error.clone()));
        }
    };
    tokio::select! {
        () = refusing => {}
        () = runtime.shutdown().cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_writers_share_few_syncs() {
        let runtime = Runtime::system();
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&syncs);
        let group = GroupCommit::start(&runtime, "stopped", move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(5));
            Ok(())
        });
        let writers: Vec<_> = (0..200)
            .map(|_| {
                let group = group.clone();
                runtime.spawn(async move { group.synced().await })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap().unwrap();
        }
        let syncs = syncs.load(Ordering::SeqCst);
        assert!((1..100).contains(&syncs), "{syncs} syncs for 200 writers");
        runtime.stop().await;
        assert_eq!(group.synced().await, Err("stopped"));
    }

    #[tokio::test]
    async fn a_failed_sync_is_final() {
        let runtime = Runtime::system();
        let calls = AtomicUsize::new(0);
        let group = GroupCommit::start(&runtime, "stopped", move || {
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                Err("EIO")
            } else {
                Ok(())
            }
        });
        assert_eq!(group.synced().await, Err("EIO"));
        assert_eq!(group.synced().await, Err("EIO"));
        // The stream ends with its runtime all the same.
        runtime.stop().await;
        assert_eq!(group.synced().await, Err("stopped"));
    }
}
