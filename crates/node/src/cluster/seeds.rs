//! The way back for a node that finds nobody where its address book has them: it asks the addresses
//! of its configuration who is there and where the others are.
//!
//! Whoever answers is a node of this cluster, which the connection proves; which one it is counts only
//! for where it is looked for, and every connection to it is checked again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use granary_cluster::{Lane, Links, connect_to_address, is_heard};
use granary_runtime::{Runtime, within};
use granary_types::NodeId;

use super::pb::admin_client::AdminClient;
use super::pb::{DescribeNodeRequest, ListPeersRequest};
use super::status::{NodeReport, Peers};

/// Longest time for one address.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The role of nodes with replicas.
const META_ROLE: &str = "meta";
/// How often a node that was given up says whom it waits for.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Between two rounds of asking whether this node was given up.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);
/// Addresses of a configuration that are asked; more is a mistake.
const SEEDS_MAX: usize = 64;
/// Bytes of an answer at most: it lists all nodes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Asks the addresses of the configuration.
pub(super) struct Seeds {
    pub(super) runtime: Runtime,
    pub(super) links: Arc<Links>,
}

impl Seeds {
    /// Asks all of them at once.
    pub(super) async fn ask(&self) {
        let seeds = self.links.book().seeds().iter().take(SEEDS_MAX);
        join_all(seeds.map(|seed| self.ask_one(seed))).await;
    }

    /// Ends when a node of this cluster says that this one was given up, and no shard can still need it
    /// for the majority that lets it go: then every other node that may have a replica has said the
    /// same. One that does not answer is waited for, because the answer ends a replica for good; a node
    /// `without_replicas` waits for nobody.
    ///
    /// Asked are the metadata nodes of the address book, and while it has none, the addresses of the
    /// configuration.
    pub(super) async fn until_refused(&self, own: NodeId, without_replicas: bool) {
        let mut complained = None;
        loop {
            self.runtime.sleep(REFUSED_PAUSE).await;
            let (links, book) = (&self.links, self.links.book());
            let mut keepers = book.with_role(META_ROLE);
            keepers.retain(|node| *node != own);
            let mut channels: Vec<_> = keepers
                .iter()
                .map(|node| links.channel(*node, Lane::Meta))
                .collect();
            if keepers.is_empty() {
                let seeds = book.seeds().iter().take(SEEDS_MAX);
                let others = seeds.filter(|seed| book.address(own).as_ref() != Some(seed));
                channels.extend(others.map(|seed| connect_to_address(links.security(), seed).ok()));
            }
            let asked = channels.into_iter().map(|channel| async move {
                let asked = within(ANSWER_LIMIT, is_heard(channel?, own));
                asked.await.ok().flatten()
            });
            let heard: Vec<Option<bool>> = stream::iter(asked).buffered(SEEDS_MAX).collect().await;
            if !heard.contains(&Some(false)) || heard.contains(&Some(true)) {
                continue;
            }
            let silent: Vec<u64> = keepers
                .iter()
                .zip(&heard)
                .filter(|(_, heard)| heard.is_none())
                .map(|(node, _)| node.0)
                .collect();
            if without_replicas || (silent.is_empty() && !keepers.is_empty()) {
                return;
            }
            let now = self.runtime.monotonic();
            if complained.is_none_or(|at| now.saturating_sub(at) >= COMPLAIN_EVERY) {
                complained = Some(now);
                tracing::warn!(
                    ?silent,
                    "this node was given up; it stays while these metadata nodes have not said that no \
                     shard needs it"
                );
            }
        }
    }

    async fn ask_one(&self, seed: &str) {
        match within(ANSWER_LIMIT, self.learn_from(seed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(
                    seed,
                    error = format!("{error:#}"),
                    "nobody answers for the cluster"
                );
            }
            Err(_) => tracing::debug!(seed, "no answer in time"),
        }
    }

    async fn learn_from(&self, seed: &str) -> anyhow::Result<()> {
        let book = self.links.book();
        let channel = connect_to_address(self.links.security(), seed)?;
        let mut client = AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let report = client.describe_node(DescribeNodeRequest {}).await?;
        let report: NodeReport = serde_json::from_str(&report.into_inner().json)?;
        let peers = client.list_peers(ListPeersRequest {}).await?;
        let peers: Peers = serde_json::from_str(&peers.into_inner().json)?;
        if book.learn_told(&self.runtime, &peers.into_map()).await? {
            tracing::info!(
                seed,
                "learnt from an address of the configuration where the nodes are"
            );
        }
        let own = self.links.security().local_node();
        let node = NodeId(report.node);
        if Some(node) != own && book.meet(node, seed) {
            tracing::warn!(
                node = node.0,
                address = seed,
                "found a node at an address of the configuration, where nobody told of it"
            );
        }
        Ok(())
    }
}
