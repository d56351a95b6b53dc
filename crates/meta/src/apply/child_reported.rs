//! ChildReported: the root knows of a shard that was split off.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::{Apply, ApplyContext, Refusal, Tx, empty};

impl Apply for pb::ChildReported {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let children = &mut tx.descriptor.unreported_children;
        children.retain(|child| child.shard != self.shard);
        empty()
    }
}
