//! What is left of a cluster: the disks of the nodes that run, and those in this machine's data
//! directories; and what of the metadata's backup is on them.
//!
//! Invariant: what could not be asked, listed or read is told, one sentence each. It is tried again
//! before that.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use granary_blob_api::{BlobError, BlobNode, Block, ChunkEntry, ErrorKind, GetChunk, GrpcBlobNode};
use granary_cluster::{PeerNode, Security, connect_to_address, plain};
use granary_meta::{BackupError, BackupSource, Catalog, Seen};
use granary_runtime::{Runtime, within};
use granary_types::{BACKUP_BUCKET, ChunkId, DiskId, NodeId, PgId};
use tonic::Status;
use tonic::transport::Channel;

use super::Tell;
use crate::cluster::pb::admin_client::AdminClient;
use crate::cluster::pb::{DescribeNodeRequest, LearnPeersRequest, ListPeersRequest, StatusRequest};
use crate::cluster::status::{ClusterStatus, NodeReport, Peers};
use crate::roles::storage::Existing;

/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a status: the node that is asked waits for others.
const STATUS_LIMIT: Duration = Duration::from_secs(30);
/// How often a disk is asked before it counts as unreadable, and the pause between.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Nodes asked at once.
const NODES_AT_ONCE: usize = 64;
/// Nodes asked whether the cluster lives: any of them would know.
const WITNESSES: usize = 8;
/// Disks listed at once.
const DISKS_AT_ONCE: usize = 256;
/// Chunks that a disk looks at for one answer; few belong to the backup.
const PAGE: u32 = 50_000;
/// Messages at most.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A node that answers.
struct Remote {
    address: String,
    node: NodeId,
    admin: AdminClient<Channel>,
}

/// Where a copy of a chunk is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Which of the stores.
    store: usize,
    disk: DiskId,
    length: u32,
}

/// What a disk has of the backup.
struct Listed {
    groups: Vec<(PgId, u64)>,
    parts: Vec<ChunkEntry>,
}

/// What is left of a cluster.
pub(super) struct Sources {
    runtime: Runtime,
    remotes: Vec<Remote>,
    stores: Vec<Arc<dyn BlobNode>>,
    places: HashMap<ChunkId, Vec<Place>>,
    pub(super) catalog: Catalog,
    /// The newest epoch of each group that a disk knows.
    groups: BTreeMap<PgId, u64>,
    /// Disks in this machine's data directories.
    pub(super) local_disks: Vec<DiskId>,
    /// Disks that were listed to the end.
    pub(super) disks_read: BTreeSet<DiskId>,
    /// What could not be read and may be needed, in sentences.
    pub(super) problems: Vec<String>,
    /// The same of nodes that have disks and do not answer: those disks may be elsewhere by now.
    silent: Vec<(NodeId, String)>,
    /// Why nothing may be rebuilt, whatever is there: metadata that lives.
    pub(super) living: Option<String>,
    /// Nodes that the answering ones know of, each from the newest address book.
    known: BTreeMap<u64, (u64, PeerNode)>,
}

impl Sources {
    /// Connects to the nodes at `from` and to those that they know of. `own` is the address of the
    /// node that is made here: nobody answers there.
    pub(super) async fn connect(
        runtime: &Runtime,
        security: &Security,
        from: &[String],
        own: &str,
    ) -> anyhow::Result<Self> {
        let mut sources = Self {
            runtime: runtime.clone(),
            remotes: Vec::new(),
            stores: Vec::new(),
            places: HashMap::new(),
            catalog: Catalog::default(),
            groups: BTreeMap::new(),
            local_disks: Vec::new(),
            disks_read: BTreeSet::new(),
            problems: Vec::new(),
            silent: Vec::new(),
            living: None,
            known: BTreeMap::new(),
        };
        let mut asked: BTreeSet<String> = from.iter().cloned().collect();
        asked.insert(own.to_owned());
        let mut next: Vec<String> = from.iter().filter(|from| *from != own).cloned().collect();
        let mut silent = Vec::new();
        while !next.is_empty() {
            let meeting = next.drain(..).map(|address| async move {
                let met = meet(security, &address).await;
                (address, met)
            });
            let met: Vec<_> = stream::iter(meeting)
                .buffer_unordered(NODES_AT_ONCE)
                .collect()
                .await;
            for (address, met) in met {
                match met {
                    Ok((remote, channel, peers)) => {
                        next.extend(sources.add(remote, channel, peers, &mut asked));
                    }
                    Err(error) => silent.push((address, error)),
                }
            }
        }
        sources.judge_silent(silent);
        if sources.living.is_none() {
            sources.living = sources.ask_witnesses().await;
        }
        Ok(sources)
    }

    /// Takes in a node that answers; the addresses that it knows and nobody was asked at.
    fn add(
        &mut self,
        remote: Remote,
        channel: Channel,
        peers: Peers,
        asked: &mut BTreeSet<String>,
    ) -> Vec<String> {
        if self.remotes.iter().any(|known| known.node == remote.node) {
            return Vec::new();
        }
        let own = peers.nodes.iter().find(|peer| peer.node == remote.node.0);
        if own.is_some_and(|own| own.serves("meta")) {
            self.living = Some(format!(
                "node {} at {} runs and has metadata: bring a majority of the meta nodes back; if \
                 that can never be, stop this one for good, and run this again",
                remote.node, remote.address
            ));
        }
        if own.is_none_or(|own| own.serves("storage")) {
            let store = GrpcBlobNode::new(channel, ANSWER_LIMIT);
            self.stores.push(Arc::new(store));
        }
        self.remotes.push(remote);
        let mut new = Vec::new();
        for peer in peers.nodes {
            if !peer.removed && asked.insert(peer.address.clone()) {
                new.push(peer.address.clone());
            }
            let known = self.known.entry(peer.node);
            let (epoch, node) = known.or_insert_with(|| (peers.epoch, peer.clone()));
            if peers.epoch > *epoch {
                (*epoch, *node) = (peers.epoch, peer);
            }
        }
        new
    }

    /// Of the addresses where nobody answers those that may have disks are problems, unless it turns out
    /// that those disks were read elsewhere.
    fn judge_silent(&mut self, silent: Vec<(String, anyhow::Error)>) {
        for (address, error) in silent {
            let known = self.known.values().map(|(_, peer)| peer);
            let there: Vec<&PeerNode> = known.filter(|peer| peer.address == address).collect();
            let with_disks = there.iter().find(|peer| peer.serves("storage"));
            let why = match error.downcast_ref::<Status>() {
                Some(status) => plain(status),
                None => format!("{error:#}"),
            };
            match with_disks {
                Some(peer) => {
                    let said = format!(
                        "node {} at {address}, which has disks, does not answer: {why}",
                        peer.node
                    );
                    self.silent.push((peer.id(), said));
                }
                None if there.is_empty() => {
                    let said = format!("{address} does not answer: {why}");
                    self.problems.push(said);
                }
                None => {}
            }
        }
    }

    /// Asks nodes that answer whether anybody leads a shard.
    async fn ask_witnesses(&self) -> Option<String> {
        let asking = self.remotes.iter().take(WITNESSES).map(|remote| {
            let mut admin = remote.admin.clone();
            async move {
                let asked = within(STATUS_LIMIT, admin.status(StatusRequest {})).await;
                // Without metadata most cannot say anything.
                let status = asked.ok()?.ok()?.into_inner();
                let status: ClusterStatus = serde_json::from_str(&status.json).ok()?;
                let led = status.shards.iter().find_map(|shard| {
                    let leader = shard.leader?;
                    Some(format!("node {leader} leads shard {}", shard.id))
                })?;
                Some(format!(
                    "the metadata lives: {led}, as node {} at {} sees it",
                    remote.node, remote.address
                ))
            }
        });
        let asking = stream::iter(asking).buffer_unordered(WITNESSES);
        let answers: Vec<Option<String>> = asking.collect().await;
        answers.into_iter().flatten().next()
    }

    /// Adds the disks of this machine.
    pub(super) fn add_local(&mut self, existing: Existing) {
        self.problems.extend(existing.problems);
        if !existing.disks.is_empty() {
            self.stores.push(Arc::new(existing.store));
            self.local_disks = existing.disks;
        }
    }

    /// Of the nodes that do not answer those of which not every disk was read here, in sentences.
    /// `disks` is what the root knows to be in use; a node of which it knows nothing may have some.
    pub(super) fn unread_nodes(&self, disks: &[(DiskId, NodeId)]) -> Vec<String> {
        let was_read = |node: NodeId| {
            let mut own = disks.iter().filter(|(_, of)| *of == node).peekable();
            own.peek().is_some() && own.all(|(disk, _)| self.disks_read.contains(disk))
        };
        let unread = self.silent.iter().filter(|(node, _)| !was_read(*node));
        unread.map(|(_, said)| said.clone()).collect()
    }

    /// The nodes that answer.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.remotes.iter().map(|remote| remote.node).collect()
    }

    /// Numbers that are in use.
    pub(super) fn seen(&self) -> Seen {
        let known = self.known.keys().map(|node| NodeId(*node));
        Seen {
            groups: self
                .groups
                .iter()
                .map(|(pg, epoch)| (*pg, *epoch))
                .collect(),
            nodes: self.nodes().into_iter().chain(known).collect(),
            shards: self.catalog.shards(),
        }
    }

    /// Lists every disk.
    pub(super) async fn scan(&mut self, tell: Tell<'_>) {
        let runtime = self.runtime.clone();
        let stores = self.stores.clone();
        let asking = stores.iter().enumerate().map(|(n, store)| {
            let again = again(&runtime, move || store.disks());
            async move { (n, again.await) }
        });
        let asking = stream::iter(asking).buffer_unordered(NODES_AT_ONCE);
        let answers: Vec<_> = asking.collect().await;
        let mut disks = Vec::new();
        for (n, answer) in answers {
            match answer {
                Ok(found) => disks.extend(found.into_iter().map(|disk| (n, disk.id))),
                Err(error) => self.problems.push(format!("the disks of a node: {error}")),
            }
        }
        let count = disks.len();
        let listing = disks.into_iter().map(|(n, disk)| {
            let listing = list_disk(&runtime, stores[n].as_ref(), disk);
            async move { (n, disk, listing.await) }
        });
        let mut listing = stream::iter(listing).buffer_unordered(DISKS_AT_ONCE);
        let (mut done, mut parts) = (0, 0);
        tell(format!("{count} disks are read"));
        while let Some((n, disk, listed)) = listing.next().await {
            match listed {
                Ok(listed) => {
                    parts += listed.parts.len();
                    self.note(n, disk, listed);
                }
                Err(error) => self.problems.push(format!("disk {disk}: {error}")),
            }
            done += 1;
            tell(format!(
                "{done} of {count} disks are read; {parts} copies of parts of the backup"
            ));
        }
    }

    fn note(&mut self, store: usize, disk: DiskId, listed: Listed) {
        self.disks_read.insert(disk);
        for (pg, epoch) in listed.groups {
            let known = self.groups.entry(pg).or_default();
            *known = epoch.max(*known);
        }
        for entry in listed.parts {
            self.catalog.note(entry.owner.object, entry.id);
            let place = Place {
                store,
                disk,
                length: entry.length,
            };
            self.places.entry(entry.id).or_default().push(place);
        }
    }

    /// Tells the nodes that answer where the others are now; those that did not take it.
    pub(super) async fn tell(&mut self, peers: &Peers) -> anyhow::Result<Vec<String>> {
        let json = serde_json::to_string(peers)?;
        let mut silent = Vec::new();
        for remote in &mut self.remotes {
            let request = LearnPeersRequest { json: json.clone() };
            let told = within(ANSWER_LIMIT, remote.admin.learn_peers(request)).await;
            if !matches!(told, Ok(Ok(_))) {
                silent.push(remote.address.clone());
            }
        }
        Ok(silent)
    }

    /// One copy of a chunk.
    async fn read_copy(&self, chunk: ChunkId, place: &Place) -> Result<Bytes, BlobError> {
        let range = GetChunk {
            id: chunk,
            offset: 0,
            length: place.length,
            background: false,
        };
        let store = &self.stores[place.store];
        let read = again(&self.runtime, || store.get(place.disk, range)).await?;
        if !read.blocks.iter().all(Block::is_intact) {
            return Err(BlobError::Corrupt(chunk));
        }
        let length = usize::try_from(place.length).unwrap_or_default();
        let mut bytes = BytesMut::with_capacity(length);
        let blocks = read.blocks.iter();
        blocks.for_each(|block| bytes.extend_from_slice(&block.data));
        Ok(bytes.freeze())
    }
}

/// Who answers at an address, and whom it knows.
async fn meet(security: &Security, address: &str) -> anyhow::Result<(Remote, Channel, Peers)> {
    let channel = connect_to_address(security, address)?;
    let mut admin = AdminClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let described = admin.describe_node(DescribeNodeRequest {});
    let described = within(ANSWER_LIMIT, described).await??.into_inner();
    let described: NodeReport = serde_json::from_str(&described.json)?;
    let peers = within(ANSWER_LIMIT, admin.list_peers(ListPeersRequest {})).await??;
    let peers: Peers = serde_json::from_str(&peers.into_inner().json)?;
    let remote = Remote {
        address: address.to_owned(),
        node: NodeId(described.node),
        admin,
    };
    Ok((remote, channel, peers))
}

/// Calls until it succeeds, a few times.
async fn again<T, F>(runtime: &Runtime, call: impl Fn() -> F) -> Result<T, BlobError>
where
    F: Future<Output = Result<T, BlobError>>,
{
    let mut attempt = 1;
    loop {
        let outcome = match within(ANSWER_LIMIT, call()).await {
            Ok(outcome) => outcome,
            Err(late) => Err(BlobError::Unreachable(late.to_string())),
        };
        match outcome {
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => attempt += 1,
            outcome => return outcome,
        }
        runtime.sleep(PAUSE).await;
    }
}

/// Whether it may be better in a moment.
fn may_pass(error: &BlobError) -> bool {
    matches!(error.kind(), ErrorKind::Busy | ErrorKind::Unavailable)
}

/// What a disk has of the backup, and its groups.
async fn list_disk(
    runtime: &Runtime,
    node: &dyn BlobNode,
    disk: DiskId,
) -> Result<Listed, BlobError> {
    let groups = again(runtime, || node.groups(disk)).await?;
    let mut parts = Vec::new();
    for (pg, _) in &groups {
        let mut after = None;
        loop {
            let list = || node.list_owned(disk, *pg, after, PAGE, BACKUP_BUCKET);
            let page = again(runtime, list).await?;
            parts.extend(page.entries.into_iter().filter(|entry| !entry.deleted));
            after = page.next_after;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(Listed { groups, parts })
}

#[async_trait]
impl BackupSource for Sources {
    async fn read(&self, chunk: ChunkId) -> Result<Bytes, BackupError> {
        let mut last = "no disk has it".to_owned();
        for place in self.places.get(&chunk).into_iter().flatten() {
            match self.read_copy(chunk, place).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = format!("disk {}: {error}", place.disk),
            }
        }
        Err(BackupError::Pool(last))
    }
}

/// Opens the disks that are in this machine's data directories; none is made.
pub(super) async fn open_local(
    runtime: &Runtime,
    cluster_id: &str,
    directories: &[PathBuf],
    config: &crate::config::StorageSection,
    budget: granary_kv_rocks::RocksBudget,
) -> anyhow::Result<Existing> {
    let config = config.for_cluster(cluster_id);
    crate::roles::storage::open_existing(runtime, config, directories, budget).await
}
