//! The node that a nonce got, so that an allocation can be repeated.

use granary_meta_api::pb::state;

use super::{Id, row_key};

row_key!(
    /// Home slab of the root.
    NodeAllocationKey(NodeAllocation) -> state::NodeAllocation {
        nonce: Id,
    }
);
