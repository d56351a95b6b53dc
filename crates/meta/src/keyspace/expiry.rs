//! A look to be taken after a minute: at an unfinished write or a read pin that may have expired,
//! at a used id that may be forgotten, or (home slab, empty key, zero id) at a dropped bucket.

use bytes::Bytes;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, a minute before the position: in every minute it belongs to whoever owns (bucket,
    /// key). A split copies nothing, a move copies the interval of each minute.
    ExpiryKey(Expiry) -> () {
        minute: u32,
        bucket: BucketId,
        key: Bytes,
        object: Id,
    }
);
