//! The handle that constructors take: time, randomness, tasks, blocking calls and shutdown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_types::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Clock, Entropy, SystemClock, SystemEntropy};

/// A spawned task; dropping the handle does not stop it, the runtime's shutdown token does.
pub type Task<T> = JoinHandle<T>;

/// How blocking calls run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocking {
    /// On tokio's blocking threads.
    Pool,
    /// In place: deterministic, for simulations on one thread.
    Inline,
}

/// The blocking call did not finish: it panicked, or the process is going away.
#[derive(Debug)]
pub struct BlockingCancelled;

impl std::fmt::Display for BlockingCancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a blocking call did not finish")
    }
}

impl std::error::Error for BlockingCancelled {}

/// Clock, entropy, tasks and shutdown of one node. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    blocking: Blocking,
}

impl Runtime {
    /// The machine's own time, randomness and threads.
    pub fn system() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// The machine's own randomness and threads, and a clock of the caller's.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with(clock, Arc::new(SystemEntropy), Blocking::Pool)
    }

    /// A runtime under given time and randomness that runs blocking calls in place.
    pub fn simulated(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self::with(clock, entropy, Blocking::Inline)
    }

    fn with(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, blocking: Blocking) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        Self {
            clock,
            entropy,
            tasks,
            shutdown,
            blocking,
        }
    }

    /// A runtime with tasks and a shutdown of its own that also ends when this one does.
    pub fn child(&self) -> Self {
        Self {
            tasks: TaskTracker::new(),
            shutdown: self.shutdown.child_token(),
            ..self.clone()
        }
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Wall-clock time now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Monotonic time now; see [`Clock::monotonic`].
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The source of randomness.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// Waits for `duration` of (possibly simulated) time.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Starts a task that [`Runtime::stop`] waits for. The task watches [`Runtime::shutdown`].
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(future)
    }

    /// Runs a call that may block (RocksDB, files, hashing) away from the async threads.
    ///
    /// # Errors
    /// The call panicked, or the process is going away.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place the others go through"
    )]
    pub async fn blocking<T, F>(&self, call: F) -> Result<T, BlockingCancelled>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match self.blocking {
            Blocking::Inline => Ok(call()),
            Blocking::Pool => tokio::task::spawn_blocking(call)
                .await
                .map_err(|_| BlockingCancelled),
        }
    }

    /// The token that tasks watch.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Asks every task to end and waits until all have.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("blocking", &self.blocking)
            .finish_non_exhaustive()
    }
}
