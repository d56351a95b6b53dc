//! What an operator may give up, and when nobody should: nothing is lost that somebody still has, and
//! no number says that all is well when nobody knows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta::MetaNode;
use granary_meta_api::pb::query::Query;
use granary_meta_api::{Meta, MetaError, MetaService, pb};
use granary_types::ShardId;

use super::growth::{REMOVED, keep_on, set_state};
use super::world::{MIB, World, content, dir, run, simulated};
use super::{assert_whole, disk_in, fewest_copies, redundancy};
use crate::{KeeperConfig, PlacementKeeper, RedundancyWorker, Worker};

#[test]
fn a_disk_that_is_given_up_and_answers_is_read_until_others_have_what_it_has() {
    // One a tick, or all at once.
    for ticks_between in [1, 0] {
        simulated(async {
            let mut world = World::start(3).await;
            let bytes = content(45 * MIB, 101);
            world.put("a", &bytes).await;
            let mut old = Vec::new();
            for directory in 1..=3 {
                old.push(disk_in(&world, directory).await);
                world.add_disk(directory + 10).await;
            }
            for &disk in &old {
                set_state(&world, disk, REMOVED).await;
                for _ in 0..ticks_between {
                    let _ = world.keeper.tick(1).await;
                }
            }
            keep_on(&mut world, 5).await;
            let map = world.view.map();
            let mut members = map.groups().flat_map(|group| group.disks());
            assert!(members.all(|disk| !old.contains(&disk)), "still members");
            assert_eq!(fewest_copies(&world).await.0, 3);
            for disk in old {
                assert!(world.store.remove_disk(disk).await);
            }
            world.view.refresh().await.unwrap();
            assert!(world.get("a").await.unwrap() == bytes);
            let mut worker = redundancy(&world);
            run(&mut worker).await;
            let status = worker.status()();
            let found = (status.chunks, status.below_target, status.lost);
            assert_eq!(found, (12, 0, 0), "{status:?}");
        });
    }
}

#[test]
fn a_group_of_which_nobody_answers_is_not_counted_as_well() {
    simulated(async {
        let world = World::start(1).await;
        world.put("a", &content(9 * MIB, 102)).await;
        let only = disk_in(&world, 1).await;
        assert!(world.store.remove_disk(only).await);
        world.view.refresh().await.unwrap();
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        let groups = world.view.map().groups().count() as u64;
        assert_eq!((status.groups_unknown, status.chunks), (groups, 0));
        assert_eq!(world.add_disk(1).await, only);
        world.runtime.sleep(Duration::from_secs(61)).await;
        run(&mut worker).await;
        let status = worker.status()();
        assert_eq!((status.groups_unknown, status.chunks), (0, 3));
    });
}

#[test]
fn how_long_a_disk_is_away_is_not_remembered_from_an_earlier_turn() {
    simulated(async {
        let mut world = World::start(4).await;
        let disk = disk_in(&world, 2).await;
        assert!(world.store.remove_disk(disk).await);
        let _ = world.keeper.tick(1).await;
        // Another process leads for an hour, in which the disk is there; then it is away again.
        world.runtime.sleep(Duration::from_secs(3600)).await;
        world.keeper.resume(b"");
        let _ = world.keeper.tick(1).await;
        world.view.refresh().await.unwrap();
        assert!(world.view.map().is_in(disk), "given up at once");
        world.runtime.sleep(Duration::from_secs(31)).await;
        let _ = world.keeper.tick(1).await;
        world.view.refresh().await.unwrap();
        assert!(!world.view.map().is_in(disk), "never given up");
    });
}

/// A metadata service some of whose shards have no leader: they never say whose an object id is.
struct Leaderless(Arc<MetaNode>);

#[async_trait]
impl MetaService for Leaderless {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        self.0.propose(shard, command).await
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        if matches!(query.query, Some(Query::LookupOwners(_))) {
            return Err(MetaError::NotLeader {
                shard,
                leader: None,
            });
        }
        self.0.query(shard, query).await
    }
}

#[test]
fn chunks_are_repaired_while_a_shard_has_no_leader() {
    simulated(async {
        let mut world = World::start(4).await;
        let bytes = content(45 * MIB, 103);
        world.put("a", &bytes).await;
        let service = Arc::new(Leaderless(Arc::clone(&world.node)));
        let meta = Meta::new(world.runtime.clone(), service as Arc<dyn MetaService>);
        world.keeper = PlacementKeeper::new(
            world.runtime.clone(),
            meta.clone(),
            world.path.clone(),
            world.metrics.clone(),
            KeeperConfig::default(),
        );
        world.vfs.inject(dir(2), granary_vfs::Fault::WriteError);
        world.put("b", &content(MIB, 104)).await;
        keep_on(&mut world, 3).await;
        assert_whole(&world, 3).await;
        // And so does who counts: a copy that got lost is made again.
        let (disk, entry) = world.listed().await[0];
        super::growth::lose_copy(&world, disk, entry.id).await;
        let (runtime, path) = (world.runtime.clone(), world.path.clone());
        let every = Duration::from_secs(60);
        let metrics = world.metrics.clone();
        let mut worker = RedundancyWorker::new(runtime, meta, path, metrics, every);
        for _ in 0..20 {
            let _ = worker.tick(1).await;
        }
        assert_whole(&world, 3).await;
        let copies = world.listed().await;
        assert!(copies.iter().any(|(on, e)| (*on, e.id) == (disk, entry.id)));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}
