//! The first page of a volume. It holds the header twice, in different sectors.

use granary_types::DiskId;

use super::{Fields, PAGE_BYTES, set};

const MAGIC: &[u8; 8] = b"GRNYVOLU";
/// The newest format that this version reads and the one it writes.
pub(crate) const VERSION: u16 = 1;
const BYTES: usize = 64;
const COPIES_AT: [usize; 2] = [0, 2048];
/// Bytes before the first record.
pub(crate) const VOLUME_HEADER_BYTES: u64 = PAGE_BYTES;

/// What a volume says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeHeader {
    pub(crate) disk: DiskId,
    /// Number in its disk; rises, never reused.
    pub(crate) volume: u32,
    /// Random; every record repeats it, so that object bytes or leftovers of a removed file that
    /// look like a record are none.
    pub(crate) seal: u64,
}

impl VolumeHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = [0; BYTES];
        set(&mut copy, 0, MAGIC);
        set(&mut copy, 8, &VERSION.to_le_bytes());
        set(&mut copy, 12, &self.volume.to_le_bytes());
        set(&mut copy, 16, &self.disk.0.to_le_bytes());
        set(&mut copy, 24, &self.seal.to_le_bytes());
        let sum = crc32c::crc32c(&copy[..BYTES - 4]);
        set(&mut copy, BYTES - 4, &sum.to_le_bytes());
        let mut page = vec![0; VOLUME_HEADER_BYTES as usize];
        for at in COPIES_AT {
            set(&mut page, at, &copy);
        }
        page
    }

    /// `Ok(None)`: no readable header. `Err`: a later version wrote it, this one.
    pub(crate) fn decode(page: &[u8]) -> Result<Option<Self>, u16> {
        for at in COPIES_AT {
            let Some(copy) = page.get(at..at + BYTES) else {
                continue;
            };
            let intact = crc32c::crc32c(&copy[..BYTES - 4]) == copy.u32_at(BYTES - 4);
            if copy[..8] != MAGIC[..] || !intact {
                continue;
            }
            let version = copy.u16_at(8);
            if version > VERSION {
                return Err(version);
            }
            return Ok(Some(Self {
                volume: copy.u32_at(12),
                disk: DiskId(copy.u64_at(16)),
                seal: copy.u64_at(24),
            }));
        }
        Ok(None)
    }
}
