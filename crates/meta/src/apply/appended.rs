//! The bytes of an appendable object: parts, which are chunks, and after them a tail of small rows.
//!
//! A command reads and writes a bounded number of rows, however long the object is. Parts at the end
//! that are small are counted (the run), so that a fold finds what is worth making one of without
//! looking.

use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_meta_api::pb::state::owner::State;
use granary_types::crc64::combine;
use granary_types::{ETag, ObjectType, limits};
use md5::{Digest, Md5};

use super::body::place_payload;
use super::deletions::tail_key;
use super::parts::release_parts;
use super::versions;
use super::{ApplyContext, PREFIXES, Refusal, Tx};
use crate::keyspace::Id;
use crate::keyspace::part_page::PartPageKey;
use crate::limits::{INLINE_BYTES_MAX, PARTS_PER_PAGE};
use crate::ownership::Place;
use crate::rows::Rows;

/// The current version of a key and its body, when it is appendable.
pub(super) fn current(
    tx: &Tx<'_>,
    at: &ApplyContext,
) -> Result<Option<(state::Version, Appended)>, Refusal> {
    let Some(version) = versions::current(tx, at)? else {
        return Ok(None);
    };
    if version.delete_marker && tx.clock.feature_level >= PREFIXES {
        // There is no object any more: the next append makes one, above the marker.
        return Ok(None);
    }
    let place = version.body.as_ref().and_then(|body| body.place.as_ref());
    let (Some(BodyPlace::Appended(body)), Some(object)) =
        (place, Id::from_slice(&version.object_id))
    else {
        return Err(Reason::ObjectNotAppendable.into());
    };
    let appended = Appended {
        object,
        body: *body,
    };
    Ok(Some((version, appended)))
}

/// Refuses a position that is not the end of the object.
pub(super) fn check_position(position: u64, length: u64) -> Result<(), Refusal> {
    if position == length {
        return Ok(());
    }
    Err(Refusal::Rejected(pb::Rejection {
        reason: Reason::PositionNotEqualToLength.into(),
        length,
        ..Default::default()
    }))
}

/// Makes a version say that it ends with these bytes too.
pub(super) fn lengthen(version: &mut state::Version, size: u64, crc64: u64) {
    version.crc64 = combine(version.crc64, crc64, size);
    version.size += size;
    describe(version);
}

/// What an appendable version says of its bytes. The tag is of no bytes' digest, but another one
/// after each append.
pub(super) fn describe(version: &mut state::Version) {
    let mut tag = Md5::new();
    tag.update(&version.object_id);
    tag.update(version.size.to_be_bytes());
    tag.update(version.crc64.to_be_bytes());
    version.etag = ETag::from_md5(tag.finalize().into()).as_str().to_owned();
    version.has_crc64 = true;
    version.object_type = ObjectType::Appendable.number();
}

/// A body that can be appended to.
pub(super) struct Appended {
    /// The object's id: its parts and its tail stand under it.
    pub(super) object: Id,
    pub(super) body: state::AppendedBody,
}

impl Appended {
    /// The body as the version keeps it.
    pub(super) fn to_body(&self) -> state::Body {
        state::Body {
            place: Some(BodyPlace::Appended(self.body)),
        }
    }

    /// Adds a payload behind byte `size`.
    pub(super) fn push(
        &mut self,
        tx: &mut Tx<'_>,
        at: &ApplyContext,
        size: u64,
        payload: &pb::Payload,
        crc64: u64,
    ) -> Result<(), Refusal> {
        if payload.extents.is_empty() && payload.staged_extents == 0 {
            return self.push_tail(tx, at, size, payload);
        }
        if self.body.tail_rows > 0 || self.body.run_parts >= limits::SMALL_PARTS_MAX {
            return Err(Reason::FoldFirst.into());
        }
        self.push_part(tx, at, payload, crc64)
    }

    fn push_tail(
        &mut self,
        tx: &mut Tx<'_>,
        at: &ApplyContext,
        size: u64,
        payload: &pb::Payload,
    ) -> Result<(), Refusal> {
        let length = payload.inline.len() as u64;
        if payload.size != length || length > INLINE_BYTES_MAX as u64 {
            return Err(Refusal::invalid("not the bytes of a small append"));
        }
        if !payload.write_id.is_empty() || !payload.abandoned.is_empty() {
            return Err(Refusal::invalid("a write id beside inline bytes"));
        }
        let tail = size.saturating_sub(self.body.part_bytes) + length;
        if tail > limits::TAIL_BYTES_MAX || self.body.tail_rows >= limits::TAIL_ROWS_MAX {
            return Err(Reason::FoldFirst.into());
        }
        if length > 0 {
            tx.put_inline(&tail_key(&at.place, self.object, size), &payload.inline)?;
            self.body.tail_rows += 1;
        }
        Ok(())
    }

    /// Adds a payload as a part. There must be no tail.
    pub(super) fn push_part(
        &mut self,
        tx: &mut Tx<'_>,
        at: &ApplyContext,
        payload: &pb::Payload,
        crc64: u64,
    ) -> Result<(), Refusal> {
        let owner = state::Owner {
            state: State::Part.into(),
            upload_id: self.object.to_bytes(),
            ..Default::default()
        };
        let placed = place_payload(tx, at, payload, owner)?;
        let body = &mut self.body;
        let (number, room) = page_of(body.parts);
        let row = page_key(&at.place, self.object, number);
        let mut page = match room {
            0 => state::PartPage {
                parts: Vec::new(),
                offset: body.part_bytes,
            },
            _ => tx.get(&row)?.unwrap_or_default(),
        };
        page.parts.push(state::PartRef {
            object_id: placed.object.to_bytes(),
            size: payload.size,
            number: body.parts + 1,
            body: Some(placed.body),
            crc64,
            etag: String::new(),
        });
        tx.put(&row, &page)?;
        body.parts += 1;
        body.pages = number + 1;
        body.part_bytes += payload.size;
        body.part_crc64 = combine(body.part_crc64, crc64, payload.size);
        if payload.size < limits::SMALL_PART_BYTES {
            body.run_parts += 1;
            body.run_bytes += payload.size;
        } else {
            self.end_run();
        }
        Ok(())
    }

    fn end_run(&mut self) {
        self.body.run_parts = 0;
        self.body.run_bytes = 0;
        self.body.run_from_crc64 = self.body.part_crc64;
    }

    /// Gives up the small parts at the end.
    pub(super) fn drop_run(&mut self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<(), Refusal> {
        let mut dropped: Vec<state::Part> = Vec::new();
        let mut left = self.body.run_parts as usize;
        while left > 0 && self.body.parts > 0 {
            let (number, _) = page_of(self.body.parts - 1);
            let row = page_key(&at.place, self.object, number);
            let mut page = tx.get(&row)?.unwrap_or_default();
            let kept = page.parts.len().saturating_sub(left);
            let gone = page.parts.split_off(kept);
            if gone.is_empty() {
                return Err(Refusal::invalid("parts of the run are missing"));
            }
            left -= gone.len();
            self.body.parts = self.body.parts.saturating_sub(gone.len() as u32);
            dropped.extend(gone.into_iter().map(part));
            match page.parts.is_empty() {
                true => tx.delete(&row),
                false => tx.put(&row, &page)?,
            }
            self.body.pages = match self.body.parts {
                0 => 0,
                parts => page_of(parts - 1).0 + 1,
            };
        }
        release_parts(tx, at, &dropped.iter().collect::<Vec<_>>())?;
        self.body.part_bytes -= self.body.run_bytes;
        self.body.part_crc64 = self.body.run_from_crc64;
        self.end_run();
        Ok(())
    }
}

/// The page of a part, by its index, and how many parts stand before it in the page.
fn page_of(index: u32) -> (u32, u32) {
    let per_page = PARTS_PER_PAGE as u32;
    (index / per_page, index % per_page)
}

fn page_key(place: &Place, object: Id, page: u32) -> PartPageKey {
    PartPageKey {
        slab: place.slab,
        bucket: place.bucket,
        object,
        page,
    }
}

fn part(reference: state::PartRef) -> state::Part {
    state::Part {
        number: reference.number,
        object_id: reference.object_id,
        size: reference.size,
        etag: reference.etag,
        crc64: reference.crc64,
        modified_ms: 0,
        body: reference.body,
        prefix: None,
    }
}
