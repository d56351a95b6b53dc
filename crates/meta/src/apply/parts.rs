//! Parts of an upload: their rows, and the pages that a completed object keeps of them.

use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;

use super::counters::{class_of, count, signed};
use super::deletions::{queue_deletion, release};
use super::{ApplyContext, Refusal, Tx};
use crate::keyspace::part::PartKey;
use crate::keyspace::part_page::PartPageKey;
use crate::keyspace::upload::UploadKey;
use crate::keyspace::{Id, Kind, RowKey, kind_prefix};
use crate::limits::PARTS_PER_PAGE;
use crate::ownership::Place;
use crate::rows::{Bounds, Rows};

/// Bytes of an MD5.
pub(super) const MD5_BYTES: usize = 16;

/// The upload a command names.
pub(super) fn get_upload(
    tx: &Tx<'_>,
    at: &ApplyContext,
    upload_id: &[u8],
) -> Result<(UploadKey, state::Upload), Refusal> {
    let upload = Id::from_slice(upload_id).ok_or(Reason::NoSuchUpload)?;
    let row = upload_key(at, upload);
    let found = tx.get(&row)?.ok_or(Reason::NoSuchUpload)?;
    Ok((row, found))
}

pub(super) fn upload_key(at: &ApplyContext, upload: Id) -> UploadKey {
    UploadKey {
        slab: at.place.slab,
        bucket: at.place.bucket,
        key: at.place.key.clone(),
        upload,
    }
}

pub(super) fn part_key(row: &UploadKey, number: u32) -> PartKey {
    PartKey {
        slab: row.slab,
        bucket: row.bucket,
        key: row.key.clone(),
        upload: row.upload,
        number,
    }
}

/// The rows of an upload's parts.
pub(crate) fn part_bounds(row: &UploadKey) -> Bounds {
    let mut prefix = kind_prefix(row.slab, Kind::Part);
    row.write_fields(&mut prefix);
    Bounds::prefix(prefix)
}

/// Every part of an upload, by number; there are at most `limits::PART_NUMBER_MAX`.
pub(super) fn all_parts(tx: &Tx<'_>, row: &UploadKey) -> Result<Vec<state::Part>, Refusal> {
    let mut parts = Vec::new();
    for part in tx.rows::<PartKey>(&part_bounds(row)) {
        parts.push(part?.1);
    }
    Ok(parts)
}

/// Gives up parts that an aborted upload has left, at most `budget`; `true` when more are there.
pub(super) fn release_left_parts(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    upload: Id,
    budget: &mut usize,
) -> Result<bool, Refusal> {
    let row = upload_key(at, upload);
    if tx.exists(&row)? {
        return Ok(false);
    }
    let found = tx.list::<PartKey>(&part_bounds(&row), *budget + 1)?;
    let more = found.len() > *budget;
    let taken = &found[..found.len().min(*budget)];
    let parts: Vec<&state::Part> = taken.iter().map(|(_, part)| part).collect();
    release_parts(tx, at, &parts)?;
    for (row, _) in taken {
        tx.delete(row);
    }
    *budget -= taken.len();
    Ok(more)
}

/// Ends an upload: its row goes, the rows of the parts in `now` too, and the counters forget it with
/// all of its `parts`.
pub(super) fn close_upload(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    row: &UploadKey,
    upload: &state::Upload,
    parts: &[state::Part],
    now: &[state::Part],
) -> Result<(), Refusal> {
    for part in now {
        tx.delete(&part_key(row, part.number));
    }
    tx.delete(row);
    let bytes: u64 = parts.iter().map(|part| part.size).sum();
    let change = state::Counter {
        uploads: -1,
        multipart_parts: -signed(parts.len() as u64),
        multipart_bytes: -signed(bytes),
        ..Default::default()
    };
    count_upload(tx, at, upload, &change)
}

/// Changes the counters of the class an upload is made for.
pub(super) fn count_upload(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    upload: &state::Upload,
    change: &state::Counter,
) -> Result<(), Refusal> {
    let class = upload.template.as_ref().map_or(1, class_of);
    count(tx, at.place.bucket, class, at.time_ms, change)
}

/// Writes the parts of an object into pages; the body that stands for them.
pub(super) fn write_part_pages<'p>(
    tx: &mut Tx<'_>,
    place: &Place,
    object: Id,
    parts: impl Iterator<Item = &'p state::Part>,
) -> Result<state::Body, Refusal> {
    let mut pages: Vec<state::PartPage> = Vec::new();
    let (mut offset, mut count) = (0, 0);
    for part in parts {
        if (count as usize).is_multiple_of(PARTS_PER_PAGE) {
            pages.push(state::PartPage {
                parts: Vec::new(),
                offset,
            });
        }
        if let Some(page) = pages.last_mut() {
            page.parts.push(reference(part));
        }
        offset += part.size;
        count += 1;
    }
    for (number, page) in (0..).zip(&pages) {
        let row = PartPageKey {
            slab: place.slab,
            bucket: place.bucket,
            object,
            page: number,
        };
        tx.put(&row, page)?;
    }
    let parts = state::PartsBody {
        pages: u32::try_from(pages.len()).unwrap_or(u32::MAX),
        parts: count,
    };
    Ok(state::Body {
        place: Some(BodyPlace::Parts(parts)),
    })
}

fn reference(part: &state::Part) -> state::PartRef {
    state::PartRef {
        object_id: part.object_id.clone(),
        size: part.size,
        number: part.number,
        body: part.body.clone(),
        crc64: part.crc64,
        etag: part.etag.clone(),
    }
}

/// Gives up parts that no object takes over: one deletion for all of them.
pub(super) fn release_parts(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    parts: &[&state::Part],
) -> Result<(), Refusal> {
    let is_inline = |part: &&&state::Part| {
        let place = part.body.as_ref().and_then(|body| body.place.as_ref());
        matches!(place, None | Some(BodyPlace::Inline(_)))
    };
    let (inline, chunked): (Vec<&state::Part>, Vec<&state::Part>) =
        parts.iter().copied().partition(|part| is_inline(&part));
    for part in inline {
        release_part(tx, at, part)?;
    }
    match chunked.as_slice() {
        [] => Ok(()),
        [one] => release_part(tx, at, one),
        many => {
            let bundle = tx.allocate_id(at.time_ms);
            let size = many.iter().map(|part| part.size).sum();
            let body = write_part_pages(tx, &at.place, bundle, many.iter().copied())?;
            queue_deletion(tx, &at.place, at.time_ms, bundle, &body, size)
        }
    }
}

/// Gives up one part.
pub(super) fn release_part(
    tx: &mut Tx<'_>,
    at: &ApplyContext,
    part: &state::Part,
) -> Result<(), Refusal> {
    let body = part.body.as_ref();
    release(tx, &at.place, at.time_ms, &part.object_id, body, part.size)
}
