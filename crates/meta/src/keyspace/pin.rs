//! A reader still wants the bytes of this object id.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, owner-keyed: it belongs to whoever owns the key in the `Owner` row of (bucket,
    /// object id). A split copies nothing, a move copies it with that row.
    PinKey(Pin) -> state::Pin {
        bucket: BucketId,
        object: Id,
    }
);
