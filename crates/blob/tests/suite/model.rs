//! Random sequences of puts, deletions, copies, compactions, crashes inside any of them, failures
//! and restarts, held against a model (after "Using Lightweight Formal Methods to Validate a
//! Key-Value Storage Node in Amazon S3", SOSP 2021).
//!
//! The model knows, for every chunk id, what may be there. An acknowledged operation leaves one
//! possibility; one without an answer adds its outcome; what was seen stays. Acknowledged bytes are
//! readable, acknowledged deletions final, and no other bytes are ever returned.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use granary_blob_api::{BlobError, BlobNode, ChunkOwner, CopyChunk, DiskHealth};
use granary_kv::MemoryKv;
use granary_runtime::Runtime;
use granary_types::{BucketId, ChunkId, ObjectId};
use granary_vfs::{CrashStyle, Fault};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Machine, PG, chunk, config, content, dir, id, simulate};

/// Sequences of the test.
const SEEDS: u64 = 300;
/// Steps of one sequence.
const STEPS: usize = 40;

/// What a chunk id stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    Deleted,
    /// Content (seeded by an id and a variant) and length.
    Live(ChunkId, u64, usize),
}

type Possible = BTreeSet<State>;

#[derive(Clone, Debug)]
enum Action {
    Put(ChunkId, u64, usize),
    Delete(Vec<ChunkId>),
    Forget(Vec<ChunkId>),
    /// Deletes, then forgets at once; or evicts.
    Bury(ChunkId),
    Copy(ChunkId, ChunkId),
}

struct Model {
    seed: u64,
    rng: StdRng,
    chunks: BTreeMap<ChunkId, Possible>,
    buried: BTreeSet<ChunkId>,
    next: u128,
    log: Vec<String>,
}

fn bytes_of(state: &State) -> Option<Bytes> {
    match state {
        State::Live(from, variant, length) => Some(content(*from, *variant, *length)),
        State::Absent | State::Deleted => None,
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            chunks: BTreeMap::new(),
            buried: BTreeSet::new(),
            next: 0,
            log: Vec::new(),
        }
    }

    fn possible(&self, id: ChunkId) -> Possible {
        let absent = || BTreeSet::from([State::Absent]);
        self.chunks.get(&id).cloned().unwrap_or_else(absent)
    }

    #[track_caller]
    fn broken(&self, what: &str) -> ! {
        let log = self.log.join("\n  ");
        panic!("seed {}: {what}\n  {log}", self.seed);
    }

    /// The answer says that the chunk is in one of the states that satisfy `test`.
    #[track_caller]
    fn narrow(&mut self, id: ChunkId, what: &str, test: impl Fn(&State) -> bool) {
        let possible = self.possible(id);
        let left: Possible = possible
            .iter()
            .filter(|state| test(state))
            .cloned()
            .collect();
        if left.is_empty() {
            self.broken(&format!(
                "chunk {id}: {what}, but possible is only {possible:?}"
            ));
        }
        self.chunks.insert(id, left);
    }

    fn set(&mut self, id: ChunkId, state: State) {
        self.chunks.insert(id, BTreeSet::from([state]));
    }

    fn also(&mut self, id: ChunkId, states: impl IntoIterator<Item = State>) {
        let mut possible = self.possible(id);
        possible.extend(states);
        self.chunks.insert(id, possible);
    }

    fn new_id(&mut self) -> ChunkId {
        self.next += 1;
        id(self.next)
    }

    fn some_id(&mut self) -> ChunkId {
        id(self.rng.random_range(0..=self.next + 1))
    }

    fn length(&mut self) -> usize {
        match self.rng.random_range(0..10u8) {
            0 => 1,
            1 => self.rng.random_range(60_000..70_000),
            2 => self.rng.random_range(100_000..200_000),
            _ => self.rng.random_range(1..9_000),
        }
    }

    /// A few actions on different chunks.
    fn actions(&mut self) -> Vec<Action> {
        let mut used = BTreeSet::new();
        let mut actions = Vec::new();
        for _ in 0..self.rng.random_range(1..8u8) {
            let action = self.action();
            let named: Vec<ChunkId> = match &action {
                Action::Put(id, ..) | Action::Bury(id) => vec![*id],
                Action::Delete(ids) | Action::Forget(ids) => ids.clone(),
                Action::Copy(source, target) => vec![*source, *target],
            };
            if named.iter().all(|id| !used.contains(id)) {
                used.extend(named);
                actions.push(action);
            }
        }
        actions
    }

    fn action(&mut self) -> Action {
        match self.rng.random_range(0..13u8) {
            0..=4 => Action::Put(self.new_id(), 0, self.length()),
            5 => {
                // Again, with the same bytes or with others.
                let id = self.some_id();
                let known = self.possible(id).into_iter().next_back();
                match known {
                    Some(State::Live(from, 0, length)) if from == id => {
                        let variant = self.rng.random_range(0..2);
                        Action::Put(id, variant, length)
                    }
                    _ => Action::Put(id, 0, self.length()),
                }
            }
            6..=8 => {
                let count = self.rng.random_range(1..5u8);
                let ids: BTreeSet<ChunkId> = (0..count).map(|_| self.some_id()).collect();
                Action::Delete(ids.into_iter().collect())
            }
            9 => {
                let buried: Vec<ChunkId> = self.buried.iter().copied().collect();
                if buried.is_empty() {
                    return Action::Forget(Vec::new());
                }
                let at = self.rng.random_range(0..buried.len());
                Action::Forget(buried[at..(at + 3).min(buried.len())].to_vec())
            }
            10 => Action::Bury(self.some_id()),
            _ => Action::Copy(self.some_id(), self.new_id()),
        }
    }

    /// What an answer, or none, says about the chunks of an action.
    fn learn(&mut self, action: &Action, outcome: &Result<(), BlobError>) {
        self.log.push(format!("{action:?}: {outcome:?}"));
        match action {
            Action::Put(id, variant, length) => {
                let new = State::Live(*id, *variant, *length);
                self.learn_put(*id, &new, outcome);
            }
            Action::Copy(source, target) => self.learn_copy(*source, *target, outcome),
            Action::Bury(id) => {
                match outcome {
                    Ok(()) => self.set(*id, State::Absent),
                    Err(_) => self.also(*id, [State::Deleted, State::Absent]),
                }
                self.buried.insert(*id);
            }
            Action::Delete(ids) => {
                for id in ids {
                    match outcome {
                        Ok(()) => self.set(*id, State::Deleted),
                        Err(BlobError::Busy(_)) => {}
                        Err(BlobError::DiskFailed(_)) => self.also(*id, [State::Deleted]),
                        Err(error) => self.broken(&format!("deletion refused: {error}")),
                    }
                    self.buried.insert(*id);
                }
            }
            Action::Forget(ids) => {
                for id in ids {
                    let after: Vec<State> = self.possible(*id).into_iter().collect();
                    let after = after.into_iter().map(|state| match state {
                        State::Deleted => State::Absent,
                        state => state,
                    });
                    match outcome {
                        Ok(()) => {
                            let after = after.collect();
                            self.chunks.insert(*id, after);
                        }
                        Err(BlobError::Busy(_)) => {}
                        Err(BlobError::DiskFailed(_)) => self.also(*id, after),
                        Err(error) => self.broken(&format!("forgetting refused: {error}")),
                    }
                }
            }
        }
    }

    fn learn_put(&mut self, id: ChunkId, new: &State, outcome: &Result<(), BlobError>) {
        let bytes = bytes_of(new);
        match outcome {
            Ok(()) => {
                self.narrow(id, "was put", |state| match state {
                    State::Absent => true,
                    State::Deleted => false,
                    live => bytes_of(live) == bytes,
                });
                self.set(id, new.clone());
            }
            Err(BlobError::ChunkDeleted(_)) => {
                self.narrow(id, "is deleted", |state| *state == State::Deleted);
            }
            Err(BlobError::ChunkExists(_)) => self.narrow(id, "has other bytes", |state| {
                matches!(state, State::Live(..)) && bytes_of(state) != bytes
            }),
            Err(BlobError::DiskFull(_)) => {}
            Err(BlobError::DiskFailed(_)) => {
                if self.possible(id).contains(&State::Absent) {
                    self.also(id, [new.clone()]);
                }
            }
            Err(error) => self.broken(&format!("put of {id} refused: {error}")),
        }
    }

    fn learn_copy(&mut self, source: ChunkId, target: ChunkId, outcome: &Result<(), BlobError>) {
        match outcome {
            Err(BlobError::ChunkNotFound(id)) if *id == source => {
                self.narrow(source, "is absent", |state| *state == State::Absent);
            }
            Err(BlobError::ChunkDeleted(id)) if *id == source => {
                self.narrow(source, "is deleted", |state| *state == State::Deleted);
            }
            outcome => {
                if outcome.is_ok() {
                    self.narrow(source, "was copied", |state| {
                        matches!(state, State::Live(..))
                    });
                }
                let possible = self.possible(source);
                let lives = possible
                    .iter()
                    .filter(|state| matches!(state, State::Live(..)));
                let lives: Vec<State> = lives.cloned().collect();
                if let [live] = &lives[..] {
                    self.learn_put(target, live, outcome);
                } else if matches!(outcome, Ok(()) | Err(BlobError::DiskFailed(_))) {
                    self.also(target, lives);
                }
            }
        }
    }

    /// After a crash a forgotten tombstone may be known again.
    fn crashed(&mut self) {
        for id in self.buried.clone() {
            if self.possible(id).contains(&State::Absent) {
                self.also(id, [State::Deleted]);
            }
        }
    }
}

async fn perform(machine: &Machine, action: &Action) -> Result<(), BlobError> {
    let disk = machine.disk();
    match action {
        Action::Put(id, variant, length) => {
            let bytes = content(*id, *variant, *length);
            machine.store.put(disk, chunk(*id, &bytes)).await
        }
        Action::Delete(ids) => machine.store.delete(disk, PG, u64::MAX, ids.clone()).await,
        Action::Forget(ids) => machine.store.forget(disk, PG, u64::MAX, ids.clone()).await,
        Action::Bury(id) if id.0.is_multiple_of(2) => {
            machine.store.evict(disk, PG, u64::MAX, vec![*id]).await
        }
        Action::Bury(id) => {
            machine.store.delete(disk, PG, u64::MAX, vec![*id]).await?;
            machine.store.forget(disk, PG, u64::MAX, vec![*id]).await
        }
        Action::Copy(source, target) => {
            let copy = CopyChunk {
                source: *source,
                target: *target,
                owner: ChunkOwner {
                    bucket: BucketId(1),
                    object: ObjectId(3),
                },
                pg_epoch: 1,
            };
            machine.store.copy(disk, copy).await
        }
    }
}

/// Performs actions at once, with a compaction among them now and then.
async fn act(machine: &Machine, model: &mut Model) {
    let actions = model.actions();
    let compact = model.rng.random_range(0..4u8) == 0;
    let compacting = async {
        if compact {
            // A failing disk stops it; what that does to chunks is what is tested.
            let _ = machine.store.compact_once(machine.disk()).await;
        }
    };
    let performing = futures_util::future::join_all(actions.iter().map(|a| perform(machine, a)));
    let (outcomes, ()) = tokio::join!(performing, compacting);
    model.log.push(format!("compact {compact}, at once:"));
    for (action, outcome) in actions.iter().zip(&outcomes) {
        model.learn(action, outcome);
    }
}

/// Reads every chunk and the listing.
async fn verify(machine: &Machine, model: &mut Model) {
    let ids: Vec<ChunkId> = model.chunks.keys().copied().collect();
    for id in ids {
        let lengths: BTreeSet<usize> = model
            .possible(id)
            .iter()
            .map(|state| bytes_of(state).map_or(1, |bytes| bytes.len()))
            .collect();
        for length in lengths {
            match machine.get(0, id, length).await {
                Ok(bytes) => model.narrow(id, "was read", |state| {
                    bytes_of(state).is_some_and(|expected| expected.starts_with(&bytes))
                }),
                Err(BlobError::ChunkNotFound(_)) => {
                    model.narrow(id, "is absent", |state| *state == State::Absent);
                }
                Err(BlobError::ChunkDeleted(_)) => {
                    model.narrow(id, "is deleted", |state| *state == State::Deleted);
                }
                // The length of another possibility.
                Err(BlobError::Invalid(_)) => {}
                Err(error) => model.broken(&format!("read of {id}: {error}")),
            }
        }
    }
    let page = machine
        .store
        .list(machine.disk(), PG, None, 10_000)
        .await
        .unwrap();
    let listed: BTreeMap<ChunkId, bool> = page
        .entries
        .iter()
        .map(|entry| (entry.id, entry.deleted))
        .collect();
    let mut live = 0;
    for (id, possible) in model.chunks.clone() {
        let matches = possible.iter().any(|state| match (state, listed.get(&id)) {
            (State::Absent, None) | (State::Deleted, Some(true)) => true,
            (State::Live(_, _, length), Some(false)) => page
                .entries
                .iter()
                .any(|e| e.id == id && e.length as usize == *length),
            _ => false,
        });
        if !matches {
            model.broken(&format!(
                "{id} is listed as {:?}, possible {possible:?}",
                listed.get(&id)
            ));
        }
        live += u64::from(listed.get(&id) == Some(&false));
    }
    let page = machine.store.verify(machine.disk(), PG, None, u64::MAX);
    match page.await {
        Ok(page) if page.damaged.is_empty() && page.checked_chunks == live => {}
        checked => model.broken(&format!("{live} chunks, the disk finds {checked:?}")),
    }
    let status = machine.status(machine.disk()).await;
    if status.chunks != live {
        model.broken(&format!(
            "status counts {} chunks, {live} are live",
            status.chunks
        ));
    }
}

/// Compacts once, or waits until the disk is idle and lets it give back all that it says it can.
async fn compact(machine: &Machine, model: &mut Model) {
    let disk = machine.disk();
    if model.rng.random_bool(0.5) {
        let done = machine.store.compact_once(disk).await;
        model.log.push(format!("compact: {done:?}"));
        return;
    }
    let idle_after = machine.config.compact_idle_after;
    machine.runtime.sleep(idle_after).await;
    let mut rounds = 0;
    loop {
        let done = machine.store.compact_once(disk).await;
        model.log.push(format!("compact when idle: {done:?}"));
        match done {
            Ok(Some(_)) if rounds < 1000 => rounds += 1,
            Ok(Some(_)) => model.broken("compaction finds work in what it did itself"),
            Ok(None) => break,
            Err(error) => model.broken(&format!("compaction: {error}")),
        }
    }
    let left = machine.status(disk).await.reclaimable_bytes;
    if left > 0 {
        model.broken(&format!("{left} reclaimable bytes are not reclaimed"));
    }
}

/// Cuts the power during whatever happens, or between, and starts again on what is left.
async fn crash(runtime: &Runtime, mut machine: Machine, model: &mut Model) -> Machine {
    if model.rng.random_bool(0.8) {
        machine.vfs.power_off_after(model.rng.random_range(0..25));
        for _ in 0..10 {
            act(&machine, model).await;
            if machine.vfs.is_off() {
                break;
            }
        }
    }
    let rounds = if model.rng.random_bool(0.3) { 2 } else { 1 };
    for round in 0..rounds {
        let styles = [
            CrashStyle::LoseAll,
            CrashStyle::KeepAll,
            CrashStyle::Torn,
            CrashStyle::Torn,
            CrashStyle::Prefix,
        ];
        let style = styles[model.rng.random_range(0..styles.len())];
        let vfs = machine
            .vfs
            .crash(model.rng.random_range(0..u64::MAX), style);
        let index = if model.rng.random_bool(0.2) {
            MemoryKv::new()
        } else {
            let unsynced = machine.indexes[0].unsynced();
            machine.indexes[0].crash(model.rng.random_range(0..=unsynced))
        };
        model.log.push(format!("crash {style:?}"));
        model.crashed();
        if round + 1 < rounds {
            // The power goes again during recovery.
            vfs.power_off_after(model.rng.random_range(0..6));
            let config = machine.config.clone();
            let started = Machine::start(runtime, config, vfs.clone(), vec![index.clone()]).await;
            model
                .log
                .push(format!("power off in recovery: {}", started.is_err()));
            if let Ok(started) = started {
                started.runtime.stop().await;
            }
            machine.vfs = vfs;
            machine.indexes = vec![index];
        } else {
            machine = machine.revive(runtime, vfs, vec![index]).await;
        }
    }
    machine
}

/// A fault that takes the disk out, or fills it, and the repair.
async fn trouble(runtime: &Runtime, mut machine: Machine, model: &mut Model) -> Machine {
    if model.rng.random_bool(0.4) {
        let space = granary_vfs::Vfs::space(&machine.vfs, &dir(0)).unwrap();
        let used = space.total_bytes - space.free_bytes;
        let room = model.rng.random_range(0..100_000u64);
        machine.vfs.set_capacity(dir(0), used + room);
        model.log.push(format!("capacity {}", used + room));
        for _ in 0..3 {
            act(&machine, model).await;
        }
        machine.vfs.set_capacity(dir(0), 1 << 40);
        verify(&machine, model).await;
        if machine.health(0).await == DiskHealth::Failed {
            model.broken("a full disk failed");
        }
        return machine;
    }
    let faults = [Fault::WriteError, Fault::SyncError, Fault::ReadOnly];
    let fault = faults[model.rng.random_range(0..faults.len())];
    machine.vfs.inject(dir(0), fault);
    model.log.push(format!("fault {fault:?}"));
    for _ in 0..2 {
        act(&machine, model).await;
    }
    machine.vfs.heal();
    act(&machine, model).await;
    machine = crash(runtime, machine, model).await;
    machine
}

async fn sequence(runtime: Runtime, seed: u64) {
    let mut model = Model::new(seed);
    let mut machine = Machine::new(&runtime, config(), 1).await;
    for _ in 0..STEPS {
        match model.rng.random_range(0..20u8) {
            0 => verify(&machine, &mut model).await,
            1 | 2 => {
                machine = crash(&runtime, machine, &mut model).await;
                verify(&machine, &mut model).await;
            }
            3 => {
                model.log.push("restart".to_owned());
                machine = machine.restart(&runtime).await;
                verify(&machine, &mut model).await;
            }
            4 => {
                machine = trouble(&runtime, machine, &mut model).await;
                verify(&machine, &mut model).await;
            }
            5 => {
                compact(&machine, &mut model).await;
                verify(&machine, &mut model).await;
            }
            _ => act(&machine, &mut model).await,
        }
    }
    verify(&machine, &mut model).await;
    rot(&runtime, machine, &mut model).await;
}

/// Bits flip. Reads then give the right bytes or an error, whatever is rebuilt from them.
async fn rot(runtime: &Runtime, machine: Machine, model: &mut Model) {
    use granary_vfs::Vfs;
    for volume in machine.volumes(0) {
        let length = machine.vfs.open(&volume).unwrap().len().unwrap();
        for _ in 0..20 {
            let at = model.rng.random_range(4096..length.max(4097));
            let bit = model.rng.random_range(0..8);
            // Beyond the end of an empty volume.
            let _ = machine.vfs.flip_bit(&volume, at, bit);
        }
    }
    right_bytes_or_none(&machine, model).await;
    let crashed = machine.vfs.crash(model.seed, CrashStyle::KeepAll);
    let machine = machine
        .revive(runtime, crashed, vec![MemoryKv::new()])
        .await;
    right_bytes_or_none(&machine, model).await;
}

async fn right_bytes_or_none(machine: &Machine, model: &Model) {
    for chunk in model.chunks.keys() {
        let page = machine
            .store
            .list(machine.disk(), PG, None, 10_000)
            .await
            .unwrap();
        let Some(entry) = page.entries.iter().find(|entry| entry.id == *chunk) else {
            continue;
        };
        if entry.deleted {
            continue;
        }
        match machine.get(0, *chunk, entry.length as usize).await {
            Ok(bytes) => {
                let ours = (0..=model.next + 1).any(|source| {
                    (0..2).any(|variant| content(id(source), variant, bytes.len()) == bytes)
                });
                if !ours {
                    model.broken(&format!("chunk {chunk} has bytes that nobody wrote"));
                }
            }
            Err(BlobError::Corrupt(_)) => {}
            Err(error) => model.broken(&format!("read of {chunk}: {error}")),
        }
    }
}

#[test]
fn random_sequences_keep_every_promise() {
    // All of them, so that one run shows how wide a mistake reaches.
    let failed: Vec<u64> = (0..SEEDS)
        .filter(|seed| {
            let run = || simulate(*seed, |runtime| sequence(runtime, *seed));
            std::panic::catch_unwind(run).is_err()
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} seeds failed: {failed:?}",
        failed.len()
    );
}
