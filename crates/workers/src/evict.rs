//! Gives back the space of copies on a disk that is no member of their group any more: it was
//! taken out, others got its place, and then it came back.
//!
//! Invariants: a copy goes only when every member of the group is complete and in service, the map
//! that says so was read just now, the disk knows no newer one (it refuses then), and every member
//! holds the chunk, or one has its tombstone, or no row names the chunk and none ever will, or it is a
//! superseded part of the metadata's backup. Anything
//! else that no member has stays: it may be the last copy there is.

use std::collections::HashSet;
use std::time::Duration;

use granary_blob_api::ChunkEntry;
use granary_datapath::{ClusterView, Group};
use granary_meta_api::Meta;
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, PgId};

use crate::WorkerError;
use crate::backups::Backups;
use crate::chunk_deleter::ChunkDeleter;
use crate::group_listing::{GroupListing, LIST_TIMEOUT, PAGE};
use crate::owners::garbage;

/// A map older than this may have been replaced: the page is left to the next pass.
const MAP_AGE_MAX: Duration = Duration::from_secs(5);
/// Chunks deleted with one look at the map.
const BATCH: usize = 256;

/// Frees what disks keep of groups they are no members of. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Eviction {
    meta: Meta,
    view: ClusterView,
    deleter: ChunkDeleter,
}

/// What became of one page.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    /// Copies deleted.
    pub(crate) copies: u64,
    /// Where the next page begins; `None` when there is nothing more to do here now.
    pub(crate) next_after: Option<ChunkId>,
}

impl Eviction {
    pub(crate) fn new(meta: Meta, view: ClusterView, deleter: ChunkDeleter) -> Self {
        Self {
            meta,
            view,
            deleter,
        }
    }

    /// Looks at a page of what a disk lists of a group that it is no member of.
    pub(crate) async fn evict_page(
        &self,
        pg: PgId,
        disk: DiskId,
        after: Option<ChunkId>,
        backups: &Backups,
    ) -> Result<Evicted, WorkerError> {
        let Some(node) = self.view.node_of(disk) else {
            return Ok(Evicted::default());
        };
        let listing = within(LIST_TIMEOUT, node.list(disk, pg, after, PAGE)).await;
        let page = listing
            .map_err(|_| WorkerError::TooLong)?
            .map_err(|error| WorkerError::Disk { disk, error })?;
        if page.entries.is_empty() {
            return Ok(Evicted::default());
        }
        let Some((group, _)) = self.settled(pg, disk).await? else {
            return Ok(Evicted::default());
        };
        let known = (group.id, group.epoch);
        let (mut stale, tombstones) = self.stale(&group, after, &page.entries).await?;
        // Of these no row is asked for, and the members may have deleted theirs long ago.
        let live = page.entries.iter().filter(|entry| !entry.deleted);
        let superseded = live.filter(|entry| backups.is_superseded(entry));
        stale.extend(superseded.map(|entry| entry.id));
        stale.sort_unstable();
        stale.dedup();
        let mut copies = 0;
        for batch in stale.chunks(BATCH) {
            if !self.is_still(&group, disk).await?
                || !self.deleter.evict_on(disk, known, batch).await
            {
                return Ok(Evicted {
                    copies,
                    next_after: None,
                });
            }
            copies += batch.len() as u64;
        }
        if !tombstones.is_empty() && self.is_still(&group, disk).await? {
            self.deleter.evict_on(disk, known, &tombstones).await;
        }
        Ok(Evicted {
            copies,
            next_after: page.next_after,
        })
    }

    /// The group, when all its members are complete and in service and the disk is none of them;
    /// and when (monotonic) the map was asked for.
    async fn settled(
        &self,
        pg: PgId,
        disk: DiskId,
    ) -> Result<Option<(Group, Duration)>, WorkerError> {
        let asked_at = self.view.runtime().monotonic();
        self.view.refresh_map().await?;
        let map = self.view.map();
        let Some(group) = map.group(pg) else {
            return Ok(None);
        };
        let copies = map.target_copies(group);
        let holds = |disk: DiskId| map.is_in(disk) && self.view.is_readable(disk);
        let settled = group.members.len() >= copies
            && group.members.iter().all(|m| m.complete && holds(m.disk))
            && group.disks().all(|member| member != disk);
        Ok(settled.then(|| (group.clone(), asked_at)))
    }

    /// True when the group is what it was, by a map read just now.
    async fn is_still(&self, group: &Group, disk: DiskId) -> Result<bool, WorkerError> {
        let now = self.settled(group.id, disk).await?;
        Ok(now.is_some_and(|(settled, asked_at)| {
            settled == *group
                && self.view.runtime().monotonic().saturating_sub(asked_at) < MAP_AGE_MAX
        }))
    }

    /// Of the entries of a non-member: copies that nobody needs, and tombstones.
    async fn stale(
        &self,
        group: &Group,
        after: Option<ChunkId>,
        entries: &[ChunkEntry],
    ) -> Result<(Vec<ChunkId>, Vec<ChunkId>), WorkerError> {
        let (tombstones, live): (Vec<&ChunkEntry>, Vec<&ChunkEntry>) =
            entries.iter().partition(|entry| entry.deleted);
        let last = live.last().map(|entry| entry.id);
        let members: Vec<DiskId> = group.disks().collect();
        let mut listing = GroupListing::new(&self.view, group.id, &members, after)?;
        let mut needless = HashSet::new();
        while let Some(found) = listing.next().await? {
            if last.is_none_or(|last| found.entry.id > last) {
                break;
            }
            if found.live.len() == members.len() || found.is_deleted(group) {
                needless.insert(found.entry.id);
            }
        }
        let (needless, lacking): (Vec<&ChunkEntry>, Vec<&ChunkEntry>) =
            live.iter().partition(|entry| needless.contains(&entry.id));
        let mut stale: Vec<ChunkId> = needless.iter().map(|entry| entry.id).collect();
        // What a write never committed, or gave up for others before its commit, may be here alone:
        // it never came to the members, or was deleted there and their tombstones were forgotten.
        // Nobody else would free it, as the members' own listings do not name it. What happens
        // between this answer and the eviction does not matter to it: no row names the chunk ever,
        // so neither a reader nor a repair or a backfill that begins now needs the copy, and one
        // that a late call of the write still makes is found by the next pass.
        stale.extend(garbage(&self.meta, &lacking).await?);
        if stale.len() < live.len() {
            let kept = live.len() - stale.len();
            tracing::debug!(pg = %group.id, chunks = kept, "copies that members lack are kept");
        }
        Ok((stale, tombstones.iter().map(|entry| entry.id).collect()))
    }
}
