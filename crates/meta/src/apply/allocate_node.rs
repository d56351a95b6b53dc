//! AllocateNode: an unused node id for a node that joins. The same nonce gets the same one, and
//! leaves the node's record as it is by then.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::root_rows::{info, let_in, put_info};
use super::{Apply, ApplyContext, Refusal, Tx};
use crate::keyspace::Id;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::node_allocation::NodeAllocationKey;
use crate::rows::Rows;

/// The first node of a cluster is 1, which nobody allocates.
const FIRST_JOINED: u64 = 2;

impl Apply for pb::AllocateNode {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let nonce = Id::from_slice(&self.nonce);
        let nonce = nonce.ok_or_else(|| Refusal::invalid("a nonce has 16 bytes"))?;
        let mut node = self.node.ok_or_else(|| Refusal::invalid("no node"))?;
        let slab = tx.home();
        let row = NodeAllocationKey { slab, nonce };
        if let Some(known) = tx.get(&row)? {
            return Ok(allocated(known.node, false));
        }
        let_in(tx, &mut node)?;
        let mut info = info(tx)?;
        node.id = info.next_node.max(FIRST_JOINED);
        node.removed = false;
        info.next_node = node.id + 1;
        info.map_epoch += 1;
        put_info(tx, &info)?;
        tx.put(&row, &state::NodeAllocation { node: node.id })?;
        tx.put(
            &NodeKey {
                slab,
                node: node.id,
            },
            &node,
        )?;
        Ok(allocated(node.id, true))
    }
}

fn allocated(node: u64, created: bool) -> Reply {
    Reply::Allocated(pb::Allocated {
        id: node,
        slab: 0,
        created,
    })
}
