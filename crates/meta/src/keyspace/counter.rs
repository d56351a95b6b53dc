//! Objects and bytes per (bucket, storage class) that this shard committed.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Home slab of its shard. A split and a move hand over those of a bucket that the giver keeps
    /// no part of; of a bucket in two pieces they stay, and the sum over its shards is right although
    /// a single shard may count below zero.
    CounterKey(Counter) -> state::Counter {
        bucket: BucketId,
        class: u32,
    }
);
