//! GetJoinToken: a token that has not expired.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView, text};
use crate::keyspace::join_token::JoinTokenKey;
use crate::rows::Rows;

impl Answer for pb::GetJoinToken {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let token = shard.rows.get(&JoinTokenKey {
            slab: shard.home,
            id: text(&self.id),
        })?;
        let token = token.filter(|token| shard.now_ms < token.expires_ms);
        Ok(Reply::JoinToken(pb::JoinTokenResult {
            found: token.is_some(),
            token,
        }))
    }
}
