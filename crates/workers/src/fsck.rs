//! Compares the metadata with the disks, both ways: is every chunk that a row names on every disk
//! that should hold it, and does something name every chunk that is on a disk?
//!
//! It changes nothing. Memory does not grow with the number of chunks: the second question is
//! answered by a sum over the ids of each group, and only the groups whose sums differ are looked
//! into, some at a time. What is written or deleted meanwhile is looked at again before it counts.

mod copies;
mod strays;
mod sums;

use std::time::Duration;

use granary_blob_api::ChunkEntry;
use granary_datapath::ClusterView;
use granary_meta_api::{Meta, pb};
use granary_types::{ChunkId, DiskId, PgId, ShardId};
use serde::{Deserialize, Serialize};

use crate::WorkerError;
use crate::outsiders::Outsiders;
use crate::shard_walk::ShardWalk;
pub(crate) use sums::{GroupSums, IdSum};

/// Damage that a report tells one by one; more is only counted.
const DAMAGE_MAX: usize = 100;
/// References per page.
const PAGE: u32 = 2000;

/// What a comparison found. "Clean" means that everything was looked at and nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsckReport {
    /// Every shard, group and disk gave its answers.
    pub complete: bool,
    /// Complete, and no damage.
    pub clean: bool,
    /// Shards whose rows were read.
    pub shards_checked: u64,
    /// Chunks that objects and parts refer to.
    pub chunks_referenced: u64,
    /// Copies that should exist.
    pub copies_expected: u64,
    /// Copies that were looked at.
    pub copies_checked: u64,
    /// Bytes that were read and verified (a deep check reads all).
    pub bytes_checked: u64,
    /// A disk of the group lacks a chunk that is referred to.
    pub copies_missing: u64,
    /// A copy's bytes, length, digest or owner is not what the metadata says.
    pub copies_corrupt: u64,
    /// Chunks that are referred to, and have no good copy anywhere.
    pub chunks_lost: u64,
    /// Chunks that are referred to, and whose only good copies are on disks outside of their group:
    /// repair copies them back.
    pub chunks_outside: u64,
    /// Chunks on disks that nothing refers to, and that neither an open write nor a queued deletion
    /// nor the sweep's next turns account for.
    pub chunks_unreferenced: u64,
    /// Chunks of open writes and queued deletions.
    pub chunks_pending: u64,
    /// Chunks of writes that ended without a commit, for which the sweep still has time: no damage.
    pub chunks_unswept: u64,
    /// The first findings.
    pub damage: Vec<Damage>,
    /// Why it is not complete.
    pub problems: Vec<String>,
}

/// One finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Damage {
    /// `copy_missing`, `copy_corrupt`, `chunk_lost`, `chunk_outside` or `chunk_unreferenced`.
    pub kind: String,
    /// The chunk's id in hexadecimal.
    pub chunk: String,
    /// Its placement group.
    pub group: u32,
    /// The disk, when one is meant.
    pub disk: Option<u64>,
    /// The bucket's id.
    pub bucket: u64,
    /// The key, as far as it is text.
    pub key: String,
    /// What is wrong.
    pub detail: String,
}

/// How far a comparison has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckProgress {
    /// Shards whose rows were compared, and how many there are.
    pub shards: (u64, u64),
    /// Groups whose disks were listed, and how many there are.
    pub groups: (u64, u64),
    /// Chunks looked at.
    pub chunks: u64,
}

/// A comparison of the metadata with the disks.
pub struct Fsck {
    meta: Meta,
    view: ClusterView,
    /// Also read every copy's bytes.
    deep: bool,
    /// Between two looks of the sweep.
    sweep_every: Duration,
}

impl Fsck {
    /// A comparison; a `deep` one reads the bytes of every copy. What writes leave that are broken
    /// off is damage only when a sweep that begins every `sweep_every` should have freed it.
    pub fn new(meta: Meta, view: ClusterView, deep: bool, sweep_every: Duration) -> Self {
        Self {
            meta,
            view,
            deep,
            sweep_every,
        }
    }

    /// Compares everything. `progress` is told now and then how far it is.
    ///
    /// # Errors
    /// The metadata gave no answer. A disk that gives none makes the report incomplete, which is
    /// no error.
    pub async fn run(&self, progress: impl Fn(FsckProgress)) -> Result<FsckReport, WorkerError> {
        self.view.refresh().await?;
        let mut run = Run {
            fsck: self,
            report: FsckReport {
                complete: true,
                ..FsckReport::default()
            },
            told: FsckProgress::default(),
            progress: &progress,
            outsiders: None,
        };
        let named = run.compare_copies().await?;
        let held = run.sum_disks().await;
        run.find_strays(&named, &held).await?;
        Ok(run.finish())
    }
}

/// One comparison under way.
struct Run<'f, P: Fn(FsckProgress)> {
    fsck: &'f Fsck,
    report: FsckReport,
    told: FsckProgress,
    progress: &'f P,
    /// Once a chunk was found on no member.
    outsiders: Option<Outsiders>,
}

impl<P: Fn(FsckProgress)> Run<'_, P> {
    /// Goes through every row that names chunks; what the objects refer to, summed by group.
    async fn compare_copies(&mut self) -> Result<GroupSums, WorkerError> {
        let mut named = GroupSums::default();
        let mut shards = ShardWalk::new(&self.fsck.view);
        while let Some(shard) = shards.current() {
            self.told.shards.1 = shards.known() as u64;
            let mut pages = References::new(shard);
            while let Some(page) = pages.next(&self.fsck.meta).await? {
                let named_now: Vec<Named> = page.iter().filter_map(Named::of).collect();
                for chunk in &named_now {
                    if chunk.pending {
                        self.report.chunks_pending += 1;
                    } else {
                        self.report.chunks_referenced += 1;
                        named.add(chunk.id);
                    }
                }
                self.check_copies(&named_now).await;
                self.told.chunks += named_now.len() as u64;
                (self.progress)(self.told);
            }
            shards.advance(&self.fsck.meta, &self.fsck.view).await?;
            self.report.shards_checked += 1;
            self.told.shards.0 += 1;
            (self.progress)(self.told);
        }
        Ok(named)
    }

    fn finish(mut self) -> FsckReport {
        let report = &mut self.report;
        let damage = report.copies_missing
            + report.copies_corrupt
            + report.chunks_lost
            + report.chunks_outside
            + report.chunks_unreferenced;
        report.clean = report.complete && damage == 0;
        self.report
    }

    fn damaged(&mut self, kind: &str, chunk: &Named, disk: Option<DiskId>, detail: String) {
        if self.report.damage.len() >= DAMAGE_MAX {
            return;
        }
        self.report.damage.push(Damage {
            kind: kind.to_owned(),
            chunk: hex_of(chunk.id),
            group: chunk.id.pg().0,
            disk: disk.map(|disk| disk.0),
            bucket: chunk.bucket,
            key: String::from_utf8_lossy(&chunk.key).into_owned(),
            detail,
        });
    }

    fn incomplete(&mut self, why: String) {
        self.report.complete = false;
        if self.report.problems.len() < DAMAGE_MAX && !self.report.problems.contains(&why) {
            self.report.problems.push(why);
        }
    }
}

/// A chunk as a row names it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) id: ChunkId,
    length: u32,
    digest: u32,
    pub(crate) bucket: u64,
    pub(crate) object: bytes::Bytes,
    key: bytes::Bytes,
    pub(crate) pending: bool,
}

impl Named {
    pub(crate) fn of(reference: &pb::Reference) -> Option<Self> {
        let extent = reference.extent.as_ref()?;
        Some(Self {
            id: ChunkId::from_slice(&extent.chunk)?,
            length: extent.length,
            digest: extent.digest,
            bucket: reference.bucket_id,
            object: reference.object_id.clone(),
            key: reference.key.clone(),
            pending: reference.pending,
        })
    }

    /// What a copy's header says that the row does not; `None` when they agree.
    fn difference(&self, entry: &ChunkEntry) -> Option<String> {
        if entry.length != self.length {
            return Some(format!("{} bytes instead of {}", entry.length, self.length));
        }
        if entry.digest != self.digest {
            return Some("another digest".to_owned());
        }
        let owner = (entry.owner.bucket.0, entry.owner.object.to_bytes());
        (owner.0 != self.bucket || owner.1[..] != self.object[..])
            .then(|| "another owner".to_owned())
    }
}

/// The pages of a shard's references.
pub(crate) struct References {
    shard: ShardId,
    after: bytes::Bytes,
    ended: bool,
}

impl References {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            after: bytes::Bytes::new(),
            ended: false,
        }
    }

    pub(crate) async fn next(
        &mut self,
        meta: &Meta,
    ) -> Result<Option<Vec<pb::Reference>>, WorkerError> {
        if self.ended {
            return Ok(None);
        }
        let query = pb::ListReferences {
            after: self.after.clone(),
            limit: PAGE,
        };
        let page = meta.query_at(self.shard, query).await?;
        self.ended = !page.more;
        self.after = page.next_after;
        Ok(Some(page.references))
    }
}

fn hex_of(chunk: ChunkId) -> String {
    format!("{:032x}", chunk.0)
}

/// A group's disks and how the report calls it when one does not answer.
fn unreachable(pg: PgId, disk: DiskId, error: &dyn std::fmt::Display) -> String {
    format!("group {pg}, disk {disk}: {error}")
}
