//! What is left on a disk that was given up: nothing of it is lost when the disk answers again, what
//! was deleted meanwhile stays deleted, and every number says how it is.

use std::collections::BTreeSet;
use std::time::Duration;

use granary_blob_api::{BlobNode, Block, ChunkOwner, PutChunk};
use granary_types::{BucketId, ChunkId, DiskId, ObjectId};
use granary_vfs::Fault;

use super::fsck::check;
use super::growth::{READMITTED, REMOVED, keep_on, lose_copy, set_state};
use super::world::{GRACE_MS, LEASE_MS, MIB, World, content, dir, run, simulated};
use super::{assert_whole, deletion, disk_in, redundancy, stale_copies, sweep};
use crate::RedundancyStatus;

/// Takes a disk away for good; the others take its places.
async fn give_up(world: &mut World, disk: DiskId) {
    assert!(world.store.remove_disk(disk).await);
    set_state(world, disk, REMOVED).await;
    world.view.refresh().await.unwrap();
    keep_on(world, 2).await;
}

/// The chunks of a disk, which are nowhere else from now on.
async fn leave_alone_with_its_chunks(world: &World, disk: DiskId) -> BTreeSet<ChunkId> {
    let listed = world.listed().await;
    let own = listed.iter().filter(|(on, _)| *on == disk);
    let own: BTreeSet<ChunkId> = own.map(|(_, entry)| entry.id).collect();
    for (on, entry) in listed {
        if on != disk && own.contains(&entry.id) {
            lose_copy(world, on, entry.id).await;
        }
    }
    own
}

/// Lets the worker count once more.
async fn count(world: &World, worker: &mut crate::RedundancyWorker) -> RedundancyStatus {
    world.runtime.sleep(Duration::from_secs(61)).await;
    world.view.refresh().await.unwrap();
    run(worker).await;
    let status = worker.status()();
    assert!(status.current && status.groups_unknown == 0, "{status:?}");
    status
}

#[test]
fn the_last_copy_is_copied_back_from_a_disk_that_was_given_up() {
    // Taken back by the operator as well, or not.
    for taken_back in [false, true] {
        simulated(async {
            let mut world = World::start(4).await;
            let bytes = content(45 * MIB, 91);
            world.put("a", &bytes).await;
            let mut worker = redundancy(&world);
            run(&mut worker).await;
            assert_eq!(worker.status()().below_target, 0);
            let disk = disk_in(&world, 2).await;
            let own = leave_alone_with_its_chunks(&world, disk).await;
            let lost = own.len() as u64;
            assert!((1..12).contains(&lost), "{lost}");
            give_up(&mut world, disk).await;
            assert!(!worker.status()().current, "nobody has counted since");

            // Told while it is away, and as often as anybody looks.
            for _ in 0..2 {
                let status = count(&world, &mut worker).await;
                let found = (status.lost, status.below_target, status.chunks);
                assert_eq!(found, (lost, lost, 12));
            }
            let report = check(&world, false).await;
            assert_eq!((report.chunks_lost, report.chunks_outside), (lost, 0));

            assert_eq!(world.add_disk(2).await, disk);
            world.view.refresh().await.unwrap();
            assert!(world.view.map().is_removed(disk));
            let report = check(&world, true).await;
            assert_eq!((report.chunks_lost, report.chunks_outside), (0, lost));
            assert!(!report.clean && report.damage.iter().any(|d| d.disk == Some(disk.0)));
            if taken_back {
                set_state(&world, disk, READMITTED).await;
                keep_on(&mut world, 1).await;
                assert!(world.view.map().is_in(disk));
            }
            // What frees copies on disks that are no members comes first: it must leave these alone.
            run(&mut sweep(&world)).await;
            assert_eq!(stale_copies(&world, disk).await as u64, lost);
            let status = count(&world, &mut worker).await;
            let found = (status.lost, status.below_target, status.chunks);
            assert_eq!(found, (0, 0, 12));
            assert!(world.get("a").await.unwrap() == bytes);
            assert_whole(&world, 3).await;
            let report = check(&world, true).await;
            assert!(report.clean, "{report:?}");
            // Now they may go.
            run(&mut sweep(&world)).await;
            let left = stale_copies(&world, disk).await as u64;
            assert_eq!(left, if taken_back { 0 } else { lost });
            assert!(world.get("a").await.unwrap() == bytes);
        });
    }
}

#[test]
fn the_number_of_lost_chunks_ends_with_their_object() {
    simulated(async {
        let mut world = World::start(4).await;
        world.put("a", &content(45 * MIB, 92)).await;
        let disk = disk_in(&world, 2).await;
        let lost = leave_alone_with_its_chunks(&world, disk).await.len() as u64;
        give_up(&mut world, disk).await;
        let mut worker = redundancy(&world);
        assert_eq!(count(&world, &mut worker).await.lost, lost);
        // Another process finds them by itself.
        let mut other = redundancy(&world);
        assert_eq!(count(&world, &mut other).await.lost, lost);
        world.delete("a").await;
        let status = count(&world, &mut worker).await;
        assert_eq!((status.lost, status.below_target), (0, 0));
    });
}

#[test]
fn a_disk_outside_that_hangs_keeps_no_count_waiting() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(45 * MIB, 93);
        world.put("a", &bytes).await;
        let disk = disk_in(&world, 2).await;
        let lost = leave_alone_with_its_chunks(&world, disk).await.len() as u64;
        give_up(&mut world, disk).await;
        assert_eq!(world.add_disk(2).await, disk);
        let mut worker = redundancy(&world);
        world.nodes.hang(disk, true);
        let began = world.runtime.monotonic();
        assert_eq!(count(&world, &mut worker).await.lost, lost);
        let took = world.runtime.monotonic() - began;
        assert!(took < Duration::from_secs(90), "{took:?}");
        world.nodes.hang(disk, false);
        assert_eq!(count(&world, &mut worker).await.below_target, 0);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn what_was_deleted_while_a_disk_was_given_up_stays_deleted() {
    simulated(async {
        let mut world = World::start(5).await;
        let kept = content(25 * MIB, 94);
        world.put("kept", &kept).await;
        world.put("deleted", &content(25 * MIB, 95)).await;
        world.put("replaced", &content(25 * MIB, 96)).await;
        let disk = disk_in(&world, 2).await;
        let (before, _) = world.chunks().await;
        give_up(&mut world, disk).await;
        world.delete("deleted").await;
        let replaced = content(25 * MIB, 97);
        world.put("replaced", &replaced).await;
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        run(&mut deletion(&world)).await;
        let (live, tombstones) = world.chunks().await;
        assert_eq!((live.len(), tombstones), (14, 0));
        let deleted: BTreeSet<ChunkId> = before.difference(&live).copied().collect();
        assert_eq!(deleted.len(), 14);

        assert_eq!(world.add_disk(2).await, disk);
        let brought_back = async |world: &World| {
            let mut listed = world.listed().await.into_iter();
            listed.any(|(on, entry)| on != disk && !entry.deleted && deleted.contains(&entry.id))
        };
        let mut worker = redundancy(&world);
        count(&world, &mut worker).await;
        assert!(!brought_back(&world).await);
        // It becomes a member again, of groups that it knew too, before anybody has tidied it up.
        world.pass(Duration::from_millis(2 * LEASE_MS)).await;
        set_state(&world, disk, READMITTED).await;
        world.vfs.inject(dir(3), Fault::WriteError);
        world.put("after", &content(MIB, 98)).await;
        keep_on(&mut world, 3).await;
        let map = world.view.map();
        let mut members = map.groups().flat_map(|group| group.disks());
        assert!(
            members.any(|member| member == disk),
            "the test tests nothing"
        );
        count(&world, &mut worker).await;
        assert!(!brought_back(&world).await);
        run(&mut sweep(&world)).await;
        assert!(world.chunks().await.0.is_disjoint(&deleted));
        assert!(world.get("kept").await.unwrap() == kept);
        assert!(world.get("replaced").await.unwrap() == replaced);
        assert!(check(&world, true).await.clean);
    });
}

#[test]
fn a_copy_that_its_write_gave_up_does_not_spread_when_its_disk_becomes_a_member() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(9 * MIB, 99);
        world.put("a", &bytes).await;
        let object = world.open("a").await.version.object_id;
        let (live, _) = world.chunks().await;
        // On the one disk that is no member of the group, and nowhere else.
        let map = world.view.map();
        let group = map.groups().min_by_key(|group| group.id).unwrap().clone();
        let mut disks = map.disks().map(|disk| DiskId(disk.id));
        let stranger = disks.find(|&disk| group.disks().all(|member| member != disk));
        let stray = PutChunk {
            id: ChunkId::new(group.id, 77),
            owner: ChunkOwner {
                bucket: BucketId(world.bucket.id),
                object: ObjectId::from_slice(&object).unwrap(),
            },
            pg_epoch: group.epoch,
            blocks: Block::cut(content(1000, 7)),
            background: false,
        };
        let (store, disk) = (&world.store, stranger.unwrap());
        store.open_pg(disk, group.id, group.epoch).await.unwrap();
        store.put(disk, stray.clone()).await.unwrap();
        let mut worker = redundancy(&world);
        count(&world, &mut worker).await;
        let holders = async |world: &World| {
            let listed = world.listed().await.into_iter();
            listed.filter(|(_, entry)| entry.id == stray.id).count()
        };
        assert_eq!(holders(&world).await, 1);
        let member = group.disks().next().unwrap();
        set_state(&world, member, REMOVED).await;
        keep_on(&mut world, 2).await;
        let now = world.view.map().group(group.id).unwrap().clone();
        assert!(now.disks().any(|member| member == disk), "nothing tested");
        count(&world, &mut worker).await;
        assert_eq!(holders(&world).await, 0, "kept, or copied");
        assert_eq!(world.chunks().await, (live, 0));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

/// A copy that repair had on its way comes back when the chunk is deleted and the deletion forgotten
/// before it arrives. The object of the write that gave it up goes on to live.
#[test]
fn a_copy_that_came_late_to_one_member_is_not_copied_to_the_others() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(9 * MIB, 101);
        world.put("a", &bytes).await;
        let object = world.open("a").await.version.object_id;
        let (live, _) = world.chunks().await;
        let map = world.view.map();
        let group = map.groups().min_by_key(|group| group.id).unwrap();
        let late = PutChunk {
            id: ChunkId::new(group.id, 77),
            owner: ChunkOwner {
                bucket: BucketId(world.bucket.id),
                object: ObjectId::from_slice(&object).unwrap(),
            },
            pg_epoch: group.epoch,
            blocks: Block::cut(content(1000, 7)),
            background: false,
        };
        let member = group.disks().next().unwrap();
        world.store.put(member, late).await.unwrap();
        // A chunk that was written, and that one member alone has too.
        let kept = live.first().copied().unwrap();
        let mut holders = world.listed().await;
        holders.retain(|(_, entry)| entry.id == kept);
        for (disk, _) in &holders[1..] {
            lose_copy(&world, *disk, kept).await;
        }
        let mut worker = redundancy(&world);
        count(&world, &mut worker).await;
        assert_eq!(world.chunks().await, (live, 0));
        assert_whole(&world, 3).await;
        assert!(world.get("a").await.unwrap() == bytes);
    });
}
