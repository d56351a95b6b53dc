//! What an operator may set about the disk engine, and what a disk is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use granary_kv::Kv;
use granary_types::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use granary_vfs::DirLock;

/// Smallest volume that makes sense.
const VOLUME_BYTES_MIN: u64 = 64 * 1024;

/// Share of a volume, in percent, that an idle disk compacts it for: it writes at most nine bytes
/// again for one that comes back. Smaller dead shares stay, and are not counted as reclaimable.
pub const IDLE_DEAD_PERCENT: u8 = 10;
/// Bytes that an idle disk compacts a volume for when it has to write anything again; less is not
/// worth a new file.
pub const IDLE_GAIN_MIN: u64 = 64 * 1024;
/// When a disk counts as idle, unless set otherwise.
const IDLE_AFTER_DEFAULT: Duration = Duration::from_secs(10);

/// Limits of the disk engine; the same for every disk of a node.
#[derive(Clone, Debug)]
pub struct BlobConfig {
    /// The cluster the disks belong to, 1 to 64 bytes; a disk of another one is refused.
    pub cluster_id: String,
    /// Bytes of one volume file at most, at least 64 KiB; a chunk that is larger gets a volume of its
    /// own.
    pub volume_bytes: u64,
    /// Bytes by which a volume file is reserved ahead of its writes.
    pub allocate_bytes: u64,
    /// Bytes of chunks that may wait for one disk.
    pub queue_bytes: u32,
    /// Reads of one disk, its index included, that may run at once.
    pub reads_max: u32,
    /// How long a request waits for a place in a disk's queue before it is answered `Busy`: less
    /// than writers wait for their last copy, so that a full queue is told from a failure.
    pub busy_after: Duration,
    /// How long the file system of a disk may owe an answer before the disk is out of service, and
    /// how long a request that has its place in a queue waits for its own.
    pub silent_after: Duration,
    /// How long closing a disk waits for calls that are under way in it.
    pub close_after: Duration,
    /// Free bytes of the file system below which a disk takes no new chunks.
    pub min_free_bytes: u64,
    /// The same as a share of the file system, in percent; the larger of both counts.
    pub min_free_percent: u8,
    /// Share of dead bytes, in percent, from which a volume is compacted while clients write.
    pub compact_dead_percent: u8,
    /// How long nobody must have written or deleted anything before smaller shares are taken too
    /// (see [`IDLE_DEAD_PERCENT`]), also out of the volume that is being written.
    pub compact_idle_after: Duration,
    /// Pause between two looks for a volume to compact.
    pub compact_interval: Duration,
    /// Bytes per second that compaction may rewrite on one disk.
    pub compact_bytes_per_sec: u64,
    /// Bytes per second that copies which restore redundancy may read and write together on one disk
    /// while clients use it.
    pub repair_bytes_per_sec_beside_clients: u64,
    /// Bytes of records after which the index is made durable, which bounds recovery.
    pub checkpoint_bytes: u64,
    /// Volume files of one disk that are kept open for reads.
    pub open_files: usize,
}

/// At less, the steps of a repair would hardly come to an end in the time that each may take.
const REPAIR_BYTES_PER_SEC_MIN: u64 = 32 << 20;

impl BlobConfig {
    /// The defaults, for a cluster.
    pub fn for_cluster(cluster_id: impl Into<String>) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            volume_bytes: 1 << 30,
            allocate_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            reads_max: 32,
            busy_after: Duration::from_millis(1500),
            silent_after: Duration::from_secs(30),
            close_after: Duration::from_secs(20),
            min_free_bytes: 1 << 30,
            min_free_percent: 2,
            compact_dead_percent: 30,
            compact_idle_after: IDLE_AFTER_DEFAULT,
            compact_interval: Duration::from_secs(10),
            compact_bytes_per_sec: 64 << 20,
            repair_bytes_per_sec_beside_clients: 32 << 20,
            checkpoint_bytes: 1 << 30,
            open_files: 256,
        }
    }

    /// Calls that may be under way in one disk at once, each of which keeps a thread for as long as
    /// the disk hangs: its readers, then those that append, sync, index, check, compact and look after
    /// it.
    pub fn calls_max(&self) -> usize {
        self.reads_max as usize + 8
    }

    /// Whether the values make sense together.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn check(&self) -> Result<(), String> {
        let largest_record = (CHUNK_BYTES_MAX + CHUNK_BYTES_MAX / BLOCK_BYTES * 4 + 8192) as u64;
        if self.cluster_id.is_empty() || self.cluster_id.len() > 64 {
            return Err("cluster_id must have 1 to 64 bytes".to_owned());
        }
        if self.volume_bytes < VOLUME_BYTES_MIN {
            return Err(format!("volume_bytes must be at least {VOLUME_BYTES_MIN}"));
        }
        if u64::from(self.queue_bytes) < largest_record {
            return Err(format!("queue_bytes must be at least {largest_record}"));
        }
        if self.allocate_bytes == 0 || self.reads_max == 0 || self.open_files == 0 {
            return Err("allocate_bytes, reads_max and open_files must not be 0".to_owned());
        }
        if self.min_free_percent > 90 || !(1..=100).contains(&self.compact_dead_percent) {
            return Err(
                "min_free_percent must be at most 90, compact_dead_percent 1 to 100".to_owned(),
            );
        }
        if self.compact_bytes_per_sec == 0 || self.checkpoint_bytes == 0 {
            return Err("compact_bytes_per_sec and checkpoint_bytes must not be 0".to_owned());
        }
        if self.repair_bytes_per_sec_beside_clients < REPAIR_BYTES_PER_SEC_MIN {
            return Err(format!(
                "repair_bytes_per_sec_beside_clients must be at least {REPAIR_BYTES_PER_SEC_MIN}"
            ));
        }
        Ok(())
    }
}

/// One data directory to serve.
pub struct DiskConfig {
    /// The directory; made when it does not exist. Empty means a new disk.
    pub path: PathBuf,
    /// The chunk index of this disk, a store of its own. It is derived: an empty one is rebuilt
    /// from the volumes.
    pub index: Arc<dyn Kv>,
    /// The directory's lock when the caller took it already (it must, before it opens the index
    /// inside the directory); `None`: the engine takes it.
    pub lock: Option<DirLock>,
}
