//! Groups that lie on one disk alone, of a node that was alone in its zone: when that is given up they
//! are served again, and what was in them is moved, or counted as lost, and comes back with its disk.

use std::collections::BTreeSet;
use std::time::Duration;

use granary_datapath::{Group, NodeDirectory};
use granary_meta_api::pb;
use granary_types::{DiskId, NodeId, PgId};

use super::fsck::check;
use super::growth::{REMOVED, keep_on, set_state};
use super::world::{MIB, World, content, dir, run, simulated};
use super::{disk_in, fewest_copies, redundancy};

/// Takes a node away for good, with its disks.
async fn lose_node(world: &World, node: u64) {
    assert!(world.nodes.stop(node).is_some());
    world
        .meta
        .propose(pb::RemoveNode { node })
        .await
        .unwrap()
        .unwrap();
    world.view.refresh().await.unwrap();
}

/// The groups that lie on one disk and nowhere else.
fn groups_on(world: &World, disk: DiskId) -> Vec<PgId> {
    let map = world.view.map();
    let alone = map.groups().filter(|group| group.disks().eq([disk]));
    let mut alone: Vec<PgId> = alone.map(|group| group.id).collect();
    alone.sort_unstable();
    alone
}

/// Fails unless every group has members in service that are complete and answer, and no others.
fn assert_served(world: &World) {
    let map = world.view.map();
    let served = |group: &Group| {
        let serves = |disk| map.is_in(disk) && world.view.is_readable(disk);
        let mut members = group.members.iter();
        members.all(|member| member.complete && serves(member.disk))
    };
    for group in map.groups() {
        assert!(served(group), "{group:?}");
    }
}

/// Fails unless the groups lie on `members` nodes each, all in the zone of their pool.
fn assert_at_home(world: &World, groups: &[PgId], zone: &str, members: usize) {
    let map = world.view.map();
    for &id in groups {
        let group = map.group(id).unwrap();
        let pool = map.pools().iter().find(|pool| pool.id == group.pool);
        assert_eq!(pool.unwrap().zone, zone, "{group:?}");
        let nodes: BTreeSet<_> = group.disks().map(|disk| map.node_of(disk)).collect();
        assert_eq!(nodes.len(), members, "{group:?}");
        assert_eq!(group.members.len(), members, "{group:?}");
        assert!(group.disks().all(|disk| map.zone_of(disk) == zone));
    }
}

#[test]
fn groups_of_a_zone_that_is_lost_for_good_are_served_elsewhere() {
    simulated(async {
        let mut world = World::start(1).await;
        for (zone, node) in [("b", 2), ("c", 3), ("b", 4), ("b", 5)] {
            world.add_node_in(zone, node, 10 * node as usize).await;
        }
        let mistyped = world.add_node_in("tpyo", 7, 70).await;
        world.keep().await;
        let bytes = content(9 * MIB, 301);
        world.put("a", &bytes).await;
        let groups = groups_on(&world, mistyped);
        assert!(!groups.is_empty(), "the test tests nothing");
        lose_node(&world, 7).await;
        keep_on(&mut world, 5).await;
        assert_served(&world);
        // Their pool is one of the zone that they are in now.
        assert_at_home(&world, &groups, "b", 3);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        let found = (status.groups_unknown, status.lost, status.chunks);
        assert_eq!(found, (0, 0, 3), "{status:?}");
        let report = check(&world, true).await;
        assert!(report.clean, "{report:?}");
        assert!(world.get("a").await.unwrap() == bytes);
        // The zone comes to be after all.
        let new = world.add_node_in("tpyo", 8, 80).await;
        world.view.refresh().await.unwrap();
        keep_on(&mut world, 3).await;
        assert_served(&world);
        assert_at_home(&world, &groups, "b", 3);
        assert_at_home(&world, &groups_on(&world, new), "tpyo", 1);
        assert!(!groups_on(&world, new).is_empty(), "nothing for new chunks");
    });
}

#[test]
fn groups_stay_where_they_took_refuge_when_their_zone_has_disks_again() {
    simulated(async {
        let mut world = World::start(1).await;
        let bytes = content(9 * MIB, 305);
        world.put("a", &bytes).await;
        let disk = disk_in(&world, 1).await;
        let groups = groups_on(&world, disk);
        for node in 2..=4 {
            world.add_node_in("b", node, 10 * node as usize).await;
        }
        world.keep().await;
        lose_node(&world, 1).await;
        keep_on(&mut world, 5).await;
        assert_at_home(&world, &groups, "b", 3);
        // The machine joins again as a new node, with its data directory.
        assert!(world.store.remove_disk(disk).await);
        assert_eq!(world.add_node_in("a", 9, 1).await, disk);
        keep_on(&mut world, 3).await;
        assert_served(&world);
        assert_at_home(&world, &groups, "b", 3);
        let epoch = world.view.map().epoch();
        keep_on(&mut world, 1).await;
        assert_eq!(world.view.map().epoch(), epoch, "it never ends");
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        let status = worker.status()();
        let found = (status.chunks, status.lost, status.below_target);
        assert_eq!((found, status.narrow), ((3, 0, 0), 0), "{status:?}");
        // And who is lost there is replaced there.
        world.add_node_in("b", 5, 50).await;
        lose_node(&world, 2).await;
        keep_on(&mut world, 5).await;
        assert_served(&world);
        assert_at_home(&world, &groups, "b", 3);
        assert_eq!(fewest_copies(&world).await, (3, 3));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn groups_without_room_where_they_took_refuge_keep_no_other_from_growing() {
    simulated(async {
        let mut world = World::start(1).await;
        for (zone, node) in [("a", 2), ("a", 3), ("b", 4), ("c", 5)] {
            world.add_node_in(zone, node, 10 * node as usize).await;
        }
        world.keep().await;
        world.put("a", &content(9 * MIB, 306)).await;
        let map = world.view.map();
        let of_zone = |zone: &str| {
            let groups = map.groups().filter(|group| {
                let mut disks = group.disks();
                disks.all(|disk| map.zone_of(disk) == zone)
            });
            groups.map(|group| group.id).collect::<Vec<PgId>>()
        };
        let (lost, growing) = (of_zone("a"), of_zone("c"));
        assert!(lost.len() > 4 && !growing.is_empty());
        for node in 1..=3 {
            lose_node(&world, node).await;
        }
        keep_on(&mut world, 3).await;
        // One disk is no refuge for three copies, and what is gone is told as such.
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        assert_eq!((status.lost, status.chunks), (3, 3), "{status:?}");
        world.add_node_in("c", 6, 60).await;
        keep_on(&mut world, 5).await;
        assert_at_home(&world, &growing, "c", 2);
        // Three are, wherever some of them began.
        world.add_node_in("c", 7, 70).await;
        keep_on(&mut world, 5).await;
        assert_at_home(&world, &growing, "c", 3);
        assert_served(&world);
        let map = world.view.map();
        for id in lost {
            let group = map.group(id).unwrap();
            let nodes: BTreeSet<_> = group.disks().map(|disk| map.node_of(disk)).collect();
            assert!(nodes.len() >= 3, "{group:?}");
        }
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        let status = worker.status()();
        assert_eq!((status.lost, status.chunks), (3, 3), "{status:?}");
    });
}

#[test]
fn a_disk_that_was_exchanged_for_an_empty_one_is_not_waited_for() {
    simulated(async {
        let mut world = World::start(1).await;
        let other = world.add_node_in("b", 2, 20).await;
        world.keep().await;
        let old = disk_in(&world, 1).await;
        let groups = groups_on(&world, old);
        assert!(!groups.is_empty(), "the test tests nothing");
        let bytes = content(9 * MIB, 306);
        world.put("a", &bytes).await;
        // Away alone is no reason: it may come back.
        assert!(world.store.remove_disk(old).await);
        keep_on(&mut world, 4).await;
        assert_eq!(groups_on(&world, old), groups);
        world.wipe(1);
        let new = world.add_disk(1).await;
        assert!(new != old && new != other);
        keep_on(&mut world, 4).await;
        assert_eq!(groups_on(&world, old), []);
        let taken = groups_on(&world, new);
        assert!(groups.iter().all(|group| taken.contains(group)));
        assert_served(&world);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        assert_eq!((status.groups_unknown, status.lost), (0, 3), "{status:?}");
    });
}

#[test]
fn what_was_in_them_is_counted_as_lost_and_comes_back_with_its_disk() {
    simulated(async {
        let mut world = World::start(1).await;
        let bytes = content(9 * MIB, 302);
        world.put("a", &bytes).await;
        let disk = disk_in(&world, 1).await;
        for (zone, node) in [("b", 2), ("c", 3), ("d", 4)] {
            world.add_node_in(zone, node, 10 * node as usize).await;
        }
        world.keep().await;
        lose_node(&world, 1).await;
        keep_on(&mut world, 3).await;
        assert_served(&world);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        let found = (status.groups_unknown, status.lost, status.chunks);
        assert_eq!(found, (0, 3, 3), "{status:?}");
        let report = check(&world, false).await;
        assert!(report.complete && !report.clean, "{report:?}");
        assert_eq!(report.chunks_lost, 3);
        // Its data directory in another machine.
        assert!(world.store.remove_disk(disk).await);
        assert_eq!(world.add_node_in("b", 9, 1).await, disk);
        assert!(world.nodes.node(NodeId(9)).is_some());
        keep_on(&mut world, 3).await;
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        let status = worker.status()();
        let found = (status.lost, status.below_target, status.chunks);
        assert_eq!(found, (0, 0, 3), "{status:?}");
        assert!(world.get("a").await.unwrap() == bytes);
        let report = check(&world, true).await;
        assert!(report.clean, "{report:?}");
    });
}

#[test]
fn a_disk_that_is_alone_and_answers_is_emptied_when_it_is_given_up() {
    // Into its own zone, or into another one because it is the last disk of its own.
    for zone in ["a", "b"] {
        simulated(async {
            let mut world = World::start(1).await;
            let bytes = content(9 * MIB, 303);
            world.put("a", &bytes).await;
            let disk = disk_in(&world, 1).await;
            world.add_node_in(zone, 2, 20).await;
            set_state(&world, disk, REMOVED).await;
            keep_on(&mut world, 3).await;
            assert_served(&world);
            assert!(world.store.remove_disk(disk).await);
            world.view.refresh().await.unwrap();
            assert!(world.get("a").await.unwrap() == bytes);
            let report = check(&world, true).await;
            assert!(report.clean, "{report:?}");
        });
    }
}

#[test]
fn a_disk_that_may_come_back_keeps_its_groups() {
    simulated(async {
        let mut world = World::start(1).await;
        let bytes = content(9 * MIB, 304);
        world.put("a", &bytes).await;
        let disk = disk_in(&world, 1).await;
        world.add_node_in("b", 2, 20).await;
        world.keep().await;
        let groups = groups_on(&world, disk);
        // Its node restarts, and was not given up: the disk alone was.
        let stopped = world.nodes.stop(1);
        set_state(&world, disk, REMOVED).await;
        keep_on(&mut world, 5).await;
        assert_eq!(groups_on(&world, disk), groups);
        world.nodes.start(1, stopped);
        keep_on(&mut world, 3).await;
        assert_served(&world);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

/// A disk alone with its groups that is being emptied into one without room for all of it, and a third
/// one that has room.
async fn being_emptied(seed: u64) -> (World, bytes::Bytes, DiskId) {
    let mut world = World::start(1).await;
    let bytes = content(9 * MIB, seed);
    world.put("a", &bytes).await;
    let disk = disk_in(&world, 1).await;
    world.add_node(2, 20).await;
    world.vfs.set_capacity(dir(20), 3 << 20);
    set_state(&world, disk, REMOVED).await;
    keep_on(&mut world, 1).await;
    let map = world.view.map();
    let mut groups = map.groups();
    assert!(
        groups.any(|group| group.disks().any(|member| member == disk)),
        "it is empty: the test tests nothing"
    );
    world.add_node(3, 30).await;
    (world, bytes, disk)
}

#[test]
fn a_disk_that_is_being_emptied_keeps_its_place_while_its_node_restarts() {
    simulated(async {
        let (mut world, bytes, disk) = being_emptied(307).await;
        let stopped = world.nodes.stop(1);
        keep_on(&mut world, 5).await;
        world.nodes.start(1, stopped);
        world.view.refresh().await.unwrap();
        assert!(world.get("a").await.unwrap() == bytes);
        world.vfs.set_capacity(dir(20), 1 << 30);
        keep_on(&mut world, 10).await;
        assert_served(&world);
        assert!(world.store.remove_disk(disk).await);
        world.view.refresh().await.unwrap();
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn a_disk_that_is_being_emptied_and_stays_away_is_not_waited_for() {
    simulated(async {
        let (mut world, bytes, disk) = being_emptied(308).await;
        world.vfs.set_capacity(dir(20), 1 << 30);
        let stopped = world.nodes.stop(1);
        keep_on(&mut world, 16).await;
        assert_served(&world);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        assert!(worker.status()().lost > 0);
        // What it has is copied back when it is there after all.
        world.nodes.start(1, stopped);
        world.view.refresh().await.unwrap();
        assert!(!world.view.map().is_in(disk));
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        assert_eq!(worker.status()().lost, 0);
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn a_disk_that_is_being_emptied_is_not_gone_because_most_are_silent() {
    simulated(async {
        let (mut world, bytes, disk) = being_emptied(309).await;
        for node in 4..=6 {
            world.add_node(node, 10 * node as usize).await;
        }
        world.view.refresh().await.unwrap();
        let stopped = [1, 4, 5, 6].map(|node| (node, world.nodes.stop(node)));
        keep_on(&mut world, 20).await;
        for (node, stopped) in stopped {
            world.nodes.start(node, stopped);
        }
        world.view.refresh().await.unwrap();
        assert!(world.view.map().is_removed(disk));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}
