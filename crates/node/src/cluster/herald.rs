//! After a rebuild: tells every node where the new meta node is, until all of them have heard it.
//! They ask the meta nodes they know of, and those are gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{Lane, Links};
use granary_meta_api::pb as meta;
use granary_runtime::{Runtime, within};
use granary_types::NodeId;
use tokio::sync::watch;

use super::pb::LearnPeersRequest;
use super::pb::admin_client::AdminClient;
use super::status::Peers;

/// Between two attempts.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Tells the others.
pub(super) struct Herald {
    pub(super) runtime: Runtime,
    pub(super) links: Arc<Links>,
    pub(super) map: watch::Receiver<Arc<meta::ClusterMap>>,
    /// Removed when everybody has heard.
    pub(super) marker: PathBuf,
}

impl Herald {
    /// Runs until every node in service has heard, if there is anything to tell.
    pub(super) fn start(self) {
        if !self.marker.exists() {
            return;
        }
        let runtime = self.runtime.clone();
        runtime.clone().spawn(async move {
            let mut told = BTreeSet::new();
            while !self.tell(&mut told).await {
                tokio::select! {
                    () = runtime.sleep(INTERVAL) => {}
                    () = runtime.shutdown().cancelled() => return,
                }
            }
            let marker = self.marker.clone();
            let removed = runtime.blocking(move || std::fs::remove_file(marker)).await;
            if !matches!(removed, Ok(Ok(()))) {
                tracing::warn!("what says that this node was rebuilt could not be removed");
            }
        });
    }

    /// True when everybody has heard.
    async fn tell(&self, told: &mut BTreeSet<NodeId>) -> bool {
        let map = self.map.borrow().clone();
        let Ok(json) = serde_json::to_string(&Peers::of(&map)) else {
            return true;
        };
        let own = self.links.security().local_node();
        let mut all = true;
        for node in map.nodes.iter().filter(|node| !node.removed) {
            let id = NodeId(node.id);
            if Some(id) == own || told.contains(&id) {
                continue;
            }
            let Some(channel) = self.links.channel(id, Lane::Meta) else {
                continue;
            };
            let request = LearnPeersRequest { json: json.clone() };
            let mut client = AdminClient::new(channel);
            match within(ANSWER_LIMIT, client.learn_peers(request)).await {
                Ok(Ok(_)) => {
                    told.insert(id);
                }
                _ => all = false,
            }
        }
        all
    }
}
