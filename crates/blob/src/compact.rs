//! Gives back the room of dead records, one volume at a time, while reads and writes go on.
//!
//! What lives in a volume is written again at the tail, through the same queue as everything else;
//! then the index is made durable and the file removed. It can stop anywhere and begin again: what
//! was moved is dead in the old volume. A tombstone goes along while it is not forgotten, and also
//! after that as long as an older volume holds a dead record of any chunk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use granary_blob_api::BlobError;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{
    Header, Kind, VOLUME_HEADER_BYTES, VolumeStats, decode_epochs, decode_tombstones,
};
use crate::index::Place;
use crate::volumes::{Found, Scan, Search, was_never_used};
use crate::work::{MovedChunk, Work};

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

/// What is remembered between compactions of a disk.
#[derive(Debug, Default)]
pub(crate) struct Compacting {
    /// Volumes that could not be read well enough to be emptied, with their accounts then: tried
    /// again when something in them changed.
    stuck: HashMap<u32, VolumeStats>,
}

/// What one step found to move.
#[derive(Default)]
struct Step {
    work: Vec<Work>,
    bytes: u64,
    /// A record could not be read that may have held notes.
    notes_lost: bool,
    done: bool,
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

/// Compacts the volume with the largest dead share, if one is worth it.
pub(crate) async fn compact_one(
    disk: &Arc<Disk>,
    pace: Pace,
) -> Result<Option<Compaction>, BlobError> {
    let mut compacting = disk.compacting.lock().await;
    disk.check_usable()?;
    disk.look().await;
    disk.check_usable()?;
    let Some((volume, stats)) = pick(disk, &compacting.stuck) else {
        return Ok(None);
    };
    // Ends the volume when it is the active one; and everything written to it is indexed now.
    disk.submit(Work::Seal(volume)).await?;
    // Before it is read: what changes while it is read is looked at again.
    let seen = disk.index().stats(volume);
    let outcome = empty(disk, volume, pace).await?;
    let moved_bytes = outcome.as_ref().map_or(0, |emptied| emptied.moved_bytes);
    let removing = Arc::clone(disk);
    let left = match outcome {
        Some(Emptied { notes_lost, .. }) => {
            blocking(disk, move || remove(&removing, volume, notes_lost)).await?
        }
        None => Some(seen),
    };
    let freed_bytes = match left {
        None => {
            compacting.stuck.remove(&volume);
            disk.metrics().compacted(moved_bytes, stats.used_bytes);
            stats.used_bytes
        }
        Some(left) => {
            if compacting.stuck.insert(volume, left).is_none() {
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

/// The volume with the largest dead share above the threshold. A full disk takes what it can get,
/// the active volume only when it is worth ending.
fn pick(disk: &Disk, stuck: &HashMap<u32, VolumeStats>) -> Option<(u32, VolumeStats)> {
    let config = disk.config();
    let threshold = if disk.is_full() {
        5
    } else {
        u64::from(config.compact_dead_percent)
    };
    let active = disk.active_volume();
    let worth_ending = config.volume_bytes / 8;
    let percent = |stats: &VolumeStats| stats.dead_bytes() * 100 / stats.used_bytes.max(1);
    disk.index()
        .volumes()
        .into_iter()
        .filter(|(volume, stats)| {
            stuck.get(volume) != Some(stats)
                && stats.dead_bytes() > 0
                && percent(stats) >= threshold
                && (active != Some(*volume) || stats.dead_bytes() >= worth_ending)
        })
        .max_by_key(|(_, stats)| percent(stats))
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
        // At once, so that they share a sync; the queue bounds them.
        try_join_all(step.work.into_iter().map(|work| disk.submit(work))).await?;
        moved_bytes += step.bytes;
        notes_lost |= step.notes_lost;
        if step.done {
            return Ok(Some(Emptied {
                moved_bytes,
                notes_lost,
            }));
        }
        if pace == Pace::Throttled {
            let per_sec = disk.config().compact_bytes_per_sec;
            let pause = Duration::from_micros(step.bytes.saturating_mul(1_000_000) / per_sec);
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
    let mut scan = Scan::new(file, header.seal, *offset, Search::WholeFile)?;
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
                let at = Place { volume, offset };
                match work_for(disk, &scan, at, &header)? {
                    Fate::Moves(work) => {
                        step.bytes += header.span();
                        step.work.push(work);
                    }
                    Fate::Dead => {}
                    Fate::NotesLost => step.notes_lost = true,
                }
            }
        }
    }
    *offset = scan.offset();
    Ok(Some(step))
}

/// What becomes of a record.
enum Fate {
    Moves(Work),
    Dead,
    /// It holds notes that cannot be read any more.
    NotesLost,
}

fn work_for(disk: &Disk, scan: &Scan, at: Place, header: &Header) -> Result<Fate, DiskError> {
    match header.kind {
        Kind::Void => Ok(Fate::Dead),
        Kind::Chunk => {
            let entry = disk.index().get(header.id)?;
            let lives = entry.is_some_and(|entry| {
                entry.is_live() && (entry.volume, entry.offset) == (at.volume, at.offset)
            });
            if !lives {
                return Ok(Fate::Dead);
            }
            let body = Bytes::from(scan.body(at.offset, header)?);
            Ok(Fate::Moves(Work::Move(MovedChunk {
                from: at,
                header: *header,
                body,
            })))
        }
        Kind::Tombstones | Kind::PgEpochs => {
            let body = scan.body(at.offset, header)?;
            if !header.body_is_intact(&body) {
                return Ok(Fate::NotesLost);
            }
            Ok(Fate::Moves(if header.kind == Kind::Tombstones {
                Work::MoveTombstones(at.volume, decode_tombstones(&body))
            } else {
                Work::MoveEpochs(at.volume, decode_epochs(&body))
            }))
        }
    }
}

/// Removes an emptied volume; its account when the index still points into it, or when notes were
/// lost in it that an older volume's dead chunks may need: what cannot be read now may be readable
/// when the index is made anew. Blocks.
fn remove(disk: &Disk, volume: u32, notes_lost: bool) -> Result<Option<VolumeStats>, DiskError> {
    let stats = disk.index().stats(volume);
    let needed = notes_lost && disk.index().has_dead_chunks(volume, volume);
    if stats.live_chunks > 0 || stats.live_notes > 0 || needed {
        return Ok(Some(stats));
    }
    // The index must know the new places for good before the old ones are gone.
    disk.index().checkpoint()?;
    disk.volumes().remove(volume)?;
    disk.index().drop_volume(volume)?;
    Ok(None)
}
