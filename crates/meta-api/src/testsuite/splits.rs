//! A range is split while clients work on it.

use std::time::Duration;

use bytes::Bytes;
use granary_types::ShardId;

use super::listing::walk;
use super::{Suite, TestBucket, chunks};
use crate::client::OwnerFate;
use crate::pb;

/// Splits the range of a key; waits until the root knows the child, and returns it.
pub(super) async fn split(suite: &Suite, bucket: TestBucket, key: &str) -> ShardId {
    let parent = suite.shard_of(bucket, key).await;
    let nonce = suite.runtime.entropy().next_u128().to_be_bytes();
    let nonce = Bytes::copy_from_slice(&nonce);
    let child = suite.accepted(pb::AllocateShard { nonce }).await;
    let command = pb::SplitRange {
        split_bucket: bucket.id.0,
        split_key: Bytes::copy_from_slice(key.as_bytes()),
        child_shard: u32::try_from(child.id).unwrap(),
        child_home_slab: child.slab,
        ..Default::default()
    };
    suite
        .meta
        .propose_to(parent, command)
        .await
        .unwrap()
        .unwrap();
    let child = ShardId(u32::try_from(child.id).unwrap());
    for _ in 0..1000 {
        if suite.data_shards().await.contains(&child) {
            suite.meta.refresh_map().await.unwrap();
            return child;
        }
        suite.runtime.sleep(Duration::from_millis(10)).await;
    }
    panic!("the root was not told of shard {child}")
}

fn name(n: u32) -> String {
    format!("k{n:02}/x")
}

/// After a split every object, upload, part, answer and deletion is where a client looks for it,
/// and listings go across.
pub async fn a_split_moves_nothing_a_client_can_see(suite: Suite) {
    let bucket = suite.bucket("splitting").await;
    for n in 0..30 {
        suite.put(bucket, &name(n), &format!("{n}")).await;
    }
    chunks::write(&suite, bucket, "k25/big", 300, 200).await;
    chunks::write(&suite, bucket, "k26/gone", 150, 0).await;
    suite.delete(bucket, "k26/gone").await;
    let open = suite.begin_write(bucket, "k27/open").await;
    let stage = pb::StageExtents {
        at: Some(bucket.at("k27/open")),
        write_id: open.clone(),
        extents: vec![super::extent(1, 5)],
        ..Default::default()
    };
    suite.accepted(stage).await;
    let upload_id = suite.begin_write(bucket, "k28/up").await;
    let initiate = pb::InitiateUpload {
        at: Some(bucket.at("k28/up")),
        upload_id: upload_id.clone(),
        ..Default::default()
    };
    suite.accepted(initiate).await;
    let repeated = suite.envelope(pb::PutObject {
        at: Some(bucket.at("k29/rep")),
        payload: Some(super::inline("once")),
        ..Default::default()
    });
    let parent = suite.shard_of(bucket, "k29/rep").await;
    let answer = suite.send(parent, &repeated).await.unwrap();
    suite.put(bucket, "k29/rep", "newer").await;
    let before = walk(&suite, bucket, ("", "", ""), 7).await;
    let counters = suite.counters(bucket).await;

    let child = split(&suite, bucket, "k12/x").await;
    assert_ne!(child, parent);
    assert_eq!(suite.shard_of(bucket, "k12/x").await, child);
    assert_eq!(suite.shard_of(bucket, "k11/x").await, parent);
    for limit in [1, 5, 1000] {
        assert_eq!(
            walk(&suite, bucket, ("", "", ""), limit).await,
            before,
            "pages of {limit}"
        );
    }
    let groups: Vec<_> = (0..30).map(|n| format!("k{n:02}/")).collect();
    assert_eq!(walk(&suite, bucket, ("", "/", ""), 4).await, groups);
    for n in 0..30 {
        assert_eq!(suite.get(bucket, &name(n)).await, Some(format!("{n}")));
    }
    assert_eq!(suite.counters(bucket).await, counters);
    // The answer is replayed by the child, and the parent says that it is not its business.
    assert_eq!(suite.send(child, &repeated).await.unwrap(), answer);
    assert!(suite.send(parent, &repeated).await.is_err());
    assert_eq!(suite.get(bucket, "k29/rep").await.as_deref(), Some("newer"));
    // The open write is committed and the upload ended where they now belong.
    let commit = pb::PutObject {
        at: Some(bucket.at("k27/open")),
        payload: Some(pb::Payload {
            write_id: open,
            staged_extents: 1,
            size: 5,
            ..Default::default()
        }),
        ..Default::default()
    };
    suite.accepted(commit).await;
    let complete = pb::CompleteUpload {
        at: Some(bucket.at("k28/up")),
        upload_id,
        all: true,
        ..Default::default()
    };
    suite.accepted(complete).await;
    let big = suite.version(bucket, "k25/big", 0).await.version.unwrap();
    assert_eq!(
        chunks::read(&suite, bucket, "k25/big", &big, 0, 1000)
            .await
            .len(),
        300
    );
    // The deletion went along with its position.
    suite
        .advance(suite.settings().await.reader_grace_ms + 1)
        .await;
    assert!(suite.deletions(parent).await.entries.is_empty());
    let due = suite.deletions(child).await.entries;
    assert_eq!(due.len(), 1);
    suite.acknowledge(child, vec![due[0].seq]).await;
    assert_eq!(suite.deletions(child).await.pending, 0);
    // Stamps go on above the parent's.
    let newer = suite.put(bucket, "k29/rep", "newest").await;
    assert!(newer.stamp > big.stamp);
    // A bucket in pieces is deleted as a whole.
    let refused = suite.meta.delete_bucket(bucket.id).await.unwrap();
    assert!(refused.is_err());
    for key in walk(&suite, bucket, ("", "", ""), 1000).await {
        suite.delete(bucket, &key).await;
    }
    suite.meta.delete_bucket(bucket.id).await.unwrap().unwrap();
}

/// A listing that began before a split ends after it, also when the child splits again.
pub async fn listings_go_on_across_splits(suite: Suite) {
    let bucket = suite.bucket("pieces").await;
    for n in 0..40 {
        suite.put(bucket, &name(n), "x").await;
    }
    let expected: Vec<_> = (0..40).map(name).collect();
    let mut query = pb::ListObjects {
        bucket_id: bucket.id.0,
        limit: 9,
        ..Default::default()
    };
    let mut seen = Vec::new();
    let mut shards = vec![suite.shard_of(bucket, "a").await];
    for at in [20, 30, 10, 35] {
        let (names, page) = suite.list(query.clone()).await;
        seen.extend(names);
        query.after = page.resume_after;
        shards.push(split(&suite, bucket, &name(at)).await);
        suite.put(bucket, &name(at), "again").await;
    }
    loop {
        let (names, page) = suite.list(query.clone()).await;
        seen.extend(names);
        if !page.more {
            break;
        }
        query.after = page.resume_after;
    }
    assert_eq!(seen, expected);
    shards.sort_unstable();
    shards.dedup();
    assert_eq!(shards.len(), 5);
    assert_eq!(suite.meta.segments(bucket.id).await.unwrap().len(), 5);
    assert_eq!(suite.counters(bucket).await.objects, 40);
}

/// What GetBucketStat shows is the same before and after a split, for buckets that stay, that move
/// whole, and whose pieces move one after the other.
pub async fn a_split_changes_no_counter(suite: Suite) {
    let mut buckets = Vec::new();
    for n in 0..6 {
        let bucket = suite.bucket(&format!("counted-{n}")).await;
        for key in 0..=n {
            suite.put(bucket, &name(key), "four").await;
        }
        buckets.push(bucket);
    }
    let first = buckets[0];
    let all = async || {
        let mut counters = Vec::new();
        for bucket in &buckets {
            counters.push(suite.counters(*bucket).await);
        }
        counters
    };
    let before = all().await;
    assert_eq!(before[5].objects, 6);
    let whole = split(&suite, buckets[5], "").await;
    assert_eq!(suite.shard_of(buckets[5], "a").await, whole);
    assert_eq!(all().await, before, "the bucket moved whole");
    let parent = suite.shard_of(first, "a").await;
    let upper = split(&suite, first, &name(0)).await;
    assert_eq!(all().await, before, "the bucket is in two pieces");
    let lower = split(&suite, first, "").await;
    assert!(lower != upper && lower != parent);
    assert_eq!(all().await, before, "the lower piece moved as well");
    suite.delete(first, &name(0)).await;
    assert_eq!(suite.counters(first).await, pb::state::Counter::default());
    // A bucket that comes after it is not counted with what the old one left.
    suite.meta.delete_bucket(first.id).await.unwrap().unwrap();
    let again = suite.bucket("counted-0").await;
    suite.put(again, "a", "12").await;
    let counters = suite.counters(again).await;
    assert_eq!((counters.objects, counters.bytes), (1, 2));
}

/// After a split a shard says nothing about the part of a bucket that it has given away; the sweep
/// finds out by asking every owner.
pub async fn the_sweep_asks_every_piece(suite: Suite) {
    let bucket = suite.bucket("swept").await;
    let lease_ms = suite.settings().await.write_lease_ms;
    let upper = chunks::write(&suite, bucket, "x", 3, 0).await;
    let lower = chunks::write(&suite, bucket, "a", 3, 0).await;
    let unfinished = suite.begin_write(bucket, "x").await;
    let parent = suite.shard_of(bucket, "a").await;
    split(&suite, bucket, "m").await;
    suite.advance(lease_ms + 60_000).await;
    let whole = pb::LookupOwners {
        bucket_id: bucket.id.0,
        object_ids: vec![upper.clone()],
        segment: None,
    };
    let refused = suite.meta.query_at(parent, whole).await;
    assert_eq!(refused, Err(crate::MetaError::WrongShard(parent)));
    let asked = vec![upper, lower, unfinished.clone()];
    let fates = suite.meta.owner_fates(bucket.id, asked.clone()).await;
    let fates = fates.unwrap();
    let told = asked.iter().map(|object| fates[object]);
    // Rows of the upper part may lie beside those of the shard that gave it away: what that one says
    // of them is not the last word.
    assert_eq!(
        told.collect::<Vec<_>>(),
        [OwnerFate::Settled, OwnerFate::Settled, OwnerFate::Expired]
    );
    let expired = suite.meta.expired_owners(bucket.id, asked).await.unwrap();
    assert_eq!(expired.into_iter().collect::<Vec<_>>(), [unfinished]);
}

/// At the end of a page `more` says whether anything follows, also behind the end of a shard's part.
pub async fn more_is_said_only_when_something_follows(suite: Suite) {
    let bucket = suite.bucket("edges").await;
    for n in 0..4 {
        suite.put(bucket, &name(n), "x").await;
    }
    split(&suite, bucket, "m").await;
    split(&suite, bucket, "t").await;
    let list = async |limit: u32| {
        let query = pb::ListObjects {
            bucket_id: bucket.id.0,
            limit,
            ..Default::default()
        };
        let (names, page) = suite.list(query).await;
        (names.len(), page.more)
    };
    assert_eq!(list(3).await, (3, true));
    assert_eq!(list(4).await, (4, false), "the other parts are empty");
    assert_eq!(list(0).await, (0, false));
    suite.put(bucket, "z", "in the last part").await;
    assert_eq!(list(4).await, (4, true));
    assert_eq!(list(5).await, (5, false));
    let initiate = async |key: &str| {
        let upload_id = suite.begin_write(bucket, key).await;
        let at = Some(bucket.at(key));
        let command = pb::InitiateUpload {
            at,
            upload_id,
            ..Default::default()
        };
        suite.accepted(command).await;
    };
    initiate("a").await;
    let uploads = async || {
        let query = pb::ListUploads {
            bucket_id: bucket.id.0,
            limit: 1,
            ..Default::default()
        };
        let page = suite.meta.list_uploads(query).await.unwrap();
        (page.items.len(), page.more)
    };
    assert_eq!(uploads().await, (1, false));
    initiate("z").await;
    assert_eq!(uploads().await, (1, true));
}

/// A shard's ranges that have so many bytes at least.
async fn measured(suite: &Suite, shard: ShardId, at_least: u64) -> Vec<pb::RangeSize> {
    let query = pb::MeasureRanges { at_least };
    let told = suite.meta.query_at(shard, query).await.unwrap().ranges;
    let large = told.into_iter().filter(|size| size.can_split);
    large.collect()
}

/// A shard says how large its ranges are and where the middle is. A split that names the epoch of what was
/// measured is refused for good once that has changed, whoever proposes it and however often.
pub async fn a_range_is_split_as_it_was_measured_or_not_at_all(suite: Suite) {
    let bucket = suite.bucket("measured").await;
    let shard = suite.shard_of(bucket, "k").await;
    assert_eq!(measured(&suite, shard, 20_000).await, []);
    for n in 0..60 {
        suite.put(bucket, &name(n), &"x".repeat(1000)).await;
    }
    let [size] = &measured(&suite, shard, 20_000).await[..] else {
        panic!("one range is large");
    };
    assert!((60_000..200_000).contains(&size.bytes), "{size:?}");
    assert_eq!(measured(&suite, shard, 2 * size.bytes).await, []);
    assert_eq!(size.split_bucket, bucket.id.0);
    let (low, high) = (name(20).into_bytes(), name(40).into_bytes());
    assert!(low < size.split_key && size.split_key < high, "{size:?}");

    let split = async |size: &pb::RangeSize, epoch: u64| {
        let nonce = suite.runtime.entropy().next_u128().to_be_bytes();
        let nonce = Bytes::copy_from_slice(&nonce);
        let child = suite.accepted(pb::AllocateShard { nonce }).await;
        let command = pb::SplitRange {
            split_bucket: size.split_bucket,
            split_key: size.split_key.clone(),
            child_shard: u32::try_from(child.id).unwrap(),
            child_home_slab: child.slab,
            expected_epoch: epoch,
            ..Default::default()
        };
        suite.meta.propose_to(shard, command).await.unwrap()
    };
    let epoch = size.range.as_ref().unwrap().epoch;
    let stale = split(size, epoch + 1).await.unwrap_err();
    assert_eq!(stale.reason(), pb::rejection::Reason::Stale, "{stale:?}");
    split(size, epoch).await.unwrap();
    // The same again, and another measurement from before.
    for key in [size.split_key.clone(), Bytes::from(name(1))] {
        let again = pb::RangeSize {
            split_key: key,
            ..size.clone()
        };
        let stale = split(&again, epoch).await.unwrap_err();
        assert_eq!(stale.reason(), pb::rejection::Reason::Stale, "{stale:?}");
    }
    let rest = &measured(&suite, shard, 20_000).await[0];
    assert!(rest.bytes < size.bytes * 7 / 10, "{rest:?} of {size:?}");
    assert!(rest.range.as_ref().unwrap().epoch > epoch);
    assert!(rest.split_key < size.split_key, "{rest:?}");

    // One key, however large, stays whole; and so does a bucket with directories.
    let alone = suite.bucket("alone").await;
    let shard = suite.shard_of(alone, "k").await;
    suite.put(alone, "k", &"x".repeat(16_000)).await;
    if shard != suite.shard_of(bucket, "a").await {
        assert_eq!(measured(&suite, shard, 10_000).await, []);
    }
}
