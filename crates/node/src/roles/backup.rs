//! The metadata's backup in the storage pool: parts are chunks like any others, owned by a bucket
//! that nobody has.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_blob_api::ChunkOwner;
use granary_datapath::DataPath;
use granary_meta::{BackupError, BackupOptions, BackupSink, MetaNode, Stored};
use granary_types::{BACKUP_BUCKET, ChunkId, ObjectId};
use granary_workers::ChunkDeleter;

/// Between two log parts: what is lost at most when all metadata is, but for the time of a write.
const INTERVAL: Duration = Duration::from_secs(1);

/// The storage pool.
struct Pool {
    path: DataPath,
    deleter: ChunkDeleter,
}

/// Backs up the shards that a node leads, until it stops.
pub(crate) fn start(node: &Arc<MetaNode>, cluster_id: &str, path: &DataPath) {
    let pool = Pool {
        deleter: ChunkDeleter::new(path.view().clone()),
        path: path.clone(),
    };
    node.start_backup(BackupOptions {
        sink: Arc::new(pool),
        cluster_id: cluster_id.to_owned(),
        interval: INTERVAL,
        log_bytes_min: None,
    });
}

#[async_trait]
impl BackupSink for Pool {
    async fn put(&self, object: ObjectId, part: Bytes) -> Result<Stored, BackupError> {
        let redundancy = self.path.safest();
        let owner = ChunkOwner {
            bucket: BACKUP_BUCKET,
            object,
        };
        let stored = self.path.store_part(redundancy, owner, part).await;
        let chunks = stored.map_err(|error| BackupError::Pool(error.to_string()))?;
        Ok(Stored { chunks })
    }

    async fn delete(&self, chunks: &[ChunkId]) -> Vec<ChunkId> {
        self.deleter.delete(chunks).await.into_iter().collect()
    }
}
