//! The identity of a disk: the file `granary-disk` of its directory.
//!
//! Written once: write → fsync → rename → fsync of the directory.

use granary_types::DiskId;

use super::{Fields, set};

const MAGIC: &[u8; 8] = b"GRNYDISK";
const VERSION: u16 = 1;
const CLUSTER_BYTES_MAX: usize = 64;
const BYTES: usize = 128;
/// Bytes to read of the file at most; a later version may be longer.
pub(crate) const IDENTITY_BYTES_MAX: usize = 4096;

/// What a directory says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// The disk. Never reused.
    pub disk: DiskId,
    /// The cluster it belongs to.
    pub cluster_id: String,
}

/// Why an identity file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// Written by a later version of the format, this one.
    Newer(u16),
    /// Not an identity file, or its checksum is wrong.
    Damaged,
}

impl DiskIdentity {
    /// The newest format that this version reads and the one it writes.
    pub(crate) const FORMAT: u16 = VERSION;

    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let cluster = self.cluster_id.as_bytes();
        let length = cluster.len().min(CLUSTER_BYTES_MAX);
        set(&mut bytes, 0, MAGIC);
        set(&mut bytes, 8, &VERSION.to_le_bytes());
        bytes[10] = length as u8;
        set(&mut bytes, 16, &self.disk.0.to_le_bytes());
        set(&mut bytes, 24, &cluster[..length]);
        let sum = crc32c::crc32c(&bytes[..BYTES - 4]);
        set(&mut bytes, BYTES - 4, &sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.len() < BYTES || bytes[..8] != MAGIC[..] {
            return Err(IdentityError::Damaged);
        }
        let version = bytes.u16_at(8);
        if version > VERSION {
            return Err(IdentityError::Newer(version));
        }
        if crc32c::crc32c(&bytes[..BYTES - 4]) != bytes.u32_at(BYTES - 4) {
            return Err(IdentityError::Damaged);
        }
        let cluster = bytes
            .get(24..24 + usize::from(bytes[10]))
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or(IdentityError::Damaged)?;
        Ok(Self {
            disk: DiskId(bytes.u64_at(16)),
            cluster_id: cluster.to_owned(),
        })
    }
}
