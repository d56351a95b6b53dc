//! GetBucket and GetBucketById: a bucket and its configuration, whatever its state.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_types::BucketId;

use super::{Answer, QueryError, ShardView, text};
use crate::keyspace::bucket_by_id::BucketByIdKey;
use crate::keyspace::bucket_by_name::BucketByNameKey;
use crate::keyspace::bucket_config::BucketConfigKey;
use crate::rows::Rows;

/// Configurations that one answer has at most: a bound on its size.
const CONFIGS_MAX: usize = 16;

impl Answer for pb::GetBucket {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let name = text(&self.name);
        let row = BucketByNameKey {
            slab: shard.home,
            name,
        };
        let Some(id) = shard.rows.get(&row)? else {
            return Ok(Reply::Bucket(pb::BucketResult::default()));
        };
        let mut configs = Vec::new();
        for name in self.configs.into_iter().take(CONFIGS_MAX) {
            let row = shard.rows.get(&BucketConfigKey {
                slab: shard.home,
                bucket: BucketId(id),
                name: text(&name),
            })?;
            let config = row.map(|row| row.config);
            configs.extend(config.map(|config| pb::BucketConfig { name, config }));
        }
        let bucket = bucket(shard, BucketId(id))?;
        Ok(Reply::Bucket(pb::BucketResult { configs, ..bucket }))
    }
}

impl Answer for pb::GetBucketById {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        Ok(Reply::Bucket(bucket(shard, BucketId(self.id))?))
    }
}

fn bucket(shard: &ShardView<'_>, bucket: BucketId) -> Result<pb::BucketResult, QueryError> {
    let bucket = shard.rows.get(&BucketByIdKey {
        slab: shard.home,
        bucket,
    })?;
    Ok(pb::BucketResult {
        found: bucket.is_some(),
        bucket,
        configs: Vec::new(),
    })
}
