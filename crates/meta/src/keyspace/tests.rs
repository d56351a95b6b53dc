//! Golden bytes of every key kind, and properties of the encoding.

use bytes::Bytes;
use granary_types::{BucketId, SlabId};
use proptest::prelude::*;

use super::*;

/// Bytes to draw key fields from; few distinct values, so that keys share prefixes.
pub(crate) struct Source(Vec<u8>, usize);

impl Source {
    fn byte(&mut self) -> u8 {
        let byte = self.0[self.1 % self.0.len()];
        self.1 += 1;
        byte
    }

    pub(crate) fn small(&mut self) -> u32 {
        u32::from(self.byte() % 3)
    }
}

pub(crate) trait Sample {
    fn sample(source: &mut Source) -> Self;
}

impl Sample for u32 {
    fn sample(source: &mut Source) -> Self {
        [0, 1, 255, 256, u32::MAX][usize::from(source.byte() % 5)]
    }
}

impl Sample for u64 {
    fn sample(source: &mut Source) -> Self {
        [0, 1, 255, 1 << 40, u64::MAX][usize::from(source.byte() % 5)]
    }
}

impl Sample for BucketId {
    fn sample(source: &mut Source) -> Self {
        BucketId(u64::sample(source))
    }
}

impl Sample for Newest {
    fn sample(source: &mut Source) -> Self {
        Newest(u64::sample(source))
    }
}

impl Sample for Id {
    fn sample(source: &mut Source) -> Self {
        Id([source.byte(); 16])
    }
}

impl Sample for Bytes {
    fn sample(source: &mut Source) -> Self {
        let length = source.byte() % 5;
        (0..length)
            .map(|_| [0, 1, 2, b'a', 0xfe, 0xff][usize::from(source.byte() % 6)])
            .collect()
    }
}

fn round_trips_in_order<K: RowKey + Sample + Ord>(a: &[u8], b: &[u8]) {
    let a = K::sample(&mut Source(a.to_vec(), 0));
    let b = K::sample(&mut Source(b.to_vec(), 0));
    assert_eq!(K::decode(&a.encode()).unwrap(), a);
    assert_eq!(
        a.encode().cmp(&b.encode()),
        a.cmp(&b),
        "{a:?} against {b:?}"
    );
    let prefix = kind_prefix(a.slab(), K::KIND);
    assert!(a.encode().starts_with(&prefix));
}

fn golden<K: RowKey + Ord>(key: &K, expected: &str) {
    assert_eq!(
        hex::encode(key.encode()),
        expected,
        "{key:?}: bytes on disk must never change"
    );
    assert_eq!(K::decode(&key.encode()).unwrap(), *key);
}

#[test]
fn truncated_or_longer_keys_are_refused() {
    let key = head::HeadKey {
        slab: SlabId(7),
        bucket: BucketId(1),
        key: Bytes::from_static(b"a"),
    };
    let bytes = key.encode();
    for length in 0..bytes.len() {
        assert!(
            head::HeadKey::decode(&bytes[..length]).is_err(),
            "{length} bytes"
        );
    }
    assert!(head::HeadKey::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert!(version::VersionKey::decode(&bytes).is_err());
}

#[test]
fn keys_keep_their_bytes() {
    let slab = SlabId(7);
    golden(&shard_descriptor::ShardDescriptorKey { slab }, "0000000701");
    golden(&restore_marker::RestoreMarkerKey { slab }, "0000000702");
    golden(&raft_bookkeeping::RaftBookkeepingKey { slab }, "0000000703");
    let nobodys = node_database::NODE_SLAB;
    golden(
        &node_database::NodeDatabaseKey { slab: nobodys },
        "ffffffff09",
    );
    golden(&shard_clock::ShardClockKey { slab }, "0000000704");
    golden(
        &bucket_view::BucketViewKey {
            slab,
            bucket: BucketId(0x0102),
        },
        "00000007050000000000000102",
    );
    golden(
        &counter::CounterKey {
            slab,
            bucket: BucketId(0x0102),
            class: 5,
        },
        "0000000706000000000000010200000005",
    );
    golden(
        &quota::QuotaKey {
            slab,
            bucket: BucketId(0x0102),
        },
        "00000007070000000000000102",
    );
    golden(
        &change_log::ChangeLogKey { slab, seq: 0x0304 },
        "00000007080000000000000304",
    );
    golden(&cluster_info::ClusterInfoKey { slab }, "0000000720");
    golden(
        &account::AccountKey {
            slab,
            account: 0x0304,
        },
        "00000007210000000000000304",
    );
    golden(
        &access_key::AccessKeyKey {
            slab,
            id: Bytes::from_static(b"k\0y"),
        },
        "00000007226b00ff790001",
    );
    golden(
        &bucket_by_name::BucketByNameKey {
            slab,
            name: Bytes::from_static(b"k\0y"),
        },
        "00000007236b00ff790001",
    );
    golden(
        &bucket_by_id::BucketByIdKey {
            slab,
            bucket: BucketId(0x0102),
        },
        "00000007240000000000000102",
    );
    golden(
        &bucket_by_owner::BucketByOwnerKey {
            slab,
            owner: 0x0304,
            name: Bytes::from_static(b"k\0y"),
        },
        "000000072500000000000003046b00ff790001",
    );
    golden(
        &bucket_unfinished::BucketUnfinishedKey {
            slab,
            bucket: BucketId(0x0102),
        },
        "00000007260000000000000102",
    );
    golden(
        &bucket_config::BucketConfigKey {
            slab,
            bucket: BucketId(0x0102),
            name: Bytes::from_static(b"k\0y"),
        },
        "000000073200000000000001026b00ff790001",
    );
    golden(
        &meta_node::NodeKey { slab, node: 0x0304 },
        "00000007270000000000000304",
    );
    golden(
        &disk::DiskKey { slab, disk: 0x0304 },
        "00000007280000000000000304",
    );
    golden(&pool::PoolKey { slab, pool: 5 }, "000000072900000005");
    golden(
        &placement_group::PlacementGroupKey { slab, pg: 5 },
        "000000072a00000005",
    );
    golden(
        &range_hint::RangeHintKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
        },
        "000000072b00000000000001026b00ff790001",
    );
    golden(
        &lease::LeaseKey {
            slab,
            name: Bytes::from_static(b"k\0y"),
        },
        "000000072c6b00ff790001",
    );
    golden(
        &shard_allocation::ShardAllocationKey {
            slab,
            nonce: Id([0xab; 16]),
        },
        "000000072dabababababababababababababababab",
    );
    golden(
        &shard_entry::ShardEntryKey { slab, shard: 5 },
        "000000072e00000005",
    );
    golden(
        &node_allocation::NodeAllocationKey {
            slab,
            nonce: Id([0xab; 16]),
        },
        "000000072fabababababababababababababababab",
    );
    golden(&cluster_trust::ClusterTrustKey { slab }, "0000000730");
    golden(
        &join_token::JoinTokenKey {
            slab,
            id: Bytes::from_static(b"k\0y"),
        },
        "00000007316b00ff790001",
    );
    golden(
        &head::HeadKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
        },
        "000000074000000000000001026b00ff790001",
    );
    golden(
        &version::VersionKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            stamp: Newest(6),
        },
        "000000074100000000000001026b00ff790001fffffffffffffff9",
    );
    golden(
        &inline::InlineKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            object: Id([0xab; 16]),
        },
        "000000074200000000000001026b00ff790001abababababababababababababababab",
    );
    golden(
        &upload::UploadKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            upload: Id([0xab; 16]),
        },
        "000000074300000000000001026b00ff790001abababababababababababababababab",
    );
    golden(
        &part::PartKey {
            slab,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            upload: Id([0xab; 16]),
            number: 5,
        },
        "000000074400000000000001026b00ff790001abababababababababababababababab00000005",
    );
    golden(
        &command_reply::CommandReplyKey {
            slab,
            minute: 5,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            command: Id([0xab; 16]),
        },
        "00000007500000000500000000000001026b00ff790001abababababababababababababababab",
    );
    golden(
        &expiry::ExpiryKey {
            slab,
            minute: 5,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            object: Id([0xab; 16]),
        },
        "00000007510000000500000000000001026b00ff790001abababababababababababababababab",
    );
    golden(
        &lifecycle_index::LifecycleIndexKey {
            slab,
            minute: 5,
            bucket: BucketId(0x0102),
            key: Bytes::from_static(b"k\0y"),
            stamp: 0x0304,
        },
        "00000007520000000500000000000001026b00ff7900010000000000000304",
    );
    golden(
        &deletion::DeletionKey {
            slab,
            seq: 0x0304,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
        },
        "000000076000000000000003040000000000000102abababababababababababababababab",
    );
    golden(
        &owner::OwnerKey {
            slab,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
        },
        "00000007700000000000000102abababababababababababababababab",
    );
    golden(
        &extent::ExtentKey {
            slab,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
            page: 5,
        },
        "00000007710000000000000102abababababababababababababababab00000005",
    );
    golden(
        &part_page::PartPageKey {
            slab,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
            page: 5,
        },
        "00000007720000000000000102abababababababababababababababab00000005",
    );
    golden(
        &pin::PinKey {
            slab,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
        },
        "00000007730000000000000102abababababababababababababababab",
    );
    golden(
        &tail::TailKey {
            slab,
            bucket: BucketId(0x0102),
            object: Id([0xab; 16]),
            offset: 0x0304,
        },
        "00000007740000000000000102abababababababababababababababab0000000000000304",
    );
    golden(
        &directory::DirectoryKey {
            slab,
            bucket: BucketId(0x0102),
            key: Entry {
                directory: 0x0304,
                name: b"k/",
            }
            .key(),
        },
        "00000007750000000000000102ff00ff00ff00ff00ff00ff00ff03046b2f0001",
    );
    golden(
        &directory_by_id::DirectoryByIdKey {
            slab,
            bucket: BucketId(0x0102),
            key: Entry {
                directory: 0x0304,
                name: b"",
            }
            .key(),
        },
        "00000007760000000000000102ff00ff00ff00ff00ff00ff00ff03040001",
    );
}

proptest! {
    #[test]
    fn keys_round_trip_and_sort_as_their_fields(a in prop::collection::vec(any::<u8>(), 1..48), b in prop::collection::vec(any::<u8>(), 1..48)) {
        round_trips_in_order::<shard_descriptor::ShardDescriptorKey>(&a, &b);
        round_trips_in_order::<restore_marker::RestoreMarkerKey>(&a, &b);
        round_trips_in_order::<raft_bookkeeping::RaftBookkeepingKey>(&a, &b);
        round_trips_in_order::<node_database::NodeDatabaseKey>(&a, &b);
        round_trips_in_order::<shard_clock::ShardClockKey>(&a, &b);
        round_trips_in_order::<bucket_view::BucketViewKey>(&a, &b);
        round_trips_in_order::<counter::CounterKey>(&a, &b);
        round_trips_in_order::<quota::QuotaKey>(&a, &b);
        round_trips_in_order::<change_log::ChangeLogKey>(&a, &b);
        round_trips_in_order::<cluster_info::ClusterInfoKey>(&a, &b);
        round_trips_in_order::<account::AccountKey>(&a, &b);
        round_trips_in_order::<access_key::AccessKeyKey>(&a, &b);
        round_trips_in_order::<bucket_by_name::BucketByNameKey>(&a, &b);
        round_trips_in_order::<bucket_by_id::BucketByIdKey>(&a, &b);
        round_trips_in_order::<bucket_by_owner::BucketByOwnerKey>(&a, &b);
        round_trips_in_order::<bucket_unfinished::BucketUnfinishedKey>(&a, &b);
        round_trips_in_order::<bucket_config::BucketConfigKey>(&a, &b);
        round_trips_in_order::<meta_node::NodeKey>(&a, &b);
        round_trips_in_order::<disk::DiskKey>(&a, &b);
        round_trips_in_order::<pool::PoolKey>(&a, &b);
        round_trips_in_order::<placement_group::PlacementGroupKey>(&a, &b);
        round_trips_in_order::<range_hint::RangeHintKey>(&a, &b);
        round_trips_in_order::<lease::LeaseKey>(&a, &b);
        round_trips_in_order::<shard_allocation::ShardAllocationKey>(&a, &b);
        round_trips_in_order::<shard_entry::ShardEntryKey>(&a, &b);
        round_trips_in_order::<node_allocation::NodeAllocationKey>(&a, &b);
        round_trips_in_order::<cluster_trust::ClusterTrustKey>(&a, &b);
        round_trips_in_order::<join_token::JoinTokenKey>(&a, &b);
        round_trips_in_order::<head::HeadKey>(&a, &b);
        round_trips_in_order::<version::VersionKey>(&a, &b);
        round_trips_in_order::<inline::InlineKey>(&a, &b);
        round_trips_in_order::<upload::UploadKey>(&a, &b);
        round_trips_in_order::<part::PartKey>(&a, &b);
        round_trips_in_order::<command_reply::CommandReplyKey>(&a, &b);
        round_trips_in_order::<expiry::ExpiryKey>(&a, &b);
        round_trips_in_order::<lifecycle_index::LifecycleIndexKey>(&a, &b);
        round_trips_in_order::<deletion::DeletionKey>(&a, &b);
        round_trips_in_order::<owner::OwnerKey>(&a, &b);
        round_trips_in_order::<extent::ExtentKey>(&a, &b);
        round_trips_in_order::<part_page::PartPageKey>(&a, &b);
        round_trips_in_order::<pin::PinKey>(&a, &b);
        round_trips_in_order::<tail::TailKey>(&a, &b);
        round_trips_in_order::<directory::DirectoryKey>(&a, &b);
        round_trips_in_order::<directory_by_id::DirectoryByIdKey>(&a, &b);
    }
}
