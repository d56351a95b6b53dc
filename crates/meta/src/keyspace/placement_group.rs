//! A placement group and its members.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    PlacementGroupKey(PlacementGroup) -> state::PlacementGroup {
        pg: u32,
    }
);
