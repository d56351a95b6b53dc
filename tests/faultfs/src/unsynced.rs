//! What a power failure may take: writes since the last sync of their file, and names since that of their directory.
//!
//! Writes reach the backing file at once, so that reads, sizes and shortages are the true ones; kept here
//! is what stood there before. A cut puts it back for some of the sectors, in any mixture, because a disk
//! writes its cache out in any order. Names vanish likewise, but only those of new files: renames and
//! removals last at once, as in a file system with a journal that is written often.
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes at once or not at all.
pub const SECTOR: u64 = 512;
/// Bytes of old content kept per file. What is older counts as written: kernels do not wait for a sync for ever either.
const KEPT_BYTES: usize = 32 << 20;

/// A small generator (xorshift64*), so that a seed gives the same cut everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides.max(1)
    }
}

/// One sector of a file as it was before a write touched it; `bytes` may be shorter at the old end of the file.
struct Before {
    sector: u64,
    bytes: Vec<u8>,
}

struct Writes {
    file: Arc<File>,
    /// The size that the last sync made certain.
    synced_size: u64,
    before: Vec<Before>,
    kept: usize,
    /// A sync of this file has failed: its data is not safe by any later one, as in Linux, which marks such pages clean.
    doomed: bool,
}

/// What a cut did.
#[derive(Default)]
pub struct Cut {
    pub sectors: usize,
    pub files: usize,
    pub names: usize,
}

#[derive(Default)]
pub struct Unsynced {
    /// By inode of the backing file, because one file may have several names.
    writes: HashMap<u64, Writes>,
    /// New names per directory.
    names: HashMap<PathBuf, Vec<PathBuf>>,
}

impl Unsynced {
    /// Before `length` bytes at `offset` are written or allocated.
    pub fn before_write(&mut self, file: &Arc<File>, offset: u64, length: u64) -> io::Result<()> {
        let meta = file.metadata()?;
        let size = meta.len();
        let writes = self.writes.entry(meta.ino()).or_insert_with(|| Writes {
            file: Arc::clone(file),
            synced_size: size,
            before: Vec::new(),
            kept: 0,
            doomed: false,
        });
        for sector in offset / SECTOR..(offset + length).div_ceil(SECTOR) {
            let at = sector * SECTOR;
            if at >= size {
                // Nothing was there: the size and zeros tell it.
                writes.before.push(Before {
                    sector,
                    bytes: Vec::new(),
                });
                writes.kept += 16;
                continue;
            }
            let mut bytes = vec![0; (size - at).min(SECTOR) as usize];
            file.read_exact_at(&mut bytes, at)?;
            writes.kept += bytes.len() + 16;
            writes.before.push(Before { sector, bytes });
        }
        if writes.kept > KEPT_BYTES {
            let half = writes.before.len() / 2;
            writes.before.drain(..half);
            writes.kept = writes.before.iter().map(|b| b.bytes.len() + 16).sum();
            writes.synced_size = size;
        }
        Ok(())
    }

    /// A file was made shorter or longer, which lasts at once.
    pub fn resized(&mut self, file: &File, size: u64) -> io::Result<()> {
        if let Some(writes) = self.writes.get_mut(&file.metadata()?.ino()) {
            writes.synced_size = writes.synced_size.min(size);
            writes.before.retain(|b| b.sector * SECTOR < size);
        }
        Ok(())
    }

    /// A sync of a file that succeeded, or did not.
    pub fn synced(&mut self, file: &File, success: bool) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        match self.writes.get_mut(&inode) {
            Some(writes) if !success => writes.doomed = true,
            Some(writes) if !writes.doomed => drop(self.writes.remove(&inode)),
            _ => {}
        }
        Ok(())
    }

    /// A new name.
    pub fn created(&mut self, path: &Path) {
        if let Some(directory) = path.parent() {
            self.names
                .entry(directory.to_owned())
                .or_default()
                .push(path.to_owned());
        }
    }

    /// A name went, or became another one that lasts.
    pub fn gone(&mut self, path: &Path) {
        if let Some(names) = path
            .parent()
            .and_then(|directory| self.names.get_mut(directory))
        {
            names.retain(|name| name != path);
        }
    }

    /// A sync of a directory.
    pub fn names_synced(&mut self, directory: &Path) {
        self.names.remove(directory);
    }

    /// The power fails. Nobody has the files open any more.
    pub fn cut(&mut self, seed: u64) -> io::Result<Cut> {
        let (mut dice, mut cut) = (Dice::new(seed), Cut::default());
        let mut inodes: Vec<u64> = self.writes.keys().copied().collect();
        inodes.sort_unstable();
        for inode in inodes {
            let Some(writes) = self.writes.remove(&inode) else {
                continue;
            };
            let reverted = writes.revert(&mut dice)?;
            cut.sectors += reverted;
            cut.files += usize::from(reverted > 0);
        }
        let mut names: Vec<PathBuf> = self.names.drain().flat_map(|(_, names)| names).collect();
        names.sort_unstable();
        for name in names {
            // A directory entry is rarely later than the rest.
            if dice.roll(4) == 0 && name.is_file() {
                std::fs::remove_file(&name)?;
                cut.names += 1;
            }
        }
        Ok(cut)
    }
}

impl Writes {
    /// Puts back the old content of some sectors. Newest first: a sector that keeps one state keeps no older one.
    fn revert(self, dice: &mut Dice) -> io::Result<usize> {
        let size = self.file.metadata()?.len();
        // All, nothing, or a mixture: each is a crash of its own kind.
        let odds = [0, 1, 2, 4][dice.roll(4) as usize];
        let mut settled = HashSet::new();
        let mut reverted = HashSet::new();
        for Before { sector, mut bytes } in self.before.into_iter().rev() {
            if settled.contains(&sector) {
                continue;
            }
            if dice.roll(4) >= odds {
                settled.insert(sector);
                continue;
            }
            let at = sector * SECTOR;
            bytes.resize(size.saturating_sub(at).min(SECTOR) as usize, 0);
            self.file.write_all_at(&bytes, at)?;
            reverted.insert(sector);
        }
        if self.synced_size < size && odds > 0 {
            let grown = size - self.synced_size;
            self.file
                .set_len(self.synced_size + [0, dice.roll(grown), grown][dice.roll(3) as usize])?;
        }
        Ok(reverted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Arc<File> {
        let path = std::env::temp_dir().join(format!("faultfs-{name}-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        Arc::new(file)
    }

    fn write(unsynced: &mut Unsynced, file: &Arc<File>, offset: u64, bytes: &[u8]) {
        unsynced
            .before_write(file, offset, bytes.len() as u64)
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_some_mixture_of_old_and_new() {
        let mut kinds = HashSet::new();
        for seed in 0..200 {
            let (file, mut unsynced) = (scratch(&format!("mix-{seed}")), Unsynced::default());
            write(&mut unsynced, &file, 0, &[1; 2048]);
            unsynced.synced(&file, true).unwrap();
            write(&mut unsynced, &file, 512, &[2; 4096]);
            write(&mut unsynced, &file, 1024, &[3; 512]);
            unsynced.cut(seed).unwrap();
            let size = file.metadata().unwrap().len();
            assert!((2048..=4608).contains(&size), "{size}");
            let mut content = vec![0; size as usize];
            file.read_exact_at(&mut content, 0).unwrap();
            assert_eq!(content[..512], [1; 512]);
            for (n, sector) in content.chunks(512).enumerate() {
                assert!(
                    sector.iter().all(|byte| *byte == sector[0]),
                    "a torn sector, seed {seed}"
                );
                assert!(sector[0] != 3 || n == 2);
                assert!(sector[0] != 0 || n >= 4, "synced bytes lost, seed {seed}");
            }
            kinds.insert(
                content
                    .chunks(512)
                    .map(|sector| sector[0])
                    .collect::<Vec<_>>(),
            );
        }
        assert!(kinds.len() > 20, "{}", kinds.len());
    }

    #[test]
    fn a_failed_sync_is_not_mended_by_the_next() {
        let lost = (0..50).any(|seed| {
            let (file, mut unsynced) = (scratch(&format!("doomed-{seed}")), Unsynced::default());
            write(&mut unsynced, &file, 0, &[1; 512]);
            unsynced.synced(&file, false).unwrap();
            unsynced.synced(&file, true).unwrap();
            unsynced.cut(seed).unwrap().sectors == 1
        });
        assert!(lost);
    }
}
