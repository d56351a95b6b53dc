//! Conformance, crashes at every byte of the log's tail, locking, memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_kv::{Direction, Kv, KvError, KvRead, Space, WriteBatch, testsuite};
use granary_raft::testsuite::{MapMachine, store_conforms};
use granary_raft::{NoPeers, RaftConfig, RaftHost};
use granary_runtime::Runtime;
use granary_types::{NodeId, ShardId};
use tempfile::TempDir;

use crate::{RocksBudget, RocksConfig, RocksKv};

fn open(path: &Path) -> RocksKv {
    RocksKv::open(path, RocksConfig::default()).unwrap()
}

fn write(kv: &RocksKv, number: u32, bytes: usize) {
    let mut batch = WriteBatch::new();
    batch.put(Space::State, number.to_be_bytes().to_vec(), vec![7; bytes]);
    batch.put(Space::Log, number.to_be_bytes().to_vec(), vec![8; bytes]);
    kv.write(batch).unwrap();
}

fn numbers(kv: &dyn KvRead, space: Space) -> Vec<u32> {
    let entries = kv.scan(space, b"", None, Direction::Forward);
    entries
        .map(|entry| u32::from_be_bytes(entry.unwrap().0.as_ref().try_into().unwrap()))
        .collect()
}

/// A copy of a database directory as it is now. One that is in use removes a file now and then, in
/// the background: then the copy is made anew.
fn copy(from: &Path, to: &Path) {
    while let Err(error) = try_copy(from, to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        fs::remove_dir_all(to).unwrap();
    }
}

fn try_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// The newest write-ahead log of a database directory.
fn newest_log(path: &Path) -> PathBuf {
    let files = fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|ext| ext == "log"))
        .max()
        .unwrap()
}

#[test]
fn conforms() {
    let directory = TempDir::new().unwrap();
    let next = std::cell::Cell::new(0);
    testsuite::conforms(&|| {
        next.set(next.get() + 1);
        Arc::new(open(&directory.path().join(next.get().to_string())))
    });
}

/// More rows than a scan steps over before it has their place compacted, all of them deleted.
fn write_and_delete(kv: &RocksKv) {
    for number in 0..30_000 {
        write(kv, number, 1);
    }
    let mut batch = WriteBatch::new();
    for number in 0..30_000u32 {
        batch.delete(Space::State, number.to_be_bytes().to_vec());
    }
    kv.write(batch).unwrap();
}

fn scan_deleted(kv: &dyn KvRead, direction: Direction) -> usize {
    kv.scan(Space::State, b"", Some(&[0, 8]), direction).count()
}

/// In memory a scan gives up behind a thousand of them.
fn rows_are_in_the_way(kv: &RocksKv, direction: Direction) -> bool {
    let memory = kv.in_memory().unwrap();
    let first = memory
        .scan(Space::State, b"", Some(&[0, 8]), direction)
        .next();
    matches!(first, Some(Err(KvError::NotInMemory)))
}

#[test]
fn deleted_rows_that_a_scan_meets_are_gone_soon() {
    for direction in [Direction::Forward, Direction::Backward] {
        let directory = TempDir::new().unwrap();
        let kv = open(directory.path());
        write(&kv, 1 << 20, 1);
        write_and_delete(&kv);
        assert!(rows_are_in_the_way(&kv, direction));
        let deadline = Instant::now() + Duration::from_secs(60);
        while rows_are_in_the_way(&kv, direction) {
            assert!(Instant::now() < deadline, "{direction:?}");
            assert_eq!(scan_deleted(&kv, direction), 0);
            std::thread::yield_now();
        }
        assert_eq!(numbers(&kv, Space::State), [1 << 20]);
    }
}

#[test]
fn deleted_rows_that_a_snapshot_keeps_are_gone_after_it() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    write(&kv, 1 << 20, 1);
    let snapshot = kv.snapshot();
    write_and_delete(&kv);
    assert_eq!(scan_deleted(&kv, Direction::Forward), 0);
    assert_eq!(scan_deleted(snapshot.as_ref(), Direction::Forward), 0);
    drop(snapshot);
    let deadline = Instant::now() + Duration::from_secs(60);
    while rows_are_in_the_way(&kv, Direction::Forward) {
        assert!(Instant::now() < deadline);
        // The block behind them has to be in memory, too.
        let behind = kv.get(Space::State, &(1u32 << 20).to_be_bytes());
        assert!(behind.unwrap().is_some());
        std::thread::yield_now();
    }
}

#[test]
fn a_database_closes_while_deleted_rows_are_cleared_away() {
    let directory = TempDir::new().unwrap();
    for _ in 0..5 {
        let kv = open(directory.path());
        write_and_delete(&kv);
        assert_eq!(numbers(&kv, Space::State), []);
    }
    assert_eq!(numbers(&open(directory.path()), Space::Log).len(), 30_000);
}

#[test]
fn it_knows_about_how_large_an_interval_is_once_that_is_in_files() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    // Several times what a memtable holds, and nothing that a compression makes smaller.
    let mut next = 1u64;
    for number in 0..4000u32 {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (next >> 33).to_le_bytes()
        })
        .take(2048)
        .flatten()
        .collect();
        let mut batch = WriteBatch::new();
        batch.put(Space::State, number.to_be_bytes().to_vec(), value);
        kv.write(batch).unwrap();
    }
    let bytes = |from: u32, to: u32| {
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        kv.snapshot()
            .approximate_bytes(Space::State, &from, Some(&to))
    };
    let whole = kv.approximate_bytes(Space::State, b"", None);
    assert!((20 << 20..=70 << 20).contains(&whole), "{whole}");
    let (lower, upper) = (bytes(0, 1000), bytes(1000, 4000));
    assert!(
        lower + upper >= whole * 9 / 10 && lower < upper,
        "{lower} {upper} {whole}"
    );
    assert_eq!(bytes(5000, 6000), 0);
    assert_eq!(bytes(1000, 0), 0);
}

#[test]
fn what_was_synced_survives_a_restart() {
    let directory = TempDir::new().unwrap();
    testsuite::survives(&|| Arc::new(open(directory.path())), &|| {});
}

/// The files as a killed process leaves them, with the log cut or garbled at every place after the
/// last sync: what is left is a prefix that has everything synced.
#[test]
fn a_torn_log_tail_leaves_a_prefix() {
    let directory = TempDir::new().unwrap();
    let live = directory.path().join("live");
    let kv = open(&live);
    (0..5).for_each(|number| write(&kv, number, 10));
    kv.sync().unwrap();
    let synced = fs::metadata(newest_log(&live)).unwrap().len();
    (5..9).for_each(|number| write(&kv, number, 10));
    // What a kernel may have written out by itself.
    kv.database.db.flush_wal(false).unwrap();
    let end = fs::metadata(newest_log(&live)).unwrap().len();
    assert!(end > synced);
    let check = |what: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let torn = directory.path().join("torn");
        copy(&live, &torn);
        let log = newest_log(&torn);
        let mut bytes = fs::read(&log).unwrap();
        damage(&mut bytes);
        fs::write(&log, bytes).unwrap();
        let kv = open(&torn);
        let (state, entries) = (numbers(&kv, Space::State), numbers(&kv, Space::Log));
        assert_eq!(state, entries, "{what}: a batch survived in part");
        assert_eq!(
            state,
            (0..state.len() as u32).collect::<Vec<_>>(),
            "{what}: not a prefix"
        );
        assert!(
            state.len() >= 5,
            "{what}: only {state:?} is left of what was synced"
        );
        // It can be written again, and that survives too.
        write(&kv, state.len() as u32, 10);
        kv.sync().unwrap();
        drop(kv);
        assert_eq!(
            numbers(&open(&torn), Space::Log).len(),
            state.len() + 1,
            "{what}"
        );
        fs::remove_dir_all(&torn).unwrap();
    };
    for at in (synced..end).step_by(7) {
        check(&format!("cut at {at}"), &|bytes| {
            bytes.truncate(at as usize)
        });
        check(&format!("zeros from {at}"), &|bytes| {
            bytes[at as usize..end as usize].fill(0)
        });
        check(&format!("garbled at {at}"), &|bytes| {
            bytes[at as usize] ^= 0x55
        });
    }
}

#[test]
fn a_database_in_use_says_so() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    let second = RocksKv::open(directory.path(), RocksConfig::default());
    let error = second.unwrap_err();
    assert!(matches!(error, KvError::InUse(_)), "{error}");
    let snapshot = kv.snapshot();
    drop(kv);
    // A snapshot keeps it open.
    assert!(RocksKv::open(directory.path(), RocksConfig::default()).is_err());
    drop(snapshot);
    open(directory.path());
}

#[test]
fn a_directory_that_is_not_a_database_is_an_io_error() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = RocksKv::open(&file, RocksConfig::default()).unwrap_err();
    assert!(matches!(error, KvError::Io(_)), "{error}");
}

#[test]
fn databases_share_one_memory_budget() {
    let directory = TempDir::new().unwrap();
    let budget = RocksBudget::new(32 << 20);
    let databases: Vec<RocksKv> = (0..3)
        .map(|number| {
            let config = RocksConfig {
                budget: budget.clone(),
                ..RocksConfig::default()
            };
            RocksKv::open(directory.path().join(number.to_string()), config).unwrap()
        })
        .collect();
    for number in 0..1500 {
        databases.iter().for_each(|kv| write(kv, number, 8 << 10));
    }
    databases.iter().for_each(|kv| kv.sync().unwrap());
    // 70 MiB were written, faster than they can be flushed: three databases with two spaces in
    // use, three memtables each, of a quarter of 12 MiB.
    let memtables = budget.memtable_bytes();
    assert!(memtables <= 55 << 20, "memtables hold {memtables} bytes");
    // That is more than the budget, which one database at a time keeps; it has an end all the same.
    assert!(budget.cache_bytes() <= 56 << 20, "{budget:?}");
    let stats = databases[0].stats();
    assert!(stats.disk_bytes > 0 && stats.cache_bytes > 0, "{stats:?}");
    for kv in &databases {
        assert_eq!(numbers(kv, Space::State).len(), 1500);
    }
}

#[test]
fn what_cannot_be_written_at_once_is_not_written_at_all() {
    let directory = TempDir::new().unwrap();
    let config = RocksConfig {
        budget: RocksBudget::new(16 << 20),
        ..RocksConfig::default()
    };
    let kv = RocksKv::open(directory.path(), config.clone()).unwrap();
    let (count, value) = (4000_u32, vec![7; 32 << 10]);
    let (mut written, mut refused) = (Vec::new(), 0);
    for number in 0..count {
        let mut batch = WriteBatch::new();
        batch.put(Space::State, number.to_be_bytes().to_vec(), value.clone());
        if kv.write_at_once(&batch).unwrap() {
            written.push(number);
        } else {
            refused += 1;
        }
    }
    println!("{refused} of {count} would have had to wait");
    kv.sync().unwrap();
    assert_eq!(numbers(&kv, Space::State), written);
    // Having to wait is no failure.
    write(&kv, count, 1);
    drop(kv);
    let kv = RocksKv::open(directory.path(), config).unwrap();
    written.push(count);
    assert_eq!(numbers(&kv, Space::State), written);
}

#[test]
fn nothing_is_written_at_once_while_the_log_is_synced() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    let batch = |number: u32| {
        let mut batch = WriteBatch::new();
        batch.put(Space::State, number.to_be_bytes().to_vec(), vec![1]);
        batch
    };
    assert!(kv.write_at_once(&batch(1)).unwrap());
    let syncing = kv.database.syncing.write();
    assert!(!kv.write_at_once(&batch(2)).unwrap());
    drop(syncing);
    kv.sync().unwrap();
    assert!(kv.write_at_once(&batch(3)).unwrap());
    assert_eq!(numbers(&kv, Space::State), [1, 3]);
}

#[test]
fn purged_log_ranges_are_gone_and_stay_gone() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    for round in 0..10u32 {
        (0..200).for_each(|number| write(&kv, round * 200 + number, 1 << 10));
        let mut batch = WriteBatch::new();
        let end = (round * 200 + 100).to_be_bytes().to_vec();
        let start = round.saturating_sub(1) * 200;
        batch.delete_range(Space::Log, start.to_be_bytes().to_vec(), end);
        kv.write(batch).unwrap();
    }
    kv.sync().unwrap();
    let expected: Vec<u32> = (1900..2000).collect();
    assert_eq!(numbers(&kv, Space::Log), expected);
    drop(kv);
    assert_eq!(numbers(&open(directory.path()), Space::Log), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_raft_log_conforms_on_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    let next = std::sync::atomic::AtomicU32::new(0);
    let empty = move || -> Arc<dyn Kv> {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let kv = open(&path.join(number.to_string()));
        // Each of the suite's many cases uses its store alone: no need for all of them at once.
        Arc::new(kv)
    };
    assert_eq!(store_conforms(&Runtime::system(), empty).await, Ok(()));
}

/// A process that is killed after it acknowledged: its files, as they are, hold every command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commands_are_on_disk() {
    let directory = TempDir::new().unwrap();
    let (live, killed) = (
        directory.path().join("live"),
        directory.path().join("killed"),
    );
    let (shard, node) = (ShardId(2), NodeId(1));
    let start = async |path: &Path| {
        let kv: Arc<dyn Kv> = Arc::new(open(path));
        let config = RaftConfig {
            snapshot_every_entries: 20,
            keep_entries: 5,
            ..RaftConfig::default()
        };
        let host = RaftHost::start(
            Runtime::system(),
            node,
            config,
            Arc::clone(&kv),
            Arc::new(NoPeers),
        );
        let machine = MapMachine::new(shard, kv);
        let group = host.open(shard, Arc::new(machine.clone())).await.unwrap();
        host.bootstrap(shard, &[node]).await.unwrap();
        (host, group, machine)
    };
    let (host, group, _) = start(&live).await;
    for number in 0..120 {
        let command = Bytes::from(format!("key{number:03}=value"));
        group
            .propose(command, std::time::Duration::from_secs(30))
            .await
            .unwrap();
    }
    copy(&live, &killed);
    let (second, _, machine) = start(&killed).await;
    assert_eq!(machine.keys().unwrap().len(), 120);
    second.stop().await.unwrap();
    host.stop().await.unwrap();
}

#[test]
fn memory_alone_answers_what_it_has_and_says_what_it_has_not() {
    let directory = TempDir::new().unwrap();
    let kv = open(directory.path());
    write(&kv, 1, 100);
    let key = |number: u32| number.to_be_bytes();
    let answers = |kv: &dyn KvRead| {
        let memory = kv.in_memory().unwrap();
        let got = memory.get(Space::State, &key(1));
        let scanned: Result<Vec<_>, _> = memory
            .scan(Space::State, b"", None, Direction::Forward)
            .collect();
        (got, scanned.map(|entries| entries.len()))
    };
    // In the memtable.
    let snapshot = kv.snapshot();
    for view in [&kv as &dyn KvRead, snapshot.as_ref()] {
        let (got, scanned) = answers(view);
        assert_eq!(got.unwrap().unwrap().len(), 100);
        assert_eq!(scanned.unwrap(), 1);
        let memory = view.in_memory().unwrap();
        assert_eq!(memory.get(Space::State, &key(2)).unwrap(), None);
    }
    drop(snapshot);
    kv.sync().unwrap();
    let family = kv.database.column_family(Space::State).unwrap();
    kv.database.db.flush_cf(&family).unwrap();
    drop(family);
    drop(kv);
    // In a file that nobody has read since the start.
    let kv = open(directory.path());
    let snapshot = kv.snapshot();
    for view in [&kv as &dyn KvRead, snapshot.as_ref()] {
        let (got, scanned) = answers(view);
        assert!(matches!(got, Err(KvError::NotInMemory)), "{got:?}");
        assert!(matches!(scanned, Err(KvError::NotInMemory)), "{scanned:?}");
    }
    // Whoever waits for the disk brings it into memory.
    assert_eq!(
        snapshot.get(Space::State, &key(1)).unwrap().unwrap().len(),
        100
    );
    for view in [&kv as &dyn KvRead, snapshot.as_ref()] {
        assert_eq!(answers(view).0.unwrap().unwrap().len(), 100);
    }
}
