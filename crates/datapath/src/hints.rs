//! Copies that a read found damaged or missing. Only hints: repair compares listings anyway, it
//! just starts earlier where it is pointed at.

use std::collections::VecDeque;
use std::sync::Arc;

use granary_types::{ChunkId, DiskId};
use parking_lot::Mutex;

/// Hints kept; later ones are dropped.
const HINTS_MAX: usize = 1024;

/// A copy that should be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairHint {
    /// The chunk.
    pub chunk: ChunkId,
    /// The disk whose copy is damaged or missing.
    pub disk: DiskId,
}

/// A bounded queue of hints. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct RepairHints(Arc<Mutex<VecDeque<RepairHint>>>);

impl RepairHints {
    /// Adds a hint, unless it is known or the queue is full.
    pub(crate) fn add(&self, hint: RepairHint) {
        let mut hints = self.0.lock();
        if hints.len() < HINTS_MAX && !hints.contains(&hint) {
            hints.push_back(hint);
        }
    }

    /// Takes at most `limit` hints.
    pub fn take(&self, limit: usize) -> Vec<RepairHint> {
        let mut hints = self.0.lock();
        let count = hints.len().min(limit);
        hints.drain(..count).collect()
    }
}
