//! What a node's database says of itself: whose it is, and that the node has been there before.
//!
//! A node that votes must remember: with an empty database in place of the one it had, it would vote
//! again in terms it voted in, and acknowledge nothing of what it has acknowledged. So a database
//! carries a stamp that stands in the node's state directory, too; whoever starts the node compares.

use bytes::Bytes;
use granary_kv::{Kv, Space, WriteBatch};
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use prost::Message;

use crate::keyspace::RowKey;
use crate::keyspace::node_database::{NODE_SLAB, NodeDatabaseKey};
use crate::rows::{Rows, View};

const KEY: NodeDatabaseKey = NodeDatabaseKey { slab: NODE_SLAB };

/// The stamp of a database; `None` when it has none. Blocks.
///
/// # Errors
/// The store failed.
pub fn database_stamp(kv: &dyn Kv) -> Result<Option<Bytes>, StateMachineError> {
    let row = View(kv).get(&KEY)?.unwrap_or_default();
    Ok((!row.stamp.is_empty()).then_some(row.stamp))
}

/// Stamps a database, durably. Blocks.
///
/// # Errors
/// The store failed.
pub fn stamp_database(kv: &dyn Kv, stamp: Bytes) -> Result<(), StateMachineError> {
    change(kv, |row| row.stamp = stamp)
}

/// Whether the shards that the cluster began with were formed here once. Blocks.
pub(crate) fn has_adopted(kv: &dyn Kv) -> Result<bool, StateMachineError> {
    let row = View(kv).get(&KEY)?;
    Ok(row.is_some_and(|row| row.first_shards_adopted))
}

/// Remembers, durably, that they were. Blocks.
pub(crate) fn note_adopted(kv: &dyn Kv) -> Result<(), StateMachineError> {
    if has_adopted(kv)? {
        return Ok(());
    }
    change(kv, |row| row.first_shards_adopted = true)
}

fn change(
    kv: &dyn Kv,
    change: impl FnOnce(&mut state::NodeDatabase),
) -> Result<(), StateMachineError> {
    let mut row = View(kv).get(&KEY)?.unwrap_or_default();
    change(&mut row);
    let mut batch = WriteBatch::new();
    batch.put(Space::State, KEY.encode(), row.encode_to_vec());
    kv.write(batch)?;
    Ok(kv.sync()?)
}

#[cfg(test)]
mod tests {
    use granary_kv::MemoryKv;

    use super::*;

    #[test]
    fn stamp_and_adoption_survive_each_other_and_a_crash() {
        let kv = MemoryKv::new();
        assert_eq!(database_stamp(&kv).unwrap(), None);
        note_adopted(&kv).unwrap();
        stamp_database(&kv, Bytes::from_static(b"one")).unwrap();
        let kv = kv.crash(0);
        note_adopted(&kv).unwrap();
        assert!(has_adopted(&kv).unwrap());
        assert_eq!(database_stamp(&kv).unwrap().unwrap(), "one");
        assert!(crate::machine::local_shards(&kv).unwrap().is_empty());
    }
}
