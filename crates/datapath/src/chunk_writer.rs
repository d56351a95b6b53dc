//! One chunk to the disks of a placement group, and to another group when a disk fails.
//!
//! Invariant: a reference is handed out only after every member of a whole group, or, while no
//! group is whole, the write quorum, has said that the bytes are durable.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use granary_blob_api::{BlobError, ChunkOwner, ErrorKind, PutChunk};
use granary_meta_api::pb;
use granary_placement::write_quorum;
use granary_runtime::{Backoff, within};
use granary_types::{ChunkId, DiskId, Redundancy};

use crate::Shared;
use crate::cluster::Choice;
use crate::digest::CutChunk;
use crate::error::WriteError;
use crate::session::WriteOwner;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Groups tried before a pause.
const GROUPS_PER_ROUND: usize = 8;

/// What became of one attempt in one group.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Disks that made it durable.
    pub(crate) acks: usize,
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
    // Groups, and disks, that this chunk was tried on in vain: a group that shares such a disk
    // with the one before is no better than it.
    let (mut tried, mut failed) = (Vec::new(), Vec::new());
    let mut last = Problem::default();
    loop {
        let pools = shared.pools(redundancy);
        let seed = shared.runtime.entropy().next_u64();
        let choice = (tried.len() < GROUPS_PER_ROUND)
            .then(|| shared.view.choose(&pools, seed, &tried, &failed))
            .flatten();
        let Some(choice) = choice else {
            wait_for_a_group(shared, redundancy, &mut backoff, &last).await?;
            tried.clear();
            failed.clear();
            continue;
        };
        let id = ChunkId::new(choice.group.id, shared.runtime.entropy().next_u128());
        let attempt = put_to(
            shared,
            &choice,
            id,
            owner.of_chunks(),
            chunk,
            backoff.remaining(&shared.runtime),
        )
        .await;
        if attempt.acks >= choice.copies {
            return Ok(extent(id, &choice, chunk));
        }
        tried.push(choice.group.id);
        failed.extend(attempt.failed_disks());
        last.note(&attempt);
        note_failures(shared, &attempt).await;
        if attempt.acks >= write_quorum(choice.copies)
            && !shared.view.has_whole_group(&pools, &tried, &failed)
        {
            shared.metrics.chunks_degraded.inc();
            tracing::debug!(chunk = %id, copies = attempt.acks, "chunk stored below its redundancy");
            return Ok(extent(id, &choice, chunk));
        }
        owner.abandon(id);
        shared.metrics.chunks_rewritten.inc();
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

/// Puts the chunk to every disk of the choice at once.
async fn put_to(
    shared: &Shared,
    choice: &Choice,
    id: ChunkId,
    owner: ChunkOwner,
    chunk: &CutChunk,
    remaining: Duration,
) -> Attempt {
    let put = |disk| {
        let put = PutChunk {
            id,
            owner,
            pg_epoch: choice.group.epoch,
            blocks: chunk.blocks.clone(),
        };
        put_one(shared, disk, put)
    };
    ask_disks(shared, &choice.disks, choice.copies, remaining, put).await
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
    // An attempt may use a third of the time, so that two more groups can be tried.
    let limit = Duration::from_millis(shared.config.chunk_write_timeout_ms / 3).min(remaining);
    let straggler_wait = Duration::from_millis(shared.config.straggler_wait_ms);
    let mut until = shared.runtime.monotonic() + limit;
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
                attempt.acks += 1;
            }
            Err(error) => attempt.failures.push((disk, error)),
        }
        if attempt.acks >= write_quorum(copies) {
            until = until.min(shared.runtime.monotonic() + straggler_wait);
        }
    }
    let late = |disk| (disk, BlobError::Unreachable("no answer in time".to_owned()));
    attempt.failures.extend(pending.into_iter().map(late));
    attempt
}

impl Attempt {
    /// Disks that are to blame. One that knew a newer map is not: it will do as soon as the map
    /// is read again.
    fn failed_disks(&self) -> impl Iterator<Item = DiskId> {
        let to_blame = |error: &BlobError| !matches!(error, BlobError::StaleEpoch { .. });
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
    let mut stale = false;
    for (disk, error) in &attempt.failures {
        tracing::debug!(%disk, %error, "chunk not stored");
        shared.view.note_error(*disk, error);
        stale |= matches!(error, BlobError::StaleEpoch { .. });
    }
    if stale && let Err(error) = shared.view.refresh_map().await {
        tracing::debug!(%error, "cluster map not refreshed");
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
