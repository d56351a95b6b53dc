//! Where the replica is in its log, opaque to this crate.

use bytes::Bytes;

use super::row_key;

row_key!(
    /// Home slab of its shard. Never moves.
    RaftBookkeepingKey(RaftBookkeeping) -> Bytes {}
);
