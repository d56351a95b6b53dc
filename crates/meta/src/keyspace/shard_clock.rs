//! Applied time, newest stamp, feature level and other counters of apply.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of its shard. A split gives the child a copy; a move raises the destination's
    /// stamp above the source's.
    ShardClockKey(ShardClock) -> state::ShardClock {}
);
