//! The transaction of an apply: reads see the store and its own writes, which go to the store in
//! one batch. A command that is refused leaves none of its writes.
//!
//! It also holds the shard's descriptor and clock, which every command reads.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Direction, Entry, KvError, KvRead, Scan, Space, WriteBatch};
use granary_meta_api::detail;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::{ObjectId, ShardId, SlabId, VersionStamp, limits};
use prost::Message;

use super::Refusal;
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::shard_clock::ShardClockKey;
use crate::keyspace::shard_descriptor::ShardDescriptorKey;
use crate::keyspace::{Id, RowKey};
use crate::limits::INLINE_BYTES_MAX;
use crate::rows::{Bounds, RawRows, View};
use crate::shard_rows::ShardRows;

/// Set in the counter of object ids that apply allocates, never in those of `BeginWrite`.
const ALLOCATED_BY_APPLY: u32 = 1 << 31;

type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// What to put back when a command is refused.
struct Savepoint {
    descriptor: state::ShardDescriptor,
    clock: state::ShardClock,
    /// Earlier contents of the overlay, newest last.
    undo: Vec<(Bytes, Option<Option<Bytes>>)>,
    /// How many intervals were removed before.
    removed: usize,
}

/// A write overlay over the store.
pub(crate) struct Tx<'a> {
    base: &'a dyn KvRead,
    home: SlabId,
    writes: Writes,
    /// Intervals removed from the store, before the writes that are left.
    removed: Vec<(Bytes, Bytes)>,
    savepoint: Option<Savepoint>,
    /// The descriptor's epoch and children in the store: it is written when they change.
    stored: Arc<state::ShardDescriptor>,
    /// What the shard owns.
    pub(crate) descriptor: state::ShardDescriptor,
    /// The shard's clock and counters.
    pub(crate) clock: state::ShardClock,
}

impl<'a> Tx<'a> {
    /// A transaction over the shard whose home slab is given.
    pub(crate) fn open(base: &'a dyn KvRead, home: SlabId) -> Result<Self, StateMachineError> {
        match ShardRows::read(&View(base), home)? {
            Some(rows) => Ok(Self::of(base, home, rows)),
            None => Err(StateMachineError::Corrupt {
                what: "the state of a shard",
                reason: format!("slab {home} has no descriptor: the replica needs a snapshot"),
            }),
        }
    }

    /// A transaction over a shard whose rows are known.
    pub(crate) fn of(base: &'a dyn KvRead, home: SlabId, rows: ShardRows) -> Self {
        Self {
            base,
            home,
            writes: Writes::new(),
            removed: Vec::new(),
            savepoint: None,
            descriptor: state::ShardDescriptor::clone(&rows.descriptor),
            clock: Arc::unwrap_or_clone(rows.clock),
            stored: rows.descriptor,
        }
    }

    /// The shard's rows with the changes of the transaction, and whether it owns something else then.
    pub(crate) fn shard_rows(&self) -> (ShardRows, bool) {
        let owns_other = self.descriptor != *self.stored;
        let rows = ShardRows {
            descriptor: match owns_other {
                true => Arc::new(self.descriptor.clone()),
                false => Arc::clone(&self.stored),
            },
            clock: Arc::new(self.clock.clone()),
        };
        (rows, owns_other)
    }

    /// The shard's home slab.
    pub(crate) fn home(&self) -> SlabId {
        self.home
    }

    /// The shard.
    pub(crate) fn shard(&self) -> ShardId {
        ShardId(self.descriptor.shard)
    }

    /// From here on writes can be undone, up to [`Tx::keep`] or [`Tx::undo`].
    pub(crate) fn save(&mut self) {
        self.savepoint = Some(Savepoint {
            descriptor: self.descriptor.clone(),
            clock: self.clock.clone(),
            undo: Vec::new(),
            removed: self.removed.len(),
        });
    }

    /// Keeps the writes since [`Tx::save`].
    pub(crate) fn keep(&mut self) {
        self.savepoint = None;
    }

    /// Undoes the writes since [`Tx::save`].
    pub(crate) fn undo(&mut self) {
        let Some(savepoint) = self.savepoint.take() else {
            return;
        };
        self.removed.truncate(savepoint.removed);
        self.descriptor = savepoint.descriptor;
        self.clock = savepoint.clock;
        for (key, before) in savepoint.undo.into_iter().rev() {
            match before {
                Some(write) => self.writes.insert(key, write),
                None => self.writes.remove(&key),
            };
        }
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let key = Bytes::from(key);
        let before = self.writes.insert(key.clone(), value);
        if let Some(savepoint) = &mut self.savepoint {
            savepoint.undo.push((key, before));
        }
    }

    /// Writes a row.
    pub(crate) fn put<K: RowKey>(&mut self, key: &K, value: &K::Value) -> Result<(), Refusal> {
        self.put_within(key, value, limits::RECORD_BYTES_MAX)
    }

    /// Writes a row of inline bytes, which may be larger than a record.
    pub(crate) fn put_inline<K: RowKey>(
        &mut self,
        key: &K,
        value: &K::Value,
    ) -> Result<(), Refusal> {
        self.put_within(key, value, INLINE_BYTES_MAX + 16)
    }

    /// Writes a configuration of a bucket, which may be larger than a record.
    pub(crate) fn put_config<K: RowKey>(
        &mut self,
        key: &K,
        value: &K::Value,
    ) -> Result<(), Refusal> {
        self.put_within(key, value, limits::BUCKET_CONFIG_BYTES_MAX + 16)
    }

    fn put_within<K: RowKey>(
        &mut self,
        key: &K,
        value: &K::Value,
        bytes_max: usize,
    ) -> Result<(), Refusal> {
        let length = value.encoded_len();
        if length > bytes_max {
            let kind = format!("{:?}", K::KIND);
            let detail = detail::record_too_long(&kind, length, bytes_max);
            return Err(Refusal::invalid(detail));
        }
        self.set(key.encode(), Some(value.encode_to_vec().into()));
        Ok(())
    }

    /// Removes a row; nothing happens when it is not there.
    pub(crate) fn delete<K: RowKey>(&mut self, key: &K) {
        self.set(key.encode(), None);
    }

    /// Removes every row in an interval with an end, in one stroke.
    pub(crate) fn delete_range(&mut self, bounds: &Bounds) {
        let Some(end) = &bounds.end else { return };
        if *end <= bounds.start {
            return;
        }
        let (start, end) = (Bytes::from(bounds.start.clone()), Bytes::from(end.clone()));
        let written = self.writes.range(start.clone()..end.clone());
        let written: Vec<Bytes> = written.map(|(key, _)| key.clone()).collect();
        for key in written {
            let before = self.writes.remove(&key);
            if let Some(savepoint) = &mut self.savepoint {
                savepoint.undo.push((key, before));
            }
        }
        self.removed.push((start, end));
    }

    fn is_removed(&self, key: &[u8]) -> bool {
        let mut removed = self.removed.iter();
        removed.any(|(start, end)| start <= key && key < end)
    }

    /// The next version stamp: not before `time_ms`, and after every earlier one of the shard.
    pub(crate) fn next_stamp(&mut self, time_ms: u64) -> u64 {
        let stamp = VersionStamp::from_millis(time_ms)
            .0
            .max(self.clock.last_stamp + 1);
        self.clock.last_stamp = stamp;
        stamp
    }

    /// An object id that no one else has.
    pub(crate) fn allocate_id(&mut self, time_ms: u64) -> Id {
        self.clock.object_seq += 1;
        let low = u32::try_from(self.clock.object_seq & 0x7fff_ffff).unwrap_or_default();
        let id = ObjectId::compose(time_ms, self.shard(), 0, ALLOCATED_BY_APPLY | low);
        Id(id.to_bytes())
    }

    /// Everything to write, with the descriptor, the clock and the bookkeeping.
    pub(crate) fn into_batch(self, bookkeeping: Bytes) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let slab = self.home;
        for (start, end) in self.removed {
            batch.delete_range(Space::State, start, end);
        }
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.put(Space::State, key, value),
                None => batch.delete(Space::State, key),
            }
        }
        if self.descriptor != *self.stored {
            let key = ShardDescriptorKey { slab }.encode();
            batch.put(Space::State, key, self.descriptor.encode_to_vec());
        }
        let clock = self.clock.encode_to_vec();
        batch.put(Space::State, ShardClockKey { slab }.encode(), clock);
        let bookkeeping = bookkeeping.encode_to_vec();
        batch.put(
            Space::State,
            RaftBookkeepingKey { slab }.encode(),
            bookkeeping,
        );
        batch
    }
}

/// True for ids of [`Tx::allocate_id`], which no client can commit.
pub(crate) fn allocated_by_apply(id: Id) -> bool {
    id.0[12] & 0x80 != 0
}

impl RawRows for Tx<'_> {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.writes.get(key) {
            Some(write) => Ok(write.clone()),
            None if self.is_removed(key) => Ok(None),
            None => self.base.get(Space::State, key),
        }
    }

    fn scan_raw(&self, start: &[u8], end: Option<&[u8]>) -> Scan<'_> {
        let stored = self.base.scan(Space::State, start, end, Direction::Forward);
        let stored = stored.filter(|entry| match entry {
            Ok((key, _)) => !self.is_removed(key),
            Err(_) => true,
        });
        let upper = end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.max(start)));
        let written = self
            .writes
            .range::<[u8], _>((Bound::Included(start), upper));
        Box::new(Merged {
            stored: stored.peekable(),
            written: written.peekable(),
        })
    }
}

/// Stored entries with the transaction's writes laid over them.
struct Merged<S: Iterator, W: Iterator> {
    stored: Peekable<S>,
    written: Peekable<W>,
}

impl<'w, S, W> Iterator for Merged<S, W>
where
    S: Iterator<Item = Result<Entry, KvError>>,
    W: Iterator<Item = (&'w Bytes, &'w Option<Bytes>)>,
{
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, _)) = self.written.peek() else {
                return self.stored.next();
            };
            match self.stored.peek() {
                Some(Err(_)) => return self.stored.next(),
                Some(Ok((stored, _))) if stored < *key => return self.stored.next(),
                Some(Ok((stored, _))) if stored == *key => {
                    self.stored.next();
                }
                _ => {}
            }
            if let Some((key, Some(value))) = self.written.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

/// Bounds of everything in a slab.
pub(crate) fn slab_bounds(slab: SlabId) -> Bounds {
    Bounds::prefix(slab.0.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use granary_kv::{Kv, MemoryKv};
    use proptest::prelude::*;

    use super::*;

    fn tx(base: &MemoryKv) -> Tx<'_> {
        Tx {
            base,
            home: SlabId(1),
            writes: Writes::new(),
            removed: Vec::new(),
            savepoint: None,
            stored: Arc::default(),
            descriptor: state::ShardDescriptor::default(),
            clock: state::ShardClock::default(),
        }
    }

    proptest! {
        #[test]
        fn reads_see_the_store_and_the_writes_that_were_kept(
            stored in prop::collection::btree_set(0u8..32, 0..20),
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec((0u8..32, 0u8..5), 0..6)), 0..6),
            start in 0u8..32, end in 0u8..32,
        ) {
            let kv = MemoryKv::new();
            let mut model = BTreeMap::new();
            let mut batch = WriteBatch::new();
            for key in stored {
                batch.put(Space::State, vec![key], vec![0]);
                model.insert(vec![key], vec![0]);
            }
            kv.write(batch).unwrap();
            let mut tx = tx(&kv);
            for (keep, writes) in steps {
                tx.save();
                let before = model.clone();
                for (key, what) in writes {
                    match what {
                        0 => {
                            let bounds = Bounds { start: vec![key], end: Some(vec![key + 7]) };
                            tx.delete_range(&bounds);
                            model.retain(|k, _| k[0] < key || k[0] >= key + 7);
                        }
                        1 => { tx.set(vec![key], None); model.remove(&vec![key]); }
                        _ => {
                            tx.set(vec![key], Some(Bytes::from_static(b"w")));
                            model.insert(vec![key], b"w".to_vec());
                        }
                    }
                }
                if keep { tx.keep(); } else { tx.undo(); model = before; }
            }
            let seen: Vec<_> = tx.scan_raw(&[start], Some(&[end]))
                .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
            let expected: Vec<_> = model.iter().filter(|(k, _)| k[0] >= start && k[0] < end)
                .map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(seen, expected);
            for key in 0..32 {
                let got = tx.get_raw(&[key]).unwrap().map(|v| v.to_vec());
                prop_assert_eq!(got.as_ref(), model.get(&vec![key]));
            }
            kv.write(tx.into_batch(Bytes::new())).unwrap();
            let left: Vec<_> = kv.scan(Space::State, &[0], Some(&[32]), Direction::Forward)
                .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
                .filter(|(k, _)| k.len() == 1).collect();
            prop_assert_eq!(left, model.into_iter().collect::<Vec<_>>());
        }
    }
}
