//! Disks whose calls do not return.

use std::future::Future;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use granary_blob::{BlobConfig, BlobStore, OpenError};
use granary_blob_api::testsuite::{over_pipe_within, pattern};
use granary_blob_api::{BlobError, BlobNode, DiskHealth, ServerLimits};
use granary_kv::MemoryKv;
use granary_runtime::{Runtime, within};
use granary_types::DiskId;
use granary_vfs::{DirLock, MemoryVfs, Space, Vfs, VfsFile};
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use crate::support::{PG, config, dir, disk_config, get, id, put};

/// What hangs in the first disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    Space,
    Read,
    Sync,
}

#[derive(Clone, Default)]
struct Gate {
    hangs: Arc<(Mutex<Option<Hang>>, Condvar)>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    fn pass(&self, path: &Path, call: Hang) {
        let mut hangs = self.hangs.0.lock();
        while path.starts_with(dir(0)) && *hangs == Some(call) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.hangs.1.wait(&mut hangs);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn set(&self, hang: Option<Hang>) {
        *self.hangs.0.lock() = hang;
        self.hangs.1.notify_all();
    }
}

struct HangingVfs {
    files: MemoryVfs,
    gate: Gate,
}

struct HangingFile {
    file: Arc<dyn VfsFile>,
    path: std::path::PathBuf,
    gate: Gate,
}

impl HangingVfs {
    fn wrap(&self, path: &Path, file: Arc<dyn VfsFile>) -> Arc<dyn VfsFile> {
        Arc::new(HangingFile {
            file,
            path: path.to_owned(),
            gate: self.gate.clone(),
        })
    }
}

impl VfsFile for HangingFile {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.gate.pass(&self.path, Hang::Read);
        self.file.read_at(offset, length)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset, slices)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(&self.path, Hang::Sync);
        self.file.sync_data()
    }

    fn file_id(&self) -> io::Result<(u64, u64)> {
        self.file.file_id()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
}

impl Vfs for HangingVfs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(self.wrap(path, self.files.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(self.wrap(path, self.files.create(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.files.create_dir_all(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.gate.pass(path, Hang::Space);
        self.files.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.files.lock(dir)
    }
}

/// Two disks, the first of which can be made to hang.
async fn two_disks(runtime: &Runtime, config: BlobConfig) -> (BlobStore, Vec<DiskId>, Gate) {
    let gate = Gate::default();
    let vfs: Arc<dyn Vfs> = Arc::new(HangingVfs {
        files: MemoryVfs::new(),
        gate: gate.clone(),
    });
    let store = BlobStore::open(runtime.clone(), config, vfs, Vec::new())
        .await
        .unwrap();
    let mut disks = Vec::new();
    for n in 0..2 {
        let disk = store.add_disk(disk_config(n, &MemoryKv::new())).await;
        disks.push(disk.unwrap());
        store.open_pg(disks[n], PG, 1).await.unwrap();
    }
    (store, disks, gate)
}

async fn quickly<F: Future>(what: &str, future: F) -> F::Output {
    match within(Duration::from_secs(3), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took long"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_answer_blinds_nobody_and_is_given_up() {
    let runtime = Runtime::system();
    let mut config = config();
    config.silent_after = Duration::from_secs(1);
    let (store, disks, gate) = two_disks(&runtime, config).await;
    gate.set(Some(Hang::Space));
    for _ in 0..10 {
        let statuses = quickly("asking", store.disks()).await.unwrap();
        assert_eq!(statuses.len(), 2);
        // What it said last is still known.
        assert!(statuses.iter().all(|status| status.total_bytes > 0));
    }
    assert_eq!(gate.waiting.load(Ordering::SeqCst), 1, "threads that hang");
    let health = async |disk| {
        let statuses = quickly("asking", store.disks()).await.unwrap();
        let status = statuses.into_iter().find(|status| status.id == disk);
        status.unwrap().health
    };
    let given_up = async {
        while health(disks[0]).await != DiskHealth::Failed {
            runtime.sleep(Duration::from_millis(20)).await;
        }
    };
    within(Duration::from_secs(20), given_up).await.unwrap();
    assert_eq!(health(disks[1]).await, DiskHealth::Healthy);
    put(&store, disks[1], id(1), &pattern(1, 100))
        .await
        .unwrap();
    gate.set(None);
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_does_not_wait_for_a_disk_that_hangs() {
    let runtime = Runtime::system();
    let mut config = config();
    config.busy_after = Duration::from_millis(100);
    config.close_after = Duration::from_millis(500);
    let (store, disks, gate) = two_disks(&runtime, config).await;
    gate.set(Some(Hang::Sync));
    let (writing, disk) = (store.clone(), disks[0]);
    let put = runtime.spawn(async move { put(&writing, disk, id(1), &pattern(1, 100)).await });
    let hangs = async {
        while gate.waiting.load(Ordering::SeqCst) == 0 {
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    within(Duration::from_secs(20), hangs).await.unwrap();
    quickly("closing", store.shutdown()).await;
    // The call is still under way: nobody else may have the directory before it is over.
    let taken = store.add_disk(disk_config(0, &MemoryKv::new())).await;
    assert!(matches!(taken, Err(OpenError::InUse(_))), "{taken:?}");
    let other = store.add_disk(disk_config(1, &MemoryKv::new())).await;
    assert_eq!(other.unwrap(), disks[1]);
    gate.set(None);
    // Whatever it is told, the writer is told something.
    let _ = within(Duration::from_secs(20), put).await.unwrap();
    let reopened = async {
        while let Err(error) = store.add_disk(disk_config(0, &MemoryKv::new())).await {
            assert!(matches!(error, OpenError::InUse(_)), "{error}");
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    within(Duration::from_secs(20), reopened).await.unwrap();
    store.shutdown().await;
}

/// Callers give up and come again; the calls they left behind in the disk do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_whose_reads_hang_holds_up_a_bounded_number_of_threads() {
    let runtime = Runtime::system();
    let mut config = config();
    config.reads_max = 4;
    config.busy_after = Duration::from_millis(200);
    let (store, disks, gate) = two_disks(&runtime, config).await;
    let (hung, other) = (disks[0], disks[1]);
    let bytes = pattern(1, 100);
    for disk in [hung, other] {
        put(&store, disk, id(1), &bytes).await.unwrap();
    }
    gate.set(Some(Hang::Read));
    let patience = Duration::from_millis(50);
    let reading = async {
        while gate.waiting.load(Ordering::SeqCst) < 4 {
            // A repeat reads what the disk holds.
            let _ = within(patience, put(&store, hung, id(1), &bytes)).await;
            let _ = within(patience, get(&store, hung, id(1), 100)).await;
        }
    };
    within(Duration::from_secs(20), reading).await.unwrap();
    let repeats = (0..50).map(|_| {
        let (store, bytes) = (store.clone(), bytes.clone());
        runtime.spawn(async move { put(&store, hung, id(1), &bytes).await })
    });
    for repeat in repeats.collect::<Vec<_>>() {
        let refused = quickly("a repeat", repeat).await.unwrap();
        assert_eq!(refused, Err(BlobError::Busy(hung)));
    }
    let listed = quickly("listing", store.list(hung, PG, None, 10)).await;
    assert_eq!(listed.err(), Some(BlobError::Busy(hung)));
    assert_eq!(gate.waiting.load(Ordering::SeqCst), 4, "threads that hang");
    let read = quickly("the other disk", get(&store, other, id(1), 100)).await;
    assert_eq!(read.unwrap(), bytes);
    gate.set(None);
    let well = async {
        while get(&store, hung, id(1), 100).await.is_err() {
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    within(Duration::from_secs(20), well).await.unwrap();
    store.shutdown().await;
}

/// A request does not wait for ever for a disk that took it and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_disk_took_has_a_deadline() {
    let runtime = Runtime::system();
    let mut config = config();
    config.silent_after = Duration::from_millis(300);
    let (store, disks, gate) = two_disks(&runtime, config).await;
    let bytes = pattern(1, 100);
    put(&store, disks[0], id(1), &bytes).await.unwrap();
    for hang in [Hang::Read, Hang::Sync] {
        gate.set(Some(hang));
        let outcome = match hang {
            Hang::Read => get(&store, disks[0], id(1), 100).await.map(|_| ()),
            _ => put(&store, disks[0], id(2), &bytes).await,
        };
        assert!(
            matches!(outcome, Err(BlobError::Unreachable(_))),
            "{hang:?}: {outcome:?}"
        );
        gate.set(None);
    }
    store.shutdown().await;
}

/// Whoever checks a disk holds one of its places, also when callers give up and come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checking_a_disk_that_hangs_takes_one_place_and_no_more() {
    let runtime = Runtime::system();
    let mut config = config();
    config.reads_max = 4;
    config.busy_after = Duration::from_millis(200);
    let (store, disks, gate) = two_disks(&runtime, config).await;
    put(&store, disks[0], id(1), &pattern(1, 100))
        .await
        .unwrap();
    gate.set(Some(Hang::Read));
    let checks = (0..20).map(|_| {
        let (store, disk) = (store.clone(), disks[0]);
        runtime.spawn(async move {
            within(Duration::from_millis(50), store.verify(disk, PG, None, 1))
                .await
                .is_err()
        })
    });
    for check in checks.collect::<Vec<_>>() {
        assert!(quickly("giving up", check).await.unwrap(), "it hangs");
    }
    let refused = quickly("a check", store.verify(disks[0], PG, None, 1)).await;
    assert_eq!(refused.err(), Some(BlobError::Busy(disks[0])));
    assert_eq!(gate.waiting.load(Ordering::SeqCst), 1, "threads that hang");
    let listed = quickly("listing", store.list(disks[0], PG, None, 10)).await;
    assert_eq!(listed.unwrap().entries.len(), 1);
    gate.set(None);
    let checked = async {
        while store.verify(disks[0], PG, None, 1).await.is_err() {
            runtime.sleep(Duration::from_millis(5)).await;
        }
    };
    within(Duration::from_secs(20), checked).await.unwrap();
    store.shutdown().await;
}

/// A slow disk collects what everybody sends to it and asks of it: that is bounded, whoever finds no
/// room hears of it early, and other disks have room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_does_not_fill_the_memory_of_its_node() {
    const LENGTH: usize = 100_000;
    let runtime = Runtime::system();
    let (store, disks, gate) = two_disks(&runtime, config()).await;
    let (hung, other) = (disks[0], disks[1]);
    // Ten of these chunks for one disk.
    let limits = ServerLimits {
        put_bytes: 2_100_000,
        get_bytes: 2_100_000,
    };
    let patience = Duration::from_secs(60);
    let server = Arc::new(store.clone());
    let node = over_pipe_within(&runtime, server, patience, limits).await;
    let bytes = pattern(1, LENGTH);
    let whole = id(1000);
    for disk in [hung, other] {
        put(node.as_ref(), disk, whole, &bytes).await.unwrap();
    }
    for hang in [Hang::Sync, Hang::Read] {
        gate.set(Some(hang));
        let (answer, mut answers) = mpsc::channel(30);
        for n in 0..30 {
            let (node, bytes, answer) = (Arc::clone(&node), bytes.clone(), answer.clone());
            runtime.spawn(async move {
                let outcome = match hang {
                    Hang::Read => get(node.as_ref(), hung, whole, LENGTH).await.map(|_| ()),
                    _ => put(node.as_ref(), hung, id(n), &bytes).await,
                };
                answer.send(outcome).await.unwrap();
            });
        }
        for n in 0..20 {
            let refused = within(Duration::from_secs(20), answers.recv()).await;
            let busy = Ok(Some(Err(BlobError::Busy(hung))));
            assert_eq!(refused, busy, "{hang:?}: answer {n}");
        }
        let read = get(node.as_ref(), other, whole, LENGTH);
        let read = within(Duration::from_secs(20), read).await.unwrap();
        assert_eq!(read.unwrap(), bytes);
        put(node.as_ref(), other, id(hang as u128), &bytes)
            .await
            .unwrap();
        gate.set(None);
        for _ in 0..10 {
            assert_eq!(answers.recv().await, Some(Ok(())), "{hang:?}");
        }
    }
    store.shutdown().await;
}
