//! ReplacePgMember: a placement group gets another disk, which is not complete yet, or one less.
//! Refused when the sender's view of the group is not the newest.
//!
//! Invariant: a member whose place nobody takes goes in two steps with an epoch in between at which
//! it is `leaving`. Nothing that is acknowledged at that epoch counts its copy, so a comparison of
//! all members that began after they had made that epoch durable says for good what the others
//! lack. Only the comparison's sender can know its result; that the step in between exists is
//! decided here.

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
            leave_or_drop(&mut group, self.old_disk)?;
        } else if self.new_disk == self.old_disk {
            stay(&mut group, self.old_disk)?;
        } else {
            let disk = DiskKey {
                slab,
                disk: self.new_disk,
            };
            if !tx.exists(&disk)? {
                return Err(Refusal::invalid("no such disk"));
            }
            give_place(&mut group, self.old_disk, self.new_disk)?;
        }
        group.epoch += 1;
        tx.put(&row, &group)?;
        raise_map_epoch(tx)?;
        empty()
    }
}

fn is_member(group: &state::PlacementGroup, disk: u64) -> bool {
    group.members.iter().any(|member| member.disk == disk)
}

/// Gives the place of `old` (0: a new one) to a disk that is no member.
fn give_place(group: &mut state::PlacementGroup, old: u64, new: u64) -> Result<(), Refusal> {
    if is_member(group, new) {
        return Err(Refusal::invalid("the disk is a member already"));
    }
    let member = state::PgMember {
        disk: new,
        complete: false,
    };
    if old == 0 {
        group.members.push(member);
        return Ok(());
    }
    let place = group.members.iter_mut().find(|member| member.disk == old);
    *place.ok_or_else(|| Refusal::invalid("the disk to replace is not a member"))? = member;
    if group.leaving == old {
        group.leaving = 0;
    }
    Ok(())
}

/// The first step of taking a member out, or the second one. Those that stay must be complete.
fn leave_or_drop(group: &mut state::PlacementGroup, disk: u64) -> Result<(), Refusal> {
    if !is_member(group, disk) {
        return Err(Refusal::invalid("the disk to drop is not a member"));
    }
    if group.leaving != 0 && group.leaving != disk {
        return Err(Refusal::invalid("another member is leaving"));
    }
    let mut others = group.members.iter().filter(|member| member.disk != disk);
    if group.members.len() < 2 || !others.all(|member| member.complete) {
        return Err(Refusal::invalid("the other members are not complete"));
    }
    if group.leaving == disk {
        group.members.retain(|member| member.disk != disk);
        group.leaving = 0;
    } else {
        group.leaving = disk;
    }
    Ok(())
}

/// A member that was leaving stays. What it missed meanwhile is like what a member that was away
/// has missed: the comparison of the members finds it.
fn stay(group: &mut state::PlacementGroup, disk: u64) -> Result<(), Refusal> {
    if disk == 0 || group.leaving != disk {
        return Err(Refusal::invalid("the disk is not leaving"));
    }
    group.leaving = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &[(u64, bool)], leaving: u64) -> state::PlacementGroup {
        let members = members.iter();
        state::PlacementGroup {
            members: members
                .map(|&(disk, complete)| state::PgMember { disk, complete })
                .collect(),
            leaving,
            ..Default::default()
        }
    }

    #[test]
    fn a_member_goes_in_two_steps_and_only_one_at_a_time() {
        let mut group = group(&[(1, true), (2, true), (3, true), (4, true)], 0);
        leave_or_drop(&mut group, 2).unwrap();
        assert_eq!((group.members.len(), group.leaving), (4, 2));
        assert!(leave_or_drop(&mut group, 3).is_err(), "two at once");
        assert!(stay(&mut group, 3).is_err());
        stay(&mut group, 2).unwrap();
        assert_eq!((group.members.len(), group.leaving), (4, 0));
        leave_or_drop(&mut group, 3).unwrap();
        leave_or_drop(&mut group, 3).unwrap();
        let disks: Vec<u64> = group.members.iter().map(|member| member.disk).collect();
        assert_eq!((disks, group.leaving), (vec![1, 2, 4], 0));
    }

    #[test]
    fn nobody_goes_while_the_others_may_not_hold_everything() {
        for (members, leaving, disk) in [
            (&[(1, true)][..], 0, 1),
            (&[(1, true), (2, false)], 0, 1),
            (&[(1, true), (2, false)], 1, 1),
            (&[(1, true), (2, true)], 0, 3),
            (&[(1, true), (2, true)], 0, 0),
        ] {
            let mut group = group(members, leaving);
            let before = group.clone();
            assert!(leave_or_drop(&mut group, disk).is_err(), "{before:?}");
            assert_eq!(group, before);
        }
        // One that is not filled yet may go: it has nothing that the others lack.
        let mut group = group(&[(1, true), (2, false)], 0);
        leave_or_drop(&mut group, 2).unwrap();
    }

    #[test]
    fn a_place_that_is_given_away_leaves_no_mark() {
        let mut group = group(&[(1, true), (2, true)], 2);
        assert!(give_place(&mut group, 2, 1).is_err(), "a member already");
        assert!(give_place(&mut group, 5, 3).is_err(), "no member");
        give_place(&mut group, 2, 3).unwrap();
        assert_eq!(group.leaving, 0);
        give_place(&mut group, 0, 4).unwrap();
        let members: Vec<_> = group.members.iter().map(|m| (m.disk, m.complete)).collect();
        assert_eq!(members, [(1, true), (3, false), (4, false)]);
    }
}
