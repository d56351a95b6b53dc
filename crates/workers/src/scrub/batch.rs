//! Some groups under way: their disks read them, each at its own pace, and then they are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use granary_blob_api::{BlobError, ErrorKind, VerifyPage};
use granary_datapath::{ClusterView, CopyCheck, DataPath, RepairHint};
use granary_meta_api::Meta;
use granary_runtime::{Runtime, within};
use granary_types::{ChunkId, DiskId, PgId};
use parking_lot::Mutex;

use super::ScrubReport;
use super::cursor::Place;
use super::differing::Lookup;
use crate::chunk_deleter::ChunkDeleter;
use crate::group_listing::GroupListing;
use crate::group_repair::GroupRepair;
use crate::{Damage, WorkerError, WorkerMetrics};

/// The slowest pace there is: one chunk takes four seconds.
const RATE_MIN: u64 = 1 << 20;
/// Bytes read with one call: about as many as a second gives, and no more than this.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Time a call may take; a disk ends a page early rather than being late.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(15);
/// Time a repair may take.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(15);
/// Tries before a disk or a comparison is left out of this pass.
const TRIES: u32 = 3;
/// Pause between them.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// A disk that reads a page for somebody else, or has too much to do, is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// And so many times.
const BUSY_TRIES: u32 = 600;
/// Chunks compared between two looks at the clock.
const COMPARED_PER_STEP: usize = 2000;
/// Chunks with different copies that one batch settles; more are left to the next pass.
const DIFFERING_MAX: usize = 1000;

/// Reads groups. What it finds is in its report.
pub(super) struct Reader {
    pub(super) runtime: Runtime,
    pub(super) meta: Meta,
    pub(super) view: ClusterView,
    pub(super) path: DataPath,
    pub(super) repair: GroupRepair,
    pub(super) deleter: ChunkDeleter,
    pub(super) metrics: WorkerMetrics,
    pub(super) report: Mutex<ScrubReport>,
    bytes_per_second: u64,
    /// Until when (monotonic) a disk has read enough.
    paces: Mutex<HashMap<DiskId, Duration>>,
}

/// Some groups under way.
pub(super) struct Batch {
    end: PgId,
    reading: BTreeMap<DiskId, Reading>,
    comparing: VecDeque<(PgId, Option<ChunkId>)>,
    /// Tries to compare the first of them.
    tries: u32,
    pub(super) differing: BTreeSet<ChunkId>,
    pub(super) lookup: Option<Lookup>,
}

/// What one disk has to do.
#[derive(Default)]
struct Reading {
    /// Groups in their order, and the last chunk that was read of each.
    groups: VecDeque<(PgId, Option<ChunkId>)>,
    /// Found damaged and not looked after yet.
    damaged: VecDeque<ChunkId>,
    /// It failed, and is not asked again before this (monotonic).
    not_before: Duration,
    tries: u32,
    busy: u32,
}

impl Reading {
    fn is_done(&self) -> bool {
        self.groups.is_empty() && self.damaged.is_empty()
    }
}

impl Batch {
    /// Groups from this one on are not in it.
    pub(super) fn end(&self) -> PgId {
        self.end
    }

    /// How far it is.
    pub(super) fn place(&self) -> Place {
        let reading = self.reading.iter();
        let disks = reading.filter_map(|(&disk, reading)| {
            let &(pg, after) = reading.groups.front()?;
            Some((disk, (pg, after)))
        });
        Place {
            end: self.end,
            disks: Some(disks.collect()),
        }
    }

    /// Leaves out what was read before.
    pub(super) fn go_on_at(&mut self, place: &Place) {
        self.end = place.end;
        let Some(disks) = &place.disks else {
            return;
        };
        for (disk, reading) in &mut self.reading {
            match disks.get(disk) {
                None => reading.groups.clear(),
                Some(&(pg, after)) => {
                    reading.groups.retain(|(group, _)| *group >= pg);
                    let first = reading.groups.front_mut().filter(|(group, _)| *group == pg);
                    if let Some(first) = first {
                        first.1 = after;
                    }
                }
            }
        }
    }
}

impl Reader {
    pub(super) fn new(
        runtime: Runtime,
        meta: Meta,
        path: DataPath,
        metrics: WorkerMetrics,
        bytes_per_second: u64,
    ) -> Self {
        let view = path.view().clone();
        Self {
            repair: GroupRepair::new(meta.clone(), path.clone(), metrics.clone()),
            deleter: ChunkDeleter::new(view.clone()),
            runtime,
            meta,
            view,
            path,
            metrics,
            report: Mutex::default(),
            bytes_per_second: bytes_per_second.max(RATE_MIN),
            paces: Mutex::default(),
        }
    }

    pub(super) fn take_report(&self) -> ScrubReport {
        std::mem::take(&mut *self.report.lock())
    }

    /// Prepares some groups, in the order of their ids.
    pub(super) fn begin(&self, groups: &[PgId]) -> Batch {
        let map = self.view.map();
        let mut reading: BTreeMap<DiskId, Reading> = BTreeMap::new();
        for group in groups.iter().filter_map(|&id| map.group(id)) {
            for disk in group.disks() {
                let todo = reading.entry(disk).or_default();
                todo.groups.push_back((group.id, None));
            }
        }
        Batch {
            end: PgId(groups.last().map_or(0, |last| last.0.saturating_add(1))),
            reading,
            comparing: groups.iter().map(|&id| (id, None)).collect(),
            tries: 0,
            differing: BTreeSet::new(),
            lookup: None,
        }
    }

    /// Works on a batch until about `until` (monotonic); true when it is through.
    ///
    /// # Errors
    /// A comparison failed, and is tried again by the next call, a few times.
    pub(super) async fn work(
        &self,
        batch: &mut Batch,
        until: Duration,
    ) -> Result<bool, WorkerError> {
        let reading = batch.reading.iter_mut();
        join_all(reading.map(|(&disk, reading)| self.read(disk, reading, until))).await;
        batch.reading.retain(|_, reading| !reading.is_done());
        if !batch.reading.is_empty() {
            return Ok(false);
        }
        while let Some(&(pg, after)) = batch.comparing.front() {
            if self.runtime.monotonic() >= until {
                return Ok(false);
            }
            match self.compare(pg, after, &mut batch.differing).await {
                Ok(Some(after)) => batch.comparing[0].1 = Some(after),
                Ok(None) => {
                    batch.comparing.pop_front();
                    batch.tries = 0;
                }
                Err(error) => {
                    batch.tries += 1;
                    if batch.tries < TRIES {
                        return Err(error);
                    }
                    let why = format!("group {pg}: copies not compared: {error}");
                    self.report.lock().problem(why);
                    batch.comparing.pop_front();
                    batch.tries = 0;
                }
            }
        }
        self.settle(batch, until).await
    }

    /// Lets one disk read until it is through or time is up.
    async fn read(&self, disk: DiskId, reading: &mut Reading, until: Duration) {
        loop {
            let now = self.runtime.monotonic();
            if reading.is_done() || now >= until {
                return;
            }
            if let Some(&chunk) = reading.damaged.front() {
                self.mend(chunk, disk).await;
                reading.damaged.pop_front();
                continue;
            }
            let pace = self.paces.lock().get(&disk).copied();
            let not_before = reading.not_before.max(pace.unwrap_or_default());
            if not_before >= until {
                return;
            }
            self.runtime.sleep(not_before.saturating_sub(now)).await;
            let Some(&(pg, after)) = reading.groups.front() else {
                return;
            };
            // A member that was taken away meanwhile has nothing to do any more.
            let map = self.view.map();
            let is_member = map
                .group(pg)
                .is_some_and(|group| group.disks().any(|d| d == disk));
            if !is_member {
                reading.groups.pop_front();
                continue;
            }
            let began = self.runtime.monotonic();
            match self.verify(disk, pg, after).await {
                Ok(page) => {
                    let pause_us = u128::from(page.checked_bytes) * 1_000_000
                        / u128::from(self.bytes_per_second);
                    let pause = Duration::from_micros(u64::try_from(pause_us).unwrap_or(u64::MAX));
                    self.paces.lock().insert(disk, began + pause);
                    (reading.tries, reading.busy) = (0, 0);
                    self.count(disk, &page);
                    reading.damaged.extend(page.damaged);
                    match page.next_after {
                        Some(last) => reading.groups[0].1 = Some(last),
                        None => {
                            reading.groups.pop_front();
                        }
                    }
                }
                Err(error) => self.not_read(disk, reading, &error),
            }
        }
    }

    async fn verify(
        &self,
        disk: DiskId,
        pg: PgId,
        after: Option<ChunkId>,
    ) -> Result<VerifyPage, BlobError> {
        let unreachable = |what: &str| BlobError::Unreachable(what.to_owned());
        let node = self.view.node_of(disk);
        let node = node.ok_or_else(|| unreachable("its node is not known here"))?;
        let limit = self.bytes_per_second.min(PAGE_BYTES_MAX);
        let page = within(VERIFY_TIMEOUT, node.verify(disk, pg, after, limit)).await;
        page.map_err(|_| unreachable("no answer in time"))?
    }

    fn count(&self, disk: DiskId, page: &VerifyPage) {
        let damaged = page.damaged.len() as u64;
        self.metrics
            .scrubbed(page.checked_chunks, page.checked_bytes, damaged);
        let mut report = self.report.lock();
        report.copies_checked += page.checked_chunks;
        report.bytes_checked += page.checked_bytes;
        report.copies_damaged += damaged;
        for &chunk in &page.damaged {
            tracing::warn!(%chunk, %disk, "scrub found a damaged copy");
            report.found(finding("copy_damaged", chunk, Some(disk), String::new()));
        }
    }

    /// A page was not read: it is tried again, a few times, and then the disk is left out.
    fn not_read(&self, disk: DiskId, reading: &mut Reading, error: &BlobError) {
        tracing::debug!(%disk, %error, "disk did not read its copies");
        let now = self.runtime.monotonic();
        let given_up = if error.kind() == ErrorKind::Busy {
            reading.busy += 1;
            reading.not_before = now + BUSY_PAUSE;
            reading.busy >= BUSY_TRIES
        } else {
            reading.tries += 1;
            reading.not_before = now + RETRY_PAUSE;
            reading.tries >= TRIES || !self.view.is_readable(disk)
        };
        if given_up {
            let unread = reading.groups.len() as u64;
            self.metrics.scrub_unread(unread);
            let mut report = self.report.lock();
            report.members_unread += unread;
            report.problem(format!("disk {disk}: {error}"));
            reading.groups.clear();
        }
    }

    /// Has a damaged copy rewritten. One that cannot be is known to its disk, and repair counts it.
    async fn mend(&self, chunk: ChunkId, disk: DiskId) {
        let check = within(REPAIR_TIMEOUT, self.repair.check_copy(chunk, disk)).await;
        match check.unwrap_or(CopyCheck::Unknown) {
            CopyCheck::Good | CopyCheck::Deleted => {
                self.metrics.scrub_repaired();
                self.report.lock().copies_repaired += 1;
            }
            CopyCheck::Bad | CopyCheck::Unknown => {
                let hints = self.path.repair_hints();
                hints.add(RepairHint { chunk, disk });
                hints.note_uncounted();
            }
        }
    }

    /// Compares what the members of a group list, from `after` on; the last chunk compared, `None`
    /// at the end.
    async fn compare(
        &self,
        pg: PgId,
        after: Option<ChunkId>,
        differing: &mut BTreeSet<ChunkId>,
    ) -> Result<Option<ChunkId>, WorkerError> {
        let map = self.view.map();
        let Some(group) = map.group(pg) else {
            return Ok(None);
        };
        let serving = self.repair.serving(group);
        let mut listing = GroupListing::new(&self.view, pg, &serving, after)?;
        let mut last = None;
        for _ in 0..COMPARED_PER_STEP {
            let Some(found) = listing.next().await? else {
                return Ok(None);
            };
            last = Some(found.entry.id);
            let differs = found.differs && !found.is_deleted(group);
            if differs && differing.len() < DIFFERING_MAX && differing.insert(found.entry.id) {
                let chunk = found.entry.id;
                tracing::error!(%chunk, disks = ?found.live, "copies of a chunk differ");
                self.metrics.scrub_differing();
                let mut report = self.report.lock();
                report.chunks_differing += 1;
                let detail = "sound copies with different bytes, lengths or owners";
                report.found(finding("copies_differ", chunk, None, detail.to_owned()));
            }
        }
        Ok(last)
    }
}

/// A finding as a report tells it.
pub(super) fn finding(kind: &str, chunk: ChunkId, disk: Option<DiskId>, detail: String) -> Damage {
    Damage {
        kind: kind.to_owned(),
        chunk: format!("{:032x}", chunk.0),
        group: chunk.pg().0,
        disk: disk.map(|disk| disk.0),
        detail,
        ..Damage::default()
    }
}
