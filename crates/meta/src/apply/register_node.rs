//! RegisterNode: a node says who and where it is. One that was given up does not come back, and an
//! id that was registered is not given to another node.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::root_rows::{info, let_in, put_info};
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::meta_node::NodeKey;
use crate::rows::Rows;

impl Apply for pb::RegisterNode {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let node = self.node.filter(|node| node.id != 0);
        let mut node = node.ok_or_else(|| Refusal::invalid("no node id"))?;
        let row = NodeKey {
            slab: tx.home(),
            node: node.id,
        };
        let known = tx.get(&row)?;
        if known.as_ref().is_some_and(|known| known.removed) {
            return Err(Refusal::invalid("the node was removed for good"));
        }
        // Only RemoveNode says so.
        node.removed = false;
        let_in(tx, &mut node)?;
        if known.as_ref() != Some(&node) {
            tx.put(&row, &node)?;
            let mut info = info(tx)?;
            info.next_node = info.next_node.max(node.id.saturating_add(1));
            info.map_epoch += 1;
            put_info(tx, &info)?;
        }
        empty()
    }
}
