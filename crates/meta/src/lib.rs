//! The metadata service of one node: key space, commands, queries and the shards themselves.
//!
//! What the node assembles (see [`MetaNode`]):
//!
//! ```text
//! let meta: Arc<MetaNode> = MetaNode::open(runtime, node_id, kv, transport, MetaConfig::default()).await?;
//! if !meta.has_shards() {
//!     meta.bootstrap(NewCluster { cluster_id, region, root_account, voters: vec![node_id] }).await?;
//! }
//! let client = Meta::new(runtime, meta.clone() as Arc<dyn MetaService>);
//! meta.metrics();              // MetaMetrics
//! meta.raft();                 // &Arc<RaftHost>, for the gRPC service of the peers
//! meta.stop().await?;
//! ```
//!
//! It must not know HTTP, chunks or RocksDB; it sits on the `granary-kv` trait.

mod apply;
mod backup;
mod database;
mod keyspace;
mod limits;
mod machine;
mod node;
mod ownership;
mod paths;
mod query;
mod rows;
mod shard_rows;
#[cfg(any(test, feature = "testsuite"))]
pub mod testsuite;

pub use apply::FEATURE_LEVEL;
pub use backup::{
    BackupError, BackupSink, BackupSource, Catalog, Renewal, RestoreError, RestoredShard, Seen,
    ShardSummary, Stored, Wholeness, buckets_in_use, plan_renewal, restore_shard, settle_overlap,
    verify_whole, without_backup,
};
pub use database::{database_stamp, stamp_database};
pub use node::{
    BackupOptions, BackupStatus, MetaConfig, MetaMetrics, MetaNode, MetaNodeError, NewCluster,
};
