//! The volume files of one disk: names, creation, a bounded cache of open files, a scan.
//!
//! It must not know the index. Invariants: numbers rise and are never reused; a file is used only
//! after its header and its name are durable.

mod scan;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_types::DiskId;
use granary_vfs::{Vfs, VfsFile};
use parking_lot::Mutex;

use crate::error::DiskError;
use crate::format::{VOLUME_HEADER_BYTES, VolumeHeader};

pub(crate) use scan::{Found, Scan};

/// Directory of the volumes, in the disk's directory.
pub(crate) const VOLUMES_DIR: &str = "volumes";
const SUFFIX: &str = ".volume";

fn volume_name(volume: u32) -> String {
    format!("{volume:08x}{SUFFIX}")
}

fn volume_of_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Whether a file name is one of a volume.
pub(crate) fn is_volume_name(name: &str) -> bool {
    volume_of_name(name).is_some()
}

#[derive(Default)]
struct OpenFiles {
    files: HashMap<u32, (Arc<dyn VfsFile>, u64)>,
    uses: u64,
    /// Volumes removed so far.
    removals: u64,
}

/// Whether a volume was lost while it was created: there is nothing but zeros behind its header.
pub(crate) fn was_never_used(file: &dyn VfsFile) -> io::Result<bool> {
    const STEP: usize = 1 << 20;
    let mut at = VOLUME_HEADER_BYTES;
    loop {
        let bytes = file.read_at(at, STEP)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if bytes.len() < STEP {
            return Ok(true);
        }
        at += STEP as u64;
    }
}

/// The volume files of one disk.
pub(crate) struct Volumes {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    disk: DiskId,
    open_max: usize,
    open: Mutex<OpenFiles>,
}

impl Volumes {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, disk_dir: &Path, disk: DiskId, open_max: usize) -> Self {
        Self {
            vfs,
            dir: disk_dir.join(VOLUMES_DIR),
            disk,
            open_max,
            open: Mutex::default(),
        }
    }

    fn path(&self, volume: u32) -> PathBuf {
        self.dir.join(volume_name(volume))
    }

    /// Makes the directory when it is missing.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.vfs.create_dir_all(&self.dir)
    }

    /// The volumes on disk in order.
    pub(crate) fn list(&self) -> io::Result<Vec<u32>> {
        let names = self.vfs.list(&self.dir)?;
        let mut volumes: Vec<u32> = names.iter().filter_map(|n| volume_of_name(n)).collect();
        volumes.sort_unstable();
        Ok(volumes)
    }

    /// Creates a volume, durably, with room for `allocate_bytes`.
    pub(crate) fn create(
        &self,
        volume: u32,
        seal: u64,
        allocate_bytes: u64,
    ) -> io::Result<Arc<dyn VfsFile>> {
        let path = self.path(volume);
        let file = self.vfs.create(&path)?;
        let filled = self.fill_new(file.as_ref(), volume, seal, allocate_bytes);
        if let Err(error) = filled {
            // A file without records is worth nothing; recovery removes it when this fails too.
            let _ = self.vfs.remove(&path);
            return Err(error);
        }
        Ok(file)
    }

    fn fill_new(
        &self,
        file: &dyn VfsFile,
        volume: u32,
        seal: u64,
        allocate_bytes: u64,
    ) -> io::Result<()> {
        file.allocate(allocate_bytes.max(VOLUME_HEADER_BYTES))?;
        let header = VolumeHeader {
            disk: self.disk,
            volume,
            seal,
        };
        file.write_at(0, &[IoSlice::new(&header.encode())])?;
        file.sync_data()?;
        self.vfs.sync_dir(&self.dir)
    }

    /// Opens a volume, or finds it open.
    pub(crate) fn open(&self, volume: u32) -> io::Result<Arc<dyn VfsFile>> {
        let removals = {
            let mut open = self.open.lock();
            open.uses += 1;
            let uses = open.uses;
            if let Some((file, used)) = open.files.get_mut(&volume) {
                *used = uses;
                return Ok(Arc::clone(file));
            }
            open.removals
        };
        let file = self.vfs.open(&self.path(volume))?;
        let mut open = self.open.lock();
        if open.removals != removals {
            // It may be the one that was removed: kept open, its room would not come back.
            return Ok(file);
        }
        if open.files.len() >= self.open_max {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(volume, _)| *volume) {
                open.files.remove(&oldest);
            }
        }
        let uses = open.uses;
        open.files.insert(volume, (Arc::clone(&file), uses));
        Ok(file)
    }

    /// The header of an open volume; `None` when it cannot be made out.
    pub(crate) fn header(
        &self,
        volume: u32,
        file: &dyn VfsFile,
    ) -> Result<Option<VolumeHeader>, DiskError> {
        let page = file.read_at(0, VOLUME_HEADER_BYTES as usize)?;
        match VolumeHeader::decode(&page) {
            Ok(Some(header)) if header.disk == self.disk && header.volume == volume => {
                Ok(Some(header))
            }
            Ok(_) => Ok(None),
            Err(found) => Err(DiskError::NewerVolume { volume, found }),
        }
    }

    /// Removes a volume, durably. Readers that have it open read on; its room comes back with the
    /// last of them.
    pub(crate) fn remove(&self, volume: u32) -> io::Result<()> {
        match self.vfs.remove(&self.path(volume)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // After the name: whoever opened it before finds out when the file is to be kept.
        let mut open = self.open.lock();
        open.files.remove(&volume);
        open.removals += 1;
        drop(open);
        self.vfs.sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests;
