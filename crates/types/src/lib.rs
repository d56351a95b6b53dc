//! Validated values that every layer shares: names, ids, ranges and limits.
//!
//! Nothing here does I/O, knows a wire format or reads a clock. A value of one of these types has
//! been checked once, where it entered, and is trusted afterwards.

mod backup;
mod bucket_name;
mod byte_range;
pub mod crc64;
mod etag;
mod ids;
pub mod limits;
mod object_key;
mod storage_class;
mod time;

pub use backup::{BACKUP_BUCKET, BACKUP_PART_MAX, BackupKind, BackupObject};
pub use bucket_name::{BucketName, InvalidBucketName};
pub use byte_range::ByteRange;
pub use etag::ETag;
pub use ids::{
    AccountId, BucketId, ChunkId, DiskId, NodeId, ObjectId, PgId, ShardId, SlabId, VersionStamp,
};
pub use object_key::{InvalidObjectKey, ObjectKey};
pub use storage_class::{BucketAcl, ObjectAcl, ObjectType, Redundancy, StorageClass};
pub use time::Timestamp;
