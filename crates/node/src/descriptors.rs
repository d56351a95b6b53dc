//! Open files: how many this process may have, and how many of them may be client connections.
//!
//! Databases, volumes and connections share one limit. Connections must never use up what the
//! disks need, or a crowd of idle clients would look like a broken disk.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listeners, logs, traces, and what libraries open for a moment.
const GENERAL: u64 = 256;
/// Files of one RocksDB at most (see `RocksConfig::open_files`), with some in the making.
const PER_DATABASE: u64 = 544;
/// Volume files that a disk keeps open (see `BlobConfig::open_files`), with those being written.
const PER_DISK: u64 = 288;
/// Fewer connections than this are no service.
const CONNECTIONS_MIN: u64 = 64;

/// Raises the limit as far as it goes and returns how many connections leave enough for the rest:
/// `wanted`, or fewer.
///
/// # Errors
/// A sentence that says what limit is needed.
pub(crate) fn reserve(disks: usize, wanted: usize) -> anyhow::Result<usize> {
    share(raise(), disks, wanted)
}

/// Raises the limit as far as it goes; what it is then, `None` for none.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "limit of open files not raised");
    }
    getrlimit(Resource::Nofile).current
}

fn share(limit: Option<u64>, disks: usize, wanted: usize) -> anyhow::Result<usize> {
    let Some(limit) = limit else {
        return Ok(wanted);
    };
    let disks = disks as u64;
    // One more database than disks: the metadata.
    let others = GENERAL + (disks + 1) * PER_DATABASE + disks * PER_DISK;
    let left = limit.saturating_sub(others);
    if left < CONNECTIONS_MIN.min(wanted as u64) {
        let needed = others + wanted as u64;
        bail!(
            "this process may open {limit} files and needs {needed} for {disks} data directories \
             and {wanted} connections: raise the limit (ulimit -n {needed}, or LimitNOFILE= of \
             its systemd unit)"
        );
    }
    let connections = usize::try_from(left).unwrap_or(wanted).min(wanted);
    if connections < wanted {
        tracing::warn!(
            "gateway.connections_max is {wanted}, but the limit of {limit} open files leaves room \
             for {connections}"
        );
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_come_before_connections() {
        for (limit, disks, expected) in [
            (None, 3, Some(8192)),
            (Some(1_048_576), 3, Some(8192)),
            (Some(4096), 1, Some(2464)),
            (Some(1024), 1, None),
        ] {
            assert_eq!(
                share(limit, disks, 8192).ok(),
                expected,
                "{limit:?} {disks}"
            );
        }
        let sentence = share(Some(1024), 1, 8192).unwrap_err().to_string();
        assert!(sentence.contains("ulimit -n 9824"), "{sentence}");
    }
}
