//! Bytes that are no longer referenced, to be deleted when due. The sequence is the stamp of the
//! command that queued it, so the order is the order of due times.

use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab; it belongs to whoever owns the position in its record. A split copies nothing, a
    /// move copies what belongs to the interval.
    DeletionKey(Deletion) -> state::Deletion {
        seq: u64,
        bucket: BucketId,
        object: Id,
    }
);
