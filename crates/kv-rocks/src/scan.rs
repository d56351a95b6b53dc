//! A scan of one column family.

use bytes::Bytes;
use granary_kv::{Direction, Entry, KvError};
use rocksdb::{DB, DBRawIteratorWithThreadMode};

use crate::kv_error;
use crate::reclaim::{Watch, skipped_by_this_thread};

/// Looks for a row when it is asked for it and not before: the binding's own iterator goes on as soon as it
/// returns one, and whoever wants only the first would pay for the block, or the deleted rows, behind it.
pub(crate) struct RocksScan<'a> {
    rows: DBRawIteratorWithThreadMode<'a, DB>,
    direction: Direction,
    progress: Progress,
    watch: Option<Watch<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Before,
    Within,
    Ended,
}

impl<'a> RocksScan<'a> {
    /// The iterator carries the bounds. Scans that give up early need no watch.
    pub(crate) fn new(
        rows: DBRawIteratorWithThreadMode<'a, DB>,
        direction: Direction,
        watch: Option<Watch<'a>>,
    ) -> Self {
        Self {
            rows,
            direction,
            progress: Progress::Before,
            watch,
        }
    }

    fn go_on(&mut self) {
        match (self.progress, self.direction) {
            (Progress::Before, Direction::Forward) => self.rows.seek_to_first(),
            (Progress::Before, Direction::Backward) => self.rows.seek_to_last(),
            (Progress::Within, Direction::Forward) => self.rows.next(),
            (Progress::Within, Direction::Backward) => self.rows.prev(),
            (Progress::Ended, _) => {}
        }
    }
}

impl Iterator for RocksScan<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.progress == Progress::Ended {
            return None;
        }
        let before = self.watch.as_ref().map(|_| skipped_by_this_thread());
        self.go_on();
        let row = self.rows.item();
        self.progress = if row.is_some() {
            Progress::Within
        } else {
            Progress::Ended
        };
        if row.is_none()
            && let Err(error) = self.rows.status()
        {
            return Some(Err(kv_error(&error)));
        }
        if let (Some(watch), Some(before)) = (&mut self.watch, before) {
            watch.went_on(before, row.map(|(key, _)| key));
        }
        let (key, value) = row?;
        Some(Ok((
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(value),
        )))
    }
}
