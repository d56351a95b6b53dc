//! Does something name every chunk that is on a disk?

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use granary_blob_api::ChunkOwner;
use granary_datapath::Group;
use granary_meta_api::client::OwnerFate;
use granary_types::{ChunkId, DiskId, PgId};

use super::{FsckProgress, GroupSums, Named, References, Run};
use crate::WorkerError;
use crate::backups::is_backup;
use crate::group_listing::GroupListing;
use crate::owners::{expired_since, owner_fates};
use crate::shard_walk::ShardWalk;

/// Time the sweep may take for one turn, besides that between two of them.
const SWEEP_TIME: Duration = Duration::from_secs(10 * 60);
/// Ids that are held in memory at once.
const IDS_MAX: u64 = 500_000;

/// Chunks on disks that no row named when it was asked, and whose they say they are.
type Candidates = HashMap<ChunkId, ChunkOwner>;

impl<P: Fn(FsckProgress)> Run<'_, P> {
    /// The chunks on the disks, summed by group.
    pub(super) async fn sum_disks(&mut self) -> GroupSums {
        let mut held = GroupSums::default();
        let map = self.fsck.view.map();
        let mut groups: Vec<&Group> = map.groups().collect();
        groups.sort_unstable_by_key(|group| group.id);
        self.told.groups.1 = groups.len() as u64;
        for group in groups {
            let listed = self.live_chunks(group, |id, _| held.add(id)).await;
            if let Err(error) = listed {
                self.incomplete(format!("group {}: {error}", group.id));
            }
            self.told.groups.0 += 1;
            (self.progress)(self.told);
        }
        held
    }

    /// Looks into the groups whose sums differ.
    pub(super) async fn find_strays(
        &mut self,
        named: &GroupSums,
        held: &GroupSums,
    ) -> Result<(), WorkerError> {
        let mut batch = Vec::new();
        let mut ids = 0;
        for pg in named.differing(held) {
            let count = held.count(pg);
            if ids + count > IDS_MAX && !batch.is_empty() {
                self.strays_of(&std::mem::take(&mut batch)).await?;
                ids = 0;
            }
            batch.push(pg);
            ids += count;
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.strays_of(&batch).await
    }

    async fn strays_of(&mut self, groups: &[PgId]) -> Result<(), WorkerError> {
        let mut candidates = self.held_by(groups).await;
        // What became of the writes is asked first: one that was settled by then named its chunks
        // to whoever asks afterwards.
        let mut fates = self.fates(candidates.values()).await?;
        self.leave_unnamed(groups, &mut candidates).await?;
        // Deleted meanwhile.
        let now = self.held_by(groups).await;
        candidates.retain(|id, _| now.contains_key(id));
        fates.extend(self.fates_unsettled(&candidates, &fates).await?);
        let mut left: Vec<_> = candidates.into_iter().collect();
        left.sort_unstable_by_key(|(id, _)| *id);
        let expired = left
            .iter()
            .filter(|(_, owner)| fates.get(owner) == Some(&OwnerFate::Expired));
        let unswept = self.unswept(expired.map(|(_, owner)| *owner)).await?;
        for (id, owner) in left {
            let detail = match fates.get(&owner) {
                Some(OwnerFate::Expired) if unswept.contains(&owner) => {
                    self.report.chunks_unswept += 1;
                    continue;
                }
                Some(OwnerFate::Expired) => {
                    "of a write that ended without a commit long ago: the sweep does not free it"
                }
                Some(OwnerFate::Settled) => "its object does not refer to it",
                Some(OwnerFate::Open) | None => {
                    self.report.chunks_pending += 1;
                    continue;
                }
            };
            self.report.chunks_unreferenced += 1;
            let chunk = Named {
                id,
                length: 0,
                digest: 0,
                bucket: owner.bucket.0,
                object: Bytes::new(),
                key: Bytes::new(),
                pending: false,
            };
            self.damaged("chunk_unreferenced", &chunk, None, detail.to_owned());
        }
        Ok(())
    }

    /// Those of some expired owners that the sweep need not have come to yet.
    async fn unswept(
        &self,
        owners: impl Iterator<Item = ChunkOwner>,
    ) -> Result<HashSet<ChunkOwner>, WorkerError> {
        let view = &self.fsck.view;
        let now_ms = view.runtime().now().as_millis();
        let time = self.fsck.sweep_every.saturating_mul(2) + SWEEP_TIME;
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let lease_ms = u64::try_from(view.map().write_lease().as_millis()).unwrap_or(u64::MAX);
        let since = expired_since(&self.fsck.meta, owners).await?;
        let unswept = since.into_iter().filter(|(owner, since_ms)| {
            // A shard of an older version does not tell; renewed leases are not known then.
            let since_ms = match since_ms {
                0 => owner.object.birth_ms().saturating_add(lease_ms),
                known => *known,
            };
            now_ms < since_ms.saturating_add(time_ms)
        });
        Ok(unswept.map(|(owner, _)| owner).collect())
    }

    /// Every chunk of some groups, and its owner.
    async fn held_by(&mut self, groups: &[PgId]) -> Candidates {
        let map = self.fsck.view.map();
        let mut held = Candidates::new();
        for pg in groups {
            let Some(group) = map.group(*pg) else {
                continue;
            };
            let listed = self
                .live_chunks(group, |id, owner| {
                    held.insert(id, owner);
                })
                .await;
            if let Err(error) = listed {
                self.incomplete(format!("group {pg}: {error}"));
            }
        }
        held
    }

    /// Takes out of the candidates what some row names.
    async fn leave_unnamed(
        &self,
        groups: &[PgId],
        candidates: &mut Candidates,
    ) -> Result<(), WorkerError> {
        let groups: HashSet<PgId> = groups.iter().copied().collect();
        let mut shards = ShardWalk::new(&self.fsck.view);
        while let Some(shard) = shards.current() {
            let mut pages = References::new(shard);
            while let Some(page) = pages.next(&self.fsck.meta).await? {
                for chunk in page.iter().filter_map(Named::of) {
                    if groups.contains(&chunk.id.pg()) {
                        candidates.remove(&chunk.id);
                    }
                }
            }
            shards.advance(&self.fsck.meta, &self.fsck.view).await?;
        }
        Ok(())
    }

    async fn fates(
        &self,
        owners: impl Iterator<Item = &ChunkOwner>,
    ) -> Result<HashMap<ChunkOwner, OwnerFate>, WorkerError> {
        owner_fates(&self.fsck.meta, owners.copied()).await
    }

    /// Asks again for those that were open: a write may have ended since.
    async fn fates_unsettled(
        &self,
        candidates: &Candidates,
        known: &HashMap<ChunkOwner, OwnerFate>,
    ) -> Result<HashMap<ChunkOwner, OwnerFate>, WorkerError> {
        let open = candidates
            .values()
            .filter(|owner| known.get(owner) == Some(&OwnerFate::Open));
        let now = self.fates(open).await?;
        // Settled since the rows were read: they did not have to name it then.
        let ended = now
            .into_iter()
            .filter(|(_, fate)| *fate == OwnerFate::Expired);
        Ok(ended.collect())
    }

    /// Tells every chunk that a member of the group holds and nobody deleted, but for the
    /// metadata's backup, which no row names. A member that cannot
    /// be listed makes the report incomplete.
    async fn live_chunks(
        &mut self,
        group: &Group,
        mut tell: impl FnMut(ChunkId, ChunkOwner),
    ) -> Result<(), WorkerError> {
        let view = &self.fsck.view;
        let (readable, out): (Vec<DiskId>, Vec<DiskId>) =
            group.disks().partition(|&disk| view.is_readable(disk));
        let mut listing = GroupListing::new(view, group.id, &readable, None)?;
        while let Some(copies) = listing.next().await? {
            let held = !copies.live.is_empty() || !copies.damaged.is_empty();
            if held && !copies.is_deleted(group) && !is_backup(&copies.entry.owner) {
                tell(copies.entry.id, copies.entry.owner);
            }
        }
        for disk in out {
            self.incomplete(super::unreachable(group.id, disk, &"it cannot be read"));
        }
        Ok(())
    }
}
