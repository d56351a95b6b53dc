//! Typed reads over anything that can be read by key: a snapshot, or a transaction over the store.

use bytes::Bytes;
use granary_kv::{Direction, KvError, KvRead, Scan, Space, prefix_end};
use granary_raft::StateMachineError;

use crate::keyspace::{RowKey, decode_value};

/// Untyped reads of the State space.
pub(crate) trait RawRows {
    /// The value of a key.
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Entries with `start <= key < end`, ascending.
    fn scan_raw(&self, start: &[u8], end: Option<&[u8]>) -> Scan<'_>;
}

/// A view of the store, for queries and snapshots.
pub(crate) struct View<'a>(pub(crate) &'a dyn KvRead);

impl RawRows for View<'_> {
    fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.0.get(Space::State, key)
    }

    fn scan_raw(&self, start: &[u8], end: Option<&[u8]>) -> Scan<'_> {
        self.0.scan(Space::State, start, end, Direction::Forward)
    }
}

impl View<'_> {
    /// About how many bytes the store keeps within bounds; see [`KvRead::approximate_bytes`].
    pub(crate) fn approximate_bytes(&self, bounds: &Bounds) -> u64 {
        let end = bounds.end.as_deref();
        self.0.approximate_bytes(Space::State, &bounds.start, end)
    }

    /// The key of the last row within bounds.
    pub(crate) fn last_key(&self, bounds: &Bounds) -> Result<Option<Bytes>, KvError> {
        let (start, end) = (&bounds.start, bounds.end.as_deref());
        let mut entries = self.0.scan(Space::State, start, end, Direction::Backward);
        Ok(entries.next().transpose()?.map(|(key, _)| key))
    }

    /// The last row of one kind with `start <= key < end`.
    pub(crate) fn last<K: RowKey>(
        &self,
        start: &K,
        end: &K,
    ) -> Result<Option<(K, K::Value)>, StateMachineError> {
        let (start, end) = (start.encode(), end.encode());
        let mut entries = self
            .0
            .scan(Space::State, &start, Some(&end), Direction::Backward);
        let Some(entry) = entries.next() else {
            return Ok(None);
        };
        let (key, value) = entry?;
        Ok(Some((K::decode(&key)?, decode_value(K::KIND, value)?)))
    }
}

/// Half-open bounds of a scan over raw keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl Bounds {
    /// Everything that begins with `prefix`.
    pub(crate) fn prefix(prefix: Vec<u8>) -> Self {
        let end = prefix_end(&prefix);
        Self { start: prefix, end }
    }

    /// The same bounds from a later start.
    pub(crate) fn from(mut self, start: Vec<u8>) -> Self {
        if start > self.start {
            self.start = start;
        }
        self
    }
}

/// Typed reads.
pub(crate) trait Rows: RawRows {
    /// The record of a key.
    fn get<K: RowKey>(&self, key: &K) -> Result<Option<K::Value>, StateMachineError> {
        match self.get_raw(&key.encode())? {
            Some(bytes) => decode_value(K::KIND, bytes).map(Some),
            None => Ok(None),
        }
    }

    /// True when the row exists.
    fn exists<K: RowKey>(&self, key: &K) -> Result<bool, StateMachineError> {
        Ok(self.get_raw(&key.encode())?.is_some())
    }

    /// Rows of one kind within bounds, ascending.
    fn rows<'s, K: RowKey>(
        &'s self,
        bounds: &Bounds,
    ) -> impl Iterator<Item = Result<(K, K::Value), StateMachineError>> + use<'s, Self, K> {
        self.scan_raw(&bounds.start, bounds.end.as_deref())
            .map(|entry| {
                let (key, value) = entry?;
                Ok((K::decode(&key)?, decode_value(K::KIND, value)?))
            })
    }

    /// At most `limit` rows of one kind within bounds.
    fn list<K: RowKey>(
        &self,
        bounds: &Bounds,
        limit: usize,
    ) -> Result<Vec<(K, K::Value)>, StateMachineError> {
        self.rows::<K>(bounds).take(limit).collect()
    }

    /// True when there is any row within bounds.
    fn any(&self, bounds: &Bounds) -> Result<bool, StateMachineError> {
        let first = self.scan_raw(&bounds.start, bounds.end.as_deref()).next();
        Ok(first.transpose()?.is_some())
    }
}

impl<T: RawRows + ?Sized> Rows for T {}
