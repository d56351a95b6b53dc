//! The small file trait under the chunk volumes, and its two implementations: the machine's file
//! system, and one in memory that loses power, tears writes, fills up and fails on command.
//!
//! Contract: nothing written is durable before [`VfsFile::sync_data`] succeeded; no name made,
//! renamed or removed is durable before [`Vfs::sync_dir`] of its directory succeeded. After a sync
//! has failed, nothing written since the last successful one can be relied on, whatever a later
//! sync says. Calls may block: never make them on an async thread.
//!
//! It must not know what is in the files.

mod memory;
mod real;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

pub use memory::{CrashStyle, Fault, MemoryVfs};
pub use real::RealVfs;

/// Room on the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system in bytes.
    pub total_bytes: u64,
    /// Bytes free for this process.
    pub free_bytes: u64,
}

/// A directory held for this process alone, until the value is dropped.
pub struct DirLock(Box<dyn Send + Sync>);

impl DirLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl std::fmt::Debug for DirLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = &self.0;
        f.write_str("DirLock")
    }
}

/// An open file. Reads and writes name their position; handles stay usable after the name is gone.
pub trait VfsFile: Send + Sync + 'static {
    /// Reads up to `length` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Writes the slices one after the other from `offset` on, all of them or an error; after an
    /// error any part of them may be in the file. Grows the file when needed.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::StorageFull`] when there is no room.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;

    /// Makes every finished write, and the length, durable.
    ///
    /// # Errors
    /// Those of the file system; final, see the contract.
    fn sync_data(&self) -> io::Result<()>;

    /// Lets go of what the system keeps of the file in memory and would not write any more, so that
    /// reads tell what is on the disk; as well as it can.
    ///
    /// # Errors
    /// Those of the file system.
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    /// The same for a range; a length of 0 reaches to the end of the file. Where a part of a file
    /// cannot be let go of, all of it is.
    ///
    /// # Errors
    /// Those of the file system.
    fn drop_cache_of(&self, _offset: u64, _length: u64) -> io::Result<()> {
        self.drop_cache()
    }

    /// Tells files apart: equal for two handles of one file while one of them is open. A file system
    /// that cannot say answers the same for all.
    ///
    /// # Errors
    /// Those of the file system.
    fn file_id(&self) -> io::Result<(u64, u64)> {
        Ok((0, 0))
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file off, or grows it with zeros that take no room yet.
    ///
    /// # Errors
    /// Those of the file system.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Reserves room so that the file is at least `length` bytes long, zeros where it was shorter.
    /// A file system that cannot reserve only grows the file.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::StorageFull`] when there is no room.
    fn allocate(&self, length: u64) -> io::Result<()>;
}

/// A file system.
pub trait Vfs: Send + Sync + 'static {
    /// Opens an existing file for reading and writing, or only for reading where the file system
    /// allows no more.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and those of the file system.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Creates a file that does not exist yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] and those of the file system.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and those of the file system.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Removes a file's name; its bytes go when the last handle does.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and those of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name in the same directory, replacing what had it.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] and those of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names of a directory durable.
    ///
    /// # Errors
    /// Those of the file system; final, see the contract.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a directory and those above it, durably.
    ///
    /// # Errors
    /// Those of the file system.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Room on the file system that holds `path`.
    ///
    /// # Errors
    /// Those of the file system.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Takes a directory for this process alone (a lock on its file `lock`, released when the
    /// process dies).
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`], with a sentence for the operator, when another process or
    /// another part of this one holds it.
    fn lock(&self, dir: &Path) -> io::Result<DirLock>;
}

/// Whether a call failed because the process or the machine had no descriptor or no memory to spare,
/// which says nothing about the disk.
pub fn is_shortage(error: &io::Error) -> bool {
    const SHORT: [Errno; 3] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.kind() == io::ErrorKind::OutOfMemory
        || Errno::from_io_error(error).is_some_and(|errno| SHORT.contains(&errno))
}

/// Name of the file that [`Vfs::lock`] locks; it is left in place.
pub const LOCK_FILE: &str = "lock";

fn in_use(dir: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        format!(
            "directory {} is in use by another process; stop that one first or choose another directory",
            dir.display()
        ),
    )
}
