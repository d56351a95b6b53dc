//! The chunk index of one disk: what is where, and each volume's account.
//!
//! Derived from the volumes. Invariants: an entry points only to a record that is durable; entries,
//! accounts and the place they reflect change in one batch; batches follow the order of the
//! records. So whatever prefix of batches survives a crash, replaying the volumes from its place
//! gives the whole again. It must not know files.

mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_blob_api::{ChunkEntry, ChunkPage};
use granary_kv::{Direction, Kv, KvError, Space, WriteBatch, prefix_end};
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use crate::format::{
    EpochEntry, INDEX_CHUNKS, INDEX_EPOCHS, INDEX_META, INDEX_VOLUMES, IndexEntry, IndexMeta,
    VolumeStats, chunk_key, epoch_key, id_of_key, pg_of_key, volume_key, volume_of_key,
};

pub(crate) use update::Update;

/// A place in the volumes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) volume: u32,
    pub(crate) offset: u64,
}

/// Sums over the volumes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) chunks: u64,
    pub(crate) live_chunk_bytes: u64,
}

pub(crate) struct Index {
    kv: Arc<dyn Kv>,
    disk: DiskId,
    /// One small entry per volume file.
    volumes: Mutex<BTreeMap<u32, VolumeStats>>,
    /// Held by whoever changes the index.
    changing: Mutex<()>,
}

/// Entries that a walk over all of them looks at at once.
const ENTRIES_PER_BATCH: usize = 1000;

fn corrupt(what: &str) -> KvError {
    KvError::Corrupt(format!("chunk index: {what}").into())
}

impl Index {
    /// Opens the index of `disk`, with what it reflects; one of another disk, of another format or
    /// an empty one is emptied and reflects nothing.
    pub(crate) fn open(kv: Arc<dyn Kv>, disk: DiskId) -> Result<(Self, IndexMeta), KvError> {
        let found = kv
            .get(Space::Index, INDEX_META)?
            .and_then(|bytes| IndexMeta::decode(&bytes))
            .filter(|meta| meta.disk == disk);
        let index = Self {
            kv,
            disk,
            volumes: Mutex::default(),
            changing: Mutex::default(),
        };
        let meta = match found {
            Some(meta) => {
                index.load_volumes()?;
                meta
            }
            None => index.clear()?,
        };
        Ok((index, meta))
    }

    /// Forgets everything, so that it is rebuilt from the first volume on.
    pub(crate) fn clear(&self) -> Result<IndexMeta, KvError> {
        let meta = IndexMeta {
            disk: self.disk,
            volume: 0,
            offset: 0,
            next_seq: 1,
        };
        let mut batch = WriteBatch::new();
        batch.delete_range(Space::Index, Vec::new(), vec![0xff]);
        batch.put(Space::Index, INDEX_META, meta.encode());
        self.kv.write(batch)?;
        self.volumes.lock().clear();
        Ok(meta)
    }

    fn load_volumes(&self) -> Result<(), KvError> {
        let end = prefix_end(&[INDEX_VOLUMES]);
        let scan = self.kv.scan(
            Space::Index,
            &[INDEX_VOLUMES],
            end.as_deref(),
            Direction::Forward,
        );
        let mut volumes = BTreeMap::new();
        for entry in scan {
            let (key, value) = entry?;
            match (volume_of_key(&key), VolumeStats::decode(&value)) {
                (Some(volume), Some(stats)) => volumes.insert(volume, stats),
                _ => return Err(corrupt("volume account")),
            };
        }
        *self.volumes.lock() = volumes;
        Ok(())
    }

    pub(crate) fn get(&self, id: ChunkId) -> Result<Option<IndexEntry>, KvError> {
        match self.kv.get(Space::Index, &chunk_key(id))? {
            None => Ok(None),
            Some(bytes) => IndexEntry::decode(&bytes)
                .map(Some)
                .ok_or_else(|| corrupt("chunk entry")),
        }
    }

    pub(crate) fn epoch(&self, pg: PgId) -> Result<Option<EpochEntry>, KvError> {
        match self.kv.get(Space::Index, &epoch_key(pg))? {
            None => Ok(None),
            Some(bytes) => EpochEntry::decode(&bytes)
                .map(Some)
                .ok_or_else(|| corrupt("epoch entry")),
        }
    }

    /// Every group that was opened, and its epoch.
    pub(crate) fn groups(&self) -> Result<Vec<(PgId, u64)>, KvError> {
        let end = prefix_end(&[INDEX_EPOCHS]);
        let scan = self.kv.scan(
            Space::Index,
            &[INDEX_EPOCHS],
            end.as_deref(),
            Direction::Forward,
        );
        let mut groups = Vec::new();
        for entry in scan {
            let (key, value) = entry?;
            match (pg_of_key(&key), EpochEntry::decode(&value)) {
                (Some(pg), Some(found)) => groups.push((pg, found.epoch)),
                _ => return Err(corrupt("epoch entry")),
            }
        }
        Ok(groups)
    }

    /// Notes whether the bytes behind an entry were found damaged, so that listings tell it, also
    /// after a restart. An entry that changed meanwhile is left alone.
    pub(crate) fn mark(
        &self,
        id: ChunkId,
        looked_at: &IndexEntry,
        damaged: bool,
    ) -> Result<(), KvError> {
        if looked_at.damaged == damaged {
            return Ok(());
        }
        let _changing = self.changing.lock();
        let now = self.get(id)?.filter(IndexEntry::is_live);
        let Some(entry) = now.filter(|now| now.seq == looked_at.seq) else {
            return Ok(());
        };
        let marked = IndexEntry { damaged, ..entry };
        let mut batch = WriteBatch::new();
        batch.put(Space::Index, chunk_key(id), marked.encode());
        self.kv.write(batch)
    }

    /// Marks every live entry that points into one of some volumes: their bytes are gone. Returns how
    /// many were not marked before. Not while anybody else changes the index.
    pub(crate) fn mark_volumes(&self, volumes: &[u32]) -> Result<u64, KvError> {
        let end = prefix_end(&[INDEX_CHUNKS]);
        let (mut start, mut marked) = (vec![INDEX_CHUNKS], 0);
        loop {
            let scan = self
                .kv
                .scan(Space::Index, &start, end.as_deref(), Direction::Forward);
            let (mut batch, mut last) = (WriteBatch::new(), None);
            for entry in scan.take(ENTRIES_PER_BATCH) {
                let (key, value) = entry?;
                let found = IndexEntry::decode(&value).ok_or_else(|| corrupt("chunk entry"))?;
                if found.is_live() && !found.damaged && volumes.contains(&found.volume) {
                    let entry = IndexEntry {
                        damaged: true,
                        ..found
                    };
                    batch.put(Space::Index, key.to_vec(), entry.encode());
                    marked += 1;
                }
                last = Some(key.to_vec());
            }
            self.kv.write(batch)?;
            let Some(last) = last else {
                return Ok(marked);
            };
            start = last;
            start.push(0);
        }
    }

    /// A page of a group in id order.
    pub(crate) fn list(
        &self,
        pg: PgId,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<ChunkPage, KvError> {
        let (found, more) = self.entries(pg, after, limit)?;
        let entry = |(id, found): (ChunkId, IndexEntry)| ChunkEntry {
            id,
            owner: found.owner,
            length: found.length,
            digest: found.digest,
            deleted: !found.is_live(),
            damaged: found.damaged,
        };
        let entries: Vec<_> = found.into_iter().map(entry).collect();
        Ok(ChunkPage {
            next_after: entries.last().filter(|_| more).map(|entry| entry.id),
            entries,
        })
    }

    /// At most `limit` entries of a group in id order, and whether there are more behind them.
    pub(crate) fn entries(
        &self,
        pg: PgId,
        after: Option<ChunkId>,
        limit: usize,
    ) -> Result<(Vec<(ChunkId, IndexEntry)>, bool), KvError> {
        let mut prefix = vec![INDEX_CHUNKS];
        prefix.extend_from_slice(&pg.0.to_be_bytes());
        let end = prefix_end(&prefix);
        let start = match after {
            Some(after) => {
                let mut key = chunk_key(after);
                key.push(0);
                key.max(prefix)
            }
            None => prefix,
        };
        let scan = self
            .kv
            .scan(Space::Index, &start, end.as_deref(), Direction::Forward);
        let mut entries = Vec::new();
        for entry in scan {
            let (key, value) = entry?;
            let (Some(id), Some(found)) = (id_of_key(&key), IndexEntry::decode(&value)) else {
                return Err(corrupt("chunk entry"));
            };
            if entries.len() == limit {
                return Ok((entries, true));
            }
            entries.push((id, found));
        }
        Ok((entries, false))
    }

    /// A volume's account.
    pub(crate) fn stats(&self, volume: u32) -> VolumeStats {
        self.volumes
            .lock()
            .get(&volume)
            .copied()
            .unwrap_or_default()
    }

    /// Every volume with an account.
    pub(crate) fn volumes(&self) -> Vec<(u32, VolumeStats)> {
        let volumes = self.volumes.lock();
        volumes.iter().map(|(id, stats)| (*id, *stats)).collect()
    }

    /// Whether a volume up to `last`, but for `except`, holds a chunk record that the index does
    /// not point to.
    pub(crate) fn has_dead_chunks(&self, last: u32, except: u32) -> bool {
        let volumes = self.volumes.lock();
        volumes
            .range(..=last)
            .any(|(volume, stats)| *volume != except && stats.has_dead_chunks())
    }

    pub(crate) fn totals(&self) -> Totals {
        let volumes = self.volumes.lock();
        volumes
            .values()
            .fold(Totals::default(), |sum, stats| Totals {
                chunks: sum.chunks + stats.live_chunks,
                live_chunk_bytes: sum.live_chunk_bytes + stats.live_chunk_bytes,
            })
    }

    /// Starts a change; it ends with [`Update::commit`].
    pub(crate) fn update(&self) -> Update<'_> {
        Update::new(self, self.changing.lock())
    }

    /// Drops the account of a volume that is gone.
    pub(crate) fn drop_volume(&self, volume: u32) -> Result<(), KvError> {
        let _changing = self.changing.lock();
        let mut batch = WriteBatch::new();
        batch.delete(Space::Index, volume_key(volume));
        self.kv.write(batch)?;
        self.volumes.lock().remove(&volume);
        Ok(())
    }

    /// Makes the index durable: recovery starts from here.
    pub(crate) fn checkpoint(&self) -> Result<(), KvError> {
        self.kv.sync()
    }
}
