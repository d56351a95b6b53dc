//! A range is split under the jobs that go over all shards: none of them has to start anew for that.

use granary_meta_api::pb;
use granary_types::{BucketId, ShardId};

use super::fsck::check;
use super::world::{GRACE_MS, LEASE_MS, MIB, World, content, run, simulated};
use super::{deletion, sweep};
use crate::fsck::{Named, References};
use crate::shard_walk::ShardWalk;

/// The shard that holds a key.
async fn holder(world: &World, key: &'static str) -> ShardId {
    world.meta.refresh_map().await.unwrap();
    let segments = world.meta.segments(BucketId(world.bucket.id)).await;
    let segments = segments.unwrap();
    let mut holders = segments.iter().rev();
    let found = holders.find(|segment| &segment.start_key[..] < key.as_bytes());
    found.unwrap().shard
}

/// Splits what holds a key at that key; the root may not know the child yet.
async fn split(world: &World, key: &'static str) {
    let parent = holder(world, key).await;
    let nonce = world.runtime.entropy().next_u128().to_be_bytes();
    let nonce = bytes::Bytes::copy_from_slice(&nonce);
    let child = world.meta.propose(pb::AllocateShard { nonce }).await;
    let child = child.unwrap().unwrap();
    let command = pb::SplitRange {
        split_bucket: world.bucket.id,
        split_key: key.into(),
        child_shard: u32::try_from(child.id).unwrap(),
        child_home_slab: child.slab,
        ..Default::default()
    };
    let split = world.meta.propose_to(parent, command).await;
    split.unwrap().unwrap();
}

/// Every chunk that rows name, with a split just before the rows are read of which it takes some.
async fn walked(world: &World, at: Option<&'static str>) -> usize {
    let mut walk = ShardWalk::new(&world.view);
    let mut named = std::collections::BTreeSet::new();
    let mut splits = match at {
        Some(at) => Some((holder(world, at).await, at)),
        None => None,
    };
    while let Some(shard) = walk.current() {
        let mut pages = References::new(shard);
        if let Some((_, at)) = splits.take_if(|(parent, _)| *parent == shard) {
            split(world, at).await;
        }
        while let Some(page) = pages.next(&world.meta).await.unwrap() {
            named.extend(page.iter().filter_map(Named::of).map(|chunk| chunk.id));
        }
        walk.advance(&world.meta, &world.view).await.unwrap();
    }
    assert!(splits.is_none(), "the walk never came to the parent");
    named.len()
}

#[test]
fn a_walk_over_all_rows_finds_what_a_split_takes_from_under_it() {
    simulated(async {
        let world = World::start(3).await;
        for (n, key) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            world.put(key, &content(5 * MIB, n as u64)).await;
        }
        assert_eq!(walked(&world, None).await, 12);
        assert_eq!(walked(&world, Some("e")).await, 12);
        assert_eq!(walked(&world, Some("c")).await, 12);
        assert_eq!(walked(&world, None).await, 12);
    });
}

#[test]
fn what_is_deleted_after_a_split_is_freed_by_jobs_that_run_already() {
    simulated(async {
        let world = World::start(3).await;
        for (n, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
            world.put(key, &content(5 * MIB, n as u64)).await;
        }
        let (mut deletion, mut sweep) = (deletion(&world), sweep(&world));
        run(&mut deletion).await;
        run(&mut sweep).await;
        split(&world, "c").await;
        for key in ["b", "c", "d"] {
            world.delete(key).await;
        }
        // A write that ends nowhere, in the child's part.
        drop(world.write("dd", &content(5 * MIB, 9)).await);
        world
            .pass(std::time::Duration::from_millis(
                GRACE_MS.max(LEASE_MS) + 60_000,
            ))
            .await;
        for _ in 0..3 {
            world.view.refresh_map().await.unwrap();
            run(&mut deletion).await;
            run(&mut sweep).await;
        }
        let (chunks, _) = world.chunks().await;
        assert_eq!(chunks.len(), 2, "those of \"a\"");
        let report = check(&world, true).await;
        assert!(report.clean && report.complete, "{report:?}");
        assert_eq!(world.get("a").await.unwrap(), content(5 * MIB, 0));
    });
}
