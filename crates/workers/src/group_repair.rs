//! Brings the members of one group in step: compares their sorted listings, copies what one lacks
//! from one that has it, and carries tombstones to where they are missing.
//!
//! It never copies what is tombstoned, nor what no commit can bring to life any more. What no complete
//! member holds, or one member alone, it asks the metadata for first: such a copy may be of a chunk that
//! was deleted while its disk was away, or while it was being copied. What no member holds at all is copied from a disk outside of the group that has
//! it, when a row names it. It counts what stays below its redundancy, and says so rather than "done".
//!
//! Parts of the metadata's backup that were written when the cluster was smaller, with less redundancy
//! than parts get now, it stores once more and deletes here: a part is known by its owner, not by its
//! chunk, so nobody has to be told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_datapath::{ClusterView, CopyCheck, DataPath, Group, RestoreError};
use granary_meta_api::Meta;
use granary_meta_api::client::OwnerFate;
use granary_runtime::within;
use granary_types::{BucketId, ChunkId, DiskId, Redundancy};
use parking_lot::Mutex;

use crate::backups::is_backup;
use crate::chunk_deleter::ChunkDeleter;
use crate::fsck::IdSum;
use crate::group_listing::{Copies, GroupListing, is_complete};
use crate::outsiders::Outsiders;
use crate::owners::{owner_fates, unnamed};
use crate::{WorkerError, WorkerMetrics};

/// Chunks compared per call.
const COMPARED_PER_CALL: usize = 10_000;
/// Chunks that lack a copy, per call.
const LACKING_PER_CALL: usize = 2000;
/// Chunks copied per call.
const COPIED_PER_CALL: usize = 8;
/// Chunks copied at once.
const COPIES_AT_ONCE: usize = 4;
/// Between two lines about copies that are not made.
const TELL_PAUSE: Duration = Duration::from_secs(5);
/// Time all shards get to say what chunks belong to; far less than a step of filling a group has.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after one did not.
const VERDICT_PAUSE: Duration = Duration::from_secs(60);

/// Repairs groups. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GroupRepair {
    meta: Meta,
    view: ClusterView,
    path: DataPath,
    deleter: ChunkDeleter,
    metrics: WorkerMetrics,
    /// When (monotonic) shards are asked again after one did not answer.
    ask_again_at: Arc<Mutex<Duration>>,
    /// When (monotonic) a copy that is not made may be told of again.
    tell_again_at: Arc<Mutex<Duration>>,
}

/// What a call found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Chunks that should exist.
    pub(crate) chunks: u64,
    /// Chunks that have fewer copies than they should, after what could be done.
    pub(crate) below_target: u64,
    /// Chunks that should be on a member taking part and are not, although another one has them.
    pub(crate) failed: u64,
    /// Chunks of which a member that stays has a damaged copy that could not be put right.
    pub(crate) damaged: u64,
    /// Chunks that a member lacks and of which no member is known to have a good copy: nobody can
    /// give them, now or as long as that is so.
    pub(crate) lost: u64,
    /// Chunks that no member had, and that one has now.
    pub(crate) rescued: u64,
    /// Copies on members that were looked at.
    pub(crate) copies: u64,
    /// Of the chunks that should exist and that somebody has; those of the metadata's backup are
    /// left out, because no row names them.
    pub(crate) seen: IdSum,
    /// Parts of the metadata's backup that lie in a safer group now.
    pub(crate) moved: u64,
    /// Buckets that some of the chunks belong to.
    pub(crate) buckets: SomeBuckets,
    /// Members in service that took part.
    pub(crate) members: Vec<DiskId>,
    /// Members that were listed: those, and maybe others that were given up and answer.
    pub(crate) read: Vec<DiskId>,
    /// Where the next call goes on; `None` when the group is through.
    pub(crate) next_after: Option<ChunkId>,
}

/// The first few buckets of some chunks, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SomeBuckets([Option<BucketId>; SomeBuckets::MAX]);

impl SomeBuckets {
    const MAX: usize = 3;

    fn add(&mut self, bucket: BucketId) {
        for place in &mut self.0 {
            match place {
                Some(known) if *known == bucket => return,
                Some(_) => {}
                None => {
                    *place = Some(bucket);
                    return;
                }
            }
        }
    }

    pub(crate) fn add_all(&mut self, others: Self) {
        others.iter().for_each(|bucket| self.add(bucket));
    }

    /// The buckets; [`granary_types::BACKUP_BUCKET`] owns the backup of the metadata.
    pub fn iter(self) -> impl Iterator<Item = BucketId> {
        self.0.into_iter().flatten()
    }
}

impl Repaired {
    fn saw(&mut self, entry: &ChunkEntry) {
        self.buckets.add(entry.owner.bucket);
        if !is_backup(&entry.owner) {
            self.seen.add(entry.id);
        }
    }
}

/// A chunk some members lack.
struct Lacking {
    entry: ChunkEntry,
    live: Vec<DiskId>,
    /// Members whose bytes are damaged, as they know themselves.
    damaged: Vec<DiskId>,
    /// Members whose tombstone of it means nothing; see [`crate::group_listing::Copies::is_deleted`].
    tombstones: Vec<DiskId>,
    /// Disks outside of the group that have it.
    outside: Vec<DiskId>,
    /// It would have to be copied, and no complete member holds it, or no other member does, or another
    /// one says that it was deleted.
    doubtful: bool,
}

impl Lacking {
    fn is_on_no_member(&self) -> bool {
        self.live.is_empty() && self.damaged.is_empty()
    }
}

/// What has become of owners, and chunks that no row names.
type Verdicts = (HashMap<ChunkOwner, OwnerFate>, HashSet<ChunkId>);

/// What a group is repaired to.
struct Goal<'t> {
    /// Copies that its chunks should have.
    copies: usize,
    /// Members that get what they lack.
    targets: &'t [DiskId],
    /// All members were asked, and every other disk that may ever have something.
    everybody: bool,
}

/// What became of one chunk.
#[derive(Debug, Default)]
struct Filled {
    /// Copies it has now.
    held: usize,
    /// A member still lacks it.
    failed: bool,
    /// A damaged copy is still there.
    damaged: bool,
    /// A member lacks it, and nobody can give it.
    lost: bool,
    /// Which member did not get it, and why.
    why: Option<(DiskId, RestoreError)>,
}

impl GroupRepair {
    pub(crate) fn new(meta: Meta, path: DataPath, metrics: WorkerMetrics) -> Self {
        let view = path.view().clone();
        Self {
            meta,
            deleter: ChunkDeleter::new(view.clone()),
            view,
            path,
            metrics,
            ask_again_at: Arc::default(),
            tell_again_at: Arc::default(),
        }
    }

    /// Members that can be listed and written to now.
    pub(crate) fn serving(&self, group: &Group) -> Vec<DiskId> {
        let map = self.view.map();
        let serves = |disk: &DiskId| map.is_in(*disk) && self.view.is_readable(*disk);
        group.disks().filter(serves).collect()
    }

    /// Members whose copies count as sources: those in service, and where no complete one of them is
    /// left, those that were given up and answer: a complete one, and those that took what was written
    /// since.
    pub(crate) fn reading(&self, group: &Group) -> Vec<DiskId> {
        let mut reading = self.serving(group);
        if !reading.iter().any(|&disk| is_complete(group, disk)) {
            let others = group.disks().filter(|disk| !reading.contains(disk));
            let given_up = others.filter(|&disk| self.view.is_readable(disk));
            let given_up: Vec<DiskId> = given_up.collect();
            reading.extend(given_up);
        }
        reading
    }

    /// Works through a part of a group, from `after` on. `copies` is what its chunks should have. A
    /// member that is about to leave gives what it has and gets nothing; so do `outsiders`.
    pub(crate) async fn repair(
        &self,
        group: &Group,
        copies: usize,
        after: Option<ChunkId>,
        outsiders: &Outsiders,
    ) -> Result<Repaired, WorkerError> {
        let serving = self.serving(group);
        let staying: Vec<DiskId> = group.staying().collect();
        let targets: Vec<DiskId> = serving
            .iter()
            .copied()
            .filter(|disk| staying.contains(disk))
            .collect();
        let reading = self.reading(group);
        let listing = GroupListing::new(&self.view, group.id, &reading, after)?;
        let known = (group.id, reading.as_slice());
        let mut listing = listing.with_outsiders(&self.view, known, after, outsiders);
        let mut repaired = Repaired {
            members: serving.clone(),
            read: reading.clone(),
            ..Repaired::default()
        };
        let (mut lacking, mut tombstones, mut to_copy) = (Vec::new(), Vec::new(), 0);
        let (safer, mut parts) = (self.safer_for_parts(group), Vec::new());
        for _ in 0..COMPARED_PER_CALL {
            let Some(found) = listing.next().await? else {
                repaired.next_after = None;
                break;
            };
            repaired.next_after = Some(found.entry.id);
            let held = found.live.iter().filter(|disk| targets.contains(disk));
            let held = held.count();
            repaired.copies += (found.live.len() + found.damaged.len()) as u64;
            if found.is_deleted(group) {
                tombstones.push(found.entry.id);
            } else if safer.is_some() && is_backup(&found.entry.owner) && held > 0 {
                parts.push((found.entry, found.live));
            } else if held < copies || !found.tombstones.is_empty() || !found.damaged.is_empty() {
                to_copy += usize::from(held < targets.len());
                let doubtful = held < targets.len() || found.live.is_empty();
                // A copy that was on its way to one member while the chunk was deleted comes back there,
                // once everybody has forgotten the deletion.
                let is_alone = found.live.len() + found.damaged.len() <= 1;
                lacking.push(Lacking {
                    // A complete member that was given up is not told of deletions any more.
                    doubtful: doubtful
                        && (is_alone
                            || !found.is_held_for_certain(group)
                            || !found.tombstones.is_empty()),
                    entry: found.entry,
                    live: found.live,
                    damaged: found.damaged,
                    tombstones: found.tombstones,
                    outside: found.outside,
                });
            } else {
                repaired.chunks += 1;
                repaired.saw(&found.entry);
            }
            let copied = to_copy.max(parts.len());
            if lacking.len() >= LACKING_PER_CALL || copied >= COPIED_PER_CALL {
                break;
            }
        }
        // Deletes where a member missed it, and forgets where all have confirmed.
        self.deleter.delete(&tombstones).await;
        let goal = Goal {
            copies,
            targets: &targets,
            everybody: outsiders.are_all() && serving.len() == group.members.len(),
        };
        self.fill(group, &goal, lacking, &mut repaired).await;
        if let Some(safer) = safer {
            self.move_parts(group, &goal, safer, parts, &mut repaired)
                .await;
        }
        Ok(repaired)
    }

    /// The redundancy that parts of the metadata's backup get now, when those in a group have less. A
    /// group that is not whole is left alone: its members have to hear of the deletions.
    fn safer_for_parts(&self, group: &Group) -> Option<Redundancy> {
        let map = self.view.map();
        let safest = self.path.safest();
        let own = map.pools().iter().find(|pool| pool.id == group.pool)?;
        let is_lesser = own.redundancy != safest.number() && safest == Redundancy::Zrs;
        let is_narrow = map.target_copies(group) < map.promised_copies(group);
        if !is_lesser && !is_narrow {
            return None;
        }
        let serving = self.serving(group).len() == group.members.len();
        let whole = group.members.iter().all(|member| member.complete) && group.leaving.is_none();
        if !serving || !whole {
            return None;
        }
        // While a disk takes nothing, or no group there is whole, they might get fewer copies there
        // than they have.
        let mut disks = map.disks().map(|disk| DiskId(disk.id));
        let all_take = disks.all(|disk| !map.is_in(disk) || self.view.is_writable(disk));
        let pools = map.pools_for(safest, "");
        let is_whole = |group: &Group| {
            let mut members = group.members.iter();
            pools.iter().any(|pool| pool.id == group.pool)
                && members.all(|member| member.complete && self.view.is_writable(member.disk))
        };
        (all_take && map.groups().any(is_whole)).then_some(safest)
    }

    /// Stores parts of the metadata's backup where they are safer, and deletes them here.
    async fn move_parts(
        &self,
        group: &Group,
        goal: &Goal<'_>,
        safer: Redundancy,
        parts: Vec<(ChunkEntry, Vec<DiskId>)>,
        repaired: &mut Repaired,
    ) {
        for (entry, live) in parts {
            match self.path.store_part_again(&entry, &live, safer).await {
                // One by one: what is begun again after an interruption is not stored once more.
                Ok(mut useless) => {
                    repaired.moved += 1;
                    useless.push(entry.id);
                    self.deleter.delete(&useless).await;
                }
                // Whoever wrote it has deleted it.
                Err(RestoreError::Gone) => {}
                Err(error) => {
                    tracing::debug!(pg = %group.id, chunk = %entry.id, %error, "a part of the backup stays");
                    let held = live.iter().filter(|disk| goal.targets.contains(disk));
                    repaired.chunks += 1;
                    repaired.buckets.add(entry.owner.bucket);
                    repaired.below_target += u64::from(held.count() < goal.copies);
                }
            }
        }
    }

    /// Copies chunks to the members that lack them.
    async fn fill(
        &self,
        group: &Group,
        goal: &Goal<'_>,
        lacking: Vec<Lacking>,
        repaired: &mut Repaired,
    ) {
        let (wanted, undecided) = self.wanted(lacking).await;
        repaired.chunks += undecided;
        repaired.below_target += undecided;
        let outcomes: Vec<_> = stream::iter(wanted)
            .map(|chunk| async move {
                let filled = self.fill_one(group, goal.targets, &chunk).await?;
                Some((chunk, filled))
            })
            .buffer_unordered(COPIES_AT_ONCE)
            .collect()
            .await;
        let mut useless = Vec::new();
        for (chunk, filled) in outcomes.into_iter().flatten() {
            repaired.chunks += 1;
            repaired.saw(&chunk.entry);
            if filled.held == 0 && goal.everybody && self.is_useless(&chunk).await {
                useless.push(chunk.entry.id);
                continue;
            }
            if let Some((disk, why)) = &filled.why
                && self.may_tell()
            {
                tell(group, &chunk, *disk, why);
            }
            repaired.rescued += u64::from(chunk.is_on_no_member() && filled.held > 0);
            repaired.failed += u64::from(filled.failed);
            repaired.damaged += u64::from(filled.damaged);
            repaired.lost += u64::from(filled.lost);
            repaired.below_target += u64::from(filled.held < goal.copies);
        }
        if !useless.is_empty() {
            tracing::warn!(pg = %group.id, chunks = useless.len(), "parts of the metadata's backup that nobody can read are given up");
            self.deleter.delete(&useless).await;
        }
    }

    /// True, when everybody was asked, of a part of the metadata's backup of which all that have it have
    /// bad bytes: what an attempt left that a power failure broke off. Nobody knows its owner, so it
    /// would lack copies until it is superseded, and a rebuild would take it for one that is missing.
    async fn is_useless(&self, chunk: &Lacking) -> bool {
        let nowhere_else = chunk.live.is_empty() && chunk.outside.is_empty();
        if !is_backup(&chunk.entry.owner) || !nowhere_else {
            return false;
        }
        for &disk in &chunk.damaged {
            if self.path.verify_copy(&chunk.entry, disk).await != CopyCheck::Bad {
                return false;
            }
        }
        !chunk.damaged.is_empty()
    }

    /// True once in a while: where one chunk fails, others do for the same reason, however many.
    fn may_tell(&self) -> bool {
        let now = self.view.runtime().monotonic();
        let mut again_at = self.tell_again_at.lock();
        let may = now >= *again_at;
        if may {
            *again_at = now + TELL_PAUSE;
        }
        may
    }

    /// Those of some chunks that should exist, as far as anybody knows; and how many are outside of
    /// the group alone, and nobody knows now whether they should. What certainly should not, and is on
    /// members, is deleted there.
    async fn wanted(&self, mut lacking: Vec<Lacking>) -> (Vec<Lacking>, u64) {
        let Some((fates, nobodys)) = self.judged(&lacking).await else {
            let before = lacking.len();
            lacking.retain(|chunk| !chunk.is_on_no_member());
            let undecided = before - lacking.len();
            return (lacking, undecided as u64);
        };
        let mut garbage = Vec::new();
        lacking.retain(|chunk| match fates.get(&chunk.entry.owner) {
            // The sweep's.
            Some(OwnerFate::Expired) => false,
            Some(OwnerFate::Settled) if nobodys.contains(&chunk.entry.id) => {
                if !chunk.is_on_no_member() {
                    garbage.push(chunk.entry.id);
                }
                false
            }
            Some(OwnerFate::Settled) => true,
            // A write under way reaches the members by itself; what is being deleted must not come
            // back to them.
            Some(OwnerFate::Open) | None => !chunk.is_on_no_member(),
        });
        self.deleter.delete(&garbage).await;
        (lacking, 0)
    }

    /// What the shards say of the owners of some chunks, and which of those that are in doubt no row
    /// names; `None` when a shard does not answer. That keeps no copy from being made: what turns out
    /// to be nobody's is swept later. Nor is it waited for again and again.
    async fn judged(&self, lacking: &[Lacking]) -> Option<Verdicts> {
        let now = self.view.runtime().monotonic();
        if lacking.is_empty() {
            return Some(Verdicts::default());
        }
        if now < *self.ask_again_at.lock() {
            return None;
        }
        let asked = async {
            let owners = lacking.iter().map(|chunk| chunk.entry.owner);
            let fates = owner_fates(&self.meta, owners).await?;
            let doubtful = lacking.iter().filter(|chunk| chunk.doubtful);
            let entries = doubtful.map(|chunk| &chunk.entry);
            let nobodys = unnamed(&self.meta, entries, &fates).await?;
            Ok::<_, WorkerError>((fates, nobodys.into_iter().collect()))
        };
        let why = match within(VERDICT_TIMEOUT, asked).await {
            Ok(Ok(judged)) => return Some(judged),
            Ok(Err(error)) => error,
            Err(_) => WorkerError::TooLong,
        };
        tracing::info!(error = %why, "chunks are copied without knowing their owners");
        *self.ask_again_at.lock() = self.view.runtime().monotonic() + VERDICT_PAUSE;
        None
    }

    /// Copies one chunk to the members that lack it. `None` when it was deleted meanwhile.
    async fn fill_one(&self, group: &Group, targets: &[DiskId], chunk: &Lacking) -> Option<Filled> {
        let map = self.view.map();
        let mut filled = Filled {
            held: chunk.live.iter().filter(|&&disk| map.is_in(disk)).count(),
            ..Filled::default()
        };
        for &disk in &chunk.tombstones {
            // If it does not forget, it will not take the chunk either, and that counts.
            let known = (group.id, group.epoch);
            self.deleter.forget_on(disk, known, &[chunk.entry.id]).await;
        }
        // The damaged ones come last: a disk that could not read for a moment may be well again.
        let sources = [chunk.live.as_slice(), &chunk.outside, &chunk.damaged].concat();
        for &disk in targets.iter().filter(|disk| !chunk.live.contains(disk)) {
            let copied = self
                .path
                .restore_chunk(&chunk.entry, &sources, disk, group.epoch)
                .await;
            match copied {
                Ok(()) => {
                    filled.held += 1;
                    self.metrics.chunks_restored.inc();
                }
                // An untrue tombstone is still there: the chunk is not gone, this copy is not made.
                Err(error @ RestoreError::Gone) if chunk.tombstones.contains(&disk) => {
                    filled.failed = true;
                    filled.why = Some((disk, error));
                }
                Err(RestoreError::Gone) => return None,
                Err(error) => {
                    let nobody =
                        matches!(error, RestoreError::NoSource(_)) && chunk.live.is_empty();
                    // A member whose own bytes are bad does not lack the chunk.
                    if chunk.damaged.contains(&disk) {
                        filled.damaged = true;
                    } else if nobody {
                        filled.lost = true;
                    } else {
                        filled.failed = true;
                    }
                    filled.why = Some((disk, error));
                }
            }
        }
        Some(filled)
    }

    /// Looks at a copy that somebody complained about, and makes it good if that can be done now.
    /// A copy that need not be there, or not yet, is as good as any.
    pub(crate) async fn check_copy(&self, chunk: ChunkId, disk: DiskId) -> CopyCheck {
        let map = self.view.map();
        let Some(group) = map.group(chunk.pg()) else {
            return CopyCheck::Good;
        };
        let serving = self.serving(group);
        if !serving.contains(&disk) || group.leaving == Some(disk) {
            return CopyCheck::Good;
        }
        let found = match self.listed(group, &serving, chunk).await {
            Ok(Some(found)) => found,
            // Gone everywhere, or deleted: nothing to repair.
            Ok(None) => return CopyCheck::Good,
            Err(_) => return CopyCheck::Unknown,
        };
        if found.live.contains(&disk) {
            match self.path.verify_copy(&found.entry, disk).await {
                CopyCheck::Bad => {}
                other => return other,
            }
        }
        let others = found.live.iter().chain(&found.damaged).copied();
        let mut sources: Vec<_> = others.filter(|&other| other != disk).collect();
        if found.damaged.contains(&disk) {
            sources.push(disk);
        }
        let restored = self
            .path
            .restore_chunk(&found.entry, &sources, disk, group.epoch)
            .await;
        let read = self.path.verify_copy(&found.entry, disk).await;
        if read == CopyCheck::Good {
            if restored.is_ok() {
                self.metrics.chunks_restored.inc();
            }
            return read;
        }
        // It may have been deleted, and forgotten, between the listing and the look at it.
        match self.listed(group, &serving, chunk).await {
            Ok(None) => CopyCheck::Deleted,
            Ok(Some(_)) => read,
            Err(_) => CopyCheck::Unknown,
        }
    }

    /// What members say of one chunk; `None` when it was deleted, or nobody has it.
    pub(crate) async fn listed(
        &self,
        group: &Group,
        serving: &[DiskId],
        chunk: ChunkId,
    ) -> Result<Option<Copies>, WorkerError> {
        let found = GroupListing::of_one(&self.view, chunk, serving)?
            .next()
            .await?;
        let of_it = |found: &Copies| {
            let held = !found.live.is_empty() || !found.damaged.is_empty();
            found.entry.id == chunk && held && !found.is_deleted(group)
        };
        Ok(found.filter(of_it))
    }
}

/// Says of a chunk that a member did not get where it is, for whoever has to look after it.
fn tell(group: &Group, chunk: &Lacking, disk: DiskId, why: &RestoreError) {
    let owner = chunk.entry.owner;
    tracing::info!(
        pg = %group.id, chunk = %chunk.entry.id, bucket = owner.bucket.0, owner = %owner.object, %disk, error = %why,
        live = ?chunk.live, damaged = ?chunk.damaged, deleted = ?chunk.tombstones, outside = ?chunk.outside,
        "a copy of a chunk was not made",
    );
}

#[cfg(test)]
mod tests {
    use granary_types::{BACKUP_BUCKET, ObjectId, PgId};

    use super::*;

    #[test]
    fn parts_of_a_backup_are_in_no_sum_that_rows_are_compared_with() {
        let entry = |bucket| ChunkEntry {
            id: ChunkId::new(PgId(1), 2),
            owner: ChunkOwner {
                bucket,
                object: ObjectId(1),
            },
            length: 1,
            digest: 1,
            deleted: false,
            damaged: false,
        };
        let mut repaired = Repaired::default();
        repaired.saw(&entry(BACKUP_BUCKET));
        assert_eq!(repaired.seen, IdSum::default());
        repaired.saw(&entry(BucketId(7)));
        assert_ne!(repaired.seen, IdSum::default());
        for bucket in [7, 8, 7, 9] {
            repaired.saw(&entry(BucketId(bucket)));
        }
        let buckets: Vec<BucketId> = repaired.buckets.iter().collect();
        assert_eq!(buckets, [BACKUP_BUCKET, BucketId(7), BucketId(8)]);
    }
}
