//! Commands: one file each. `apply` is a pure function of the state and the log entry: no clock,
//! no randomness, no look at other shards' rows.
//!
//! What all commands share (deadline, replay, ownership, bucket generation) is in `envelope`.

mod envelope;
mod expiry;
mod refusal;
mod scope;
mod tx;

mod appended;
mod body;
mod bucket_rows;
mod counters;
mod deletions;
mod directories;
pub(crate) mod parts;
mod root_rows;
mod versions;

mod abort_upload;
mod ack_deletions;
mod acquire_lease;
mod activate_feature;
mod allocate_node;
mod allocate_shard;
mod append_object;
mod begin_delete_bucket;
mod child_reported;
mod complete_pg_member;
mod complete_upload;
mod configure_bucket;
mod create_bucket;
mod create_directory;
mod create_pgs;
mod create_pool;
mod delete_directory;
mod delete_object;
mod end_delete_bucket;
mod fence_bucket;
mod finish_configure_bucket;
mod finish_create_bucket;
mod fold_tail;
mod init_cluster;
mod initiate_upload;
mod pin_read;
mod put_access_key;
mod put_account;
mod put_join_token;
mod put_object;
mod put_part;
mod put_trust;
mod register_disk;
mod register_node;
mod remove_node;
mod rename_entry;
mod renew_root;
mod replace_pg_member;
mod report_range;
mod seal_object;
mod set_bucket_acl;
mod set_bucket_config;
mod set_bucket_tags;
mod set_bucket_versioning;
mod set_object_acl;
mod set_object_meta;
mod set_object_tags;
mod split_range;
mod stage_extents;
mod tick;

pub(crate) use envelope::decide;
pub(crate) use init_cluster::first_ranges;
pub(crate) use refusal::Refusal;
pub(crate) use scope::level;
pub(crate) use split_range::write_child;
pub(crate) use tx::{Tx, slab_bounds};

use granary_meta_api::pb;
use granary_meta_api::pb::command::Command as Wire;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;

use crate::ownership::Place;

/// The newest feature level this version can apply. Raised when apply learns something that older
/// versions would do differently. New clusters begin at it; others get there when every metadata node
/// applies it.
pub const FEATURE_LEVEL: u64 = SPLITS;
/// The level from which on the root is put back by a command (`RenewRoot`), keeps what level nodes
/// tell and lets in nobody who applies less, changes the state of a disk alone, and takes the word of
/// a disk that was out for nothing.
pub(crate) const NODES_TELL: u64 = 2;
/// The level of every shard of a version that tells none.
pub(crate) const FIRST_LEVEL: u64 = 1;
/// The level from which on settings of buckets and versions can be changed: ACL, tags, versioning and
/// configurations.
pub(crate) const SETTINGS: u64 = 3;
/// The level from which on objects can be appended to and changed in place, accounts made, buckets have
/// directories, and chunks that a write has abandoned are kept as long as one of its attempts may be
/// under way.
pub(crate) const OBJECTS: u64 = 4;
/// The level from which on a part of a sequential upload keeps the MD5 of all up to its end, and an append
/// above a delete marker makes an object.
pub(crate) const PREFIXES: u64 = 5;
/// The level from which on a split may name the epoch that it expects, which older versions would not look at.
pub(crate) const SPLITS: u64 = granary_meta_api::feature_level::SPLITS;

/// What a command knows of its log entry and of where it acts.
#[derive(Clone, Debug)]
pub(crate) struct ApplyContext {
    /// The entry's time, stamped by the leader; never goes backwards for a shard.
    pub(crate) time_ms: u64,
    /// The owned position, and in a bucket with directories where its path leads; of a command without
    /// one: the home slab, bucket 0 and an empty key.
    pub(crate) place: Place,
    /// What the shard knows of the bucket, for commands that change objects.
    pub(crate) view: state::BucketView,
}

impl ApplyContext {
    /// How long a write id lives without renewal, in milliseconds.
    pub(crate) fn write_lease_ms(tx: &Tx<'_>) -> u64 {
        tx.clock.settings.map_or(0, |s| s.write_lease_ms)
    }
}

/// A command's effect.
pub(crate) trait Apply {
    /// Changes the state, or refuses and leaves it as it was.
    fn apply(self, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal>;
}

fn empty() -> Result<Reply, Refusal> {
    Ok(Reply::Empty(pb::Empty {}))
}

/// One line per command.
fn dispatch(command: Wire, tx: &mut Tx<'_>, at: &ApplyContext) -> Result<Reply, Refusal> {
    match command {
        Wire::PutObject(c) => c.apply(tx, at),
        Wire::DeleteObject(c) => c.apply(tx, at),
        Wire::InitiateUpload(c) => c.apply(tx, at),
        Wire::PutPart(c) => c.apply(tx, at),
        Wire::CompleteUpload(c) => c.apply(tx, at),
        Wire::AbortUpload(c) => c.apply(tx, at),
        Wire::StageExtents(c) => c.apply(tx, at),
        Wire::PinRead(c) => c.apply(tx, at),
        Wire::AckDeletions(c) => c.apply(tx, at),
        Wire::ConfigureBucket(c) => c.apply(tx, at),
        Wire::FenceBucket(c) => c.apply(tx, at),
        Wire::SplitRange(c) => c.apply(tx, at),
        Wire::ChildReported(c) => c.apply(tx, at),
        Wire::Tick(c) => c.apply(tx, at),
        Wire::ActivateFeature(c) => c.apply(tx, at),
        Wire::SetObjectAcl(c) => c.apply(tx, at),
        Wire::SetObjectTags(c) => c.apply(tx, at),
        Wire::AppendObject(c) => c.apply(tx, at),
        Wire::SealObject(c) => c.apply(tx, at),
        Wire::FoldTail(c) => c.apply(tx, at),
        Wire::SetObjectMeta(c) => c.apply(tx, at),
        Wire::CreateDirectory(c) => c.apply(tx, at),
        Wire::RenameEntry(c) => c.apply(tx, at),
        Wire::DeleteDirectory(c) => c.apply(tx, at),
        Wire::InitCluster(c) => c.apply(tx, at),
        Wire::CreateBucket(c) => c.apply(tx, at),
        Wire::FinishCreateBucket(c) => c.apply(tx, at),
        Wire::SetBucketAcl(c) => c.apply(tx, at),
        Wire::SetBucketTags(c) => c.apply(tx, at),
        Wire::SetBucketConfig(c) => c.apply(tx, at),
        Wire::SetBucketVersioning(c) => c.apply(tx, at),
        Wire::FinishConfigureBucket(c) => c.apply(tx, at),
        Wire::BeginDeleteBucket(c) => c.apply(tx, at),
        Wire::EndDeleteBucket(c) => c.apply(tx, at),
        Wire::PutAccessKey(c) => c.apply(tx, at),
        Wire::PutAccount(c) => c.apply(tx, at),
        Wire::RegisterNode(c) => c.apply(tx, at),
        Wire::RegisterDisk(c) => c.apply(tx, at),
        Wire::CreatePool(c) => c.apply(tx, at),
        Wire::CreatePgs(c) => c.apply(tx, at),
        Wire::ReplacePgMember(c) => c.apply(tx, at),
        Wire::CompletePgMember(c) => c.apply(tx, at),
        Wire::AllocateShard(c) => c.apply(tx, at),
        Wire::ReportRange(c) => c.apply(tx, at),
        Wire::AcquireLease(c) => c.apply(tx, at),
        Wire::AllocateNode(c) => c.apply(tx, at),
        Wire::RemoveNode(c) => c.apply(tx, at),
        Wire::PutTrust(c) => c.apply(tx, at),
        Wire::PutJoinToken(c) => c.apply(tx, at),
        Wire::RenewRoot(c) => c.apply(tx, at),
    }
}
