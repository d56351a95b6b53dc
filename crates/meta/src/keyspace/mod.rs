//! The key space of the metadata state machine: one file per key kind, and the only place that
//! knows the bytes of keys.
//!
//! Every key is `slab (u32, big endian) · kind (u8) · fields`. Integers are big endian, object keys
//! and names are escaped so that they sort byte by byte whatever follows them, ids are 16 bytes.
//! The ordinals of [`Kind`] and every field order are reserved forever (golden tests).
//!
//! Where rows live, and how they travel:
//! * *home slab* of a shard, never shared: what belongs to the shard as a whole;
//! * *data slab*, positional: rows that carry a position (bucket, key) in their key. They belong to
//!   whoever owns the position, so a split copies nothing. Timed kinds put a minute in front: in
//!   each minute a shard's rows are again one interval;
//! * *data slab*, deletions: in the order of a sequence, the position stands in the record;
//! * *data slab*, owner-keyed: rows of (bucket, object id). They belong to whoever owns the key
//!   that stands in the `Owner` row of that object id.
//!
//! Invariant: apply changes only rows its shard owns, and nothing it does depends on the rows of a
//! shard that shares the slab, or replicas would diverge: another node's replica of that shard is
//! somewhere else in its log. Where such rows lie in between they are passed over. An object id is
//! used with one key only, so the `Owner` row of an id is never a sibling's.
//!
//! docs/data-layout-meta.md has the table of all kinds.

mod codec;
mod entry;
mod kind;
mod row;

pub(crate) mod access_key;
pub(crate) mod account;
pub(crate) mod bucket_by_id;
pub(crate) mod bucket_by_name;
pub(crate) mod bucket_by_owner;
pub(crate) mod bucket_config;
pub(crate) mod bucket_unfinished;
pub(crate) mod bucket_view;
pub(crate) mod change_log;
pub(crate) mod cluster_info;
pub(crate) mod cluster_trust;
pub(crate) mod command_reply;
pub(crate) mod counter;
pub(crate) mod deletion;
pub(crate) mod directory;
pub(crate) mod directory_by_id;
pub(crate) mod disk;
pub(crate) mod expiry;
pub(crate) mod extent;
pub(crate) mod head;
pub(crate) mod inline;
pub(crate) mod join_token;
pub(crate) mod lease;
pub(crate) mod lifecycle_index;
pub(crate) mod meta_node;
pub(crate) mod node_allocation;
pub(crate) mod node_database;
pub(crate) mod owner;
pub(crate) mod part;
pub(crate) mod part_page;
pub(crate) mod pin;
pub(crate) mod placement_group;
pub(crate) mod pool;
pub(crate) mod quota;
pub(crate) mod raft_bookkeeping;
pub(crate) mod range_hint;
pub(crate) mod restore_marker;
pub(crate) mod shard_allocation;
pub(crate) mod shard_clock;
pub(crate) mod shard_descriptor;
pub(crate) mod shard_entry;
pub(crate) mod tail;
pub(crate) mod upload;
pub(crate) mod version;

#[cfg(test)]
mod tests;

pub(crate) use codec::{Id, KeyField, Newest, escape};
pub(crate) use entry::{Entry, anchor, same_holder};
pub(crate) use kind::Kind;
pub(crate) use row::{RowKey, decode_value, kind_prefix, row_key};

use granary_types::SlabId;

/// Home slab of the root; slab 0 is nobody's.
pub(crate) const ROOT_HOME_SLAB: SlabId = SlabId(1);

/// Milliseconds in the time step of the timed kinds.
const MINUTE_MS: u64 = 60_000;

/// The minute in which a timed row stands.
pub(crate) fn minute_of(millis: u64) -> u32 {
    u32::try_from(millis / MINUTE_MS).unwrap_or(u32::MAX)
}

/// The first millisecond after a minute.
pub(crate) fn minute_end_ms(minute: u32) -> u64 {
    (u64::from(minute) + 1) * MINUTE_MS
}
