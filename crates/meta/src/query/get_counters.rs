//! GetCounters: what this shard counted for a bucket, per storage class. After a split a single
//! shard's numbers may be negative; the sum over the bucket's shards is right.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_types::BucketId;

use super::{Answer, QueryError, ShardView};
use crate::keyspace::counter::CounterKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::rows::{Bounds, Rows};

impl Answer for pb::GetCounters {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let mut prefix = kind_prefix(shard.home, Kind::Counter);
        BucketId(self.bucket_id).write(&mut prefix);
        let mut classes = Vec::new();
        for row in shard.rows.rows::<CounterKey>(&Bounds::prefix(prefix)) {
            let (row, counter) = row?;
            classes.push(pb::ClassCounter {
                storage_class: row.class,
                counter: Some(counter),
            });
        }
        Ok(Reply::Counters(pb::CountersResult { classes }))
    }
}
