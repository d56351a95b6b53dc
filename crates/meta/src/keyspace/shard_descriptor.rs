//! What the shard owns: the authority for routing, checked in apply and in reads.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of its shard. Never moves; a split writes the child's.
    ShardDescriptorKey(ShardDescriptor) -> state::ShardDescriptor {}
);
