//! Feature levels that others than the state machine have to know of: they ask a shard for nothing that it
//! does not know yet.

/// From here on a shard says how large its ranges are, and a split may name the epoch that it expects.
pub const SPLITS: u64 = 6;
