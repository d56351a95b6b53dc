//! Who a data directory is: reads and makes the identity file.
//!
//! Invariant: an identity is made only in a directory without volumes, and never changed.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use granary_runtime::Runtime;
use granary_types::DiskId;
use granary_vfs::Vfs;

use crate::OpenError;
use crate::format::{DiskIdentity, IDENTITY_BYTES_MAX, IdentityError};
use crate::volumes::{VOLUMES_DIR, is_volume_name};

/// Name of the identity file.
pub(crate) const IDENTITY_FILE: &str = "granary-disk";
const IDENTITY_TEMPORARY: &str = "granary-disk.new";

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Who a directory is; `None` when it has no identity yet. Blocks.
///
/// # Errors
/// `NewerFormat`, `Damaged` and `Io`.
pub fn read_identity(vfs: &dyn Vfs, dir: &Path) -> Result<Option<DiskIdentity>, OpenError> {
    let path = dir.join(IDENTITY_FILE);
    let file = match vfs.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(dir, error)),
    };
    let bytes = file
        .read_at(0, IDENTITY_BYTES_MAX)
        .map_err(|error| io_error(dir, error))?;
    match DiskIdentity::decode(&bytes) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityError::Damaged) => Err(OpenError::Damaged { path }),
        Err(IdentityError::Newer(found)) => Err(OpenError::NewerFormat {
            path,
            found,
            known: DiskIdentity::FORMAT,
        }),
    }
}

/// Reads the identity of a directory, or makes one for a new disk. Blocks.
pub(crate) fn open_identity(
    runtime: &Runtime,
    vfs: &dyn Vfs,
    dir: &Path,
    cluster_id: &str,
) -> Result<DiskIdentity, OpenError> {
    if let Some(identity) = read_identity(vfs, dir)? {
        if identity.cluster_id != cluster_id {
            return Err(OpenError::OtherCluster {
                path: dir.to_path_buf(),
                found: identity.cluster_id,
                expected: cluster_id.to_owned(),
            });
        }
        return Ok(identity);
    }
    if has_volumes(vfs, dir).map_err(|error| io_error(dir, error))? {
        return Err(OpenError::NoIdentity {
            path: dir.to_path_buf(),
        });
    }
    // Random, so that a disk needs nobody to be born; 0 stays free for "none".
    let identity = DiskIdentity {
        disk: DiskId(runtime.entropy().next_u64().max(1)),
        cluster_id: cluster_id.to_owned(),
    };
    write_identity(vfs, dir, &identity).map_err(|error| io_error(dir, error))?;
    tracing::info!(disk = identity.disk.0, path = %dir.display(), "new disk");
    Ok(identity)
}

fn has_volumes(vfs: &dyn Vfs, dir: &Path) -> io::Result<bool> {
    match vfs.list(&dir.join(VOLUMES_DIR)) {
        Ok(names) => Ok(names.iter().any(|name| is_volume_name(name))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_identity(vfs: &dyn Vfs, dir: &Path, identity: &DiskIdentity) -> io::Result<()> {
    let temporary: PathBuf = dir.join(IDENTITY_TEMPORARY);
    match vfs.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.create(&temporary)?;
    file.write_at(0, &[IoSlice::new(&identity.encode())])?;
    file.sync_data()?;
    vfs.rename(&temporary, &dir.join(IDENTITY_FILE))?;
    vfs.sync_dir(dir)
}
