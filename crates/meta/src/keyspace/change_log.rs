//! The shard's ordered change log, for replication, events and inventory. Nothing writes it yet.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of its shard. Never moves: consumers finish the source's log before they follow
    /// the child's.
    #[cfg_attr(not(test), expect(dead_code, reason = "reserved: nothing writes it yet"))]
    ChangeLogKey(ChangeLog) -> state::Change {
        seq: u64,
    }
);
