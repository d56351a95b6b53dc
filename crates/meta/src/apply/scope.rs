//! Where each command acts, and what must hold before it is applied. One line per command.

use granary_meta_api::pb;
use granary_meta_api::pb::command::Command as Wire;

use super::{FIRST_LEVEL, NODES_TELL, OBJECTS, SETTINGS, SPLITS};

/// Where a command acts.
pub(super) enum Scope<'c> {
    /// Changes objects at a position: owned, and the bucket's generation as the sender saw it.
    Objects(Option<&'c pb::Position>),
    /// Acts at a position whatever the bucket's state.
    Position(Option<&'c pb::Position>),
    /// Acts on the shard as a whole.
    Shard,
    /// Acts on the root.
    Root,
}

/// Where a command acts.
pub(super) fn scope(command: &Wire) -> Scope<'_> {
    match command {
        Wire::PutObject(c) => Scope::Objects(c.at.as_ref()),
        Wire::DeleteObject(c) => Scope::Objects(c.at.as_ref()),
        Wire::InitiateUpload(c) => Scope::Objects(c.at.as_ref()),
        Wire::PutPart(c) => Scope::Objects(c.at.as_ref()),
        Wire::CompleteUpload(c) => Scope::Objects(c.at.as_ref()),
        Wire::AbortUpload(c) => Scope::Objects(c.at.as_ref()),
        Wire::StageExtents(c) => Scope::Objects(c.at.as_ref()),
        Wire::SetObjectAcl(c) => Scope::Objects(c.at.as_ref()),
        Wire::SetObjectTags(c) => Scope::Objects(c.at.as_ref()),
        Wire::AppendObject(c) => Scope::Objects(c.at.as_ref()),
        Wire::SealObject(c) => Scope::Objects(c.at.as_ref()),
        Wire::FoldTail(c) => Scope::Objects(c.at.as_ref()),
        Wire::SetObjectMeta(c) => Scope::Objects(c.at.as_ref()),
        Wire::CreateDirectory(c) => Scope::Objects(c.at.as_ref()),
        Wire::RenameEntry(c) => Scope::Objects(c.at.as_ref()),
        Wire::DeleteDirectory(c) => Scope::Objects(c.at.as_ref()),
        Wire::PinRead(c) => Scope::Position(c.at.as_ref()),
        Wire::AckDeletions(_)
        | Wire::ConfigureBucket(_)
        | Wire::FenceBucket(_)
        | Wire::SplitRange(_)
        | Wire::ChildReported(_)
        | Wire::Tick(_)
        | Wire::ActivateFeature(_) => Scope::Shard,
        Wire::InitCluster(_)
        | Wire::CreateBucket(_)
        | Wire::FinishCreateBucket(_)
        | Wire::SetBucketAcl(_)
        | Wire::SetBucketTags(_)
        | Wire::SetBucketConfig(_)
        | Wire::SetBucketVersioning(_)
        | Wire::FinishConfigureBucket(_)
        | Wire::BeginDeleteBucket(_)
        | Wire::EndDeleteBucket(_)
        | Wire::PutAccessKey(_)
        | Wire::PutAccount(_)
        | Wire::RegisterNode(_)
        | Wire::RegisterDisk(_)
        | Wire::CreatePool(_)
        | Wire::CreatePgs(_)
        | Wire::ReplacePgMember(_)
        | Wire::CompletePgMember(_)
        | Wire::AllocateShard(_)
        | Wire::ReportRange(_)
        | Wire::AcquireLease(_)
        | Wire::AllocateNode(_)
        | Wire::RemoveNode(_)
        | Wire::PutTrust(_)
        | Wire::PutJoinToken(_)
        | Wire::RenewRoot(_) => Scope::Root,
    }
}

/// The feature level a shard must have activated before the command may be applied.
pub(crate) fn level(command: &Wire) -> u64 {
    match command {
        Wire::ActivateFeature(_) => 0,
        Wire::AppendObject(_) | Wire::SealObject(_) | Wire::FoldTail(_) => OBJECTS,
        Wire::SetObjectAcl(_)
        | Wire::SetObjectTags(_)
        | Wire::SetBucketTags(_)
        | Wire::SetBucketConfig(_)
        | Wire::SetBucketVersioning(_)
        | Wire::FinishConfigureBucket(_) => SETTINGS,
        Wire::SetObjectMeta(_) | Wire::PutAccount(_) => OBJECTS,
        Wire::CreateDirectory(_) | Wire::RenameEntry(_) | Wire::DeleteDirectory(_) => OBJECTS,
        Wire::RenewRoot(_) => NODES_TELL,
        Wire::SplitRange(c) if c.expected_epoch != 0 => SPLITS,
        Wire::CreateBucket(c) if c.bucket.as_ref().is_some_and(|b| b.hierarchical) => OBJECTS,
        Wire::ConfigureBucket(c) if c.view.is_some_and(|view| view.hierarchical) => OBJECTS,
        _ => FIRST_LEVEL,
    }
}

/// Whom a directory belongs to that a command has to make.
pub(super) fn owner(command: &Wire) -> u64 {
    let made = match command {
        Wire::PutObject(c) => c.version.as_ref(),
        Wire::AppendObject(c) => c.version.as_ref(),
        Wire::InitiateUpload(c) => c.template.as_ref(),
        _ => None,
    };
    made.map_or(0, |version| version.owner)
}
