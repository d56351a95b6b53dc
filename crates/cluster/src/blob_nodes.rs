//! The storage nodes of the cluster, by id: this process's own without a network between, the
//! others over their bulk lane with a deadline per call.

use std::sync::Arc;
use std::time::Duration;

use granary_blob_api::{BlobNode, GrpcBlobNode};
use granary_types::NodeId;

use crate::{Lane, Links};

/// Longest time for a call to another storage node, unless set otherwise.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// The storage nodes of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct BlobNodes {
    links: Arc<Links>,
    local: Option<Arc<dyn BlobNode>>,
    deadline: Duration,
}

impl std::fmt::Debug for BlobNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobNodes").finish_non_exhaustive()
    }
}

impl BlobNodes {
    /// The nodes that `links` reaches; `local` is this process's own, if it has the role.
    pub fn new(links: Arc<Links>, local: Option<Arc<dyn BlobNode>>) -> Self {
        Self {
            links,
            local,
            deadline: DEADLINE_DEFAULT,
        }
    }

    /// The same nodes with another deadline per call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A storage node; `None` when its address is unknown, or when it was removed. Whether it
    /// answers shows when it is used.
    pub fn blob_node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        if self.links.security().local_node() == Some(node)
            && let Some(local) = &self.local
        {
            return Some(Arc::clone(local));
        }
        let channel = self.links.channel(node, Lane::Bulk)?;
        Some(Arc::new(GrpcBlobNode::new(channel, self.deadline)))
    }
}
