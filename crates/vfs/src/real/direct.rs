//! Large writes past the kernel's cache of pages (`O_DIRECT`, open(2)).
//!
//! Through the cache every byte is copied into a page that has to be found for it, and what was there before is given
//! up: for the bytes of large objects that cost more than everything but their MD5. Here they are copied into a
//! buffer of 1 MiB, again and again, and the disk takes them from there. They are not in the cache afterwards: the first
//! reader fetches them from the disk. A write is as durable as through the cache, after the next sync.
//!
//! A file system, or a disk, that does not take such writes gets them through the cache.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::retry;

/// Offset, length and memory are multiples of this: of a page of 4 KiB, and of a block of any disk.
const ALIGN: usize = 4096;
/// Shorter writes are left to the cache: the kernel writes many of them at once.
const BYTES_MIN: usize = 128 * 1024;
/// Bytes that are copied and written at once.
const PIECE_BYTES: usize = 1 << 20;

/// The second way into a file.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// Opened for the first large write.
    file: OnceLock<File>,
    /// It cannot be opened or written this way, now or later.
    refused: AtomicBool,
}

impl Direct {
    /// Writes from the front of the slices what can be written this way: how many bytes, maybe none.
    pub(super) fn write_at(
        &self,
        file: &File,
        offset: u64,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total < BYTES_MIN || !offset.is_multiple_of(ALIGN as u64) {
            return Ok(0);
        }
        let Some(direct) = self.open(file) else {
            return Ok(0);
        };
        let whole = total - total % ALIGN;
        let mut piece: Vec<u8> = Vec::with_capacity(PIECE_BYTES.min(whole) + ALIGN);
        let begin = piece.as_ptr().align_offset(ALIGN);
        let mut slices = slices.iter().map(|slice| &slice[..]);
        let mut slice: &[u8] = &[];
        let mut written = 0;
        // A rest of a few pages would be a write of its own, and waited for.
        while whole - written >= BYTES_MIN {
            let end = begin + PIECE_BYTES.min(whole - written);
            piece.clear();
            piece.resize(begin, 0);
            while piece.len() < end {
                let (now, later) = slice.split_at(slice.len().min(end - piece.len()));
                piece.extend_from_slice(now);
                slice = match later {
                    [] => slices.next().unwrap_or_default(),
                    later => later,
                };
            }
            let at = offset + written as u64;
            let done = retry(|| Ok(rustix::io::pwrite(direct, &piece[begin..], at)?));
            let done = match done {
                Err(error) if is_refusal(&error) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(written);
                }
                done => done?,
            };
            written += done;
            if done < end - begin {
                // What is left may begin within a page.
                break;
            }
        }
        Ok(written)
    }

    /// `None` when it does not work, which is not for the write to fail: the cache takes it.
    fn open(&self, file: &File) -> Option<&File> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(direct) = self.file.get() {
            return Some(direct);
        }
        // By the descriptor: the name may be another file's by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(direct) => Some(self.file.get_or_init(|| File::from(direct))),
            Err(error) => {
                let refused = is_refusal(&error.into());
                self.refused.fetch_or(refused, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Whether the file system, the disk or the container takes no such write at all. What passes, such as a lack of
/// descriptors, is none.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::NOENT,
        Errno::ACCESS,
        Errno::PERM,
    ];
    refusals
        .iter()
        .any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}
