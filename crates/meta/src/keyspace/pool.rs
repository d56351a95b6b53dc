//! A pool of disks with one redundancy class.

use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    PoolKey(Pool) -> state::Pool {
        pool: u32,
    }
);
