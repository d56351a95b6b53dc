//! Finds chunks of writes that were never committed, and of objects whose deletion lost track of
//! them, and deletes them; and then copies on disks that are no members of their group any more.
//!
//! Invariant: a chunk is deleted only when every shard that may own its object says, by its own
//! applied time, that no commit of it can be accepted any more.

use bytes::Bytes;
use granary_blob_api::{BlobError, ChunkEntry};
use granary_datapath::ClusterView;
use granary_meta_api::Meta;
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, PgId};

use crate::backups::Backups;
use crate::chunk_deleter::ChunkDeleter;
use crate::evict::Eviction;
use crate::group_listing::{LIST_TIMEOUT, PAGE};
use crate::owners::expired_owners;
use crate::{Tick, Worker, WorkerError, WorkerMetrics};

/// Pages of chunks per tick.
const PAGES_PER_TICK: usize = 16;

/// Pages of disks that are no members of a group that one pass looks at. Disks say which groups they
/// know; the passes together go through all.
const STRANGERS_PER_PASS: usize = 65_536;

/// The sweep. A pass goes through every disk of every group, and then through some of the disks
/// that are no members; a tick through a few pages.
pub struct OrphanSweep {
    meta: Meta,
    view: ClusterView,
    deleter: ChunkDeleter,
    metrics: WorkerMetrics,
    eviction: Eviction,
    at: Cursor,
    strangers: Strangers,
    backups: Backups,
}

/// How far the disks that are no members have been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Strangers {
    at: Cursor,
    /// Groups that the disk there knows and is no member of, in order; `None` before it was asked.
    known: Option<Vec<PgId>>,
    /// Pages looked at in this pass.
    seen: usize,
}

impl Strangers {
    /// Goes on with the next disk.
    fn leave(&mut self, disk: DiskId) {
        self.known = None;
        self.at = Cursor {
            disk: DiskId(disk.0.saturating_add(1)),
            ..Cursor::default()
        };
    }
}

/// Where the pass is: the group, the disk in it, the last chunk seen on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    pg: PgId,
    disk: DiskId,
    after: Option<ChunkId>,
}

impl Cursor {
    fn to_bytes(self) -> Bytes {
        let mut bytes = Vec::with_capacity(28);
        bytes.extend_from_slice(&self.pg.0.to_be_bytes());
        bytes.extend_from_slice(&self.disk.0.to_be_bytes());
        bytes.extend_from_slice(&self.after.unwrap_or_default().to_bytes());
        bytes.into()
    }

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        let (pg, rest) = bytes.split_first_chunk::<4>()?;
        let (disk, after) = rest.split_first_chunk::<8>()?;
        let after = ChunkId::from_slice(after)?;
        Some(Self {
            pg: PgId(u32::from_be_bytes(*pg)),
            disk: DiskId(u64::from_be_bytes(*disk)),
            after: (after != ChunkId::default()).then_some(after),
        })
    }
}

impl OrphanSweep {
    /// A sweep over all groups of the map.
    pub fn new(meta: Meta, view: ClusterView, metrics: WorkerMetrics) -> Self {
        Self {
            eviction: Eviction::new(meta.clone(), view.clone(), ChunkDeleter::new(view.clone())),
            meta,
            deleter: ChunkDeleter::new(view.clone()),
            view,
            metrics,
            at: Cursor::default(),
            strangers: Strangers::default(),
            backups: Backups::default(),
        }
    }

    /// The place at or after the cursor; `None` at the end of the pass.
    fn place(&self) -> Option<Cursor> {
        let map = self.view.map();
        let (pg, disk) = map
            .groups()
            .flat_map(|group| group.disks().map(|disk| (group.id, disk)))
            .filter(|&(pg, disk)| (pg, disk) >= (self.at.pg, self.at.disk))
            .filter(|&(_, disk)| map.is_in(disk) && self.view.is_readable(disk))
            .min()?;
        let here = (pg, disk) == (self.at.pg, self.at.disk);
        Some(Cursor {
            pg,
            disk,
            after: if here { self.at.after } else { None },
        })
    }

    async fn sweep_page(&mut self, place: Cursor) -> Result<Option<ChunkId>, WorkerError> {
        let disk = place.disk;
        let failed = |error| WorkerError::Disk { disk, error };
        let Some(node) = self.view.node_of(disk) else {
            return Ok(None);
        };
        let listing = node.list(disk, place.pg, place.after, PAGE);
        let late = |_| failed(BlobError::Unreachable("no answer in time".to_owned()));
        let page = within(LIST_TIMEOUT, listing)
            .await
            .map_err(late)?
            .map_err(failed)?;
        let live: Vec<&ChunkEntry> = page.entries.iter().filter(|entry| !entry.deleted).collect();
        let expired = expired_owners(&self.meta, live.iter().copied()).await?;
        let garbage: Vec<ChunkId> = live
            .iter()
            .filter(|entry| self.backups.look(entry) || expired.contains(&entry.owner))
            .map(|entry| entry.id)
            .collect();
        if !garbage.is_empty() {
            let gone = self.deleter.delete(&garbage).await;
            tracing::info!(chunks = gone.len(), pg = %place.pg, "swept chunks of dead writes");
            self.metrics.chunks_swept.inc_by(gone.len() as u64);
        }
        Ok(page.next_after)
    }
}

impl OrphanSweep {
    /// The disk in service at or after the cursor.
    fn strange_disk(&self) -> Option<DiskId> {
        let (map, at) = (self.view.map(), self.strangers.at.disk);
        let disks = map.disks().map(|disk| DiskId(disk.id));
        let serves = |disk: &DiskId| map.is_in(*disk) && self.view.is_readable(*disk);
        disks.filter(|disk| *disk >= at && serves(disk)).min()
    }

    /// The groups of the map that a disk knows and is no member of.
    async fn foreign_groups(&self, disk: DiskId) -> Result<Vec<PgId>, WorkerError> {
        let failed = |error| WorkerError::Disk { disk, error };
        let Some(node) = self.view.node_of(disk) else {
            return Ok(Vec::new());
        };
        let late = |_| failed(BlobError::Unreachable("no answer in time".to_owned()));
        let known = within(LIST_TIMEOUT, node.groups(disk)).await;
        let known = known.map_err(late)?.map_err(failed)?;
        let map = self.view.map();
        let is_foreign = |pg: &PgId| {
            let group = map.group(*pg);
            group.is_some_and(|group| group.disks().all(|member| member != disk))
        };
        let groups = known.into_iter().map(|(pg, _)| pg);
        let mut foreign: Vec<PgId> = groups.filter(is_foreign).collect();
        foreign.sort_unstable();
        Ok(foreign)
    }

    /// Looks at one page of one disk that is no member, or for one that may have some; true when this
    /// pass has seen enough.
    async fn sweep_strangers(&mut self) -> Result<bool, WorkerError> {
        let Some(disk) = self.strange_disk() else {
            self.strangers = Strangers::default();
            return Ok(true);
        };
        if self.strangers.at.disk != disk {
            self.strangers.at = Cursor {
                disk,
                ..Cursor::default()
            };
            self.strangers.known = None;
        }
        let known = match self.strangers.known.take() {
            Some(known) => Ok(known),
            None => self.foreign_groups(disk).await,
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                self.strangers.leave(disk);
                return Err(error);
            }
        };
        let at = self.strangers.at;
        let Some(pg) = known.iter().copied().find(|&pg| pg >= at.pg) else {
            self.strangers.leave(disk);
            return Ok(self.has_seen_enough());
        };
        let after = at.after.filter(|_| pg == at.pg);
        let evicting = self.eviction.evict_page(pg, disk, after, &self.backups);
        let page = evicting.await;
        match &page {
            Ok(evicted) => {
                // The end of this group on the disk, or something that the next pass may find better.
                let next = PgId(pg.0.saturating_add(1));
                let more = evicted.next_after.is_some();
                self.strangers.known = Some(known);
                self.strangers.at = Cursor {
                    pg: if more { pg } else { next },
                    disk,
                    after: evicted.next_after,
                };
            }
            Err(_) => self.strangers.leave(disk),
        }
        let evicted = page?;
        if evicted.copies > 0 {
            let chunks = evicted.copies;
            tracing::info!(chunks, %pg, %disk, "freed copies on a disk that is no member");
            self.metrics.chunks_swept.inc_by(chunks);
        }
        Ok(self.has_seen_enough())
    }

    fn has_seen_enough(&mut self) -> bool {
        self.strangers.seen += 1;
        let enough = self.strangers.seen >= STRANGERS_PER_PASS;
        if enough {
            self.strangers.seen = 0;
        }
        enough
    }
}

impl Worker for OrphanSweep {
    const NAME: &'static str = "orphan-sweep";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        for _ in 0..PAGES_PER_TICK {
            let Some(place) = self.place() else {
                if self.sweep_strangers().await? {
                    self.at = Cursor::default();
                    self.backups.turn();
                    return Ok(Tick::Done);
                }
                continue;
            };
            let swept = self.sweep_page(place).await;
            self.at = match &swept {
                Ok(Some(after)) => Cursor {
                    after: Some(*after),
                    ..place
                },
                // The end of this disk, or a disk that cannot be listed now: the next pass.
                Ok(None) | Err(WorkerError::Disk { .. }) => Cursor {
                    disk: DiskId(place.disk.0.saturating_add(1)),
                    after: None,
                    ..place
                },
                Err(_) => place,
            };
            swept?;
        }
        Ok(Tick::More)
    }

    fn cursor(&self) -> Bytes {
        self.at.to_bytes()
    }

    fn resume(&mut self, cursor: &[u8]) {
        self.at = Cursor::from_slice(cursor).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_lease() {
        for after in [None, Some(ChunkId::new(PgId(7), 9))] {
            let cursor = Cursor {
                pg: PgId(7),
                disk: DiskId(1 << 40),
                after,
            };
            assert_eq!(Cursor::from_slice(&cursor.to_bytes()), Some(cursor));
        }
        assert_eq!(Cursor::from_slice(b"?"), None);
    }
}
