//! What a disk that is no member of a group keeps of it, and what it gives back.

use std::collections::BTreeSet;

use bytes::Bytes;
use granary_blob_api::{BlobNode, Block, ChunkEntry, ChunkOwner, PutChunk};
use granary_datapath::Written;
use granary_meta_api::pb;
use granary_meta_api::pb::extent_piece::Piece;
use granary_types::{
    BACKUP_BUCKET, BackupKind, BackupObject, BucketId, ChunkId, DiskId, ObjectId, ShardId,
};
use granary_vfs::Fault;

use super::world::{MIB, World, content, dir, run, simulated};
use super::{assert_whole, deletion, disk_in, lose, stale_copies, sweep};

/// The chunks that an object consists of.
async fn chunks_of(world: &World, key: &'static str) -> BTreeSet<ChunkId> {
    let version = world.open(key).await.version;
    let query = pb::ListExtents {
        at: Some(world.at(key)),
        object_id: version.object_id,
        body: version.body,
        limit: 1000,
        ..Default::default()
    };
    let page = world.meta.query(query).await.unwrap();
    let extents = page.pieces.into_iter().map(|piece| match piece.piece {
        Some(Piece::Extent(extent)) => ChunkId::from_slice(&extent.chunk).unwrap(),
        other => panic!("not a chunk: {other:?}"),
    });
    extents.collect()
}

#[test]
fn what_a_write_gave_up_goes_from_a_disk_that_had_left_its_group() {
    simulated(async {
        let mut world = World::start(6).await;
        let bytes = content(15 * MIB, 41);
        // Fails in the middle of the write: other disks have already taken their copies.
        world.vfs.inject(dir(2), Fault::SyncError);
        world.put("a", &bytes).await;
        let named = chunks_of(&world, "a").await;
        let failed = disk_in(&world, 2).await;
        let given_up = |(disk, entry): &&(DiskId, ChunkEntry)| {
            *disk != failed && !entry.deleted && !named.contains(&entry.id)
        };
        let listed = world.listed().await;
        let found = listed.iter().find(given_up);
        let &(left, chunk) = found.expect("nothing was rewritten: the test tests nothing");
        let mut directory = 1;
        while disk_in(&world, directory).await != left {
            directory += 1;
        }
        // While one disk is away the others take its places, and all of them forget the chunk.
        lose(&mut world, left).await;
        run(&mut deletion(&world)).await;
        assert_eq!(world.chunks().await, (named.clone(), 0));
        assert_eq!(world.add_disk(directory).await, left);
        world.keep().await;
        assert!(world.chunks().await.0.contains(&chunk.id));

        run(&mut sweep(&world)).await;
        assert_eq!(world.chunks().await, (named, 0));
        assert_eq!(stale_copies(&world, left).await, 0);
        assert_whole(&world, 3).await;
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

/// Uploads a part and leaves its upload open; the object id of the part.
async fn upload_part(world: &World, key: &'static str, written: Written) -> Bytes {
    let upload_id = world.meta.begin_write(world.at(key)).await.unwrap().0;
    let initiate = pb::InitiateUpload {
        at: Some(world.at(key)),
        upload_id: upload_id.clone(),
        ..Default::default()
    };
    world.meta.propose(initiate).await.unwrap().unwrap();
    let object = written.payload.write_id.clone();
    let put = pb::PutPart {
        at: Some(world.at(key)),
        upload_id,
        number: 1,
        etag: "00".repeat(16),
        crc64: written.crc64,
        payload: Some(written.payload),
        prefix: None,
    };
    world.meta.propose(put).await.unwrap().unwrap();
    object
}

/// Puts a chunk on the disks that are no members of some group, and nowhere else.
async fn leave_on_strangers(world: &World, object: &Bytes, local: u128) -> ChunkId {
    let owner = ChunkOwner {
        bucket: BucketId(world.bucket.id),
        object: ObjectId::from_slice(object).unwrap(),
    };
    leave(world, owner, local, false).await
}

/// Puts a chunk on the members of some group, or on all other disks.
async fn leave(world: &World, owner: ChunkOwner, local: u128, members: bool) -> ChunkId {
    let map = world.view.map();
    let group = map.groups().next().unwrap();
    let stray = PutChunk {
        id: ChunkId::new(group.id, local),
        owner,
        pg_epoch: group.epoch,
        blocks: Block::cut(content(1000, 7)),
        background: false,
    };
    for disk in map.disks().map(|disk| DiskId(disk.id)) {
        if group.disks().any(|member| member == disk) == members {
            let opened = world.store.open_pg(disk, group.id, group.epoch).await;
            opened.unwrap();
            world.store.put(disk, stray.clone()).await.unwrap();
        }
    }
    stray.id
}

#[test]
fn a_superseded_part_of_the_backup_goes_from_disks_that_are_no_members() {
    simulated(async {
        let world = World::start(4).await;
        world.put("a", &content(9 * MIB, 1)).await;
        let (mut expected, _) = world.chunks().await;
        // The members have the two newest checkpoints.
        let parts = [(100, false), (200, true), (250, false), (300, true)];
        for (index, members) in parts {
            let part = BackupObject {
                shard: ShardId(1),
                position: (1, index),
                writer: 1,
                kind: BackupKind::Manifest,
                part: 1,
            };
            let owner = ChunkOwner {
                bucket: BACKUP_BUCKET,
                object: part.to_object_id().unwrap(),
            };
            let chunk = leave(&world, owner, u128::from(index), members).await;
            if index >= 200 {
                expected.insert(chunk);
            }
        }
        let mut sweep = sweep(&world);
        run(&mut sweep).await;
        assert_eq!(
            world.chunks().await.0.len(),
            expected.len() + 1,
            "a first look"
        );
        run(&mut sweep).await;
        assert_eq!(world.chunks().await.0, expected);
    });
}

#[test]
fn a_copy_that_members_lack_goes_only_when_its_owner_is_settled_without_it() {
    simulated(async {
        let world = World::start(4).await;
        let mut owners = Vec::new();
        for (key, mib) in [("few", 9), ("paged", 26)] {
            world.put(key, &content(mib * MIB, mib as u64)).await;
            owners.push((world.open(key).await.version.object_id, false));
        }
        let written = world.write("part", &content(9 * MIB, 3)).await;
        owners.push((upload_part(&world, "part", written).await, false));
        // It may still name the chunk.
        let open = world.write("open", &content(9 * MIB, 4)).await;
        owners.push((open.payload.write_id.clone(), true));
        // Readers may still be at it, and its deletion names what was deleted.
        world.put("deleted", &content(9 * MIB, 5)).await;
        owners.push((world.open("deleted").await.version.object_id, true));
        world.delete("deleted").await;
        let (mut expected, _) = world.chunks().await;
        for (local, (object, stays)) in (77..).zip(&owners) {
            let stray = leave_on_strangers(&world, object, local).await;
            assert!(world.chunks().await.0.contains(&stray));
            if *stays {
                expected.insert(stray);
            }
        }
        run(&mut sweep(&world)).await;
        assert_eq!(world.chunks().await.0, expected);
    });
}
