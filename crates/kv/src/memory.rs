//! An in-memory store that can crash: it forgets a suffix of what was not synced. Asked for what memory
//! knows ([`KvRead::in_memory`], [`Kv::write_at_once`]) it now and then does not, as a store on a disk:
//! whoever asks has to cope with that.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Direction, Entry, Kv, KvError, KvRead, KvStats, Op, Scan, Space, WriteBatch};

type Map = BTreeMap<Bytes, Bytes>;

/// Every so many rows one is not in memory.
const MISSES_EVERY: u64 = 61;
/// Every so many batches one would have to wait.
const STALLS_EVERY: u64 = 7;

#[derive(Clone, Debug, Default)]
struct View {
    spaces: [Arc<Map>; 3],
    /// Rows that were asked for in memory; of all views of a store.
    asked: Arc<AtomicU64>,
}

impl View {
    fn map(&self, space: Space) -> &Map {
        &self.spaces[space as usize]
    }

    fn apply(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                Op::Put(space, key, value) => {
                    Arc::make_mut(&mut self.spaces[*space as usize])
                        .insert(key.clone(), value.clone());
                }
                Op::Delete(space, key) => {
                    Arc::make_mut(&mut self.spaces[*space as usize]).remove(key);
                }
                Op::DeleteRange(space, start, end) => {
                    Arc::make_mut(&mut self.spaces[*space as usize])
                        .retain(|key, _| key < start || key >= end);
                }
            }
        }
    }
}

/// Bounds of a scan; an inverted range is empty, as in RocksDB.
fn bounds<'a>(start: &'a [u8], end: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let end = end.map(|end| end.max(start));
    (
        Bound::Included(start),
        end.map_or(Bound::Unbounded, Bound::Excluded),
    )
}

impl KvRead for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.map(space).get(key).cloned())
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let owned = |(key, value): (&Bytes, &Bytes)| -> Result<Entry, KvError> {
            Ok((key.clone(), value.clone()))
        };
        let range = self.map(space).range::<[u8], _>(bounds(start, end));
        match direction {
            Direction::Forward => Box::new(range.map(owned)),
            Direction::Backward => Box::new(range.rev().map(owned)),
        }
    }

    fn approximate_bytes(&self, space: Space, start: &[u8], end: Option<&[u8]>) -> u64 {
        let entries = self.map(space).range::<[u8], _>(bounds(start, end));
        entries
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }

    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        Some(Box::new(Remembered(self)))
    }
}

/// What memory knows of a view.
struct Remembered<V>(V);

impl<V: AsRef<View>> Remembered<V> {
    fn row<T>(&self, row: Result<T, KvError>) -> Result<T, KvError> {
        let asked = self.0.as_ref().asked.fetch_add(1, Ordering::Relaxed);
        match (asked + 1).is_multiple_of(MISSES_EVERY) {
            true => Err(KvError::NotInMemory),
            false => row,
        }
    }
}

impl AsRef<View> for View {
    fn as_ref(&self) -> &View {
        self
    }
}

impl<V: AsRef<View> + Send + Sync> KvRead for Remembered<V> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.row(self.0.as_ref().get(space, key))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let rows = self.0.as_ref().scan(space, start, end, direction);
        Box::new(rows.map(|row| self.row(row)))
    }
}

#[derive(Debug, Default)]
struct State {
    live: View,
    durable: View,
    /// Batches written since the last sync, oldest first.
    pending: VecDeque<WriteBatch>,
    /// Batches that were to be written at once.
    batches: u64,
    failure: Option<KvError>,
    closed: bool,
}

/// A store in memory. Clones share it, which is how a restarted node finds its data again.
#[derive(Clone, Debug, Default)]
pub struct MemoryKv {
    state: Arc<Mutex<State>>,
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: every batch that was not synced is lost but the first `survivors` of them.
    /// This handle and its clones answer [`KvError::Closed`]; the returned one holds what is left.
    pub fn crash(&self, survivors: usize) -> Self {
        let mut state = self.state.lock();
        state.closed = true;
        let mut left = state.durable.clone();
        for batch in state.pending.iter().take(survivors) {
            left.apply(batch);
        }
        let restarted = State {
            live: left.clone(),
            durable: left,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(restarted)),
        }
    }

    /// Batches that a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// Makes every later write and sync fail, as a dying disk does.
    pub fn fail(&self, reason: &str) {
        self.state.lock().failure = Some(KvError::Io(reason.into()));
    }

    fn view(&self) -> Result<View, KvError> {
        let state = self.state.lock();
        if state.closed {
            Err(KvError::Closed)
        } else {
            Ok(state.live.clone())
        }
    }
}

impl KvRead for MemoryKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let state = self.state.lock();
        if state.closed {
            Err(KvError::Closed)
        } else {
            state.live.get(space, key)
        }
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let (start, end) = (start.to_vec(), end.map(<[u8]>::to_vec));
        match self.view() {
            Err(error) => Box::new(std::iter::once(Err(error))),
            Ok(view) => Box::new(OwnedScan {
                view,
                space,
                start,
                end,
                direction,
            }),
        }
    }

    fn approximate_bytes(&self, space: Space, start: &[u8], end: Option<&[u8]>) -> u64 {
        self.view()
            .map_or(0, |view| view.approximate_bytes(space, start, end))
    }

    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        let view = self.view().ok()?;
        Some(Box::new(Remembered(view)))
    }
}

/// A scan that owns its view: it finds each next entry from the last key.
struct OwnedScan {
    view: View,
    space: Space,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    direction: Direction,
}

impl Iterator for OwnedScan {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        let map = self.view.map(self.space);
        let mut range = map.range::<[u8], _>(bounds(&self.start, self.end.as_deref()));
        let (key, value) = match self.direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        }?;
        let entry = (key.clone(), value.clone());
        match self.direction {
            Direction::Forward => {
                self.start = key.to_vec();
                self.start.push(0);
            }
            Direction::Backward => self.end = Some(key.to_vec()),
        }
        Some(Ok(entry))
    }
}

impl Kv for MemoryKv {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        match self.view() {
            Ok(view) => Arc::new(view),
            Err(_) => Arc::new(self.clone()),
        }
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(KvError::Closed);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.live.apply(&batch);
        state.pending.push_back(batch);
        Ok(())
    }

    fn write_at_once(&self, batch: &WriteBatch) -> Result<bool, KvError> {
        let stalls = {
            let mut state = self.state.lock();
            state.batches += 1;
            state.batches.is_multiple_of(STALLS_EVERY)
        };
        if !stalls {
            self.write(batch.clone())?;
        }
        Ok(!stalls)
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(KvError::Closed);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.durable = state.live.clone();
        state.pending.clear();
        Ok(())
    }

    fn stats(&self) -> KvStats {
        KvStats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &MemoryKv, key: &str, value: &str) {
        let mut batch = WriteBatch::new();
        batch.put(
            Space::State,
            key.as_bytes().to_vec(),
            value.as_bytes().to_vec(),
        );
        kv.write(batch).unwrap();
    }

    fn keys(kv: &dyn KvRead, direction: Direction) -> Vec<Bytes> {
        kv.scan(Space::State, b"", None, direction)
            .map(|entry| entry.unwrap().0)
            .collect()
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let kv = MemoryKv::new();
        put(&kv, "a", "1");
        kv.sync().unwrap();
        put(&kv, "b", "2");
        put(&kv, "c", "3");
        let restarted = kv.crash(1);
        assert_eq!(keys(&restarted, Direction::Forward), ["a", "b"]);
        assert!(matches!(kv.get(Space::State, b"a"), Err(KvError::Closed)));
    }

    #[test]
    fn a_failing_disk_fails_writes_and_syncs() {
        let kv = MemoryKv::new();
        put(&kv, "a", "1");
        kv.fail("EIO");
        assert!(matches!(kv.sync(), Err(KvError::Io(_))));
        assert!(matches!(kv.write(WriteBatch::new()), Err(KvError::Io(_))));
        assert_eq!(kv.unsynced(), 1);
    }

    #[test]
    fn it_knows_how_large_an_interval_is() {
        let kv = MemoryKv::new();
        put(&kv, "a", "12");
        put(&kv, "b", "345");
        put(&kv, "c", "6");
        let bytes =
            |start: &[u8], end: Option<&[u8]>| kv.approximate_bytes(Space::State, start, end);
        assert_eq!(bytes(b"a", Some(b"c")), 7);
        assert_eq!(bytes(b"b", None), 6);
        assert_eq!(bytes(b"c", Some(b"a")), 0);
        assert_eq!(kv.approximate_bytes(Space::Log, b"", None), 0);
    }

    #[test]
    fn conforms() {
        crate::testsuite::conforms(&|| Arc::new(MemoryKv::new()));
    }

    #[test]
    fn what_was_synced_survives_a_crash_with_any_number_of_survivors() {
        for survivors in 0..4 {
            let kv = std::cell::RefCell::new(MemoryKv::new());
            crate::testsuite::survives(&|| Arc::new(kv.borrow().clone()), &|| {
                let restarted = kv.borrow().crash(survivors);
                *kv.borrow_mut() = restarted;
            });
        }
    }
}
