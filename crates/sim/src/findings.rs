//! What a run found to be wrong. Empty at the end: the seed is green.

use std::sync::Arc;

use parking_lot::Mutex;

/// Broken promises, in the order in which they were noticed. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Arc<Mutex<Vec<String>>>,
}

/// Findings kept at most; more of them tell nothing new.
const FINDINGS_MAX: usize = 50;

impl Findings {
    /// Adds one.
    pub fn report(&self, finding: impl Into<String>) {
        let mut list = self.list.lock();
        if list.len() < FINDINGS_MAX {
            list.push(finding.into());
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.list.lock().clone()
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }
}
