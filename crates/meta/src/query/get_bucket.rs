//! GetBucket and GetBucketById: a bucket and its configuration, whatever its state.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_types::BucketId;

use super::{Answer, QueryError, ShardView, text};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_by_name::BucketByNameKey;
use crate::rows::Rows;

impl Answer for pb::GetBucket {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let name = text(&self.name);
        let row = BucketByNameKey {
            slab: shard.home,
            name,
        };
        match shard.rows.get(&row)? {
            Some(id) => pb::GetBucketById { id }.answer(shard),
            None => Ok(Reply::Bucket(pb::BucketResult::default())),
        }
    }
}

impl Answer for pb::GetBucketById {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let bucket = BucketId(self.id);
        let bucket = shard.rows.get(&BucketByIdKey {
            slab: shard.home,
            bucket,
        })?;
        Ok(Reply::Bucket(pb::BucketResult {
            found: bucket.is_some(),
            bucket,
        }))
    }
}
