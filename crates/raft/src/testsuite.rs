//! For tests: the consensus library's own suite for logs and state machines, run over any
//! key-value store, and a small state machine to replicate.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use granary_kv::{Direction, Kv, KvError, KvRead, Space, WriteBatch};
use granary_runtime::{GroupCommit, Runtime};
use granary_types::ShardId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::health::{Health, HostHealth};
use crate::log_store::{Keep, LogEnvironment, LogStore, ROOM_BYTES};
use crate::machine::Machine;
use crate::snapshot::Stage;
use crate::types::{Types, seeded};
use crate::{Committed, SnapshotReader, SnapshotWriter, StateMachine, StateMachineError};

/// Runs the consensus library's suite on a log and a state machine over stores made by `empty`.
///
/// # Errors
/// Says which rule does not hold.
pub async fn store_conforms(
    runtime: &Runtime,
    empty: impl Fn() -> Arc<dyn Kv> + Send + Sync + 'static,
) -> Result<(), String> {
    let stores = Stores {
        runtime: runtime.clone(),
        empty: Box::new(empty),
    };
    let suite = Suite::<Types, LogStore, Machine, Stores, ()>::test_all(stores);
    Box::pin(seeded(1, suite))
        .await
        .map_err(|error| error.to_string())
}

struct Stores {
    runtime: Runtime,
    empty: Box<dyn Fn() -> Arc<dyn Kv> + Send + Sync>,
}

impl StoreBuilder<Types, LogStore, Machine, ()> for Stores {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<Types>> {
        let (kv, shard) = ((self.empty)(), ShardId(7));
        let synced = Arc::clone(&kv);
        let syncs = GroupCommit::start(&self.runtime, KvError::Closed, move || synced.sync());
        let environment = LogEnvironment {
            kv: Arc::clone(&kv),
            runtime: self.runtime.clone(),
            syncs,
            health: Health::new(shard, HostHealth::default()),
            page_bytes: 1 << 20,
            room: Arc::new(AtomicU64::new(ROOM_BYTES)),
            keep: Keep {
                bytes: 64 << 20,
                entries: 1000,
                slack_entries: 1000,
            },
        };
        let log = LogStore::open(shard, environment).expect("an empty store can be opened");
        let machine = MapMachine::new(shard, Arc::clone(&kv));
        let stage = Stage::new(shard, kv);
        let machine = Machine::open(shard, Arc::new(machine), log.clone(), stage);
        let (mut machine, _) = machine.expect("an empty store can be opened");
        machine.gaps_allowed = true;
        Ok(((), log, machine))
    }
}

/// A replicated map. A command is `key=value` (or anything else, which is kept as a key without a
/// value); its answer is its index in the log and its position there.
#[derive(Clone)]
pub struct MapMachine {
    shard: ShardId,
    kv: Arc<dyn Kv>,
}

impl std::fmt::Debug for MapMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapMachine")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// Bookkeeping, mark of an unfinished restore, data, one line per applied entry.
const BOOKS: u8 = 0;
const RESTORING: u8 = 1;
const DATA: u8 = 2;
const HISTORY: u8 = 3;

impl MapMachine {
    /// A map in `kv`, apart from other shards' maps.
    pub fn new(shard: ShardId, kv: Arc<dyn Kv>) -> Self {
        Self { shard, kv }
    }

    fn key(&self, kind: u8, rest: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(5 + rest.len());
        key.put_u32(self.shard.0);
        key.put_u8(kind);
        key.put_slice(rest);
        key.freeze()
    }

    fn bounds(&self, first: u8, end: u8) -> (Bytes, Bytes) {
        (self.key(first, b""), self.key(end, b""))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The store's.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, KvError> {
        self.kv.get(Space::State, &self.key(DATA, key.as_bytes()))
    }

    /// Every key.
    ///
    /// # Errors
    /// The store's.
    pub fn keys(&self) -> Result<Vec<String>, KvError> {
        self.list(DATA, |key, _| String::from_utf8_lossy(key).into_owned())
    }

    /// Index, time and entropy of every applied entry with commands.
    ///
    /// # Errors
    /// The store's.
    pub fn history(&self) -> Result<Vec<(u64, u64, u64)>, KvError> {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .take(8)
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        self.list(HISTORY, |key, value| {
            (number(key), number(value), number(&value[8..]))
        })
    }

    fn list<T>(&self, kind: u8, row: impl Fn(&[u8], &[u8]) -> T) -> Result<Vec<T>, KvError> {
        let (start, end) = self.bounds(kind, kind + 1);
        let rows = self
            .kv
            .scan(Space::State, &start, Some(&end), Direction::Forward);
        rows.map(|entry| entry.map(|(key, value)| row(&key[5..], &value)))
            .collect()
    }
}

impl StateMachine for MapMachine {
    fn load_bookkeeping(&self) -> Result<Option<Bytes>, StateMachineError> {
        if self
            .kv
            .get(Space::State, &self.key(RESTORING, b""))?
            .is_some()
        {
            return Ok(None);
        }
        Ok(self.kv.get(Space::State, &self.key(BOOKS, b""))?)
    }

    fn apply(
        &self,
        entries: Vec<Committed>,
        bookkeeping: Bytes,
    ) -> Result<Vec<Vec<Bytes>>, StateMachineError> {
        let mut batch = WriteBatch::new();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut own = Vec::with_capacity(entry.commands.len());
            for (position, command) in (0u32..).zip(&entry.commands) {
                let mut parts = command.splitn(2, |byte| *byte == b'=');
                let (key, value) = (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""));
                if key == b"poison" {
                    let reason = "poison".to_owned();
                    return Err(StateMachineError::UnknownCommand { reason });
                }
                batch.put(Space::State, self.key(DATA, key), value.to_vec());
                let mut answer = entry.index.to_be_bytes().to_vec();
                answer.extend_from_slice(&position.to_be_bytes());
                own.push(Bytes::from(answer));
            }
            if !entry.commands.is_empty() {
                let mut line = entry.time_ms.to_be_bytes().to_vec();
                line.extend_from_slice(&entry.entropy.to_be_bytes());
                batch.put(
                    Space::State,
                    self.key(HISTORY, &entry.index.to_be_bytes()),
                    line,
                );
            }
            answers.push(own);
        }
        batch.put(Space::State, self.key(BOOKS, b""), bookkeeping);
        self.kv.write(batch)?;
        Ok(answers)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotReader>, StateMachineError> {
        let view = self.kv.snapshot();
        let bookkeeping = view.get(Space::State, &self.key(BOOKS, b""))?;
        let (next, end) = self.bounds(DATA, HISTORY + 1);
        Ok(Box::new(MapReader {
            view,
            bookkeeping,
            next,
            end,
        }))
    }

    fn restore(&self) -> Result<Box<dyn SnapshotWriter>, StateMachineError> {
        let mut batch = WriteBatch::new();
        let (start, end) = self.bounds(DATA, HISTORY + 1);
        batch.put(Space::State, self.key(RESTORING, b""), &b"1"[..]);
        batch.delete_range(Space::State, start, end);
        self.kv.write(batch)?;
        Ok(Box::new(MapWriter {
            machine: self.clone(),
        }))
    }
}

struct MapReader {
    view: Arc<dyn KvRead>,
    bookkeeping: Option<Bytes>,
    next: Bytes,
    end: Bytes,
}

/// Small, so that even small maps are many chunks.
const CHUNK_ROWS: usize = 16;

impl SnapshotReader for MapReader {
    fn bookkeeping(&self) -> Option<Bytes> {
        self.bookkeeping.clone()
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, StateMachineError> {
        let mut chunk = BytesMut::new();
        let rows = self.view.scan(
            Space::State,
            &self.next,
            Some(&self.end),
            Direction::Forward,
        );
        let mut last = None;
        for row in rows.take(CHUNK_ROWS) {
            let (key, value) = row?;
            for part in [&key[4..], &value[..]] {
                chunk.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
                chunk.put_slice(part);
            }
            last = Some(key);
        }
        let Some(last) = last else { return Ok(None) };
        let mut next = BytesMut::from(last.as_ref());
        next.put_u8(0);
        self.next = next.freeze();
        Ok(Some(chunk.freeze()))
    }
}

struct MapWriter {
    machine: MapMachine,
}

impl SnapshotWriter for MapWriter {
    fn write(&mut self, chunk: Bytes) -> Result<(), StateMachineError> {
        let corrupt = || StateMachineError::Corrupt {
            what: "a snapshot chunk",
            reason: "it ends early".to_owned(),
        };
        let mut rest = chunk;
        let part = |rest: &mut Bytes| -> Result<Bytes, StateMachineError> {
            let length = rest.split_off_checked(4).ok_or_else(corrupt)?;
            let length = length
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest.split_off_checked(length).ok_or_else(corrupt)
        };
        let mut batch = WriteBatch::new();
        while !rest.is_empty() {
            let (key, value) = (part(&mut rest)?, part(&mut rest)?);
            let (kind, key) = key.split_first().ok_or_else(corrupt)?;
            batch.put(Space::State, self.machine.key(*kind, key), value);
        }
        Ok(self.machine.kv.write(batch)?)
    }

    fn finish(self: Box<Self>, bookkeeping: Bytes) -> Result<(), StateMachineError> {
        let mut batch = WriteBatch::new();
        batch.delete(Space::State, self.machine.key(RESTORING, b""));
        batch.put(Space::State, self.machine.key(BOOKS, b""), bookkeeping);
        Ok(self.machine.kv.write(batch)?)
    }
}

/// Takes bytes off the front when there are enough.
trait SplitChecked {
    fn split_off_checked(&mut self, length: usize) -> Option<Bytes>;
}

impl SplitChecked for Bytes {
    fn split_off_checked(&mut self, length: usize) -> Option<Bytes> {
        (self.len() >= length).then(|| self.split_to(length))
    }
}
