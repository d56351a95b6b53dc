//! Commands: which shard decides each, and what it answers. One line per command.

use granary_types::{BucketId, ShardId};

use crate::pb;
use crate::pb::command::Command as Wire;
use crate::pb::command_reply::Reply;

/// Which shard a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Shard 0.
    Root,
    /// The shard that owns the position.
    At(BucketId, bytes::Bytes),
    /// The caller names the shard ([`crate::Meta::propose_to`]).
    Named,
}

/// A change of the metadata. The envelope adds the id and the deadline.
pub trait Command: Clone + Send + 'static {
    /// What the cluster answers when it accepts.
    type Reply: Send;

    /// Which shard decides it.
    fn target(&self) -> Target;

    /// The envelope's tag for it.
    fn into_wire(self) -> Wire;

    /// The answer, if it is of the right kind.
    fn reply(reply: Reply) -> Option<Self::Reply>;
}

/// The position of a ranged command.
pub(crate) fn at(position: Option<&pb::Position>) -> Target {
    match position {
        Some(at) => Target::At(BucketId(at.bucket_id), at.key.clone()),
        None => Target::At(BucketId(0), bytes::Bytes::new()),
    }
}

macro_rules! commands {
    ($($command:ident ($target:tt) -> $reply:ident ( $answer:ty );)+) => {
        $(impl Command for pb::$command {
            type Reply = $answer;

            fn target(&self) -> Target {
                commands!(@target self $target)
            }

            fn into_wire(self) -> Wire {
                Wire::$command(self)
            }

            fn reply(reply: Reply) -> Option<Self::Reply> {
                match reply {
                    Reply::$reply(answer) => Some(answer),
                    _ => None,
                }
            }
        })+
    };
    (@target $self:ident at) => { at($self.at.as_ref()) };
    (@target $self:ident root) => { Target::Root };
    (@target $self:ident named) => { Target::Named };
}

commands! {
    PutObject(at) -> Version(pb::VersionReply);
    DeleteObject(at) -> Deleted(pb::DeleteReply);
    InitiateUpload(at) -> Empty(pb::Empty);
    PutPart(at) -> Part(pb::PartReply);
    CompleteUpload(at) -> Version(pb::VersionReply);
    AbortUpload(at) -> Empty(pb::Empty);
    StageExtents(at) -> Stage(pb::StageReply);
    PinRead(at) -> Empty(pb::Empty);
    AckDeletions(named) -> Ack(pb::AckReply);
    ConfigureBucket(named) -> Empty(pb::Empty);
    FenceBucket(named) -> Fence(pb::FenceReply);
    SplitRange(named) -> Empty(pb::Empty);
    ChildReported(named) -> Empty(pb::Empty);
    Tick(named) -> Empty(pb::Empty);
    ActivateFeature(named) -> Empty(pb::Empty);
    SetObjectAcl(at) -> Version(pb::VersionReply);
    SetObjectTags(at) -> Version(pb::VersionReply);
    AppendObject(at) -> Version(pb::VersionReply);
    SealObject(at) -> Version(pb::VersionReply);
    FoldTail(at) -> Version(pb::VersionReply);
    SetObjectMeta(at) -> Version(pb::VersionReply);
    CreateDirectory(at) -> Version(pb::VersionReply);
    RenameEntry(at) -> Empty(pb::Empty);
    DeleteDirectory(at) -> DirectoryDeleted(pb::DirectoryDeleted);
    InitCluster(root) -> InitCluster(pb::InitClusterReply);
    CreateBucket(root) -> Bucket(pb::state::Bucket);
    FinishCreateBucket(root) -> Empty(pb::Empty);
    SetBucketAcl(root) -> Bucket(pb::state::Bucket);
    SetBucketTags(root) -> Bucket(pb::state::Bucket);
    SetBucketConfig(root) -> Bucket(pb::state::Bucket);
    SetBucketVersioning(root) -> Bucket(pb::state::Bucket);
    FinishConfigureBucket(root) -> Empty(pb::Empty);
    BeginDeleteBucket(root) -> Bucket(pb::state::Bucket);
    EndDeleteBucket(root) -> Empty(pb::Empty);
    PutAccessKey(root) -> Empty(pb::Empty);
    PutAccount(root) -> Empty(pb::Empty);
    RegisterNode(root) -> Empty(pb::Empty);
    RegisterDisk(root) -> Empty(pb::Empty);
    CreatePool(root) -> Allocated(pb::Allocated);
    CreatePgs(root) -> Allocated(pb::Allocated);
    ReplacePgMember(root) -> Empty(pb::Empty);
    CompletePgMember(root) -> Empty(pb::Empty);
    AllocateShard(root) -> Allocated(pb::Allocated);
    ReportRange(root) -> Empty(pb::Empty);
    AcquireLease(root) -> Lease(pb::state::Lease);
    AllocateNode(root) -> Allocated(pb::Allocated);
    RemoveNode(root) -> Empty(pb::Empty);
    PutTrust(root) -> Empty(pb::Empty);
    PutJoinToken(root) -> Empty(pb::Empty);
    RenewRoot(root) -> Empty(pb::Empty);
}

impl pb::Rejection {
    /// A rejection with no details.
    pub fn of(reason: pb::rejection::Reason) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }

    /// A rejection with a sentence for the log.
    pub fn with_detail(reason: pb::rejection::Reason, detail: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            detail: detail.into(),
            ..Self::default()
        }
    }
}

impl Target {
    /// The shard, when it needs no map.
    pub(crate) fn fixed(&self) -> Option<ShardId> {
        (*self == Self::Root).then_some(ShardId::ROOT)
    }
}
