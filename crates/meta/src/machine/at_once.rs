//! A view that gives up instead of taking long, for what is decided on an async thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use granary_kv::{Direction, Entry, KvError, KvRead, Scan, Space};

/// Rows that are looked at, found or not, before it gives up: about a millisecond from memory, and
/// many more than a write of an object needs.
const ROWS_MAX: usize = 500;

/// Answers so many reads, and [`KvError::NotInMemory`] from then on: how much work a command is does not
/// show in its length (a tick, the fence of a bucket, a split).
pub(super) struct Few<'a> {
    memory: Box<dyn KvRead + 'a>,
    left: AtomicUsize,
}

impl<'a> Few<'a> {
    pub(super) fn new(memory: Box<dyn KvRead + 'a>) -> Self {
        Self {
            memory,
            left: AtomicUsize::new(ROWS_MAX),
        }
    }

    fn take(&self) -> Result<(), KvError> {
        let left = self.left.load(Ordering::Relaxed);
        let less = left.checked_sub(1).ok_or(KvError::NotInMemory)?;
        self.left.store(less, Ordering::Relaxed);
        Ok(())
    }
}

impl KvRead for Few<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.take()?;
        self.memory.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        if let Err(error) = self.take() {
            return Box::new(std::iter::once(Err(error)));
        }
        let rows = self.memory.scan(space, start, end, direction);
        let counted = move |row: Result<Entry, KvError>| {
            self.take()?;
            row
        };
        Box::new(rows.map(counted))
    }
}

#[cfg(test)]
mod tests {
    use granary_kv::{Kv, MemoryKv, WriteBatch};

    use super::*;

    fn gives_up(read: Result<Option<Bytes>, KvError>) -> bool {
        matches!(read, Err(KvError::NotInMemory))
    }

    #[test]
    fn so_many_rows_are_read_and_no_more() {
        let kv = MemoryKv::new();
        let mut batch = WriteBatch::new();
        for n in 0..ROWS_MAX {
            batch.put(Space::State, n.to_be_bytes().to_vec(), vec![1]);
        }
        kv.write(batch).unwrap();
        let few = || Few::new(Box::new(kv.clone()));

        let got = few();
        for n in 0..ROWS_MAX {
            let key = n.to_be_bytes();
            assert!(got.get(Space::State, &key).unwrap().is_some());
        }
        assert!(gives_up(got.get(Space::State, b"none")));

        let scanned = few();
        let rows: Vec<_> = scanned
            .scan(Space::State, &[], None, Direction::Forward)
            .collect();
        // Beginning to look counts too, so that empty scans end as well.
        assert_eq!(rows.len(), ROWS_MAX);
        assert!(rows[..ROWS_MAX - 1].iter().all(Result::is_ok));
        assert!(matches!(rows[ROWS_MAX - 1], Err(KvError::NotInMemory)));
        let mut empty = scanned.scan(Space::Log, &[], None, Direction::Forward);
        assert!(matches!(empty.next(), Some(Err(KvError::NotInMemory))));
    }
}
