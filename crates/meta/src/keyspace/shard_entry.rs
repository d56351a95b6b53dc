//! The home slab of a shard, for a node that is to get a replica.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    ShardEntryKey(ShardEntry) -> state::ShardEntry {
        shard: u32,
    }
);
