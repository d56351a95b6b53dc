//! ReplacePgMember: a placement group gets another disk, which is not complete yet, or one less.
//! Refused when the sender's view of the group is not the newest.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::pb::state;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::disk::DiskKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::rows::Rows;

impl Apply for pb::ReplacePgMember {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let slab = tx.home();
        let row = PlacementGroupKey { slab, pg: self.pg };
        let mut group = tx
            .get(&row)?
            .ok_or_else(|| Refusal::invalid("no such group"))?;
        if group.epoch != self.epoch {
            return Err(Reason::Stale.into());
        }
        if self.new_disk == 0 {
            drop_member(&mut group, self.old_disk)?;
            group.epoch += 1;
            tx.put(&row, &group)?;
            raise_map_epoch(tx)?;
            return empty();
        }
        if !tx.exists(&DiskKey {
            slab,
            disk: self.new_disk,
        })? {
            return Err(Refusal::invalid("no such disk"));
        }
        if group
            .members
            .iter()
            .any(|member| member.disk == self.new_disk)
        {
            return Err(Refusal::invalid("the disk is a member already"));
        }
        let new = state::PgMember {
            disk: self.new_disk,
            complete: false,
        };
        if self.old_disk == 0 {
            group.members.push(new);
        } else {
            let old = group
                .members
                .iter_mut()
                .find(|member| member.disk == self.old_disk);
            *old.ok_or_else(|| Refusal::invalid("the disk to replace is not a member"))? = new;
        }
        group.epoch += 1;
        tx.put(&row, &group)?;
        raise_map_epoch(tx)?;
        empty()
    }
}

/// Takes a member out of a group. Those that stay must hold everything.
fn drop_member(group: &mut state::PlacementGroup, disk: u64) -> Result<(), Refusal> {
    let before = group.members.len();
    group.members.retain(|member| member.disk != disk);
    if group.members.len() == before {
        return Err(Refusal::invalid("the disk to drop is not a member"));
    }
    if group.members.is_empty() || !group.members.iter().all(|member| member.complete) {
        return Err(Refusal::invalid("the other members are not complete"));
    }
    Ok(())
}
