//! Set while a snapshot is installed: the state may be a mixture, and which ranges to clear.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of its shard. Local to one replica, not in snapshots.
    RestoreMarkerKey(RestoreMarker) -> state::RestoreMarker {}
);
