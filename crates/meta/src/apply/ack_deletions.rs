//! AckDeletions: the chunks of these deletions are gone from every disk; their rows go too.
//!
//! Bounded work: a large object takes several acknowledgements, last pages first, and the answer
//! says when there is more to do.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;

use super::deletions::{forget_id, inline_key, tail_key};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::extent::ExtentKey;
use crate::keyspace::part_page::PartPageKey;
use crate::keyspace::pin::PinKey;
use crate::keyspace::{Id, Kind, kind_prefix};
use crate::limits::{ACKS_PER_COMMAND_MAX, ROWS_PER_ACK};
use crate::ownership::{Place, data_slabs, place_at};
use crate::rows::{Bounds, Rows};

impl Apply for pb::AckDeletions {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        if self.seqs.len() > ACKS_PER_COMMAND_MAX {
            return Err(Refusal::invalid("too many sequences in one command"));
        }
        if self.lease_token < tx.clock.deletion_token {
            return Err(Reason::Stale.into());
        }
        tx.clock.deletion_token = self.lease_token;
        let mut budget = ROWS_PER_ACK;
        let mut more = false;
        for seq in self.seqs {
            for (row, deletion, place) in found(tx, seq)? {
                if budget == 0 {
                    more = true;
                    break;
                }
                more |= !acknowledge(tx, at, &row, deletion, &place, &mut budget)?;
            }
        }
        Ok(Reply::Ack(pb::AckReply { more }))
    }
}

/// The shard's deletions with a sequence. Another shard of the slab may have queued one with the
/// same: those are left alone.
fn found(tx: &Tx<'_>, seq: u64) -> Result<Vec<(DeletionKey, state::Deletion, Place)>, Refusal> {
    let mut found = Vec::new();
    for slab in data_slabs(&tx.descriptor) {
        let mut prefix = kind_prefix(slab, Kind::Deletion);
        prefix.extend_from_slice(&seq.to_be_bytes());
        for row in tx.rows::<DeletionKey>(&Bounds::prefix(prefix)) {
            let (row, deletion) = row?;
            let place = place_at(&tx.descriptor, row.bucket, &deletion.key);
            if let Some(place) = place.filter(|place| place.slab == slab) {
                found.push((row, deletion, place));
            }
        }
    }
    Ok(found)
}

/// Removes the rows of a deletion; false when the budget was used up before the last one.
fn acknowledge(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    row: &DeletionKey,
    mut deletion: state::Deletion,
    place: &Place,
    budget: &mut usize,
) -> Result<bool, Refusal> {
    let finished = match deletion.body.as_mut().and_then(|body| body.place.as_mut()) {
        Some(BodyPlace::Pages(paged)) => remove_extents(tx, place, row.object, paged, budget),
        Some(BodyPlace::Parts(parts)) => remove_parts(tx, at, place, row.object, parts, budget)?,
        Some(BodyPlace::Inline(_) | BodyPlace::Extents(_) | BodyPlace::Appended(_)) | None => true,
    };
    if !finished {
        tx.put(row, &deletion)?;
        return Ok(false);
    }
    *budget = budget.saturating_sub(3);
    if deletion.tail {
        tx.delete_range(&tail_key(place, row.object, 0).up_to(u64::MAX));
    }
    tx.delete(&PinKey {
        slab: place.slab,
        bucket: place.bucket,
        object: row.object,
    });
    tx.delete(row);
    forget_id(tx, place, at.time_ms, row.object)?;
    Ok(true)
}

/// Removes extent pages from the last one on.
fn remove_extents(
    tx: &mut Tx<'_>,
    place: &Place,
    object: Id,
    paged: &mut state::PagedBody,
    budget: &mut usize,
) -> bool {
    while paged.pages > 0 {
        if *budget == 0 {
            return false;
        }
        paged.pages -= 1;
        *budget -= 1;
        tx.delete(&ExtentKey {
            slab: place.slab,
            bucket: place.bucket,
            object,
            page: paged.pages,
        });
    }
    true
}

/// Removes part pages, and the rows of their parts, from the last one on.
fn remove_parts(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    place: &Place,
    object: Id,
    body: &mut state::PartsBody,
    budget: &mut usize,
) -> Result<bool, Refusal> {
    while body.pages > 0 {
        if *budget == 0 {
            return Ok(false);
        }
        let row = PartPageKey {
            slab: place.slab,
            bucket: place.bucket,
            object,
            page: body.pages - 1,
        };
        let mut page = tx.get(&row)?.unwrap_or_default();
        while let Some(part) = page.parts.pop() {
            // A part has few pages (its size is limited): it is removed in one go.
            let mut unlimited = usize::MAX;
            if let Some(id) = Id::from_slice(&part.object_id) {
                remove_part(tx, at, place, id, part.body, &mut unlimited)?;
            }
            *budget = budget.saturating_sub(usize::MAX - unlimited);
        }
        tx.delete(&row);
        *budget = budget.saturating_sub(1);
        body.pages -= 1;
    }
    Ok(true)
}

fn remove_part(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    place: &Place,
    id: Id,
    body: Option<state::Body>,
    budget: &mut usize,
) -> Result<(), Refusal> {
    *budget -= 1;
    match body.and_then(|body| body.place) {
        Some(BodyPlace::Inline(_)) => {
            tx.delete(&inline_key(place, id));
            return Ok(());
        }
        Some(BodyPlace::Pages(mut paged)) => {
            remove_extents(tx, place, id, &mut paged, budget);
        }
        Some(BodyPlace::Extents(_) | BodyPlace::Parts(_) | BodyPlace::Appended(_)) | None => {}
    }
    forget_id(tx, place, at.time_ms, id)
}
