//! The file system: every operation goes to the backing directory, after `faults` and past `unsynced`.
//!
//! Nothing is cached by the kernel, so that what a cut takes back is seen to be gone.
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FallocateFlags;

use crate::faults::{Faults, Kind};
use crate::unsynced::Unsynced;

/// The kernel asks again every time.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);

struct Entry {
    ino: u64,
    kind: FileType,
    name: OsString,
}

#[derive(Default)]
struct Tables {
    paths: HashMap<u64, PathBuf>,
    inos: HashMap<PathBuf, u64>,
    files: HashMap<u64, Arc<File>>,
    listings: HashMap<u64, Vec<Entry>>,
    last_ino: u64,
    last_handle: u64,
}

impl Tables {
    fn ino(&mut self, path: &Path) -> u64 {
        if let Some(ino) = self.inos.get(path) {
            return *ino;
        }
        self.last_ino += 1;
        self.inos.insert(path.to_owned(), self.last_ino);
        self.paths.insert(self.last_ino, path.to_owned());
        self.last_ino
    }

    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        self.paths
            .get(&ino.0)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(Errno::ENOENT.code()))
    }

    fn handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }

    /// A path and everything below it have another name now, or none.
    fn moved(&mut self, from: &Path, to: Option<&Path>) {
        let below: Vec<PathBuf> = self
            .inos
            .keys()
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for old in below {
            let Some(ino) = self.inos.remove(&old) else {
                continue;
            };
            match (to, old.strip_prefix(from)) {
                (Some(to), Ok(rest)) => {
                    let new = if rest.as_os_str().is_empty() {
                        to.to_owned()
                    } else {
                        to.join(rest)
                    };
                    self.inos.insert(new.clone(), ino);
                    self.paths.insert(ino, new);
                }
                _ => drop(self.paths.remove(&ino)),
            }
        }
    }
}

pub struct Disk {
    tables: Mutex<Tables>,
    faults: Arc<Faults>,
    unsynced: Arc<Mutex<Unsynced>>,
}

impl Disk {
    pub fn new(root: PathBuf, faults: Arc<Faults>, unsynced: Arc<Mutex<Unsynced>>) -> Self {
        let mut tables = Tables::default();
        assert_eq!(tables.ino(&root), INodeNo::ROOT.0);
        Self {
            tables: Mutex::new(tables),
            faults,
            unsynced,
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock()
    }

    fn strike(&self, kind: Kind) -> io::Result<()> {
        if self.faults.strike(kind) {
            Err(io::Error::from_raw_os_error(Errno::EIO.code()))
        } else {
            Ok(())
        }
    }

    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        self.tables().path(ino)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        self.tables()
            .files
            .get(&handle.0)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(Errno::EBADF.code()))
    }

    /// The attributes of a path, which gets a number if it has none.
    fn found(&self, path: &Path) -> io::Result<FileAttr> {
        let meta = path.symlink_metadata()?;
        Ok(attributes(self.tables().ino(path), &meta))
    }

    fn opened(&self, file: File) -> FileHandle {
        let mut tables = self.tables();
        let handle = tables.handle();
        tables.files.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        self.strike(Kind::Name)?;
        let path = self.path(ino)?;
        // Old content has to be read before it is overwritten. Appends and truncations are the kernel's to say.
        let writes = flags.0 & rustix::fs::OFlags::ACCMODE.bits() as i32 != 0;
        Ok(self.opened(File::options().read(true).write(writes).open(path)?))
    }

    fn create_file(&self, path: &Path, mode: u32) -> io::Result<(FileAttr, FileHandle)> {
        self.strike(Kind::Name)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        self.unsynced().created(path);
        Ok((self.found(path)?, self.opened(file)))
    }

    fn write_file(&self, handle: FileHandle, offset: u64, data: &[u8]) -> io::Result<u32> {
        self.strike(Kind::Write)?;
        let file = self.file(handle)?;
        self.unsynced()
            .before_write(&file, offset, data.len() as u64)?;
        file.write_all_at(data, offset)?;
        Ok(u32::try_from(data.len()).unwrap_or(u32::MAX))
    }

    fn sync_file(&self, handle: FileHandle) -> io::Result<()> {
        let failed = self.strike(Kind::Sync);
        self.unsynced()
            .synced(&*self.file(handle)?, failed.is_ok())?;
        failed
    }

    fn allocate(&self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> io::Result<()> {
        self.strike(Kind::Write)?;
        let file = self.file(handle)?;
        self.unsynced().before_write(&file, offset, length)?;
        Ok(rustix::fs::fallocate(
            &*file,
            FallocateFlags::from_bits_retain(mode as u32),
            offset,
            length,
        )?)
    }

    fn change(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        self.strike(Kind::Name)?;
        let path = self.path(ino)?;
        if let Some(size) = size {
            let file = match handle {
                Some(handle) => self.file(handle)?,
                None => Arc::new(File::options().write(true).open(&path)?),
            };
            file.set_len(size)?;
            self.unsynced().resized(&file, size)?;
        }
        if let Some(mode) = mode {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o7777))?;
        }
        self.found(&path)
    }

    fn remove(&self, path: &Path, by: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        self.strike(Kind::Name)?;
        by(path)?;
        self.unsynced().gone(path);
        self.tables().moved(path, None);
        Ok(())
    }

    fn rename_path(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.strike(Kind::Name)?;
        std::fs::rename(from, to)?;
        let mut unsynced = self.unsynced();
        unsynced.gone(from);
        unsynced.gone(to);
        let mut tables = self.tables();
        tables.moved(to, None);
        tables.moved(from, Some(to));
        Ok(())
    }

    fn list(&self, ino: INodeNo) -> io::Result<FileHandle> {
        self.strike(Kind::Name)?;
        let path = self.path(ino)?;
        let mut entries = vec![];
        for entry in std::fs::read_dir(&path)? {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            let ino = self.tables().ino(&entry.path());
            entries.push(Entry {
                ino,
                kind,
                name: entry.file_name(),
            });
        }
        let mut tables = self.tables();
        let handle = tables.handle();
        tables.listings.insert(handle, entries);
        Ok(FileHandle(handle))
    }
}

fn attributes(ino: u64, meta: &Metadata) -> FileAttr {
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
    FileAttr {
        ino: INodeNo(ino),
        size: meta.len(),
        blocks: meta.blocks(),
        atime: time(meta.atime()),
        mtime: time(meta.mtime()),
        ctime: time(meta.ctime()),
        crtime: time(meta.ctime()),
        kind: FileType::from_std(meta.file_type()).unwrap_or(FileType::RegularFile),
        perm: (meta.mode() & 0o7777) as u16,
        nlink: meta.nlink() as u32,
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers with what was done or with the error that the backing directory gave.
macro_rules! answer {
    ($reply:ident, $done:expr, $value:pat => $say:expr) => {
        match $done {
            Ok($value) => $say,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let done = self
            .strike(Kind::Name)
            .and_then(|()| self.found(&self.child(parent, name)?));
        answer!(reply, done, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        // A file that was removed is still asked for by whoever has it open.
        let done = match handle.and_then(|handle| self.file(handle).ok()) {
            Some(file) => file.metadata().map(|meta| attributes(ino.0, &meta)),
            None => self.path(ino).and_then(|path| self.found(&path)),
        };
        answer!(reply, done, attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(reply, self.change(ino, mode, size, handle), attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let done = self.strike(Kind::Name).and_then(|()| {
            let path = self.child(parent, name)?;
            std::fs::DirBuilder::new()
                .mode(mode & !umask)
                .create(&path)?;
            self.found(&path)
        });
        answer!(reply, done, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self
            .child(parent, name)
            .and_then(|path| self.remove(&path, |path| std::fs::remove_file(path)));
        answer!(reply, done, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self
            .child(parent, name)
            .and_then(|path| self.remove(&path, |path| std::fs::remove_dir(path)));
        answer!(reply, done, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self
            .child(parent, name)
            .and_then(|from| self.rename_path(&from, &self.child(to, new)?));
        answer!(reply, done, () => reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let done = self.strike(Kind::Name).and_then(|()| {
            let path = self.child(parent, name)?;
            std::fs::hard_link(self.path(ino)?, &path)?;
            self.found(&path)
        });
        answer!(reply, done, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let done = self
            .child(parent, name)
            .and_then(|path| self.create_file(&path, mode & !umask));
        answer!(reply, done, (attr, handle) => reply.created(&TTL, &attr, GENERATION, handle, FopenFlags::FOPEN_DIRECT_IO));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.open_file(ino, flags), handle => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let done = self.strike(Kind::Read).and_then(|()| {
            let (file, mut bytes, mut filled) = (self.file(handle)?, vec![0; size as usize], 0);
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    some => filled += some,
                }
            }
            bytes.truncate(filled);
            Ok(bytes)
        });
        answer!(reply, done, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(reply, self.write_file(handle, offset, data), size => reply.written(size));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tables().files.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.sync_file(handle), () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(ino), handle => reply.opened(handle, FopenFlags::empty()));
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if let Some(entries) = self.tables().listings.get(&handle.0) {
            for (number, entry) in entries.iter().enumerate().skip(offset as usize) {
                if reply.add(
                    INodeNo(entry.ino),
                    number as u64 + 1,
                    entry.kind,
                    &entry.name,
                ) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tables().listings.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let done = self.strike(Kind::Sync).and_then(|()| {
            self.unsynced().names_synced(&self.path(ino)?);
            Ok(())
        });
        answer!(reply, done, () => reply.ok());
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let done = self
            .path(ino)
            .and_then(|path| Ok(rustix::fs::statvfs(path)?));
        answer!(reply, done, s => reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize as u32, s.f_namemax as u32, s.f_frsize as u32));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.allocate(handle, offset, length, mode), () => reply.ok());
    }
}
