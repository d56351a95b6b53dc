//! Whether the disk still holds what it says it holds: whole records, read from the medium.
//!
//! A read checks the blocks it returns, wherever they come from. This checks every byte of a record,
//! its header included, and asks the system to let go of its own copy first: a page that rotted on
//! the disk may be whole in memory for weeks. What the drive keeps in memory of its own is beyond
//! anybody's reach. It must not know who asks, nor how often.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use granary_blob_api::BlobError;
use granary_types::ChunkId;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{
    Fields as _, HEADER_BYTES, Header, IndexEntry, Kind, VOLUME_HEADER_BYTES, chunk_record_bytes,
    pages,
};
use crate::index::Place;
use crate::reader::{ATTEMPTS_MAX, Outcome};
use crate::work::{MovedChunk, NewChunk};

/// Linux caches files in aligned pieces of up to this many bytes (a huge page of x86-64), and lets
/// go of whole ones only.
const FOLIO_BYTES: u64 = 2 << 20;

/// What was found where a chunk should be.
pub(crate) enum Finding {
    /// Every byte is as it was written.
    Whole(IndexEntry),
    /// The bytes of the chunk are, its header is not: it is lost with the index.
    HeaderDamaged(MovedChunk),
    Damaged(IndexEntry),
    /// The disk does not hold it any more.
    Gone,
}

/// A record whose blocks are whole.
struct Record {
    header_is_whole: bool,
    header: Header,
    body: Bytes,
}

/// The seals of volumes, by which their records are told; `None` when a volume's header cannot be
/// made out.
#[derive(Default)]
pub(crate) struct Seals(HashMap<u32, Option<u64>>);

impl Disk {
    /// Reads all of a chunk's record and marks what it finds. Blocks.
    pub(crate) fn examine(&self, seals: &mut Seals, id: ChunkId) -> Result<Finding, BlobError> {
        for _ in 0..ATTEMPTS_MAX {
            self.check_usable()?;
            let found = self.index().get(id);
            let entry = match found.map_err(|error| self.index_failed(error))? {
                Some(entry) if entry.is_live() => entry,
                _ => return Ok(Finding::Gone),
            };
            let outcome = self.attempt(id, &entry, || self.read_record(seals, id, &entry));
            match outcome {
                Ok(Outcome::Read(record)) => {
                    self.mark(id, &entry, false)?;
                    if record.header_is_whole {
                        return Ok(Finding::Whole(entry));
                    }
                    let (disk, volume, offset) = (self.id().0, entry.volume, entry.offset);
                    tracing::error!(disk, chunk = %id, volume, offset, "header of a chunk is damaged");
                    return Ok(Finding::HeaderDamaged(MovedChunk {
                        from: Place { volume, offset },
                        header: record.header,
                        body: record.body,
                    }));
                }
                Ok(Outcome::Damaged) => {
                    self.metrics().corrupt();
                    self.mark(id, &entry, true)?;
                    return Ok(Finding::Damaged(entry));
                }
                Ok(Outcome::Moved) => {}
                Err(BlobError::ChunkNotFound(_) | BlobError::ChunkDeleted(_)) => {
                    return Ok(Finding::Gone);
                }
                Err(error) => return Err(error),
            }
        }
        Err(BlobError::Busy(self.id()))
    }

    /// Where the disk holds a chunk with these bytes according to the index, but with others in
    /// truth, or under a header that is lost. Blocks.
    pub(crate) fn find_damaged(&self, chunk: &NewChunk) -> Result<Option<Place>, BlobError> {
        let found = self.index().get(chunk.id);
        let held = match found.map_err(|error| self.index_failed(error))? {
            Some(held) => held,
            None => return Ok(None),
        };
        if !held.is_live() || (held.length, held.digest) != (chunk.length, chunk.digest) {
            return Ok(None);
        }
        match self.examine(&mut Seals::default(), chunk.id)? {
            Finding::Whole(_) | Finding::Gone => Ok(None),
            Finding::HeaderDamaged(moved) => Ok(Some(moved.from)),
            Finding::Damaged(entry) => {
                let (volume, offset) = (entry.volume, entry.offset);
                Ok(Some(Place { volume, offset }))
            }
        }
    }

    /// `None`: the bytes of the chunk are not the ones that were written.
    fn read_record(
        &self,
        seals: &mut Seals,
        id: ChunkId,
        entry: &IndexEntry,
    ) -> io::Result<Option<Record>> {
        let length = chunk_record_bytes(entry.length);
        let file = self.volumes().open(entry.volume)?;
        let mut bytes = {
            let _uncached = Uncached::new(file.as_ref(), entry.offset, pages(length));
            Bytes::from(file.read_at(entry.offset, length as usize)?)
        };
        if bytes.len() < length as usize {
            return Ok(None);
        }
        let found = bytes.split_to(HEADER_BYTES);
        // Of a volume whose own header is lost, records can only be asked for themselves.
        let seal = self.seal(seals, entry.volume)?;
        let seal = seal.unwrap_or_else(|| found.u64_at(8));
        let header = Header {
            kind: Kind::Chunk,
            seal,
            length,
            seq: entry.seq,
            id,
            owner: entry.owner,
            payload: entry.length,
            digest: entry.digest,
        };
        Ok(header.body_is_intact(&bytes).then(|| Record {
            header_is_whole: Header::decode(&found, seal) == Some(header),
            header,
            body: bytes,
        }))
    }

    fn seal(&self, seals: &mut Seals, volume: u32) -> io::Result<Option<u64>> {
        if let Some(seal) = seals.0.get(&volume) {
            return Ok(*seal);
        }
        let file = self.volumes().open(volume)?;
        let _uncached = Uncached::new(file.as_ref(), 0, VOLUME_HEADER_BYTES);
        let seal = match self.volumes().header(volume, file.as_ref()) {
            Ok(Some(header)) => Some(header.seal),
            Err(DiskError::Io(error) | DiskError::Shortage(error)) => return Err(error),
            Ok(None) | Err(_) => {
                let disk = self.id().0;
                tracing::error!(disk, volume, "header of a volume in use is damaged");
                None
            }
        };
        seals.0.insert(volume, seal);
        Ok(seal)
    }
}

/// A range that is read from the medium, and leaves no trace in the system's memory: what nobody
/// asked for must not push out what clients read.
struct Uncached<'a> {
    file: &'a dyn granary_vfs::VfsFile,
    offset: u64,
    length: u64,
}

impl<'a> Uncached<'a> {
    fn new(file: &'a dyn granary_vfs::VfsFile, offset: u64, length: u64) -> Self {
        let range = Self {
            file,
            offset,
            length,
        };
        let start = offset - offset % FOLIO_BYTES;
        let end = (offset + length).next_multiple_of(FOLIO_BYTES);
        range.drop_cache(start, end - start);
        range
    }

    fn drop_cache(&self, offset: u64, length: u64) {
        // It is advice: a system that does not take it answers from memory.
        if let Err(error) = self.file.drop_cache_of(offset, length) {
            tracing::debug!(%error, "cannot let go of cached pages");
        }
    }
}

impl Drop for Uncached<'_> {
    fn drop(&mut self) {
        self.drop_cache(self.offset, self.length);
    }
}
