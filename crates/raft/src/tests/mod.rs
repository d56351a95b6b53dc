//! Groups under simulated time: one thread, a paused clock, blocking calls in place.

mod clocks;
mod cluster;
mod remote;
mod several;
mod single;
mod snapshots;
mod stop;
mod storage;

use std::sync::Arc;

use granary_kv::MemoryKv;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};

/// A runtime for one node; its seed is printed with a failing test's output.
pub(crate) fn simulated(seed: u64) -> Runtime {
    let clock = Arc::new(SimulatedClock::starting_at(1_700_000_000_000));
    Runtime::simulated(clock, Arc::new(SeededEntropy::new(seed)))
}

#[tokio::test(start_paused = true)]
async fn the_log_conforms_to_the_librarys_suite() {
    let runtime = simulated(1);
    let outcome = crate::testsuite::store_conforms(&runtime, || Arc::new(MemoryKv::new())).await;
    assert_eq!(outcome, Ok(()));
}
