//! Fills an empty store from a backup: per shard the newest complete checkpoint, then the log after
//! it as far as it goes without a gap. Parents come before their children: of a child without a checkpoint
//! that can be used, its parent's log leaves the first state, which its own log goes on from.
//!
//! Invariant: what is put back is a state that the shard had. What cannot be read, is another
//! history's, or lacks what comes before it, is left out and told.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use granary_kv::{Kv, KvError};
use granary_meta_api::pb::state;
use granary_raft::{Committed, LogPosition, Replay, StateMachine, StateMachineError, Step};
use granary_runtime::Runtime;
use granary_types::{BackupKind, ChunkId, NodeId, ShardId, SlabId};
use prost::Message;

use super::catalog::{Catalog, FoundCheckpoint, FoundLog};
use super::format::Part;
use super::{BackupError, BackupSource};
use crate::keyspace::raft_bookkeeping::RaftBookkeepingKey;
use crate::keyspace::restore_marker::RestoreMarkerKey;
use crate::machine::{Claims, ShardMachine, local_shards};
use crate::rows::{Rows, View};

/// Why a shard is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No checkpoint of it is complete and readable.
    #[error("shard {shard}: {reason}")]
    NoCheckpoint {
        /// The shard.
        shard: ShardId,
        /// What was wrong with those there are.
        reason: String,
    },
    /// The new store.
    #[error(transparent)]
    State(#[from] StateMachineError),
    /// The same.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A checkpoint could be read, and a moment later could not; what it was to replace is gone. The store
    /// is to be filled from the beginning.
    #[error("shard {shard}: a checkpoint that was just read cannot be read again: {reason}")]
    BeginAgain {
        /// The shard.
        shard: ShardId,
        /// Why it cannot be read.
        reason: String,
    },
    /// The process stops.
    #[error("the process stops")]
    Stopping,
}

/// A shard that was put back and has no voters yet.
pub struct RestoredShard {
    /// The shard.
    pub shard: ShardId,
    /// The checkpoint it was put back from; entry 0 for what its parent gave it.
    pub checkpoint: LogPosition,
    /// How far its history goes.
    pub reached: LogPosition,
    /// The newest leader's time in it, in milliseconds since the epoch.
    pub time_ms: u64,
    /// What is there, newer than that, and could not be used, in sentences.
    pub problems: Vec<String>,
    /// The highest term of which anything is left in the backup. What goes on must be newer: it
    /// would be taken for superseded, and freed.
    seen_term: u64,
    machine: Arc<ShardMachine>,
    replay: Replay,
    kv: Arc<dyn Kv>,
}

impl std::fmt::Debug for RestoredShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoredShard")
            .field("shard", &self.shard)
            .field("reached", &self.reached)
            .finish_non_exhaustive()
    }
}

impl RestoredShard {
    /// One whose rows, if any, are in the store.
    pub(super) fn without_history(
        kv: Arc<dyn Kv>,
        (shard, home): (ShardId, SlabId),
        seen_term: u64,
        lacks: &str,
    ) -> Result<Self, RestoreError> {
        Ok(Self {
            shard,
            seen_term,
            checkpoint: LogPosition::default(),
            reached: LogPosition::default(),
            time_ms: 0,
            problems: vec![lacks.to_owned()],
            machine: ShardMachine::open(Arc::clone(&kv), shard, home, Claims::default())?,
            replay: Replay::default(),
            kv,
        })
    }

    /// Makes `node` its only voter. Blocks.
    ///
    /// # Errors
    /// The store failed.
    pub fn go_on_alone(self, node: NodeId) -> Result<(), RestoreError> {
        let books = self
            .replay
            .go_on_alone(self.kv.as_ref(), self.shard, node, self.seen_term)?;
        self.machine.apply(Vec::new(), books)?;
        Ok(())
    }
}

/// Reads and checks the parts of one shard's backup.
struct Reader<'a> {
    source: &'a dyn BackupSource,
    cluster_id: &'a str,
    shard: ShardId,
}

impl Reader<'_> {
    /// The first of some chunks that holds the part it should.
    async fn part(
        &self,
        chunks: &BTreeSet<ChunkId>,
        is_it: impl Fn(&Part) -> bool,
    ) -> Result<Part, BackupError> {
        let mut last = BackupError::Damaged("it is not what its name says");
        for &chunk in chunks {
            match self.source.read(chunk).await.and_then(Part::decode) {
                Ok(part) if self.is_own(&part) && is_it(&part) => return Ok(part),
                Ok(_) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn is_own(&self, part: &Part) -> bool {
        part.shard == self.shard && part.cluster_id == self.cluster_id
    }

    async fn manifest(&self, found: &FoundCheckpoint) -> Result<Part, BackupError> {
        let count = found.parts.len();
        let manifest = self.part(&found.manifest, |part| {
            part.kind == BackupKind::Manifest
                && part.position == found.position
                && usize::try_from(part.part).is_ok_and(|parts| parts == count)
                && !part.items.is_empty()
        });
        let manifest = manifest.await?;
        let position = LogPosition::of_bookkeeping(&manifest.items[0])?;
        match position == Some(found.position) {
            true => Ok(manifest),
            false => Err(BackupError::Damaged("its bookkeeping is of another moment")),
        }
    }

    async fn rows(
        &self,
        manifest: &Part,
        number: usize,
        chunks: &BTreeSet<ChunkId>,
    ) -> Result<Vec<Bytes>, BackupError> {
        let part = self.part(chunks, |part| {
            part.kind == BackupKind::Checkpoint
                && part.position == manifest.position
                && part.writer == manifest.writer
                && usize::try_from(part.part).is_ok_and(|part| part == number)
        });
        Ok(part.await?.items)
    }

    async fn log(&self, found: &FoundLog) -> Result<Part, BackupError> {
        let part = self.part(&found.chunks, |part| {
            part.kind == BackupKind::Log && part.position == found.last
        });
        part.await
    }
}

/// Puts a shard back into a store that has nothing of it. `cluster_id` is whose backup it must be.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore_shard(
    runtime: &Runtime,
    kv: Arc<dyn Kv>,
    source: &dyn BackupSource,
    catalog: &Catalog,
    (cluster_id, shard): (&str, ShardId),
) -> Result<RestoredShard, RestoreError> {
    let reader = Reader {
        source,
        cluster_id,
        shard,
    };
    let mut unusable = Vec::new();
    let given = given_by_parent(runtime, &kv, shard).await?;
    let mut begun = None;
    for found in catalog.checkpoints(shard) {
        let usable = match given {
            // Putting it back begins with clearing what the parent gave.
            Some(_) => look_through(&reader, &found).await,
            None => Ok(()),
        };
        let cleared = given.is_some() && usable.is_ok();
        let put = match usable {
            Ok(()) => put_rows(runtime, &kv, &reader, &found).await?,
            Err(error) => Err(error),
        };
        let put = match (put, cleared) {
            (Err(error), true) => {
                let reason = error.to_string();
                return Err(RestoreError::BeginAgain { shard, reason });
            }
            (put, _) => put,
        };
        match put {
            Ok((machine, bookkeeping)) => {
                begun = Some((found.position, machine, Replay::begin(&bookkeeping)?));
                break;
            }
            Err(error) => unusable.push((
                found.position,
                format!(
                    "the checkpoint at entry {} cannot be used: {error}",
                    found.position.index
                ),
            )),
        }
    }
    if begun.is_none()
        && let Some(home) = given
    {
        let store = Arc::clone(&kv);
        let open = move || ShardMachine::open(store, shard, home, Claims::default());
        let machine = runtime.blocking(open).await.map_err(stopping)??;
        begun = Some((LogPosition::default(), machine, Replay::at_birth()));
    }
    if let Some((checkpoint, machine, replay)) = begun {
        let mut restored = RestoredShard {
            shard,
            seen_term: catalog.newest_term(shard),
            checkpoint,
            reached: checkpoint,
            time_ms: 0,
            problems: Vec::new(),
            machine,
            replay,
            kv,
        };
        let logs = catalog.logs(shard);
        apply_log(runtime, &reader, logs, &mut restored, &mut unusable).await?;
        // What the history has by now, or is older than it, is no loss.
        let lost = unusable
            .into_iter()
            .filter(|(at, _)| *at > restored.reached);
        restored.problems = lost.map(|(_, why)| why).collect();
        return Ok(restored);
    }
    let mut reasons: Vec<String> = unusable.into_iter().map(|(_, why)| why).collect();
    if reasons.is_empty() {
        reasons.push("no checkpoint of it is complete".to_owned());
    }
    Err(RestoreError::NoCheckpoint {
        shard,
        reason: reasons.join("; "),
    })
}

/// The home slab of a shard of which a parent's log has left the first state in the store.
async fn given_by_parent(
    runtime: &Runtime,
    kv: &Arc<dyn Kv>,
    shard: ShardId,
) -> Result<Option<SlabId>, RestoreError> {
    let kv = Arc::clone(kv);
    let look = move || -> Result<_, StateMachineError> {
        let found = local_shards(kv.as_ref())?.into_iter();
        let home = found
            .filter(|(found, _)| *found == shard)
            .map(|(_, home)| home);
        let Some(home) = home.max() else {
            return Ok(None);
        };
        let view = View(kv.as_ref());
        let other = view.exists(&RestoreMarkerKey { slab: home })?
            || view.exists(&RaftBookkeepingKey { slab: home })?;
        Ok((!other).then_some(home))
    };
    Ok(runtime.blocking(look).await.map_err(stopping)??)
}

/// Reads a checkpoint to its end and keeps nothing of it.
async fn look_through(reader: &Reader<'_>, found: &FoundCheckpoint) -> Result<(), BackupError> {
    let manifest = reader.manifest(found).await?;
    let mut items = 0;
    for (number, chunks) in found.parts.iter().enumerate() {
        items += reader.rows(&manifest, number, chunks).await?.len() as u64;
    }
    says_so_many(&manifest, items)
}

/// An error when a manifest says that there are more items, or fewer.
fn says_so_many(manifest: &Part, items: u64) -> Result<(), BackupError> {
    match manifest.items.get(1) {
        Some(count) if count[..] != items.to_le_bytes() => {
            Err(BackupError::Damaged("it lacks rows"))
        }
        _ => Ok(()),
    }
}

/// What is there and could not be used: up to where it went, and why.
type Unusable = Vec<(LogPosition, String)>;

type Put = (Arc<ShardMachine>, Bytes);

/// Puts the rows of a checkpoint into the store. The inner error: try another one.
async fn put_rows(
    runtime: &Runtime,
    kv: &Arc<dyn Kv>,
    reader: &Reader<'_>,
    found: &FoundCheckpoint,
) -> Result<Result<Put, BackupError>, RestoreError> {
    let manifest = match reader.manifest(found).await {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Err(error)),
    };
    let mut open: Option<(Arc<ShardMachine>, Box<dyn granary_raft::SnapshotWriter>)> = None;
    let mut items = 0u64;
    for (number, chunks) in found.parts.iter().enumerate() {
        let rows = match reader.rows(&manifest, number, chunks).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        items += rows.len() as u64;
        let (store, shard) = (Arc::clone(kv), reader.shard);
        let write = move || -> Result<_, StateMachineError> {
            let (machine, mut writer) = match open {
                Some(open) => open,
                None => {
                    let home = home_of(rows.first())?;
                    let machine = ShardMachine::open(store, shard, home, Claims::default())?;
                    let writer = machine.restore()?;
                    (machine, writer)
                }
            };
            for row in rows {
                writer.write(row)?;
            }
            Ok((machine, writer))
        };
        open = Some(runtime.blocking(write).await.map_err(stopping)??);
    }
    let Some((machine, writer)) = open else {
        return Ok(Err(BackupError::Damaged("it has no rows")));
    };
    if let Err(error) = says_so_many(&manifest, items) {
        return Ok(Err(error));
    }
    let bookkeeping = manifest.items[0].clone();
    let books = bookkeeping.clone();
    let finish = move || writer.finish(books);
    runtime.blocking(finish).await.map_err(stopping)??;
    Ok(Ok((machine, bookkeeping)))
}

fn stopping<E>(_: E) -> RestoreError {
    RestoreError::Stopping
}

/// The home slab of the shard whose first rows these are: they begin with its descriptor.
fn home_of(rows: Option<&Bytes>) -> Result<SlabId, StateMachineError> {
    let corrupt = |reason: &str| StateMachineError::Corrupt {
        what: "a checkpoint",
        reason: reason.to_owned(),
    };
    let rows = rows.ok_or_else(|| corrupt("it has no rows"))?;
    let rows = state::SnapshotRows::decode(rows.clone());
    let rows = rows.map_err(|error| corrupt(&error.to_string()))?.rows;
    let slab = rows.first().and_then(|row| row.key.first_chunk::<4>());
    let slab = slab.ok_or_else(|| corrupt("its first row has no slab"))?;
    Ok(SlabId(u32::from_be_bytes(*slab)))
}

/// Applies the log after the checkpoint as far as it goes.
async fn apply_log(
    runtime: &Runtime,
    reader: &Reader<'_>,
    mut logs: Vec<FoundLog>,
    restored: &mut RestoredShard,
    unusable: &mut Unusable,
) -> Result<(), RestoreError> {
    logs.sort_by_key(|log| log.first);
    let mut waiting = logs.into_iter().peekable();
    let mut ready: Vec<FoundLog> = Vec::new();
    loop {
        let at = restored.replay.position().unwrap_or_default();
        restored.reached = at;
        restored.time_ms = restored.replay.time_ms();
        while let Some(log) = waiting.next_if(|log| log.first <= at.index + 1) {
            ready.push(log);
        }
        ready.retain(|log| log.last.index > at.index);
        // What a later leader wrote comes first: it may be of a history that was put back before.
        let next = (0..ready.len()).max_by_key(|n| ready[*n].last);
        let Some(next) = next else {
            break;
        };
        let log = ready.swap_remove(next);
        match next_entries(reader, &log, &restored.replay).await {
            Ok(Some((entries, replay))) => {
                let machine = Arc::clone(&restored.machine);
                let apply = move || -> Result<(), StateMachineError> {
                    for (entry, bookkeeping) in entries {
                        machine.apply(vec![entry], bookkeeping)?;
                    }
                    Ok(())
                };
                runtime.blocking(apply).await.map_err(stopping)??;
                restored.replay = replay;
            }
            Ok(None) => unusable.push((
                log.last,
                format!(
                    "the log up to entry {} does not go on from what was found",
                    log.last.index
                ),
            )),
            Err(error) => unusable.push((
                log.last,
                format!(
                    "the log up to entry {} cannot be read: {error}",
                    log.last.index
                ),
            )),
        }
    }
    if let Some(beyond) = waiting.map(|log| log.last).max() {
        let (to, from) = (beyond.index, restored.reached.index);
        let why = format!("there is log up to entry {to}, but what comes after {from} is missing");
        unusable.push((beyond, why));
    }
    Ok(())
}

/// The entries of a part that the history goes on with, and the history after them.
async fn next_entries(
    reader: &Reader<'_>,
    log: &FoundLog,
    replay: &Replay,
) -> Result<Option<(Vec<(Committed, Bytes)>, Replay)>, BackupError> {
    let part = reader.log(log).await?;
    let mut replay = replay.clone();
    let next = replay.position().unwrap_or_default().index + 1;
    if log.first == next && !replay.goes_on_from(part.previous) {
        return Ok(None);
    }
    let mut entries = Vec::new();
    for item in &part.items {
        match replay.step(item)? {
            Step::Known => {}
            Step::Foreign => return Ok(None),
            Step::Next(entry) => entries.push((entry, replay.bookkeeping())),
        }
    }
    Ok(Some((entries, replay)))
}
