//! GetTrust: who signs the nodes' certificates.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView};
use crate::keyspace::cluster_trust::ClusterTrustKey;
use crate::rows::Rows;

impl Answer for pb::GetTrust {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let row = ClusterTrustKey { slab: shard.home };
        Ok(Reply::Trust(shard.rows.get(&row)?.unwrap_or_default()))
    }
}
