//! RegisterNode: a node says who and where it is.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::meta_node::NodeKey;
use crate::rows::Rows;

impl Apply for pb::RegisterNode {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let node = self.node.filter(|node| node.id != 0);
        let node = node.ok_or_else(|| Refusal::invalid("no node id"))?;
        let row = NodeKey {
            slab: tx.home(),
            node: node.id,
        };
        if tx.get(&row)?.as_ref() != Some(&node) {
            tx.put(&row, &node)?;
            raise_map_epoch(tx)?;
        }
        empty()
    }
}
