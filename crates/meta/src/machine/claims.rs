//! Which positions of a slab belong to which replica of this node.
//!
//! A split shares the slab: parent and child are neighbours in one key space. A replica that lags
//! behind the split still writes what is the child's by now, and clears it when it gets a snapshot.
//! So no replica is given a snapshot as long as another one of this node has a part of what that
//! brings: a child comes after its parent has let go, in whatever order the two are sent.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_kv::Kv;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::ShardId;
use parking_lot::Mutex;

use super::local_shards;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::ownership::overlap;
use crate::rows::{Rows, View};

/// What the snapshots that are being received will bring. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    coming: Arc<Mutex<BTreeMap<ShardId, Vec<state::Range>>>>,
}

impl Claims {
    /// Claims ranges for a shard's snapshot, in place of what was claimed for it before; false when
    /// another replica has a part of them or is about to get it. Blocks.
    pub(super) fn claim(
        &self,
        kv: &dyn Kv,
        shard: ShardId,
        ranges: Vec<state::Range>,
    ) -> Result<bool, StateMachineError> {
        let mut coming = self.coming.lock();
        let view = View(kv);
        let mut others: Vec<state::Range> = coming
            .iter()
            .filter(|(other, _)| **other != shard)
            .flat_map(|(_, ranges)| ranges.clone())
            .collect();
        for (other, slab) in local_shards(kv)? {
            if other != shard {
                let descriptor = view.get(&ShardDescriptorKey { slab })?;
                others.extend(descriptor.unwrap_or_default().ranges);
                let marker = view.get(&RestoreMarkerKey { slab })?;
                others.extend(marker.unwrap_or_default().ranges);
            }
        }
        let collides = ranges.iter().any(|range| {
            let same = |other: &&state::Range| other.slab == range.slab;
            others
                .iter()
                .filter(same)
                .any(|other| overlap(other, range))
        });
        if collides {
            coming.remove(&shard);
        } else {
            coming.insert(shard, ranges);
        }
        Ok(!collides)
    }

    /// The shard's replica has them now.
    pub(super) fn release(&self, shard: ShardId) {
        self.coming.lock().remove(&shard);
    }
}
