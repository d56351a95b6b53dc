//! Golden bytes and round trips of the formats.

use granary_blob_api::{Block, ChunkOwner};
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};
use proptest::prelude::*;

use super::record::block_span;
use super::*;

/// Bytes that version 1 wrote, in hex; they never change. A change of the format is a new file.
const GOLDEN: &str = include_str!("../../tests/golden/format-1.hex");

fn owner() -> ChunkOwner {
    ChunkOwner {
        bucket: BucketId(0x1122),
        object: ObjectId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
    }
}

fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let id = ChunkId::new(PgId(7), 0xabcdef);
    let seal = 0x5ea1_5ea1_5ea1_5ea1;
    let block = Block::new(bytes::Bytes::from_static(b"hello, chunk"));
    let header = Header {
        kind: Kind::Chunk,
        seal,
        length: chunk_record_bytes(12),
        seq: 41,
        id,
        owner: owner(),
        payload: 12,
        digest: crc32c::crc32c(&block.crc32c.to_le_bytes()),
    };
    let mut chunk = header.encode().to_vec();
    chunk.extend_from_slice(&block_sum(id, 0, block.crc32c));
    chunk.extend_from_slice(&block.data);
    let tombstones = encode_tombstones(&[Tombstone {
        id,
        owner: owner(),
        length: 12,
        digest: header.digest,
        seq: 42,
        origin: 3,
        forgotten: true,
    }]);
    let mut deletion = Header::of_body(Kind::Tombstones, seal, 43, &tombstones)
        .encode()
        .to_vec();
    deletion.extend_from_slice(&tombstones);
    let epochs = encode_epochs(&[PgEpoch {
        pg: PgId(7),
        epoch: 9,
    }]);
    let mut opening = Header::of_body(Kind::PgEpochs, seal, 44, &epochs)
        .encode()
        .to_vec();
    opening.extend_from_slice(&epochs);
    let identity = DiskIdentity {
        disk: DiskId(77),
        cluster_id: "a-cluster".to_owned(),
    };
    let volume = VolumeHeader {
        disk: DiskId(77),
        volume: 3,
        seal,
    };
    vec![
        ("identity", identity.encode().to_vec()),
        ("volume", volume.encode()[..64].to_vec()),
        ("chunk", chunk),
        ("tombstones", deletion),
        ("epochs", opening),
        ("void", Header::void(seal, 8192).encode().to_vec()),
    ]
}

#[test]
fn bytes_are_the_ones_that_version_1_wrote() {
    let written: Vec<String> = golden()
        .into_iter()
        .map(|(name, bytes)| format!("{name} {}", hex::encode(bytes)))
        .collect();
    let kept: Vec<&str> = GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(written, kept, "the format changed:\n{}", written.join("\n"));
}

#[test]
fn a_header_is_read_back_and_any_damage_is_noticed() {
    let (_, chunk) = golden().swap_remove(2);
    let seal = 0x5ea1_5ea1_5ea1_5ea1;
    let header = Header::decode(&chunk, seal).unwrap();
    assert_eq!(header.id, ChunkId::new(PgId(7), 0xabcdef));
    assert_eq!(header.owner, owner());
    assert!(header.body_is_intact(&chunk[HEADER_BYTES..]));
    assert_eq!(
        Header::decode(&chunk, seal + 1),
        None,
        "another volume's record is none"
    );
    for byte in 0..chunk.len() {
        for bit in 0..8 {
            let mut damaged = chunk.clone();
            damaged[byte] ^= 1 << bit;
            let intact = Header::decode(&damaged, seal)
                .is_some_and(|header| header.body_is_intact(&damaged[HEADER_BYTES..]));
            assert!(!intact, "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn identity_and_volume_headers_refuse_what_they_do_not_know() {
    let identity = DiskIdentity {
        disk: DiskId(77),
        cluster_id: "a-cluster".to_owned(),
    };
    let bytes = identity.encode();
    assert_eq!(DiskIdentity::decode(&bytes), Ok(identity));
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(DiskIdentity::decode(&newer), Err(IdentityError::Newer(2)));
    let mut damaged = bytes;
    damaged[20] ^= 1;
    assert_eq!(DiskIdentity::decode(&damaged), Err(IdentityError::Damaged));
    assert_eq!(DiskIdentity::decode(b"x"), Err(IdentityError::Damaged));

    let volume = VolumeHeader {
        disk: DiskId(1),
        volume: 2,
        seal: 3,
    };
    let mut page = volume.encode();
    page[17] ^= 1;
    assert_eq!(
        VolumeHeader::decode(&page),
        Ok(Some(volume)),
        "the second copy counts"
    );
    page[2048 + 17] ^= 1;
    assert_eq!(VolumeHeader::decode(&page), Ok(None));
}

#[test]
fn blocks_belong_to_their_chunk_and_place() {
    let (a, b) = (ChunkId::new(PgId(1), 1), ChunkId::new(PgId(1), 2));
    assert_ne!(block_sum(a, 0, 5), block_sum(b, 0, 5));
    assert_ne!(block_sum(a, 0, 5), block_sum(a, 1, 5));
}

proptest! {
    #[test]
    fn index_entries_come_back(live: bool, damaged: bool, volume: u32, offset: u64, seq: u64, bucket: u64, object: u128, length: u32, digest: u32, origin: u32) {
        let state = if live { State::Live } else { State::Deleted { origin } };
        let owner = ChunkOwner { bucket: BucketId(bucket), object: ObjectId(object) };
        let entry = IndexEntry { state, damaged, volume, offset, seq, owner, length, digest };
        prop_assert_eq!(IndexEntry::decode(&entry.encode()), Some(entry));
        let meta = IndexMeta { disk: DiskId(bucket), volume, offset, next_seq: seq };
        prop_assert_eq!(IndexMeta::decode(&meta.encode()), Some(meta));
        let epoch = EpochEntry { epoch: seq, volume };
        prop_assert_eq!(EpochEntry::decode(&epoch.encode()), Some(epoch));
        let stats = VolumeStats { used_bytes: seq, chunks: offset, live_chunks: bucket, live_chunk_bytes: 1, live_notes: 2, kept_notes: 3 };
        prop_assert_eq!(VolumeStats::decode(&stats.encode()), Some(stats));
        prop_assert_eq!(volume_of_key(&volume_key(volume)), Some(volume));
    }

    #[test]
    fn chunk_keys_sort_like_ids(a: u128, b: u128) {
        let (a, b) = (ChunkId(a), ChunkId(b));
        prop_assert_eq!(id_of_key(&chunk_key(a)), Some(a));
        prop_assert_eq!(chunk_key(a).cmp(&chunk_key(b)), a.cmp(&b));
    }

    #[test]
    fn notes_come_back(id: u128, seq: u64, origin: u32, length: u32, forgotten: bool, pg: u32) {
        let tombstone = Tombstone { id: ChunkId(id), owner: owner(), length, digest: length, seq, origin, forgotten };
        prop_assert_eq!(decode_tombstones(&encode_tombstones(&[tombstone; 3])), vec![tombstone; 3]);
        let epoch = PgEpoch { pg: PgId(pg), epoch: seq };
        prop_assert_eq!(decode_epochs(&encode_epochs(&[epoch; 2])), vec![epoch; 2]);
    }

    #[test]
    fn a_range_is_covered_by_its_blocks(payload in 1u32..=4 << 20, at: prop::sample::Index, size: prop::sample::Index) {
        let offset = at.index(payload as usize) as u32;
        let length = size.index((payload - offset) as usize) as u32 + 1;
        let (first, past, start, end) = range_span(payload, offset, length);
        prop_assert!(first * 65536 <= offset && past * 65536 >= offset + length);
        prop_assert!((past - 1) * 65536 < offset + length);
        prop_assert_eq!(start, block_span(first));
        prop_assert!(end <= chunk_record_bytes(payload));
    }
}
