//! A cluster in memory: nodes whose disks can fail, hang, lie and lose, and just enough metadata.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_blob_api::{
    BlobError, BlobNode, Block, ChunkEntry, ChunkOwner, ChunkPage, ChunkRead, CopyChunk,
    DiskHealth, DiskStatus, GetChunk, PutChunk, VerifyPage,
};
use granary_meta_api::pb::command::Command;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::extent_piece::Piece;
use granary_meta_api::pb::query::Query;
use granary_meta_api::pb::query_reply::Reply as Answer;
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Meta, MetaError, MetaService, pb};
use granary_runtime::{Clock, Runtime, SeededEntropy, SimulatedClock};
use granary_types::limits::BLOCK_BYTES;
use granary_types::{ChunkId, DiskId, NodeId, ObjectId, PgId, Redundancy, ShardId};
use parking_lot::Mutex;

use crate::digest::CutChunk;
use crate::{ClusterView, DataPath, DataPathConfig, NodeDirectory};

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Out after this many more puts.
    FailsAfterPuts(usize),
    Failed,
    /// Answers nothing.
    Hangs,
    /// Answers gets after a second.
    Slow,
    Full,
    /// Answers gets after two and a half seconds.
    Crawls,
    /// Its queue is full: refuses puts after a few seconds.
    Busy,
    /// The same for gets.
    BusyReads,
}

/// How long a disk with a full queue takes to say so.
const BUSY_AFTER: Duration = Duration::from_millis(1500);

#[derive(Default)]
pub(super) struct FakeDisk {
    pub(super) chunks: BTreeMap<ChunkId, (ChunkOwner, Vec<Block>)>,
    pub(super) fault: Fault,
    pub(super) epochs: HashMap<PgId, u64>,
    /// Puts that were asked of it, whatever became of them.
    pub(super) asked: usize,
}

/// All disks of the cluster; every disk is its own node.
#[derive(Default)]
pub(super) struct FakeNodes {
    pub(super) disks: Mutex<HashMap<DiskId, FakeDisk>>,
    pub(super) gets: AtomicUsize,
    pub(super) puts: AtomicUsize,
    /// Gets and puts that wait for clients.
    pub(super) background: AtomicUsize,
}

impl FakeNodes {
    fn note(&self, background: bool) {
        self.background
            .fetch_add(usize::from(background), Ordering::Relaxed);
    }
}

struct FakeNode {
    nodes: Arc<FakeNodes>,
    disk: DiskId,
}

pub(super) struct Directory(pub(super) Arc<FakeNodes>);

impl NodeDirectory for Directory {
    fn node(&self, node: NodeId) -> Option<Arc<dyn BlobNode>> {
        let disk = DiskId(node.0);
        let known = self.0.disks.lock().contains_key(&disk);
        known.then(|| {
            Arc::new(FakeNode {
                nodes: Arc::clone(&self.0),
                disk,
            }) as Arc<dyn BlobNode>
        })
    }
}

impl FakeNode {
    async fn fault(&self) -> Result<(), BlobError> {
        let fault = self.nodes.disks.lock()[&self.disk].fault;
        match fault {
            Fault::Failed => Err(BlobError::DiskFailed(self.disk)),
            Fault::Hangs => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut FakeDisk) -> T) -> T {
        let mut disks = self.nodes.disks.lock();
        act(disks.get_mut(&self.disk).unwrap())
    }
}

#[async_trait]
impl BlobNode for FakeNode {
    async fn put(&self, disk: DiskId, chunk: PutChunk) -> Result<(), BlobError> {
        assert_eq!(disk, self.disk);
        self.with(|disk| disk.asked += 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.fault().await?;
        if self.with(|disk| disk.fault == Fault::Busy) {
            tokio::time::sleep(BUSY_AFTER).await;
            return Err(BlobError::Busy(disk));
        }
        self.nodes.puts.fetch_add(1, Ordering::Relaxed);
        self.nodes.note(chunk.background);
        assert!(chunk.blocks.iter().all(Block::is_intact));
        self.with(|disk| {
            if let Fault::FailsAfterPuts(left) = &mut disk.fault {
                if *left == 0 {
                    disk.fault = Fault::Failed;
                    return Err(BlobError::DiskFailed(self.disk));
                }
                *left -= 1;
            }
            if disk.fault == Fault::Full {
                return Err(BlobError::DiskFull(self.disk));
            }
            let pg = chunk.id.pg();
            let current = disk.epochs.get(&pg).copied().unwrap_or(1);
            if chunk.pg_epoch < current {
                return Err(BlobError::StaleEpoch { pg, current });
            }
            disk.chunks.insert(chunk.id, (chunk.owner, chunk.blocks));
            Ok(())
        })
    }

    async fn get(&self, _: DiskId, range: GetChunk) -> Result<ChunkRead, BlobError> {
        self.nodes.note(range.background);
        self.fault().await?;
        match self.with(|disk| disk.fault) {
            Fault::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
            Fault::Crawls => tokio::time::sleep(Duration::from_millis(2500)).await,
            Fault::BusyReads => {
                tokio::time::sleep(BUSY_AFTER).await;
                return Err(BlobError::Busy(self.disk));
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.nodes.gets.fetch_add(1, Ordering::Relaxed);
        self.with(|disk| {
            let (_, blocks) = disk
                .chunks
                .get(&range.id)
                .ok_or(BlobError::ChunkNotFound(range.id))?;
            let first = range.offset as usize / BLOCK_BYTES;
            let end = (range.offset + range.length) as usize;
            let blocks = &blocks[first..end.div_ceil(BLOCK_BYTES)];
            Ok(ChunkRead {
                offset: (first * BLOCK_BYTES) as u32,
                blocks: blocks.to_vec(),
            })
        })
    }

    async fn copy(&self, _: DiskId, copy: CopyChunk) -> Result<(), BlobError> {
        self.fault().await?;
        self.with(|disk| {
            let (_, blocks) = disk
                .chunks
                .get(&copy.source)
                .cloned()
                .ok_or(BlobError::ChunkNotFound(copy.source))?;
            disk.chunks.insert(copy.target, (copy.owner, blocks));
            Ok(())
        })
    }

    async fn delete(
        &self,
        _: DiskId,
        _: PgId,
        _: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.with(|disk| disk.chunks.retain(|id, _| !chunks.contains(id)));
        Ok(())
    }

    async fn forget(&self, _: DiskId, _: PgId, _: u64, _: Vec<ChunkId>) -> Result<(), BlobError> {
        Ok(())
    }

    async fn evict(
        &self,
        disk: DiskId,
        pg: PgId,
        epoch: u64,
        chunks: Vec<ChunkId>,
    ) -> Result<(), BlobError> {
        self.delete(disk, pg, epoch, chunks).await
    }

    async fn groups(&self, _: DiskId) -> Result<Vec<(PgId, u64)>, BlobError> {
        let epochs: BTreeMap<PgId, u64> = self.with(|disk| {
            disk.epochs
                .iter()
                .map(|(&pg, &epoch)| (pg, epoch))
                .collect()
        });
        Ok(epochs.into_iter().collect())
    }

    async fn list(
        &self,
        _: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        limit: u32,
    ) -> Result<ChunkPage, BlobError> {
        let entries: Vec<_> = self.with(|disk| {
            let chunks = disk.chunks.iter();
            chunks
                .filter(|(id, _)| id.pg() == pg && after.is_none_or(|after| **id > after))
                .take(limit as usize)
                .map(|(&id, (owner, blocks))| {
                    let cut = CutChunk::from_blocks(blocks.clone());
                    ChunkEntry {
                        id,
                        owner: *owner,
                        length: cut.length,
                        digest: cut.digest,
                        deleted: false,
                        damaged: false,
                    }
                })
                .collect()
        });
        let full = entries.len() == limit as usize;
        Ok(ChunkPage {
            next_after: entries.last().filter(|_| full).map(|entry| entry.id),
            entries,
        })
    }

    async fn verify(
        &self,
        _: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
        _: u64,
    ) -> Result<VerifyPage, BlobError> {
        self.fault().await?;
        Ok(self.with(|disk| {
            let mut page = VerifyPage::default();
            let chunks = disk.chunks.iter();
            for (&id, (_, blocks)) in
                chunks.filter(|(id, _)| id.pg() == pg && after.is_none_or(|after| **id > after))
            {
                page.checked_chunks += 1;
                page.checked_bytes += blocks.iter().map(|b| b.data.len() as u64).sum::<u64>();
                if !blocks.iter().all(Block::is_intact) {
                    page.damaged.push(id);
                }
            }
            page
        }))
    }

    async fn open_pg(&self, _: DiskId, pg: PgId, epoch: u64) -> Result<(), BlobError> {
        self.with(|disk| disk.epochs.insert(pg, epoch));
        Ok(())
    }

    async fn disks(&self) -> Result<Vec<DiskStatus>, BlobError> {
        self.fault_of_status()
    }
}

impl FakeNode {
    fn fault_of_status(&self) -> Result<Vec<DiskStatus>, BlobError> {
        let health = self.with(|disk| match disk.fault {
            Fault::Failed => DiskHealth::Failed,
            Fault::Full => DiskHealth::Full,
            _ => DiskHealth::Healthy,
        });
        Ok(vec![DiskStatus {
            id: self.disk,
            health,
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            live_bytes: 0,
            reclaimable_bytes: 0,
            chunks: 0,
        }])
    }
}

/// The metadata service: write ids with leases, staged extents, pins, the map.
pub(super) struct FakeMeta {
    clock: Arc<SimulatedClock>,
    pub(super) lease_ms: u64,
    pub(super) map: Mutex<pb::ClusterMap>,
    /// The root gives no answer.
    pub(super) root_is_away: AtomicBool,
    state: Mutex<MetaState>,
}

#[derive(Default)]
struct MetaState {
    writes: u32,
    deadlines: HashMap<Bytes, u64>,
    staged: HashMap<Bytes, Vec<pb::state::Extent>>,
    appended: HashMap<Bytes, Vec<Piece>>,
    pins: HashMap<Bytes, u64>,
    renewals: usize,
}

impl FakeMeta {
    pub(super) fn renewals(&self) -> usize {
        self.state.lock().renewals
    }

    pub(super) fn pinned_until(&self, object: &Bytes) -> u64 {
        self.state.lock().pins.get(object).copied().unwrap_or(0)
    }

    /// Commits a payload: the version a GET would find, and the chunks it has.
    pub(super) fn commit(&self, payload: &pb::Payload) -> pb::state::Version {
        use pb::state::body::Place;
        let mut state = self.state.lock();
        let place = if payload.write_id.is_empty() {
            Place::Inline(pb::state::InlineBody {
                length: payload.inline.len() as u32,
            })
        } else if payload.staged_extents == 0 {
            Place::Extents(pb::state::ExtentBody {
                extents: payload.extents.clone(),
            })
        } else {
            let all = state.staged.entry(payload.write_id.clone()).or_default();
            assert_eq!(all.len() as u64, payload.staged_extents);
            all.extend(payload.extents.iter().cloned());
            Place::Pages(pb::state::PagedBody::default())
        };
        pb::state::Version {
            object_id: payload.write_id.clone(),
            size: payload.size,
            body: Some(pb::state::Body { place: Some(place) }),
            ..Default::default()
        }
    }

    fn now(&self) -> u64 {
        self.clock.now().as_millis()
    }
}

#[async_trait]
impl MetaService for FakeMeta {
    async fn propose(
        &self,
        _: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let mut state = self.state.lock();
        let reply = match command.command.unwrap() {
            Command::StageExtents(stage) => {
                let deadline = state.deadlines.get_mut(&stage.write_id).unwrap();
                if *deadline < self.now() {
                    return Ok(pb::CommandReply {
                        rejection: Some(pb::Rejection::of(Reason::WriteExpired)),
                        reply: None,
                    });
                }
                *deadline = self.now() + self.lease_ms;
                let deadline_ms = *deadline;
                state.renewals += 1;
                let staged = state.staged.entry(stage.write_id).or_default();
                assert_eq!(staged.len() as u64, stage.first);
                staged.extend(stage.extents);
                Reply::Stage(pb::StageReply { deadline_ms })
            }
            Command::PinRead(pin) => {
                state.pins.insert(pin.object_id, pin.until_ms);
                Reply::Empty(pb::Empty {})
            }
            other => panic!("unexpected command {other:?}"),
        };
        Ok(pb::CommandReply {
            rejection: None,
            reply: Some(reply),
        })
    }

    async fn query(&self, _: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let answer = match query.query.unwrap() {
            Query::BeginWrite(_) => {
                let now = self.now();
                let mut state = self.state.lock();
                state.writes += 1;
                let id = ObjectId::compose(now, ShardId(1), 1, state.writes);
                let id = Bytes::copy_from_slice(&id.to_bytes());
                state.deadlines.insert(id.clone(), now + self.lease_ms);
                Answer::WriteIds(pb::WriteIds {
                    ids: vec![id],
                    lease_ms: self.lease_ms,
                })
            }
            Query::GetClusterMap(_) if self.root_is_away.load(Ordering::Relaxed) => {
                return Err(MetaError::Unavailable("no quorum".to_owned()));
            }
            Query::GetClusterMap(_) => Answer::ClusterMap(self.map.lock().clone()),
            Query::ListExtents(list) => Answer::Extents(self.list_extents(&list)),
            other => panic!("unexpected query {other:?}"),
        };
        Ok(pb::QueryReply {
            reply: Some(answer),
        })
    }
}

impl FakeMeta {
    /// Where the bytes of an appendable object are from now on.
    pub(super) fn set_appended(&self, object: &Bytes, pieces: Vec<Piece>) {
        self.state.lock().appended.insert(object.clone(), pieces);
    }

    fn list_extents(&self, list: &pb::ListExtents) -> pb::ExtentsResult {
        let state = self.state.lock();
        let pieces = match state.appended.get(&list.object_id) {
            Some(pieces) => pieces.clone(),
            None => {
                let staged = state.staged[&list.object_id].iter();
                staged.cloned().map(Piece::Extent).collect()
            }
        };
        let mut result = pb::ExtentsResult::default();
        let mut start = 0;
        for piece in pieces {
            let end = start
                + match &piece {
                    Piece::Extent(extent) => u64::from(extent.length),
                    Piece::Inline(bytes) => bytes.len() as u64,
                };
            if end > list.offset {
                // Small pages, so that paging is seen.
                if result.pieces.len() == 7 {
                    result.more = true;
                    break;
                }
                if result.pieces.is_empty() {
                    result.first_offset = start;
                }
                result.pieces.push(pb::ExtentPiece { piece: Some(piece) });
            }
            start = end;
        }
        result
    }
}

/// A data path over fakes.
pub(super) struct Cluster {
    pub(super) runtime: Runtime,
    pub(super) meta: Arc<FakeMeta>,
    pub(super) nodes: Arc<FakeNodes>,
    pub(super) path: DataPath,
}

/// How a cluster is built.
pub(super) struct Shape {
    pub(super) disks: u64,
    pub(super) copies: u32,
    /// Groups over the same disks.
    pub(super) groups_per_set: u32,
    pub(super) lease_ms: u64,
    pub(super) grace_ms: u64,
    pub(super) config: DataPathConfig,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            disks: 4,
            copies: 3,
            groups_per_set: 1,
            lease_ms: 3_600_000,
            grace_ms: 900_000,
            config: DataPathConfig::default(),
        }
    }
}

impl Cluster {
    /// Groups over every set of `copies` disks. Call it under paused time.
    pub(super) async fn start(shape: Shape) -> Self {
        let clock = Arc::new(SimulatedClock::starting_at(1_700_000_000_000));
        let seed = 0x5eed;
        let runtime = Runtime::simulated(clock.clone(), Arc::new(SeededEntropy::new(seed)));
        let nodes = Arc::new(FakeNodes::default());
        for disk in 1..=shape.disks {
            nodes.disks.lock().insert(DiskId(disk), FakeDisk::default());
        }
        let meta = Arc::new(FakeMeta {
            clock,
            lease_ms: shape.lease_ms,
            map: Mutex::new(cluster_map(&shape)),
            root_is_away: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let client = Meta::new(runtime.clone(), meta.clone());
        let directory = Arc::new(Directory(Arc::clone(&nodes)));
        let view = ClusterView::new(runtime.clone(), client.clone(), directory);
        view.refresh().await.unwrap();
        let path = DataPath::new(runtime.clone(), client, view, shape.config);
        Self {
            runtime,
            meta,
            nodes,
            path,
        }
    }

    pub(super) fn set_fault(&self, disk: u64, fault: Fault) {
        self.nodes
            .disks
            .lock()
            .get_mut(&DiskId(disk))
            .unwrap()
            .fault = fault;
    }

    /// Puts that were asked of a disk.
    pub(super) fn asked(&self, disk: u64) -> usize {
        self.nodes.disks.lock()[&DiskId(disk)].asked
    }

    /// Disks that hold a chunk.
    pub(super) fn holders(&self, chunk: ChunkId) -> HashSet<DiskId> {
        let disks = self.nodes.disks.lock();
        let holds = disks
            .iter()
            .filter(|(_, disk)| disk.chunks.contains_key(&chunk));
        holds.map(|(&id, _)| id).collect()
    }
}

fn cluster_map(shape: &Shape) -> pb::ClusterMap {
    let disks = 1..=shape.disks;
    let mut groups = Vec::new();
    let sets = (1u64..1 << shape.disks).filter(|set| set.count_ones() == shape.copies);
    for (set, turn) in sets.flat_map(|set| (0..shape.groups_per_set).map(move |turn| (set, turn))) {
        let members = disks.clone().filter(|disk| set >> (disk - 1) & 1 == 1);
        groups.push(pb::state::PlacementGroup {
            id: set as u32 + (turn << shape.disks),
            pool: 1,
            epoch: 1,
            members: members
                .map(|disk| pb::state::PgMember {
                    disk,
                    complete: true,
                })
                .collect(),
            ..Default::default()
        });
    }
    let range = pb::state::Range::default();
    pb::ClusterMap {
        epoch: 1,
        info: Some(pb::state::ClusterInfo {
            settings: Some(pb::state::ShardSettings {
                reader_grace_ms: shape.grace_ms,
                write_lease_ms: shape.lease_ms,
            }),
            ..Default::default()
        }),
        nodes: disks
            .clone()
            .map(|id| pb::state::Node {
                id,
                zone: "a".into(),
                ..Default::default()
            })
            .collect(),
        disks: disks
            .map(|id| pb::state::Disk {
                id,
                node: id,
                total_bytes: 1 << 40,
                ..Default::default()
            })
            .collect(),
        pools: vec![pb::state::Pool {
            id: 1,
            name: "LRS@a/3".into(),
            redundancy: Redundancy::Lrs.number(),
            copies: shape.copies,
            zone: "a".into(),
        }],
        groups,
        ranges: vec![pb::state::RangeHint {
            shard: 1,
            range: Some(range),
            voters: vec![],
        }],
        ..Default::default()
    }
}
