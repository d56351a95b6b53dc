//! ListExtents: the pieces of an object's bytes from an offset on, flattened over extent pages and
//! parts. Pages know the offset they begin at, so that a far offset is found by bisection.
//!
//! The body comes from a version record the caller read; its rows stay for as long as a reader's
//! grace or pin lasts. Pieces that are no longer there end the list early. Of an appendable object the
//! rows of now are listed: it may have been added to or folded since.

use granary_meta_api::pb;
use granary_meta_api::pb::extent_piece::Piece;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_meta_api::pb::state::body::Place as BodyPlace;
use granary_types::limits;

use super::get_version::inline_bytes;
use super::{Answer, QueryError, ShardView, page_limit};
use crate::keyspace::Id;
use crate::keyspace::extent::ExtentKey;
use crate::keyspace::part_page::PartPageKey;
use crate::keyspace::tail::TailKey;
use crate::limits::PAGE_BYTES_MAX;
use crate::ownership::Place;
use crate::rows::Rows;

/// Pieces in one page at most.
const PIECES_MAX: usize = 4096;
/// Inline bytes in one page, beyond its first piece: a reader holds a page for as long as its client
/// takes to read it.
const INLINE_PER_PAGE_BYTES_MAX: usize = 128 * 1024;

impl Answer for pb::ListExtents {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let place = shard.place(self.at.as_ref())?;
        let object = Id::from_slice(&self.object_id);
        let object = object.ok_or(QueryError::Invalid("not an object id"))?;
        let mut walk = Walk {
            shard,
            place,
            offset: self.offset,
            limit: page_limit(self.limit, PIECES_MAX).max(1),
            bytes: INLINE_PER_PAGE_BYTES_MAX,
            result: pb::ExtentsResult::default(),
        };
        walk.body(object, &self.body.unwrap_or_default(), 0)?;
        Ok(Reply::Extents(walk.result))
    }
}

struct Walk<'s> {
    shard: &'s ShardView<'s>,
    place: Place,
    /// Pieces that end at or before this object offset are left out.
    offset: u64,
    limit: usize,
    /// Inline bytes that still fit.
    bytes: usize,
    result: pb::ExtentsResult,
}

impl Walk<'_> {
    /// Walks a body that begins at `start`; false when the page is full.
    fn body(&mut self, object: Id, body: &state::Body, start: u64) -> Result<bool, QueryError> {
        match &body.place {
            None => Ok(true),
            Some(BodyPlace::Inline(inline)) => {
                let length = u64::from(inline.length);
                if start + length <= self.offset {
                    return Ok(true);
                }
                let bytes = inline_bytes(self.shard, &self.place, object)?;
                // Missing bytes end the page: what follows must not take their place.
                let missing = bytes.is_empty() && length > 0;
                Ok(!missing && (length == 0 || self.push(Piece::Inline(bytes), start)))
            }
            Some(BodyPlace::Extents(extents)) => Ok(self.extents(&extents.extents, start)),
            Some(BodyPlace::Pages(paged)) => self.pages(object, paged.pages, start),
            Some(BodyPlace::Parts(parts)) => self.parts(object, parts.pages),
            Some(BodyPlace::Appended(_)) => self.appended(object),
        }
    }

    fn extents(&mut self, extents: &[state::Extent], mut start: u64) -> bool {
        for extent in extents {
            let end = start + u64::from(extent.length);
            if end > self.offset && !self.push(Piece::Extent(extent.clone()), start) {
                return false;
            }
            start = end;
        }
        true
    }

    fn pages(&mut self, object: Id, pages: u32, start: u64) -> Result<bool, QueryError> {
        let inside = self.offset.saturating_sub(start);
        let first = last_page_at(pages, inside, |page| {
            Ok(self.extent_page(object, page)?.map(|page| page.offset))
        })?;
        for page in first..pages {
            let Some(page) = self.extent_page(object, page)? else {
                return Ok(false);
            };
            if !self.extents(&page.extents, start + page.offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn parts(&mut self, object: Id, pages: u32) -> Result<bool, QueryError> {
        let first = last_page_at(pages, self.offset, |page| {
            Ok(self.part_page(object, page)?.map(|page| page.offset))
        })?;
        for page in first..pages {
            let Some(page) = self.part_page(object, page)? else {
                return Ok(false);
            };
            let mut start = page.offset;
            for part in page.parts {
                let end = start + part.size;
                if end > self.offset
                    && let Some(id) = Id::from_slice(&part.object_id)
                    && !self.body(id, &part.body.unwrap_or_default(), start)?
                {
                    return Ok(false);
                }
                start = end;
            }
        }
        Ok(true)
    }

    /// An appendable object as its rows have it now: bytes never change their place in it, but what
    /// the caller read may have been folded since.
    fn appended(&mut self, object: Id) -> Result<bool, QueryError> {
        let (slab, bucket) = (self.place.slab, self.place.bucket);
        let page = |page| PartPageKey {
            slab,
            bucket,
            object,
            page,
        };
        let rows = &self.shard.rows;
        let last = rows.last::<PartPageKey>(&page(0), &page(u32::MAX))?;
        let pages = last.map_or(0, |(row, _)| row.page + 1);
        if !self.parts(object, pages)? {
            return Ok(false);
        }
        let tail = |offset| TailKey {
            slab,
            bucket,
            object,
            offset,
        };
        // The row that the offset lies in begins before it.
        let before = rows.last::<TailKey>(&tail(0), &tail(self.offset.saturating_add(1)))?;
        let first = before.map_or(tail(self.offset), |(row, _)| row);
        for row in rows.rows::<TailKey>(&first.up_to(u64::MAX)) {
            let (row, bytes) = row?;
            let ends = row.offset + bytes.len() as u64;
            if ends > self.offset && !self.push(Piece::Inline(bytes), row.offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn extent_page(&self, object: Id, page: u32) -> Result<Option<state::ExtentPage>, QueryError> {
        Ok(self.shard.rows.get(&ExtentKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            object,
            page,
        })?)
    }

    fn part_page(&self, object: Id, page: u32) -> Result<Option<state::PartPage>, QueryError> {
        Ok(self.shard.rows.get(&PartPageKey {
            slab: self.place.slab,
            bucket: self.place.bucket,
            object,
            page,
        })?)
    }

    fn push(&mut self, piece: Piece, start: u64) -> bool {
        let bytes = match &piece {
            Piece::Inline(bytes) => bytes.len(),
            Piece::Extent(_) => 0,
        };
        let pieces = &mut self.result.pieces;
        if pieces.len() >= self.limit || (bytes > self.bytes && !pieces.is_empty()) {
            self.result.more = true;
            return false;
        }
        if pieces.is_empty() {
            self.result.first_offset = start;
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        pieces.push(pb::ExtentPiece { piece: Some(piece) });
        true
    }
}

/// The last of `pages` that begins at or before `offset`, by bisection.
fn last_page_at(
    pages: u32,
    offset: u64,
    begins: impl Fn(u32) -> Result<Option<u64>, QueryError>,
) -> Result<u32, QueryError> {
    let (mut low, mut high) = (0, pages);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match begins(middle)? {
            Some(begin) if begin <= offset => low = middle,
            _ => high = middle,
        }
    }
    Ok(low)
}

const _: () = assert!(
    PIECES_MAX * 64 + INLINE_PER_PAGE_BYTES_MAX < PAGE_BYTES_MAX
        && limits::EXTENTS_PER_PAGE <= PIECES_MAX
);
