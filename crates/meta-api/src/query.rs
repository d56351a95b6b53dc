//! Queries: which shard answers each, and with what. One line per query.

use crate::command::{Target, at};
use crate::pb;
use crate::pb::query::Query as Wire;
use crate::pb::query_reply::Reply;

/// A question about the newest state.
pub trait Query: Clone + Send + 'static {
    /// The answer.
    type Reply: Send;

    /// Which shard answers it.
    fn target(&self) -> Target;

    /// The envelope's tag for it.
    fn into_wire(self) -> Wire;

    /// The answer, if it is of the right kind.
    fn reply(reply: Reply) -> Option<Self::Reply>;
}

macro_rules! queries {
    ($($query:ident ($target:tt) -> $reply:ident ( $answer:ty );)+) => {
        $(impl Query for pb::$query {
            type Reply = $answer;

            fn target(&self) -> Target {
                queries!(@target self $target)
            }

            fn into_wire(self) -> Wire {
                Wire::$query(self)
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

queries! {
    GetVersion(at) -> Version(pb::VersionResult);
    ListExtents(at) -> Extents(pb::ExtentsResult);
    ListObjects(named) -> Objects(pb::ObjectsPage);
    ListUploads(named) -> Uploads(pb::UploadsPage);
    ListParts(at) -> Parts(pb::PartsPage);
    GetUpload(at) -> Upload(pb::UploadResult);
    BeginWrite(at) -> WriteIds(pb::WriteIds);
    GetCounters(named) -> Counters(pb::CountersResult);
    ListDeletions(named) -> Deletions(pb::DeletionsPage);
    LookupOwners(named) -> Owners(pb::OwnersResult);
    LookupChunks(named) -> Chunks(pb::ChunksResult);
    ListVersions(named) -> Versions(pb::VersionsPage);
    ListReferences(named) -> References(pb::ReferencesPage);
    DescribeShard(named) -> Shard(pb::ShardDescription);
    MeasureRanges(named) -> RangeSizes(pb::RangeSizes);
    GetBucket(root) -> Bucket(pb::BucketResult);
    GetBucketById(root) -> Bucket(pb::BucketResult);
    ListBuckets(root) -> Buckets(pb::BucketsPage);
    ListUnfinishedBuckets(root) -> Buckets(pb::BucketsPage);
    GetAccessKey(root) -> AccessKey(pb::AccessKeyResult);
    ListAccessKeys(root) -> AccessKeys(pb::AccessKeysPage);
    GetClusterMap(root) -> ClusterMap(pb::ClusterMap);
    GetTrust(root) -> Trust(pb::state::ClusterTrust);
    GetJoinToken(root) -> JoinToken(pb::JoinTokenResult);
}
