//! Small files that hold an identity or a secret: written whole, synced, readable by the owner only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// The text of a file; `None` when there is no such file.
pub(crate) fn read_if_present(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Whether others than the owner may read or change a file. False when there is none.
pub(crate) fn is_open_to_others(file: &Path) -> bool {
    let mode = fs::metadata(file).map(|found| found.permissions().mode());
    mode.is_ok_and(|mode| mode & 0o066 != 0)
}

/// Writes a file of mode 0600: a temporary file, synced, renamed, and the folder synced.
pub(crate) fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().context("the file has no folder")?;
    let temporary = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut handle = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        fs::rename(&temporary, file)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        assert!(!is_open_to_others(&file), "there is none");
        write_secret(&file, "secret").unwrap();
        for (mode, open) in [
            (0o600, false),
            (0o400, false),
            (0o640, true),
            (0o604, true),
            (0o602, true),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(&file), open, "{mode:o}");
        }
    }
}
