//! InitCluster: the root's first rows. Repeating it changes nothing and answers who is there.
//!
//! Data shards get equal parts of the bucket id space, each in a data slab of its own. Bucket ids
//! are bit-reversed counters, so successive buckets land on different shards.

use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use super::{Apply, ApplyContext, NODES_TELL, Refusal, Tx};
use crate::keyspace::ROOT_HOME_SLAB;
use crate::keyspace::account::AccountKey;
use crate::keyspace::cluster_info::ClusterInfoKey;
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::shard_entry::ShardEntryKey;
use crate::limits::SHARDS_MAX;
use crate::rows::Rows;

impl Apply for pb::InitCluster {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        let slab = tx.home();
        let row = ClusterInfoKey { slab };
        if let Some(info) = tx.get(&row)? {
            return Ok(Reply::InitCluster(pb::InitClusterReply {
                cluster_id: info.cluster_id,
                created: false,
            }));
        }
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(Refusal::invalid(format!(
                "a cluster starts with 1 to {SHARDS_MAX} shards"
            )));
        }
        if self.cluster_id.is_empty() || self.voters.is_empty() {
            return Err(Refusal::invalid("no cluster id, or no voters"));
        }
        let (Some(account), Some(settings)) = (self.root_account, self.settings) else {
            return Err(Refusal::invalid("no root account, or no settings"));
        };
        tx.put(
            &AccountKey {
                slab,
                account: account.id,
            },
            &account,
        )?;
        let level = tx.clock.feature_level;
        let info = state::ClusterInfo {
            cluster_id: self.cluster_id.clone(),
            region: self.region,
            next_bucket: 1,
            next_shard: self.shards + 1,
            next_slab: ROOT_HOME_SLAB.0 + 1 + 2 * self.shards,
            next_pg: 1,
            map_epoch: 1,
            // The root's: who applies this again may be newer than who made the cluster.
            feature_level: level,
            next_lease_token: 1,
            next_pool: 1,
            settings: Some(settings),
            first_shards: self.shards,
            first_voters: self.voters.clone(),
            next_node: self.voters.iter().max().map_or(0, |node| node + 1),
            // A version that knows no other level does not keep it.
            first_feature_level: if level < NODES_TELL { 0 } else { level },
        };
        tx.put(&row, &info)?;
        for (shard, home_slab, range) in first_ranges(self.shards) {
            let hint = RangeHintKey {
                slab,
                bucket: granary_types::BucketId(range.start_bucket),
                key: range.start_key.clone(),
            };
            let value = state::RangeHint {
                shard,
                range: Some(range),
                voters: self.voters.clone(),
            };
            tx.put(&hint, &value)?;
            tx.put(
                &ShardEntryKey { slab, shard },
                &state::ShardEntry { home_slab },
            )?;
        }
        Ok(Reply::InitCluster(pb::InitClusterReply {
            cluster_id: self.cluster_id,
            created: true,
        }))
    }
}

/// Shard, home slab and range of every data shard that a new cluster of `shards` starts with.
pub(crate) fn first_ranges(shards: u32) -> impl Iterator<Item = (u32, u32, state::Range)> {
    let start = move |n: u32| {
        let start = (u128::from(n) << 64) / u128::from(shards.max(1));
        u64::try_from(start).unwrap_or(u64::MAX)
    };
    (0..shards).map(move |n| {
        let home_slab = ROOT_HOME_SLAB.0 + 1 + n;
        let last = n + 1 == shards;
        let range = state::Range {
            slab: home_slab + shards,
            start_bucket: start(n),
            start_key: bytes::Bytes::new(),
            bounded: !last,
            end_bucket: if last { 0 } else { start(n + 1) },
            end_key: bytes::Bytes::new(),
            epoch: 1,
        };
        (n + 1, home_slab, range)
    })
}
