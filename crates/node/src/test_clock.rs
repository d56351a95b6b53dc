//! Clocks that are wrong on purpose: tests name a file, and what stands in it is how wrong they are.
//!
//! Without the variable there is no such clock. Must not be used to set the time of a machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use granary_runtime::{Runtime, SkewedClock};

/// Names the file: two numbers, milliseconds that the time of day is ahead and the rate of the clocks, 1 is right.
pub(crate) const VARIABLE: &str = "GRANARY_TEST_CLOCK";

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The process's runtime; with wrong clocks when the variable is set.
pub(crate) fn runtime() -> Runtime {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return Runtime::system();
    };
    tracing::warn!(
        variable = VARIABLE,
        "the clocks are wrong on purpose, for a test"
    );
    let clock = Arc::new(SkewedClock::new());
    let runtime = Runtime::with_clock(clock.clone());
    let own = runtime.clone();
    runtime.spawn(async move {
        while !own.shutdown().is_cancelled() {
            let file = path.clone();
            if let Ok(Some((offset_ms, rate))) = own.blocking(move || told(Path::new(&file))).await
            {
                clock.set(offset_ms, rate);
            }
            own.sleep(LOOK_INTERVAL).await;
        }
    });
    runtime
}

/// What the file says; nothing while it is being written.
fn told(path: &Path) -> Option<(i64, f64)> {
    let text = std::fs::read_to_string(path).ok()?;
    let (offset, rate) = text.trim().split_once(' ')?;
    Some((offset.parse().ok()?, rate.parse().ok()?))
}
