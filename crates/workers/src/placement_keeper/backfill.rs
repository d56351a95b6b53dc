//! Opening groups on their disks at the map's epoch, and filling members that are not complete.

use futures_util::{StreamExt, stream};
use granary_blob_api::BlobError;
use granary_datapath::Group;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_runtime::within;
use granary_types::{DiskId, PgId};

use super::{Filling, PlacementKeeper};
use crate::WorkerError;
use crate::group_listing::LIST_TIMEOUT;
use crate::worker::TICK_TIME;

/// Calls to disks at once while groups are opened.
const OPENING_AT_ONCE: usize = 32;
/// Group and disk pairs opened per tick.
const OPENED_PER_TICK: usize = 20_000;

impl PlacementKeeper {
    /// Tells disks the epochs of their groups, as far as they did not confirm them already.
    pub(super) async fn open_groups(&mut self) -> Result<(), WorkerError> {
        let map = self.view.map();
        let known = |pg: PgId, disk: DiskId| {
            map.group(pg)
                .is_some_and(|group| group.disks().any(|member| member == disk))
        };
        self.opened.retain(|&(pg, disk), _| known(pg, disk));
        let pending: Vec<(PgId, DiskId, u64)> = map
            .groups()
            .flat_map(|group| group.disks().map(|disk| (group.id, disk, group.epoch)))
            .filter(|&(_, disk, _)| map.is_in(disk) && self.view.is_readable(disk))
            .filter(|&(pg, disk, epoch)| self.opened.get(&(pg, disk)) != Some(&epoch))
            .take(OPENED_PER_TICK)
            .collect();
        let view = &self.view;
        let answers: Vec<_> = stream::iter(pending)
            .map(|(pg, disk, epoch)| async move {
                let answer = match view.node_of(disk) {
                    Some(node) => within(LIST_TIMEOUT, node.open_pg(disk, pg, epoch))
                        .await
                        .unwrap_or_else(|_| Err(BlobError::Unreachable("no answer".to_owned()))),
                    None => Err(BlobError::Unreachable("node is not known".to_owned())),
                };
                (pg, disk, epoch, answer)
            })
            .buffer_unordered(OPENING_AT_ONCE)
            .collect()
            .await;
        for (pg, disk, epoch, answer) in answers {
            match answer {
                Ok(()) => {
                    self.opened.insert((pg, disk), epoch);
                }
                // A newer epoch there: the map read next will have it. Others are tried again.
                Err(error) => tracing::debug!(%pg, %disk, %error, "group not opened"),
            }
        }
        Ok(())
    }

    /// Fills members that are not complete; true when there is more to do now.
    pub(super) async fn fill_members(&mut self) -> Result<bool, WorkerError> {
        let map = self.view.map();
        let mut incomplete: Vec<&Group> = map
            .groups()
            .filter(|group| group.members.iter().any(|member| !member.complete))
            .collect();
        incomplete.sort_by_key(|group| group.id);
        self.filling
            .retain(|pg, _| incomplete.iter().any(|group| group.id == *pg));
        let until = self.runtime.monotonic() + TICK_TIME;
        for group in incomplete {
            if !self.is_open_everywhere(group) {
                continue;
            }
            while !self.fill(group).await? {
                if self.runtime.monotonic() >= until {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// True when every member that can be reached has confirmed the epoch, the new ones included,
    /// and one of them is complete.
    fn is_open_everywhere(&self, group: &Group) -> bool {
        let serving = self.repair.serving(group);
        let confirmed = |disk: &DiskId| self.opened.get(&(group.id, *disk)) == Some(&group.epoch);
        let source = |member: &granary_datapath::GroupMember| {
            member.complete && serving.contains(&member.disk)
        };
        let new_one_serves = group
            .members
            .iter()
            .any(|member| !member.complete && serving.contains(&member.disk));
        serving.iter().all(confirmed) && group.members.iter().any(source) && new_one_serves
    }

    /// Fills a part of a group; true when this group has nothing more to do in this tick.
    async fn fill(&mut self, group: &Group) -> Result<bool, WorkerError> {
        let mut state = self.filling.get(&group.id).copied().unwrap_or_default();
        if state.epoch != group.epoch {
            state = Filling {
                epoch: group.epoch,
                ..Filling::default()
            };
        }
        let repaired = self
            .repair
            .repair(group, group.members.len(), state.after)
            .await?;
        state.failed += repaired.failed;
        state.after = repaired.next_after;
        if state.after.is_some() {
            self.filling.insert(group.id, state);
            return Ok(false);
        }
        self.filling.remove(&group.id);
        if state.failed > 0 {
            tracing::debug!(pg = %group.id, chunks = state.failed, "group not filled yet");
            return Ok(true);
        }
        self.complete(group).await?;
        Ok(true)
    }

    async fn complete(&self, group: &Group) -> Result<(), WorkerError> {
        let serving = self.repair.serving(group);
        for member in group.members.iter().filter(|member| !member.complete) {
            if !serving.contains(&member.disk) {
                continue;
            }
            let command = pb::CompletePgMember {
                pg: group.id.0,
                epoch: group.epoch,
                disk: member.disk.0,
            };
            match self.meta.propose(command).await? {
                Ok(_) => tracing::info!(pg = %group.id, disk = %member.disk, "disk is filled"),
                // Changed meanwhile: the next tick begins with the new epoch.
                Err(no) if no.reason() == Reason::Stale => {}
                Err(no) => return Err(WorkerError::refused("a filled member", no)),
            }
        }
        self.view.refresh_map().await?;
        Ok(())
    }
}
