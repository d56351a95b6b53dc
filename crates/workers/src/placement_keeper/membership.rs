//! Disks that go and come, and who takes their places.

use std::time::Duration;

use granary_blob_api::DiskHealth;
use granary_datapath::Group;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_placement::replacement_for;
use granary_types::DiskId;

use super::PlacementKeeper;
use super::layout::{rule_of, topology_of};
use crate::WorkerError;

/// `state` of a disk record.
const DISK_IN: u32 = 0;
const DISK_OUT: u32 = 1;
/// Members replaced per tick: repair is spread over time as well as over disks.
const REPLACED_PER_TICK: usize = 64;

impl PlacementKeeper {
    /// Takes out disks that failed or have been unreachable for long, and takes back disks that
    /// were out and are healthy again: their groups are compared before anything relies on them.
    pub(super) async fn update_disk_states(&mut self) -> Result<bool, WorkerError> {
        let map = self.view.map();
        let mut changed = false;
        for disk in map.disks() {
            let id = DiskId(disk.id);
            let health = self.view.status(id).map(|status| status.health);
            let state = match health {
                // Given up for good, whatever its node may still say.
                _ if map.is_removed(id) => DISK_OUT,
                Some(DiskHealth::Failed) => DISK_OUT,
                Some(DiskHealth::Healthy | DiskHealth::Full) => DISK_IN,
                None if self.is_given_up(id) => DISK_OUT,
                None => disk.state,
            };
            if health.is_some() {
                self.away.remove(&id);
            }
            if state == disk.state {
                continue;
            }
            let mut record = disk.clone();
            record.state = state;
            let command = pb::RegisterDisk { disk: Some(record) };
            let answer = self.meta.propose(command).await?;
            answer.map_err(|no| WorkerError::refused("a disk's state", no))?;
            if state == DISK_OUT {
                tracing::warn!(disk = %id, "disk is taken out of service");
            } else {
                tracing::info!(disk = %id, "disk is back in service");
            }
            changed = true;
        }
        if changed {
            self.view.refresh_map().await?;
        }
        Ok(changed)
    }

    /// True when a disk has been away for so long that others get its chunks.
    fn is_given_up(&mut self, disk: DiskId) -> bool {
        let (now, missing) = (self.runtime.monotonic(), self.view.is_missing(disk));
        let away = self.away.entry(disk).or_insert((now, missing));
        if away.1 != missing {
            *away = (now, missing);
        }
        let patience = if missing {
            self.config.missing_out_ms
        } else {
            self.config.unreachable_out_ms
        };
        now.saturating_sub(away.0) >= Duration::from_millis(patience)
    }

    /// Gives the places of disks that are out to others, where there is one to give them to.
    pub(super) async fn replace_lost_members(&mut self) -> Result<bool, WorkerError> {
        let (map, topology) = (self.view.map(), self.topology());
        let mut replaced = 0;
        let mut lost: Vec<&Group> = map
            .groups()
            .filter(|group| group.disks().any(|disk| !map.is_in(disk)))
            .collect();
        lost.sort_by_key(|group| group.id);
        for pool in map.pools() {
            let part = topology_of(pool, &topology);
            let rule = rule_of(pool, &part);
            let mut loads = map.open_groups(pool.id);
            for group in lost.iter().filter(|group| group.pool == pool.id) {
                if replaced >= REPLACED_PER_TICK {
                    return Ok(true);
                }
                let (out, survivors): (Vec<_>, Vec<_>) =
                    group.disks().partition(|&disk| !map.is_in(disk));
                let (Some(&old), false) = (out.first(), survivors.is_empty()) else {
                    continue;
                };
                let seed = u64::from(group.id.0);
                let Some(new) = replacement_for(&part, rule, &loads, &survivors, seed) else {
                    continue;
                };
                loads.push(vec![new]);
                replaced += usize::from(self.replace(group, old, new).await?);
            }
        }
        Ok(replaced > 0)
    }

    /// Gives the place of a disk to another one; `DiskId(0)`: adds the one, or drops the other. True
    /// when it was done, false when somebody else changed the group meanwhile.
    pub(super) async fn replace(
        &self,
        group: &Group,
        old: DiskId,
        new: DiskId,
    ) -> Result<bool, WorkerError> {
        let command = pb::ReplacePgMember {
            pg: group.id.0,
            epoch: group.epoch,
            old_disk: old.0,
            new_disk: new.0,
        };
        match self.meta.propose(command).await? {
            Ok(_) => {
                tracing::info!(pg = %group.id, %old, %new, "placement group changes its disks");
                Ok(true)
            }
            // Somebody changed it meanwhile: the next tick sees how.
            Err(no) if no.reason() == Reason::Stale => Ok(false),
            Err(no) => Err(WorkerError::refused("another member", no)),
        }
    }
}
