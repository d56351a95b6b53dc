//! The bytes of a small object or part, apart from the rows that lists read.

use bytes::Bytes;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, positional: it belongs to whoever owns (bucket, key); a split copies nothing, a
    /// move copies the interval.
    InlineKey(Inline) -> Bytes {
        bucket: BucketId,
        key: Bytes,
        object: Id,
    }
);
