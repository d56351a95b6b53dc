//! How the database is tuned, and why.
//!
//! Crash behaviour, which the [`Kv`](granary_kv::Kv) contract needs:
//!
//! * `manual_wal_flush`: a write only fills the log's buffer; `sync` writes it out and syncs. So
//!   one sync serves every write before it, and a write costs no system call.
//! * Recovery stops at the first log record that is not whole (`PointInTime`). A power cut tears
//!   the unsynced tail in any way, pages out of order included. `AbsoluteConsistency` and
//!   `TolerateCorruptedTailRecords` refuse to open after some of these (they take a bad checksum
//!   before the end for real corruption), `SkipAnyCorruptedRecord` would leave holes. With point in
//!   time what is left is a prefix of the batches, over all column families. The price is that bit
//!   rot inside the synced part also ends recovery early; the sizes of closed logs are therefore
//!   kept in the manifest and verified at open.
//! * A memtable that is flushed syncs the closed logs first (RocksDB does so with several column
//!   families), so table files never run ahead of the log that other column families need.
//! * `recycle_log_file_num` stays 0. Recycled files end in old records, where only point-in-time
//!   recovery can stop, and RocksDB's own notes still speak of holes in what is recovered with that
//!   combination. A hole would lose an acknowledged entry; preallocation gives most of the gain.
//!
//! Memory: a [`RocksBudget`] is shared by all databases of the process. Memtables are charged to
//! the block cache, index and filter blocks live in it, so its capacity bounds all three. Under a
//! flood of writes each space in use may hold three memtables of a quarter of their share: one
//! database with two such spaces stays within the budget, several at once may exceed it.

use granary_kv::Space;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    Options, WriteBufferManager,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Memtables of all databases: more would make files larger and fewer, but a start reads them from the log again.
const MEMTABLE_BYTES_MAX: usize = 64 * MIB;

/// Memory that databases of one process share. Clones share it.
#[derive(Clone)]
pub struct RocksBudget {
    cache: Cache,
    write_buffers: WriteBufferManager,
    memtable_bytes: usize,
}

impl std::fmt::Debug for RocksBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksBudget")
            .field("memtable_bytes", &self.memtable_bytes)
            .field("cache_bytes", &self.cache_bytes())
            .finish_non_exhaustive()
    }
}

impl RocksBudget {
    /// A budget of about `total_bytes`: three quarters for blocks, indexes, filters and memtables
    /// together (memtables at most half of that, and 64 MiB), the rest for what is not counted (compaction,
    /// log buffers, open table files). At least 16 MiB are used.
    pub fn new(total_bytes: usize) -> Self {
        let cache_bytes = total_bytes.max(16 * MIB) / 4 * 3;
        let memtable_bytes = (cache_bytes / 2).min(MEMTABLE_BYTES_MAX);
        let cache = Cache::new_lru_cache(cache_bytes);
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            memtable_bytes,
            false,
            cache.clone(),
        );
        Self {
            cache,
            write_buffers,
            memtable_bytes,
        }
    }

    /// Bytes of the cache in use, memtables included.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }

    /// Bytes of memtables in use, over all databases.
    pub fn memtable_bytes(&self) -> u64 {
        self.write_buffers.get_usage() as u64
    }
}

impl Default for RocksBudget {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 * MIB)
    }
}

/// Settings of one database.
#[derive(Clone, Debug)]
pub struct RocksConfig {
    /// Memory, to be shared with the process's other databases.
    pub budget: RocksBudget,
    /// Flushes and compactions at once.
    pub background_jobs: i32,
    /// Table files kept open.
    pub open_files: i32,
    /// Bytes of write-ahead log after which the oldest memtable is flushed; bounds recovery time.
    pub wal_bytes: u64,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            budget: RocksBudget::default(),
            background_jobs: 2,
            open_files: 512,
            wal_bytes: 128 * MIB as u64,
        }
    }
}

/// Options of the database as a whole.
pub(crate) fn database(config: &RocksConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Durability: see the top of the file.
    options.set_manual_wal_flush(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_recycle_log_file_num(0);
    options.set_paranoid_checks(true);
    options.set_use_fsync(false);
    // Memory.
    options.set_write_buffer_manager(&config.budget.write_buffers);
    options.set_max_open_files(config.open_files);
    options.set_max_total_wal_size(config.wal_bytes);
    // Background work: small pieces, written out steadily, so that a sync is not stuck behind it.
    options.set_max_background_jobs(config.background_jobs);
    options.set_bytes_per_sync(MIB as u64);
    options.set_wal_bytes_per_sync(512 * KIB as u64);
    options.set_avoid_unnecessary_blocking_io(true);
    // Its own log is for experts; keep it from filling the disk.
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_max_manifest_file_size(16 * MIB);
    options
}

/// Options of one space.
pub(crate) fn column_family(space: Space, config: &RocksConfig) -> ColumnFamilyDescriptor {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&config.budget.cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(16 * KIB);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    // The budget makes memtables flush early, but only those of the database that is written; what
    // bounds them when writes outrun flushes is their number. (The budget's own stall could wait
    // forever for an idle database that holds all of it.)
    // Not too small either: entries of the log that are cut off in time are never written to a file.
    options.set_write_buffer_size(config.budget.memtable_bytes / 4);
    options.set_max_write_buffer_number(3);
    // Arena blocks are charged when taken: many small spaces must not look like full ones.
    options.set_arena_block_size(256 * KIB);
    match space {
        // Written in order, read back soon, cut off by ranges: found by seeks, so no filters. Most
        // entries die before or in the first compaction, hence fast compression only; a range
        // tombstone in level 0 overlaps what it covers below and takes it along.
        Space::Log => {
            options.set_target_file_size_base(16 * MIB as u64);
            options.set_max_bytes_for_level_base(64 * MIB as u64);
            options.set_level_zero_file_num_compaction_trigger(4);
        }
        // Point reads of keys that often don't exist, and scans: filters over whole keys, small
        // ones; the bulk at the bottom compressed well.
        Space::State | Space::Index => {
            table.set_bloom_filter(10.0, false);
            table.set_whole_key_filtering(true);
            table.set_optimize_filters_for_memory(true);
            options.set_target_file_size_base(32 * MIB as u64);
            options.set_max_bytes_for_level_base(128 * MIB as u64);
            options.set_memtable_prefix_bloom_ratio(0.02);
            options.set_memtable_whole_key_filtering(true);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
            options.set_bottommost_zstd_max_train_bytes(0, true);
        }
    }
    options.set_block_based_table_factory(&table);
    ColumnFamilyDescriptor::new(space.name(), options)
}
