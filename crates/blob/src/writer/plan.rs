//! Decides about jobs and lays out their records, before anything is written.

use std::io::IoSlice;

use bytes::Bytes;
use granary_blob_api::{BlobError, Block};
use granary_kv::KvError;
use granary_types::{ChunkId, PgId};
use tokio::sync::OwnedSemaphorePermit;

use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{
    HEADER_BYTES, Header, Kind, NOTE_BYTES, PAGE_BYTES, PgEpoch, State, TOMBSTONES_PER_RECORD,
    Tombstone, block_sum, chunk_record_bytes, encode_epochs, encode_tombstones, pages,
};
use crate::index::Place;
use crate::work::{Answer, Change, Current, Job, MovedChunk, NewChunk, Work};
use crate::writer::reply;

const PADDING: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// Pages that `count` tombstones or epochs may take, at most.
fn note_bytes(count: usize) -> u64 {
    let records = count.div_ceil(TOMBSTONES_PER_RECORD) as u64;
    records * (HEADER_BYTES as u64 + PAGE_BYTES) + (count * NOTE_BYTES) as u64
}

/// Bytes of a volume that some work may take, at most. Jobs of a batch share records of notes, so
/// the sum over jobs is an upper bound.
pub(crate) fn work_bytes(work: &Work) -> u64 {
    match work {
        Work::Put(chunk) => pages(chunk_record_bytes(chunk.length)),
        Work::Move(moved) => moved.header.span(),
        Work::Delete(_, ids) | Work::Evict(_, ids) => note_bytes(ids.len()),
        Work::MoveTombstones(_, tombstones) => note_bytes(tombstones.len()),
        Work::MoveEpochs(_, epochs) => note_bytes(epochs.len()),
        Work::OpenPg(_) => note_bytes(1),
        Work::Forget(..) | Work::Seal(_) => 0,
    }
}

/// The body of a record on its way to the disk.
enum Body {
    /// Blocks and their stored checksums.
    Blocks(Vec<(Block, [u8; 4])>),
    Raw(Bytes),
}

/// A record on its way to the disk.
pub(super) struct Record {
    header: [u8; HEADER_BYTES],
    length: u64,
    body: Body,
}

impl Record {
    fn new(header: &Header, body: Body) -> Self {
        Self {
            header: header.encode(),
            length: header.length,
            body,
        }
    }

    pub(super) fn span(&self) -> u64 {
        pages(self.length)
    }

    fn slices<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>) {
        slices.push(IoSlice::new(&self.header));
        match &self.body {
            Body::Raw(body) => slices.push(IoSlice::new(body)),
            Body::Blocks(blocks) => {
                for (block, sum) in blocks {
                    slices.push(IoSlice::new(sum));
                    slices.push(IoSlice::new(&block.data));
                }
            }
        }
        let padding = (self.span() - self.length) as usize;
        slices.push(IoSlice::new(&PADDING[..padding]));
    }
}

/// Jobs turned into records.
pub(super) struct Planned {
    pub(super) records: Vec<Record>,
    pub(super) changes: Vec<Change>,
    pub(super) answers: Vec<(Answer, OwnedSemaphorePermit)>,
    pub(super) next_seq: u64,
    pub(super) seal_volume: Option<u32>,
}

impl Planned {
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::new();
        for record in &self.records {
            record.slices(&mut slices);
        }
        slices
    }
}

pub(super) struct Plan<'a> {
    disk: &'a Disk,
    batch: u64,
    /// Where the next record goes.
    at: Place,
    seal: u64,
    next_seq: u64,
    tombstones: Vec<Tombstone>,
    epochs: Vec<PgEpoch>,
    forgotten: Vec<(ChunkId, u64)>,
    planned: Planned,
}

/// What becomes of one job: an answer now, or one with the batch.
type Decision = Result<Result<(), BlobError>, KvError>;

impl<'a> Plan<'a> {
    pub(super) fn new(disk: &'a Disk, batch: u64, at: Place, seal: u64, next_seq: u64) -> Self {
        Self {
            disk,
            batch,
            at,
            seal,
            next_seq,
            tombstones: Vec::new(),
            epochs: Vec::new(),
            forgotten: Vec::new(),
            planned: Planned {
                records: Vec::new(),
                changes: Vec::new(),
                answers: Vec::new(),
                next_seq,
                seal_volume: None,
            },
        }
    }

    /// Decides about a job. An error is one of the index, and final for the disk.
    pub(super) fn add(&mut self, job: Job) -> Result<(), DiskError> {
        let Job { work, answer, room } = job;
        if work.needs_room() && self.disk.is_full() {
            reply(answer, Err(BlobError::DiskFull(self.disk.id())));
            return Ok(());
        }
        let compacts = work.is_compaction();
        let before = self.decided();
        let decision = match work {
            Work::Put(chunk) => self.put(chunk),
            Work::Delete(known, ids) => self.delete(known, ids),
            Work::Forget(known, ids) => self.forget(known, ids),
            Work::Evict(known, ids) => self.evict(known, ids),
            Work::OpenPg(epoch) => self.open_pg(epoch),
            Work::Move(moved) => self.move_chunk(moved),
            Work::MoveTombstones(from, tombstones) => self.move_tombstones(from, tombstones),
            Work::MoveEpochs(from, epochs) => self.move_epochs(from, epochs),
            Work::Seal(volume) => {
                self.planned.seal_volume = Some(volume);
                Ok(Ok(()))
            }
        };
        if !compacts && self.decided() > before {
            self.disk.note_change();
        }
        match decision {
            Ok(Ok(())) => self.planned.answers.push((answer, room)),
            Ok(Err(refusal)) => reply(answer, Err(refusal)),
            Err(error) => {
                reply(answer, Err(BlobError::DiskFailed(self.disk.id())));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Changes so far.
    fn decided(&self) -> usize {
        let notes = self.tombstones.len() + self.epochs.len() + self.forgotten.len();
        self.planned.records.len() + notes
    }

    pub(super) fn refuse_all(self, reason: &BlobError) {
        for (answer, _) in self.planned.answers {
            reply(answer, Err(reason.clone()));
        }
    }

    /// Lays out the notes behind the chunks: a tombstone comes after every record of its chunk.
    pub(super) fn finish(mut self) -> Planned {
        for some in std::mem::take(&mut self.tombstones).chunks(TOMBSTONES_PER_RECORD) {
            let at = self.note(Kind::Tombstones, encode_tombstones(some));
            let changes = some
                .iter()
                .map(|tombstone| Change::Tombstone(at, *tombstone));
            self.planned.changes.extend(changes);
        }
        for some in std::mem::take(&mut self.epochs).chunks(TOMBSTONES_PER_RECORD) {
            let at = self.note(Kind::PgEpochs, encode_epochs(some));
            let changes = some.iter().map(|epoch| Change::Epoch(at.volume, *epoch));
            self.planned.changes.extend(changes);
        }
        let forgotten = std::mem::take(&mut self.forgotten);
        let changes = forgotten
            .into_iter()
            .map(|(id, seq)| Change::Forget(id, seq));
        self.planned.changes.extend(changes);
        self.planned.next_seq = self.next_seq;
        self.planned
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn push(&mut self, record: Record) -> Place {
        let at = self.at;
        self.at.offset += record.span();
        self.planned
            .changes
            .push(Change::Used(at.volume, record.span()));
        self.planned.records.push(record);
        at
    }

    fn note(&mut self, kind: Kind, body: Vec<u8>) -> Place {
        let seq = self.seq();
        let header = Header::of_body(kind, self.seal, seq, &body);
        self.push(Record::new(&header, Body::Raw(body.into())))
    }

    fn current(&self, id: ChunkId) -> Result<Current, KvError> {
        if let Some(current) = self.disk.pending().chunk(id) {
            return Ok(current);
        }
        Ok(match self.disk.index().get(id)? {
            None => Current::Absent,
            Some(entry) => match entry.state {
                State::Live => Current::Live {
                    place: Place {
                        volume: entry.volume,
                        offset: entry.offset,
                    },
                    length: entry.length,
                    digest: entry.digest,
                    owner: entry.owner,
                },
                State::Deleted { .. } => Current::Deleted {
                    volume: entry.volume,
                    seq: entry.seq,
                },
            },
        })
    }

    fn set_current(&self, id: ChunkId, current: Current) {
        self.disk.pending().set_chunk(self.batch, id, current);
    }

    fn epoch(&self, pg: PgId) -> Result<u64, KvError> {
        match self.disk.pending().epoch(pg) {
            Some(epoch) => Ok(epoch),
            None => Ok(self.disk.index().epoch(pg)?.map_or(0, |entry| entry.epoch)),
        }
    }

    /// Refuses whoever knows the group at an older epoch than the disk does.
    fn check_epoch(&self, known: PgEpoch) -> Decision {
        let current = self.epoch(known.pg)?;
        if current == 0 || known.epoch < current {
            let pg = known.pg;
            return Ok(Err(BlobError::StaleEpoch { pg, current }));
        }
        Ok(Ok(()))
    }

    fn put(&mut self, chunk: NewChunk) -> Decision {
        let known = PgEpoch {
            pg: chunk.id.pg(),
            epoch: chunk.pg_epoch,
        };
        if let Err(stale) = self.check_epoch(known)? {
            return Ok(Err(stale));
        }
        let owner = match self.current(chunk.id)? {
            Current::Deleted { .. } => return Ok(Err(BlobError::ChunkDeleted(chunk.id))),
            Current::Live { length, digest, .. }
                if (length, digest) != (chunk.length, chunk.digest) =>
            {
                return Ok(Err(BlobError::ChunkExists(chunk.id)));
            }
            Current::Live { place, owner, .. } => match chunk.replaces {
                // A repeat: answered with this batch, whose sync covers the first one.
                None => return Ok(Ok(())),
                Some(damaged) if damaged == place => owner,
                // Moved meanwhile, or repaired: the next attempt looks there.
                Some(_) => return Ok(Err(BlobError::Busy(self.disk.id()))),
            },
            Current::Absent => chunk.owner,
        };
        let header = Header {
            kind: Kind::Chunk,
            seal: self.seal,
            length: chunk_record_bytes(chunk.length),
            seq: self.seq(),
            id: chunk.id,
            owner,
            payload: chunk.length,
            digest: chunk.digest,
        };
        let sealed = |(index, block): (usize, Block)| {
            let sum = block_sum(chunk.id, index as u32, block.crc32c);
            (block, sum)
        };
        let blocks = chunk.blocks.into_iter().enumerate().map(sealed).collect();
        self.add_chunk(&header, Body::Blocks(blocks));
        Ok(Ok(()))
    }

    fn add_chunk(&mut self, header: &Header, body: Body) {
        let place = self.push(Record::new(header, body));
        self.planned.changes.push(Change::Chunk(place, *header));
        let current = Current::Live {
            place,
            length: header.payload,
            digest: header.digest,
            owner: header.owner,
        };
        self.set_current(header.id, current);
    }

    fn delete(&mut self, known: PgEpoch, ids: Vec<ChunkId>) -> Decision {
        if let Err(stale) = self.check_epoch(known)? {
            return Ok(Err(stale));
        }
        for id in ids {
            let (owner, length, digest) = match self.current(id)? {
                Current::Deleted { .. } => continue,
                Current::Absent => (crate::format::NO_OWNER, 0, 0),
                Current::Live {
                    owner,
                    length,
                    digest,
                    ..
                } => (owner, length, digest),
            };
            let seq = self.seq();
            let volume = self.at.volume;
            self.tombstones.push(Tombstone {
                id,
                owner,
                length,
                digest,
                seq,
                origin: volume,
                forgotten: false,
            });
            self.set_current(id, Current::Deleted { volume, seq });
        }
        Ok(Ok(()))
    }

    /// Removes copies as if they had been deleted and forgotten at once: what stays is a note that
    /// keeps a rebuilt index from bringing them back.
    fn evict(&mut self, known: PgEpoch, ids: Vec<ChunkId>) -> Decision {
        let (pg, current) = (known.pg, self.epoch(known.pg)?);
        if known.epoch < current {
            return Ok(Err(BlobError::StaleEpoch { pg, current }));
        }
        for id in ids {
            match self.current(id)? {
                Current::Absent => continue,
                Current::Deleted { seq, .. } => self.forgotten.push((id, seq)),
                Current::Live {
                    owner,
                    length,
                    digest,
                    ..
                } => {
                    let seq = self.seq();
                    self.tombstones.push(Tombstone {
                        id,
                        owner,
                        length,
                        digest,
                        seq,
                        origin: self.at.volume,
                        forgotten: true,
                    });
                }
            }
            self.set_current(id, Current::Absent);
        }
        Ok(Ok(()))
    }

    fn forget(&mut self, known: PgEpoch, ids: Vec<ChunkId>) -> Decision {
        if let Err(stale) = self.check_epoch(known)? {
            return Ok(Err(stale));
        }
        for id in ids {
            if let Current::Deleted { seq, .. } = self.current(id)? {
                self.forgotten.push((id, seq));
                self.set_current(id, Current::Absent);
            }
        }
        Ok(Ok(()))
    }

    fn open_pg(&mut self, wanted: PgEpoch) -> Decision {
        let current = self.epoch(wanted.pg)?;
        if wanted.epoch < current || wanted.epoch == 0 {
            let pg = wanted.pg;
            return Ok(Err(BlobError::StaleEpoch { pg, current }));
        }
        if wanted.epoch > current {
            self.epochs.push(wanted);
            self.disk.pending().set_epoch(self.batch, wanted);
        }
        Ok(Ok(()))
    }

    fn move_chunk(&mut self, moved: MovedChunk) -> Decision {
        let current = self.current(moved.header.id)?;
        // Deleted, or moved already: the record is dead.
        if !matches!(current, Current::Live { place, .. } if place == moved.from) {
            return Ok(Ok(()));
        }
        let header = Header {
            seal: self.seal,
            ..moved.header
        };
        self.add_chunk(&header, Body::Raw(moved.body));
        Ok(Ok(()))
    }

    fn move_tombstones(&mut self, from: u32, tombstones: Vec<Tombstone>) -> Decision {
        for mut tombstone in tombstones {
            match self.current(tombstone.id)? {
                Current::Deleted { volume, seq } if seq == tombstone.seq => {
                    if volume != from {
                        continue;
                    }
                    let volume = self.at.volume;
                    self.set_current(tombstone.id, Current::Deleted { volume, seq });
                }
                // A later change of the chunk says more than this one.
                Current::Deleted { .. } | Current::Live { .. } => continue,
                Current::Absent => {
                    let index = self.disk.index();
                    if !index.has_dead_chunks(tombstone.origin, from) {
                        continue;
                    }
                    tombstone.forgotten = true;
                }
            }
            self.tombstones.push(tombstone);
        }
        Ok(Ok(()))
    }

    fn move_epochs(&mut self, from: u32, epochs: Vec<PgEpoch>) -> Decision {
        for epoch in epochs {
            let found = self.disk.index().epoch(epoch.pg)?;
            let current = self.epoch(epoch.pg)? == epoch.epoch;
            if current && found.is_some_and(|entry| entry.volume == from) {
                self.epochs.push(epoch);
            }
        }
        Ok(Ok(()))
    }
}
