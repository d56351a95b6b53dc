//! What the database of one node says of itself. No shard's, in no snapshot.

use granary_meta_api::pb::state;
use granary_types::SlabId;

use super::row_key;

/// The slab of rows that are no shard's. The root never gives it out.
pub(crate) const NODE_SLAB: SlabId = SlabId(u32::MAX);

row_key!(
    /// In [`NODE_SLAB`].
    NodeDatabaseKey(NodeDatabase) -> state::NodeDatabase {}
);
