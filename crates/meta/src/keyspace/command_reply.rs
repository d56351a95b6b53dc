//! The answer of a decided command, kept until its deadline (whose minute comes first) and a
//! margin, so that a repeat changes nothing.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::{Id, row_key};

row_key!(
    /// Data slab, a minute before the position: in every minute it belongs to whoever owns (bucket,
    /// key). A split copies nothing, a move copies the interval of each minute. Commands without a
    /// position keep theirs in the home slab under bucket 0 and an empty key.
    CommandReplyKey(CommandReply) -> state::CommandReplyRow {
        minute: u32,
        bucket: BucketId,
        key: Bytes,
        command: Id,
    }
);
