//! What the bucket commands of a shard share.

use granary_meta_api::pb;
use granary_meta_api::pb::fault::Kind;
use granary_types::BucketId;

use super::{Refusal, Tx};
use crate::keyspace::bucket_view::BucketViewKey;
use crate::ownership::{KeySpan, slab_of_span};

pub(super) fn view_key(tx: &Tx<'_>, bucket: BucketId) -> BucketViewKey {
    BucketViewKey {
        slab: tx.home(),
        bucket,
    }
}

/// A fault unless the shard owns the whole segment: the sender's map is old, and what it wants
/// acknowledged has to be acknowledged by others too.
pub(super) fn check_segment(
    tx: &Tx<'_>,
    bucket: BucketId,
    segment: Option<&pb::Segment>,
) -> Result<(), Refusal> {
    let whole = pb::Segment::default();
    let segment = segment.unwrap_or(&whole);
    let span = KeySpan::new(
        bucket.0,
        &segment.start_key,
        segment.bounded,
        &segment.end_key,
    );
    match slab_of_span(&tx.descriptor, &span) {
        Some(_) => Ok(()),
        None => Err(Refusal::fault(
            Kind::WrongShard,
            "not all of the segment is this shard's",
        )),
    }
}
