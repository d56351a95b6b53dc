//! DescribeShard: what the shard owns and where its time is.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView};

impl Answer for pb::DescribeShard {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        Ok(Reply::Shard(pb::ShardDescription {
            descriptor: Some(shard.descriptor.clone()),
            clock: Some(shard.clock.clone()),
            // Not in the store: whoever serves the question knows.
            members: None,
        }))
    }
}
