//! A file system in memory that loses power, tears writes, fills up and fails on command.
//!
//! Per file it knows what is durable and, in order, what was done since the last sync. A crash
//! keeps of that whatever a seeded generator says, at sector granularity: any subset of the
//! sectors of any un-synced write, and any subset of the un-synced names. Directories themselves
//! are durable at once. Invariant: what was synced is never touched by a crash.

mod inode;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::{DirLock, Space, Vfs, VfsFile, in_use};
use inode::Inode;

/// Bytes that a crash keeps or loses together.
const SECTOR_BYTES: u64 = 512;
/// Room of a file system without a limit.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// Something that goes wrong below a path, until [`MemoryVfs::heal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Reads of files fail with EIO.
    ReadError,
    /// Writes to files fail with EIO, after a part of them was done.
    WriteError,
    /// Syncs of files and directories fail with EIO.
    SyncError,
    /// Everything that would change something fails with EROFS.
    ReadOnly,
    /// Files and directories cannot be opened or made: EMFILE.
    NoHandles,
    /// Reads of and writes to files fail with ENOMEM, writes after a part of them was done.
    NoMemory,
}

/// What a crash keeps of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashStyle {
    /// Nothing.
    LoseAll,
    /// Everything, as when only the process died.
    KeepAll,
    /// Any subset of sectors and names.
    Torn,
    /// A prefix of what was done to each file, its last write torn at a sector.
    Prefix,
}

/// A change of a directory that is not durable yet.
#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locked: HashSet<PathBuf>,
    faults: Vec<(PathBuf, Fault)>,
    /// Mount points and their sizes.
    mounts: Vec<(PathBuf, u64)>,
    /// Changes and syncs until the power goes; `None`: it stays.
    power_left: Option<u64>,
    power_off: bool,
    changes: u64,
    syncs: u64,
}

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryVfs {
    state: Arc<Mutex<State>>,
}

fn eio(what: &str) -> io::Error {
    // EIO, which has no stable `ErrorKind` of its own.
    let error = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
    io::Error::new(error.kind(), format!("injected input/output error: {what}"))
}

fn shortage(errno: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl State {
    fn has_fault(&self, path: &Path, fault: Fault) -> bool {
        self.faults
            .iter()
            .any(|(prefix, injected)| *injected == fault && path.starts_with(prefix))
    }

    /// Called before anything that changes the disk: is there power, may it be written?
    fn may_change(&mut self, path: &Path) -> io::Result<()> {
        self.use_power()?;
        if self.has_fault(path, Fault::ReadOnly) {
            return Err(read_only());
        }
        self.changes += 1;
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.power_off {
            Err(eio("the power is off"))
        } else {
            Ok(())
        }
    }

    fn use_power(&mut self) -> io::Result<()> {
        self.powered()?;
        match self.power_left.as_mut() {
            Some(0) => self.power_off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn may_open(&self, path: &Path) -> io::Result<()> {
        self.powered()?;
        if self.has_fault(path, Fault::NoHandles) {
            return Err(shortage(rustix::io::Errno::MFILE));
        }
        Ok(())
    }

    fn has_memory(&self, path: &Path) -> io::Result<()> {
        if self.has_fault(path, Fault::NoMemory) {
            return Err(shortage(rustix::io::Errno::NOMEM));
        }
        Ok(())
    }

    fn mount(&self, path: &Path) -> Option<&(PathBuf, u64)> {
        self.mounts
            .iter()
            .filter(|(prefix, _)| path.starts_with(prefix))
            .max_by_key(|(prefix, _)| prefix.as_os_str().len())
    }

    fn space(&self, path: &Path) -> Space {
        let Some((prefix, total_bytes)) = self.mount(path).cloned() else {
            return Space {
                total_bytes: UNLIMITED_BYTES,
                free_bytes: UNLIMITED_BYTES,
            };
        };
        let used: u64 = self
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(_, inode)| self.inodes[*inode].length())
            .sum();
        Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(used),
        }
    }

    fn reserve(&self, path: &Path, from: u64, to: u64) -> io::Result<()> {
        if to > from && to - from > self.space(path).free_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    fn in_directory(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.dirs.contains(parent) => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is in no directory", path.display()),
            )),
        }
    }

    fn apply_name(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
        match change {
            NameChange::Set(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        Self::apply_name(&mut self.names, &change);
        self.unsynced_names.push(change);
    }
}

impl NameChange {
    fn parent(&self) -> Option<&Path> {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::Rename(path, _, _) => path.parent(),
        }
    }
}

impl MemoryVfs {
    /// An empty file system with a root directory and no limit.
    pub fn new() -> Self {
        let vfs = Self::default();
        vfs.state.lock().dirs.insert(PathBuf::from("/"));
        vfs
    }

    /// Gives everything below `dir` a file system of its own of this size.
    pub fn set_capacity(&self, dir: impl Into<PathBuf>, total_bytes: u64) {
        let dir = dir.into();
        let mut state = self.state.lock();
        state.mounts.retain(|(prefix, _)| *prefix != dir);
        state.mounts.push((dir, total_bytes));
    }

    /// Makes something go wrong for everything below `dir`.
    pub fn inject(&self, dir: impl Into<PathBuf>, fault: Fault) {
        self.state.lock().faults.push((dir.into(), fault));
    }

    /// Ends every injected fault.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Takes `dir` and all below it away under whoever has it open, as an unmount or `rm -rf` does;
    /// what was open stays usable and is seen by nobody else.
    pub fn vanish(&self, dir: &Path) {
        let mut state = self.state.lock();
        state.names.retain(|path, _| !path.starts_with(dir));
        state.durable_names.retain(|path, _| !path.starts_with(dir));
        state.dirs.retain(|path| !path.starts_with(dir));
        state.unsynced_names.retain(|change| {
            !change
                .parent()
                .is_some_and(|parent| parent.starts_with(dir))
        });
    }

    /// Flips one bit of a file's durable and visible bytes, as a rotting disk does.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or [`io::ErrorKind::UnexpectedEof`] beyond the end.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.find(path)?;
        state.inodes[inode].flip_bit(offset, bit)
    }

    /// Flips one bit of a file on the disk, while the system still has the good page in memory.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or [`io::ErrorKind::UnexpectedEof`] beyond what is durable.
    pub fn flip_bit_below_cache(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.find(path)?;
        state.inodes[inode].flip_durable_bit(offset, bit)
    }

    /// Cuts the power during the change (write, sync or naming) after the next `changes`. That
    /// change happens in the volatile state but is answered with an error, like all after it,
    /// until [`MemoryVfs::crash`].
    pub fn power_off_after(&self, changes: u64) {
        self.state.lock().power_left = Some(changes);
    }

    /// Whether the power has gone.
    pub fn is_off(&self) -> bool {
        self.state.lock().power_off
    }

    /// Successful syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Loses power: of what was not synced, `style` says what is left. This handle, its clones and
    /// open files fail from now on; the returned one holds what is left, without faults or locks.
    pub fn crash(&self, seed: u64, style: CrashStyle) -> Self {
        let mut state = self.state.lock();
        let mut rng = StdRng::seed_from_u64(seed);
        let inodes = state
            .inodes
            .iter()
            .map(|inode| inode.after_crash(&mut rng, style))
            .collect();
        let mut names = state.durable_names.clone();
        let prefix = rng.random_range(0..=state.unsynced_names.len());
        for (n, change) in state.unsynced_names.iter().enumerate() {
            let kept = match style {
                CrashStyle::LoseAll => false,
                CrashStyle::KeepAll => true,
                CrashStyle::Torn => rng.random_bool(0.5),
                CrashStyle::Prefix => n < prefix,
            };
            if kept {
                State::apply_name(&mut names, change);
            }
        }
        let restarted = State {
            inodes,
            durable_names: names.clone(),
            names,
            dirs: state.dirs.clone(),
            mounts: state.mounts.clone(),
            ..State::default()
        };
        state.power_off = true;
        Self {
            state: Arc::new(Mutex::new(restarted)),
        }
    }

    fn handle(&self, path: &Path, inode: usize) -> Arc<dyn VfsFile> {
        Arc::new(MemoryFile {
            state: Arc::clone(&self.state),
            path: path.to_path_buf(),
            inode,
        })
    }
}

struct MemoryFile {
    state: Arc<Mutex<State>>,
    /// The name it was opened under: what faults and capacity go by.
    path: PathBuf,
    inode: usize,
}

impl VfsFile for MemoryFile {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        state.powered()?;
        if state.has_fault(&self.path, Fault::ReadError) {
            return Err(eio("read"));
        }
        state.has_memory(&self.path)?;
        Ok(state.inodes[self.inode].read(offset, length))
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices
            .iter()
            .for_each(|slice| bytes.extend_from_slice(slice));
        let mut state = self.state.lock();
        state.may_change(&self.path)?;
        let now = state.inodes[self.inode].length();
        let memory = state.has_memory(&self.path);
        let fault = state.has_fault(&self.path, Fault::WriteError);
        let room = state.reserve(&self.path, now, offset + bytes.len() as u64);
        // A failing write may have done a part of its work.
        let done = if fault || memory.is_err() || room.is_err() {
            let most = if room.is_err() {
                usize::try_from(now.saturating_sub(offset))
                    .unwrap_or(0)
                    .min(bytes.len())
            } else {
                bytes.len()
            };
            &bytes[..most / 2]
        } else {
            &bytes[..]
        };
        state.inodes[self.inode].write(offset, done);
        room?;
        memory?;
        if fault {
            return Err(eio("write"));
        }
        state.powered()
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_change(&self.path)?;
        if state.has_fault(&self.path, Fault::SyncError) {
            state.inodes[self.inode].forget_unsynced();
            return Err(eio("sync"));
        }
        state.powered()?;
        state.inodes[self.inode].sync();
        state.syncs += 1;
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.powered()?;
        state.inodes[self.inode].drop_cache();
        Ok(())
    }

    fn file_id(&self) -> io::Result<(u64, u64)> {
        self.state.lock().powered()?;
        Ok((0, self.inode as u64))
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.powered()?;
        Ok(state.inodes[self.inode].length())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_change(&self.path)?;
        if state.has_fault(&self.path, Fault::WriteError) {
            return Err(eio("truncate"));
        }
        state.inodes[self.inode].set_len(length);
        state.powered()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_change(&self.path)?;
        let now = state.inodes[self.inode].length();
        if now < length {
            state.reserve(&self.path, now, length)?;
            state.inodes[self.inode].set_len(length);
        }
        state.powered()
    }
}

impl Vfs for MemoryVfs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let state = self.state.lock();
        state.may_open(path)?;
        let inode = state.find(path)?;
        drop(state);
        Ok(self.handle(path, inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state.lock();
        state.may_open(path)?;
        state.may_change(path)?;
        state.in_directory(path)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.change_name(NameChange::Set(path.to_path_buf(), inode));
        state.powered()?;
        drop(state);
        Ok(self.handle(path, inode))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.may_open(dir)?;
        if !state.dirs.contains(dir) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                dir.display().to_string(),
            ));
        }
        let files = state.names.keys().filter(|path| path.parent() == Some(dir));
        let dirs = state.dirs.iter().filter(|path| path.parent() == Some(dir));
        let mut names: Vec<String> = files
            .chain(dirs)
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_change(path)?;
        state.find(path)?;
        state.change_name(NameChange::Remove(path.to_path_buf()));
        state.powered()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_change(from)?;
        let inode = state.find(from)?;
        state.in_directory(to)?;
        let change = NameChange::Rename(from.to_path_buf(), to.to_path_buf(), inode);
        state.change_name(change);
        state.powered()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.may_open(dir)?;
        state.may_change(dir)?;
        if state.has_fault(dir, Fault::SyncError) {
            return Err(eio("sync of a directory"));
        }
        state.powered()?;
        let changes = std::mem::take(&mut state.unsynced_names);
        for change in changes {
            if change.parent() == Some(dir) {
                State::apply_name(&mut state.durable_names, &change);
            } else {
                state.unsynced_names.push(change);
            }
        }
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.dirs.contains(dir) {
            return state.powered();
        }
        state.may_change(dir)?;
        for ancestor in dir.ancestors() {
            state.dirs.insert(ancestor.to_path_buf());
        }
        state.powered()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        state.powered()?;
        if !state.dirs.contains(path) {
            state.find(path)?;
        }
        Ok(state.space(path))
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        let mut state = self.state.lock();
        state.powered()?;
        if !state.locked.insert(dir.to_path_buf()) {
            return Err(in_use(dir));
        }
        drop(state);
        Ok(DirLock::new(HeldDir {
            state: Arc::clone(&self.state),
            dir: dir.to_path_buf(),
        }))
    }
}

struct HeldDir {
    state: Arc<Mutex<State>>,
    dir: PathBuf,
}

impl Drop for HeldDir {
    fn drop(&mut self) {
        self.state.lock().locked.remove(&self.dir);
    }
}

fn next_bool(rng: &mut impl Rng) -> bool {
    rng.next_u32() & 1 == 1
}

#[cfg(test)]
mod tests;
