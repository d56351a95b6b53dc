//! Background work: deletion, sweep, buckets half deleted, placement, redundancy, scrub, splits.
//!
//! A worker is one file with a bounded, idempotent, resumable `tick`. One loop owns lease, jitter,
//! trigger, backoff and pause. Workers know neither the state machine nor the disk engine, only
//! their seams, and they delete only chunks that a command or a verdict of every shard names.

mod backups;
mod bucket_finisher;
mod chunk_deleter;
mod deletion;
mod error;
mod evict;
mod feature_keeper;
mod fsck;
mod group_listing;
mod group_repair;
mod lost_chunks;
mod member_keeper;
mod metrics;
mod orphan_sweep;
mod outsiders;
mod owners;
mod placement_keeper;
mod range_keeper;
mod redundancy;
mod runner;
mod scrub;
mod shard_walk;
#[cfg(test)]
mod tests;
mod worker;

pub use bucket_finisher::BucketFinisher;
pub use chunk_deleter::ChunkDeleter;
pub use deletion::DeletionWorker;
pub use error::WorkerError;
pub use feature_keeper::FeatureKeeper;
pub use fsck::{Damage, Fsck, FsckProgress, FsckReport};
pub use group_repair::SomeBuckets;
pub use member_keeper::{MemberKeeper, MemberKeeperConfig, MetaNodes};
pub use metrics::WorkerMetrics;
pub use orphan_sweep::OrphanSweep;
pub use placement_keeper::{Away, KeeperConfig, PlacementKeeper, Silence, Waits};
pub use range_keeper::{RangeKeeper, RangeKeeperConfig};
pub use redundancy::{PassProgress, RedundancyStatus, RedundancyWorker};
pub use runner::{RunnerConfig, WorkerHandle, WorkerState, start};
pub use scrub::{Scrub, ScrubConfig, ScrubProgress, ScrubReport, ScrubStatus, ScrubWorker};
pub use worker::{Tick, Worker};
