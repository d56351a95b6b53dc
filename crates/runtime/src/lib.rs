//! Everything a simulator must replace: clock, entropy, spawning, blocking calls, shutdown.
//!
//! This is the only crate that reads a clock, draws randomness or spawns a task. A [`Runtime`] is
//! passed to constructors; there are no statics, so many nodes run in one test process, and the
//! same code runs under simulated time and a seed. What dials servers of others over TLS judges their
//! certificates by this clock, too.
//!
//! It must not know anything about objects, metadata or the wire.

mod clock;
mod deadline;
mod entropy;
mod group_commit;
mod runtime;
mod tls;

pub use clock::{Clock, SimulatedClock, SkewedClock, SystemClock};
pub use deadline::{Backoff, Elapsed, within};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use group_commit::GroupCommit;
pub use runtime::{BlockingCancelled, Runtime, Task};
pub use tls::{read_certificates, tls_client};
pub use tokio_util::sync::CancellationToken;
