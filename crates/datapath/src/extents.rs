//! Walks the references of an object's body in order, a page at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::extent_piece::Piece as WirePiece;
use granary_meta_api::pb::state::body::Place;
use granary_types::limits::BLOCK_BYTES;
use granary_types::{ByteRange, ChunkId};

use crate::error::ReadError;
use crate::{ReadSource, Shared};

/// References asked for at once.
const PAGE: u32 = 256;

/// Bytes to read from one place.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// Part of a chunk.
    Chunk(ChunkPiece),
    /// Bytes that came with the metadata.
    Inline(Bytes),
}

/// Part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPiece {
    pub(crate) chunk: ChunkId,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// What the cursor stands on.
enum Reference {
    Extent(pb::state::Extent),
    Inline(Bytes),
}

impl Reference {
    fn length(&self) -> u64 {
        match self {
            Self::Extent(extent) => u64::from(extent.length),
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }
}

/// A whole reference, for copies.
pub(crate) enum WholePiece {
    Extent(pb::state::Extent),
    Inline(Bytes),
}

/// A position in an object's body.
pub(crate) struct ExtentCursor {
    shared: Arc<Shared>,
    source: ReadSource,
    /// Next byte wanted, and the one after the last.
    range: ByteRange,
    /// References from `known_from` on.
    known: VecDeque<Reference>,
    known_from: u64,
    /// False when the references are listed page by page.
    all_known: bool,
    /// Monotonic time at which they were asked for.
    listed_at: Duration,
    /// Of an appendable object: a fold may put the same bytes elsewhere while they are read.
    may_move: bool,
}

impl ExtentCursor {
    /// A cursor over `range`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        source: ReadSource,
        range: ByteRange,
    ) -> Result<Self, ReadError> {
        if range.end > source.version.size {
            let what = format!("{} bytes wanted of {}", range.end, source.version.size);
            return Err(ReadError::Malformed(what));
        }
        let place = source.version.body.as_ref().and_then(|b| b.place.as_ref());
        let (known, all_known) = match place {
            None if source.version.size == 0 => (VecDeque::new(), true),
            None => return Err(ReadError::Malformed("the version has no body".to_owned())),
            Some(Place::Inline(_)) => (
                VecDeque::from([Reference::Inline(source.inline.clone())]),
                true,
            ),
            Some(Place::Extents(body)) => (
                body.extents
                    .iter()
                    .cloned()
                    .map(Reference::Extent)
                    .collect(),
                true,
            ),
            Some(Place::Pages(_) | Place::Parts(_) | Place::Appended(_)) => {
                (VecDeque::new(), false)
            }
        };
        let may_move = matches!(place, Some(Place::Appended(_)));
        Ok(Self {
            listed_at: shared.runtime.monotonic(),
            may_move,
            shared,
            source,
            range,
            known,
            known_from: 0,
            all_known,
        })
    }

    /// Bytes that were not handed out yet.
    pub(crate) fn remaining(&self) -> u64 {
        self.range.length()
    }

    /// The next piece of at most `most` bytes; `None` at the end of the range.
    pub(crate) async fn next(&mut self, most: u32) -> Result<Option<Piece>, ReadError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        self.find().await?;
        let inside = self.range.start - self.known_from;
        let remaining = self.range.length();
        let Some(reference) = self.known.front() else {
            return Err(self.too_short());
        };
        let available = (reference.length() - inside).min(remaining);
        let piece = match reference {
            Reference::Inline(bytes) => {
                let start = usize::try_from(inside).unwrap_or(usize::MAX);
                let end = start + usize::try_from(available).unwrap_or(usize::MAX);
                Piece::Inline(bytes.slice(start..end))
            }
            Reference::Extent(extent) => Piece::Chunk(part_of(extent, inside, available, most)?),
        };
        self.range.start += match &piece {
            Piece::Chunk(piece) => u64::from(piece.length),
            Piece::Inline(bytes) => bytes.len() as u64,
        };
        Ok(Some(piece))
    }

    /// The next reference as a whole. For cursors that began at the start of the object.
    pub(crate) async fn next_whole(&mut self) -> Result<Option<WholePiece>, ReadError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        self.find().await?;
        let Some(reference) = self.known.front() else {
            return Err(self.too_short());
        };
        self.range.start += reference.length();
        Ok(Some(match reference {
            Reference::Extent(extent) => WholePiece::Extent(extent.clone()),
            Reference::Inline(bytes) => WholePiece::Inline(bytes.clone()),
        }))
    }

    /// Brings the reference that holds the next byte to the front.
    async fn find(&mut self) -> Result<(), ReadError> {
        self.forget_old();
        loop {
            while let Some(front) = self.known.front() {
                let end = self.known_from + front.length();
                if self.range.start < end {
                    return Ok(());
                }
                self.known_from = end;
                self.known.pop_front();
            }
            if self.all_known {
                return Err(self.too_short());
            }
            self.load_page().await?;
        }
    }

    /// What a fold replaces stays for the reader grace, and no pin of the object prolongs that:
    /// references of half that age are asked for again.
    fn forget_old(&mut self) {
        let grace = self.shared.view.map().reader_grace();
        let age = self
            .shared
            .runtime
            .monotonic()
            .saturating_sub(self.listed_at);
        if self.may_move && !grace.is_zero() && age >= grace / 2 {
            self.known.clear();
        }
    }

    async fn load_page(&mut self) -> Result<(), ReadError> {
        self.listed_at = self.shared.runtime.monotonic();
        let query = pb::ListExtents {
            at: Some(self.source.at.clone()),
            object_id: self.source.version.object_id.clone(),
            body: self.source.version.body.clone(),
            offset: self.range.start,
            limit: PAGE,
        };
        let page = self.shared.meta.query(query).await?;
        if page.pieces.is_empty() || page.first_offset > self.range.start {
            return Err(self.too_short());
        }
        self.known_from = page.first_offset;
        self.known = page
            .pieces
            .into_iter()
            .filter_map(|piece| match piece.piece? {
                WirePiece::Extent(extent) => Some(Reference::Extent(extent)),
                WirePiece::Inline(bytes) => Some(Reference::Inline(bytes)),
            })
            .collect();
        let known: u64 = self.known.iter().map(Reference::length).sum();
        if self.known_from + known <= self.range.start {
            return Err(self.too_short());
        }
        Ok(())
    }

    fn too_short(&self) -> ReadError {
        let (at, size) = (self.range.start, self.source.version.size);
        ReadError::Malformed(format!("no reference covers byte {at} of {size}"))
    }
}

/// At most `most` bytes of an extent from `inside` on, ending at a block border where possible.
fn part_of(
    extent: &pb::state::Extent,
    inside: u64,
    available: u64,
    most: u32,
) -> Result<ChunkPiece, ReadError> {
    if extent.code != 0 || extent.transform != 0 {
        let what = format!("code {}, transform {}", extent.code, extent.transform);
        return Err(ReadError::Malformed(what));
    }
    let mut end = inside + available.min(u64::from(most));
    if end < inside + available {
        let aligned = end - end % BLOCK_BYTES as u64;
        if aligned > inside {
            end = aligned;
        }
    }
    // Both fit: an extent's length is a u32.
    Ok(ChunkPiece {
        chunk: chunk_of(extent)?,
        offset: inside as u32,
        length: (end - inside) as u32,
    })
}

/// The chunk an extent names.
pub(crate) fn chunk_of(extent: &pb::state::Extent) -> Result<ChunkId, ReadError> {
    ChunkId::from_slice(&extent.chunk)
        .ok_or_else(|| ReadError::Malformed("a chunk id has another length".to_owned()))
}
