//! One storage node's disk engine: chunks in append-only volumes, an index that can be rebuilt.
//!
//! A disk has one writer. What it appends is made durable by a sync that all waiting writers share,
//! then indexed, then acknowledged. Reads find a chunk in the index and bring it with one
//! positioned read. The layout is drawn in docs/data-layout-volumes.md.
//!
//! It must not know buckets, keys, placement or the network. Invariants: acknowledged means durable
//! and indexed; what is read was written, or an error; only named chunks are deleted; nothing in
//! memory grows with the number of chunks; a failed sync is final for its disk, and only for it.

mod background;
mod commit;
mod compact;
mod config;
mod disk;
mod error;
mod examine;
mod format;
mod health;
mod identity;
mod index;
mod metrics;
mod reader;
mod recover;
mod store;
mod verify;
mod volumes;
mod work;
mod writer;

pub use compact::Compaction;
pub use config::{BlobConfig, DiskConfig, IDLE_DEAD_PERCENT, IDLE_GAIN_MIN};
pub use error::OpenError;
pub use format::DiskIdentity;
pub use identity::read_identity;
pub use metrics::DiskMetrics;
pub use store::{BlobStore, OpeningDisk};
