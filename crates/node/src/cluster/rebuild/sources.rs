//! What is left of a cluster: the disks of the nodes that run, and those in this machine's data
//! directories; and what of the metadata's backup is on them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use granary_blob_api::{BlobError, BlobNode, Block, ChunkEntry, GetChunk, GrpcBlobNode};
use granary_cluster::{PeerNode, Security, connect_to_address};
use granary_meta::{BackupError, BackupSource, Catalog};
use granary_runtime::{Runtime, within};
use granary_types::{BACKUP_BUCKET, ChunkId, DiskId, NodeId, PgId};
use tonic::transport::Channel;

use crate::cluster::pb::admin_client::AdminClient;
use crate::cluster::pb::{DescribeNodeRequest, LearnPeersRequest, ListPeersRequest};
use crate::cluster::status::{NodeReport, Peers};

/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Chunks listed at once.
const PAGE: u32 = 1000;
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

/// What is left of a cluster.
pub(super) struct Sources {
    remotes: Vec<Remote>,
    stores: Vec<Arc<dyn BlobNode>>,
    places: HashMap<ChunkId, Vec<Place>>,
    pub(super) catalog: Catalog,
    /// The newest epoch of each group that a disk knows.
    pub(super) groups: BTreeMap<PgId, u64>,
    /// Disks in this machine's data directories.
    pub(super) local_disks: Vec<DiskId>,
    pub(super) disks_read: usize,
    /// What could not be read, in sentences.
    pub(super) problems: Vec<String>,
    /// Nodes that the answering ones know of.
    pub(super) known: BTreeMap<u64, PeerNode>,
}

impl Sources {
    /// Connects to the nodes at `from` and to those that they know of. One that does not answer is
    /// a problem, and no error.
    pub(super) async fn connect(security: &Security, from: &[String]) -> anyhow::Result<Self> {
        let mut sources = Self {
            remotes: Vec::new(),
            stores: Vec::new(),
            places: HashMap::new(),
            catalog: Catalog::default(),
            groups: BTreeMap::new(),
            local_disks: Vec::new(),
            disks_read: 0,
            problems: Vec::new(),
            known: BTreeMap::new(),
        };
        let mut asked: BTreeSet<String> = from.iter().cloned().collect();
        let mut queue: VecDeque<String> = from.iter().cloned().collect();
        while let Some(address) = queue.pop_front() {
            match sources.meet(security, &address).await {
                Ok(peers) => {
                    for peer in peers.nodes {
                        if !peer.removed && asked.insert(peer.address.clone()) {
                            queue.push_back(peer.address.clone());
                        }
                        sources.known.insert(peer.node, peer);
                    }
                }
                Err(error) => sources
                    .problems
                    .push(format!("{address} does not answer: {error:#}")),
            }
        }
        Ok(sources)
    }

    async fn meet(&mut self, security: &Security, address: &str) -> anyhow::Result<Peers> {
        let channel = connect_to_address(security, address)?;
        let mut admin =
            AdminClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let described = admin.describe_node(DescribeNodeRequest {});
        let described = within(ANSWER_LIMIT, described).await??.into_inner();
        let described: NodeReport = serde_json::from_str(&described.json)?;
        let node = NodeId(described.node);
        if self.remotes.iter().any(|known| known.node == node) {
            return Ok(Peers::default());
        }
        let peers = within(ANSWER_LIMIT, admin.list_peers(ListPeersRequest {})).await??;
        let peers: Peers = serde_json::from_str(&peers.into_inner().json)?;
        let own = peers.nodes.iter().find(|peer| peer.node == node.0);
        if own.is_none_or(|own| own.serves("storage")) {
            self.stores
                .push(Arc::new(GrpcBlobNode::new(channel, ANSWER_LIMIT)));
        }
        self.remotes.push(Remote {
            address: address.to_owned(),
            node,
            admin,
        });
        Ok(peers)
    }

    /// Adds the disks of this machine.
    pub(super) fn add_local(&mut self, store: Arc<dyn BlobNode>, disks: Vec<DiskId>) {
        self.stores.push(store);
        self.local_disks = disks;
    }

    /// The nodes that answer.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.remotes.iter().map(|remote| remote.node).collect()
    }

    /// Lists every disk.
    pub(super) async fn scan(&mut self) {
        for index in 0..self.stores.len() {
            let store = Arc::clone(&self.stores[index]);
            let disks = match within(ANSWER_LIMIT, store.disks()).await {
                Ok(Ok(disks)) => disks,
                Ok(Err(error)) => {
                    self.problems.push(format!("the disks of a node: {error}"));
                    continue;
                }
                Err(late) => {
                    self.problems.push(format!("the disks of a node: {late}"));
                    continue;
                }
            };
            for disk in disks {
                match self.scan_disk(index, store.as_ref(), disk.id).await {
                    Ok(()) => self.disks_read += 1,
                    Err(error) => self.problems.push(format!("disk {}: {error}", disk.id)),
                }
            }
        }
    }

    async fn scan_disk(
        &mut self,
        store: usize,
        node: &dyn BlobNode,
        disk: DiskId,
    ) -> Result<(), BlobError> {
        for (pg, epoch) in node.groups(disk).await? {
            let known = self.groups.entry(pg).or_default();
            *known = epoch.max(*known);
            let mut after = None;
            loop {
                let page = node.list(disk, pg, after, PAGE).await?;
                for entry in &page.entries {
                    self.note(store, disk, entry);
                }
                after = page.next_after;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, store: usize, disk: DiskId, entry: &ChunkEntry) {
        if entry.owner.bucket != BACKUP_BUCKET || entry.deleted {
            return;
        }
        self.catalog.note(entry.owner.object, entry.id);
        let place = Place {
            store,
            disk,
            length: entry.length,
        };
        self.places.entry(entry.id).or_default().push(place);
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
}

#[async_trait]
impl BackupSource for Sources {
    async fn read(&self, chunk: ChunkId) -> Result<Bytes, BackupError> {
        let mut last = "no disk has it".to_owned();
        for place in self.places.get(&chunk).into_iter().flatten() {
            let range = GetChunk {
                id: chunk,
                offset: 0,
                length: place.length,
            };
            let store = &self.stores[place.store];
            match within(ANSWER_LIMIT, store.get(place.disk, range)).await {
                Ok(Ok(read)) if read.blocks.iter().all(Block::is_intact) => {
                    let length = usize::try_from(place.length).unwrap_or_default();
                    let mut bytes = BytesMut::with_capacity(length);
                    read.blocks
                        .iter()
                        .for_each(|block| bytes.extend_from_slice(&block.data));
                    return Ok(bytes.freeze());
                }
                Ok(Ok(_)) => last = format!("disk {}: damaged on its way", place.disk),
                Ok(Err(error)) => last = format!("disk {}: {error}", place.disk),
                Err(late) => last = format!("disk {}: {late}", place.disk),
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
) -> anyhow::Result<Option<(granary_blob::BlobStore, Vec<DiskId>)>> {
    let config = config.for_cluster(cluster_id);
    let opened = crate::roles::storage::open_existing(runtime, config, directories, budget).await;
    opened.context("the disks in this machine's data directories cannot be opened")
}
