//! Lets the shards that this node leads be backed up: one task per shard for as long as it leads.
//!
//! Invariant: while a child has no checkpoint of its own, its parent gets no newer one. What the backup has of
//! the parent leads through the split then, and so to the child: its own log goes on from what the split left. Nobody
//! has to remember that: the parent's descriptor names the newest child, and only a shard whose newest child has
//! a checkpoint, and which has one itself, is split.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use granary_meta_api::pb::query::Query as WireQuery;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_raft::LogPosition;
use granary_runtime::within;
use granary_types::ShardId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{MetaNode, Shard};
use crate::backup::{BackupSink, Progress, ShardWriter, WriterParts};

/// Checkpoints that a node writes at once.
const CHECKPOINTS_AT_ONCE: usize = 2;
/// Shards that write a part at once: each holds a few MiB.
const STEPS_AT_ONCE: usize = 8;
/// Longest pause after the pool has refused a part.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A backup that was complete so long ago does not count as complete now: a step takes that long.
const CURRENT_FOR: Duration = Duration::from_secs(5);
/// Longest wait for a child to say whether it is backed up: its parent's log waits meanwhile.
const CHILD_LIMIT: Duration = Duration::from_secs(1);
/// Pause until a child is asked again.
const CHILD_AGAIN: Duration = Duration::from_secs(5);
/// How often a backup that does not get on is told in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the backup of a node's shards needs.
#[derive(Clone)]
pub struct BackupOptions {
    /// Where it goes.
    pub sink: Arc<dyn BackupSink>,
    /// Whose it is: stands in every part.
    pub cluster_id: String,
    /// Between two log parts.
    pub interval: Duration,
    /// Log after which a new checkpoint is written, in bytes, unless the last one is larger;
    /// `None`: 16 MiB.
    pub log_bytes_min: Option<u64>,
}

impl std::fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupOptions").finish_non_exhaustive()
    }
}

/// How far the backup of a shard that this node leads is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupStatus {
    /// The shard.
    pub shard: ShardId,
    /// For how long there has been something of which this leader does not know that it is backed up;
    /// zero when there is nothing. Counts from when it began to lead.
    pub lag: Duration,
    /// Everything up to here could be restored; `None` before this leader has written a checkpoint,
    /// and after a gap in the log until it has written another one.
    pub backed_up: Option<LogPosition>,
    /// The newest of its checkpoints from which the log leads on.
    pub checkpoint: Option<LogPosition>,
}

/// The backups under way.
#[derive(Default)]
pub(super) struct Backups {
    known: Mutex<BTreeMap<ShardId, Known>>,
    /// Per parent its newest child that is known to have a checkpoint.
    settled: Mutex<BTreeMap<ShardId, u32>>,
}

#[derive(Clone, Copy)]
struct Known {
    progress: Progress,
    /// When everything was backed up last, or when the backup began (monotonic).
    current_at: Duration,
}

impl MetaNode {
    /// Backs up every shard while this node leads it, until the node stops. Called once, where
    /// [`MetaConfig::backs_up`](super::MetaConfig::backs_up) says that it will be.
    pub fn start_backup(self: &Arc<Self>, options: BackupOptions) {
        let meta = Arc::clone(self);
        self.runtime.spawn(async move {
            let shutdown = meta.runtime.shutdown().clone();
            let turns = Turns {
                checkpoints: Arc::new(Semaphore::new(CHECKPOINTS_AT_ONCE)),
                steps: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            };
            loop {
                let shards: Vec<Arc<Shard>> = meta.shards.read().values().cloned().collect();
                for shard in shards {
                    if shard.group.is_leader() && meta.backups.begin(&meta, &shard) {
                        let task =
                            back_up(Arc::clone(&meta), shard, options.clone(), turns.clone());
                        meta.runtime.spawn(task);
                    }
                }
                tokio::select! {
                    () = meta.runtime.sleep(options.interval) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        });
    }

    /// How far the backups of the shards that this node leads are.
    pub fn backup_status(&self) -> Vec<BackupStatus> {
        let now = self.runtime.monotonic();
        let known = self.backups.known.lock();
        let statuses = known.iter().map(|(shard, known)| BackupStatus {
            shard: *shard,
            lag: match now.saturating_sub(known.current_at) {
                age if known.progress.current && age < CURRENT_FOR => Duration::ZERO,
                age => age,
            },
            backed_up: known.progress.backed_up,
            checkpoint: known.progress.checkpoint,
        });
        statuses.collect()
    }
}

impl MetaNode {
    /// Whether a checkpoint of a shard that this node leads is in the backup, or none will be.
    pub(super) fn is_backed_up(&self, shard: ShardId) -> bool {
        !self.config.backs_up || self.backups.has_checkpoint(shard)
    }

    /// The newest child of a shard that this node leads, if nothing of the parent's backup is needed for
    /// it any more; an error says that it is. 0: it has none.
    pub(super) async fn settled_child(&self, shard: &Shard) -> Result<u32, MetaError> {
        let (id, child) = (shard.group.shard(), shard.machine.last_child());
        let known = self.backups.settled.lock().get(&id).copied();
        // Shards that were made by a split name themselves.
        if child == 0 || child == id.0 || known == Some(child) {
            return Ok(child);
        }
        let route = self.root_route.read().clone();
        let query = pb::Query {
            query: Some(WireQuery::DescribeShard(pb::DescribeShard {})),
        };
        let asked = async {
            match route {
                Some(service) => service.query(ShardId(child), query).await,
                None => self.query(ShardId(child), query).await,
            }
        };
        let silent = |_| MetaError::Unavailable(format!("shard {child} does not answer"));
        let told = within(CHILD_LIMIT, asked).await.map_err(silent)??;
        match told.reply {
            Some(Reply::Shard(told)) if told.backed_up => {
                self.backups.settled.lock().insert(id, child);
                Ok(child)
            }
            _ => Err(MetaError::Unavailable(format!(
                "shard {child}, which it has split off, is not backed up yet"
            ))),
        }
    }
}

impl Backups {
    fn has_checkpoint(&self, shard: ShardId) -> bool {
        let known = self.known.lock();
        let progress = known.get(&shard).map(|known| known.progress);
        progress.is_some_and(|progress| progress.checkpoint.is_some())
    }

    /// False when the shard is being backed up already.
    fn begin(&self, meta: &MetaNode, shard: &Shard) -> bool {
        let mut known = self.known.lock();
        let id = shard.group.shard();
        if known.contains_key(&id) {
            return false;
        }
        let began = Known {
            progress: Progress::default(),
            current_at: meta.runtime.monotonic(),
        };
        known.insert(id, began);
        true
    }

    /// `began`: when the step began whose outcome this is.
    fn note(&self, shard: ShardId, progress: Progress, began: Duration) {
        if let Some(known) = self.known.lock().get_mut(&shard) {
            known.progress = progress;
            if progress.current {
                known.current_at = began;
            }
        }
    }

    /// Something may have been written since.
    fn not_current(&self, shard: ShardId) {
        if let Some(known) = self.known.lock().get_mut(&shard) {
            known.progress.current = false;
        }
    }

    fn end(&self, shard: ShardId) {
        self.known.lock().remove(&shard);
    }
}

/// Who may go on.
#[derive(Clone)]
struct Turns {
    checkpoints: Arc<Semaphore>,
    steps: Arc<Semaphore>,
}

/// Backs up one shard until this node does not lead it any more.
async fn back_up(meta: Arc<MetaNode>, shard: Arc<Shard>, options: BackupOptions, turns: Turns) {
    let id = shard.group.shard();
    let shutdown = meta.runtime.shutdown().clone();
    let writer = ShardWriter::new(WriterParts {
        runtime: meta.runtime.clone(),
        group: shard.group.clone(),
        machine: Arc::clone(&shard.machine),
        sink: options.sink,
        cluster_id: options.cluster_id,
        log_bytes_min: options.log_bytes_min,
    });
    tokio::select! {
        () = write(&meta, &shard, writer, options.interval, turns) => {}
        () = shutdown.cancelled() => {}
    }
    meta.backups.end(id);
}

async fn write(
    meta: &MetaNode,
    shard: &Shard,
    mut writer: ShardWriter,
    interval: Duration,
    turns: Turns,
) {
    let id = shard.group.shard();
    let mut turn: Option<OwnedSemaphorePermit> = None;
    let mut pause = interval;
    let mut complained = meta.runtime.monotonic();
    let mut ask_after = complained;
    while shard.group.is_leader() {
        if turn.is_none() {
            turn = Arc::clone(&turns.checkpoints).try_acquire_owned().ok();
        }
        let mut settled = None;
        if writer.asks_for_child(turn.is_some()) && meta.runtime.monotonic() >= ask_after {
            settled = meta.settled_child(shard).await.ok();
            if settled.is_none() {
                ask_after = meta.runtime.monotonic() + CHILD_AGAIN;
            }
        }
        let (began, step) = {
            let _step = turns.steps.acquire().await;
            let began = meta.runtime.monotonic();
            (began, writer.step(settled, turn.is_some()).await)
        };
        if !writer.is_busy() {
            turn = None;
        }
        let now = meta.runtime.monotonic();
        match step {
            Ok(progress) => {
                meta.backups.note(id, progress, began);
                writer.delete_needless().await;
                pause = interval;
                if progress.busy {
                    continue;
                }
            }
            Err(error) => {
                meta.backups.not_current(id);
                if now.saturating_sub(complained) >= COMPLAIN_EVERY {
                    complained = now;
                    tracing::warn!(shard = id.0, %error, "the metadata is not backed up");
                } else {
                    tracing::debug!(shard = id.0, %error, "the metadata is not backed up yet");
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        meta.runtime.sleep(pause).await;
    }
}
