//! Reads: the index says where, one positioned read brings the blocks, each is verified.

use std::io;

use bytes::Bytes;
use granary_blob_api::{BlobError, Block, ChunkRead, GetChunk};
use granary_kv::KvError;
use granary_types::ChunkId;
use granary_types::limits::BLOCK_BYTES;
use granary_vfs::is_shortage;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{BLOCK_SUM_BYTES, IndexEntry, block_sum, range_span};

/// Looks at the index again when compaction moved the chunk meanwhile; more often than this it
/// cannot have.
pub(crate) const ATTEMPTS_MAX: usize = 5;

/// What became of a read at one place.
pub(crate) enum Outcome<T> {
    Read(T),
    /// The bytes there are not the ones that were written, or cannot be read.
    Damaged,
    /// The chunk is not there any more.
    Moved,
}

impl Disk {
    /// The index cannot be read: the disk is out.
    pub(crate) fn index_failed(&self, error: KvError) -> BlobError {
        self.fail(&DiskError::Index(error));
        self.out_of_service()
    }

    /// The live entry of a chunk. Blocks.
    pub(crate) fn find_live(&self, id: ChunkId) -> Result<IndexEntry, BlobError> {
        match self.index().get(id) {
            Err(error) => Err(self.index_failed(error)),
            Ok(None) => Err(BlobError::ChunkNotFound(id)),
            Ok(Some(entry)) if entry.is_live() => Ok(entry),
            Ok(Some(_)) => Err(BlobError::ChunkDeleted(id)),
        }
    }

    /// Reads the blocks that cover a range. Blocks.
    pub(crate) fn read(&self, range: &GetChunk) -> Result<ChunkRead, BlobError> {
        for _ in 0..ATTEMPTS_MAX {
            self.check_usable()?;
            let entry = self.find_live(range.id)?;
            let end = range.offset.checked_add(range.length);
            if range.length == 0 || end.is_none_or(|end| end > entry.length) {
                return Err(BlobError::Invalid(format!(
                    "bytes {}+{} of a chunk of {}",
                    range.offset, range.length, entry.length
                )));
            }
            match self.attempt(range.id, &entry, || self.read_blocks(range, &entry))? {
                Outcome::Read(read) => return Ok(read),
                Outcome::Damaged => {
                    self.metrics().corrupt();
                    self.mark(range.id, &entry, true)?;
                    return Err(BlobError::Corrupt(range.id));
                }
                Outcome::Moved => {}
            }
        }
        Err(BlobError::Busy(self.id()))
    }

    /// Notes what was found about the bytes behind an entry. Blocks.
    pub(crate) fn mark(
        &self,
        id: ChunkId,
        entry: &IndexEntry,
        damaged: bool,
    ) -> Result<(), BlobError> {
        let marked = self.index().mark(id, entry, damaged);
        marked.map_err(|error| self.index_failed(error))
    }

    /// Reads at the place that an entry names; `None` from `read` says that the bytes there are not
    /// the ones that were written.
    pub(crate) fn attempt<T>(
        &self,
        chunk: ChunkId,
        entry: &IndexEntry,
        read: impl FnOnce() -> io::Result<Option<T>>,
    ) -> Result<Outcome<T>, BlobError> {
        let (disk, volume) = (self.id().0, entry.volume);
        match read() {
            Ok(Some(read)) => Ok(Outcome::Read(read)),
            Ok(None) => {
                tracing::error!(disk, %chunk, volume, offset = entry.offset, "chunk is damaged");
                Ok(Outcome::Damaged)
            }
            Err(error) if is_shortage(&error) => {
                tracing::warn!(disk, %chunk, %error, "no descriptor or memory to read with");
                Err(BlobError::Busy(self.id()))
            }
            // Compaction removed the volume after the index was read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && self.find_live(chunk)? != *entry =>
            {
                Ok(Outcome::Moved)
            }
            Err(error) => {
                tracing::error!(disk, %chunk, volume, %error, "cannot read chunk");
                self.probe()?;
                Ok(Outcome::Damaged)
            }
        }
    }

    /// `None`: the bytes are not the ones that were written.
    fn read_blocks(&self, range: &GetChunk, entry: &IndexEntry) -> io::Result<Option<ChunkRead>> {
        let (first, past, start, end) = range_span(entry.length, range.offset, range.length);
        let file = self.volumes().open(entry.volume)?;
        let length = (end - start) as usize;
        let mut bytes = Bytes::from(file.read_at(entry.offset + start, length)?);
        if bytes.len() < length {
            return Ok(None);
        }
        let mut blocks = Vec::with_capacity((past - first) as usize);
        for index in first..past {
            let stored = bytes.split_to(BLOCK_SUM_BYTES);
            let data = bytes.split_to(bytes.len().min(BLOCK_BYTES));
            let block = Block::new(data);
            if stored[..] != block_sum(range.id, index, block.crc32c) {
                return Ok(None);
            }
            blocks.push(block);
        }
        Ok(Some(ChunkRead {
            offset: first * BLOCK_BYTES as u32,
            blocks,
        }))
    }
}
