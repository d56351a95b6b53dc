//! ActivateFeature: from here on apply behaves as a feature level says. Levels only rise.
//!
//! Invariant: the root comes first, and only when every metadata node that it knows was asked: who is
//! let in meanwhile is not among those that the sender names.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::rejection::Reason;
use granary_raft::StateMachineError;
use granary_types::ShardId;

use super::root_rows::is_meta;
use super::{Apply, ApplyContext, FEATURE_LEVEL, Refusal, Tx, empty};
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::rows::{Bounds, Rows};

impl Apply for pb::ActivateFeature {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        if self.level > FEATURE_LEVEL {
            // A newer version proposed it: this one must not guess what it means.
            return Err(Refusal::Failed(StateMachineError::UnknownCommand {
                reason: format!("feature level {}", self.level),
            }));
        }
        if self.level <= tx.clock.feature_level {
            return empty();
        }
        if tx.shard() == ShardId::ROOT {
            knows_no_other(tx, &self.nodes)?;
        }
        tx.clock.feature_level = self.level;
        let row = ClusterInfoKey { slab: tx.home() };
        if let Some(mut info) = tx.get(&row)? {
            info.feature_level = info.feature_level.max(self.level);
            // It is told with the cluster map.
            info.map_epoch += 1;
            tx.put(&row, &info)?;
        }
        empty()
    }
}

/// Refused when the root knows a metadata node in service besides these.
fn knows_no_other(tx: &Tx<'_>, nodes: &[u64]) -> Result<(), Refusal> {
    let bounds = Bounds::prefix(kind_prefix(tx.home(), Kind::Node));
    let known = tx.list::<NodeKey>(&bounds, usize::MAX)?;
    let mut in_service = known
        .iter()
        .filter(|(_, node)| !node.removed && is_meta(node));
    match in_service.find(|(_, node)| !nodes.contains(&node.id)) {
        Some((_, node)) => Err(Refusal::because(
            Reason::Stale,
            format!("nobody has asked node {} what it applies", node.id),
        )),
        None => Ok(()),
    }
}
