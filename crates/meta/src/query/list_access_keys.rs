//! ListAccessKeys: every access key with its account, by id. The sealed secrets are left out.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView, page_limit, text};
use crate::keyspace::access_key::AccessKeyKey;
use crate::keyspace::account::AccountKey;
use crate::keyspace::{Kind, RowKey as _, kind_prefix};
use crate::limits::PAGE_ENTRIES_MAX;
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListAccessKeys {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let slab = shard.home;
        let mut bounds = Bounds::prefix(kind_prefix(slab, Kind::AccessKey));
        if !self.after.is_empty() {
            let id = text(&self.after);
            let mut after = AccessKeyKey { slab, id }.encode();
            after.push(0);
            bounds = bounds.from(after);
        }
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let mut rows = shard.rows.list::<AccessKeyKey>(&bounds, limit + 1)?;
        let more = limit > 0 && rows.len() > limit;
        rows.truncate(limit);
        let mut keys = Vec::with_capacity(rows.len());
        for (_, mut key) in rows {
            key.sealed_secret.clear();
            let account = shard.rows.get(&AccountKey {
                slab,
                account: key.account,
            })?;
            keys.push(pb::AccessKeyResult {
                found: true,
                key: Some(key),
                account,
            });
        }
        Ok(Reply::AccessKeys(pb::AccessKeysPage { keys, more }))
    }
}
