//! GetClusterMap: everything a gateway needs to route and to place, by epoch.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView};
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::disk::DiskKey;
use crate::keyspace::meta_node::NodeKey;
use crate::keyspace::placement_group::PlacementGroupKey;
use crate::keyspace::pool::PoolKey;
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::{RowKey, kind_prefix};
use crate::rows::{Bounds, Rows};

impl Answer for pb::GetClusterMap {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let row = ClusterInfoKey { slab: shard.home };
        let Some(info) = shard.rows.get(&row)? else {
            return Ok(Reply::ClusterMap(pb::ClusterMap::default()));
        };
        let mut map = pb::ClusterMap {
            epoch: info.map_epoch,
            ..Default::default()
        };
        if self.known_epoch == info.map_epoch {
            map.unchanged = true;
            return Ok(Reply::ClusterMap(map));
        }
        map.info = Some(info);
        map.nodes = all::<NodeKey>(shard)?;
        map.disks = all::<DiskKey>(shard)?;
        map.pools = all::<PoolKey>(shard)?;
        map.groups = all::<PlacementGroupKey>(shard)?;
        map.ranges = all::<RangeHintKey>(shard)?;
        Ok(Reply::ClusterMap(map))
    }
}

fn all<K: RowKey>(shard: &ShardView<'_>) -> Result<Vec<K::Value>, QueryError> {
    let bounds = Bounds::prefix(kind_prefix(shard.home, K::KIND));
    let values = shard
        .rows
        .rows::<K>(&bounds)
        .map(|row| row.map(|(_, value)| value));
    Ok(values.collect::<Result<_, _>>()?)
}
