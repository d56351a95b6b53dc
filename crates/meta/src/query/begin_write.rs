//! BeginWrite: ids for writes that are about to begin. Nothing is stored: the id's birth makes the
//! write's deadline derivable, term and counter make it unique.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_types::{ObjectId, ShardId};

use super::{Answer, QueryError, ShardView};
use crate::limits::WRITE_IDS_MAX;

/// The upper half of the counters belongs to ids that apply allocates.
const COUNTER_MASK: u32 = 0x7fff_ffff;

/// Where a leader's ids come from. The counter is shared by all queries of this replica and never
/// goes back. Another leader has another term; another life of the same leader, which may go on in
/// its term, begins to count at a random number.
#[derive(Clone, Debug)]
pub(crate) struct IdSource {
    pub(crate) shard: ShardId,
    pub(crate) term: u64,
    pub(crate) counter: Arc<AtomicU32>,
}

impl IdSource {
    fn next(&self, birth_ms: u64) -> ObjectId {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) & COUNTER_MASK;
        ObjectId::compose(birth_ms, self.shard, self.term, counter)
    }
}

impl Answer for pb::BeginWrite {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        shard.place(self.at.as_ref())?;
        let count = self.count.clamp(1, WRITE_IDS_MAX);
        let ids = (0..count).map(|_| shard.ids.next(shard.now_ms));
        let ids = ids.map(|id| Bytes::copy_from_slice(&id.to_bytes()));
        Ok(Reply::WriteIds(pb::WriteIds {
            ids: ids.collect(),
            lease_ms: shard.clock.settings.map_or(0, |s| s.write_lease_ms),
        }))
    }
}
