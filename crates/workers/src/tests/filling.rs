//! Members that are being filled while others come and go: none counts as filled that was not compared
//! from the first chunk to the last, and what one of them alone has is not left behind.

use std::time::Duration;

use bytes::Bytes;
use granary_datapath::Group;
use granary_meta_api::pb;

use super::growth::{REMOVED, set_state};
use super::world::{World, content, simulated};
use super::{disk_in, fewest_copies};
use crate::Worker;

const SIZE: usize = 20 * 1024;
/// A step of filling two groups takes a few seconds.
const SLOW: u64 = 64 * 1024;

/// Stores some objects of a chunk each.
async fn put_many(world: &World, count: usize) -> Vec<(&'static str, Bytes)> {
    let mut objects = Vec::new();
    for n in 0..count {
        let key: &'static str = Box::leak(format!("many/{n}").into_boxed_str());
        let bytes = content(SIZE, 400 + n as u64);
        world.put(key, &bytes).await;
        objects.push((key, bytes));
    }
    objects
}

/// Ticks the keeper until every member is complete and in service.
async fn until_complete(world: &mut World) {
    for _ in 0..500 {
        let _ = world.keeper.tick(1).await;
        world.runtime.sleep(Duration::from_secs(2)).await;
        world.view.refresh().await.unwrap();
        let map = world.view.map();
        let mut members = map.groups().flat_map(|group| group.members.iter());
        if members.all(|member| member.complete && map.is_in(member.disk)) {
            return;
        }
    }
    let map = world.view.map();
    let incomplete = |group: &&Group| {
        let mut members = group.members.iter();
        !members.all(|member| member.complete && map.is_in(member.disk))
    };
    let left: Vec<_> = map.groups().filter(incomplete).collect();
    panic!("never complete: {left:?}");
}

#[test]
fn a_member_that_was_away_during_a_part_of_the_comparison_is_not_filled_by_it() {
    simulated(async {
        let mut world = World::start(1).await;
        world.add_node(2, 20).await;
        world.add_node(3, 30).await;
        world.keep().await;
        put_many(&world, 600).await;
        for node in [4, 5] {
            world.add_node(node, 10 * node as usize).await;
        }
        world.keeper = world.slow_keeper(SLOW);
        for directory in [20, 30] {
            let disk = disk_in(&world, directory).await;
            set_state(&world, disk, REMOVED).await;
        }
        // Until others have begun to take both places.
        for _ in 0..3 {
            let _ = world.keeper.tick(1).await;
        }
        let stopped = world.nodes.stop(5);
        let _ = world.keeper.tick(1).await;
        world.nodes.start(5, stopped);
        until_complete(&mut world).await;
        assert_eq!(fewest_copies(&world).await, (3, 3));
    });
}

#[test]
fn nobody_is_filled_while_the_one_that_has_everything_is_not_seen() {
    simulated(async {
        let mut world = World::start(1).await;
        put_many(&world, 200).await;
        world.add_node(2, 20).await;
        world.keeper = world.slow_keeper(2 * SLOW);
        let (nodes, view, runtime) = (
            world.nodes.clone(),
            world.view.clone(),
            world.runtime.clone(),
        );
        // A question how its disks do is not answered in time, in the middle of a step.
        let blip = async || {
            runtime.sleep(Duration::from_secs(1)).await;
            let stopped = nodes.stop(1);
            view.refresh_health().await;
            nodes.start(1, stopped);
        };
        for _ in 0..4 {
            let _ = tokio::join!(world.keeper.tick(1), blip());
        }
        until_complete(&mut world).await;
        assert_eq!(fewest_copies(&world).await, (2, 2));
    });
}

#[test]
fn what_only_a_member_that_was_never_filled_has_is_not_left_behind_with_it() {
    simulated(async {
        let mut world = World::start(1).await;
        let objects = put_many(&world, 200).await;
        let first = disk_in(&world, 1).await;
        let second = world.add_node(2, 20).await;
        world.keeper = world.slow_keeper(SLOW);
        set_state(&world, first, REMOVED).await;
        for _ in 0..3 {
            let _ = world.keeper.tick(1).await;
        }
        // The disk that is emptied is lost with its node, and then the other one is to go as well.
        world.nodes.stop(1);
        let remove = pb::RemoveNode { node: 1 };
        world.meta.propose(remove).await.unwrap().unwrap();
        for node in [3, 4, 5] {
            world.add_node(node, 10 * node as usize).await;
        }
        world.view.refresh().await.unwrap();
        let mut copied = Vec::new();
        for (key, bytes) in objects {
            if world.get(key).await.is_ok_and(|read| read == bytes) {
                copied.push((key, bytes));
            }
        }
        assert!((20..180).contains(&copied.len()), "{}", copied.len());
        let _ = world.keeper.tick(1).await;
        set_state(&world, second, REMOVED).await;
        until_complete(&mut world).await;
        world.nodes.stop(2);
        world.view.refresh().await.unwrap();
        for (key, bytes) in copied {
            assert!(world.get(key).await.unwrap() == bytes, "{key}");
        }
    });
}
