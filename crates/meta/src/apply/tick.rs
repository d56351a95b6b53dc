//! Tick: lets an idle shard's time go on, and takes away what it has expired.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;

use super::{Apply, ApplyContext, Refusal, Tx, empty, expiry};
use crate::limits::{EXPIRED_PER_TICK, IDLE_MINUTES_PER_TICK};

impl Apply for pb::Tick {
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
        expiry::run(tx, at.time_ms, EXPIRED_PER_TICK, IDLE_MINUTES_PER_TICK)?;
        empty()
    }
}
