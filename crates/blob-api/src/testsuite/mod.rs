//! What every storage node must do, as functions over the trait; a node that fails on command; and
//! a local pipe with gRPC on it.
//!
//! Each case takes a placement group of its own, so that all run on one node, in any order, and
//! again on the same data. They panic on a broken promise: they are tests, kept here so that every
//! implementation is held to the same ones.

mod deleting;
mod faulty;
mod pipe;
mod reading;
mod verifying;
mod writing;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};

use crate::{BlobError, BlobNode, Block, ChunkEntry, ChunkOwner, GetChunk, PutChunk};

pub use faulty::{Fault, Faults, FaultyBlobNode, PersistentBlobNode};
pub use pipe::{over_pipe, over_pipe_within};

/// The epoch at which cases open their group.
const EPOCH: u64 = 3;

/// One disk of one node, and a placement group that nobody else uses.
#[derive(Clone)]
pub struct Fixture {
    /// The node.
    pub node: Arc<dyn BlobNode>,
    /// One of its disks.
    pub disk: DiskId,
    /// The group.
    pub pg: PgId,
}

type Case = fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// Every case with its name.
        pub const CASES: &[(&str, Case)] = &[
            $((stringify!($name), |fixture| Box::pin($module::$name(fixture)))),*
        ];
    };
}

cases![
    writing::bytes_come_back_whole_and_in_ranges,
    writing::putting_again_is_harmless_and_other_bytes_are_refused,
    writing::malformed_chunks_are_refused,
    writing::groups_are_opened_and_epochs_only_rise,
    writing::concurrent_writers_all_succeed,
    writing::a_copy_is_a_chunk_of_its_own,
    writing::copies_are_refused_like_reads_and_writes,
    reading::unknown_chunks_and_bad_ranges_are_refused,
    reading::listings_are_paged_in_order_and_keep_to_their_group,
    reading::an_unknown_disk_is_out_of_service,
    reading::disks_count_what_they_hold,
    verifying::a_disk_checks_its_own_copies_page_by_page,
    verifying::groups_without_chunks_are_checked_at_once,
    verifying::whoever_checks_a_disk_disturbs_nobody,
    deleting::deleted_chunks_stay_deleted,
    deleting::unknown_chunks_can_be_deleted_before_they_arrive,
    deleting::forgetting_drops_tombstones_and_nothing_else,
    deleting::many_chunks_are_deleted_at_once,
    deleting::whoever_knows_an_older_epoch_deletes_nothing,
    deleting::evicted_copies_go_without_a_trace_and_may_come_back,
    deleting::a_disk_names_the_groups_that_were_opened_on_it,
    reading::what_one_bucket_owns_is_listed_alone,
];

/// Runs every case on every disk of a node, in groups from `first_pg` on.
///
/// # Panics
/// When the node breaks a promise; the case's name is in the thread's output.
pub async fn run(node: Arc<dyn BlobNode>, first_pg: u32) {
    let disks = node.disks().await.expect("the node lists its disks");
    assert!(!disks.is_empty(), "the suite needs a disk");
    let mut pg = first_pg;
    for disk in disks {
        for (name, case) in CASES {
            note_case(name);
            let fixture = Fixture {
                node: Arc::clone(&node),
                disk: disk.id,
                pg: PgId(pg),
            };
            case(fixture).await;
            pg += 1;
        }
    }
}

/// Test output names the running case, so that a failed assertion can be placed.
#[allow(clippy::print_stdout, reason = "captured test output")]
fn note_case(name: &str) {
    println!("case {name}");
}

impl Fixture {
    /// A chunk id of the fixture's group.
    pub fn id(&self, unique: u128) -> ChunkId {
        ChunkId::new(self.pg, unique)
    }

    /// An owner.
    pub fn owner(&self, n: u64) -> ChunkOwner {
        ChunkOwner {
            bucket: BucketId(n),
            object: ObjectId(u128::from(n) << 64 | u128::from(self.pg.0)),
        }
    }

    /// A put of `bytes` at the fixture's epoch.
    pub fn chunk(&self, id: ChunkId, bytes: &Bytes) -> PutChunk {
        PutChunk {
            id,
            owner: self.owner(1),
            pg_epoch: EPOCH,
            blocks: Block::cut(bytes.clone()),
            background: false,
        }
    }

    async fn open(&self) {
        self.node
            .open_pg(self.disk, self.pg, EPOCH)
            .await
            .expect("the group opens");
    }

    async fn put(&self, id: ChunkId, bytes: &Bytes) -> Result<(), BlobError> {
        self.node.put(self.disk, self.chunk(id, bytes)).await
    }

    /// Reads a range and checks that the blocks cover it and are intact.
    async fn get(&self, id: ChunkId, offset: u32, length: u32) -> Result<Bytes, BlobError> {
        let range = GetChunk {
            id,
            offset,
            length,
            background: false,
        };
        let read = self.node.get(self.disk, range).await?;
        assert!(read.offset <= offset, "the first block covers the offset");
        let mut bytes = Vec::new();
        for block in &read.blocks {
            assert!(block.is_intact(), "blocks arrive with their checksums");
            bytes.extend_from_slice(&block.data);
        }
        let skip = (offset - read.offset) as usize;
        assert!(
            bytes.len() >= skip + length as usize,
            "the range is covered"
        );
        Ok(Bytes::from(bytes).slice(skip..skip + length as usize))
    }

    async fn list(&self) -> Vec<ChunkEntry> {
        let mut entries = Vec::new();
        let mut after = None;
        loop {
            let page = self
                .node
                .list(self.disk, self.pg, after, 7)
                .await
                .expect("the group is listed");
            assert!(page.entries.len() <= 7, "a page keeps to its limit");
            entries.extend(page.entries);
            after = page.next_after;
            if after.is_none() {
                return entries;
            }
        }
    }
}

/// Bytes that differ at every place and for every seed.
pub fn pattern(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}
