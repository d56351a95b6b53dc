//! What an operator notices while groups change their members: nothing acknowledged is lost, what
//! cannot be mended keeps nobody else waiting, and a disk that was given up stays given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use granary_blob_api::BlobNode;
use granary_datapath::{CopyCheck, Group};
pub(super) use granary_meta_api::disk_state::{READMITTED, REMOVED};
use granary_meta_api::pb;
use granary_types::{ChunkId, DiskId};

use super::world::{MIB, World, content, dir, run, simulated};
use super::{assert_whole, disk_in, fewest_copies, redundancy};
use crate::{RedundancyWorker, Tick, Worker};

/// Removes a copy as if it had never reached the disk.
pub(super) async fn lose_copy(world: &World, disk: DiskId, chunk: ChunkId) {
    let pg = chunk.pg();
    for on in world.node_stores() {
        let _ = on.delete(disk, pg, u64::MAX, vec![chunk]).await;
        let _ = on.forget(disk, pg, u64::MAX, vec![chunk]).await;
    }
}

/// Ticks the keeper until a group has `members` members that are all complete.
async fn until_grown(world: &mut World, members: usize) -> Vec<Group> {
    for _ in 0..100 {
        world.keeper.tick(1).await.unwrap();
        world.view.refresh().await.unwrap();
        let map = world.view.map();
        let grown = |group: &&Group| {
            group.leaving.is_none()
                && group.members.len() == members
                && group.members.iter().all(|member| member.complete)
        };
        let found: Vec<Group> = map.groups().filter(grown).cloned().collect();
        if !found.is_empty() {
            return found;
        }
    }
    panic!("no group ever has {members} members");
}

/// Ticks the keeper for some minutes, looking at everything after every tick.
pub(super) async fn keep_on(world: &mut World, minutes: u64) {
    for _ in 0..minutes * 6 {
        for _ in 0..200 {
            if matches!(world.keeper.tick(1).await, Ok(Tick::Done) | Err(_)) {
                break;
            }
        }
        world.runtime.sleep(Duration::from_secs(10)).await;
    }
    world.view.refresh().await.unwrap();
}

/// Disks of members with a copy that is good to the last byte, by chunk.
async fn good_copies(world: &World) -> BTreeMap<ChunkId, BTreeSet<DiskId>> {
    let map = world.view.map();
    let mut good: BTreeMap<ChunkId, BTreeSet<DiskId>> = BTreeMap::new();
    for (disk, entry) in world.listed().await {
        let group = map.group(entry.pg()).unwrap();
        let holders = good.entry(entry.id).or_default();
        if group.disks().any(|member| member == disk)
            && world.path.verify_copy(&entry, disk).await == CopyCheck::Good
        {
            holders.insert(disk);
        }
    }
    good
}

#[test]
fn a_member_goes_only_after_all_others_were_found_to_hold_everything() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(45 * MIB, 61);
        world.put("a", &bytes).await;
        world.add_node(2, 21).await;
        world.add_node(3, 31).await;
        let mut grown = BTreeSet::new();
        for _ in 0..4 {
            // What was written while members were away: of each chunk one member, another one each
            // time, has the only copy. All are complete, and all are there again.
            for group in until_grown(&mut world, 4).await {
                if !grown.insert(group.id) {
                    continue;
                }
                let listed = world.listed().await;
                let of_group = listed.iter().filter(|(_, entry)| entry.pg() == group.id);
                let ids: BTreeSet<ChunkId> = of_group.map(|(_, entry)| entry.id).collect();
                for (n, &chunk) in ids.iter().enumerate() {
                    let keeper = group.members[n % 3].disk;
                    for disk in group.disks().filter(|&disk| disk != keeper) {
                        lose_copy(&world, disk, chunk).await;
                    }
                }
            }
        }
        assert!(grown.len() >= 2, "the test tests nothing");
        keep_on(&mut world, 2).await;
        let map = world.view.map();
        assert!(map.groups().all(|group| group.members.len() == 3));
        assert!(world.get("a").await.unwrap() == bytes);
        assert_eq!(fewest_copies(&world).await, (3, 3));
    });
}

#[test]
fn the_good_copy_stays_while_others_are_damaged() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(45 * MIB, 62)).await;
        world.add_node(2, 21).await;
        world.add_node(3, 31).await;
        until_grown(&mut world, 4).await;
        // Everything on two disks is damaged, and there is no room to put it right.
        for disk in [1, 2] {
            let volume = world.largest_file(&dir(disk));
            for megabyte in 0..60 {
                let at = megabyte * MIB as u64 + 500_000;
                let _ = world.vfs.flip_bit(&volume, at, 1);
            }
            world.vfs.set_capacity(dir(disk), 1 << 20);
        }
        let mut before = good_copies(&world).await;
        assert!(
            before.values().any(|good| good.len() < 3),
            "nothing is damaged"
        );
        for _ in 0..60 {
            let _ = world.keeper.tick(1).await;
            world.runtime.sleep(Duration::from_secs(5)).await;
            world.view.refresh().await.unwrap();
            let now = good_copies(&world).await;
            for (chunk, good) in &now {
                let had = before[chunk].len();
                assert!(
                    good.len() >= had,
                    "{chunk}: {had} good copies, now {good:?}"
                );
            }
            before = now;
        }
    });
}

#[test]
fn a_member_that_leaves_takes_no_chunks_and_stays_while_another_is_away() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(45 * MIB, 63)).await;
        let second = world.add_node(2, 21).await;
        world.add_node(3, 31).await;
        let group = until_grown(&mut world, 4).await.remove(0);
        let leaving = group.members[0].disk;
        let leave = |epoch: u64, new: DiskId| pb::ReplacePgMember {
            pg: group.id.0,
            epoch,
            old_disk: leaving.0,
            new_disk: new.0,
        };
        let none = DiskId(0);
        world
            .meta
            .propose(leave(group.epoch, none))
            .await
            .unwrap()
            .unwrap();
        world.view.refresh().await.unwrap();
        let now = world.view.map().group(group.id).unwrap().clone();
        assert_eq!((now.members.len(), now.leaving), (4, Some(leaving)));
        for disk in group.disks() {
            for store in world.node_stores() {
                let _ = store.open_pg(disk, group.id, now.epoch).await;
            }
        }
        let before = world.chunks().await.0;
        // Until one of them falls into the group.
        let mut new = Vec::new();
        for _ in 0..500 {
            world.put("b", &content(MIB, 64)).await;
            let listed = world.listed().await;
            let of_it = listed.iter().filter(|(_, entry)| {
                entry.pg() == group.id && !before.contains(&entry.id) && !entry.deleted
            });
            new = of_it.map(|(disk, _)| *disk).collect::<Vec<DiskId>>();
            if !new.is_empty() {
                break;
            }
        }
        let taken = new.iter().all(|&disk| disk != leaving);
        assert!(new.len() >= 3 && taken, "{new:?}, {leaving} leaves");
        // Another member goes away: whoever was about to leave is needed again.
        let grown_onto = if group.disks().any(|disk| disk == second) {
            2
        } else {
            3
        };
        world.nodes.stop(grown_onto);
        world.view.refresh().await.unwrap();
        let _ = world.keeper.tick(1).await;
        world.view.refresh().await.unwrap();
        let now = world.view.map().group(group.id).unwrap().clone();
        assert_eq!((now.members.len(), now.leaving), (4, None));
        assert!(now.disks().any(|disk| disk == leaving));
    });
}

#[test]
fn groups_that_cannot_be_filled_keep_no_other_waiting() {
    simulated(async {
        let mut world = World::start(1).await;
        for (n, key) in ["a", "b", "c", "d", "e", "f", "g", "h"]
            .into_iter()
            .enumerate()
        {
            world.put(key, &content(5 * MIB, 70 + n as u64)).await;
        }
        // Everything so far is damaged, and there is no other copy.
        let volume = world.largest_file(&dir(1));
        for megabyte in 0..60 {
            let _ = world
                .vfs
                .flip_bit(&volume, megabyte * MIB as u64 + 500_000, 1);
        }
        let bad: BTreeSet<ChunkId> = {
            let good = good_copies(&world).await;
            let bad = good.iter().filter(|(_, good)| good.is_empty());
            bad.map(|(chunk, _)| *chunk).collect()
        };
        let groups: BTreeSet<_> = bad.iter().map(|chunk| chunk.pg()).collect();
        assert!(groups.len() >= 5, "{} groups", groups.len());
        world.put("z", &content(45 * MIB, 79)).await;
        world.add_disk(2).await;
        keep_on(&mut world, 5).await;
        let map = world.view.map();
        for group in map.groups() {
            let complete = group.members.iter().filter(|member| member.complete);
            assert_eq!(complete.count(), 2, "{group:?}");
        }
        for (chunk, good) in good_copies(&world).await {
            assert_eq!(
                good.len(),
                if bad.contains(&chunk) { 0 } else { 2 },
                "{chunk}"
            );
        }
    });
}

#[test]
fn the_last_member_that_holds_everything_is_not_replaced() {
    simulated(async {
        let mut world = World::start(1).await;
        let bytes = content(9 * MIB, 65);
        world.put("a", &bytes).await;
        // A second disk with room, but not for a whole chunk.
        world.add_disk(2).await;
        world.vfs.set_capacity(dir(2), 3 << 20);
        keep_on(&mut world, 1).await;
        let only = disk_in(&world, 1).await;
        assert!(world.store.remove_disk(only).await);
        world.add_disk(3).await;
        keep_on(&mut world, 2).await;
        assert!(
            !world.view.map().is_in(only),
            "not given up: the test tests nothing"
        );
        assert_eq!(world.add_disk(1).await, only);
        world.view.refresh().await.unwrap();
        assert!(world.get("a").await.unwrap() == bytes);
        world.vfs.set_capacity(dir(2), 1 << 30);
        keep_on(&mut world, 10).await;
        assert!(fewest_copies(&world).await.0 >= 2);
    });
}

#[test]
fn a_disk_that_was_removed_for_good_comes_back_by_an_operators_act_only() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(25 * MIB, 66);
        world.put("a", &bytes).await;
        let disk = disk_in(&world, 2).await;
        let record = |world: &World| {
            let map = world.view.map();
            map.disks()
                .find(|known| known.id == disk.0)
                .unwrap()
                .clone()
        };
        let uses = |world: &World| {
            let map = world.view.map();
            let groups = map.groups();
            groups.filter(|g| g.disks().any(|d| d == disk)).count()
        };
        assert!(uses(&world) > 0);
        let set = async |world: &World, state: u32| {
            let record = pb::state::Disk {
                state,
                ..record(world)
            };
            let register = pb::RegisterDisk {
                disk: Some(record),
                ..Default::default()
            };
            world.meta.propose(register).await.unwrap().unwrap();
            world.view.refresh().await.unwrap();
        };
        set(&world, REMOVED).await;
        keep_on(&mut world, 2).await;
        // It is healthy, and its node says so again after every restart.
        for state in [0, 1, 0] {
            set(&world, state).await;
            keep_on(&mut world, 2).await;
            assert_eq!(record(&world).state, REMOVED);
            assert!(!world.view.map().is_in(disk) && world.view.map().is_removed(disk));
            assert_eq!(uses(&world), 0);
        }
        let epoch = world.view.map().epoch();
        keep_on(&mut world, 1).await;
        assert_eq!(
            world.view.map().epoch(),
            epoch,
            "the map changes for nothing"
        );
        assert_whole(&world, 3).await;
        set(&world, READMITTED).await;
        keep_on(&mut world, 1).await;
        assert_eq!(record(&world).state, 0);
        world.vfs.inject(dir(3), granary_vfs::Fault::WriteError);
        world.put("b", &content(MIB, 67)).await;
        keep_on(&mut world, 2).await;
        assert!(uses(&world) > 0, "it takes places again");
        // A new disk in the place of one that was removed is another disk.
        let next = disk_in(&world, 4).await;
        set_state(&world, next, REMOVED).await;
        assert!(world.store.remove_disk(next).await);
        let new = world.add_disk(9).await;
        keep_on(&mut world, 2).await;
        assert!(world.view.map().is_in(new) && !world.view.map().is_in(next));
        assert!(world.get("a").await.unwrap() == bytes);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        assert_eq!(worker.status()().below_target, 0);
    });
}

#[test]
fn a_node_that_is_away_for_minutes_makes_groups_and_one_that_restarts_makes_none() {
    simulated(async {
        let mut world = World::start(1).await;
        for node in 2..=4 {
            world.add_node(node, 10 * node as usize).await;
        }
        keep_on(&mut world, 2).await;
        let groups = |world: &World| world.view.map().groups().count();
        let before = groups(&world);
        let bytes = content(9 * MIB, 81);
        for node in [2, 3, 4] {
            let stopped = world.nodes.stop(node);
            keep_on(&mut world, 2).await;
            assert_eq!(groups(&world), before, "node {node} only restarts");
            world.put("a", &bytes).await;
            world.nodes.start(node, stopped);
            keep_on(&mut world, 2).await;
            assert_eq!(groups(&world), before);
        }
        world.nodes.stop(4);
        keep_on(&mut world, 7).await;
        let map = world.view.map();
        assert!(map.disks().all(|disk| disk.state == 0), "given up");
        let whole = |group: &&Group| group.disks().all(|disk| world.view.is_writable(disk));
        assert!(
            map.groups().filter(whole).count() >= 8,
            "new chunks have few groups"
        );
        assert!(groups(&world) > before);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn what_its_zone_has_no_disks_for_is_counted_as_below_its_redundancy() {
    simulated(async {
        let mut world = World::start(1).await;
        let bytes = content(9 * MIB, 80);
        world.put("old", &bytes).await;
        let old = disk_in(&world, 1).await;
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let counted = |worker: &RedundancyWorker| {
            let status = worker.status()();
            (status.chunks, status.below_target, status.narrow)
        };
        assert_eq!(counted(&worker), (3, 0, 0), "one disk promises one copy");
        for node in 2..=4 {
            world.add_node_in("b", node, 10 * node as usize).await;
        }
        keep_on(&mut world, 1).await;
        world.put("new", &bytes).await;
        let listed = world.listed().await;
        let on_old = listed.iter().filter(|(disk, _)| *disk == old).count();
        assert_eq!((listed.len(), on_old), (3 + 9, 3), "{listed:?}");
        world.runtime.sleep(Duration::from_secs(31)).await;
        run(&mut worker).await;
        assert_eq!(counted(&worker), (6, 3, 3));
        let whose: Vec<_> = worker.status()().narrow_buckets.iter().collect();
        assert_eq!(whose, [granary_types::BucketId(world.bucket.id)]);
        // Two more machines there are what helps.
        world.add_node(5, 50).await;
        world.add_node(6, 60).await;
        keep_on(&mut world, 2).await;
        run(&mut worker).await;
        assert_eq!(counted(&worker), (6, 0, 0));
        assert_eq!(fewest_copies(&world).await, (3, 3));
    });
}

pub(super) async fn set_state(world: &World, disk: DiskId, state: u32) {
    let map = world.view.map();
    let known = map.disks().find(|known| known.id == disk.0).unwrap();
    let record = pb::state::Disk {
        state,
        ..known.clone()
    };
    let register = pb::RegisterDisk {
        disk: Some(record),
        ..Default::default()
    };
    world.meta.propose(register).await.unwrap().unwrap();
}
