//! The machine's file system, through positioned system calls.

mod direct;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation};
use rustix::io::Errno;

use self::direct::Direct;
use crate::{DirLock, LOCK_FILE, Space, Vfs, VfsFile, in_use};

/// Slices one `pwritev` may carry (`IOV_MAX` of Linux).
const SLICES_MAX: usize = 1024;

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealVfs;

impl RealVfs {
    /// The machine's file system, shared.
    pub fn shared() -> Arc<dyn Vfs> {
        Arc::new(Self)
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    direct: Direct,
}

impl RealFile {
    fn shared(file: File) -> Arc<dyn VfsFile> {
        let direct = Direct::default();
        Arc::new(Self { file, direct })
    }
}

impl VfsFile for RealFile {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        // Into spare capacity: a 4 MiB read does not zero 4 MiB first.
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            let read = retry(|| {
                let spare = rustix::buffer::spare_capacity(&mut bytes);
                Ok(rustix::io::pread(&self.file, spare, at)?)
            })?;
            if read == 0 {
                break;
            }
        }
        // The allocator may have given more room than asked for.
        bytes.truncate(length);
        Ok(bytes)
    }

    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut owned: Vec<IoSlice<'_>> = slices
            .iter()
            .filter(|slice| !slice.is_empty())
            .copied()
            .collect();
        let mut left = owned.as_mut_slice();
        let past_cache = self.direct.write_at(&self.file, offset, left)?;
        IoSlice::advance_slices(&mut left, past_cache);
        offset += past_cache as u64;
        while !left.is_empty() {
            let some = &left[..left.len().min(SLICES_MAX)];
            let written = retry(|| Ok(rustix::io::pwritev(&self.file, some, offset)?))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, written);
            offset += written as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried: after an error the kernel may have dropped the dirty pages.
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.drop_cache_of(0, 0)
    }

    fn drop_cache_of(&self, offset: u64, length: u64) -> io::Result<()> {
        // No length: to the end of the file.
        let length = NonZeroU64::new(length);
        match rustix::fs::fadvise(&self.file, offset, length, Advice::DontNeed) {
            // Advice; not every file system takes it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::SPIPE) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn file_id(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let now = self.len()?;
        if now >= length {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), now, length - now) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(length),
            Err(error) => Err(error.into()),
        }
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl Vfs for RealVfs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                File::open(path)?
            }
            outcome => outcome?,
        };
        Ok(RealFile::shared(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(RealFile::shared(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // Names of ours are ASCII; a foreign one is shown as well as it can be.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(dir)?)?)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                self.create_dir_all(parent)?;
                create_dir(dir)?;
                self.sync_dir(parent)
            }
            _ => {
                create_dir(dir)?;
                self.sync_dir(Path::new("."))
            }
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock::new(file)),
            Err(Errno::WOULDBLOCK) => Err(in_use(dir)),
            Err(error) => Err(error.into()),
        }
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn vectored_writes_come_back_whole_and_reads_stop_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealVfs.create(&dir.path().join("f")).unwrap();
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(5, &slices).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 12_005);
        assert_eq!(file.read_at(5, 12_000).unwrap(), parts.concat());
        assert_eq!(file.read_at(12_000, 100).unwrap().len(), 5);
        assert_eq!(file.read_at(20_000, 100).unwrap().len(), 0);
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.read_at((1 << 20) - 4, 8).unwrap(), [0; 4]);
    }

    /// Large writes and small ones, over each other, in slices of any length: the file is what was written last.
    #[test]
    fn writes_past_the_cache_and_through_it_are_one_file() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let file = RealVfs.create(&dir.path().join("f")).unwrap();
        let mut expected = vec![0; 8 << 20];
        file.allocate(expected.len() as u64).unwrap();
        for round in 0..100 {
            let length: usize = match round % 3 {
                0 => random.random_range(1..20_000),
                1 => random.random_range(100_000..3 << 20),
                _ => 4096 * random.random_range(1..900),
            };
            let at = random.random_range(0..expected.len() - length);
            let at = if round % 5 == 0 { at } else { at - at % 4096 };
            let mut bytes = vec![0; length];
            random.fill(&mut bytes[..]);
            let mut slices = Vec::new();
            let mut left = &bytes[..];
            while !left.is_empty() {
                let (one, more) = left.split_at(random.random_range(0..=left.len()));
                slices.push(IoSlice::new(one));
                left = more;
            }
            file.write_at(at as u64, &slices).unwrap();
            expected[at..at + length].copy_from_slice(&bytes);
            let from = random.random_range(0..expected.len());
            let read = file.read_at(from as u64, 1 << 20).unwrap();
            let to = expected.len().min(from + (1 << 20));
            assert!(read == expected[from..to], "round {round}");
        }
        file.sync_data().unwrap();
        assert!(file.read_at(0, expected.len()).unwrap() == expected);
    }

    #[test]
    fn files_are_told_apart_by_what_they_are_and_not_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = RealVfs.create(&path).unwrap().file_id().unwrap();
        let held = RealVfs.open(&path).unwrap();
        assert_eq!(held.file_id().unwrap(), first);
        RealVfs.remove(&path).unwrap();
        let again = RealVfs.create(&path).unwrap();
        assert_ne!(again.file_id().unwrap(), held.file_id().unwrap());
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        RealVfs.create_dir_all(&nested).unwrap();
        let held = RealVfs.lock(&nested).unwrap();
        let refused = RealVfs.lock(&nested).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains("in use"), "{refused}");
        drop(held);
        RealVfs.lock(&nested).unwrap();
        assert!(RealVfs.space(&nested).unwrap().total_bytes > 0);
    }
}
