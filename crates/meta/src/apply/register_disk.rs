//! RegisterDisk: a disk of a known node, its size and whether it is in use.
//!
//! Invariant: a disk that was removed for good stays removed, whatever its node or the keeper of
//! placement says of it; only a command that names the taking back ends that.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::rows::Rows;

/// `state` of a disk that is in use.
const IN: u32 = 0;
/// Given up for good by an operator.
const REMOVED: u32 = 2;
/// Never stored: an operator takes the disk back.
const READMITTED: u32 = 3;

impl Apply for pb::RegisterDisk {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let disk = self.disk.filter(|disk| disk.id != 0);
        let mut disk = disk.ok_or_else(|| Refusal::invalid("no disk id"))?;
        let slab = tx.home();
        if !tx.exists(&NodeKey {
            slab,
            node: disk.node,
        })? {
            return Err(Refusal::invalid("no such node"));
        }
        let row = DiskKey {
            slab,
            disk: disk.id,
        };
        let known = tx.get(&row)?;
        disk.state = state_after(known.as_ref().map(|known| known.state), disk.state);
        if known.as_ref() != Some(&disk) {
            tx.put(&row, &disk)?;
            raise_map_epoch(tx)?;
        }
        empty()
    }
}

/// The state a disk has when `asked` is said of one in state `known`.
fn state_after(known: Option<u32>, asked: u32) -> u32 {
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
        for (known, asked, after) in [
            (None, 0, 0),
            (None, 1, 1),
            (Some(0), 1, 1),
            (Some(1), 0, 0),
            (Some(0), REMOVED, REMOVED),
            (Some(1), REMOVED, REMOVED),
            (Some(REMOVED), 0, REMOVED),
            (Some(REMOVED), 1, REMOVED),
            (Some(REMOVED), REMOVED, REMOVED),
            (Some(REMOVED), READMITTED, IN),
            (Some(1), READMITTED, IN),
            (None, READMITTED, IN),
        ] {
            assert_eq!(state_after(known, asked), after, "{known:?}, {asked}");
        }
    }
}
