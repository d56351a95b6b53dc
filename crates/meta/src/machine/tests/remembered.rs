//! What a machine remembers of its rows, while a store is watched that lets something happen in the midst of
//! its calls.

use granary_kv::{KvError, KvStats, Scan, WriteBatch};
use granary_raft::StateMachineError;
use parking_lot::Mutex;

use super::*;

type Hook = Box<dyn Fn() + Send>;

/// A store in memory that calls back: before each write, and before or after a snapshot is taken.
struct Watched {
    kv: MemoryKv,
    writing: Mutex<Option<Hook>>,
    before_snapshot: Mutex<Option<Hook>>,
    after_snapshot: Mutex<Option<Hook>>,
    /// Whether a batch can be written at once.
    at_once: Mutex<bool>,
}

impl Watched {
    fn new() -> Arc<Self> {
        let kv = MemoryKv::new();
        first_state(&kv);
        Arc::new(Self {
            kv,
            writing: Mutex::default(),
            before_snapshot: Mutex::default(),
            after_snapshot: Mutex::default(),
            at_once: Mutex::new(true),
        })
    }

    fn machine(self: &Arc<Self>) -> Arc<ShardMachine> {
        let kv: Arc<dyn Kv> = Arc::<Self>::clone(self);
        ShardMachine::open(kv, ShardId(1), HOMES[0], Claims::default()).unwrap()
    }
}

impl KvRead for Watched {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.kv.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        self.kv.scan(space, start, end, direction)
    }

    /// All of it.
    fn in_memory(&self) -> Option<Box<dyn KvRead + '_>> {
        Some(Box::new(self.kv.clone()))
    }
}

impl Kv for Watched {
    fn snapshot(&self) -> Arc<dyn KvRead> {
        // Taken out: what it does may look at the store too.
        let before = self.before_snapshot.lock().take();
        before.iter().for_each(|hook| hook());
        let snapshot = self.kv.snapshot();
        let after = self.after_snapshot.lock().take();
        after.iter().for_each(|hook| hook());
        snapshot
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.writing.lock().iter().for_each(|hook| hook());
        self.kv.write(batch)
    }

    fn write_at_once(&self, batch: &WriteBatch) -> Result<bool, KvError> {
        self.writing.lock().iter().for_each(|hook| hook());
        if !*self.at_once.lock() {
            return Ok(false);
        }
        self.kv.write(batch.clone()).map(|()| true)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.kv.sync()
    }

    fn stats(&self) -> KvStats {
        self.kv.stats()
    }
}

/// An entry that sets the shard's time, and nothing else.
fn tick(index: u64) -> Vec<Committed> {
    let command = pb::Command {
        id: Bytes::copy_from_slice(&u128::from(index).to_be_bytes()),
        deadline_ms: time_ms(index),
        command: Some(Wire::Tick(pb::Tick {})),
    };
    vec![Committed {
        index,
        term: 1,
        time_ms: time_ms(index),
        entropy: 0,
        commands: vec![command.encode_to_vec().into()],
    }]
}

fn time_ms(index: u64) -> u64 {
    1_800_000_000_000 + index
}

fn apply_tick(machine: &ShardMachine, index: u64) {
    machine.apply(tick(index), bookkeeping(index)).unwrap();
}

fn apply_tick_at_once(machine: &ShardMachine, index: u64) -> bool {
    let applied = machine.apply_at_once(&tick(index), &bookkeeping(index));
    applied.unwrap().is_some()
}

fn known_ms(machine: &ShardMachine) -> Option<u64> {
    machine.view().1.map(|known| known.clock.applied_ms)
}

#[test]
fn what_is_remembered_is_what_was_applied() {
    let machine = Watched::new().machine();
    assert_eq!(known_ms(&machine), None, "nothing was applied yet");
    apply_tick(&machine, 0);
    assert_eq!(known_ms(&machine), Some(time_ms(0)));
    assert!(apply_tick_at_once(&machine, 1));
    assert_eq!(known_ms(&machine), Some(time_ms(1)));
    drop(machine.restore().unwrap());
    assert_eq!(known_ms(&machine), None, "a state is being replaced");
}

#[test]
fn nothing_is_known_while_a_change_is_written() {
    let store = Watched::new();
    let machine = store.machine();
    apply_tick(&machine, 0);
    let looked = Arc::new(Mutex::new(0));
    let (looks, looking) = (Arc::clone(&looked), Arc::clone(&machine));
    *store.writing.lock() = Some(Box::new(move || {
        assert_eq!(known_ms(&looking), None);
        *looks.lock() += 1;
    }));
    apply_tick(&machine, 1);
    assert!(apply_tick_at_once(&machine, 2));
    *store.at_once.lock() = false;
    assert!(!apply_tick_at_once(&machine, 3));
    *store.writing.lock() = None;
    assert_eq!(*looked.lock(), 3);
    assert_eq!(
        known_ms(&machine),
        Some(time_ms(2)),
        "the last was not written"
    );
}

#[test]
fn nothing_is_known_of_a_view_that_a_change_came_in_between() {
    let store = Watched::new();
    let machine = store.machine();
    apply_tick(&machine, 0);
    for (index, hook) in [(1, &store.before_snapshot), (2, &store.after_snapshot)] {
        let applying = Arc::clone(&machine);
        *hook.lock() = Some(Box::new(move || apply_tick(&applying, index)));
        assert_eq!(known_ms(&machine), None, "tick {index}");
        assert_eq!(known_ms(&machine), Some(time_ms(index)));
    }
}

#[test]
fn nothing_is_known_after_a_write_that_failed() {
    let store = Watched::new();
    let machine = store.machine();
    apply_tick(&machine, 0);
    store.kv.fail("a dying disk");
    let failed = machine.apply(tick(1), bookkeeping(1));
    assert!(matches!(failed, Err(StateMachineError::Kv(_))));
    assert_eq!(known_ms(&machine), None);
}
