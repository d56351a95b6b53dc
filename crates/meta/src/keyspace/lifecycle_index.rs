//! When a lifecycle rule is due for a version. Nothing writes it yet.

use bytes::Bytes;
use granary_types::BucketId;

use super::row_key;

row_key!(
    /// Data slab, a minute before the position: in every minute it belongs to whoever owns (bucket,
    /// key). A split copies nothing, a move copies the interval of each minute.
    #[cfg_attr(not(test), expect(dead_code, reason = "reserved: nothing writes it yet"))]
    LifecycleIndexKey(LifecycleIndex) -> () {
        minute: u32,
        bucket: BucketId,
        key: Bytes,
        stamp: u64,
    }
);
