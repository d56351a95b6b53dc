//! What happened, as a running digest: two runs of one seed are the same run exactly when their
//! digests are equal. It keeps counts, never the events themselves.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::Instant;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The digest and the counts of one run.
#[derive(Debug)]
pub struct Trace {
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    digest: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl State {
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// An empty trace that starts now.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            state: Mutex::new(State {
                digest: FNV_OFFSET,
                counts: BTreeMap::new(),
            }),
        }
    }

    /// Notes an event with the simulated time, and counts it under its label.
    pub fn record(&self, label: &'static str, fields: &[u64]) {
        let at = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        state.mix(label.as_bytes());
        state.mix(&at.to_le_bytes());
        for field in fields {
            state.mix(&field.to_le_bytes());
        }
        *state.counts.entry(label).or_default() += 1;
        tracing::trace!(target: "granary_sim::trace", at, label, ?fields);
    }

    /// Counts something that is not part of the history.
    pub fn count(&self, label: &'static str) {
        *self.state.lock().counts.entry(label).or_default() += 1;
    }

    /// The digest so far.
    pub fn digest(&self) -> u64 {
        self.state.lock().digest
    }

    /// How often each label occurred.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().counts.clone()
    }

    /// Simulated time since the start, in milliseconds.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
