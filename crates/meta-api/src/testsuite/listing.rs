//! Listings of objects against a model of what they must show.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use granary_types::ShardId;

use super::settings::all_versions;
use super::splits::split;
use super::uploads::all_uploads;
use super::{Suite, TestBucket};
use crate::{Meta, MetaError, MetaService, pb};

/// More pages than any listing of these cases has.
const PAGES_MAX: usize = 1000;

/// What a whole listing shows.
pub(super) fn model(
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: &str,
    after: &str,
) -> Vec<String> {
    let group = |key: &String| {
        let rest = &key[prefix.len()..];
        match rest.find(delimiter) {
            Some(at) if !delimiter.is_empty() => {
                key[..prefix.len() + at + delimiter.len()].to_owned()
            }
            _ => key.clone(),
        }
    };
    let shown = keys
        .iter()
        .filter(|key| key.starts_with(prefix) && key.as_str() > after);
    let shown: BTreeSet<String> = shown
        .map(group)
        .filter(|name| name.as_str() != after)
        .collect();
    shown.into_iter().collect()
}

/// Every name of a listing, read in pages.
pub(super) async fn walk(
    suite: &Suite,
    bucket: TestBucket,
    (prefix, delimiter, after): (&str, &str, &str),
    limit: u32,
) -> Vec<String> {
    let mut query = pb::ListObjects {
        bucket_id: bucket.id.0,
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        delimiter: Bytes::copy_from_slice(delimiter.as_bytes()),
        after: Bytes::copy_from_slice(after.as_bytes()),
        limit,
        ..Default::default()
    };
    let mut seen = Vec::new();
    // A group as marker stands behind everything in it: markers need not ascend as bytes do.
    for _ in 0..PAGES_MAX {
        let (names, page) = suite.list(query.clone()).await;
        assert!(names.len() <= limit as usize);
        seen.extend(names);
        if !page.more {
            return seen;
        }
        assert_ne!(page.resume_after, query.after, "a page goes on");
        query.after = page.resume_after;
    }
    panic!("the listing does not end: {seen:?}")
}

/// Listings with every combination of prefix, delimiter, marker and page size agree with a model.
pub async fn pages_agree_with_a_model(suite: Suite) {
    let bucket = suite.bucket("listing").await;
    let names = [
        "a", "a/", "a/b", "a/b/c", "a/b/d", "a0", "b", "b\0", "b\0c", "b/x", "c//d", "c//e", "c/f",
        "\u{1}", "é", "中/文", "z\u{7f}", "zz",
    ];
    for name in names {
        suite.put(bucket, name, "x").await;
    }
    // Neighbours in the key space must not show.
    let other = suite.bucket("neighbour").await;
    suite.put(other, "a", "y").await;
    suite.delete(bucket, "a0").await;
    let keys: BTreeSet<String> = names
        .iter()
        .filter(|name| **name != "a0")
        .map(|name| (*name).to_owned())
        .collect();
    every_listing_agrees(&suite, bucket, &keys).await;
}

async fn every_listing_agrees(suite: &Suite, bucket: TestBucket, keys: &BTreeSet<String>) {
    for prefix in ["", "a", "a/", "b\0", "c/", "nothing"] {
        for delimiter in ["", "/", "//", "b"] {
            for after in ["", "a/", "a/b", "b", "c//", "zz"] {
                let expected = model(keys, prefix, delimiter, after);
                for limit in [1, 3, 1000] {
                    let seen = walk(suite, bucket, (prefix, delimiter, after), limit).await;
                    let what = format!("{prefix:?} {delimiter:?} {after:?} {limit}");
                    assert_eq!(seen, expected, "{what}");
                }
            }
        }
    }
}

/// The same where nearly every key has a shard of its own, and groups span several.
pub async fn pages_of_many_shards_agree_with_a_model(suite: Suite) {
    let bucket = suite.bucket("pieces").await;
    let names = [
        "a", "a/", "a/b", "a/b/c", "a/b/d", "a/b/e", "a/c", "b", "b/x", "c//d", "c//e", "c/f", "d",
        "e", "f", "g/1", "g/2", "h",
    ];
    let keys: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    for key in names {
        suite.put(bucket, key, "x").await;
        suite.put(bucket, key, "y").await;
        initiate_upload(&suite, bucket, key).await;
    }
    let others = async || {
        let mut others = Vec::new();
        for limit in [1, 3, 1000] {
            for delimiter in ["", "/"] {
                let versions = all_versions(&suite, bucket, limit, delimiter).await;
                let uploads = all_uploads(&suite, bucket, limit, delimiter).await;
                others.push((versions, uploads));
            }
        }
        others
    };
    let before = others().await;
    for at in [
        "a/b", "a/b/d", "a/b/e", "b", "c//d", "c//e", "c/", "d", "e", "f", "g/", "g/2", "h",
    ] {
        split(&suite, bucket, at).await;
    }
    every_listing_agrees(&suite, bucket, &keys).await;
    assert_eq!(others().await, before);
}

async fn initiate_upload(suite: &Suite, bucket: TestBucket, key: &str) {
    let upload_id = suite.begin_write(bucket, key).await;
    let command = pb::InitiateUpload {
        at: Some(bucket.at(key)),
        upload_id,
        ..Default::default()
    };
    suite.accepted(command).await;
}

/// Notes which shards are asked.
struct Asked {
    service: Arc<dyn MetaService>,
    shards: Mutex<BTreeSet<ShardId>>,
}

#[async_trait]
impl MetaService for Asked {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        self.service.propose(shard, command).await
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        if matches!(query.query, Some(pb::query::Query::ListObjects(_))) {
            self.shards.lock().unwrap().insert(shard);
        }
        self.service.query(shard, query).await
    }
}

/// A listing does not depend on shards that cannot have any key of it.
pub async fn only_shards_that_may_have_keys_are_asked(suite: Suite) {
    let bucket = suite.bucket("asked").await;
    let mut shards = vec![suite.shard_of(bucket, "a").await];
    // In order: up to b, up to p/3, up to p/6, up to q, the rest.
    for at in ["b", "p/3", "p/6", "q"] {
        shards.push(split(&suite, bucket, at).await);
    }
    for key in ["a", "b", "p/1", "p/4", "p/7", "q/1"] {
        suite.put(bucket, key, "x").await;
    }
    let asked = Arc::new(Asked {
        service: Arc::clone(&suite.service),
        shards: Mutex::default(),
    });
    let meta = Meta::new(suite.runtime.clone(), Arc::<Asked>::clone(&asked));
    let told = async |prefix: &'static str, delimiter: &'static str, after: &'static str| {
        let query = pb::ListObjects {
            bucket_id: bucket.id.0,
            prefix: Bytes::from_static(prefix.as_bytes()),
            delimiter: Bytes::from_static(delimiter.as_bytes()),
            after: Bytes::from_static(after.as_bytes()),
            limit: 1000,
            ..Default::default()
        };
        let found = meta.list_objects(query).await.unwrap().items.len();
        let asked = std::mem::take(&mut *asked.shards.lock().unwrap());
        let places = (0..shards.len()).filter(|n| asked.contains(&shards[*n]));
        (found, places.collect::<Vec<_>>())
    };
    assert_eq!(told("", "", "").await, (6, vec![0, 1, 2, 3, 4]));
    assert_eq!(told("a", "", "").await, (1, vec![0]));
    assert_eq!(told("p/4", "", "").await, (1, vec![2]));
    assert_eq!(told("p/", "", "p/3").await, (2, vec![2, 3]));
    assert_eq!(told("p/", "/", "").await, (3, vec![1, 2, 3]));
    // The second and the third end within the group.
    assert_eq!(told("", "/", "p/").await, (1, vec![3, 4]));
    assert_eq!(told("", "/", "b").await, (2, vec![1, 3, 4]));
}

/// A group of many keys costs one entry; a marker that is a group passes over all of it.
pub async fn groups_are_skipped_not_read(suite: Suite) {
    let bucket = suite.bucket("groups").await;
    for group in ["p", "q"] {
        for n in 0..50 {
            suite.put(bucket, &format!("{group}/{n:03}"), "x").await;
        }
    }
    suite.put(bucket, "r", "x").await;
    assert_eq!(
        walk(&suite, bucket, ("", "/", ""), 1).await,
        ["p/", "q/", "r"]
    );
    assert_eq!(walk(&suite, bucket, ("", "/", "p/"), 10).await, ["q/", "r"]);
    assert_eq!(
        walk(&suite, bucket, ("", "/", "p/048"), 10).await,
        ["p/", "q/", "r"]
    );
    assert_eq!(
        walk(&suite, bucket, ("", "/", "p/049"), 10).await,
        ["q/", "r"]
    );
    for n in 0..50 {
        suite.delete(bucket, &format!("p/{n:03}")).await;
    }
    assert_eq!(walk(&suite, bucket, ("", "/", ""), 10).await, ["q/", "r"]);
}

/// More delete markers than one page reads.
const MARKERS: u32 = 10_500;

/// Lets deletions in the bucket leave markers.
async fn enable_versioning(suite: &Suite, bucket: &mut TestBucket) {
    bucket.generation += 1;
    let view = pb::state::BucketView {
        bucket_id: bucket.id.0,
        generation: bucket.generation,
        versioning: 1,
        ..Default::default()
    };
    let shard = suite.shard_of(*bucket, "a").await;
    let command = pb::ConfigureBucket {
        view: Some(view),
        segment: None,
    };
    let answer = suite.meta.propose_to(shard, command).await;
    answer.unwrap().unwrap();
}

/// A page that finds nothing but delete markers ends early and says where to go on.
pub async fn delete_markers_do_not_make_a_page_endless(suite: Suite) {
    let mut bucket = suite.bucket("markers").await;
    enable_versioning(&suite, &mut bucket).await;
    for n in 0..MARKERS {
        suite.delete(bucket, &format!("gone/{n:05}")).await;
    }
    suite.put(bucket, "here", "x").await;
    let query = pb::ListObjects {
        bucket_id: bucket.id.0,
        delimiter: Bytes::from_static(b"/"),
        limit: 10,
        ..Default::default()
    };
    let (names, page) = suite.list(query).await;
    assert!(names.is_empty() && page.more && page.resume_after.starts_with(b"gone/"));
    assert_eq!(walk(&suite, bucket, ("", "/", ""), 10).await, ["here"]);
}

/// A group that is shown is passed, whatever a later shard of it has.
pub async fn delete_markers_do_not_show_a_group_twice(suite: Suite) {
    let mut bucket = suite.bucket("markers-in-a-group").await;
    enable_versioning(&suite, &mut bucket).await;
    suite.put(bucket, "a", "x").await;
    suite.put(bucket, "g/1", "x").await;
    for n in 0..MARKERS {
        suite.delete(bucket, &format!("g/2/{n:05}")).await;
    }
    suite.put(bucket, "g/3", "x").await;
    suite.put(bucket, "h", "x").await;
    // Shards with g/1 and with the markers are asked at the same time, both from behind a.
    split(&suite, bucket, "g/").await;
    split(&suite, bucket, "g/2").await;
    assert_eq!(
        walk(&suite, bucket, ("", "/", ""), 10).await,
        ["a", "g/", "h"]
    );
}
