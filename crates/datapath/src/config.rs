//! What an operator may set about the way of bytes, and the fixed numbers behind it.

use std::time::Duration;

use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// Settings of a [`crate::DataPath`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPathConfig {
    /// Objects up to this many bytes travel inside the commit, in bytes.
    pub inline_max_bytes: usize,
    /// Memory for bytes on their way to disks, all requests together, in bytes.
    pub write_buffer_bytes: u64,
    /// Memory for bytes on their way to clients, all requests together, in bytes.
    pub read_buffer_bytes: u64,
    /// How long a request waits for buffer memory before it is told to come back, in milliseconds.
    pub buffer_wait_ms: u64,
    /// A read that lasts longer is cut, in milliseconds.
    pub read_age_max_ms: u64,
    /// Time one chunk may take to reach its disks, retries included, in milliseconds.
    pub chunk_write_timeout_ms: u64,
    /// Time one piece may take to be read, retries included, in milliseconds.
    pub chunk_read_timeout_ms: u64,
    /// Once enough copies are durable, how long the rest may take before they count as failed, in
    /// milliseconds; three times what those took when that is longer.
    pub straggler_wait_ms: u64,
    /// A second copy is asked no earlier than this after the first, in milliseconds.
    pub hedge_min_ms: u64,
    /// What one disk gives and takes at most while chunks are copied to make others good, in bytes
    /// per second.
    pub repair_bytes_per_sec: u64,
    /// Zone of this process: its copies are read first, its pools are written first. Empty: none.
    /// Set by whoever starts the process, not by its section of the configuration file.
    #[serde(skip)]
    pub zone: String,
}

impl Default for DataPathConfig {
    fn default() -> Self {
        Self {
            inline_max_bytes: 16 * 1024,
            write_buffer_bytes: 192 * 1024 * 1024,
            read_buffer_bytes: 96 * 1024 * 1024,
            buffer_wait_ms: 20_000,
            read_age_max_ms: 48 * 3600 * 1000,
            chunk_write_timeout_ms: 30_000,
            chunk_read_timeout_ms: 20_000,
            straggler_wait_ms: 2_000,
            hedge_min_ms: 50,
            repair_bytes_per_sec: 128 * 1024 * 1024,
            zone: String::new(),
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {wanted}")]
pub struct InvalidConfig {
    /// The setting.
    pub name: &'static str,
    /// What it must be.
    pub wanted: &'static str,
}

impl DataPathConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let chunk = CHUNK_BYTES_MAX as u64;
        for (name, holds, wanted) in [
            (
                "inline_max_bytes",
                self.inline_max_bytes <= BLOCK_BYTES,
                "at most 64 KiB",
            ),
            (
                "write_buffer_bytes",
                self.write_buffer_bytes >= chunk,
                "at least 4 MiB",
            ),
            (
                "read_buffer_bytes",
                self.read_buffer_bytes >= chunk,
                "at least 4 MiB",
            ),
            (
                "repair_bytes_per_sec",
                self.repair_bytes_per_sec >= REPAIR_BYTES_PER_SEC_MIN,
                "at least 32 MiB",
            ),
        ] {
            if !holds {
                return Err(InvalidConfig { name, wanted });
            }
        }
        Ok(())
    }
}

/// Slower repair would not come to an end in the time that one of its steps may take.
const REPAIR_BYTES_PER_SEC_MIN: u64 = 32 * 1024 * 1024;
/// Bytes by which a request's share of the write buffer grows at most.
pub(crate) const BUFFER_STEP_BYTES: usize = 256 * 1024;
/// A client for whose [`BUFFER_STEP_BYTES`] the server waits at most so long is quick.
pub(crate) const QUICK_STEP: Duration = Duration::from_millis(250);
/// Chunks of one request that may be on their way to disks at once.
pub(crate) const CHUNKS_IN_FLIGHT: usize = 2;
/// Chunk references a request holds before it stages them in the shard.
pub(crate) const EXTENTS_HELD_MAX: usize = 2048;
/// A buffer this long without new bytes is flushed when memory is short.
pub(crate) const IDLE_FLUSH_AFTER: Duration = Duration::from_secs(5);
/// Bodies up to this size are hashed on the request's own task, in bytes.
pub(crate) const HASH_IN_PLACE_MAX: usize = 32 * 1024;
/// Bytes of one chunk at most.
pub(crate) const CHUNK_BYTES: usize = CHUNK_BYTES_MAX;
