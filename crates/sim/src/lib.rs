//! A whole cluster in one process, one thread and one seed: three nodes with metadata, disks and
//! workers, a few gateways, and everything that can go wrong between them.
//!
//! The clock stands still unless everybody waits, messages pass through [`net`], disks are
//! [`granary_kv::MemoryKv`] and [`granary_vfs::MemoryVfs`], and every choice comes from the seed:
//! [`run::run`] of one seed is the same run, event by event. What must hold is in [`check`], one
//! file per invariant. docs/testing-simulation.md is the manual.
//!
//! It must not know how any crate does its work: it starts nodes as the binary does, and asks what
//! a gateway asks.

pub mod appends;
pub mod check;
mod cluster;
pub mod content;
mod findings;
pub mod gateway;
pub mod history;
pub mod linearizability;
pub mod logs;
pub mod nemesis;
pub mod net;
mod node;
pub mod run;
pub mod scenario;
pub mod trace;
mod workers;
pub mod workload;

pub use cluster::Cluster;
pub use findings::Findings;
