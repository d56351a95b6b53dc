//! Directories that hang, or take long, when a node starts and afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use granary_blob::BlobConfig;
use granary_blob_api::{BlobNode, DiskHealth};
use granary_kv_rocks::RocksBudget;
use granary_meta_api::Meta;
use granary_runtime::{Runtime, within};
use granary_types::{DiskId, NodeId};
use granary_vfs::{DirLock, RealVfs, Space, Vfs, VfsFile};
use parking_lot::{Condvar, Mutex};

use super::root::Root;
use super::{StorageRole, Wanted};

/// What hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    Everything,
    /// Only asking for room, which comes late in opening a disk.
    Space,
}

/// The machine's files, but for calls to one directory that wait until they are let go.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<Hung>, Condvar)>);

/// Where, if anywhere.
type Hung = Option<(PathBuf, Hang)>;

impl Gate {
    fn set(&self, hang: Option<(&Path, Hang)>) {
        *self.0.0.lock() = hang.map(|(path, hang)| (path.to_owned(), hang));
        self.0.1.notify_all();
    }

    fn pass(&self, path: &Path, call: Hang) {
        let mut hangs = self.0.0.lock();
        while hangs.as_ref().is_some_and(|(dir, hang)| {
            path.starts_with(dir) && (*hang == call || *hang == Hang::Everything)
        }) {
            self.0.1.wait(&mut hangs);
        }
    }
}

impl Vfs for Gate {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.pass(path, Hang::Everything);
        RealVfs.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.pass(path, Hang::Everything);
        RealVfs.create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.pass(dir, Hang::Everything);
        RealVfs.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.pass(path, Hang::Everything);
        RealVfs.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(from, Hang::Everything);
        RealVfs.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.pass(dir, Hang::Everything);
        RealVfs.sync_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.pass(dir, Hang::Everything);
        RealVfs.create_dir_all(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.pass(path, Hang::Space);
        RealVfs.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.pass(dir, Hang::Everything);
        RealVfs.lock(dir)
    }
}

/// A machine with three directories.
struct Machine {
    runtime: Runtime,
    _dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
    gate: Gate,
    root: Arc<Root>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c"];
        Self {
            runtime: Runtime::system(),
            paths: names.map(|name| dir.path().join(name)).to_vec(),
            _dir: dir,
            gate: Gate::default(),
            root: Arc::default(),
        }
    }

    async fn not_open(&self, paths: &[PathBuf]) -> Arc<StorageRole> {
        let meta = Meta::new(self.runtime.clone(), self.root.clone());
        let role = StorageRole::over(
            &self.runtime,
            NodeId(1),
            BlobConfig::for_cluster("test"),
            paths,
            RocksBudget::new(64 << 20),
            meta,
            Arc::new(self.gate.clone()),
        );
        role.await.unwrap()
    }

    async fn start(&self, paths: &[PathBuf], wanted: Wanted) -> Arc<StorageRole> {
        let role = self.not_open(paths).await;
        let opening = role.open_within(wanted, Duration::from_millis(300));
        quickly("the start", opening).await.unwrap();
        quickly("telling the root", role.enrol()).await.unwrap();
        role
    }

    /// Waits until these of the three directories have a disk that serves.
    async fn until_served(&self, role: &StorageRole, expected: [bool; 3]) {
        let served = async {
            loop {
                let now = role.directories().await;
                if now.iter().map(|(_, serves)| *serves).eq(expected) {
                    return;
                }
                self.runtime.sleep(Duration::from_millis(10)).await;
            }
        };
        quickly("serving", served).await;
    }
}

impl Drop for Machine {
    /// A test that fails ends: its runtime waits for the calls that hang.
    fn drop(&mut self) {
        self.gate.set(None);
    }
}

async fn quickly<F: Future>(what: &str, future: F) -> F::Output {
    match within(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took long"),
    }
}

fn disk_in(role: &StorageRole, path: &Path) -> Option<DiskId> {
    let directories = role.directories.lock();
    let known = directories.iter().find(|known| known.path == path);
    known.unwrap().disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_hangs_keeps_no_other_out() {
    let machine = Machine::new();
    machine
        .gate
        .set(Some((&machine.paths[0], Hang::Everything)));
    let role = machine.start(&machine.paths, Wanted::OneDisk).await;
    machine.until_served(&role, [false, true, true]).await;
    // Whoever is too late for the start is introduced later.
    let introduced = async |disks: usize| {
        while machine.root.disks.lock().len() < disks {
            role.look().await;
            machine.runtime.sleep(Duration::from_millis(10)).await;
        }
    };
    quickly("introducing", introduced(2)).await;
    assert_eq!(machine.root.disks.lock().len(), 2);
    // Nor is one that comes back kept waiting.
    let back = disk_in(&role, &machine.paths[1]).unwrap();
    role.store.remove_disk(back).await;
    role.update(&machine.paths[1], |known| known.disk = None);
    for _ in 0..3 {
        quickly("a look", role.look()).await;
    }
    machine.until_served(&role, [false, true, true]).await;
    machine.gate.set(None);
    machine.until_served(&role, [true, true, true]).await;
    quickly("introducing", introduced(3)).await;
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_long_to_open_is_named_meanwhile() {
    let machine = Machine::new();
    let role = machine.start(&machine.paths, Wanted::OneDisk).await;
    machine.until_served(&role, [true, true, true]).await;
    let slow = disk_in(&role, &machine.paths[2]).unwrap();
    role.stop().await;
    drop(role);
    machine.gate.set(Some((&machine.paths[2], Hang::Space)));
    let role = machine.start(&machine.paths, Wanted::OneDisk).await;
    machine.until_served(&role, [true, true, false]).await;
    let health = async |disk| {
        let disks = role.store.disks().await.unwrap();
        disks
            .into_iter()
            .find(|known| known.id == disk)
            .unwrap()
            .health
    };
    assert_eq!(health(slow).await, DiskHealth::Opening);
    machine.gate.set(None);
    machine.until_served(&role, [true, true, true]).await;
    assert_eq!(health(slow).await, DiskHealth::Healthy);
    role.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_only_disk_hangs_starts_and_stops() {
    let machine = Machine::new();
    machine
        .gate
        .set(Some((&machine.paths[0], Hang::Everything)));
    let role = machine.start(&machine.paths[..1], Wanted::Hope).await;
    assert!(machine.root.disks.lock().is_empty());
    quickly("the stop", role.stop()).await;
    machine.gate.set(None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_only_disk_cannot_be_opened_starts_and_takes_it_up_later() {
    let machine = Machine::new();
    let only = &machine.paths[..1];
    let role = machine.start(only, Wanted::Hope).await;
    let disk = disk_in(&role, &only[0]).unwrap();
    role.stop().await;
    drop(role);
    // As a full disk does: the index cannot be opened, and nothing is lost.
    let (index, aside) = (only[0].join("index"), only[0].join("aside"));
    std::fs::rename(&index, &aside).unwrap();
    std::fs::write(&index, "").unwrap();
    let role = machine.start(only, Wanted::Hope).await;
    assert!(disk_in(&role, &only[0]).is_none());
    std::fs::remove_file(&index).unwrap();
    std::fs::rename(&aside, &index).unwrap();
    let taken_up = async {
        while disk_in(&role, &only[0]) != Some(disk) {
            role.look().await;
            machine.runtime.sleep(Duration::from_millis(10)).await;
        }
    };
    quickly("taking it up", taken_up).await;
    quickly("the stop", role.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_only_path_is_wrong_does_not_start() {
    let machine = Machine::new();
    let file = machine.paths[0].with_file_name("file");
    std::fs::write(&file, "").unwrap();
    let role = machine.not_open(&[file.join("below")]).await;
    let opening = role.open_within(Wanted::Hope, Duration::from_millis(300));
    let error = quickly("the start", opening).await.unwrap_err();
    assert!(format!("{error:#}").contains("cannot make"), "{error:#}");
}
