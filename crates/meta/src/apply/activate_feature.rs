//! ActivateFeature: from here on apply behaves as a feature level says. Levels only rise.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_raft::StateMachineError;

use super::{Apply, ApplyContext, FEATURE_LEVEL, Refusal, Tx, empty};
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::rows::Rows;

impl Apply for pb::ActivateFeature {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        if self.level > FEATURE_LEVEL {
            // A newer version proposed it: this one must not guess what it means.
            return Err(Refusal::Failed(StateMachineError::UnknownCommand {
                reason: format!("feature level {}", self.level),
            }));
        }
        tx.clock.feature_level = tx.clock.feature_level.max(self.level);
        let row = ClusterInfoKey { slab: tx.home() };
        if let Some(mut info) = tx.get(&row)? {
            info.feature_level = info.feature_level.max(self.level);
            tx.put(&row, &info)?;
        }
        empty()
    }
}
