//! GetAccessKey: an access key and its account.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView, text};
use crate::keyspace::access_key::AccessKeyKey;
use crate::keyspace::account::AccountKey;
use crate::rows::Rows;

impl Answer for pb::GetAccessKey {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let slab = shard.home;
        let Some(key) = shard.rows.get(&AccessKeyKey {
            slab,
            id: text(&self.id),
        })?
        else {
            return Ok(Reply::AccessKey(pb::AccessKeyResult::default()));
        };
        let account = shard.rows.get(&AccountKey {
            slab,
            account: key.account,
        })?;
        Ok(Reply::AccessKey(pb::AccessKeyResult {
            found: true,
            key: Some(key),
            account,
        }))
    }
}
