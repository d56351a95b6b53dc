//! Identifiers. Numbers are never reused; text forms are stable because records and logs carry them.

use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id!(
    /// An account, the owner of buckets and objects. Shown to clients as the owner id.
    AccountId(u64)
);
number_id!(
    /// A bucket's identity: a deleted and re-created bucket of the same name has another one.
    BucketId(u64)
);
number_id!(
    /// One Raft group of the metadata service; 0 is the root.
    ShardId(u32)
);
number_id!(
    /// A root-allocated, never reused prefix of the key space on disk.
    SlabId(u32)
);
number_id!(
    /// A process with an address. Identity lives in the volume; never reused.
    NodeId(u64)
);
number_id!(
    /// One data directory of a node. Identity lives in the directory; never reused.
    DiskId(u64)
);
number_id!(
    /// A placement group: a slot of a pool with an ordered set of disks.
    PgId(u32)
);
number_id!(
    /// The hybrid stamp that orders a key's versions: milliseconds since the epoch in the upper
    /// 48 bits, a counter in the lower 16; `max(leader's time, last + 1)`.
    VersionStamp(u64)
);

impl ShardId {
    /// Shard 0: cluster map, accounts, buckets and their configuration.
    pub const ROOT: ShardId = ShardId(0);
}

impl VersionStamp {
    /// The smallest stamp of a millisecond.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis << 16)
    }

    /// The time this stamp shows to clients, in milliseconds since the epoch.
    pub fn as_millis(self) -> u64 {
        self.0 >> 16
    }
}

/// Identity of one object version's bytes, of one upload or of one unfinished write.
///
/// 128 bits: birth in milliseconds (48), allocating shard (24), Raft term (24, its low bits) and a
/// counter (32). The birth makes a write's deadline derivable without stored state; term and counter
/// make it unique, since a shard's leader never allocates twice in one term with the same counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u128);

impl ObjectId {
    /// Composes an id from its fields; `shard` and `term` keep their low 24 bits.
    pub fn compose(birth_ms: u64, shard: ShardId, term: u64, counter: u32) -> Self {
        let birth = u128::from(birth_ms & 0xffff_ffff_ffff) << 80;
        let shard = u128::from(shard.0 & 0xff_ffff) << 56;
        let term = u128::from(term & 0xff_ffff) << 32;
        Self(birth | shard | term | u128::from(counter))
    }

    /// When the id was allocated, by the allocating shard's clock, in milliseconds since the epoch.
    pub fn birth_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// The sixteen bytes that keys and headers carry (big endian, so ids sort by birth).
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads what [`ObjectId::to_bytes`] wrote; `None` when the length is not sixteen.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|b| Self(u128::from_be_bytes(b)))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}", self.0)
    }
}

/// Identity of one chunk: the placement group in the upper 32 bits, 96 random bits below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u128);

impl ChunkId {
    /// A chunk of `pg`; only the low 96 bits of `unique` are used.
    pub fn new(pg: PgId, unique: u128) -> Self {
        Self((u128::from(pg.0) << 96) | (unique & ((1 << 96) - 1)))
    }

    /// The placement group that holds the chunk.
    pub fn pg(self) -> PgId {
        PgId((self.0 >> 96) as u32)
    }

    /// The sixteen bytes that keys and headers carry (big endian, so chunks sort by group).
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads what [`ChunkId::to_bytes`] wrote; `None` when the length is not sixteen.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|b| Self(u128::from_be_bytes(b)))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn object_ids_keep_their_birth_and_sort_by_it(a in 0u64..1 << 48, b in 0u64..1 << 48, shard: u32, term: u64, n: u32) {
            let x = ObjectId::compose(a, ShardId(shard), term, n);
            let y = ObjectId::compose(b, ShardId(shard), term, n);
            prop_assert_eq!(x.birth_ms(), a);
            prop_assert_eq!(ObjectId::from_slice(&x.to_bytes()), Some(x));
            prop_assert_eq!(x.to_bytes().cmp(&y.to_bytes()), a.cmp(&b));
        }

        #[test]
        fn chunk_ids_keep_their_group(pg: u32, unique: u128) {
            let id = ChunkId::new(PgId(pg), unique);
            prop_assert_eq!(id.pg(), PgId(pg));
            prop_assert_eq!(ChunkId::from_slice(&id.to_bytes()), Some(id));
        }
    }
}
