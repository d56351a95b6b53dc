//! ListUnfinishedBuckets: buckets whose creation or deletion someone has to finish.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView, page_limit};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_unfinished::BucketUnfinishedKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::limits::PAGE_ENTRIES_MAX;
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListUnfinishedBuckets {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let bounds = Bounds::prefix(kind_prefix(shard.home, Kind::BucketUnfinished));
        let mut rows = shard.rows.list::<BucketUnfinishedKey>(&bounds, limit + 1)?;
        let more = limit > 0 && rows.len() > limit;
        rows.truncate(limit);
        let mut buckets = Vec::with_capacity(rows.len());
        for (row, ()) in rows {
            let slab = shard.home;
            buckets.extend(shard.rows.get(&BucketByIdKey {
                slab,
                bucket: row.bucket,
            })?);
        }
        Ok(Reply::Buckets(pb::BucketsPage {
            buckets,
            more,
            next_marker: String::new(),
        }))
    }
}
