//! What one append added to an appendable object and no fold has made part of a chunk yet.

use bytes::Bytes;
use granary_types::BucketId;

use super::{Id, RowKey, row_key};
use crate::rows::Bounds;

row_key!(
    /// Data slab, owner-keyed: it belongs to whoever owns the key in the `Owner` row of (bucket,
    /// object id). A split copies nothing, a move copies it with that row.
    TailKey(Tail) -> Bytes {
        bucket: BucketId,
        object: Id,
        /// The object byte that the row begins with.
        offset: u64,
    }
);

impl TailKey {
    /// The rows from this one up to the one that begins at `end`.
    pub(crate) fn up_to(&self, end: u64) -> Bounds {
        let end = Self {
            offset: end,
            ..self.clone()
        };
        Bounds {
            start: self.encode(),
            end: Some(end.encode()),
        }
    }
}
