//! Brings the index up to date with the volumes, and finds where the writer goes on.
//!
//! Only the newest volume can hold bytes that were never acknowledged: every other one was synced
//! whole when it ended, so what is damaged there is left as it is. The newest one's records behind
//! the place that the index reflects are read and verified; what is torn is cut off, or marked void
//! when records that must stay come after it. What was acknowledged is durable and whole, so none of
//! it is lost; what was not may stay or go. A record gets into the index only after the volume was
//! synced once more.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;

use granary_vfs::VfsFile;

use crate::error::DiskError;
use crate::format::{
    Header, IndexMeta, Kind, VOLUME_HEADER_BYTES, decode_epochs, decode_tombstones,
};
use crate::index::{Index, Place, Update};
use crate::volumes::{Found, Scan, Volumes, was_never_used};
use crate::writer::{Start, Tail};

/// Changes that one index batch of a replay takes, about.
const BATCH_CHANGES: usize = 4096;

/// A volume with a readable header.
struct Volume {
    id: u32,
    file: Arc<dyn VfsFile>,
    seal: u64,
    /// Where to begin.
    from: u64,
}

/// Recovers a disk. Blocks; may read every volume when the index was lost.
pub(crate) fn recover(
    volumes: &Volumes,
    index: &Index,
    meta: IndexMeta,
    volume_bytes: u64,
) -> Result<Start, DiskError> {
    volumes.prepare()?;
    let on_disk = volumes.list()?;
    let meta = distrust(volumes, index, meta, &on_disk)?;
    let mut replayed = readable(volumes, &meta, &on_disk)?;
    let mut next_seq = meta.next_seq;
    let mut end = Place {
        volume: meta.volume,
        offset: meta.offset,
    };
    let mut tail = None;
    if let Some(last) = replayed.pop() {
        for volume in &replayed {
            replay(index, volume, &mut next_seq)?;
        }
        // After a failed sync the system may hold bytes that never reached the disk and pass them
        // off as clean; a sync now would say nothing. What was written stays, what was lost shows.
        last.file.sync_data()?;
        last.file.drop_cache()?;
        let is_newest = on_disk.last() == Some(&last.id);
        if is_newest {
            mend(&last)?;
        }
        end = replay(index, &last, &mut next_seq)?;
        if end.offset < volume_bytes && is_newest {
            tail = Some(Tail {
                volume: last.id,
                seal: last.seal,
                allocated: last.file.len()?,
                file: last.file,
                offset: end.offset,
            });
        }
    }
    settle_accounts(volumes, index, meta, tail.as_ref())?;
    index.checkpoint()?;
    let accounts = index.volumes().last().map_or(0, |(volume, _)| *volume);
    let highest = accounts
        .max(meta.volume)
        .max(on_disk.last().copied().unwrap_or(0));
    Ok(Start {
        tail,
        end,
        next_volume: highest + 1,
        next_seq,
    })
}

/// An index that is ahead of the volumes reflects something else: it is made again.
fn distrust(
    volumes: &Volumes,
    index: &Index,
    meta: IndexMeta,
    on_disk: &[u32],
) -> Result<IndexMeta, DiskError> {
    if on_disk.contains(&meta.volume) {
        let length = volumes.open(meta.volume)?.len()?;
        if length < meta.offset {
            let (disk, volume) = (meta.disk.0, meta.volume);
            tracing::warn!(disk, volume, "index is ahead of its volume and is rebuilt");
            return Ok(index.clear()?);
        }
    }
    Ok(meta)
}

/// The volumes to replay. One without a readable header was never used, or is damaged.
fn readable(
    volumes: &Volumes,
    meta: &IndexMeta,
    on_disk: &[u32],
) -> Result<Vec<Volume>, DiskError> {
    let mut found = Vec::new();
    for id in on_disk.iter().copied().filter(|id| *id >= meta.volume) {
        let file = volumes.open(id)?;
        match volumes.header(id, file.as_ref())? {
            Some(header) => found.push(Volume {
                id,
                file,
                seal: header.seal,
                from: if id == meta.volume {
                    meta.offset.max(VOLUME_HEADER_BYTES)
                } else {
                    VOLUME_HEADER_BYTES
                },
            }),
            None if was_never_used(file.as_ref())? => volumes.remove(id)?,
            None => {
                let disk = meta.disk.0;
                tracing::error!(
                    disk,
                    volume = id,
                    "volume header is damaged, its chunks are out; the file is left alone"
                );
            }
        }
    }
    Ok(found)
}

/// Cuts the newest volume behind its last whole record and voids what is torn before it. However much
/// is damaged, the last record is looked for up to the end of the file: behind it is only what was
/// reserved.
fn mend(volume: &Volume) -> Result<(), DiskError> {
    let file = Arc::clone(&volume.file);
    let mut scan = Scan::new(file, volume.seal, volume.from)?;
    let mut torn = Vec::new();
    let mut end = volume.from;
    while let Some(found) = scan.next()? {
        match found {
            Found::Gap { offset, length } => torn.push((offset, length)),
            Found::Record { offset, header } => {
                if header.body_is_intact(&scan.body(offset, &header)?) {
                    end = scan.offset();
                } else {
                    torn.push((offset, header.span()));
                }
            }
        }
    }
    for (offset, length) in torn {
        if offset < end {
            let header = Header::void(volume.seal, length).encode();
            volume.file.write_at(offset, &[IoSlice::new(&header)])?;
        }
    }
    volume.file.set_len(end)?;
    // What was read may have been in the page cache only.
    volume.file.sync_data()?;
    Ok(())
}

/// Puts a volume's records into the index; returns where they end.
fn replay(index: &Index, volume: &Volume, next_seq: &mut u64) -> Result<Place, DiskError> {
    let file = Arc::clone(&volume.file);
    let mut scan = Scan::new(file, volume.seal, volume.from)?;
    let place = |offset| Place {
        volume: volume.id,
        offset,
    };
    loop {
        let mut update = index.update();
        let mut changes = 0;
        while changes < BATCH_CHANGES {
            let Some(found) = scan.next()? else {
                update.commit(place(scan.offset()), *next_seq)?;
                return Ok(place(scan.offset()));
            };
            match found {
                Found::Gap { length, .. } => update.used(volume.id, length),
                Found::Record { offset, header } => {
                    update.used(volume.id, header.span());
                    *next_seq = (*next_seq).max(header.seq + 1);
                    changes += apply(&mut update, &scan, place(offset), &header)?;
                }
            }
        }
        update.commit(place(scan.offset()), *next_seq)?;
    }
}

/// Does what a record did when it was written. Returns the number of changes.
fn apply(
    update: &mut Update<'_>,
    scan: &Scan,
    at: Place,
    header: &Header,
) -> Result<usize, DiskError> {
    if header.kind == Kind::Chunk {
        update.chunk(at, header)?;
    }
    if !matches!(header.kind, Kind::Tombstones | Kind::PgEpochs) {
        return Ok(1);
    }
    let body = scan.body(at.offset, header)?;
    if !header.body_is_intact(&body) {
        tracing::error!(
            volume = at.volume,
            offset = at.offset,
            "damaged record is left out"
        );
        return Ok(1);
    }
    if header.kind == Kind::Tombstones {
        let tombstones = decode_tombstones(&body);
        for tombstone in &tombstones {
            update.tombstone(at, tombstone)?;
        }
        Ok(tombstones.len())
    } else {
        let epochs = decode_epochs(&body);
        for epoch in &epochs {
            update.epoch(at.volume, *epoch)?;
        }
        Ok(epochs.len())
    }
}

/// Every account has a volume, and every volume that was read an account. What is in another one
/// nobody knows: it is not for the disk to remove it. The chunks of a volume that is gone are listed
/// as damaged from now on, so that others make them good; should it come back, so will they.
fn settle_accounts(
    volumes: &Volumes,
    index: &Index,
    meta: IndexMeta,
    tail: Option<&Tail>,
) -> Result<(), DiskError> {
    let on_disk = volumes.list()?;
    let accounts = index.volumes();
    let mut lost = BTreeSet::new();
    for (volume, stats) in &accounts {
        if on_disk.binary_search(volume).is_ok() {
            continue;
        }
        if stats.live_chunks == 0 && stats.live_notes == 0 {
            index.drop_volume(*volume)?;
        } else {
            let chunks = stats.live_chunks;
            let disk = meta.disk.0;
            tracing::error!(
                disk,
                volume,
                chunks,
                "volume is missing, its chunks are damaged"
            );
            if chunks > 0 {
                lost.insert(*volume);
            }
        }
    }
    if !lost.is_empty() {
        index.mark_volumes(&lost)?;
    }
    for volume in on_disk {
        let known = accounts
            .binary_search_by_key(&volume, |(id, _)| *id)
            .is_ok();
        if !known && tail.is_none_or(|tail| tail.volume != volume) {
            if was_never_used(volumes.open(volume)?.as_ref())? {
                volumes.remove(volume)?;
            } else if volume < meta.volume {
                let disk = meta.disk.0;
                tracing::warn!(
                    disk,
                    volume,
                    "volume is not in the index and is left alone: it was put back, or its header \
                     is damaged; make the index anew to read it, or move the file away"
                );
            }
        }
    }
    Ok(())
}
