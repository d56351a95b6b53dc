//! Walks the records of a volume, past damaged ones.
//!
//! A header that cannot be read hides where the next record is; the walk then looks at every page
//! for one of this volume (its seal tells). Nothing is held but one header.

use std::io;
use std::sync::Arc;

use granary_vfs::VfsFile;

use crate::format::{HEADER_BYTES, Header, PAGE_BYTES, RECORD_MAGIC};

/// Bytes read at once while looking for the next readable header.
const SEARCH_BYTES: usize = 256 * 1024;

/// What the walk came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// A record with a readable header.
    Record { offset: u64, header: Header },
    /// Bytes before a readable record that are none themselves.
    Gap { offset: u64, length: u64 },
}

/// A walk.
pub(crate) struct Scan {
    file: Arc<dyn VfsFile>,
    seal: u64,
    end: u64,
    offset: u64,
}

impl Scan {
    /// Walks a volume from `offset`, where a record begins or may begin.
    pub(crate) fn new(file: Arc<dyn VfsFile>, seal: u64, offset: u64) -> io::Result<Self> {
        let end = file.len()?;
        Ok(Self {
            file,
            seal,
            end,
            offset,
        })
    }

    /// Where the walk is: the end of the last record it came to.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The body of a record; shorter when the file ends inside it.
    pub(crate) fn body(&self, offset: u64, header: &Header) -> io::Result<Vec<u8>> {
        let length = usize::try_from(header.length).unwrap_or(usize::MAX) - HEADER_BYTES;
        self.file.read_at(offset + HEADER_BYTES as u64, length)
    }

    /// The next record or gap; `None` at the end of the records.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        let at = self.offset;
        if at >= self.end {
            return Ok(None);
        }
        let bytes = self.file.read_at(at, HEADER_BYTES)?;
        if let Some(header) = self.readable(at, &bytes) {
            self.offset = at + header.span();
            return Ok(Some(Found::Record { offset: at, header }));
        }
        let Some(next) = self.find_next(at + PAGE_BYTES)? else {
            return Ok(None);
        };
        self.offset = next;
        Ok(Some(Found::Gap {
            offset: at,
            length: next - at,
        }))
    }

    fn readable(&self, at: u64, bytes: &[u8]) -> Option<Header> {
        let header = Header::decode(bytes, self.seal)?;
        let end = at.checked_add(header.length)?;
        (end <= self.end).then_some(header)
    }

    fn find_next(&self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        while at < self.end {
            let bytes = self.file.read_at(at, SEARCH_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            for (n, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
                let place = at + n as u64 * PAGE_BYTES;
                if page.starts_with(RECORD_MAGIC) && self.readable(place, page).is_some() {
                    return Ok(Some(place));
                }
            }
            at += SEARCH_BYTES as u64;
        }
        Ok(None)
    }
}
