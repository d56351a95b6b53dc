//! Objects and bytes per bucket and storage class.

use granary_meta_api::pb::state;
use granary_types::{BucketId, StorageClass};

use super::{Refusal, Tx};
use crate::keyspace::counter::CounterKey;
use crate::rows::Rows;

/// Adds `change` to a counter; its time becomes `time_ms`.
pub(super) fn count(
    tx: &mut Tx<'_>,
    bucket: BucketId,
    class: u32,
    time_ms: u64,
    change: &state::Counter,
) -> Result<(), Refusal> {
    let row = CounterKey {
        slab: tx.home(),
        bucket,
        class,
    };
    let mut sum = tx.get(&row)?.unwrap_or_default();
    sum.objects += change.objects;
    sum.bytes += change.bytes;
    sum.multipart_parts += change.multipart_parts;
    sum.multipart_bytes += change.multipart_bytes;
    sum.uploads += change.uploads;
    sum.delete_markers += change.delete_markers;
    sum.versions += change.versions;
    sum.modified_ms = sum.modified_ms.max(time_ms);
    tx.put(&row, &sum)
}

/// The class a version is counted under; delete markers have none and count as Standard.
pub(super) fn class_of(version: &state::Version) -> u32 {
    match version.storage_class {
        0 => StorageClass::Standard.number(),
        class => class,
    }
}

/// A size as counters carry it.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
