//! RemoveNode: gives a node up for good. Its replicas and disks get replaced, and its certificate
//! counts no more.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::meta_node::NodeKey;
use crate::rows::Rows;

impl Apply for pb::RemoveNode {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let row = NodeKey {
            slab: tx.home(),
            node: self.node,
        };
        let node = tx.get(&row)?;
        let mut node = node.ok_or_else(|| Refusal::invalid("no such node"))?;
        if !node.removed {
            node.removed = true;
            tx.put(&row, &node)?;
            raise_map_epoch(tx)?;
        }
        empty()
    }
}
