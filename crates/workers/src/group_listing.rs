//! The chunks of a group, member by member, merged in the order of their ids.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::{BlobNode, ChunkEntry};
use granary_datapath::{ClusterView, Group};
use granary_runtime::within;
use granary_types::{ChunkId, DiskId, PgId};

use crate::WorkerError;

/// Entries asked for at once.
pub(crate) const PAGE: u32 = 1000;
/// Time a page may take.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(15);

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
}

impl Copies {
    /// True when the chunk was deleted by command. A tombstone on a member that is still being
    /// filled is none while a complete member holds the chunk: it may be what is left of giving
    /// back space on a disk that was no member then.
    pub(crate) fn is_deleted(&self, group: &Group) -> bool {
        let complete = |disk: &DiskId| {
            let mut members = group.members.iter();
            members.any(|member| member.disk == *disk && member.complete)
        };
        self.tombstones.iter().any(complete)
            || (!self.tombstones.is_empty() && !self.live.iter().chain(&self.damaged).any(complete))
    }
}

/// A merged listing. Memory: a page per member.
pub(crate) struct GroupListing {
    members: Vec<MemberListing>,
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

impl GroupListing {
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
            let node = view.node_of(disk);
            Ok(MemberListing {
                node: node.ok_or_else(|| WorkerError::Disk {
                    disk,
                    error: error(),
                })?,
                disk,
                pg,
                page: VecDeque::new(),
                per_page,
                after,
                ended: false,
            })
        });
        Ok(Self {
            members: members.collect::<Result<_, WorkerError>>()?,
        })
    }

    /// The next chunk; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Copies>, WorkerError> {
        for member in &mut self.members {
            member.fill().await?;
        }
        let fronts = self.members.iter().filter_map(|member| member.page.front());
        let Some(&entry) = fronts.min_by_key(|entry| entry.id) else {
            return Ok(None);
        };
        let mut copies = Copies {
            entry,
            live: Vec::with_capacity(self.members.len()),
            damaged: Vec::new(),
            tombstones: Vec::new(),
            differs: false,
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
        Ok(Some(copies))
    }
}

impl MemberListing {
    async fn fill(&mut self) -> Result<(), WorkerError> {
        while self.page.is_empty() && !self.ended {
            let listing = self
                .node
                .list(self.disk, self.pg, self.after, self.per_page);
            let page = within(LIST_TIMEOUT, listing)
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
