//! What an operator notices: space comes back, nothing acknowledged is lost, lost disks are made
//! good for, and the number of chunks below their redundancy is the true one.

mod alone;
mod backup_parts;
mod evict;
mod filling;
mod fsck;
mod giving_up;
mod growth;
mod hanging;
mod rescue;
mod scrub;
mod silence;
mod splits;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use granary_blob_api::{BlobNode, ChunkEntry};
use granary_datapath::CopyCheck;
use granary_meta_api::pb;
use granary_meta_api::pb::rejection::Reason;
use granary_types::{ByteRange, ChunkId, DiskId};
use granary_vfs::Fault;

use crate::{
    BucketFinisher, DeletionWorker, OrphanSweep, RedundancyWorker, RunnerConfig, Tick, Worker,
    WorkerError, start,
};
use world::{GRACE_MS, LEASE_MS, MIB, World, content, dir, run, simulated};

fn deletion(world: &World) -> DeletionWorker {
    DeletionWorker::new(
        world.runtime.clone(),
        world.meta.clone(),
        world.view.clone(),
        world.metrics.clone(),
    )
}

fn sweep(world: &World) -> OrphanSweep {
    OrphanSweep::new(
        world.meta.clone(),
        world.view.clone(),
        world.metrics.clone(),
    )
}

fn redundancy(world: &World) -> RedundancyWorker {
    RedundancyWorker::new(
        world.runtime.clone(),
        world.meta.clone(),
        world.path.clone(),
        world.metrics.clone(),
        Duration::from_secs(60),
    )
}

#[test]
fn the_keeper_makes_a_store_out_of_directories() {
    for (disks, copies) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
        simulated(async {
            let mut world = World::start(disks).await;
            let map = world.view.map();
            assert_eq!(map.pools().len(), 1);
            assert_eq!(map.pools()[0].copies, copies);
            assert!(map.groups().count() >= 4);
            let groups = map.groups().count();
            let bytes = content(5 * MIB, 1);
            world.put("a", &bytes).await;
            assert!(world.get("a").await.unwrap() == bytes);
            assert_eq!(world.chunks().await.0.len(), 2);
            assert_eq!(world.listed().await.len(), 2 * copies as usize);
            // Nothing to do means nothing done.
            world.keep().await;
            assert_eq!(world.view.map().groups().count(), groups);
        });
    }
}

#[test]
fn space_of_replaced_and_deleted_objects_comes_back_after_the_grace() {
    simulated(async {
        let world = World::start(4).await;
        let mut worker = deletion(&world);
        // Small, a few chunks, and so many that they stand in pages.
        let sizes = [100_000, 9 * MIB, 26 * MIB];
        for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
            world.put(key, &content(sizes[n], n as u64)).await;
        }
        let kept = content(6 * MIB, 9);
        world.put("kept", &kept).await;
        let (before, _) = world.chunks().await;
        world.put("a", &content(MIB, 50)).await;
        world.delete("b").await;
        world.delete("c").await;
        run(&mut worker).await;
        assert!(
            world.chunks().await.0.is_superset(&before),
            "the grace is not over"
        );
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        run(&mut worker).await;
        let (after, tombstones) = world.chunks().await;
        // The new "a" and "kept".
        assert_eq!(after.len(), 1 + 2);
        assert_eq!(tombstones, 0, "everybody confirmed");
        assert!(world.get("kept").await.unwrap() == kept);
        for &shard in world.view.map().shards() {
            let query = pb::ListDeletions {
                limit: 10,
                after_seq: 0,
            };
            assert_eq!(world.meta.query_at(shard, query).await.unwrap().pending, 0);
        }
    });
}

#[test]
fn a_reader_that_takes_long_keeps_its_bytes() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(20 * MIB, 2);
        world.put("a", &bytes).await;
        let source = world.open("a").await;
        let mut stream = world
            .path
            .read(source, ByteRange::whole(bytes.len() as u64));
        let mut all = stream.next().await.unwrap().unwrap().to_vec();
        world.put("a", &content(MIB, 3)).await;
        let (mut worker, mut sweeper) = (deletion(&world), sweep(&world));
        while let Some(part) = stream.next().await {
            all.extend_from_slice(&part.unwrap());
            world.pass(Duration::from_secs(1)).await;
            run(&mut worker).await;
            run(&mut sweeper).await;
        }
        assert!(all == bytes);
        drop(stream);
        world.pass(Duration::from_millis(3 * GRACE_MS)).await;
        run(&mut worker).await;
        assert_eq!(world.chunks().await.0.len(), 1);
    });
}

#[test]
fn deletions_wait_for_a_member_that_is_away_and_not_for_one_that_is_out() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(MIB, 4)).await;
        world.put("b", &content(MIB, 5)).await;
        world.delete("a").await;
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        let lost = world.view.map().disks().next().unwrap().clone();
        assert!(world.store.remove_disk(DiskId(lost.id)).await);
        world.view.refresh().await.unwrap();
        let mut worker = deletion(&world);
        run(&mut worker).await;
        assert_eq!(world.chunks().await.0.len(), 2, "a member did not confirm");
        // Given up after a while: the others go on without it, and keep tombstones for it.
        for _ in 0..2 {
            world.keep().await;
            world.pass(Duration::from_secs(20 * 60)).await;
        }
        world.keep().await;
        assert!(!world.view.map().is_in(DiskId(lost.id)));
        run(&mut worker).await;
        let (live, tombstones) = world.chunks().await;
        assert_eq!((live.len(), tombstones), (1, 2));
    });
}

#[test]
fn the_sweep_takes_what_can_never_be_committed_and_nothing_else() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(5 * MIB, 6);
        world.put("kept", &bytes).await;
        let abandoned = world.write("never", &content(5 * MIB, 7)).await;
        let mut sweeper = sweep(&world);
        run(&mut sweeper).await;
        assert_eq!(world.chunks().await.0.len(), 4, "its lease is not over");
        world.pass(Duration::from_millis(LEASE_MS / 2)).await;
        let fresh = world.write("fresh", &content(5 * MIB, 8)).await;
        world.pass(Duration::from_millis(LEASE_MS / 2 + 1000)).await;
        run(&mut sweeper).await;
        let (live, _) = world.chunks().await;
        assert_eq!(live.len(), 4, "the fresh write and the object stay");
        let refused = world.commit("never", abandoned).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::WriteExpired);
        world.commit("fresh", fresh).await.unwrap();
        world.pass(Duration::from_millis(3 * LEASE_MS)).await;
        run(&mut sweeper).await;
        assert_eq!(world.chunks().await.0, live);
        assert!(world.get("kept").await.unwrap() == bytes);
    });
}

#[test]
fn a_failed_disk_is_replaced_by_a_spare_one() {
    for fault in [Fault::WriteError, Fault::SyncError, Fault::ReadOnly] {
        simulated(async {
            let mut world = World::start(4).await;
            let before = content(9 * MIB, 10);
            world.put("before", &before).await;
            world.vfs.inject(dir(2), fault);
            // The clients notice nothing.
            let during = content(9 * MIB, 11);
            for _ in 0..6 {
                world.put("during", &during).await;
            }
            assert!(world.get("before").await.unwrap() == before);
            world.keep().await;
            assert_whole(&world, 3).await;
            let mut worker = redundancy(&world);
            let status = worker.status();
            run(&mut worker).await;
            assert_eq!(status().below_target, 0, "{fault:?}");
            assert!(status().chunks >= 6);
            assert!(world.get("before").await.unwrap() == before);
            assert!(world.get("during").await.unwrap() == during);
            let map = world.view.map();
            let used: Vec<DiskId> = map.groups().flat_map(|group| group.disks()).collect();
            assert!(
                used.iter().all(|&disk| map.is_in(disk)),
                "{fault:?}: {used:?}"
            );
        });
    }
}

#[test]
fn a_disk_that_was_exchanged_is_given_up_before_one_that_cannot_be_asked() {
    simulated(async {
        let mut world = World::start(3).await;
        let kept = content(9 * MIB, 12);
        world.put("kept", &kept).await;
        let old = world.store.disks().await.unwrap()[1].id;
        world.store.remove_disk(old).await;
        let new = world.add_disk(7).await;
        world.keep().await;
        let uses = |world: &World, disk| {
            let map = world.view.map();
            map.groups()
                .flat_map(|group| group.disks())
                .any(|d| d == disk)
        };
        assert!(
            uses(&world, old),
            "a disk that may come back was given up at once"
        );
        world.pass(Duration::from_secs(31)).await;
        world.keep().await;
        assert!(!uses(&world, old) && uses(&world, new));
        assert_whole(&world, 3).await;
        assert!(world.get("kept").await.unwrap() == kept);
    });
}

#[test]
fn what_a_rewrite_left_on_disks_goes_although_its_object_lives() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(15 * MIB, 17);
        // Fails in the middle of the write: two other disks have already taken their copies.
        world.vfs.inject(dir(2), Fault::SyncError);
        world.put("a", &bytes).await;
        let body = world.open("a").await.version.body.unwrap();
        let Some(pb::state::body::Place::Extents(body)) = body.place else {
            panic!("four references stand in the record");
        };
        let ids = body
            .extents
            .iter()
            .map(|extent| ChunkId::from_slice(&extent.chunk));
        let referenced: BTreeSet<ChunkId> = ids.map(Option::unwrap).collect();
        let (live, _) = world.chunks().await;
        assert!(
            live.len() > referenced.len(),
            "nothing was rewritten: the test tests nothing"
        );
        world.keep().await;
        world.pass(Duration::from_millis(LEASE_MS + 1000)).await;
        run(&mut deletion(&world)).await;
        assert_eq!(world.chunks().await.0, referenced);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn without_a_spare_the_number_is_true_until_a_disk_is_added() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(9 * MIB, 12);
        world.put("a", &bytes).await;
        world.vfs.inject(dir(1), Fault::WriteError);
        let after = content(5 * MIB, 13);
        world.put("b", &after).await;
        world.keep().await;
        let mut worker = redundancy(&world);
        let status = worker.status();
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (5, 5));

        world.add_disk(9).await;
        world.keep().await;
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (5, 0));
        assert_whole(&world, 3).await;
        // Now any single one of the older disks may go.
        world.vfs.inject(dir(2), Fault::ReadError);
        assert!(world.get("a").await.unwrap() == bytes);
        assert!(world.get("b").await.unwrap() == after);
    });
}

#[test]
fn members_that_missed_something_are_brought_in_step() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(5 * MIB, 14);
        world.put("a", &bytes).await;
        world.put("b", &content(2 * MIB, 15)).await;
        let listed = world.listed().await;
        let (disk, _) = listed[0];
        // One member lost the index entry of a chunk: as if a put had never reached it.
        let of = |wanted: usize| {
            let of_disk: Vec<&ChunkEntry> = listed
                .iter()
                .filter(|(on, _)| *on == disk)
                .map(|(_, entry)| entry)
                .filter(|entry| (entry.length as usize == 2 * MIB) == (wanted == 1))
                .collect();
            of_disk[0].id
        };
        let missed_put = of(0);
        world
            .store
            .delete(disk, missed_put.pg(), u64::MAX, vec![missed_put])
            .await
            .unwrap();
        world
            .store
            .forget(disk, missed_put.pg(), u64::MAX, vec![missed_put])
            .await
            .unwrap();
        assert_eq!(world.listed().await.len(), 8);
        // Another one heard of a deletion that the others missed.
        let missed_delete = of(1);
        world
            .store
            .delete(disk, missed_delete.pg(), u64::MAX, vec![missed_delete])
            .await
            .unwrap();
        let mut worker = redundancy(&world);
        let status = worker.status();
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (2, 0));
        let listed = world.listed().await;
        assert_eq!(listed.len(), 6, "{listed:?}");
        assert!(
            listed
                .iter()
                .all(|(_, e)| !e.deleted && e.id != missed_delete)
        );
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn bit_rot_is_never_served_and_is_counted_until_it_is_repaired() {
    simulated(async {
        let world = World::start(3).await;
        let bytes = content(2 * MIB, 16);
        world.put("a", &bytes).await;
        let mut worker = redundancy(&world);
        let status = worker.status();
        let mut noticed = 0;
        // One disk after the other; one of them is the one that readers ask first.
        for disk in 1..=3 {
            let volume = world.largest_file(&dir(disk));
            world.vfs.flip_bit(&volume, 700_000, 3).unwrap();
            assert!(world.get("a").await.unwrap() == bytes);
            run(&mut worker).await;
            world.runtime.sleep(Duration::from_secs(61)).await;
            run(&mut worker).await;
            let mut bad = 0;
            for (on, entry) in &world.listed().await {
                bad += u64::from(world.path.verify_copy(entry, *on).await != CopyCheck::Good);
            }
            assert!(
                status().below_target <= bad,
                "{bad} bad copies, {:?}",
                status()
            );
            if status().below_target > 0 || bad == 0 {
                noticed += 1;
            }
            if bad > 0 {
                world.vfs.flip_bit(&volume, 700_000, 3).unwrap();
            }
            world.runtime.sleep(Duration::from_secs(61)).await;
            run(&mut worker).await;
            assert_eq!((status().chunks, status().below_target), (1, 0));
        }
        assert!(noticed > 0, "the copy that readers ask first was bad once");
    });
}

#[test]
fn a_copy_that_nobody_can_make_good_stays_in_the_number() {
    simulated(async {
        let world = World::start(1).await;
        for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
            world.put(key, &content(MIB, n as u64)).await;
        }
        let mut worker = redundancy(&world);
        let status = worker.status();
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (3, 0));
        assert!(status().current);
        let volume = world.largest_file(&dir(1));
        world.vfs.flip_bit(&volume, 700_000, 3).unwrap();
        let mut unreadable = 0;
        for key in ["a", "b", "c"] {
            unreadable += usize::from(world.get(key).await.is_err());
        }
        assert_eq!(unreadable, 1, "the only copy of one of them is bad");
        run(&mut worker).await;
        assert!(
            !status().current || status().below_target == 1,
            "{:?} although a copy is known to be bad",
            status()
        );
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert_eq!((status().current, status().below_target), (true, 1));
        // Another process, or this one after a restart, heard no complaint.
        let _ = world.path.repair_hints().take(1000);
        let mut other = redundancy(&world);
        run(&mut other).await;
        assert_eq!(other.status()().below_target, 1);
        // It was the cable.
        world.vfs.flip_bit(&volume, 700_000, 3).unwrap();
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut other).await;
        assert_eq!(
            (other.status()().chunks, other.status()().below_target),
            (3, 0)
        );
    });
}

#[test]
fn a_disk_that_cannot_be_asked_is_not_taken_for_damaged() {
    simulated(async {
        let world = World::start(3).await;
        world.put("a", &content(MIB, 1)).await;
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let (disk, entry) = world.listed().await[0];
        let hints = world.path.repair_hints();
        let hint = granary_datapath::RepairHint {
            chunk: entry.id,
            disk,
        };
        hints.add(hint);
        // It hangs, and nobody has noticed yet.
        world.nodes.hang(disk, true);
        let before = hints.uncounted();
        worker.tick(1).await.unwrap();
        assert_eq!(hints.uncounted(), before, "counted as damaged");
        assert_eq!(hints.take(10), [hint], "looked at again");
    });
}

#[test]
fn members_that_hang_keep_neither_the_count_nor_other_complaints_waiting() {
    simulated(async {
        let world = World::start(5).await;
        for (n, key) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            world.put(key, &content(45 * MIB, 80 + n as u64)).await;
        }
        let hints = world.path.repair_hints();
        let hung = disk_in(&world, 2).await;
        let listed = world.listed().await;
        let map = world.view.map();
        let with_hung = |chunk: ChunkId| {
            let mut disks = map.group(chunk.pg()).unwrap().disks();
            disks.any(|disk| disk == hung)
        };
        // First those that nobody can answer, then a copy that is really lost.
        let unanswered = listed.iter().filter(|(disk, _)| *disk == hung);
        let mut added = 0;
        for &(disk, entry) in unanswered.take(40) {
            hints.add(granary_datapath::RepairHint {
                chunk: entry.id,
                disk,
            });
            added += 1;
        }
        assert!(added >= 20, "{added}");
        let &(disk, lost) = listed
            .iter()
            .find(|(_, entry)| !with_hung(entry.id))
            .unwrap();
        let gone = vec![lost.id];
        let (store, pg) = (&world.store, lost.id.pg());
        store
            .delete(disk, pg, u64::MAX, gone.clone())
            .await
            .unwrap();
        store.forget(disk, pg, u64::MAX, gone).await.unwrap();
        hints.add(granary_datapath::RepairHint {
            chunk: lost.id,
            disk,
        });
        world.nodes.hang(hung, true);
        let mut worker = redundancy(&world);
        let status = worker.status();
        for _ in 0..300 {
            // As the loop around it does: a tick is cut off in the end.
            let _ = granary_runtime::within(Duration::from_secs(30), worker.tick(1)).await;
            if status().passes > 0 && status().current {
                break;
            }
        }
        assert!(status().passes > 0, "no pass while a member hangs");
        let there = async || {
            let listed = world.listed().await;
            listed
                .iter()
                .any(|(on, entry)| *on == disk && entry.id == lost.id)
        };
        assert!(there().await);
        // Without a pass: complaints alone have their turn, too.
        let gone = vec![lost.id];
        store
            .delete(disk, pg, u64::MAX, gone.clone())
            .await
            .unwrap();
        store.forget(disk, pg, u64::MAX, gone).await.unwrap();
        hints.add(granary_datapath::RepairHint {
            chunk: lost.id,
            disk,
        });
        for _ in 0..8 {
            let _ = granary_runtime::within(Duration::from_secs(8), worker.tick(1)).await;
        }
        assert!(there().await, "others were always first");
        world.nodes.hang(hung, false);
        for _ in 0..20 {
            let _ = worker.tick(1).await;
        }
        assert!(hints.take(1000).is_empty(), "a complaint is never answered");
    });
}

#[test]
fn a_map_that_changes_all_the_time_does_not_make_passes_follow_one_another() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(MIB, 1)).await;
        let mut worker = redundancy(&world);
        let status = worker.status();
        let began = world.runtime.monotonic();
        run(&mut worker).await;
        for disk in 10..20 {
            world.add_disk(disk).await;
            world.keep().await;
            run(&mut worker).await;
            world.runtime.sleep(Duration::from_secs(5)).await;
        }
        let took = world.runtime.monotonic() - began;
        let most = 1 + took.as_secs() / 30;
        let passes = status().passes;
        assert!((2..=most).contains(&passes), "{passes} passes in {took:?}");
    });
}

#[test]
fn a_write_with_fewer_copies_makes_an_old_count_untrue_until_it_is_repaired() {
    simulated(async {
        let world = World::start(3).await;
        let mut worker = redundancy(&world);
        let status = worker.status();
        run(&mut worker).await;
        assert!(status().current);
        let lost = disk_in(&world, 2).await;
        assert!(world.store.remove_disk(lost).await);
        world.put("a", &content(MIB, 1)).await;
        // Its node has it again before anybody asked how its disks do.
        world.add_disk(2).await;
        assert_eq!(world.listed().await.len(), 2);
        assert!(!status().current, "{:?}", status());
        run(&mut worker).await;
        assert_eq!(world.listed().await.len(), 3, "repaired at once");
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert!(status().current);
        assert_eq!((status().chunks, status().below_target), (1, 0));
    });
}

#[test]
fn a_deleter_with_an_old_map_deletes_nothing_where_members_changed() {
    simulated(async {
        let mut world = World::start(4).await;
        world.put("a", &content(MIB, 1)).await;
        world.delete("a").await;
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        let (live, _) = world.chunks().await;
        let chunk = *live.first().unwrap();
        let group = world.view.map().group(chunk.pg()).unwrap().clone();
        // A spare disk becomes a member; the deleter, in another process, has not heard of it.
        let mut worker = deletion(&world);
        let spare = world
            .view
            .map()
            .disks()
            .map(|disk| DiskId(disk.id))
            .find(|&disk| group.disks().all(|member| member != disk));
        let add = pb::ReplacePgMember {
            pg: group.id.0,
            epoch: group.epoch,
            old_disk: 0,
            new_disk: spare.unwrap().0,
        };
        world.meta.propose(add).await.unwrap().unwrap();
        let (pg, epoch) = (group.id, group.epoch + 1);
        for disk in group.disks().chain(spare) {
            world.store.open_pg(disk, pg, epoch).await.unwrap();
        }
        assert_eq!(world.view.map().group(pg).unwrap().epoch, group.epoch);
        worker.tick(1).await.unwrap();
        assert_eq!(world.chunks().await, (live, 0), "by the old map");
        assert_eq!(world.view.map().group(pg).unwrap().epoch, epoch);
        // The spare is filled, then one of the four leaves in two steps, and the sweep frees what it
        // still has.
        let mut strangers = sweep(&world);
        for _ in 0..10 {
            world.keep().await;
            run(&mut worker).await;
            run(&mut strangers).await;
            if world.chunks().await == (BTreeSet::new(), 0) {
                return;
            }
            world.runtime.sleep(Duration::from_secs(10)).await;
        }
        panic!("never deleted: {:?}", world.chunks().await);
    });
}

/// Copies of every live chunk on members of its group in service, by nodes.
async fn fewest_copies(world: &World) -> (usize, usize) {
    let map = world.view.map();
    let mut held: std::collections::BTreeMap<ChunkId, BTreeSet<DiskId>> = Default::default();
    for (disk, entry) in world.listed().await {
        let group = map.group(entry.pg()).unwrap();
        if !entry.deleted && map.is_in(disk) && group.disks().any(|member| member == disk) {
            held.entry(entry.id).or_default().insert(disk);
        }
    }
    let nodes = |disks: &BTreeSet<DiskId>| {
        let nodes: BTreeSet<_> = disks.iter().map(|&disk| map.node_of(disk)).collect();
        nodes.len()
    };
    let copies = held.values().map(BTreeSet::len).min();
    let apart = held.values().map(nodes).min();
    (copies.unwrap_or(0), apart.unwrap_or(0))
}

#[test]
fn a_store_of_one_node_grows_into_a_cluster() {
    // Directories of the first node, and the copies that makes.
    for (disks, at_first) in [(1, 1), (3, 3)] {
        simulated(async {
            let mut world = World::start(disks).await;
            let before = content(25 * MIB, 51);
            world.put("before", &before).await;
            assert_eq!(fewest_copies(&world).await, (at_first, 1));
            let mut worker = redundancy(&world);
            let status = worker.status();
            world.add_node(2, 21).await;
            world.add_node(3, 31).await;
            world.view.refresh().await.unwrap();
            // At no moment is anything held by fewer disks than before.
            let mut ended = false;
            for _ in 0..500 {
                ended = world.keeper.tick(1).await.unwrap() == Tick::Done;
                world.view.refresh().await.unwrap();
                assert!(fewest_copies(&world).await.0 >= at_first);
                if ended {
                    break;
                }
                let during = content(MIB, 52);
                world.put("during", &during).await;
                assert!(world.get("during").await.unwrap() == during);
            }
            assert!(ended, "the keeper never ends");
            run(&mut sweep(&world)).await;
            let map = world.view.map();
            for group in map.groups() {
                let nodes: BTreeSet<_> = group.disks().map(|disk| map.node_of(disk)).collect();
                assert_eq!((group.members.len(), nodes.len()), (3, 3), "{group:?}");
                assert!(group.members.iter().all(|member| member.complete));
            }
            assert_eq!(fewest_copies(&world).await, (3, 3));
            run(&mut worker).await;
            assert_eq!(status().below_target, 0);
            for directory in 1..=disks {
                let disk = disk_in(&world, directory).await;
                assert_eq!(stale_copies(&world, disk).await, 0, "copies left behind");
            }
            // The first machine may go for good.
            world.nodes.stop(1);
            world.view.refresh().await.unwrap();
            assert!(world.get("before").await.unwrap() == before);
        });
    }
}

#[test]
fn chunks_count_as_below_their_redundancy_until_their_group_has_grown() {
    simulated(async {
        let world = World::start(1).await;
        world.put("a", &content(9 * MIB, 53)).await;
        let mut worker = redundancy(&world);
        let status = worker.status();
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (3, 0));
        let pool = pb::state::Pool {
            name: "LRS@a/3".into(),
            copies: 3,
            id: 0,
            ..world.view.map().pools()[0].clone()
        };
        let create = pb::CreatePool { pool: Some(pool) };
        world.meta.propose(create).await.unwrap().unwrap();
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        let nothing_is_promised = (status().chunks, status().below_target);
        assert_eq!(nothing_is_promised, (3, 0), "there is no disk for more");
        let mut members = vec![disk_in(&world, 1).await];
        for directory in 2..=3 {
            members.push(world.add_disk(directory).await);
        }
        let member = |disk: DiskId| pb::state::PgMember {
            disk: disk.0,
            complete: true,
        };
        let group = pb::state::PlacementGroup {
            members: members.into_iter().map(member).collect(),
            ..Default::default()
        };
        world.view.refresh().await.unwrap();
        let pools = world.view.map().pools().to_vec();
        let create = pb::CreatePgs {
            pool: pools.iter().find(|pool| pool.copies == 3).unwrap().id,
            groups: vec![group],
        };
        world.meta.propose(create).await.unwrap().unwrap();
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert_eq!((status().chunks, status().below_target), (3, 3));
    });
}

#[test]
fn the_disks_of_a_removed_node_are_given_up_at_once() {
    simulated(async {
        let mut world = World::start(1).await;
        for node in 2..=4 {
            world.add_node(node, node as usize * 10).await;
        }
        world.keep().await;
        let bytes = content(25 * MIB, 54);
        world.put("a", &bytes).await;
        assert_eq!(fewest_copies(&world).await, (3, 3));
        world.nodes.stop(3);
        let map = world.view.map();
        let of_node = |disk: DiskId| map.node_of(disk) == Some(granary_types::NodeId(3));
        let mut members = map.groups().flat_map(|group| group.disks());
        assert!(members.any(of_node), "nothing to give up");
        let remove = pb::RemoveNode { node: 3 };
        world.meta.propose(remove).await.unwrap().unwrap();
        // No time passes.
        world.keep().await;
        let now = world.view.map();
        let mut members = now.groups().flat_map(|group| group.disks());
        assert!(
            !members.any(of_node),
            "a disk of the removed node is a member"
        );
        assert_eq!(fewest_copies(&world).await, (3, 3));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn buckets_left_half_way_are_finished() {
    simulated(async {
        let world = World::start(1).await;
        let bucket = pb::state::Bucket {
            name: "half-made".into(),
            id: 0,
            ..world.bucket.clone()
        };
        let create = pb::CreateBucket {
            bucket: Some(bucket),
            ..Default::default()
        };
        // The creator died after the root's first step; the deleter after the root's first too.
        let half_made = world.meta.propose(create).await.unwrap().unwrap();
        let begin = pb::BeginDeleteBucket {
            bucket_id: world.bucket.id,
        };
        world.meta.propose(begin).await.unwrap().unwrap();
        let patience = Duration::from_secs(60);
        let mut worker = BucketFinisher::new(world.runtime.clone(), world.meta.clone(), patience);
        run(&mut worker).await;
        let unfinished = pb::ListUnfinishedBuckets { limit: 10 };
        let page = world.meta.query(unfinished).await.unwrap();
        assert_eq!(page.buckets.len(), 2, "they may still be at it");
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        assert!(
            world
                .meta
                .query(unfinished)
                .await
                .unwrap()
                .buckets
                .is_empty()
        );
        let made = pb::GetBucketById { id: half_made.id };
        let made = world.meta.query(made).await.unwrap().bucket.unwrap();
        assert_eq!(made.state(), pb::state::bucket::State::Active);
        let gone = pb::GetBucketById {
            id: world.bucket.id,
        };
        assert!(!world.meta.query(gone).await.unwrap().found);
    });
}

/// Every chunk of every object is on `copies` members in service of its group.
async fn assert_whole(world: &World, copies: usize) {
    let map = world.view.map();
    let listed = world.listed().await;
    for (_, entry) in &listed {
        let group = map.group(entry.id.pg()).unwrap();
        let holders = listed.iter().filter(|(disk, other)| {
            other.id == entry.id && map.is_in(*disk) && group.disks().any(|d| d == *disk)
        });
        assert_eq!(holders.count(), copies, "{}", entry.id);
    }
}

/// Counts its ticks.
struct Counting(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Worker for Counting {
    const NAME: &'static str = "counting";

    async fn tick(&mut self, lease_token: u64) -> Result<Tick, WorkerError> {
        assert!(lease_token > 0);
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Tick::Done)
    }
}

#[test]
fn one_process_leads_and_another_takes_over() {
    simulated(async {
        let world = World::start(1).await;
        let begin = |holder: &str| {
            let runtime = world.runtime.child();
            let ticks = std::sync::Arc::default();
            let handle = start(
                &runtime,
                world.meta.clone(),
                world.metrics.clone(),
                RunnerConfig::every(holder, Duration::from_secs(5)),
                Counting(std::sync::Arc::clone(&ticks)),
            );
            let count = move || ticks.load(std::sync::atomic::Ordering::Relaxed);
            (runtime, handle, count)
        };
        let (first_runtime, first, first_ticks) = begin("first");
        world.runtime.sleep(Duration::from_secs(1)).await;
        let (_second_runtime, second, second_ticks) = begin("second");
        world.runtime.sleep(Duration::from_secs(600)).await;
        assert!(first.state().leads && !second.state().leads);
        assert!(first_ticks() > 100 && second_ticks() == 0);

        // A trigger does not wait for the interval, and a pause holds.
        let before = first_ticks();
        first.trigger();
        world.runtime.sleep(Duration::from_millis(10)).await;
        assert_eq!(first_ticks(), before + 1);
        first.pause();
        world.runtime.sleep(Duration::from_secs(30)).await;
        let paused = first_ticks();
        world.runtime.sleep(Duration::from_secs(300)).await;
        assert_eq!(first_ticks(), paused);
        // A paused worker gives its lease up by not renewing it, and does not call itself a leader
        // although nobody has told it who is one now.
        assert!(!first.state().leads);
        assert!(second.state().leads && second_ticks() > 0);
        first.unpause();
        world.runtime.sleep(Duration::from_secs(60)).await;
        assert!(!first.state().leads);

        first_runtime.stop().await;
        let before = second_ticks();
        world.runtime.sleep(Duration::from_secs(60)).await;
        assert!(second_ticks() > before);
    });
}

/// Takes its time.
struct Slow(Duration, granary_runtime::Runtime);

impl Worker for Slow {
    const NAME: &'static str = "slow";

    async fn tick(&mut self, _: u64) -> Result<Tick, WorkerError> {
        self.1.sleep(self.0).await;
        Ok(Tick::More)
    }
}

#[test]
fn a_tick_may_take_longer_than_the_lease_and_nobody_takes_over_meanwhile() {
    simulated(async {
        let world = World::start(1).await;
        let begin = |holder: &str, takes: u64| {
            let runtime = world.runtime.child();
            let mut config = RunnerConfig::every(holder, Duration::from_secs(5));
            config.lease_ttl = Duration::from_secs(20);
            let slow = Slow(Duration::from_secs(takes), runtime.clone());
            let (meta, metrics) = (world.meta.clone(), world.metrics.clone());
            (
                runtime.clone(),
                start(&runtime, meta, metrics, config, slow),
            )
        };
        let (_first_runtime, first) = begin("first", 25);
        world.runtime.sleep(Duration::from_secs(1)).await;
        let (_second_runtime, second) = begin("second", 25);
        for _ in 0..60 {
            world.runtime.sleep(Duration::from_secs(5)).await;
            let (first, second) = (first.state(), second.state());
            assert!(first.leads && !second.leads, "{first:?} {second:?}");
        }
        assert!(first.state().ticks >= 10, "{:?}", first.state());
        first.pause();
        world.runtime.sleep(Duration::from_secs(120)).await;
        assert!(second.state().leads && second.state().ticks > 0);
    });
    // One that hangs is cut off.
    simulated(async {
        let world = World::start(1).await;
        let (runtime, meta) = (world.runtime.child(), world.meta.clone());
        let slow = Slow(Duration::from_secs(3600), runtime.clone());
        let config = RunnerConfig::every("it", Duration::from_secs(5));
        let handle = start(&runtime, meta, world.metrics.clone(), config, slow);
        world.runtime.sleep(Duration::from_secs(75)).await;
        let state = handle.state();
        assert!(state.leads && state.ticks == 0, "{state:?}");
        assert_eq!(state.last_error, WorkerError::TooLong.to_string());
    });
}

/// A disk of the store, by its directory.
async fn disk_in(world: &World, directory: usize) -> DiskId {
    let path = dir(directory).display().to_string();
    let map = world.view.map();
    let mut disks = map.disks();
    let found = disks.find(|disk| disk.path == path);
    DiskId(found.expect("the disk is registered").id)
}

/// Chunks that a disk lists of groups that it is no member of.
async fn stale_copies(world: &World, disk: DiskId) -> usize {
    let map = world.view.map();
    let listed = world.listed().await;
    let foreign = |entry: &ChunkEntry| {
        let group = map.group(entry.pg()).unwrap();
        group.disks().all(|member| member != disk)
    };
    let stale = listed.iter().filter(|(on, e)| *on == disk && foreign(e));
    stale.count()
}

/// Takes a disk away until the others have got its places.
async fn lose(world: &mut World, disk: DiskId) {
    assert!(world.store.remove_disk(disk).await);
    for _ in 0..3 {
        world.keep().await;
        world.pass(Duration::from_secs(31)).await;
    }
    world.keep().await;
}

#[test]
fn a_disk_that_came_back_frees_what_others_hold_now() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(25 * MIB, 31);
        world.put("a", &bytes).await;
        let lost = disk_in(&world, 2).await;
        lose(&mut world, lost).await;
        assert_eq!(world.add_disk(2).await, lost);
        world.keep().await;
        assert!(stale_copies(&world, lost).await > 0, "nothing to free");

        // One of the chunks is on no member any more: the copy that came back is the last one.
        let listed = world.listed().await;
        let (_, last) = listed.iter().find(|(on, _)| *on == lost).unwrap();
        for (on, entry) in &listed {
            if *on != lost && entry.id == last.id {
                world
                    .store
                    .delete(*on, last.id.pg(), u64::MAX, vec![last.id])
                    .await
                    .unwrap();
                world
                    .store
                    .forget(*on, last.id.pg(), u64::MAX, vec![last.id])
                    .await
                    .unwrap();
            }
        }
        let mut sweeper = sweep(&world);
        run(&mut sweeper).await;
        assert_eq!(stale_copies(&world, lost).await, 1);
        let check = world.path.verify_copy(last, lost).await;
        assert_eq!(check, CopyCheck::Good);
        // Every other chunk still has its three copies.
        let mut copies = std::collections::BTreeMap::new();
        for (_, entry) in world.listed().await {
            assert!(!entry.deleted, "a tombstone was left behind");
            *copies.entry(entry.id).or_insert(0) += 1;
        }
        copies.remove(&last.id);
        assert_eq!(copies.len(), 6);
        assert!(copies.values().all(|&count| count == 3), "{copies:?}");
    });
}

#[test]
fn nothing_is_freed_while_a_member_is_being_filled_or_away() {
    simulated(async {
        let mut world = World::start(4).await;
        world.put("a", &content(25 * MIB, 32)).await;
        let lost = disk_in(&world, 2).await;
        lose(&mut world, lost).await;
        assert_eq!(world.add_disk(2).await, lost);
        world.keep().await;
        let before = stale_copies(&world, lost).await;
        assert!(before > 0);
        // Every group of three of four disks has a member less.
        let away = disk_in(&world, 3).await;
        assert!(world.store.remove_disk(away).await);
        world.view.refresh().await.unwrap();
        run(&mut sweep(&world)).await;
        assert_eq!(stale_copies(&world, lost).await, before);
    });
}

#[test]
fn a_tombstone_on_a_disk_that_was_no_member_deletes_nothing() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(9 * MIB, 33);
        world.put("a", &bytes).await;
        let spare = world.add_disk(4).await;
        world.view.refresh().await.unwrap();
        // What a deletion of stale copies leaves when it is cut off in the middle.
        let (live, _) = world.chunks().await;
        for group in world.view.map().groups() {
            let (pg, epoch) = (group.id, group.epoch);
            world.store.open_pg(spare, pg, epoch).await.unwrap();
            let named = live.iter().copied().filter(|id| id.pg() == pg).collect();
            world.store.delete(spare, pg, epoch, named).await.unwrap();
        }
        world.vfs.inject(dir(2), Fault::WriteError);
        world.put("b", &content(MIB, 34)).await;
        for _ in 0..3 {
            world.keep().await;
            world.runtime.sleep(Duration::from_secs(10)).await;
        }
        run(&mut redundancy(&world)).await;
        let (after, tombstones) = world.chunks().await;
        assert!(after.is_superset(&live), "chunks of a live object are gone");
        assert_eq!(tombstones, 0);
        assert!(world.get("a").await.unwrap() == bytes);
        assert_whole(&world, 3).await;
    });
}

#[test]
fn a_deletion_waits_while_no_member_of_the_group_is_in_service() {
    simulated(async {
        let mut world = World::start(1).await;
        world.put("a", &content(MIB, 35)).await;
        world.delete("a").await;
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        let only = disk_in(&world, 1).await;
        lose(&mut world, only).await;
        assert!(!world.view.map().is_in(only));
        let mut worker = deletion(&world);
        run(&mut worker).await;
        let mut pending = 0;
        for &shard in world.view.map().shards() {
            let query = pb::ListDeletions {
                limit: 10,
                after_seq: 0,
            };
            pending += world.meta.query_at(shard, query).await.unwrap().pending;
        }
        assert_eq!(pending, 1, "acknowledged although nobody deleted it");
        assert_eq!(world.add_disk(1).await, only);
        world.keep().await;
        run(&mut worker).await;
        assert_eq!(world.chunks().await, (BTreeSet::new(), 0));
    });
}

#[test]
fn a_full_disk_gets_no_place_in_a_group_until_it_has_room() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(9 * MIB, 36);
        world.put("a", &bytes).await;
        let full = world.add_disk(4).await;
        world.vfs.set_capacity(dir(4), 1 << 20);
        world.vfs.inject(dir(2), Fault::WriteError);
        world.put("b", &content(MIB, 37)).await;
        world.keep().await;
        let uses = |world: &World| {
            let map = world.view.map();
            map.groups()
                .flat_map(|group| group.disks())
                .filter(|&disk| disk == full)
                .count()
        };
        assert_eq!(uses(&world), 0, "a full disk was chosen");
        world.vfs.set_capacity(dir(4), 1 << 30);
        world.keep().await;
        assert!(uses(&world) > 0);
        assert_whole(&world, 3).await;
    });
}

#[test]
fn a_group_that_cannot_be_filled_is_left_alone_for_a_while() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(9 * MIB, 38)).await;
        let spare = world.add_disk(4).await;
        world.vfs.inject(dir(2), Fault::WriteError);
        world.put("b", &content(MIB, 39)).await;
        // The spare one has room, but not for a whole chunk.
        world.vfs.set_capacity(dir(4), 3 << 20);
        let incomplete = |world: &World| {
            let map = world.view.map();
            map.groups()
                .flat_map(|group| group.members.clone())
                .filter(|member| member.disk == spare && !member.complete)
                .count()
        };
        world.keep().await;
        assert!(incomplete(&world) > 0, "there was room for everything");
        world.vfs.set_capacity(dir(4), 1 << 30);
        world.keep().await;
        assert!(incomplete(&world) > 0, "tried again at once");
        world.runtime.sleep(Duration::from_secs(10)).await;
        world.keep().await;
        assert_eq!(incomplete(&world), 0, "never tried again");
        assert_whole(&world, 3).await;
    });
}

/// What an operator's collector sees; the lines of one metric.
fn samples(world: &World, name: &str) -> Vec<u64> {
    let mut registry = prometheus_client::registry::Registry::default();
    world.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let named = lines.filter_map(|line| line.strip_prefix(&format!("granary_worker_{name} ")));
    named.map(|value| value.parse().unwrap()).collect()
}

#[test]
fn the_number_of_chunks_below_redundancy_is_shown_only_when_it_was_counted() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(9 * MIB, 40)).await;
        let below = "chunks_below_redundancy";
        assert!(samples(&world, below).is_empty(), "nobody counts here");
        let mut worker = redundancy(&world);
        assert!(samples(&world, below).is_empty(), "not counted yet");
        assert_eq!(samples(&world, "redundancy_passes_total"), [0]);
        run(&mut worker).await;
        assert_eq!(samples(&world, below), [0]);
        assert_eq!(samples(&world, "groups_unknown"), [0]);
        assert_eq!(samples(&world, "redundancy_passes_total"), [1]);
        let began = samples(&world, "redundancy_pass_began_seconds");
        assert!(began[0] >= 1_800_000_000);

        // A disk is lost: what was counted says nothing of the cluster as it is now.
        let lost = disk_in(&world, 2).await;
        assert!(world.store.remove_disk(lost).await);
        world.view.refresh().await.unwrap();
        assert!(
            samples(&world, below).is_empty(),
            "0 although a disk is lost"
        );
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert_eq!(samples(&world, below), [3]);
        assert!(samples(&world, "redundancy_pass_began_seconds") > began);

        // Another process leads: its numbers count, not these.
        world.metrics.lead(RedundancyWorker::NAME, false);
        assert!(samples(&world, below).is_empty());
        world.metrics.lead(RedundancyWorker::NAME, true);
        worker.resume(b"");
        assert!(samples(&world, below).is_empty());

        world.add_disk(9).await;
        world.keep().await;
        world.pass(Duration::from_secs(31)).await;
        world.keep().await;
        run(&mut worker).await;
        assert_eq!(samples(&world, below), [0]);
    });
}
