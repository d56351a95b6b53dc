//! Bytes that nothing refers to any more: queued with a grace for readers, and forgotten once the
//! storage nodes have deleted them.

use bytes::Bytes;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_types::{ObjectId, limits};

use super::tx::allocated_by_apply;
use super::{ApplyContext, OBJECTS, Refusal, Tx, expiry};
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::inline::InlineKey;
use crate::keyspace::owner::OwnerKey;
use crate::keyspace::tail::TailKey;
use crate::keyspace::{Id, anchor};
use crate::limits::EXTENTS_PER_COMMAND_MAX;
use crate::ownership::Place;
use crate::rows::Rows;

/// Gives up a body: inline bytes go at once (a reader got them with the record), chunks are queued.
pub(super) fn release(
    tx: &mut Tx<'_>,
    place: &Place,
    time_ms: u64,
    object: &[u8],
    body: Option<&state::Body>,
    size: u64,
) -> Result<(), Refusal> {
    let (Some(body), Some(object)) = (body, Id::from_slice(object)) else {
        return Ok(());
    };
    match &body.place {
        None => Ok(()),
        Some(BodyPlace::Inline(inline)) => {
            if inline.length > 0 {
                tx.delete(&inline_key(place, object));
            }
            Ok(())
        }
        Some(_) => queue_deletion(tx, place, time_ms, object, body, size),
    }
}

/// Queues chunks for deletion, due after the reader grace. The tail of an appendable object stays for
/// its readers as the chunks do.
pub(super) fn queue_deletion(
    tx: &mut Tx<'_>,
    place: &Place,
    time_ms: u64,
    object: Id,
    body: &state::Body,
    size: u64,
) -> Result<(), Refusal> {
    let due_ms = time_ms.saturating_add(reader_grace_ms(tx));
    queue(tx, place, (time_ms, due_ms), object, body, size)
}

fn reader_grace_ms(tx: &Tx<'_>) -> u64 {
    tx.clock.settings.map_or(0, |s| s.reader_grace_ms)
}

fn queue(
    tx: &mut Tx<'_>,
    place: &Place,
    (time_ms, due_ms): (u64, u64),
    object: Id,
    body: &state::Body,
    size: u64,
) -> Result<(), Refusal> {
    let (body, tail) = match &body.place {
        Some(BodyPlace::Appended(appended)) => (parts_of(appended), appended.tail_rows > 0),
        _ => (body.clone(), false),
    };
    let row = DeletionKey {
        slab: place.slab,
        seq: tx.next_stamp(time_ms),
        bucket: place.bucket,
        object,
    };
    let deletion = state::Deletion {
        due_ms,
        bucket_id: place.bucket.0,
        object_id: object.to_bytes(),
        body: Some(body),
        key: place.key.clone(),
        size,
        tail,
    };
    tx.put(&row, &deletion)?;
    let row = owner_key(place, object);
    let mut owner = tx.get(&row)?.unwrap_or_default();
    owner.key = place.key.clone();
    owner.set_state(State::Deleting);
    owner.due_ms = deletion.due_ms;
    tx.put(&row, &owner)
}

/// The parts of an appendable object, as those of a multipart one: whoever deletes the chunks needs to
/// know no more.
fn parts_of(appended: &state::AppendedBody) -> state::Body {
    state::Body {
        place: Some(BodyPlace::Parts(state::PartsBody {
            pages: appended.pages,
            parts: appended.parts,
        })),
    }
}

/// Queues chunks that a write left on disks when it went on with others. No record refers to them,
/// but their owner lives, so the sweep would keep them.
///
/// An attempt that was given up may still be on its way to a disk, and one that arrives after the
/// deletion would stay as long as the owner. So they go when a write that began now would have ended.
pub(super) fn queue_abandoned(
    tx: &mut Tx<'_>,
    place: &Place,
    time_ms: u64,
    chunks: &[Bytes],
) -> Result<(), Refusal> {
    if chunks.len() > EXTENTS_PER_COMMAND_MAX || chunks.iter().any(|chunk| chunk.len() != 16) {
        return Err(Refusal::invalid(
            "too many abandoned chunks, or a malformed id",
        ));
    }
    let mut wait_ms = reader_grace_ms(tx);
    if tx.clock.feature_level >= OBJECTS {
        wait_ms = wait_ms.max(ApplyContext::write_lease_ms(tx));
    }
    let due_ms = time_ms.saturating_add(wait_ms);
    for chunks in chunks.chunks(limits::EXTENTS_PER_PAGE) {
        let extents = chunks.iter().map(|chunk| state::Extent {
            chunk: chunk.clone(),
            ..Default::default()
        });
        let extents = extents.collect();
        let body = state::Body {
            place: Some(BodyPlace::Extents(state::ExtentBody { extents })),
        };
        let object = tx.allocate_id(time_ms);
        queue(tx, place, (time_ms, due_ms), object, &body, 0)?;
    }
    Ok(())
}

/// Removes the owner row of bytes that are gone. While a commit of the id could still be accepted
/// the row stays, as "deleted", so that the id is not used twice.
pub(super) fn forget_id(
    tx: &mut Tx<'_>,
    place: &Place,
    time_ms: u64,
    object: Id,
) -> Result<(), Refusal> {
    let row = owner_key(place, object);
    let owner = tx.get(&row)?.unwrap_or_default();
    let birth_ms = ObjectId::from_slice(&object.0)
        .unwrap_or_default()
        .birth_ms();
    let lease_end = birth_ms.saturating_add(ApplyContext::write_lease_ms(tx));
    let deadline_ms = lease_end.max(owner.deadline_ms);
    if allocated_by_apply(object) || deadline_ms <= time_ms {
        tx.delete(&row);
        return Ok(());
    }
    let deleted = state::Owner {
        state: State::Deleted.into(),
        key: place.key.clone(),
        deadline_ms,
        ..Default::default()
    };
    tx.put(&row, &deleted)?;
    expiry::schedule(tx, place, object, deadline_ms)
}

pub(super) fn owner_key(place: &Place, object: Id) -> OwnerKey {
    OwnerKey {
        slab: place.slab,
        bucket: place.bucket,
        object,
    }
}

pub(super) fn tail_key(place: &Place, object: Id, offset: u64) -> TailKey {
    TailKey {
        slab: place.slab,
        bucket: place.bucket,
        object,
        offset,
    }
}

pub(super) fn inline_key(place: &Place, object: Id) -> InlineKey {
    InlineKey {
        slab: place.slab,
        bucket: place.bucket,
        key: anchor(&place.key),
        object,
    }
}
