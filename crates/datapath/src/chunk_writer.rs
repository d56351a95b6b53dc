//! One chunk to the disks of a placement group, and to another group when a disk fails.
//!
//! Invariant: a reference is handed out only after every member of a whole group, or, while no
//! group is whole, the write quorum, has said that the bytes are durable. A disk with a full queue
//! is well: its group is whole, and the write waits for it or ends. What is acknowledged with fewer
//! copies is told to repair at once. A copy counts only on a disk that is a member by a map that the
//! root has confirmed lately, and none does once a member has said that there is a newer one: those
//! that lost their places are not told, and go on as if they had them.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use granary_blob_api::{BlobError, ChunkOwner, ErrorKind, PutChunk};
use granary_meta_api::pb;
use granary_placement::write_quorum;
use granary_runtime::{Backoff, within};
use granary_types::{ChunkId, DiskId, PgId, Redundancy};

use crate::Shared;
use crate::cluster::Choice;
use crate::digest::CutChunk;
use crate::error::WriteError;
use crate::hints::RepairHint;
use crate::session::WriteOwner;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How many times longer the last disk may take than the others did.
const STRAGGLER_TIMES: u32 = 3;
/// How long a write waits for the root to say that the map holds, before it is told to come back.
const ROOT_LIMIT: Duration = Duration::from_secs(5);
/// Groups tried before a pause.
const GROUPS_PER_ROUND: usize = 8;

/// What became of one attempt in one group.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Disks that made it durable.
    pub(crate) acks: Vec<DiskId>,
    pub(crate) failures: Vec<(DiskId, BlobError)>,
}

/// Stores a chunk; returns the reference to it. What attempts in other groups may have left is
/// noted with the owner.
pub(crate) async fn store_chunk(
    shared: &Shared,
    redundancy: Redundancy,
    owner: &WriteOwner,
    chunk: &CutChunk,
) -> Result<pb::state::Extent, WriteError> {
    let limit = Duration::from_millis(shared.config.chunk_write_timeout_ms);
    let mut backoff = Backoff::new(&shared.runtime, FIRST_PAUSE, LONGEST_PAUSE, limit);
    let mut course = Course::default();
    loop {
        confirm_map(shared).await?;
        let pools = shared.pools(redundancy);
        let Some(choice) = course.choose(shared, &pools) else {
            wait_for_a_group(shared, redundancy, &mut backoff, &course.last).await?;
            course.begin_again();
            continue;
        };
        let id = ChunkId::new(choice.group.id, shared.runtime.entropy().next_u128());
        let put = ChunkPut {
            choice: &choice,
            id,
            owner: owner.of_chunks(),
            chunk,
        };
        let Some(attempt) = put
            .patiently(shared, &pools, &mut course, &mut backoff)
            .await
        else {
            owner.abandon(id);
            return Err(course.last.error());
        };
        let group = choice.group.id;
        if shared.view.count_copies(group, &attempt.acks) >= choice.copies {
            return Ok(extent(id, &choice, chunk));
        }
        course.note(group, &attempt);
        note_failures(shared, &attempt).await;
        let counted = shared.view.count_copies(group, &attempt.acks);
        if counted >= write_quorum(choice.copies)
            && counted == attempt.acks.len()
            && !attempt.is_outdated()
            && !attempt.is_only_busy()
            && !course.has_whole_group(shared, &pools, &[])
        {
            note_degraded(shared, &choice, id, &attempt);
            return Ok(extent(id, &choice, chunk));
        }
        owner.abandon(id);
        shared.metrics.chunks_rewritten.inc();
    }
}

/// What a chunk was tried on in vain.
#[derive(Default)]
struct Course {
    tried: Vec<PgId>,
    /// Disks to blame: a group that shares one with the one before is no better than it.
    failed: Vec<DiskId>,
    /// Disks whose queues were full: left out as long as there is a whole group without them.
    busy: Vec<DiskId>,
    last: Problem,
}

impl Course {
    fn choose(&self, shared: &Shared, pools: &[u32]) -> Option<Choice> {
        if self.tried.len() >= GROUPS_PER_ROUND {
            return None;
        }
        let (view, seed) = (&shared.view, shared.runtime.entropy().next_u64());
        let elsewhere = [self.failed.as_slice(), &self.busy].concat();
        let choice = view.choose(pools, seed, &self.tried, &elsewhere);
        let choice = choice.filter(|choice| self.busy.is_empty() || choice.is_whole());
        choice.or_else(|| view.choose(pools, seed, &self.tried, &self.failed))
    }

    /// Whether there is a whole group left, without these disks.
    fn has_whole_group(&self, shared: &Shared, pools: &[u32], without: &[DiskId]) -> bool {
        let without = [self.failed.as_slice(), without].concat();
        shared.view.has_whole_group(pools, &self.tried, &without)
    }

    fn note(&mut self, group: PgId, attempt: &Attempt) {
        self.last.note(attempt);
        self.busy.extend(attempt.busy_disks());
        self.failed.extend(attempt.failed_disks());
        if !attempt.is_only_busy() {
            self.tried.push(group);
        }
    }

    fn begin_again(&mut self) {
        self.tried.clear();
        self.failed.clear();
        self.busy.clear();
    }
}

/// What stood in the way last, for the error.
#[derive(Default)]
struct Problem {
    busy: bool,
    reason: String,
}

impl Problem {
    fn note(&mut self, attempt: &Attempt) {
        if let Some((disk, error)) = attempt.failures.first() {
            self.busy = error.kind() == ErrorKind::Busy;
            self.reason = format!("disk {disk}: {error}");
        }
    }

    fn error(&self) -> WriteError {
        if self.busy {
            return WriteError::Overloaded;
        }
        let nothing = "no group has enough healthy disks";
        let reason = if self.reason.is_empty() {
            nothing
        } else {
            &self.reason
        };
        WriteError::Unavailable(reason.to_owned())
    }
}

/// Makes sure that the root has confirmed the map lately.
async fn confirm_map(shared: &Shared) -> Result<(), WriteError> {
    if shared.view.is_confirmed() {
        return Ok(());
    }
    let asked = within(ROOT_LIMIT, shared.view.refresh_map()).await;
    if shared.view.is_confirmed() {
        return Ok(());
    }
    Err(match asked {
        Ok(Err(error)) => error.into(),
        _ => WriteError::Unavailable("the root does not confirm the cluster map".to_owned()),
    })
}

/// Every group was tried or is broken: look again, then wait if waiting can help.
async fn wait_for_a_group(
    shared: &Shared,
    redundancy: Redundancy,
    backoff: &mut Backoff,
    last: &Problem,
) -> Result<(), WriteError> {
    let remaining = backoff.remaining(&shared.runtime);
    match within(remaining, shared.view.refresh()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(last.error()),
    }
    if !shared.view.could_choose(&shared.pools(redundancy)) || !backoff.wait(&shared.runtime).await
    {
        return Err(last.error());
    }
    Ok(())
}

/// A chunk under one id on its way to the disks of one group.
struct ChunkPut<'a> {
    choice: &'a Choice,
    id: ChunkId,
    owner: ChunkOwner,
    chunk: &'a CutChunk,
}

impl ChunkPut<'_> {
    /// Puts the chunk to some disks of the choice at once.
    async fn to(
        &self,
        shared: &Shared,
        disks: &[DiskId],
        copies: usize,
        remaining: Duration,
    ) -> Attempt {
        let put = |disk| {
            let put = PutChunk {
                id: self.id,
                owner: self.owner,
                pg_epoch: self.choice.group.epoch,
                blocks: self.chunk.blocks.clone(),
                background: false,
            };
            put_one(shared, disk, put)
        };
        ask_disks(shared, disks, copies, remaining, put).await
    }

    /// Puts the chunk to all disks of the choice. Nothing is wrong with those whose queues are full:
    /// another whole group is better than waiting for them, and waiting is better than fewer
    /// copies. `None` when time is up and nothing stood in the way but full queues.
    async fn patiently(
        &self,
        shared: &Shared,
        pools: &[u32],
        course: &mut Course,
        backoff: &mut Backoff,
    ) -> Option<Attempt> {
        let remaining = backoff.remaining(&shared.runtime);
        let (disks, copies) = (&self.choice.disks, self.choice.copies);
        let mut attempt = self.to(shared, disks, copies, remaining).await;
        while attempt.is_only_busy() {
            course.last.note(&attempt);
            course.busy.extend(attempt.busy_disks());
            if course.has_whole_group(shared, pools, &course.busy) {
                break;
            }
            if !backoff.wait(&shared.runtime).await {
                return None;
            }
            let remaining = backoff.remaining(&shared.runtime);
            self.again(shared, &mut attempt, remaining).await;
        }
        Some(attempt)
    }

    /// Puts it once more to those that had no room in their queues.
    async fn again(&self, shared: &Shared, attempt: &mut Attempt, remaining: Duration) {
        let failures = std::mem::take(&mut attempt.failures);
        let disks: Vec<DiskId> = failures.into_iter().map(|(disk, _)| disk).collect();
        let Attempt { acks, failures } = self.to(shared, &disks, disks.len(), remaining).await;
        attempt.acks.extend(acks);
        // A disk that was busy and then had less time than any other gets is still only busy.
        let cut_short = remaining < attempt_limit(shared);
        let judge = |(disk, error): (DiskId, BlobError)| match error {
            BlobError::Unreachable(_) if cut_short => (disk, BlobError::Busy(disk)),
            error => (disk, error),
        };
        attempt.failures = failures.into_iter().map(judge).collect();
    }
}

/// A chunk is about to be acknowledged with fewer copies than it should have: repair hears of it,
/// and whoever counted the copies has to count again.
fn note_degraded(shared: &Shared, choice: &Choice, chunk: ChunkId, attempt: &Attempt) {
    let copies = attempt.acks.len();
    shared.metrics.chunks_degraded.inc();
    tracing::debug!(%chunk, copies, "chunk stored below its redundancy");
    for disk in choice.group.staying() {
        if !attempt.acks.contains(&disk) {
            shared.hints.add(RepairHint { chunk, disk });
        }
    }
    shared.hints.note_uncounted();
}

/// An attempt may use a third of the time, so that two more groups can be tried.
fn attempt_limit(shared: &Shared) -> Duration {
    Duration::from_millis(shared.config.chunk_write_timeout_ms / 3)
}

/// Asks disks to make the same chunk durable, all at once. Once the write quorum has answered, the
/// others get a bounded time more.
pub(crate) async fn ask_disks<F>(
    shared: &Shared,
    disks: &[DiskId],
    copies: usize,
    remaining: Duration,
    ask: impl Fn(DiskId) -> F,
) -> Attempt
where
    F: Future<Output = (DiskId, Result<(), BlobError>)>,
{
    let mut answers: FuturesUnordered<_> = disks.iter().map(|&disk| ask(disk)).collect();
    let mut attempt = Attempt::default();
    let limit = attempt_limit(shared).min(remaining);
    let straggler_wait = Duration::from_millis(shared.config.straggler_wait_ms);
    let began = shared.runtime.monotonic();
    let mut until = began + limit;
    let mut pending: Vec<DiskId> = disks.to_vec();
    while !answers.is_empty() {
        let left = until.saturating_sub(shared.runtime.monotonic());
        let Ok(Some((disk, answer))) = within(left, answers.next()).await else {
            break;
        };
        pending.retain(|&waiting| waiting != disk);
        match answer {
            Ok(()) => {
                shared.view.note_written(disk);
                attempt.acks.push(disk);
            }
            Err(error) => attempt.failures.push((disk, error)),
        }
        if attempt.acks.len() >= write_quorum(copies) {
            // Where all disks are slow, the last one is no worse than the others.
            let now = shared.runtime.monotonic();
            let usual = now.saturating_sub(began) * STRAGGLER_TIMES;
            until = until.min(now + straggler_wait.max(usual));
        }
    }
    let late = |disk| (disk, BlobError::Unreachable("no answer in time".to_owned()));
    attempt.failures.extend(pending.into_iter().map(late));
    attempt
}

impl Attempt {
    /// True when nothing stood in the way but full queues.
    fn is_only_busy(&self) -> bool {
        let busy = |(_, error): &(DiskId, BlobError)| error.kind() == ErrorKind::Busy;
        !self.failures.is_empty() && self.failures.iter().all(busy)
    }

    /// True when a disk knew of a change of the group's members that this process did not.
    fn is_outdated(&self) -> bool {
        let stale = |error: &BlobError| matches!(error, BlobError::StaleEpoch { .. });
        self.failures.iter().any(|(_, error)| stale(error))
    }

    /// Disks whose queues are full.
    fn busy_disks(&self) -> impl Iterator<Item = DiskId> {
        let busy = |error: &BlobError| error.kind() == ErrorKind::Busy;
        let failures = self.failures.iter();
        failures.filter_map(move |(disk, error)| busy(error).then_some(*disk))
    }

    /// Disks that are to blame. One that knew a newer map is not: it will do as soon as the map
    /// is read again. Nor is one whose queue is full.
    fn failed_disks(&self) -> impl Iterator<Item = DiskId> {
        let to_blame = |error: &BlobError| {
            error.kind() != ErrorKind::Busy && !matches!(error, BlobError::StaleEpoch { .. })
        };
        let failures = self.failures.iter();
        failures.filter_map(move |(disk, error)| to_blame(error).then_some(*disk))
    }
}

async fn put_one(shared: &Shared, disk: DiskId, put: PutChunk) -> (DiskId, Result<(), BlobError>) {
    let Some(node) = shared.view.node_of(disk) else {
        let what = "its node is not known here".to_owned();
        return (disk, Err(BlobError::Unreachable(what)));
    };
    (disk, node.put(disk, put).await)
}

/// Remembers which disks to avoid, and reads the map again when a disk knew a newer one.
pub(crate) async fn note_failures(shared: &Shared, attempt: &Attempt) {
    for (disk, error) in &attempt.failures {
        tracing::debug!(%disk, %error, "chunk not stored");
        shared.view.note_error(*disk, error);
    }
    if !attempt.is_outdated() {
        return;
    }
    match within(ROOT_LIMIT, shared.view.refresh_map()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cluster map not refreshed"),
        Err(late) => tracing::debug!(%late, "cluster map not refreshed"),
    }
}

fn extent(id: ChunkId, choice: &Choice, chunk: &CutChunk) -> pb::state::Extent {
    pb::state::Extent {
        chunk: bytes::Bytes::copy_from_slice(&id.to_bytes()),
        length: chunk.length,
        digest: chunk.digest,
        code: 0,
        transform: 0,
        pool: choice.group.pool,
    }
}
