//! The two rows of a shard that everything it does needs, its descriptor and its clock, and how they are
//! remembered between two changes, so that not every query reads them.
//!
//! Invariant: what is remembered is what stands in the store. It is taken away before anything of the
//! shard is written, and set again, as something new, when it is.

use std::sync::Arc;

use granary_kv::{Kv, KvRead};
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::SlabId;
use parking_lot::Mutex;

use crate::keyspace::shard_clock::ShardClockKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::rows::Rows;

/// A shard's descriptor and clock.
#[derive(Clone, Debug)]
pub(crate) struct ShardRows {
    pub(crate) descriptor: Arc<state::ShardDescriptor>,
    pub(crate) clock: Arc<state::ShardClock>,
}

impl ShardRows {
    /// As they stand; `None` when the shard has no state.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn read(rows: &impl Rows, home: SlabId) -> Result<Option<Self>, StateMachineError> {
        let descriptor = rows.get(&ShardDescriptorKey { slab: home })?;
        let clock = rows.get(&ShardClockKey { slab: home })?;
        Ok(descriptor.zip(clock).map(|(descriptor, clock)| Self {
            descriptor: Arc::new(descriptor),
            clock: Arc::new(clock),
        }))
    }
}

/// What is remembered of them; nothing at first.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Option<ShardRows>>);

impl Remembered {
    /// As of the newest change, unless one is being written.
    pub(crate) fn get(&self) -> Option<ShardRows> {
        self.0.lock().clone()
    }

    /// From here on the store may be ahead of what was remembered, which is returned.
    pub(crate) fn begin_change(&self) -> Option<ShardRows> {
        self.0.lock().take()
    }

    /// The change is written, or was not and what was remembered before is put back.
    pub(crate) fn end_change(&self, rows: Option<ShardRows>) {
        *self.0.lock() = rows;
    }

    /// A view of the store, and the rows as they stand in it if that is known without reading them:
    /// nothing of the shard was written while it was taken.
    pub(crate) fn view(&self, kv: &dyn Kv) -> (Arc<dyn KvRead>, Option<ShardRows>) {
        let before = self.get();
        let view = kv.snapshot();
        // Each change has a clock of its own, and `before` keeps this one from being another's.
        let is_still = |rows: &ShardRows| {
            let now = self.0.lock();
            let now = now.as_ref();
            now.is_some_and(|now| Arc::ptr_eq(&now.clock, &rows.clock))
        };
        (view, before.filter(is_still))
    }
}
