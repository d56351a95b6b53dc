//! faultfs BACKING MOUNT: shows a directory at a mount point through FUSE, as a disk that can fail.
//!
//! Commands come on stdin, one per line, and are answered with a line each; the end of stdin unmounts.
//!
//! | command | from then on |
//! |---|---|
//! | `eio read`, `eio write`, `eio sync` (or several, with commas) | these fail with EIO |
//! | `delay MS` | every read, write and sync takes so much longer |
//! | `hang` | nothing is answered |
//! | `heal` | all is well |
//! | `cut SEED` | power failure: some of what was not synced is lost; answers how much. Kill the user of the files first |
mod faults;
mod fs;
mod unsynced;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use faults::{Faults, Kind};
use unsynced::Unsynced;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [backing, mount] = paths.as_slice() else {
        return Err("usage: faultfs BACKING MOUNT".into());
    };
    let faults = Arc::new(Faults::default());
    let unsynced = Arc::new(Mutex::new(Unsynced::default()));
    let disk = fs::Disk::new(
        backing.canonicalize()?,
        Arc::clone(&faults),
        Arc::clone(&unsynced),
    );
    let mut config = fuser::Config::default();
    config.mount_options = vec![fuser::MountOption::FSName("faultfs".into())];
    let session = fuser::spawn_mount(disk, mount, &config)?;
    answer("mounted")?;
    for line in std::io::stdin().lock().lines() {
        answer(
            &obey(&line?, &faults, &unsynced).unwrap_or_else(|error| format!("error: {error}")),
        )?;
    }
    // A disk that hangs could not be unmounted.
    faults.heal();
    drop(session);
    Ok(())
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn obey(
    line: &str,
    faults: &Faults,
    unsynced: &Mutex<Unsynced>,
) -> Result<String, Box<dyn std::error::Error>> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["eio", kinds] => faults.fail(&kinds.split(',').map(kind).collect::<Result<Vec<_>, _>>()?),
        ["delay", ms] => faults.delay(Duration::from_millis(ms.parse()?)),
        ["hang"] => faults.hang(),
        ["heal"] => faults.heal(),
        ["cut", seed] => {
            let cut = unsynced.lock().cut(seed.parse()?)?;
            return Ok(format!(
                "{} sectors of {} files and {} names lost",
                cut.sectors, cut.files, cut.names
            ));
        }
        _ => return Err(format!("no such command: {line}").into()),
    }
    Ok("done".into())
}

fn kind(name: &str) -> Result<Kind, String> {
    match name {
        "read" => Ok(Kind::Read),
        "write" => Ok(Kind::Write),
        "sync" => Ok(Kind::Sync),
        _ => Err(format!("no such operation: {name}")),
    }
}
