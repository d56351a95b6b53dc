//! RegisterDisk: a disk of a known node, its size and whether it is in use.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::rows::Rows;

impl Apply for pb::RegisterDisk {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let disk = self.disk.filter(|disk| disk.id != 0);
        let disk = disk.ok_or_else(|| Refusal::invalid("no disk id"))?;
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
        if tx.get(&row)?.as_ref() != Some(&disk) {
            tx.put(&row, &disk)?;
            raise_map_epoch(tx)?;
        }
        empty()
    }
}
