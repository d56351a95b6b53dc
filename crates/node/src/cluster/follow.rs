//! Follows the cluster map: where the nodes are, who has which shard, and what the map says of this
//! node. It goes on for as long as the process runs; what it learnt last is good enough meanwhile.

use std::sync::Arc;
use std::time::Duration;

use granary_cluster::{AddressBook, MetaRouter, Security};
use granary_meta_api::{Meta, MetaError, pb};
use granary_runtime::Runtime;
use granary_types::NodeId;
use tokio::sync::watch;

use super::seeds::Seeds;
use crate::readiness::RootContact;

/// How old what is known of the nodes may be.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the root may take to answer before the addresses of the configuration are asked, and the
/// pause before they are asked again.
const SEEDS_AFTER: Duration = Duration::from_secs(2);
const SEEDS_PAUSE: Duration = Duration::from_secs(5);
/// How often a node that waits for the cluster says so.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A node that was given up must not come back: others have its place.
pub(super) fn given_up(node: NodeId) -> anyhow::Error {
    anyhow::anyhow!(
        "node {node} was given up and may not come back: empty its state directory and join as a new \
         node (granary admin join); its data directories can stay as they are"
    )
}

/// Whoever follows the map.
pub(super) struct Follower {
    pub(super) runtime: Runtime,
    pub(super) meta: Meta,
    pub(super) book: Arc<AddressBook>,
    pub(super) router: Arc<MetaRouter>,
    pub(super) seeds: Arc<Seeds>,
}

impl Follower {
    /// Waits until the root answers, however long that takes; the map.
    ///
    /// # Errors
    /// This node was given up, and no shard needs it: the root will never answer it, or says so.
    /// `is_member` is whether a shard still has it as a member, as far as its own replicas know.
    pub(super) async fn first_map(
        &self,
        own: NodeId,
        is_member: impl Fn() -> bool,
    ) -> anyhow::Result<pb::ClusterMap> {
        let map = tokio::select! {
            map = self.wait_for_map() => map,
            () = self.seeds.until_refused(own, !is_member()) => return Err(given_up(own)),
        };
        let record = map.nodes.iter().find(|node| node.id == own.0);
        if record.is_some_and(|node| node.removed) {
            if is_member() {
                self.seeds.until_refused(own, false).await;
            }
            return Err(given_up(own));
        }
        Ok(map)
    }

    async fn wait_for_map(&self) -> pb::ClusterMap {
        let mut complained = self.runtime.monotonic();
        loop {
            match self.read(0).await {
                Ok(map) if map.info.is_some() => {
                    self.learn(&map).await;
                    return map;
                }
                Ok(_) => {}
                Err(error) => {
                    let now = self.runtime.monotonic();
                    if now.saturating_sub(complained) >= COMPLAIN_EVERY {
                        complained = now;
                        self.complain_of_certificate();
                        tracing::warn!(%error, "the cluster's metadata does not answer yet: waiting for a quorum of the meta nodes");
                    }
                }
            }
            self.runtime.sleep(Duration::from_millis(200)).await;
        }
    }

    /// An expired certificate looks like a cluster that does not answer.
    fn complain_of_certificate(&self) {
        if let Security::Tls(trust) = self.seeds.links.security()
            && trust.not_after() <= self.runtime.now()
        {
            tracing::error!(
                expired_ms = trust.not_after().as_millis(),
                "this node's certificate has expired, and no other node talks to it: stop it, and have \
                 it signed anew (granary admin certify)"
            );
        }
    }

    /// Goes on following; the newest map is told to whoever listens, and every answer to `root`.
    pub(super) fn start(
        self,
        first: pb::ClusterMap,
        root: RootContact,
    ) -> watch::Receiver<Arc<pb::ClusterMap>> {
        let (mut known, mut silent) = (first.epoch, false);
        let (tell, listen) = watch::channel(Arc::new(first));
        let runtime = self.runtime.clone();
        runtime.clone().spawn(async move {
            loop {
                tokio::select! {
                    () = runtime.sleep(INTERVAL) => {}
                    () = runtime.shutdown().cancelled() => return,
                }
                // What somebody told meanwhile is compared with the whole map.
                let asked = if self.book.is_hearsay() { 0 } else { known };
                let answer = self.read(asked).await;
                if answer.is_ok() {
                    root.note_heard();
                }
                let silence = root.silence();
                match (silence, silent) {
                    (Some(silence), false) => tracing::warn!(
                        silent_secs = silence.as_secs(),
                        "the leader of shard 0 does not answer: a majority of the metadata nodes is needed"
                    ),
                    (None, true) => tracing::info!("the leader of shard 0 answers again"),
                    _ => {}
                }
                silent = silence.is_some();
                match answer {
                    Ok(map) if !map.unchanged => {
                        known = map.epoch;
                        self.learn(&map).await;
                        tell.send_replace(Arc::new(map));
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "cluster map not read"),
                }
            }
        });
        listen
    }

    /// Asks the root, and the addresses of the configuration while it does not answer.
    async fn read(&self, known_epoch: u64) -> Result<pb::ClusterMap, MetaError> {
        let asking_seeds = async {
            self.runtime.sleep(SEEDS_AFTER).await;
            loop {
                self.seeds.ask().await;
                self.runtime.sleep(SEEDS_PAUSE).await;
            }
        };
        tokio::select! {
            map = self.meta.query(pb::GetClusterMap { known_epoch }) => map,
            () = asking_seeds => Err(MetaError::Internal("asking has ended".to_owned())),
        }
    }

    async fn learn(&self, map: &pb::ClusterMap) {
        self.router.learn_map(map);
        if let Err(error) = self.book.learn(&self.runtime, map).await {
            tracing::warn!(%error, "the addresses of the nodes could not be kept");
        }
    }
}
