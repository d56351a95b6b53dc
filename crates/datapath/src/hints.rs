//! Copies that a read found damaged or missing, or that a write did not make. Only hints: repair
//! compares listings anyway, it just starts earlier where it is pointed at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
pub struct RepairHints(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    hints: Mutex<VecDeque<RepairHint>>,
    uncounted: AtomicU64,
}

impl RepairHints {
    /// Adds a hint, unless it is known. One that finds no room is dropped, which shows in
    /// [`RepairHints::uncounted`].
    pub fn add(&self, hint: RepairHint) {
        let mut hints = self.0.hints.lock();
        if hints.contains(&hint) {
            return;
        }
        if hints.len() < HINTS_MAX {
            hints.push_back(hint);
        } else {
            self.note_uncounted();
        }
    }

    /// Takes at most `limit` hints, the oldest first.
    pub fn take(&self, limit: usize) -> Vec<RepairHint> {
        let mut hints = self.0.hints.lock();
        let count = hints.len().min(limit);
        hints.drain(..count).collect()
    }

    /// Rises with everything that makes an earlier count of the copies untrue: a chunk that was
    /// acknowledged with fewer copies than it should have, or a hint that was dropped.
    pub fn uncounted(&self) -> u64 {
        self.0.uncounted.load(Ordering::SeqCst)
    }

    /// See [`RepairHints::uncounted`].
    pub fn note_uncounted(&self) {
        self.0.uncounted.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use granary_types::PgId;

    use super::*;

    #[test]
    fn hints_are_bounded_and_nothing_is_dropped_in_silence() {
        let hints = RepairHints::default();
        let hint = |n: usize| RepairHint {
            chunk: ChunkId::new(PgId(1), n as u128),
            disk: DiskId(1),
        };
        for n in (0..HINTS_MAX).chain(0..HINTS_MAX) {
            hints.add(hint(n));
        }
        assert_eq!(hints.uncounted(), 0);
        hints.add(hint(HINTS_MAX));
        assert_eq!(hints.uncounted(), 1);
        assert_eq!(hints.take(2), [hint(0), hint(1)]);
        assert_eq!(hints.take(usize::MAX).len(), HINTS_MAX - 2);
    }
}
