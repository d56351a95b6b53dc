//! Chunks of the metadata's backup, which no row names.

use std::time::Duration;

use granary_blob_api::{BlobNode, Block, ChunkOwner, PutChunk};
use granary_datapath::Group;
use granary_types::{BACKUP_BUCKET, BackupKind, BackupObject, ChunkId, ShardId};

use super::growth::keep_on;
use super::world::{World, content, dir, run, simulated};
use super::{disk_in, redundancy};

fn part(group: &Group, n: u64) -> PutChunk {
    let object = BackupObject {
        shard: ShardId(1),
        position: (1, n),
        writer: 1,
        kind: BackupKind::Log,
        part: 1,
    };
    PutChunk {
        id: ChunkId::new(group.id, u128::from(n)),
        owner: ChunkOwner {
            bucket: BACKUP_BUCKET,
            object: object.to_object_id().unwrap(),
        },
        pg_epoch: group.epoch,
        blocks: Block::cut(content(200_000, n)),
        background: false,
    }
}

/// A writer that died in a power failure leaves such things, and nobody who knows of them.
#[test]
fn a_part_that_nobody_can_read_is_given_up_and_one_that_somebody_can_is_copied() {
    simulated(async {
        let world = World::start(3).await;
        let group = world.view.map().groups().next().unwrap().clone();
        let (torn, whole) = (part(&group, 7), part(&group, 8));
        let disk = disk_in(&world, 1).await;
        world.store.put(disk, torn.clone()).await.unwrap();
        let volume = world.largest_file(&dir(1));
        world.vfs.flip_bit(&volume, 100_000, 3).unwrap();
        world.store.put(disk, whole.clone()).await.unwrap();
        let mut worker = redundancy(&world);
        // The first look finds that it is damaged, the next one that nobody has another.
        for _ in 0..2 {
            run(&mut worker).await;
            world.runtime.sleep(Duration::from_secs(61)).await;
        }
        run(&mut worker).await;
        let listed = world.listed().await;
        let copies = |id| {
            let all = listed.iter().filter(|(_, entry)| entry.id == id);
            all.filter(|(_, entry)| !entry.deleted).count()
        };
        assert_eq!((copies(torn.id), copies(whole.id)), (0, 3));
        assert_eq!(worker.status()().below_target, 0);
    });
}

/// What was written in the first minutes of a cluster would have the redundancy of one node until the
/// next checkpoint, and be the reason for a complaint that only another node can settle.
#[test]
fn parts_that_were_written_when_the_cluster_was_smaller_get_the_redundancy_it_has_now() {
    // Three nodes in another zone, or three zones, one of which has three.
    for zones in [&["b", "b", "b"][..], &["b", "c", "b", "b"]] {
        simulated(async {
            let mut world = World::start(1).await;
            let group = world.view.map().groups().next().unwrap().clone();
            let parts: Vec<PutChunk> = (1..=20).map(|n| part(&group, n)).collect();
            let disk = disk_in(&world, 1).await;
            for part in &parts {
                world.store.put(disk, part.clone()).await.unwrap();
            }
            let mut worker = redundancy(&world);
            run(&mut worker).await;
            let status = worker.status()();
            assert_eq!((status.chunks, status.below_target), (20, 0));
            for (node, zone) in (2..).zip(zones) {
                world.add_node_in(zone, node, 10 * node as usize).await;
            }
            keep_on(&mut world, 2).await;
            run(&mut worker).await;
            world.runtime.sleep(Duration::from_secs(61)).await;
            run(&mut worker).await;
            let status = worker.status()();
            let found = (status.chunks, status.below_target, status.narrow);
            assert_eq!(found, (20, 0, 0), "{status:?}");
            let listed = world.listed().await;
            for part in parts {
                let copies = listed.iter().filter(|(_, entry)| {
                    entry.owner == part.owner && entry.length == 200_000 && !entry.deleted
                });
                let disks: Vec<_> = copies.map(|(disk, entry)| (entry.id, *disk)).collect();
                assert_eq!(disks.len(), 3, "{disks:?}");
                assert!(
                    disks
                        .iter()
                        .all(|(id, _)| *id == disks[0].0 && *id != part.id)
                );
            }
        });
    }
}
