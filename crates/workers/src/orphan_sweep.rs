//! Finds chunks of writes that were never committed, and of objects whose deletion lost track of
//! them, and deletes them; and then copies on disks that are no members of their group any more.
//!
//! Invariant: a chunk is deleted only when every shard that may own its object says, by its own
//! applied time, that no commit of it can be accepted any more.

use bytes::Bytes;
use granary_blob_api::{BlobError, ChunkEntry};
use granary_datapath::{ClusterMap, ClusterView};
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
    order: Order,
    at: Cursor,
    strangers: Strangers,
    backups: Backups,
}

/// What a pass goes through, in order, by the map of an epoch: looking for the next place in the map
/// itself would take as long as the map is large, for every page.
#[derive(Debug, Default)]
struct Order {
    epoch: u64,
    members: Vec<(PgId, DiskId)>,
    disks: Vec<DiskId>,
}

impl Order {
    /// Follows a map that is another one than before.
    fn follow(&mut self, map: &ClusterMap) {
        if self.epoch == map.epoch() {
            return;
        }
        let groups = map.groups();
        let members = groups.flat_map(|group| group.disks().map(|disk| (group.id, disk)));
        self.members = members.collect();
        self.members.sort_unstable();
        self.disks = map.disks().map(|disk| DiskId(disk.id)).collect();
        self.disks.sort_unstable();
        self.epoch = map.epoch();
    }

    /// Members of groups, from a place on.
    fn members_from(&self, at: (PgId, DiskId)) -> &[(PgId, DiskId)] {
        let first = self.members.partition_point(|member| *member < at);
        self.members.get(first..).unwrap_or_default()
    }

    /// All disks, from one on.
    fn disks_from(&self, at: DiskId) -> &[DiskId] {
        let first = self.disks.partition_point(|disk| *disk < at);
        self.disks.get(first..).unwrap_or_default()
    }
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
            order: Order::default(),
            at: Cursor::default(),
            strangers: Strangers::default(),
            backups: Backups::default(),
        }
    }

    /// The place at or after the cursor; `None` at the end of the pass.
    fn place(&mut self) -> Option<Cursor> {
        let map = self.view.map();
        self.order.follow(&map);
        let left = self.order.members_from((self.at.pg, self.at.disk));
        let serves = |disk: DiskId| map.is_in(disk) && self.view.is_readable(disk);
        let &(pg, disk) = left.iter().find(|&&(_, disk)| serves(disk))?;
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
    fn strange_disk(&mut self) -> Option<DiskId> {
        let map = self.view.map();
        self.order.follow(&map);
        let mut left = self.order.disks_from(self.strangers.at.disk).iter();
        let serves = |disk: &&DiskId| map.is_in(**disk) && self.view.is_readable(**disk);
        left.find(serves).copied()
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
    use std::collections::HashMap;

    use granary_meta_api::pb;

    use super::*;

    #[test]
    fn the_order_is_made_once_for_a_map_and_has_every_member_from_any_place_on() {
        let map = |epoch, members: &[(u32, u64)]| {
            let mut groups: HashMap<u32, Vec<pb::state::PgMember>> = HashMap::new();
            for &(id, disk) in members {
                let complete = true;
                let member = pb::state::PgMember { disk, complete };
                groups.entry(id).or_default().push(member);
            }
            let group = |(id, members)| pb::state::PlacementGroup {
                id,
                members,
                ..Default::default()
            };
            ClusterMap::from_wire(pb::ClusterMap {
                epoch,
                groups: groups.into_iter().map(group).collect(),
                ..Default::default()
            })
        };
        let members = [(1, 5), (1, 7), (2, 3), (2, 7), (9, 1)];
        let mut order = Order::default();
        order.follow(&map(1, &members));
        let from = |order: &Order, pg, disk| -> Vec<(u32, u64)> {
            let left = order.members_from((PgId(pg), DiskId(disk)));
            left.iter().map(|(pg, disk)| (pg.0, disk.0)).collect()
        };
        assert_eq!(from(&order, 0, 0), members);
        assert_eq!(from(&order, 1, 7), members[1..]);
        assert_eq!(from(&order, 1, 8), members[2..]);
        assert!(from(&order, 9, 2).is_empty());
        let made = order.members.as_ptr();
        order.follow(&map(1, &members));
        assert_eq!(order.members.as_ptr(), made, "made again for nothing");
        order.follow(&map(2, &members[..2]));
        assert_eq!(from(&order, 0, 0), members[..2]);
    }

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
