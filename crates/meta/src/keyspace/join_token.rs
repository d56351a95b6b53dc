//! A token that lets a node join, until it expires; only a digest of its secret is kept.

use bytes::Bytes;
use granary_meta_api::pb::state;

use super::row_key;

row_key!(
    /// Home slab of the root.
    JoinTokenKey(JoinToken) -> state::JoinToken {
        id: Bytes,
    }
);
