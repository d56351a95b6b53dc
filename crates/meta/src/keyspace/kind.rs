//! The persisted ordinals of the key kinds. A number is never changed and never given again.

/// What a row is about: the fifth byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "some kinds are reserved: nothing writes them yet")
)]
pub(crate) enum Kind {
    // Home slab. The descriptor comes first: whoever looks for shards seeks to a slab's start.
    ShardDescriptor = 1,
    RestoreMarker = 2,
    RaftBookkeeping = 3,
    ShardClock = 4,
    BucketView = 5,
    Counter = 6,
    Quota = 7,
    ChangeLog = 8,
    // No shard's: a slab of its own, which is never given out.
    NodeDatabase = 9,
    // Home slab of the root.
    ClusterInfo = 32,
    Account = 33,
    AccessKey = 34,
    BucketByName = 35,
    BucketById = 36,
    BucketByOwner = 37,
    BucketUnfinished = 38,
    Node = 39,
    Disk = 40,
    Pool = 41,
    PlacementGroup = 42,
    RangeHint = 43,
    Lease = 44,
    ShardAllocation = 45,
    ShardEntry = 46,
    NodeAllocation = 47,
    ClusterTrust = 48,
    JoinToken = 49,
    BucketConfig = 50,
    // Data slab, positional.
    Head = 64,
    Version = 65,
    Inline = 66,
    Upload = 67,
    Part = 68,
    // Data slab, a minute before the position.
    CommandReply = 80,
    Expiry = 81,
    LifecycleIndex = 82,
    // Data slab, in the order of a sequence, position in the value.
    Deletion = 96,
    // Data slab, owner-keyed.
    Owner = 112,
    Extent = 113,
    PartPage = 114,
    Pin = 115,
    Tail = 116,
    // Data slab, positional: a directory of a bucket whose keys are paths.
    Directory = 117,
    DirectoryById = 118,
}

impl Kind {
    /// Kinds whose keys go on with a position.
    pub(crate) const POSITIONAL: [Kind; 7] = [
        Kind::Head,
        Kind::Version,
        Kind::Inline,
        Kind::Upload,
        Kind::Part,
        Kind::Directory,
        Kind::DirectoryById,
    ];

    /// Kinds whose keys go on with a minute and a position.
    pub(crate) const TIMED: [Kind; 3] = [Kind::CommandReply, Kind::Expiry, Kind::LifecycleIndex];

    /// Kinds that depend on an `Owner` row of the same (bucket, object id).
    pub(crate) const OWNED: [Kind; 4] = [Kind::Extent, Kind::PartPage, Kind::Pin, Kind::Tail];
}
