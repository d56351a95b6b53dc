//! DescribeShard: what the shard owns and where its time is.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;

use super::{Answer, QueryError, ShardView};

impl Answer for pb::DescribeShard {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        Ok(Reply::Shard(pb::ShardDescription {
            descriptor: Some(state::ShardDescriptor::clone(&shard.descriptor)),
            clock: Some(state::ShardClock::clone(&shard.clock)),
            // Not in the store: whoever serves the question knows.
            members: None,
            backed_up: false,
        }))
    }
}
