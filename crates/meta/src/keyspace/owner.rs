//! What the object id that chunks carry is: an unfinished write, a version, a part, or something
//! being deleted.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab; it belongs to whoever owns the key in its record. A split copies nothing, a move
    /// copies it.
    OwnerKey(Owner) -> state::Owner {
        bucket: BucketId,
        object: Id,
    }
);
