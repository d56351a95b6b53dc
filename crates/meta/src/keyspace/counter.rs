//! Objects and bytes per (bucket, storage class) that this shard committed.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of its shard. Never moves: a sum over shards is right although a single shard may
    /// count below zero after a split.
    CounterKey(Counter) -> state::Counter {
        bucket: BucketId,
        class: u32,
    }
);
