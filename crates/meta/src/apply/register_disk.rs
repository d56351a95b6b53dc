//! RegisterDisk: a disk of a known node, its size and whether it is in use.
//!
//! Invariants: a disk that was removed for good stays removed, whatever its node or the keeper of
//! placement says of it; only a command that names the taking back ends that. A disk that comes back
//! is complete in no group in which another one is that answers: it may have missed what was written
//! and deleted while it was out. A group that has a complete member keeps one.

use granary_meta_api::disk_state::{IN, OUT, READMITTED, REMOVED};
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, NODES_TELL, Refusal, SETTINGS, Tx, empty};
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::rows::Rows;

impl Apply for pb::RegisterDisk {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let disk = self.disk.filter(|disk| disk.id != 0);
        let mut disk = disk.ok_or_else(|| Refusal::invalid("no disk id"))?;
        let slab = tx.home();
        let row = DiskKey {
            slab,
            disk: disk.id,
        };
        let known = tx.get(&row)?;
        let before = known.as_ref().map(|known| known.state);
        let state = if tx.clock.feature_level < NODES_TELL {
            state_at_first(before, disk.state)
        } else {
            if self.state_only {
                // The rest may have changed since the sender has read it.
                let state = disk.state;
                disk = known
                    .clone()
                    .ok_or_else(|| Refusal::invalid("no such disk"))?;
                disk.state = state;
            }
            let strict = tx.clock.feature_level >= SETTINGS && !self.state_only;
            let asked = if strict {
                asked_by_itself(before, disk.state)
            } else {
                disk.state
            };
            state_after(before, asked, self.keep_state)
        };
        disk.state = state;
        if !tx.exists(&NodeKey {
            slab,
            node: disk.node,
        })? {
            return Err(Refusal::invalid("no such node"));
        }
        if known.as_ref() != Some(&disk) {
            tx.put(&row, &disk)?;
            raise_map_epoch(tx)?;
        }
        if (before, state) == (Some(OUT), IN) && tx.clock.feature_level >= NODES_TELL {
            for pg in self.groups {
                comes_back(tx, pg, disk.id)?;
            }
        }
        empty()
    }
}

/// Takes the word of a disk for nothing that comes back into one of its groups, if somebody else is
/// complete there. Whether that one answers, the sender knows.
fn comes_back(tx: &mut Tx<'_>, pg: u32, disk: u64) -> Result<(), Refusal> {
    let row = PlacementGroupKey {
        slab: tx.home(),
        pg,
    };
    let Some(mut group) = tx.get(&row)? else {
        return Ok(());
    };
    let (own, others): (Vec<_>, Vec<_>) = group
        .members
        .iter_mut()
        .partition(|member| member.disk == disk);
    let relied_on = others.iter().any(|member| member.complete);
    // One that is leaving counts for nothing already.
    let own = own.into_iter().find(|member| member.complete);
    let Some(own) = own.filter(|_| relied_on && group.leaving != disk) else {
        return Ok(());
    };
    own.complete = false;
    group.epoch += 1;
    tx.put(&row, &group)
}

/// What counts of a state that is not the keeper's word alone: a node of the first versions says of its
/// disks that they are in service, and one that is out comes back only when the keeper has it compared.
fn asked_by_itself(known: Option<u32>, asked: u32) -> u32 {
    match (known, asked) {
        (Some(OUT), IN) => OUT,
        (_, asked) => asked,
    }
}

/// The state a disk has when `asked` is said of one in state `known`, as new or (`keep`) only if it is
/// not known yet. One that is taken back is out until whoever keeps the groups says more.
fn state_after(known: Option<u32>, asked: u32, keep: bool) -> u32 {
    match (known, asked) {
        (Some(known), _) if keep => known,
        (Some(REMOVED | OUT), READMITTED) => OUT,
        (_, READMITTED) => IN,
        (Some(REMOVED), _) => REMOVED,
        (_, asked) => asked,
    }
}

/// The same at the first feature level.
fn state_at_first(known: Option<u32>, asked: u32) -> u32 {
    match (known, asked) {
        (_, READMITTED) => IN,
        (Some(REMOVED), _) => REMOVED,
        (_, asked) => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_is_for_good_until_it_is_taken_back() {
        for (known, asked, first, after, kept) in [
            (None, IN, IN, IN, IN),
            (None, OUT, OUT, OUT, OUT),
            (Some(IN), OUT, OUT, OUT, IN),
            (Some(IN), REMOVED, REMOVED, REMOVED, IN),
            (Some(OUT), IN, IN, IN, OUT),
            (Some(OUT), REMOVED, REMOVED, REMOVED, OUT),
            (Some(REMOVED), IN, REMOVED, REMOVED, REMOVED),
            (Some(REMOVED), OUT, REMOVED, REMOVED, REMOVED),
            (Some(REMOVED), REMOVED, REMOVED, REMOVED, REMOVED),
            (Some(REMOVED), READMITTED, IN, OUT, REMOVED),
            (Some(OUT), READMITTED, IN, OUT, OUT),
            (Some(IN), READMITTED, IN, IN, IN),
            (None, READMITTED, IN, IN, IN),
        ] {
            let found = (
                state_at_first(known, asked),
                state_after(known, asked, false),
                state_after(known, asked, true),
            );
            assert_eq!(found, (first, after, kept), "{known:?}, {asked}");
        }
    }

    #[test]
    fn no_disk_comes_back_by_its_own_word() {
        for (known, asked, expected) in [
            (Some(OUT), IN, OUT),
            (Some(OUT), READMITTED, READMITTED),
            (Some(IN), OUT, OUT),
            (None, IN, IN),
        ] {
            assert_eq!(
                asked_by_itself(known, asked),
                expected,
                "{known:?}, {asked}"
            );
        }
    }
}
