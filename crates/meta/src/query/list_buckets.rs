//! ListBuckets: an account's buckets by name. One whose creation is under way is not shown.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state::bucket::State;
use granary_types::BucketId;

use super::{Answer, QueryError, ShardView, page_limit, text};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_by_owner::BucketByOwnerKey;
use crate::keyspace::{KeyField, Kind, RowKey, escape, kind_prefix};
use crate::limits::PAGE_ENTRIES_MAX;
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListBuckets {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let mut prefix = kind_prefix(shard.home, Kind::BucketByOwner);
        self.owner.write(&mut prefix);
        escape(self.prefix.as_bytes(), &mut prefix);
        let mut bounds = Bounds::prefix(prefix);
        if !self.marker.is_empty() {
            let marker = BucketByOwnerKey {
                slab: shard.home,
                owner: self.owner,
                name: text(&self.marker),
            };
            let mut after = marker.encode();
            after.push(0);
            bounds = bounds.from(after);
        }
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let mut page = pb::BucketsPage::default();
        for row in shard.rows.rows::<BucketByOwnerKey>(&bounds) {
            let (_, id) = row?;
            let bucket = BucketId(id);
            let bucket = shard.rows.get(&BucketByIdKey {
                slab: shard.home,
                bucket,
            })?;
            let Some(bucket) = bucket.filter(|bucket| bucket.state() != State::Creating) else {
                continue;
            };
            if page.buckets.len() >= limit {
                page.more = limit > 0;
                break;
            }
            page.next_marker.clone_from(&bucket.name);
            page.buckets.push(bucket);
        }
        Ok(Reply::Buckets(page))
    }
}
