//! The key-value store on RocksDB: one database, one column family per [`Space`].
//!
//! It does not know what keys mean. How the [`Kv`] contract is kept:
//! * `write` puts a batch into the write-ahead log's buffer and the memtables; `sync` writes the
//!   log out and syncs it. One log for all column families, so batches that span spaces are
//!   atomic and what survives a crash is a prefix of all batches (see [`options`] for the recovery
//!   mode that makes it so);
//! * a failed write or sync is final: later ones answer the same error, since nothing written
//!   since can be relied on;
//! * a snapshot owns the database it reads, so it can outlive every other handle.
//!
//! Every call may block on a disk, but for taking a snapshot, reads that ask for memory alone
//! ([`KvRead::in_memory`]), and writes that say whether they would wait ([`Kv::write_at_once`]): those do
//! not while the log is being synced, and may take as long as it takes to begin another log file.

mod options;
mod reclaim;
mod scan;
mod snapshot;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, KvStats, Op, Scan, Space, WriteBatch};
use parking_lot::{Mutex, RwLock};
use rocksdb::{BoundColumnFamily, DB, ErrorKind, ReadOptions, ReadTier, WriteOptions, properties};

pub use options::{RocksBudget, RocksConfig};
use reclaim::{Reclaimer, Watch};
use scan::RocksScan;
use snapshot::OwnedSnapshot;

/// A database on disk. Cheap to clone; the database closes with the last handle, scan and
/// snapshot.
#[derive(Clone)]
pub struct RocksKv {
    database: Arc<Database>,
}

struct Database {
    db: Arc<DB>,
    reclaimer: Reclaimer,
    budget: RocksBudget,
    /// The first failure of a write or sync; see the top of the file.
    failed: Mutex<Option<KvError>>,
    /// Held while the write-ahead log is written out and synced: whoever writes meanwhile waits for that,
    /// so nobody does on an async thread.
    syncing: RwLock<()>,
}

impl std::fmt::Debug for RocksKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksKv")
            .field("path", &self.database.db.path())
            .finish_non_exhaustive()
    }
}

impl RocksKv {
    /// Opens the database in `path`, a directory that is made when it does not exist, and recovers
    /// what a crash left.
    ///
    /// # Errors
    /// [`KvError::InUse`] when it is open already, here or in another process;
    /// [`KvError::Corrupt`] and [`KvError::Io`] otherwise.
    pub fn open(path: impl AsRef<Path>, config: RocksConfig) -> Result<Self, KvError> {
        let path = path.as_ref();
        let spaces = Space::ALL.map(|space| options::column_family(space, &config));
        let db = DB::open_cf_descriptors(&options::database(&config), path, spaces)
            .map_err(|error| open_error(path, &error))?;
        let db = Arc::new(db);
        let reclaimer = Reclaimer::start(Arc::clone(&db))
            .map_err(|error| KvError::Io(error.to_string().into()))?;
        let database = Database {
            db,
            reclaimer,
            budget: config.budget,
            failed: Mutex::new(None),
            syncing: RwLock::new(()),
        };
        Ok(Self {
            database: Arc::new(database),
        })
    }
}

/// RocksDB tells a held lock only by its message: the file's name and who is known to hold it.
fn open_error(path: &Path, error: &rocksdb::Error) -> KvError {
    let text = error.to_string();
    let locked = error.kind() == ErrorKind::IOError
        && (text.contains("lock hold by current process")
            || (text.contains("While lock file") && text.contains("LOCK")));
    if locked {
        let path = path.display();
        KvError::InUse(format!("{path} is open in this or another process").into())
    } else {
        kv_error(error)
    }
}

fn kv_error(error: &rocksdb::Error) -> KvError {
    match error.kind() {
        ErrorKind::Corruption => KvError::Corrupt(error.to_string().into()),
        ErrorKind::Incomplete => KvError::NotInMemory,
        _ => KvError::Io(error.to_string().into()),
    }
}

impl Database {
    fn column_family(&self, space: Space) -> Result<Arc<BoundColumnFamily<'_>>, KvError> {
        // Opened with every space, and none is ever dropped.
        self.db.cf_handle(space.name()).ok_or(KvError::Closed)
    }

    /// Runs a write or sync unless one has failed before, and remembers its failure.
    fn change(&self, call: impl FnOnce(&DB) -> Result<(), rocksdb::Error>) -> Result<(), KvError> {
        if let Some(failed) = self.failed.lock().as_ref() {
            return Err(failed.clone());
        }
        call(&self.db).map_err(|error| {
            let error = kv_error(&error);
            self.failed.lock().get_or_insert(error).clone()
        })
    }

    /// Counts what a scan steps over, unless it gives up before that takes long.
    fn watch(
        &self,
        tier: Tier,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Option<Watch<'_>> {
        (tier == Tier::All).then(|| Watch::new(&self.reclaimer, space, start, end, direction))
    }

    /// About how many bytes of table files an interval has; memtables do not count.
    fn file_bytes(&self, space: Space, start: &[u8], end: Option<&[u8]>) -> u64 {
        let Ok(family) = self.column_family(space) else {
            return 0;
        };
        // Keys are much shorter than that, and begin with a slab that is never given out.
        let end = end.unwrap_or(&BEYOND_ALL_KEYS);
        if end <= start {
            return 0;
        }
        let interval = rocksdb::Range::new(start, end);
        let sizes = self.db.get_approximate_sizes_cf(&family, &[interval]);
        sizes.into_iter().sum()
    }

    /// The sum of a numeric property over the column families.
    fn sum(&self, property: &properties::PropName) -> u64 {
        let value = |space: Space| {
            let family = self.db.cf_handle(space.name())?;
            self.db
                .property_int_value_cf(&family, property)
                .ok()
                .flatten()
        };
        Space::ALL.into_iter().filter_map(value).sum()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Compactions of a closing database are thrown away; do not wait for them to finish.
        self.db.cancel_all_background_work(true);
        self.reclaimer.stop();
    }
}

/// What the database adds to keys and values in a batch: a tag, a column family, two lengths.
const RECORD_HEAD_BYTES_MAX: usize = 16;

/// Greater than any key that is in use.
const BEYOND_ALL_KEYS: [u8; 16] = [0xff; 16];

/// Deleted and replaced rows that a scan of memory skips at most between two that it returns.
const SKIPPED_ROWS_MAX: u64 = 1000;

/// Where reads may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// Memtables and block cache; elsewhere is [`KvError::NotInMemory`].
    Memory,
    All,
}

fn read_options(tier: Tier) -> ReadOptions {
    let mut options = ReadOptions::default();
    if tier == Tier::Memory {
        options.set_read_tier(ReadTier::BlockCache);
        // Behind as many deleted rows nobody can wait on an async thread; it answers as if it did not know.
        options.set_max_skippable_internal_keys(SKIPPED_ROWS_MAX);
    }
    options
}

/// Options of a scan; `None` when the range is empty.
fn scan_options(tier: Tier, start: &[u8], end: Option<&[u8]>) -> Option<ReadOptions> {
    if end.is_some_and(|end| end <= start) {
        return None;
    }
    let mut options = read_options(tier);
    options.set_iterate_lower_bound(start);
    if let Some(end) = end {
        options.set_iterate_upper_bound(end);
    }
    Some(options)
}

/// A scan of one failure.
fn failed_scan<'a>(error: KvError) -> Scan<'a> {
    Box::new(std::iter::once(Err(error)))
}

impl RocksKv {
    /// The batch in the database's own terms.
    fn translated(&self, batch: &WriteBatch) -> Result<rocksdb::WriteBatch, KvError> {
        let database = &self.database;
        let families = [
            database.column_family(Space::Log)?,
            database.column_family(Space::State)?,
            database.column_family(Space::Index)?,
        ];
        let family = |space: Space| match space {
            Space::Log => &families[0],
            Space::State => &families[1],
            Space::Index => &families[2],
        };
        // In one piece: a batch that grows copies what it has, which may be megabytes.
        let bytes = batch.size_bytes() + batch.ops().len() * RECORD_HEAD_BYTES_MAX;
        let mut writes = rocksdb::WriteBatch::with_capacity_bytes(bytes);
        for op in batch.ops() {
            match op {
                Op::Put(space, key, value) => writes.put_cf(family(*space), key, value),
                Op::Delete(space, key) => writes.delete_cf(family(*space), key),
                // RocksDB refuses an inverted range; here it is empty.
                Op::DeleteRange(_, start, end) if end <= start => {}
                Op::DeleteRange(space, start, end) => {
                    writes.delete_range_cf(family(*space), start, end);
                }
            }
        }
        Ok(writes)
    }
}

impl Tiered for RocksKv {
    fn get_from(&self, tier: Tier, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let family = self.database.column_family(space)?;
        let value = self
            .database
            .db
            .get_cf_opt(&family, key, &read_options(tier));
        Ok(value.map_err(|error| kv_error(&error))?.map(Bytes::from))
    }

    fn scan_from(
        &self,
        tier: Tier,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let Some(options) = scan_options(tier, start, end) else {
            return Box::new(std::iter::empty());
        };
        let database = &self.database;
        match database.column_family(space) {
            Ok(family) => {
                let rows = database.db.raw_iterator_cf_opt(&family, options);
                let watch = database.watch(tier, space, start, end, direction);
                Box::new(RocksScan::new(rows, direction, watch))
            }
            Err(error) => failed_scan(error),
        }
    }
}

/// A view of the database that can be read with and without its disk.
trait Tiered: Send + Sync {
    fn get_from(&self, tier: Tier, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    fn scan_from(
        &self,
        tier: Tier,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_>;
}

/// What memory knows of a view.
struct InMemory<'a, T>(&'a T);

impl<T: Tiered> KvRead for InMemory<'_, T> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.0.get_from(Tier::Memory, space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        self.0.scan_from(Tier::Memory, space, start, end, direction)
    }
}

impl KvRead for RocksKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.get_from(Tier::All, space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        self.scan_from(Tier::All, space, start, end, direction)
    }

    fn approximate_bytes(&self, space: Space, start: &[u8], end: Option<&[u8]>) -> u64 {
        self.database.file_bytes(space, start, end)
    }

    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        Some(Box::new(InMemory(self)))
    }
}

impl Kv for RocksKv {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        Arc::new(OwnedSnapshot::of(Arc::clone(&self.database)))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        let writes = self.translated(&batch)?;
        self.database.change(|db| db.write(writes))
    }

    fn write_at_once(&self, batch: &WriteBatch) -> Result<bool, KvError> {
        let Some(_nobody_syncs) = self.database.syncing.try_read() else {
            return Ok(false);
        };
        let writes = self.translated(batch)?;
        let mut options = WriteOptions::default();
        options.set_no_slowdown(true);
        let mut stalled = false;
        self.database.change(|db| {
            let written = db.write_opt(writes, &options);
            stalled = matches!(&written, Err(error) if error.kind() == ErrorKind::Incomplete);
            if stalled { Ok(()) } else { written }
        })?;
        Ok(!stalled)
    }

    fn sync(&self) -> Result<(), KvError> {
        let _alone = self.database.syncing.write();
        self.database.change(|db| db.flush_wal(true))
    }

    fn stats(&self) -> KvStats {
        let database = &self.database;
        KvStats {
            disk_bytes: database.sum(properties::TOTAL_SST_FILES_SIZE),
            memtable_bytes: database.sum(properties::CUR_SIZE_ALL_MEM_TABLES),
            cache_bytes: database.budget.cache_bytes(),
            pending_compaction_bytes: database.sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        }
    }
}

#[cfg(test)]
mod tests;
