//! A RocksDB snapshot that owns its database.
//!
//! The binding's snapshot borrows the database, so a snapshot that can be handed around needs both
//! in one value that refers to itself. `self_cell` makes that sound (owner behind a stable
//! address, dropped last); there is no unsafe code here.

use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Direction, KvError, KvRead, Scan, Space};
use rocksdb::{DB, SnapshotWithThreadMode};
use self_cell::self_cell;

use crate::scan::RocksScan;
use crate::{Database, InMemory, Tier, Tiered, failed_scan, kv_error, read_options, scan_options};

type Borrowing<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    struct Cell {
        owner: Arc<Database>,

        #[covariant]
        dependent: Borrowing,
    }
);

/// A view of the database at one moment.
pub(crate) struct OwnedSnapshot(Cell);

impl OwnedSnapshot {
    pub(crate) fn of(database: Arc<Database>) -> Self {
        Self(Cell::new(database, |database| database.db.snapshot()))
    }
}

impl Tiered for OwnedSnapshot {
    fn get_from(&self, tier: Tier, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let family = self.0.borrow_owner().column_family(space)?;
        let snapshot = self.0.borrow_dependent();
        let value = snapshot.get_cf_opt(&family, key, read_options(tier));
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
        let database = self.0.borrow_owner();
        match database.column_family(space) {
            Ok(family) => {
                let rows = self
                    .0
                    .borrow_dependent()
                    .raw_iterator_cf_opt(&family, options);
                let watch = database.watch(tier, space, start, end, direction);
                Box::new(RocksScan::new(rows, direction, watch))
            }
            Err(error) => failed_scan(error),
        }
    }
}

impl KvRead for OwnedSnapshot {
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
        self.0.borrow_owner().file_bytes(space, start, end)
    }

    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        Some(Box::new(InMemory(self)))
    }
}
