//! How much memory the databases of the metadata may use.

use granary_kv_rocks::RocksBudget;
use sysinfo::{MemoryRefreshKind, ProcessesToUpdate, System};

use crate::config::MetaSection;

const MIB: u64 = 1 << 20;
/// The least that is taken when nothing was configured, and what is where the system does not tell.
const LEAST: u64 = 128 * MIB;
/// The most.
const MOST: u64 = 1024 * MIB;
/// A part of the memory that there is.
const SHARE: u64 = 16;

impl MetaSection {
    /// `memory_bytes`, or what suits the machine when that is 0.
    pub(crate) fn budget(&self) -> RocksBudget {
        let bytes = match self.memory_bytes {
            0 => share_of(available()),
            configured => configured,
        };
        tracing::debug!(bytes, "memory of the metadata's databases");
        RocksBudget::new(bytes)
    }
}

fn share_of(available: Option<u64>) -> usize {
    let share = available.unwrap_or(0) / SHARE;
    // At most 1 GiB: it fits.
    share.clamp(LEAST, MOST) as usize
}

/// The memory of the machine, or what the process's cgroup and those above it may have, where that is less; in bytes.
fn available() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let machine = Some(system.total_memory()).filter(|bytes| *bytes > 0);
    // Of a group whose files cannot be read nothing is known; a container's root says what all in it may have.
    let limit = own_limit(&mut system).or_else(|| Some(system.cgroup_limits()?.total_memory));
    machine.into_iter().chain(limit).min()
}

fn own_limit(system: &mut System) -> Option<u64> {
    let pid = sysinfo::get_current_pid().ok()?;
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
    let limits = system.process(pid)?.cgroup_limits()?;
    Some(limits.total_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_is_taken_and_no_less_and_no_more_than_is_documented() {
        let mib = |available: u64| share_of(Some(available * MIB)) / MIB as usize;
        assert_eq!(
            [512, 2048, 4096, 8192, 16384, 262_144].map(mib),
            [128, 128, 256, 512, 1024, 1024]
        );
        assert_eq!(share_of(None) as u64, LEAST);
    }

    #[test]
    fn the_system_says_how_much_there_is() {
        let available = available().unwrap();
        assert!((64 * MIB..1 << 50).contains(&available), "{available}");
    }
}
