//! Golden encodings: bytes of every message, as they stand on disks and in logs, still read and are
//! written again as they were.

use std::collections::BTreeSet;

use prost::Message;

use crate::pb::{self, state};

/// Reads bytes as a message; what it is written as again, and what it shows.
type Reading = fn(&[u8]) -> (Vec<u8>, String);

fn reading<M: Message + Default + std::fmt::Debug>(bytes: &[u8]) -> (Vec<u8>, String) {
    let message = M::decode(bytes).unwrap();
    (message.encode_to_vec(), format!("{message:?}"))
}

macro_rules! messages {
    ($($module:ident $prefix:literal [$($name:ident),+])+) => {
        fn messages() -> Vec<(&'static str, Reading)> {
            vec![$($((concat!($prefix, stringify!($name)), reading::<$module::$name> as Reading),)+)+]
        }
    };
}

messages! {
    state "state." [
        Extent, Header, Tag, Body, InlineBody, ExtentBody, PagedBody, PartsBody, AppendedBody,
        Encryption,
        Retention, RestoreState, Version, Head, ExtentPage, PartRef, PartPage, Upload, Part,
        PrefixDigest,
        Owner, BucketView, Deletion, Change, CommandReplyRow, Pin, RestoreMarker, NodeDatabase, ShardSettings,
        SnapshotRow, SnapshotRows, Counter, Quota, Range, ShardDescriptor, ChildShard,
        ShardClock, Bucket, Account, AccessKey, Node, Disk, Pool, PlacementGroup, PgMember,
        RangeHint, Lease, ClusterInfo, ShardEntry, ShardAllocation,
        NodeAllocation, ClusterTrust, JoinToken, ConfigRow, Directory, DirectoryPlace
    ]
    pb "" [
        ProposeRequest, ProposeReply, QueryRequest, QueryResponse, Fault, Command, CommandReply,
        Empty, VersionReply, PartReply, DeleteReply, FenceReply, AckReply, StageReply, Allocated,
        InitClusterReply, Rejection, Position, Payload, PutObject, DeleteObject, InitiateUpload,
        PutPart, CompletePart, CompleteUpload, AbortUpload, StageExtents, PinRead, AckDeletions,
        Segment, ConfigureBucket, FenceBucket, SplitRange, ChildReported, Tick, ActivateFeature,
        InitCluster, CreateBucket, FinishCreateBucket, SetBucketAcl, BeginDeleteBucket,
        EndDeleteBucket, PutAccessKey, RegisterNode, RegisterDisk, CreatePool, CreatePgs,
        ReplacePgMember, CompletePgMember, AllocateShard, ReportRange, AcquireLease, Query,
        QueryReply, GetVersion, VersionResult, ListExtents, ExtentsResult, ExtentPiece,
        ListObjects, ObjectEntry, ObjectsPage, ListItem, ListVersions, VersionItem, VersionsPage,
        ListUploads, UploadItem, UploadEntry, UploadsPage, ListParts, PartsPage, GetUpload,
        UploadResult, BeginWrite, WriteIds, GetCounters, ClassCounter, CountersResult,
        ListDeletions, DeletionEntry, DeletionsPage, LookupOwners, OwnerStatus, OwnersResult,
        DescribeShard, ShardDescription, Membership, GetBucket, GetBucketById, BucketResult, ListBuckets,
        ListUnfinishedBuckets, BucketsPage, GetAccessKey, AccessKeyResult, GetClusterMap,
        ClusterMap, ListReplicasRequest, ListReplicasReply, Replica, Follower, OpenReplicaRequest,
        AddLearnerRequest, ChangeVotersRequest, TransferLeaderRequest, ControlReply, AllocateNode,
        RemoveNode, PutTrust, PutJoinToken, ListReferences, Reference, ReferencesPage, GetTrust,
        GetJoinToken, JoinTokenResult, LookupChunks, ChunksResult, RenewRoot, SeenGroup, WrongClock,
        SetObjectAcl, SetObjectTags, SetBucketTags, SetBucketConfig, SetBucketVersioning,
        FinishConfigureBucket, BucketConfig, AppendObject, SealObject, FoldTail, PutAccount,
        ListAccessKeys, AccessKeysPage, SetObjectMeta, CreateDirectory, RenameEntry,
        DeleteDirectory, DirectoryCursor, DirectoryDeleted, MeasureRanges, RangeSizes, RangeSize
    ]
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.trim_start_matches('-').as_bytes();
    let pairs = digits.chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn records_and_commands_keep_their_bytes() {
    let messages = messages();
    let mut seen = BTreeSet::new();
    let lines = include_str!("../golden/messages.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut columns = line.splitn(3, ' ');
        let (name, hex) = (columns.next().unwrap(), columns.next().unwrap());
        let known = messages.iter().find(|(known, _)| *known == name);
        let (_, read) = known.unwrap_or_else(|| panic!("{name}: a message must not go away"));
        seen.insert(name);
        let bytes = bytes_of(hex);
        let (written, shown) = read(&bytes);
        assert_eq!(written, bytes, "{name}: bytes on disk must never change");
        for field in columns.next().unwrap_or_default().split(" | ") {
            assert!(shown.contains(field), "{name}: no {field:?} in {shown}");
        }
    }
    for (name, _) in messages {
        assert!(seen.contains(name), "{name} has no golden encoding");
    }
}

/// Every message of the two files is in the list above, and every field in a golden line.
#[test]
fn no_message_or_field_is_without_a_golden_encoding() {
    let listed: BTreeSet<_> = messages().iter().map(|(name, _)| *name).collect();
    let golden = include_str!("../golden/messages.txt");
    for (prefix, proto) in [
        ("state.", include_str!("../../../proto/meta_state.proto")),
        ("", include_str!("../../../proto/meta.proto")),
    ] {
        for line in proto.lines().filter(|line| line.starts_with("message ")) {
            let name = line.split_whitespace().nth(1).unwrap();
            let name = format!("{prefix}{name}");
            assert!(listed.contains(name.as_str()), "{name} is not listed");
            let own = golden
                .lines()
                .filter(|golden| golden.starts_with(&format!("{name} ")));
            assert!(own.count() > 0, "{name} has no golden encoding");
        }
    }
}
