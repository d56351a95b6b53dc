//! The one writer of a disk: decides, numbers and appends. Everything here blocks.
//!
//! A batch goes into one volume and either all of its records are there or none: after a failed
//! write the volume is cut back to where the batch began and ended. Decisions look at what is
//! written, indexed or not, so that the order of records is the order of decisions.

mod plan;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use granary_blob_api::BlobError;
use granary_vfs::VfsFile;

use crate::disk::Disk;
use crate::error::{DiskError, classify};
use crate::format::{PAGE_BYTES, VOLUME_HEADER_BYTES, pages};
use crate::index::Place;
use crate::work::{Answer, Batch, Job};
use plan::Plan;

pub(crate) use plan::work_bytes;

/// Bytes of jobs that one batch takes together at most; more would only delay the first ones.
const BATCH_BYTES: u64 = 16 << 20;
/// Room reserved ahead when the file system is short of it.
const SMALL_STEP_BYTES: u64 = 64 * 1024;

/// The volume that is written to.
pub(crate) struct Tail {
    pub(crate) volume: u32,
    pub(crate) seal: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) offset: u64,
    /// Length of the file.
    pub(crate) allocated: u64,
}

pub(crate) struct Writer {
    disk: Arc<Disk>,
    tail: Option<Tail>,
    /// Where the last record ended.
    end: Place,
    next_volume: u32,
    next_seq: u64,
    next_batch: u64,
}

/// Where a writer goes on.
pub(crate) struct Start {
    pub(crate) tail: Option<Tail>,
    pub(crate) end: Place,
    pub(crate) next_volume: u32,
    pub(crate) next_seq: u64,
}

impl Writer {
    pub(crate) fn new(disk: Arc<Disk>, start: Start) -> Self {
        disk.set_active(start.tail.as_ref());
        Self {
            disk,
            tail: start.tail,
            end: start.end,
            next_volume: start.next_volume,
            next_seq: start.next_seq,
            next_batch: 1,
        }
    }

    /// Takes jobs from the front of `jobs` and appends their records. Jobs that are refused, or
    /// that a failure hits, are answered here; the others with the batch. `None`: nothing to sync.
    pub(crate) fn append(&mut self, jobs: &mut VecDeque<Job>) -> Option<Batch> {
        if self.disk.is_failed() {
            refuse(jobs.drain(..), &BlobError::DiskFailed(self.disk.id()));
            return None;
        }
        let taken = match self.take_fitting(jobs) {
            Ok(taken) => taken,
            Err((taken, error)) => {
                self.fail_jobs(taken, error);
                return None;
            }
        };
        self.disk.refresh_space();
        let number = self.next_batch;
        self.next_batch += 1;
        let outcome = self.append_taken(number, taken);
        if outcome.is_none() {
            self.disk.pending().settle(number);
        }
        outcome
    }

    /// As many jobs as fit into the volume; begins a new volume when not even the first one does.
    #[allow(clippy::type_complexity, reason = "the error gives the jobs back")]
    fn take_fitting(
        &mut self,
        jobs: &mut VecDeque<Job>,
    ) -> Result<Vec<Job>, (Vec<Job>, DiskError)> {
        let mut taken: Vec<Job> = Vec::new();
        let mut bytes = 0;
        while let Some(job) = jobs.front() {
            let needed = work_bytes(&job.work);
            if needed > 0 && !self.fits(bytes, needed) {
                if !taken.is_empty() {
                    break;
                }
                if let Err(error) = self.begin_volume() {
                    taken.extend(jobs.pop_front());
                    return Err((taken, error));
                }
            }
            bytes += needed;
            taken.extend(jobs.pop_front());
        }
        Ok(taken)
    }

    /// Whether a batch of `bytes` can take `needed` more. An empty volume takes any first job.
    fn fits(&self, bytes: u64, needed: u64) -> bool {
        let Some(tail) = &self.tail else {
            return false;
        };
        if bytes == 0 && tail.offset == VOLUME_HEADER_BYTES {
            return true;
        }
        let room = self.disk.config().volume_bytes.saturating_sub(tail.offset);
        bytes + needed <= room && (bytes == 0 || bytes + needed <= BATCH_BYTES)
    }

    fn append_taken(&mut self, number: u64, taken: Vec<Job>) -> Option<Batch> {
        // Work that writes nothing may come while no volume is open.
        let (at, seal) = match &self.tail {
            Some(tail) => {
                let (volume, offset) = (tail.volume, tail.offset);
                (Place { volume, offset }, tail.seal)
            }
            None => (self.end, 0),
        };
        let disk = Arc::clone(&self.disk);
        let mut plan = Plan::new(&disk, number, at, seal, self.next_seq);
        for job in taken {
            if let Err(error) = plan.add(job) {
                disk.fail(&error);
                plan.refuse_all(&BlobError::DiskFailed(disk.id()));
                return None;
            }
        }
        let planned = plan.finish();
        self.next_seq = planned.next_seq;
        if planned.answers.is_empty() && planned.records.is_empty() {
            return None;
        }
        let bytes: u64 = planned.records.iter().map(|record| record.span()).sum();
        if bytes > 0
            && let Err(error) = self.write(at.offset, at.offset + bytes, &planned.slices())
        {
            let reason = self.answer_of(error);
            let answers = planned.answers.into_iter();
            answers.for_each(|(answer, _)| reply(answer, Err(reason.clone())));
            return None;
        }
        if let Some(volume) = planned.seal_volume
            && let Err(error) = self.end_volume_if(volume)
        {
            disk.fail(&error);
        }
        self.end = Place {
            volume: at.volume,
            offset: at.offset + bytes,
        };
        Some(Batch {
            number,
            changes: planned.changes,
            place: self.end,
            next_seq: self.next_seq,
            answers: planned.answers,
        })
    }

    /// Writes one run of records at the tail.
    fn write(&mut self, start: u64, end: u64, slices: &[IoSlice<'_>]) -> Result<(), DiskError> {
        let Some(tail) = self.tail.as_mut() else {
            return Err(DiskError::Io(io::ErrorKind::NotFound.into()));
        };
        let began = self.disk.runtime().monotonic();
        let limit = self.disk.config().volume_bytes;
        let step = self.disk.config().allocate_bytes;
        let written = reserve(tail, end, limit, step)
            .and_then(|()| tail.file.write_at(start, slices))
            .map_err(classify);
        match written {
            Ok(()) => {
                tail.offset = end;
                self.disk.metrics().appended(
                    end - start,
                    self.disk.runtime().monotonic().saturating_sub(began),
                );
                self.disk.set_active(self.tail.as_ref());
                Ok(())
            }
            Err(error @ (DiskError::NoSpace | DiskError::Shortage(_))) => {
                // What the failed write left must not be taken for records later.
                self.end_volume()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn end_volume_if(&mut self, volume: u32) -> Result<(), DiskError> {
        match &self.tail {
            Some(tail) if tail.volume == volume => self.end_volume(),
            _ => Ok(()),
        }
    }

    /// Cuts the active volume to its records and makes all of it durable; the next record begins
    /// another one.
    fn end_volume(&mut self) -> Result<(), DiskError> {
        if let Some(tail) = &self.tail {
            tail.file.set_len(tail.offset).map_err(DiskError::Io)?;
            self.disk.sync_file(tail.file.as_ref())?;
            self.tail = None;
            self.disk.set_active(None);
        }
        Ok(())
    }

    fn begin_volume(&mut self) -> Result<(), DiskError> {
        self.end_volume()?;
        self.disk.check_identity()?;
        let config = self.disk.config();
        let seal = self.disk.runtime().entropy().next_u64();
        let volumes = self.disk.volumes();
        let (volume, wanted) = (
            self.next_volume,
            config.allocate_bytes.min(config.volume_bytes),
        );
        // A failed creation may leave its name behind: the number is spent either way.
        self.next_volume += 1;
        let created = match volumes.create(volume, seal, wanted).map_err(classify) {
            Err(DiskError::NoSpace) => {
                let volume = self.next_volume;
                self.next_volume += 1;
                let created = volumes.create(volume, seal, PAGE_BYTES).map_err(classify);
                created.map(|file| (volume, file))
            }
            created => created.map(|file| (volume, file)),
        };
        let (volume, file) = created?;
        let allocated = file.len()?;
        self.tail = Some(Tail {
            volume,
            seal,
            file,
            offset: VOLUME_HEADER_BYTES,
            allocated,
        });
        self.disk.set_active(self.tail.as_ref());
        Ok(())
    }

    /// What clients hear of a failure; anything but a lack of room, descriptors or memory takes the
    /// disk out.
    fn answer_of(&self, error: DiskError) -> BlobError {
        match error {
            DiskError::NoSpace => {
                self.disk.set_full(true);
                BlobError::DiskFull(self.disk.id())
            }
            error => {
                if let DiskError::Shortage(error) = &error {
                    let disk = self.disk.id().0;
                    tracing::warn!(disk, %error, "no descriptor or memory to write with");
                    self.disk.metrics().refused_busy();
                }
                self.disk.doubt(error)
            }
        }
    }

    fn fail_jobs(&mut self, jobs: Vec<Job>, error: DiskError) {
        let reason = self.answer_of(error);
        refuse(jobs.into_iter(), &reason);
    }
}

/// Reserves room for records up to `end`: a step ahead, or just enough when room is short.
fn reserve(tail: &mut Tail, end: u64, limit: u64, step: u64) -> io::Result<()> {
    if end <= tail.allocated {
        return Ok(());
    }
    let ahead = (end.div_ceil(step) * step).min(limit).max(end);
    let enough = end.div_ceil(SMALL_STEP_BYTES) * SMALL_STEP_BYTES;
    for length in [ahead, enough, pages(end)] {
        match tail.file.allocate(length) {
            Ok(()) => {
                tail.allocated = length;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::StorageFull.into())
}

/// Answers a job; a caller that went away does not care.
pub(crate) fn reply(answer: Answer, outcome: Result<(), BlobError>) {
    let _ = answer.send(outcome);
}

pub(crate) fn refuse(jobs: impl Iterator<Item = Job>, reason: &BlobError) {
    jobs.for_each(|job| reply(job.answer, Err(reason.clone())));
}
