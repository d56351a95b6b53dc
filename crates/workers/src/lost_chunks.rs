//! Chunks that rows name and that no listing of their group shows: those that listings cannot count.
//!
//! A disk that is given up may have had the only copy of some. Which they are, only the metadata can
//! tell. So after disks were given up, all rows are summed by group, and where the sum is not that of
//! the listings, each chunk is looked for. What was found is looked at again later without that.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use granary_blob_api::DiskHealth;
use granary_datapath::ClusterView;
use granary_meta_api::Meta;
use granary_meta_api::client::OwnerFate;
use granary_runtime::within;
use granary_types::{BucketId, ChunkId, DiskId, PgId};

use crate::WorkerError;
use crate::fsck::{GroupSums, Named, References};
use crate::outsiders::Outsiders;
use crate::shard_walk::ShardWalk;

/// Chunks looked for in one step.
const LOOKS_PER_STEP: usize = 256;
/// Of those, at once.
const LOOKS_AT_ONCE: usize = 32;
/// Time a disk may take to say whether it has a chunk; one that takes longer is not asked again.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Chunks remembered; when there are more, everything is looked through again.
const REMEMBERED_MAX: usize = 10_000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost {
    /// Chunks of which no disk that answers has a copy, and that no disk of their group owes an
    /// answer for.
    pub(crate) lost: u64,
    /// Chunks that no member that answers has; another member may.
    pub(crate) unheard: u64,
    /// The first of all of them.
    chunks: Vec<Named>,
    /// Disks that were given up by then.
    gone: BTreeSet<DiskId>,
}

impl Lost {
    /// Whether it is enough to look at its chunks again, now that `gone` are given up.
    fn covers(&self, gone: &BTreeSet<DiskId>) -> bool {
        gone.is_subset(&self.gone) && self.unheard == 0 && self.chunks.len() as u64 == self.lost
    }
}

/// A search under way. Cut off in a step, it repeats it.
pub(crate) struct LostSearch {
    found: Lost,
    stage: Stage,
    queue: VecDeque<Named>,
    /// Took too long.
    silent: HashSet<DiskId>,
}

enum Stage {
    /// The rows are summed by group.
    Sum { named: GroupSums, rows: Rows },
    /// The chunks of some groups are looked for.
    Look { groups: HashSet<PgId>, rows: Rows },
    /// What is in the queue is all there is.
    Rest,
}

/// The rows of all shards.
struct Rows {
    shards: ShardWalk,
    pages: Option<References>,
}

impl Rows {
    fn new(view: &ClusterView) -> Self {
        Self {
            shards: ShardWalk::new(view),
            pages: None,
        }
    }

    /// A page of what objects and parts refer to; `None` at the end.
    async fn next(
        &mut self,
        meta: &Meta,
        view: &ClusterView,
    ) -> Result<Option<Vec<Named>>, WorkerError> {
        loop {
            let Some(shard) = self.shards.current() else {
                return Ok(None);
            };
            let pages = self.pages.get_or_insert_with(|| References::new(shard));
            if let Some(page) = pages.next(meta).await? {
                let named = page.iter().filter_map(Named::of);
                return Ok(Some(named.filter(|chunk| !chunk.pending).collect()));
            }
            self.shards.advance(meta, view).await?;
            self.pages = None;
        }
    }
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Somewhere,
    /// A member did not answer.
    Unheard,
    Nowhere,
}

impl LostSearch {
    /// A search for what is not where it should be while `gone` are given up; `None` when nothing is
    /// lost. `before` is what the last one found, or nothing.
    pub(crate) fn begin(
        view: &ClusterView,
        gone: &BTreeSet<DiskId>,
        before: &mut Lost,
    ) -> Option<Self> {
        // What came back is new when it is given up again.
        before.gone.retain(|disk| gone.contains(disk));
        let covered = before.covers(gone);
        if covered && before.chunks.is_empty() {
            return None;
        }
        let stage = if covered {
            Stage::Rest
        } else {
            Stage::Sum {
                named: GroupSums::default(),
                rows: Rows::new(view),
            }
        };
        let again = before.chunks.iter().filter(|_| covered);
        Some(Self {
            queue: again.cloned().collect(),
            stage,
            found: Lost {
                gone: gone.clone(),
                ..Lost::default()
            },
            silent: HashSet::new(),
        })
    }

    /// Goes on for a bit; what was found, at the end. `held` sums what listings have shown.
    pub(crate) async fn step(
        &mut self,
        meta: &Meta,
        view: &ClusterView,
        held: &GroupSums,
        outsiders: &Outsiders,
    ) -> Result<Option<Lost>, WorkerError> {
        if !self.queue.is_empty() {
            self.look(meta, view, outsiders).await?;
            return Ok(None);
        }
        let next = match &mut self.stage {
            Stage::Sum { named, rows } => match rows.next(meta, view).await? {
                Some(page) => {
                    page.iter().for_each(|chunk| named.add(chunk.id));
                    None
                }
                None => Some(named.differing(held)),
            },
            Stage::Look { groups, rows } => match rows.next(meta, view).await? {
                Some(page) => {
                    let differs = |chunk: &Named| groups.contains(&chunk.id.pg());
                    self.queue.extend(page.into_iter().filter(differs));
                    None
                }
                None => Some(Vec::new()),
            },
            Stage::Rest => Some(Vec::new()),
        };
        match next {
            None => Ok(None),
            Some(groups) if groups.is_empty() => Ok(Some(std::mem::take(&mut self.found))),
            Some(groups) => {
                self.stage = Stage::Look {
                    groups: groups.into_iter().collect(),
                    rows: Rows::new(view),
                };
                Ok(None)
            }
        }
    }

    /// Looks for the first chunks of the queue.
    async fn look(
        &mut self,
        meta: &Meta,
        view: &ClusterView,
        outsiders: &Outsiders,
    ) -> Result<(), WorkerError> {
        let count = self.queue.len().min(LOOKS_PER_STEP);
        let batch: Vec<Named> = self.queue.iter().take(count).cloned().collect();
        let mut absent = self.absent(view, batch, outsiders).await;
        if !absent.is_empty() {
            // Its members may have changed, or its object was deleted.
            view.refresh_map().await?;
            let again = absent.into_iter().map(|(chunk, _)| chunk).collect();
            absent = self.absent(view, again, outsiders).await;
        }
        let mut missing = Vec::with_capacity(absent.len());
        for (chunk, place) in absent {
            let asked = vec![chunk.object.clone()];
            let fates = meta.owner_fates(BucketId(chunk.bucket), asked).await?;
            if fates.values().any(|fate| *fate == OwnerFate::Settled) {
                missing.push((chunk, place));
            }
        }
        // From here on nothing waits: the step is done or not.
        self.queue.drain(..count);
        for (chunk, place) in missing {
            match place {
                Place::Nowhere => self.found.lost += 1,
                Place::Unheard => self.found.unheard += 1,
                Place::Somewhere => continue,
            }
            if self.found.chunks.len() < REMEMBERED_MAX {
                self.found.chunks.push(chunk);
            }
        }
        Ok(())
    }

    /// Those of some chunks that are not found.
    async fn absent(
        &mut self,
        view: &ClusterView,
        chunks: Vec<Named>,
        outsiders: &Outsiders,
    ) -> Vec<(Named, Place)> {
        let silent = &self.silent;
        let looks = stream::iter(chunks).map(|chunk| async move {
            let mut late = Vec::new();
            let place = place_of(view, chunk.id, outsiders, silent, &mut late).await;
            (chunk, place, late)
        });
        let looked: Vec<_> = looks.buffer_unordered(LOOKS_AT_ONCE).collect().await;
        let mut absent = Vec::new();
        for (chunk, place, late) in looked {
            self.silent.extend(late);
            if place != Place::Somewhere {
                absent.push((chunk, place));
            }
        }
        absent
    }
}

/// True when a disk that cannot be asked was given up for good and will not be there by itself again:
/// its node was given up as well, does not have it any more, or says that it is broken.
fn owes_nothing(view: &ClusterView, disk: DiskId) -> bool {
    let map = view.map();
    let node = map.node_of(disk);
    let status = view.status(disk);
    let is_over = node.is_some_and(|node| map.is_node_removed(node))
        || view.is_missing(disk)
        || status.is_some_and(|status| status.health == DiskHealth::Failed);
    map.is_removed(disk) && is_over
}

/// Where a chunk is that its group's listing may not show. Damaged bytes on a member in service are
/// counted by who lists them; elsewhere they are nothing.
async fn place_of(
    view: &ClusterView,
    chunk: ChunkId,
    outsiders: &Outsiders,
    silent: &HashSet<DiskId>,
    late: &mut Vec<DiskId>,
) -> Place {
    let map = view.map();
    let Some(group) = map.group(chunk.pg()) else {
        return Place::Nowhere;
    };
    let members: Vec<DiskId> = group.disks().collect();
    let outside = outsiders.of(group.id, &members);
    let mut place = Place::Nowhere;
    for disk in members.iter().chain(&outside).copied() {
        let is_member = members.contains(&disk);
        let node = view.node_of(disk).filter(|_| view.is_readable(disk));
        let asked = node.filter(|_| !silent.contains(&disk));
        let Some(node) = asked else {
            if is_member && !owes_nothing(view, disk) {
                place = Place::Unheard;
            }
            continue;
        };
        let before = ChunkId(chunk.0.wrapping_sub(1));
        let before = (before.pg() == chunk.pg()).then_some(before);
        let listing = node.list(disk, group.id, before, 1);
        let Ok(Ok(page)) = within(LOOK_TIMEOUT, listing).await else {
            late.push(disk);
            if is_member {
                place = Place::Unheard;
            }
            continue;
        };
        let found = page.entries.first().filter(|entry| entry.id == chunk);
        let counted = is_member && map.is_in(disk);
        if found.is_some_and(|entry| !entry.deleted && (counted || !entry.damaged)) {
            return Place::Somewhere;
        }
    }
    place
}
