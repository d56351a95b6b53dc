//! Folds: the bytes of an appendable object in fewer, larger pieces.
//!
//! Small appends stand in the metadata, larger ones are chunks of their own. So that both stay few
//! however often is appended, their bytes are written again: the tail as one more small part, and the
//! small parts and the tail as one part once they fill a chunk or are many. Each byte is written a few
//! times at most, so an append costs the same however long the object is.

use std::sync::Arc;

use granary_meta_api::pb;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place;
use granary_types::ByteRange;
use granary_types::crc64::combine;
use granary_types::limits::{
    CHUNK_BYTES_MAX, SMALL_PART_BYTES, SMALL_PARTS_MAX, TAIL_BYTES_MAX, TAIL_ROWS_MAX,
};

use crate::copy::copy;
use crate::error::{ReadError, WriteError};
use crate::{CopyDigests, ReadSource, Shared, WriteTarget};

/// Small parts that a large part may come to stand behind.
const SMALL_PARTS_KEPT: u32 = 4;

/// Bytes of an object that were written again, durable but belonging to nothing yet.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The object byte they begin with; they go on to the end of the version that was read.
    pub from: u64,
    /// Goes into `FoldTail`.
    pub payload: pb::Payload,
    /// CRC-64/XZ of the bytes.
    pub crc64: u64,
}

/// The body of a version that can be appended to.
pub(crate) fn body_of(version: &state::Version) -> Option<&state::AppendedBody> {
    match version.body.as_ref()?.place.as_ref()? {
        Place::Appended(body) => Some(body),
        _ => None,
    }
}

/// Whether a payload can be appended to a version as it is. If not, a fold makes room.
pub(crate) fn takes(version: &state::Version, payload: &pb::Payload) -> bool {
    let Some(body) = body_of(version) else {
        return true;
    };
    let tail = version.size.saturating_sub(body.part_bytes);
    if payload.extents.is_empty() && payload.staged_extents == 0 {
        return tail + payload.size <= TAIL_BYTES_MAX && body.tail_rows < TAIL_ROWS_MAX;
    }
    let fills_a_chunk = body.run_parts > 1 && body.run_bytes >= CHUNK_BYTES_MAX as u64;
    let ends_the_run = payload.size >= SMALL_PART_BYTES && body.run_parts > SMALL_PARTS_KEPT;
    body.tail_rows == 0 && body.run_parts < SMALL_PARTS_MAX && !fills_a_chunk && !ends_the_run
}

/// Where a fold of a version begins; `None` when there is nothing to fold.
fn begins_at(version: &state::Version) -> Option<u64> {
    let body = body_of(version)?;
    let tail = version.size.saturating_sub(body.part_bytes);
    let run_from = body.part_bytes.saturating_sub(body.run_bytes);
    if tail == 0 {
        return (body.run_parts > 1).then_some(run_from);
    }
    let fills_a_chunk = body.run_bytes + tail >= CHUNK_BYTES_MAX as u64;
    match fills_a_chunk || body.run_parts + 1 >= SMALL_PARTS_MAX {
        true => Some(run_from),
        false => Some(body.part_bytes),
    }
}

/// The checksum of what stands before a fold that begins at `from`.
fn crc64_before(version: &state::Version, from: u64) -> u64 {
    let body = body_of(version).copied().unwrap_or_default();
    match from < body.part_bytes {
        true => body.run_from_crc64,
        false => body.part_crc64,
    }
}

/// Folds a version; see [`crate::DataPath::fold`].
pub(crate) async fn fold(
    shared: &Arc<Shared>,
    source: ReadSource,
    target: WriteTarget,
) -> Result<Option<Folded>, WriteError> {
    let Some(from) = begins_at(&source.version) else {
        return Ok(None);
    };
    let (size, expected) = (source.version.size, source.version.crc64);
    let before = crc64_before(&source.version, from);
    let range = ByteRange {
        start: from,
        end: size,
    };
    let copied = copy(shared, source, range, target, CopyDigests::Compute).await?;
    let Some((_, crc64)) = copied.digests else {
        return Ok(None);
    };
    // The shard can compare only as long as nothing is appended behind these bytes, and it gives up
    // those that they replace.
    if combine(before, crc64, range.length()) != expected {
        return Err(WriteError::Source(ReadError::Malformed(
            "other bytes were read than were appended".to_owned(),
        )));
    }
    Ok(Some(Folded {
        from,
        payload: copied.payload,
        crc64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn version(size: u64, body: state::AppendedBody) -> state::Version {
        state::Version {
            size,
            body: Some(state::Body {
                place: Some(Place::Appended(body)),
            }),
            ..Default::default()
        }
    }

    fn inline(size: u64) -> pb::Payload {
        pb::Payload {
            size,
            ..Default::default()
        }
    }

    fn chunks(size: u64) -> pb::Payload {
        pb::Payload {
            extents: vec![state::Extent::default()],
            size,
            ..Default::default()
        }
    }

    /// Appends of one size, with folds as they become due: what the gateway and the shard do, with
    /// nothing but the numbers. The bytes that were written in all, and the body at the end.
    fn simulate(
        appends: u64,
        bytes: u64,
        payload: fn(u64) -> pb::Payload,
    ) -> (u64, state::Version) {
        let mut known = version(0, state::AppendedBody::default());
        let mut written = 0;
        for _ in 0..appends {
            let payload = payload(bytes);
            for folds in 0.. {
                if takes(&known, &payload) {
                    break;
                }
                assert!(folds < 3, "a fold makes room");
                let from = begins_at(&known).unwrap();
                let mut body = *body_of(&known).unwrap();
                if from < body.part_bytes || (from == body.part_bytes && body.run_parts == 0) {
                    body.parts -= body.run_parts;
                    body.part_bytes = from;
                    (body.run_parts, body.run_bytes) = (0, 0);
                }
                written += known.size - from;
                add_part(&mut body, known.size - from);
                body.tail_rows = 0;
                known = version(known.size, body);
            }
            let mut body = *body_of(&known).unwrap();
            match payload.extents.is_empty() {
                true => body.tail_rows += 1,
                false => add_part(&mut body, bytes),
            }
            written += bytes;
            known = version(known.size + bytes, body);
        }
        (written, known)
    }

    fn add_part(body: &mut state::AppendedBody, bytes: u64) {
        body.parts += 1;
        body.part_bytes += bytes;
        if bytes < SMALL_PART_BYTES {
            body.run_parts += 1;
            body.run_bytes += bytes;
        } else {
            (body.run_parts, body.run_bytes) = (0, 0);
        }
    }

    #[test]
    fn bytes_are_written_a_few_times_and_pieces_stay_few() {
        for (appends, bytes, payload) in [
            (100_000, 1, inline as fn(u64) -> pb::Payload),
            (10_000, 1024, inline),
            (10_000, 16 * 1024, inline),
            (10_000, 16 * 1024 + 1, chunks),
            (5_000, 100 * 1024, chunks),
            (1_000, MIB, chunks),
            (500, 3 * MIB, chunks),
            (100, 9 * MIB, chunks),
        ] {
            let (written, made) = simulate(appends, bytes, payload);
            let body = body_of(&made).unwrap();
            assert!(
                written <= 6 * made.size + TAIL_BYTES_MAX,
                "{appends} of {bytes}: {written} bytes written for {}",
                made.size
            );
            let most = made.size / SMALL_PART_BYTES + u64::from(SMALL_PARTS_MAX);
            assert!(
                u64::from(body.parts) <= most,
                "{appends} of {bytes}: {} parts, {most} expected at most",
                body.parts
            );
            let tail = made.size - body.part_bytes;
            assert!(tail <= TAIL_BYTES_MAX && body.tail_rows <= TAIL_ROWS_MAX);
        }
    }
}
