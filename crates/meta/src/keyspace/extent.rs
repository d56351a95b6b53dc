//! A page of chunk references.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, owner-keyed: it belongs to whoever owns the key in the `Owner` row of (bucket,
    /// object id). A split copies nothing, a move copies it with that row.
    ExtentKey(Extent) -> state::ExtentPage {
        bucket: BucketId,
        object: Id,
        page: u32,
    }
);
