//! What an operator may give up, and when nobody should: nothing is lost that somebody still has, and
//! no number says that all is well when nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use granary_datapath::{ClusterView, DataPath, DataPathConfig, Group, MAP_AGE_MAX};
use granary_meta::MetaNode;
use granary_meta_api::disk_state::{IN, OUT};
use granary_meta_api::pb::query::Query;
use granary_meta_api::{Meta, MetaError, MetaService, pb};
use granary_types::{DiskId, ShardId};

use super::fsck::check;
use super::growth::{REMOVED, keep_on, set_state};
use super::world::{GRACE_MS, MIB, World, content, dir, keeper_config, run, simulated};
use super::{assert_whole, deletion, disk_in, fewest_copies, redundancy};
use crate::{Away, KeeperConfig, PlacementKeeper, RedundancyWorker, Waits, Worker};

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
            keeper_config(),
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

#[test]
fn a_disk_that_comes_back_is_compared_before_anybody_relies_on_it() {
    simulated(async {
        let mut world = World::start(2).await;
        let (before, during) = (content(9 * MIB, 105), content(9 * MIB, 106));
        world.put("before", &before).await;
        let (stale, other) = (disk_in(&world, 1).await, disk_in(&world, 2).await);
        assert!(world.store.remove_disk(stale).await);
        keep_on(&mut world, 1).await;
        assert!(!world.view.map().is_in(stale), "it was never out");
        // Nobody has its place, and one disk alone takes this.
        world.put("during", &during).await;
        let spare = world.add_disk(3).await;
        assert_eq!(world.add_disk(1).await, stale);
        set_state(&world, other, REMOVED).await;
        keep_on(&mut world, 3).await;
        let map = world.view.map();
        assert!(map.is_in(stale) && map.is_in(spare));
        let mut members = map.groups().flat_map(|group| group.members.iter());
        assert!(members.all(|member| member.disk != other && member.complete));
        assert!(world.store.remove_disk(other).await);
        world.view.refresh().await.unwrap();
        assert!(world.get("before").await.unwrap() == before);
        assert!(world.get("during").await.unwrap() == during);
        assert_whole(&world, 2).await;
    });
}

#[test]
fn disks_that_all_come_back_leave_no_group_without_a_complete_member() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(9 * MIB, 107);
        world.put("a", &bytes).await;
        let epochs = |world: &World| {
            let map = world.view.map();
            map.groups().map(|group| group.epoch).max()
        };
        let at_first = epochs(&world);
        for directory in 1..=3 {
            let disk = disk_in(&world, directory).await;
            assert!(world.store.remove_disk(disk).await);
        }
        keep_on(&mut world, 1).await;
        assert!(world.view.map().disks().all(|disk| disk.state == OUT));
        for directory in 1..=3 {
            world.add_disk(directory).await;
        }
        keep_on(&mut world, 1).await;
        let map = world.view.map();
        assert!(map.disks().all(|disk| disk.state == IN));
        assert!(epochs(&world) > at_first, "nothing was compared");
        let mut members = map.groups().flat_map(|group| group.members.iter());
        assert!(members.all(|member| member.complete));
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn disks_that_come_back_without_the_third_make_their_groups_whole_again() {
    simulated(async {
        let mut world = World::start(3).await;
        let bytes = content(9 * MIB, 108);
        world.put("a", &bytes).await;
        for directory in 1..=3 {
            let disk = disk_in(&world, directory).await;
            assert!(world.store.remove_disk(disk).await);
        }
        keep_on(&mut world, 1).await;
        assert!(world.view.map().disks().all(|disk| disk.state == OUT));
        // Two of them are back, and one that was never there, in the same tick; the third is dead.
        for directory in [1, 2, 9] {
            world.add_disk(directory).await;
        }
        keep_on(&mut world, 5).await;
        assert_whole(&world, 3).await;
        assert_eq!(fewest_copies(&world).await.0, 3);
        assert!(world.get("a").await.unwrap() == bytes);
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        assert_eq!(worker.status()().below_target, 0);
    });
}

#[test]
fn an_exchanged_disk_and_its_successor_are_not_two() {
    simulated(async {
        let mut world = World::start(2).await;
        let bytes = content(9 * MIB, 109);
        world.put("a", &bytes).await;
        let old = disk_in(&world, 2).await;
        assert!(world.store.remove_disk(old).await);
        world.wipe(2);
        let new = world.add_disk(2).await;
        assert_ne!(new, old);
        keep_on(&mut world, 5).await;
        let copies = |world: &World| {
            let map = world.view.map();
            map.pools().iter().map(|pool| pool.copies).max()
        };
        assert_eq!(
            copies(&world),
            Some(2),
            "two directories have no room for more"
        );
        let mut worker = redundancy(&world);
        run(&mut worker).await;
        let status = worker.status()();
        assert_eq!((status.chunks, status.below_target), (3, 0), "{status:?}");
        assert!(world.get("a").await.unwrap() == bytes);
        // A third directory is one.
        world.add_disk(3).await;
        keep_on(&mut world, 5).await;
        assert_eq!(copies(&world), Some(3));
        assert_eq!(fewest_copies(&world).await.0, 3);
    });
}

/// A root that gives no answer while it is cut off; the other shards do.
struct CutOff {
    node: Arc<MetaNode>,
    root: AtomicBool,
}

#[async_trait]
impl MetaService for CutOff {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        self.reach(shard)?;
        self.node.propose(shard, command).await
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        self.reach(shard)?;
        self.node.query(shard, query).await
    }
}

impl CutOff {
    fn reach(&self, shard: ShardId) -> Result<(), MetaError> {
        let cut = shard == ShardId::ROOT && self.root.load(Ordering::Relaxed);
        let leader = None;
        match cut {
            true => Err(MetaError::NotLeader { shard, leader }),
            false => Ok(()),
        }
    }
}

#[test]
fn a_place_is_given_away_only_when_no_gateway_counts_its_disk_any_more() {
    simulated(async {
        let mut world = World::start(3).await;
        world.keeper = PlacementKeeper::new(
            world.runtime.clone(),
            world.meta.clone(),
            world.path.clone(),
            world.metrics.clone(),
            KeeperConfig::default(),
        );
        // A gateway that reaches two of the three disks, the shards, and not the root.
        let service = Arc::new(CutOff {
            node: Arc::clone(&world.node),
            root: AtomicBool::new(false),
        });
        let meta = Meta::new(
            world.runtime.clone(),
            service.clone() as Arc<dyn MetaService>,
        );
        let nodes = world.nodes.seen_by_another();
        let view = ClusterView::new(world.runtime.clone(), meta.clone(), Arc::new(nodes.clone()));
        view.refresh().await.unwrap();
        let config = DataPathConfig::default();
        let gateway = DataPath::new(world.runtime.clone(), meta, view.clone(), config);
        let mut disks = Vec::new();
        for directory in 1..=3 {
            disks.push(disk_in(&world, directory).await);
            world.add_disk(directory + 10).await;
        }
        let bytes = content(MIB, 108);
        let first = world.write_through(&gateway, "late", &bytes).await;
        assert!(first.is_ok());
        nodes.hang(disks[0], true);
        view.refresh_map().await.unwrap();
        service.root.store(true, Ordering::Relaxed);
        let cut_at = world.runtime.monotonic();

        for &disk in &disks[1..] {
            set_state(&world, disk, REMOVED).await;
        }
        let (mut counted, mut given_away) = (0, false);
        while !given_away {
            let _ = world.keeper.tick(1).await;
            world.view.refresh().await.unwrap();
            let map = world.view.map();
            let is_given_away = |group: &Group| {
                let mut former = disks.iter();
                former.any(|&disk| group.disks().all(|member| member != disk))
            };
            let old = view.map();
            let mut known = old.groups().filter_map(|group| map.group(group.id));
            given_away = known.any(is_given_away);
            let before = world.runtime.monotonic();
            let took = world.write_through(&gateway, "late", &bytes).await;
            assert!(!(took.is_ok() && given_away), "counted on former members");
            counted += u32::from(took.is_ok());
            let late = world.runtime.monotonic() - cut_at;
            assert!(late < Duration::from_secs(300), "never given away");
            if world.runtime.monotonic() - before < Duration::from_secs(2) {
                world.runtime.sleep(Duration::from_secs(2)).await;
            }
        }
        assert!(counted > 0, "the gateway never wrote anything");
        let after = world.runtime.monotonic() - cut_at;
        assert!(after > MAP_AGE_MAX, "given away after {after:?}");
    });
}

#[test]
fn it_is_told_what_is_waited_for_and_for_how_long() {
    simulated(async {
        let mut world = World::start(4).await;
        world.put("a", &content(9 * MIB, 111)).await;
        world.keeper = PlacementKeeper::new(
            world.runtime.clone(),
            world.meta.clone(),
            world.path.clone(),
            world.metrics.clone(),
            KeeperConfig::default(),
        );
        let waits = world.keeper.waits();
        world.keep().await;
        assert_eq!(waits(), Some(Waits::default()), "nothing is away");
        let disk = disk_in(&world, 2).await;
        let of_disk = world.view.map();
        let of_disk = of_disk
            .groups()
            .filter(|group| group.disks().any(|d| d == disk));
        let lost = of_disk.count() as u64;
        assert!(world.store.remove_disk(disk).await);
        let _ = world.keeper.tick(1).await;
        world.runtime.sleep(Duration::from_secs(10)).await;
        let left = |secs| Some(Duration::from_secs(secs));
        let told = waits().unwrap();
        let gives_up = told.gives_up_in.get(&disk).copied();
        assert_eq!(gives_up, Some((Duration::from_secs(20), Away::Missing)));
        assert_eq!((told.replaces_in, told.groups), (None, (0, lost)));
        world.runtime.sleep(Duration::from_secs(20)).await;
        let _ = world.keeper.tick(1).await;
        world.runtime.sleep(Duration::from_secs(25)).await;
        let told = waits().unwrap();
        assert!(told.gives_up_in.is_empty(), "{told:?}");
        assert_eq!((told.replaces_in, told.groups), (left(40), (0, lost)));
        world.runtime.sleep(Duration::from_secs(40)).await;
        let _ = world.keeper.tick(1).await;
        assert_eq!(waits().unwrap().replaces_in, None);
        keep_on(&mut world, 2).await;
        assert_eq!(waits(), Some(Waits::default()));
        assert_whole(&world, 3).await;
    });
}

#[test]
fn members_that_were_never_filled_are_filled_only_when_all_of_them_were_read() {
    simulated(async {
        let mut world = World::start(7).await;
        let bytes = content(45 * MIB, 109);
        world.put("a", &bytes).await;
        let map = world.view.map();
        let (_, entry) = world.listed().await[0];
        let group = map.group(entry.pg()).unwrap().clone();
        let old: Vec<DiskId> = group.disks().collect();
        let others = map.disks().map(|disk| DiskId(disk.id));
        let new: Vec<DiskId> = others.filter(|disk| !old.contains(disk)).collect();
        // One of them has everything, and nobody says so.
        let replace = async |world: &World, from: DiskId, to: DiskId| {
            world.view.refresh().await.unwrap();
            let map = world.view.map();
            let command = pb::ReplacePgMember {
                pg: group.id.0,
                epoch: map.group(group.id).unwrap().epoch,
                old_disk: from.0,
                new_disk: to.0,
            };
            world.meta.propose(command).await.unwrap().unwrap();
        };
        for (from, to) in [
            (old[0], new[3]),
            (new[3], old[0]),
            (old[1], new[1]),
            (old[2], new[2]),
        ] {
            replace(&world, from, to).await;
        }
        let complete = async |world: &World| {
            world.view.refresh().await.unwrap();
            let map = world.view.map();
            let members = map.group(group.id).unwrap().members.clone();
            members.iter().filter(|member| member.complete).count()
        };
        let directory = map.disks().find(|disk| disk.id == old[0].0).unwrap();
        let directory = directory.path.trim_start_matches("/disk").parse().unwrap();
        assert!(world.store.remove_disk(old[0]).await);
        for _ in 0..5 {
            let _ = world.keeper.tick(1).await;
            assert_eq!(complete(&world).await, 0, "an empty disk counts as filled");
            world.runtime.sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(world.add_disk(directory).await, old[0]);
        keep_on(&mut world, 3).await;
        assert_eq!(complete(&world).await, 3);
        for &disk in &old[1..] {
            assert!(world.store.remove_disk(disk).await);
        }
        world.view.refresh().await.unwrap();
        assert!(world.get("a").await.unwrap() == bytes);
    });
}

#[test]
fn what_is_deleted_while_a_given_up_disk_is_read_does_not_come_back_from_it() {
    simulated(async {
        let mut world = World::start(3).await;
        world.put("a", &content(45 * MIB, 110)).await;
        for directory in 1..=3 {
            let disk = disk_in(&world, directory).await;
            world.add_disk(directory + 10).await;
            set_state(&world, disk, REMOVED).await;
        }
        let _ = world.keeper.tick(1).await;
        world.delete("a").await;
        world.pass(Duration::from_millis(GRACE_MS + 1000)).await;
        for _ in 0..5 {
            // It waits for disks that are not told of deletions any more.
            let _ = deletion(&world).tick(1).await;
            world.runtime.sleep(Duration::from_secs(5)).await;
        }
        keep_on(&mut world, 5).await;
        let map = world.view.map();
        let in_service: Vec<_> = world.listed().await;
        let alive = in_service
            .iter()
            .filter(|(disk, entry)| map.is_in(*disk) && !entry.deleted);
        assert_eq!(alive.count(), 0, "it came back");
        let report = check(&world, true).await;
        assert!(report.clean, "{report:?}");
    });
}

#[test]
fn a_disk_that_forgot_the_epochs_of_its_groups_is_told_again() {
    simulated(async {
        let mut world = World::start(3).await;
        let disk = disk_in(&world, 2).await;
        world.nodes.forget_epochs(disk);
        keep_on(&mut world, 2).await;
        assert!(!world.nodes.has_forgotten(disk), "nobody told it again");
    });
}
