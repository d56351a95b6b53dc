//! Why a disk cannot be opened, and how a failure of the file system is told apart.

use std::io;
use std::path::PathBuf;

use granary_kv::KvError;
use granary_types::DiskId;
use granary_vfs::is_shortage;

/// Why a disk cannot be opened. The text is meant for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration makes no sense.
    #[error("invalid storage configuration: {0}")]
    Config(String),
    /// Another process has the directory.
    #[error("{0}")]
    InUse(io::Error),
    /// The directory was written by a later version.
    #[error(
        "{path} was written by a newer Granary (disk format {found}, this one knows up to {known}): \
         run that version or a newer one"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// The newest format of this version.
        known: u16,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{path} belongs to cluster {found}, not to {expected}: give this disk back to its cluster \
         or choose an empty directory"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster it belongs to.
        found: String,
        /// The cluster of this process.
        expected: String,
    },
    /// The identity file cannot be read.
    #[error(
        "{path} is damaged: replace the disk by an empty directory, its chunks are repaired from \
         other copies"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There are volumes but no identity file.
    #[error(
        "{path} has volumes but no identity file `granary-disk`: it is no empty directory and no \
         disk; restore the file or move the volumes away"
    )]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },
    /// The same disk is open already.
    #[error("disk {0} is open already")]
    Duplicate(DiskId),
    /// The file system failed.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The index failed.
    #[error("the chunk index of {path} failed: {source}")]
    Index {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: KvError,
    },
    /// The process is going away.
    #[error("the process is stopping")]
    Stopping,
}

/// Why the engine itself could not go on. Never leaves the crate as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// No room; nothing of what was asked is on the disk.
    #[error("no space left")]
    NoSpace,
    /// The file system failed: the disk is out.
    #[error("file system: {0}")]
    Io(io::Error),
    /// The process or the machine had no descriptor or no memory to spare: the disk is none the
    /// worse.
    #[error("no descriptor or memory: {0}")]
    Shortage(io::Error),
    /// The directory is not the disk's any more.
    #[error("the directory was removed, unmounted or replaced")]
    Gone,
    /// The file system owes an answer for too long.
    #[error("the file system does not answer")]
    Silent,
    /// The index failed: the disk is out.
    #[error("index: {0}")]
    Index(#[from] KvError),
    /// A volume was written by a later version.
    #[error("volume {volume} has format {found}")]
    NewerVolume {
        /// The volume.
        volume: u32,
        /// Its format.
        found: u16,
    },
}

/// Tells "no room" and "not now" from "broken".
pub(crate) fn classify(error: io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace,
        _ if is_shortage(&error) => DiskError::Shortage(error),
        _ => DiskError::Io(error),
    }
}

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> Self {
        classify(error)
    }
}
