//! The chunks of a group, member by member, merged in the order of their ids.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::{BlobNode, ChunkEntry};
use granary_datapath::{ClusterView, Group};
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, PgId};

use crate::WorkerError;
use crate::outsiders::Outsiders;

/// Entries asked for at once.
pub(crate) const PAGE: u32 = 1000;
/// Time a page may take.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(15);
/// Time a page of a disk outside of the group may take.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the members of a group say of one chunk.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The chunk, as a member that has it (or its tombstone) lists it.
    pub(crate) entry: ChunkEntry,
    /// Members that hold it, as far as they know.
    pub(crate) live: Vec<DiskId>,
    /// Members that hold it and know that their bytes are damaged.
    pub(crate) damaged: Vec<DiskId>,
    /// Members that have a tombstone.
    pub(crate) tombstones: Vec<DiskId>,
    /// Members that hold it, and do not know that theirs is damaged, hold different things.
    pub(crate) differs: bool,
    /// Disks outside of the group that hold the same, as far as they know. Only they may have it:
    /// whether it should exist at all, the metadata has to say.
    pub(crate) outside: Vec<DiskId>,
}

impl Copies {
    /// True when the chunk was deleted by command. A tombstone on a member that is still being
    /// filled is none while a complete member holds the chunk: it may be what is left of giving
    /// back space on a disk that was no member then.
    pub(crate) fn is_deleted(&self, group: &Group) -> bool {
        let mut tombstones = self.tombstones.iter();
        tombstones.any(|&disk| is_complete(group, disk))
            || (!self.tombstones.is_empty() && !self.is_held_for_certain(group))
    }

    /// True when a complete member holds it, whatever its bytes are: it was stored, and this member
    /// would have heard of its deletion.
    pub(crate) fn is_held_for_certain(&self, group: &Group) -> bool {
        let mut held = self.live.iter().chain(&self.damaged);
        held.any(|&disk| is_complete(group, disk))
    }
}

/// True when a disk is a member that holds all it should.
pub(crate) fn is_complete(group: &Group, disk: DiskId) -> bool {
    let mut members = group.members.iter();
    members.any(|member| member.disk == disk && member.complete)
}

/// A merged listing. Memory: a page per disk.
pub(crate) struct GroupListing<'o> {
    members: Vec<MemberListing>,
    /// Disks outside of the group, and who is told of those that give no answer.
    outside: Vec<MemberListing>,
    outsiders: Option<&'o Outsiders>,
}

struct MemberListing {
    node: Arc<dyn BlobNode>,
    disk: DiskId,
    pg: PgId,
    page: VecDeque<ChunkEntry>,
    /// Entries asked for at once.
    per_page: u32,
    after: Option<ChunkId>,
    ended: bool,
}

impl<'o> GroupListing<'o> {
    /// A listing of `disks` of a group, after a chunk. Disks without a reachable node are an error.
    pub(crate) fn new(
        view: &ClusterView,
        pg: PgId,
        disks: &[DiskId],
        after: Option<ChunkId>,
    ) -> Result<Self, WorkerError> {
        Self::in_pages(view, pg, disks, after, PAGE)
    }

    /// A listing that is asked for one chunk only.
    pub(crate) fn of_one(
        view: &ClusterView,
        chunk: ChunkId,
        disks: &[DiskId],
    ) -> Result<Self, WorkerError> {
        let before = ChunkId(chunk.0.wrapping_sub(1));
        let before = (before.pg() == chunk.pg()).then_some(before);
        Self::in_pages(view, chunk.pg(), disks, before, 1)
    }

    fn in_pages(
        view: &ClusterView,
        pg: PgId,
        disks: &[DiskId],
        after: Option<ChunkId>,
        per_page: u32,
    ) -> Result<Self, WorkerError> {
        let members = disks.iter().map(|&disk| {
            let error = || granary_blob_api::BlobError::Unreachable("node is not known".to_owned());
            MemberListing::new(view, pg, disk, after, per_page).ok_or_else(|| WorkerError::Disk {
                disk,
                error: error(),
            })
        });
        Ok(Self {
            members: members.collect::<Result<_, WorkerError>>()?,
            outside: Vec::new(),
            outsiders: None,
        })
    }

    /// Lists what other disks than `serving` hold of the group as well. One that gives no answer is
    /// left out.
    pub(crate) fn with_outsiders(
        mut self,
        view: &ClusterView,
        (pg, serving): (PgId, &[DiskId]),
        after: Option<ChunkId>,
        outsiders: &'o Outsiders,
    ) -> Self {
        let disks = outsiders.of(pg, serving).into_iter();
        let listings = disks.filter_map(|disk| MemberListing::new(view, pg, disk, after, PAGE));
        self.outside = listings.collect();
        self.outsiders = Some(outsiders);
        self
    }

    /// The next chunk; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Copies>, WorkerError> {
        for member in &mut self.members {
            member.fill(LIST_TIMEOUT).await?;
        }
        self.fill_outside().await;
        // Of those with the same id the first one: a member's, if there is one.
        let listings = self.members.iter().chain(&self.outside);
        let fronts = listings.filter_map(|listing| listing.page.front());
        let Some(&entry) = fronts.min_by_key(|entry| entry.id) else {
            return Ok(None);
        };
        let mut copies = Copies {
            entry,
            live: Vec::with_capacity(self.members.len()),
            damaged: Vec::new(),
            tombstones: Vec::new(),
            differs: false,
            outside: Vec::new(),
        };
        let mut sound: Option<ChunkEntry> = None;
        for member in &mut self.members {
            let Some(own) = member.page.pop_front_if(|own| own.id == entry.id) else {
                continue;
            };
            if own.deleted {
                copies.tombstones.push(member.disk);
                continue;
            }
            if own.damaged {
                copies.damaged.push(member.disk);
            } else {
                copies.live.push(member.disk);
                copies.differs |= sound.is_some_and(|sound| sound != own);
                sound = Some(own);
            }
            // Whoever holds it knows more of it than a tombstone.
            copies.entry = own;
        }
        for listing in &mut self.outside {
            let own = listing.page.pop_front_if(|own| own.id == entry.id);
            if own.is_some_and(|own| is_same(&own, &copies.entry)) {
                copies.outside.push(listing.disk);
            }
        }
        Ok(Some(copies))
    }

    async fn fill_outside(&mut self) {
        let mut answering = Vec::with_capacity(self.outside.len());
        for mut listing in std::mem::take(&mut self.outside) {
            if let Err(error) = listing.fill_with_copies().await {
                tracing::debug!(disk = %listing.disk, %error, "a disk outside of the group is left out");
                if let Some(outsiders) = self.outsiders {
                    outsiders.leave_out(listing.disk);
                }
                continue;
            }
            answering.push(listing);
        }
        self.outside = answering;
    }
}

/// Whether two disks hold the same under the same id, damaged or not; a tombstone says nothing of it.
fn is_same(own: &ChunkEntry, other: &ChunkEntry) -> bool {
    other.deleted
        || (own.length, own.digest, own.owner) == (other.length, other.digest, other.owner)
}

impl MemberListing {
    fn new(
        view: &ClusterView,
        pg: PgId,
        disk: DiskId,
        after: Option<ChunkId>,
        per_page: u32,
    ) -> Option<Self> {
        Some(Self {
            node: view.node_of(disk)?,
            disk,
            pg,
            page: VecDeque::new(),
            per_page,
            after,
            ended: false,
        })
    }

    /// Of a disk outside of the group only what can be copied counts: its tombstones may be old.
    async fn fill_with_copies(&mut self) -> Result<(), WorkerError> {
        while self.page.is_empty() && !self.ended {
            self.fill(OUTSIDE_TIMEOUT).await?;
            self.page.retain(|entry| !entry.deleted && !entry.damaged);
        }
        Ok(())
    }

    async fn fill(&mut self, timeout: Duration) -> Result<(), WorkerError> {
        while self.page.is_empty() && !self.ended {
            let listing = self
                .node
                .list(self.disk, self.pg, self.after, self.per_page);
            let page = within(timeout, listing)
                .await
                .map_err(|_| WorkerError::TooLong)?
                .map_err(|error| WorkerError::Disk {
                    disk: self.disk,
                    error,
                })?;
            self.ended = page.next_after.is_none();
            self.after = page.next_after;
            self.page = page.entries.into();
        }
        Ok(())
    }
}
