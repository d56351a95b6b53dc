//! One change of the index: what some records, in order, make of it.
//!
//! Live writes, compaction and replay all go through here, so that a replayed record does exactly
//! what it did the first time. The order number of a change decides, not the order of the records:
//! compaction moves old ones to the end.

use std::collections::HashMap;

use granary_kv::{KvError, Space, WriteBatch};
use granary_types::{ChunkId, PgId};
use parking_lot::MutexGuard;

use super::{Index, Place};
use crate::format::{
    EpochEntry, Header, INDEX_META, IndexEntry, IndexMeta, PgEpoch, State, Tombstone, VolumeStats,
    chunk_key, chunk_record_bytes, epoch_key, pages, volume_key,
};

pub(crate) struct Update<'a> {
    index: &'a Index,
    _changing: MutexGuard<'a, ()>,
    /// Entries as this change leaves them; bounded by the records of one batch.
    chunks: HashMap<ChunkId, Option<IndexEntry>>,
    epochs: HashMap<PgId, EpochEntry>,
    volumes: HashMap<u32, VolumeStats>,
}

/// Pages of a live entry's record.
fn record_pages(entry: &IndexEntry) -> u64 {
    pages(chunk_record_bytes(entry.length))
}

impl<'a> Update<'a> {
    pub(super) fn new(index: &'a Index, changing: MutexGuard<'a, ()>) -> Self {
        Self {
            index,
            _changing: changing,
            chunks: HashMap::new(),
            epochs: HashMap::new(),
            volumes: HashMap::new(),
        }
    }

    fn stats(&mut self, volume: u32) -> &mut VolumeStats {
        let index = self.index;
        self.volumes
            .entry(volume)
            .or_insert_with(|| index.stats(volume))
    }

    fn entry(&self, id: ChunkId) -> Result<Option<IndexEntry>, KvError> {
        match self.chunks.get(&id) {
            Some(entry) => Ok(*entry),
            None => self.index.get(id),
        }
    }

    /// Sets or removes an entry and moves its bytes between the accounts.
    fn replace(&mut self, id: ChunkId, old: Option<IndexEntry>, new: Option<IndexEntry>) {
        if let Some(old) = old {
            let stats = self.stats(old.volume);
            if old.is_live() {
                stats.live_chunks = stats.live_chunks.saturating_sub(1);
                stats.live_chunk_bytes = stats.live_chunk_bytes.saturating_sub(record_pages(&old));
            } else {
                stats.live_notes = stats.live_notes.saturating_sub(1);
            }
        }
        if let Some(new) = new {
            let stats = self.stats(new.volume);
            if new.is_live() {
                stats.live_chunks += 1;
                stats.live_chunk_bytes += record_pages(&new);
            } else {
                stats.live_notes += 1;
            }
        }
        self.chunks.insert(id, new);
    }

    /// Pages of a volume were filled.
    pub(crate) fn used(&mut self, volume: u32, bytes: u64) {
        self.stats(volume).used_bytes += bytes;
    }

    /// A chunk record was written, or moved (it keeps its order number).
    pub(crate) fn chunk(&mut self, at: Place, header: &Header) -> Result<(), KvError> {
        self.stats(at.volume).chunks += 1;
        let old = self.entry(header.id)?;
        if old.is_some_and(|old| old.seq > header.seq) {
            return Ok(());
        }
        let new = IndexEntry {
            state: State::Live,
            // A record that is moved, or replayed, is the same bytes as before.
            damaged: old.is_some_and(|old| old.damaged && old.seq == header.seq),
            volume: at.volume,
            offset: at.offset,
            seq: header.seq,
            owner: header.owner,
            length: header.payload,
            digest: header.digest,
        };
        self.replace(header.id, old, Some(new));
        Ok(())
    }

    /// A tombstone was written or moved.
    pub(crate) fn tombstone(&mut self, at: Place, tombstone: &Tombstone) -> Result<(), KvError> {
        let old = self.entry(tombstone.id)?;
        let newest = old.is_none_or(|old| old.seq <= tombstone.seq);
        if tombstone.forgotten {
            self.stats(at.volume).kept_notes += 1;
            if newest && old.is_some() {
                self.replace(tombstone.id, old, None);
            }
            return Ok(());
        }
        if newest {
            let new = IndexEntry {
                state: State::Deleted {
                    origin: tombstone.origin,
                },
                damaged: false,
                volume: at.volume,
                offset: at.offset,
                seq: tombstone.seq,
                owner: tombstone.owner,
                length: tombstone.length,
                digest: tombstone.digest,
            };
            self.replace(tombstone.id, old, Some(new));
        }
        Ok(())
    }

    /// A tombstone is not needed any more by anyone outside.
    pub(crate) fn forget(&mut self, id: ChunkId, seq: u64) -> Result<(), KvError> {
        let old = self.entry(id)?;
        if old.is_some_and(|old| !old.is_live() && old.seq <= seq) {
            self.replace(id, old, None);
        }
        Ok(())
    }

    /// A group's epoch was written or moved.
    pub(crate) fn epoch(&mut self, volume: u32, epoch: PgEpoch) -> Result<(), KvError> {
        let old = match self.epochs.get(&epoch.pg) {
            Some(entry) => Some(*entry),
            None => self.index.epoch(epoch.pg)?,
        };
        if old.is_some_and(|old| old.epoch > epoch.epoch) {
            return Ok(());
        }
        if let Some(old) = old {
            let stats = self.stats(old.volume);
            stats.live_notes = stats.live_notes.saturating_sub(1);
        }
        self.stats(volume).live_notes += 1;
        let new = EpochEntry {
            epoch: epoch.epoch,
            volume,
        };
        self.epochs.insert(epoch.pg, new);
        Ok(())
    }

    /// Writes the change; the index then reflects every record before `place`.
    pub(crate) fn commit(self, place: Place, next_seq: u64) -> Result<(), KvError> {
        let mut batch = WriteBatch::new();
        for (id, entry) in &self.chunks {
            match entry {
                Some(entry) => batch.put(Space::Index, chunk_key(*id), entry.encode()),
                None => batch.delete(Space::Index, chunk_key(*id)),
            }
        }
        for (pg, entry) in &self.epochs {
            batch.put(Space::Index, epoch_key(*pg), entry.encode());
        }
        for (volume, stats) in &self.volumes {
            batch.put(Space::Index, volume_key(*volume), stats.encode());
        }
        let meta = IndexMeta {
            disk: self.index.disk,
            volume: place.volume,
            offset: place.offset,
            next_seq,
        };
        batch.put(Space::Index, INDEX_META, meta.encode());
        self.index.kv.write(batch)?;
        self.index.volumes.lock().extend(self.volumes);
        Ok(())
    }
}
