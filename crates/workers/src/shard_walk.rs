//! The shards that a walk over all rows asks one after the other, with those that splits make meanwhile.
//!
//! A shard that splits shows what it gives away no more, and its child may not have been there when the walk began:
//! whoever walked over the shards of the beginning alone would take what the child has for unnamed. What was read of
//! a shard before it split comes again with its child: whoever counts rows counts those twice.

use std::collections::{BTreeSet, VecDeque};

use granary_datapath::ClusterView;
use granary_meta_api::{Meta, pb};
use granary_types::ShardId;

use crate::WorkerError;

/// A walk over the shards, each once.
pub(crate) struct ShardWalk {
    waiting: VecDeque<ShardId>,
    seen: BTreeSet<ShardId>,
}

impl ShardWalk {
    /// Those that the map knows.
    pub(crate) fn new(view: &ClusterView) -> Self {
        let mut walk = Self {
            waiting: VecDeque::new(),
            seen: BTreeSet::new(),
        };
        walk.add(view.map().shards().iter().copied());
        walk
    }

    fn add(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        for shard in shards {
            if self.seen.insert(shard) {
                self.waiting.push_back(shard);
            }
        }
    }

    /// Whose rows are to be read now; `None` at the end.
    pub(crate) fn current(&self) -> Option<ShardId> {
        self.waiting.front().copied()
    }

    /// Shards that the walk knows by now.
    pub(crate) fn known(&self) -> usize {
        self.seen.len()
    }

    /// The rows of the current shard were read to their end.
    ///
    /// # Errors
    /// Nobody says what it has split off: ask again.
    pub(crate) async fn advance(
        &mut self,
        meta: &Meta,
        view: &ClusterView,
    ) -> Result<(), WorkerError> {
        let Some(shard) = self.current() else {
            return Ok(());
        };
        let told = meta.query_at(shard, pb::DescribeShard {}).await?;
        if self.waiting.len() == 1 {
            view.refresh_map().await?;
            self.add(view.map().shards().iter().copied());
        }
        // From here on nothing waits. The root may not have heard of the newest ones yet.
        let descriptor = told.descriptor.unwrap_or_default();
        let unreported = descriptor.unreported_children.iter();
        self.add(unreported.map(|child| ShardId(child.shard)));
        self.add(Some(ShardId(descriptor.last_child)).filter(|child| child.0 != 0));
        self.waiting.pop_front();
        Ok(())
    }
}
