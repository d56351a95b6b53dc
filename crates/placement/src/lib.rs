//! Which disks hold what: topology and redundancy rules in, disk sets and quorums out.
//!
//! Pure: no I/O, no clock, no randomness of its own (callers pass a seed), no records and no wire.
//!
//! Invariants:
//! - a group's disks never share the failure domain of its rule;
//! - removing a disk touches only the groups it is a member of.

mod choice;
mod groups;
mod layout;
mod quorum;
mod rule;
#[cfg(test)]
mod scale;
mod topology;
mod voters;

pub use choice::GroupChooser;
pub use groups::{Places, groups_wanted, plan_groups, replacement_for};
pub use quorum::{acks_needed, write_quorum};
pub use rule::{FailureDomain, Rule, rule_for};
pub use topology::{Disk, Topology};
pub use voters::{MetaMember, ShardReplicas, VoterStep, plan_voters, voters_possible};
