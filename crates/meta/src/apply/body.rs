//! Where the bytes of a write go: an inline row, the record itself, or extent pages; and whether
//! the write id may still be committed.

use std::collections::HashSet;

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_types::{ObjectId, limits};

use super::deletions::{inline_key, owner_key, queue_abandoned};
use super::tx::allocated_by_apply;
use super::{ApplyContext, Refusal, Tx, expiry};
use crate::keyspace::extent::ExtentKey;
use crate::keyspace::{Id, same_holder};
use crate::limits::{EXTENTS_IN_RECORD_MAX, EXTENTS_PER_COMMAND_MAX, INLINE_BYTES_MAX};
use crate::ownership::Place;
use crate::rows::Rows;

/// Bytes that a command may now refer to.
pub(super) struct Placed {
    pub(super) object: Id,
    pub(super) body: state::Body,
}

/// A write id that may still be committed, and what is known of it.
pub(super) struct OpenWrite {
    pub(super) id: Id,
    /// Commits after this time are refused.
    pub(super) deadline_ms: u64,
    /// Set when extents were staged.
    pub(super) staged: Option<state::Owner>,
}

/// Checks that a write id may be committed or renewed here and now.
pub(super) fn open_write(
    tx: &Tx<'_>,
    at: &ApplyContext,
    write_id: &[u8],
) -> Result<OpenWrite, Refusal> {
    let id = Id::from_slice(write_id).filter(|id| !allocated_by_apply(*id));
    let id = id.ok_or_else(|| Refusal::invalid("not a write id"))?;
    let owner = tx.get(&owner_key(&at.place, id))?;
    let lease_ms = ApplyContext::write_lease_ms(tx);
    let birth_ms = ObjectId::from_slice(&id.0).unwrap_or_default().birth_ms();
    if birth_ms > at.time_ms.saturating_add(lease_ms) {
        return Err(Refusal::invalid("the write id is from the future"));
    }
    let mut deadline_ms = birth_ms.saturating_add(lease_ms);
    if let Some(owner) = &owner {
        if owner.state() != State::Writing {
            return Err(Refusal::invalid("the write id was used before"));
        }
        if !same_holder(&owner.key, &at.place.key) {
            return Err(Refusal::invalid("the write id belongs to another key"));
        }
        deadline_ms = deadline_ms.max(owner.deadline_ms);
    }
    if at.time_ms > deadline_ms {
        return Err(Reason::WriteExpired.into());
    }
    Ok(OpenWrite {
        id,
        deadline_ms,
        staged: owner,
    })
}

/// Takes a payload's bytes over: they belong to `state` from now on.
pub(super) fn place_payload(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    payload: &pb::Payload,
    owner: state::Owner,
) -> Result<Placed, Refusal> {
    check_not_kept(&payload.abandoned, &payload.extents)?;
    queue_abandoned(tx, &at.place, at.time_ms, &payload.abandoned)?;
    if payload.extents.is_empty() && payload.staged_extents == 0 {
        place_inline(tx, at, payload)
    } else {
        place_chunks(tx, at, payload, owner)
    }
}

fn place_inline(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    payload: &pb::Payload,
) -> Result<Placed, Refusal> {
    let length = payload.inline.len();
    if payload.size != length as u64 {
        return Err(Refusal::invalid("the size is not that of the bytes"));
    }
    if length > INLINE_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "{length} bytes are too many for a commit"
        )));
    }
    // No owner row stands for inline bytes: a write id would not be known as used afterwards.
    if !payload.write_id.is_empty() {
        return Err(Refusal::invalid("a write id beside inline bytes"));
    }
    let object = tx.allocate_id(at.time_ms);
    if length > 0 {
        tx.put_inline(&inline_key(&at.place, object), &payload.inline)?;
    }
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Ok(Placed {
        object,
        body: body(BodyPlace::Inline(state::InlineBody { length })),
    })
}

fn place_chunks(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    payload: &pb::Payload,
    mut owner: state::Owner,
) -> Result<Placed, Refusal> {
    if !payload.inline.is_empty() {
        return Err(Refusal::invalid("inline bytes beside chunks"));
    }
    let write = open_write(tx, at, &payload.write_id)?;
    let staged = write.staged.unwrap_or_default();
    if staged.staged_extents != payload.staged_extents {
        return Err(Refusal::invalid(format!(
            "{} extents are staged, not {}",
            staged.staged_extents, payload.staged_extents
        )));
    }
    let bytes = staged.staged_bytes + extent_bytes(&payload.extents)?;
    if bytes != payload.size {
        return Err(Refusal::invalid("the size is not that of the chunks"));
    }
    if staged.deadline_ms > 0 {
        let held = at.place.held_at(&staged.key);
        expiry::unschedule(tx, &held, write.id, staged.deadline_ms);
    }
    let total = staged.staged_extents + payload.extents.len() as u64;
    let placed = if payload.staged_extents == 0 && payload.extents.len() <= EXTENTS_IN_RECORD_MAX {
        let extents = payload.extents.clone();
        BodyPlace::Extents(state::ExtentBody { extents })
    } else {
        append_extents(tx, &at.place, write.id, &staged, &payload.extents)?;
        BodyPlace::Pages(state::PagedBody {
            pages: pages_of(total),
            extents: total,
        })
    };
    owner.key = at.place.key.clone();
    owner.deadline_ms = write.deadline_ms;
    tx.put(&owner_key(&at.place, write.id), &owner)?;
    Ok(Placed {
        object: write.id,
        body: body(placed),
    })
}

/// Appends extents to the pages of an unfinished write, after those `staged` counts.
pub(super) fn append_extents(
    tx: &mut Tx<'_>,
    place: &Place,
    object: Id,
    staged: &state::Owner,
    extents: &[state::Extent],
) -> Result<(), Refusal> {
    let per_page = limits::EXTENTS_PER_PAGE as u64;
    let mut index = staged.staged_extents;
    let mut offset = staged.staged_bytes;
    let mut rest = extents;
    while !rest.is_empty() {
        let row = ExtentKey {
            slab: place.slab,
            bucket: place.bucket,
            object,
            page: u32::try_from(index / per_page).unwrap_or(u32::MAX),
        };
        let mut page = match index % per_page {
            0 => state::ExtentPage {
                extents: Vec::new(),
                offset,
            },
            _ => tx.get(&row)?.unwrap_or_default(),
        };
        let room = usize::try_from(per_page - index % per_page).unwrap_or_default();
        let (now, later) = rest.split_at(room.min(rest.len()));
        page.extents.extend_from_slice(now);
        tx.put(&row, &page)?;
        index += now.len() as u64;
        offset += now
            .iter()
            .map(|extent| u64::from(extent.length))
            .sum::<u64>();
        rest = later;
    }
    Ok(())
}

/// True when exactly these extents are staged from `first` on: what a sender repeats must be what
/// was kept, or it would believe in chunks that nothing refers to.
pub(super) fn are_staged(
    tx: &Tx<'_>,
    place: &Place,
    object: Id,
    first: u64,
    extents: &[state::Extent],
) -> Result<bool, Refusal> {
    let per_page = limits::EXTENTS_PER_PAGE as u64;
    let mut index = first;
    let mut rest = extents;
    while !rest.is_empty() {
        let row = ExtentKey {
            slab: place.slab,
            bucket: place.bucket,
            object,
            page: u32::try_from(index / per_page).unwrap_or(u32::MAX),
        };
        let page = tx.get(&row)?.unwrap_or_default();
        let from = usize::try_from(index % per_page).unwrap_or_default();
        let kept = page.extents.get(from..).unwrap_or_default();
        let now = rest.len().min(limits::EXTENTS_PER_PAGE - from);
        if kept.get(..now) != rest.get(..now) {
            return Ok(false);
        }
        index += now as u64;
        rest = rest.get(now..).unwrap_or_default();
    }
    Ok(true)
}

/// Refuses a command that would have chunks deleted which it refers to.
pub(super) fn check_not_kept(
    abandoned: &[Bytes],
    extents: &[state::Extent],
) -> Result<(), Refusal> {
    let abandoned: HashSet<&Bytes> = abandoned.iter().collect();
    match extents
        .iter()
        .any(|extent| abandoned.contains(&extent.chunk))
    {
        true => Err(Refusal::invalid("a chunk is both kept and abandoned")),
        false => Ok(()),
    }
}

/// Object bytes in some extents; refused when one of them is malformed.
pub(super) fn extent_bytes(extents: &[state::Extent]) -> Result<u64, Refusal> {
    if extents.len() > EXTENTS_PER_COMMAND_MAX {
        return Err(Refusal::invalid("too many extents in one command"));
    }
    let mut bytes = 0;
    for extent in extents {
        let fits = (1..=limits::CHUNK_BYTES_MAX).contains(&(extent.length as usize));
        if extent.chunk.len() != 16 || !fits {
            return Err(Refusal::invalid("a malformed extent"));
        }
        bytes += u64::from(extent.length);
    }
    Ok(bytes)
}

fn pages_of(extents: u64) -> u32 {
    u32::try_from(extents.div_ceil(limits::EXTENTS_PER_PAGE as u64)).unwrap_or(u32::MAX)
}

fn body(place: BodyPlace) -> state::Body {
    state::Body { place: Some(place) }
}
