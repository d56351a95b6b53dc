//! Gives back the room of dead records, one volume at a time, while reads and writes go on.
//!
//! What lives in a volume is written again at the tail, through the same queue as everything else;
//! then the index is made durable and the file removed. It can stop anywhere and begin again: what
//! was moved is dead in the old volume. A tombstone goes along while it is not forgotten, and also
//! after that as long as an older volume holds a dead record of any chunk.

mod choice;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use granary_blob_api::BlobError;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{
    Header, Kind, PgEpoch, Tombstone, VOLUME_HEADER_BYTES, VolumeStats, decode_epochs,
    decode_tombstones,
};
use crate::index::Place;
use crate::volumes::{Found, Scan, was_never_used};
use crate::work::{MovedChunk, Work};

pub(crate) use choice::reclaimable_bytes;

/// Bytes of live records that one step moves, at least one record.
const STEP_BYTES: u64 = 4 << 20;
/// Headers that one step looks at, at most.
const STEP_RECORDS: usize = 1024;

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Bytes of records that were written again.
    pub moved_bytes: u64,
    /// Bytes of the volume that is gone; 0 when it had to stay because of damaged records.
    pub freed_bytes: u64,
}

/// A volume that could not be emptied, or had to stay. It is tried again when something in it
/// changed.
#[derive(Debug)]
pub(crate) struct Stuck {
    /// Its account then.
    stats: VolumeStats,
    /// It stayed because older volumes hold dead chunks, and is tried again when none does.
    waits_for_older: bool,
}

/// What one step found to move.
#[derive(Default)]
struct Step {
    chunks: Vec<MovedChunk>,
    /// Together: they fill records that way.
    tombstones: Vec<Tombstone>,
    epochs: Vec<PgEpoch>,
    bytes: u64,
    /// A record could not be read that may have held notes.
    notes_lost: bool,
    done: bool,
}

impl Step {
    fn work(self, volume: u32) -> Vec<Work> {
        let mut work: Vec<Work> = self.chunks.into_iter().map(Work::Move).collect();
        if !self.tombstones.is_empty() {
            work.push(Work::MoveTombstones(volume, self.tombstones));
        }
        if !self.epochs.is_empty() {
            work.push(Work::MoveEpochs(volume, self.epochs));
        }
        work
    }
}

/// What is left of a volume whose live records were moved.
struct Emptied {
    moved_bytes: u64,
    /// It had records that could not be read and may have held notes.
    notes_lost: bool,
}

/// How fast a compaction may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Throttled,
    Unthrottled,
}

/// Compacts a disk now and then until its runtime stops.
pub(crate) async fn run(disk: Arc<Disk>) {
    let interval = disk.config().compact_interval;
    while !disk.is_failed() {
        tokio::select! {
            () = disk.runtime().sleep(interval) => {}
            () = disk.runtime().shutdown().cancelled() => return,
        }
        loop {
            let compacted = tokio::select! {
                compacted = compact_one(&disk, Pace::Throttled) => compacted,
                () = disk.runtime().shutdown().cancelled() => return,
            };
            match compacted {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) if disk.is_closing() => return,
                Err(error) => {
                    tracing::warn!(disk = disk.id().0, %error, "compaction stopped for now");
                    break;
                }
            }
        }
    }
}

/// Compacts the volume with the largest dead share, if one is worth it now.
pub(crate) async fn compact_one(
    disk: &Arc<Disk>,
    pace: Pace,
) -> Result<Option<Compaction>, BlobError> {
    let _one_at_a_time = disk.compacting.lock().await;
    disk.check_usable()?;
    disk.look().await;
    disk.check_usable()?;
    let Some(volume) = choice::pick(disk).map(|candidate| candidate.volume) else {
        return Ok(None);
    };
    // Ends the volume when it is the active one; and everything written to it is indexed now.
    disk.submit(Work::Seal(volume)).await?;
    // Before it is read: what changes while it is read is looked at again.
    let seen = disk.index().stats(volume);
    let outcome = empty(disk, volume, pace).await?;
    let moved_bytes = outcome.as_ref().map_or(0, |emptied| emptied.moved_bytes);
    let removing = Arc::clone(disk);
    let stuck = match outcome {
        Some(Emptied { notes_lost, .. }) => {
            blocking(disk, move || remove(&removing, volume, notes_lost)).await?
        }
        None => Some(Stuck {
            stats: seen,
            waits_for_older: false,
        }),
    };
    let freed_bytes = match stuck {
        None => {
            disk.stuck.lock().remove(&volume);
            disk.metrics().compacted(moved_bytes, seen.used_bytes);
            seen.used_bytes
        }
        Some(stuck) => {
            if disk.stuck.lock().insert(volume, stuck).is_none() {
                let disk = disk.id().0;
                tracing::error!(disk, volume, "volume has unreadable records and stays");
            }
            0
        }
    };
    Ok(Some(Compaction {
        moved_bytes,
        freed_bytes,
    }))
}

async fn blocking<T: Send + 'static>(
    disk: &Arc<Disk>,
    call: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, BlobError> {
    match disk.runtime().blocking(call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(disk.doubt(error)),
        Err(_) => Err(disk.out_of_service()),
    }
}

/// Moves everything that lives in a volume; `None` when it cannot be read.
async fn empty(disk: &Arc<Disk>, volume: u32, pace: Pace) -> Result<Option<Emptied>, BlobError> {
    let mut offset = VOLUME_HEADER_BYTES;
    let (mut moved_bytes, mut notes_lost) = (0, false);
    loop {
        let reading = Arc::clone(disk);
        let read = disk
            .runtime()
            .blocking(move || {
                let step = next_step(&reading, volume, &mut offset);
                (step, offset)
            })
            .await
            .map_err(|_| disk.out_of_service())?;
        let (step, next_offset) = read;
        offset = next_offset;
        let step = match step {
            Ok(Some(step)) => step,
            Ok(None) => return Ok(None),
            Err(error @ (DiskError::Index(_) | DiskError::Shortage(_))) => {
                return Err(disk.doubt(error));
            }
            Err(error) => {
                tracing::error!(disk = disk.id().0, volume, %error, "cannot read volume");
                let probing = Arc::clone(disk);
                let probed = disk.runtime().blocking(move || probing.probe()).await;
                probed.map_err(|_| disk.out_of_service())??;
                return Ok(None);
            }
        };
        moved_bytes += step.bytes;
        notes_lost |= step.notes_lost;
        let (bytes, done) = (step.bytes, step.done);
        // At once, so that they share a sync; the queue bounds them.
        try_join_all(step.work(volume).into_iter().map(|work| disk.submit(work))).await?;
        if done {
            return Ok(Some(Emptied {
                moved_bytes,
                notes_lost,
            }));
        }
        if pace == Pace::Throttled {
            let per_sec = disk.config().compact_bytes_per_sec;
            let pause = Duration::from_micros(bytes.saturating_mul(1_000_000) / per_sec);
            disk.runtime().sleep(pause).await;
        }
    }
}

/// The next records to move. Blocks.
fn next_step(disk: &Disk, volume: u32, offset: &mut u64) -> Result<Option<Step>, DiskError> {
    let file = disk.volumes().open(volume)?;
    let Some(header) = disk.volumes().header(volume, file.as_ref())? else {
        // Without its header nothing of a volume can be made out; one without a byte has nothing.
        return Ok(was_never_used(file.as_ref())?.then_some(Step {
            done: true,
            ..Step::default()
        }));
    };
    let mut scan = Scan::new(file, header.seal, *offset)?;
    let mut step = Step::default();
    for _ in 0..STEP_RECORDS {
        if step.bytes >= STEP_BYTES {
            break;
        }
        match scan.next()? {
            None => {
                step.done = true;
                break;
            }
            Some(Found::Gap { .. }) => step.notes_lost = true,
            Some(Found::Record { offset, header }) => {
                step.take(disk, &scan, Place { volume, offset }, &header)?;
            }
        }
    }
    *offset = scan.offset();
    Ok(Some(step))
}

impl Step {
    /// Takes along what lives in a record.
    fn take(
        &mut self,
        disk: &Disk,
        scan: &Scan,
        at: Place,
        header: &Header,
    ) -> Result<(), DiskError> {
        match header.kind {
            Kind::Void => return Ok(()),
            Kind::Chunk => {
                let entry = disk.index().get(header.id)?;
                let lives = entry.is_some_and(|entry| {
                    entry.is_live() && (entry.volume, entry.offset) == (at.volume, at.offset)
                });
                if !lives {
                    return Ok(());
                }
                self.chunks.push(MovedChunk {
                    from: at,
                    header: *header,
                    body: Bytes::from(scan.body(at.offset, header)?),
                });
            }
            Kind::Tombstones | Kind::PgEpochs => {
                let body = scan.body(at.offset, header)?;
                if !header.body_is_intact(&body) {
                    self.notes_lost = true;
                } else if header.kind == Kind::Tombstones {
                    self.tombstones.extend(decode_tombstones(&body));
                } else {
                    self.epochs.extend(decode_epochs(&body));
                }
            }
        }
        self.bytes += header.span();
        Ok(())
    }
}

/// Removes an emptied volume; it stays when the index still points into it, or when notes were lost
/// in it that an older volume's dead chunks may need: what cannot be read now may be readable when
/// the index is made anew. Blocks.
fn remove(disk: &Disk, volume: u32, notes_lost: bool) -> Result<Option<Stuck>, DiskError> {
    let stats = disk.index().stats(volume);
    let waits_for_older = notes_lost && disk.index().has_dead_chunks(volume, volume);
    if stats.live_chunks > 0 || stats.live_notes > 0 || waits_for_older {
        return Ok(Some(Stuck {
            stats,
            waits_for_older,
        }));
    }
    // The index must know the new places for good before the old ones are gone.
    disk.index().checkpoint()?;
    disk.volumes().remove(volume)?;
    disk.index().drop_volume(volume)?;
    Ok(None)
}
