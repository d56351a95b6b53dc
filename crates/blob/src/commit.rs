//! The two tasks behind a disk's queue: one appends, one makes durable, indexes and answers.
//!
//! While one sync runs, the next batches are appended; whoever waits is answered by the first sync
//! that began after its append. Batches are indexed in the order they were appended.

use std::collections::VecDeque;
use std::sync::Arc;

use granary_blob_api::BlobError;
use granary_kv::KvError;
use granary_runtime::GroupCommit;
use tokio::sync::mpsc;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::work::{Batch, Change, Job};
use crate::writer::{Writer, refuse, reply};

/// Jobs the writer takes from the queue at once.
const JOBS_MAX: usize = 256;
/// Batches that may be appended ahead of the one that is being synced.
const BATCHES_MAX: usize = 8;

/// Starts both tasks; they end with the disk's runtime.
pub(crate) fn start(disk: &Arc<Disk>, writer: Writer, jobs: mpsc::Receiver<Job>) {
    let (batches, appended) = mpsc::channel(BATCHES_MAX);
    let syncing = Arc::clone(disk);
    let syncs = GroupCommit::start(disk.runtime(), Arc::<str>::from("stopped"), move || {
        syncing
            .sync_active()
            .map_err(|error| Arc::from(error.to_string()))
    });
    disk.runtime()
        .spawn(append(Arc::clone(disk), writer, jobs, batches));
    disk.runtime()
        .spawn(commit(Arc::clone(disk), syncs, appended));
}

async fn append(
    disk: Arc<Disk>,
    mut writer: Writer,
    mut queue: mpsc::Receiver<Job>,
    batches: mpsc::Sender<Batch>,
) {
    let mut received = Vec::new();
    let mut jobs = VecDeque::new();
    loop {
        if jobs.is_empty() {
            let count = tokio::select! {
                count = queue.recv_many(&mut received, JOBS_MAX) => count,
                () = disk.runtime().shutdown().cancelled() => 0,
            };
            if count == 0 {
                queue.close();
                return;
            }
            jobs.extend(received.drain(..));
        }
        let appended = disk
            .runtime()
            .blocking(move || {
                let batch = writer.append(&mut jobs);
                (writer, jobs, batch)
            })
            .await;
        let batch = match appended {
            Ok((kept_writer, kept_jobs, batch)) => {
                (writer, jobs) = (kept_writer, kept_jobs);
                batch
            }
            Err(_) => {
                // The writer is gone: nothing can be written any more.
                disk.fail(&DiskError::Io(std::io::ErrorKind::BrokenPipe.into()));
                queue.close();
                return;
            }
        };
        if let Some(batch) = batch
            && batches.send(batch).await.is_err()
        {
            refuse(jobs.drain(..), &disk.out_of_service());
            return;
        }
    }
}

async fn commit(
    disk: Arc<Disk>,
    syncs: GroupCommit<Arc<str>>,
    mut appended: mpsc::Receiver<Batch>,
) {
    let mut batches = Vec::new();
    let mut unsynced_index_bytes = 0;
    while appended.recv_many(&mut batches, BATCHES_MAX).await > 0 {
        let bytes: u64 = batches.iter().map(Batch::bytes).sum();
        let durable = bytes == 0 || syncs.synced().await.is_ok();
        if !durable || disk.is_failed() {
            answer(&disk, batches.drain(..), &Err(disk.out_of_service()));
            continue;
        }
        unsynced_index_bytes += bytes;
        let checkpoint = unsynced_index_bytes >= disk.config().checkpoint_bytes;
        let indexing = Arc::clone(&disk);
        let taken = std::mem::take(&mut batches);
        let indexed = disk
            .runtime()
            .blocking(move || {
                let outcome = index(&indexing, &taken, checkpoint);
                (taken, outcome)
            })
            .await;
        let Ok((taken, outcome)) = indexed else {
            disk.fail(&DiskError::Io(std::io::ErrorKind::BrokenPipe.into()));
            return;
        };
        if checkpoint {
            unsynced_index_bytes = 0;
        }
        let outcome = outcome.map_err(|error| {
            disk.fail(&DiskError::Index(error));
            disk.out_of_service()
        });
        answer(&disk, taken.into_iter(), &outcome);
    }
}

impl Batch {
    fn bytes(&self) -> u64 {
        let used = |change: &Change| match change {
            Change::Used(_, bytes) => *bytes,
            _ => 0,
        };
        self.changes.iter().map(used).sum()
    }
}

fn index(disk: &Disk, batches: &[Batch], checkpoint: bool) -> Result<(), KvError> {
    let Some(last) = batches.iter().rev().find(|batch| !batch.changes.is_empty()) else {
        return Ok(());
    };
    let mut update = disk.index().update();
    for change in batches.iter().flat_map(|batch| &batch.changes) {
        match change {
            Change::Used(volume, bytes) => update.used(*volume, *bytes),
            Change::Chunk(at, header) => update.chunk(*at, header)?,
            Change::Tombstone(at, tombstone) => update.tombstone(*at, tombstone)?,
            Change::Forget(id, seq) => update.forget(*id, *seq)?,
            Change::Epoch(volume, epoch) => update.epoch(*volume, *epoch)?,
        }
    }
    update.commit(last.place, last.next_seq)?;
    if checkpoint {
        disk.index().checkpoint()?;
    }
    Ok(())
}

fn answer(disk: &Disk, batches: impl Iterator<Item = Batch>, outcome: &Result<(), BlobError>) {
    for batch in batches {
        disk.pending().settle(batch.number);
        for (waiting, room) in batch.answers {
            reply(waiting, outcome.clone());
            drop(room);
        }
    }
}
