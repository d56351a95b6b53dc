//! The only place that knows bytes: disk identity, volume header, records, index keys and values.
//!
//! Drawn in docs/data-layout-volumes.md. All numbers are little endian but in index keys, which
//! sort. Everything that stands alone carries a magic, a version and a CRC-32C. Reserved bytes are
//! zero and a reader does not look at them; a reader refuses a version that it does not know.

mod identity;
mod index;
mod record;
mod volume;

pub use identity::DiskIdentity;
pub(crate) use identity::{IDENTITY_BYTES_MAX, IdentityError};
pub(crate) use index::{
    EpochEntry, INDEX_CHUNKS, INDEX_EPOCHS, INDEX_META, INDEX_VOLUMES, IndexEntry, IndexMeta,
    State, VolumeStats, chunk_key, epoch_key, id_of_key, pg_of_key, volume_key, volume_of_key,
};
pub(crate) use record::{
    BLOCK_SUM_BYTES, HEADER_BYTES, Header, Kind, MAGIC as RECORD_MAGIC, NO_OWNER, NOTE_BYTES,
    PgEpoch, TOMBSTONES_PER_RECORD, Tombstone, block_sum, chunk_record_bytes, decode_epochs,
    decode_tombstones, encode_epochs, encode_tombstones, range_span,
};
pub(crate) use volume::{VERSION as VOLUME_FORMAT, VOLUME_HEADER_BYTES, VolumeHeader};

/// Records start at multiples of this, so that no page with acknowledged bytes is written again.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// `length` rounded up to whole pages.
pub(crate) fn pages(length: u64) -> u64 {
    length.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

/// Fixed-place fields of a buffer that is long enough.
pub(crate) trait Fields {
    fn array<const N: usize>(&self, at: usize) -> [u8; N];

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

impl Fields for [u8] {
    /// Bytes beyond the end read as zero; callers check lengths before.
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(found) = self.get(at..at + N) {
            bytes.copy_from_slice(found);
        }
        bytes
    }
}

/// Writes `bytes` at a fixed place.
pub(crate) fn set(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests;
