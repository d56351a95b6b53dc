//! Names, and what is kept open.

use std::sync::atomic::{AtomicBool, Ordering};

use granary_vfs::{DirLock, MemoryVfs, Space};

use super::*;

#[test]
fn names_are_numbers() {
    assert_eq!(volume_name(255), "000000ff.volume");
    for (name, volume) in [
        ("000000ff.volume", Some(255)),
        ("ff.volume", None),
        ("000000ff.volume.new", None),
        ("lock", None),
    ] {
        assert_eq!(volume_of_name(name), volume, "{name}");
    }
}

/// Once opened, a file waits for whoever removes it.
struct SlowOpening {
    files: MemoryVfs,
    volumes: Mutex<Option<Arc<Volumes>>>,
    removed: AtomicBool,
}

impl Vfs for SlowOpening {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = self.files.open(path)?;
        if let Some(volumes) = self.volumes.lock().take() {
            volumes.remove(1)?;
            self.removed.store(true, Ordering::SeqCst);
        }
        Ok(file)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.files.create(path)
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
        self.files.space(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        self.files.lock(dir)
    }
}

#[test]
fn a_volume_that_is_removed_while_it_is_opened_is_not_kept_open() {
    let vfs = Arc::new(SlowOpening {
        files: MemoryVfs::new(),
        volumes: Mutex::default(),
        removed: AtomicBool::new(false),
    });
    let shared: Arc<dyn Vfs> = Arc::clone(&vfs) as Arc<dyn Vfs>;
    let volumes = Volumes::new(shared, Path::new("/d"), DiskId(1), 8);
    let volumes = Arc::new(volumes);
    volumes.prepare().unwrap();
    for volume in [1, 2] {
        volumes.create(volume, 7, 4096).unwrap();
    }
    *vfs.volumes.lock() = Some(Arc::clone(&volumes));
    volumes.open(1).unwrap();
    assert!(vfs.removed.load(Ordering::SeqCst));
    assert_eq!(
        volumes.open(1).err().unwrap().kind(),
        io::ErrorKind::NotFound
    );
    volumes.open(2).unwrap();
    assert_eq!(volumes.open.lock().files.len(), 1);
}
