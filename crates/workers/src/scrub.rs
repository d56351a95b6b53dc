//! Reads every copy of every chunk within a period, has what is damaged rewritten from a good copy
//! at once, and compares the copies of each chunk with one another.
//!
//! The disks read their own copies ([`granary_blob_api::BlobNode::verify`]): no object bytes travel
//! unless something is wrong. Invariants: a disk reads for it no faster than configured; what a page
//! found is counted once; a copy is taken away only when the metadata names other bytes and another
//! disk was just read and has them.

mod batch;
mod cursor;
mod differing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_datapath::{ClusterView, DataPath};
use granary_meta_api::Meta;
use granary_runtime::Runtime;
use granary_types::PgId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::worker::TICK_TIME;
use crate::{Damage, Tick, Worker, WorkerError, WorkerMetrics};
use batch::{Batch, Reader};
use cursor::Cursor;

/// Findings that a report tells one by one; more are only counted.
const FINDINGS_MAX: usize = 100;
/// Groups that are read at once at most: three times as many disks.
const GROUPS_AT_ONCE: usize = 1024;
/// Of so many disks one group is read at once, so that a period's work is spread over the period.
const DISKS_PER_GROUP: usize = 4;
const MS_PER_DAY: u64 = 24 * 60 * 60 * 1000;
/// Pause of a pass on request after an error.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Days in which every copy is read once; 0 counts as 1.
    pub period_days: u32,
    /// Bytes per second that one disk reads for it at most; less than 1 MiB counts as that. What
    /// does not fit into the period takes longer.
    pub bytes_per_second: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            period_days: 14,
            bytes_per_second: 32 << 20,
        }
    }
}

impl ScrubConfig {
    fn period_ms(&self) -> u64 {
        u64::from(self.period_days.max(1)) * MS_PER_DAY
    }
}

/// What a pass found and did. "Clean" means that every copy was read and all are good now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubReport {
    /// Every member of every group gave its answers.
    pub complete: bool,
    /// Complete, and what was bad was put right.
    pub clean: bool,
    /// Copies that were read.
    pub copies_checked: u64,
    /// Bytes of object data in them.
    pub bytes_checked: u64,
    /// Copies whose bytes are not the ones that were stored.
    pub copies_damaged: u64,
    /// Those that were rewritten from a good one, or whose chunk was deleted meanwhile.
    pub copies_repaired: u64,
    /// Chunks whose copies are sound, each by itself, but not the same.
    pub chunks_differing: u64,
    /// Those of them whose wrong copies were replaced by what the metadata names, and those that
    /// nothing refers to.
    pub chunks_settled: u64,
    /// Members of groups that could not be read (to the end).
    pub members_unread: u64,
    /// The first findings: `copy_damaged` and `copies_differ`. They name no bucket and no key.
    pub damage: Vec<Damage>,
    /// Why it is not complete.
    pub problems: Vec<String>,
}

impl ScrubReport {
    fn finish(mut self) -> Self {
        self.complete = self.members_unread == 0 && self.problems.is_empty();
        self.clean = self.complete
            && self.copies_damaged == self.copies_repaired
            && self.chunks_differing == self.chunks_settled;
        self
    }

    fn found(&mut self, damage: Damage) {
        if self.damage.len() < FINDINGS_MAX {
            self.damage.push(damage);
        }
    }

    fn problem(&mut self, why: String) {
        if self.problems.len() < FINDINGS_MAX && !self.problems.contains(&why) {
            self.problems.push(why);
        }
    }
}

/// How far a pass on request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// Groups that are through, and how many there are.
    pub groups: (u64, u64),
    /// Copies that were read.
    pub copies: u64,
    /// Bytes of object data in them.
    pub bytes: u64,
}

/// A pass on request, over everything and as fast as the configured rate allows.
pub struct Scrub {
    reader: Reader,
}

impl Scrub {
    /// A pass that repairs through `path`. Of `config` only the rate counts.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        path: DataPath,
        metrics: WorkerMetrics,
        config: &ScrubConfig,
    ) -> Self {
        Self {
            reader: Reader::new(runtime, meta, path, metrics, config.bytes_per_second),
        }
    }

    /// Reads everything. `progress` is told now and then how far it is. It may run beside the
    /// worker: they take turns at each disk.
    ///
    /// # Errors
    /// The metadata gave no answer. A disk that gives none makes the report incomplete, which is
    /// no error.
    pub async fn run(&self, progress: impl Fn(ScrubProgress)) -> Result<ScrubReport, WorkerError> {
        let reader = &self.reader;
        reader.view.refresh().await?;
        let groups = groups_after(&reader.view, PgId(0));
        let (size, mut done) = (batch_size(&reader.view), 0);
        for some in groups.chunks(size) {
            let mut batch = reader.begin(some);
            loop {
                let until = reader.runtime.monotonic() + TICK_TIME;
                match reader.work(&mut batch, until).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    // Each step is tried a few times and then left out.
                    Err(error) => {
                        tracing::debug!(%error, "scrub step failed");
                        reader.runtime.sleep(RETRY_PAUSE).await;
                    }
                }
                progress(self.progress(done, groups.len()));
            }
            done += some.len();
            progress(self.progress(done, groups.len()));
        }
        Ok(reader.take_report().finish())
    }

    fn progress(&self, done: usize, groups: usize) -> ScrubProgress {
        let report = self.reader.report.lock();
        ScrubProgress {
            groups: (done as u64, groups as u64),
            copies: report.copies_checked,
            bytes: report.bytes_checked,
        }
    }
}

/// The groups of the map from an id on, in the order of their ids.
fn groups_after(view: &ClusterView, from: PgId) -> Vec<PgId> {
    let map = view.map();
    let mut groups: Vec<PgId> = map
        .groups()
        .map(|group| group.id)
        .filter(|&id| id >= from)
        .collect();
    groups.sort_unstable();
    groups
}

fn batch_size(view: &ClusterView) -> usize {
    let disks = view.map().disks().count();
    (disks / DISKS_PER_GROUP).clamp(1, GROUPS_AT_ONCE)
}

/// What the worker is at. Shown to operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// When the pass began, in milliseconds since the epoch; 0 before the first.
    pub began_ms: u64,
    /// Groups that are through in this pass, and how many there are.
    pub groups: (u64, u64),
    /// What this process found in this pass so far.
    pub found: ScrubReport,
    /// What the last pass found that came to its end here, and when that was.
    pub last: Option<(u64, ScrubReport)>,
}

/// The scrub worker.
pub struct ScrubWorker {
    reader: Reader,
    period_ms: u64,
    at: Cursor,
    batch: Option<Batch>,
    status: Arc<Mutex<ScrubStatus>>,
}

impl ScrubWorker {
    /// A worker that repairs through `path`.
    pub fn new(
        runtime: Runtime,
        meta: Meta,
        path: DataPath,
        metrics: WorkerMetrics,
        config: ScrubConfig,
    ) -> Self {
        Self {
            reader: Reader::new(runtime, meta, path, metrics, config.bytes_per_second),
            period_ms: config.period_ms(),
            at: Cursor::default(),
            batch: None,
            status: Arc::default(),
        }
    }

    /// Another period than whole days.
    #[cfg(test)]
    pub(crate) fn within(mut self, period: Duration) -> Self {
        self.period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// A handle on the status that stays valid while the worker runs.
    pub fn status(&self) -> impl Fn() -> ScrubStatus + Clone + Send + Sync + 'static + use<> {
        let status = Arc::clone(&self.status);
        move || status.lock().clone()
    }

    /// Begins what is due: the next pass, or the next groups of the pass that is under way. False
    /// when nothing is.
    fn begin(&mut self) -> bool {
        let now_ms = self.reader.runtime.now().as_millis().max(1);
        let elapsed_ms = now_ms.saturating_sub(self.at.began_ms);
        let period_ms = self.period_ms;
        if self.at.began_ms == 0 || (self.at.is_finished() && elapsed_ms >= period_ms) {
            self.at = Cursor::beginning_at(now_ms);
            self.reader.take_report();
            return self.begin();
        }
        let all = groups_after(&self.reader.view, PgId(0)).len();
        let mut next = groups_after(&self.reader.view, self.at.next);
        let done = all - next.len();
        self.tell(done, all);
        if next.is_empty() {
            // A map without groups is one that was never read.
            if all > 0 && !self.at.is_finished() {
                self.finish(now_ms);
            }
            return false;
        }
        // Spread over the period: the n-th of all has its turn when n parts of it are over.
        let due = u128::from(elapsed_ms) * all as u128 >= u128::from(period_ms) * done as u128;
        let kept = self.at.batch.take();
        if !due && kept.is_none() {
            return false;
        }
        match kept {
            Some(kept) => {
                next.retain(|&id| id < kept.end);
                let mut batch = self.reader.begin(&next);
                batch.go_on_at(&kept);
                self.batch = Some(batch);
            }
            None => {
                next.truncate(batch_size(&self.reader.view));
                self.batch = Some(self.reader.begin(&next));
            }
        }
        true
    }

    fn finish(&mut self, now_ms: u64) {
        self.at.finish();
        let report = self.reader.take_report().finish();
        if !report.clean {
            tracing::warn!(
                damaged = report.copies_damaged,
                repaired = report.copies_repaired,
                differing = report.chunks_differing,
                unread = report.members_unread,
                "a scrub of everything ended, and not all is well"
            );
        }
        self.status.lock().last = Some((now_ms, report));
    }

    fn tell(&self, done: usize, all: usize) {
        let mut status = self.status.lock();
        status.began_ms = self.at.began_ms;
        status.groups = (done as u64, all as u64);
        status.found = self.reader.report.lock().clone();
        self.reader
            .metrics
            .scrub_at(self.at.began_ms / 1000, (all - done) as u64);
    }
}

impl Worker for ScrubWorker {
    const NAME: &'static str = "scrub";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        if self.batch.is_none() {
            self.reader.view.refresh().await?;
            if !self.begin() {
                return Ok(Tick::Done);
            }
        }
        let until = self.reader.runtime.monotonic() + TICK_TIME;
        let Some(batch) = &mut self.batch else {
            return Ok(Tick::Done);
        };
        // In place: a tick that is cut off has lost no more than the page that was under way.
        if self.reader.work(batch, until).await? {
            self.at.next = batch.end();
            self.batch = None;
        }
        Ok(Tick::More)
    }

    fn cursor(&self) -> Bytes {
        let batch = self.batch.as_ref();
        let batch = batch.map_or_else(|| self.at.batch.clone(), |batch| Some(batch.place()));
        self.at.encode(batch.as_ref())
    }

    fn resume(&mut self, cursor: &[u8]) {
        self.batch = None;
        self.at = Cursor::decode(cursor).unwrap_or_default();
        self.reader.take_report();
    }
}
