//! One storage node's disk engine: chunks in append-only volumes, an index that can be rebuilt.
//!
//! Being wired; the constructors are settled:
//!
//! ```text
//! BlobStore::open(runtime: Runtime, config: BlobConfig, vfs: Arc<dyn Vfs>, disks: Vec<DiskConfig>)
//!     -> Result<BlobStore, OpenError>                            async; BlobStore: Clone + BlobNode
//! store.add_disk(DiskConfig) -> Result<DiskId, OpenError>        async; also for a disk that comes later
//! store.remove_disk(DiskId) -> bool                              async; closes it, its data stays
//! store.compact_once(DiskId) -> Result<Compaction, BlobError>    async; one volume, without throttle
//! store.metrics() -> Vec<(DiskId, DiskMetrics)>
//! store.shutdown()                                               async; checkpoint, then stop
//! read_identity(&dyn Vfs, &Path) -> Result<Option<DiskIdentity>, OpenError>
//! granary_blob_api::{GrpcBlobNode::new(Channel, Duration), BlobService::server(Arc<dyn BlobNode>)}
//! granary_blob_api::testsuite (feature "testsuite"): {run, over_pipe, FaultyBlobNode, Faults}
//! ```

mod config;

pub use config::{BlobConfig, DiskConfig};
