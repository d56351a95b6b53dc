//! Buckets that keep versions.

use bytes::Bytes;

use super::{Suite, TestBucket};
use crate::pb;
use crate::pb::state;
use crate::pb::version_item::Item;

pub(super) const ENABLED: u32 = 1;
pub(super) const SUSPENDED: u32 = 2;

/// Gives every shard of a bucket a newer view of it.
pub(super) async fn configure(suite: &Suite, bucket: &mut TestBucket, versioning: u32) {
    bucket.generation += 1;
    let view = state::BucketView {
        bucket_id: bucket.id.0,
        generation: bucket.generation,
        versioning,
        ..Default::default()
    };
    let shard = suite.shard_of(*bucket, "a").await;
    let command = pb::ConfigureBucket {
        view: Some(view),
        segment: None,
    };
    suite
        .meta
        .propose_to(shard, command)
        .await
        .unwrap()
        .unwrap();
}

async fn delete_stamp(suite: &Suite, bucket: TestBucket, stamp: u64) -> pb::DeleteReply {
    let command = pb::DeleteObject {
        at: Some(bucket.at("a")),
        version_stamp: stamp,
        ..Default::default()
    };
    suite.accepted(command).await
}

async fn delete_null(suite: &Suite, bucket: TestBucket) -> pb::DeleteReply {
    let command = pb::DeleteObject {
        at: Some(bucket.at("a")),
        null_version: true,
        ..Default::default()
    };
    suite.accepted(command).await
}

async fn null_version(suite: &Suite, bucket: TestBucket) -> Option<String> {
    let query = pb::GetVersion {
        at: Some(bucket.at("a")),
        null_version: true,
        with_body: true,
        ..Default::default()
    };
    let found = suite.meta.query(query).await.unwrap();
    found
        .found
        .then(|| String::from_utf8(found.inline.to_vec()).unwrap())
}

/// Every write adds a version, a delete adds a marker, and what is removed uncovers the one below.
pub async fn enabled_versions_stack_up(suite: Suite) {
    let mut bucket = suite.bucket("versions").await;
    suite.put(bucket, "a", "null").await;
    configure(&suite, &mut bucket, ENABLED).await;
    let one = suite.put(bucket, "a", "one").await;
    let two = suite.put(bucket, "a", "two").await;
    assert!(!one.is_null && !two.is_null);
    let forbidding = pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(super::inline("three")),
        forbid_overwrite: true,
        ..Default::default()
    };
    let three = suite.accepted(forbidding).await.version.unwrap();
    let marker = suite.delete(bucket, "a").await;
    assert!(marker.existed && marker.marker_created && marker.delete_marker);
    assert_eq!(suite.get(bucket, "a").await, None);
    assert_eq!(null_version(&suite, bucket).await.as_deref(), Some("null"));
    let expected = state::Counter {
        objects: 0,
        versions: 4,
        bytes: 15,
        delete_markers: 1,
        ..Default::default()
    };
    assert_eq!(suite.counters(bucket).await, expected);
    let removed = delete_stamp(&suite, bucket, marker.stamp).await;
    assert!(removed.existed && removed.delete_marker && !removed.marker_created);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("three"));
    assert!(delete_stamp(&suite, bucket, two.stamp).await.existed);
    assert!(!delete_stamp(&suite, bucket, two.stamp).await.existed);
    assert!(delete_stamp(&suite, bucket, three.stamp).await.existed);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("one"));
    assert!(delete_stamp(&suite, bucket, one.stamp).await.existed);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("null"));
    assert!(delete_null(&suite, bucket).await.existed);
    assert!(!suite.version(bucket, "a", 0).await.found);
    assert_eq!(suite.counters(bucket).await, state::Counter::default());
    assert!(suite.delete(bucket, "nothing").await.marker_created);
}

/// While versions are suspended a write replaces the null version and no other.
pub async fn suspended_versions_replace_the_null_version(suite: Suite) {
    let mut bucket = suite.bucket("suspended").await;
    configure(&suite, &mut bucket, ENABLED).await;
    let one = suite.put(bucket, "a", "one").await;
    configure(&suite, &mut bucket, SUSPENDED).await;
    let null = suite.put(bucket, "a", "null 1").await;
    assert!(null.is_null);
    suite.put(bucket, "a", "null 2").await;
    assert!(!suite.version(bucket, "a", null.stamp).await.found);
    configure(&suite, &mut bucket, ENABLED).await;
    let two = suite.put(bucket, "a", "two").await;
    assert_eq!(
        null_version(&suite, bucket).await.as_deref(),
        Some("null 2")
    );
    configure(&suite, &mut bucket, SUSPENDED).await;
    // The null version lies below "two" now: the marker takes its place.
    let marker = suite.delete(bucket, "a").await;
    assert!(marker.marker_created);
    assert_eq!(null_version(&suite, bucket).await.as_deref(), Some(""));
    let expected = state::Counter {
        versions: 2,
        bytes: 6,
        delete_markers: 1,
        ..Default::default()
    };
    assert_eq!(suite.counters(bucket).await, expected);
    assert!(delete_null(&suite, bucket).await.delete_marker);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("two"));
    assert!(suite.version(bucket, "a", one.stamp).await.found);
    assert!(suite.version(bucket, "a", two.stamp).await.found);
}

/// Versions come by key, newest first, in pages of any size, grouped like objects.
pub async fn versions_are_listed_newest_first(suite: Suite) {
    let mut bucket = suite.bucket("history").await;
    configure(&suite, &mut bucket, ENABLED).await;
    let mut expected = Vec::new();
    for key in ["a", "a\0", "b/1", "b/2", "c"] {
        let mut stamps = Vec::new();
        for n in 0..4 {
            stamps.push(suite.put(bucket, key, &format!("{n}")).await.stamp);
        }
        stamps.push(suite.delete(bucket, key).await.stamp);
        stamps.reverse();
        expected.extend(
            stamps
                .into_iter()
                .enumerate()
                .map(|(n, stamp)| (key.to_owned(), stamp, n == 0)),
        );
    }
    for limit in [1, 2, 7, 1000] {
        assert_eq!(
            all_versions(&suite, bucket, limit, "").await,
            expected,
            "pages of {limit}"
        );
    }
    let grouped = all_versions(&suite, bucket, 3, "/").await;
    let outside: Vec<_> = expected
        .iter()
        .filter(|(key, ..)| !key.contains('/'))
        .collect();
    let groups: Vec<_> = grouped.iter().filter(|(_, stamp, _)| *stamp == 0).collect();
    assert_eq!(groups, [&("b/".to_owned(), 0, false)]);
    assert_eq!(
        grouped
            .iter()
            .filter(|(_, stamp, _)| *stamp != 0)
            .collect::<Vec<_>>(),
        outside
    );
}

async fn all_versions(
    suite: &Suite,
    bucket: TestBucket,
    limit: u32,
    delimiter: &'static str,
) -> Vec<(String, u64, bool)> {
    let shard = suite.shard_of(bucket, "a").await;
    let mut seen = Vec::new();
    let mut query = pb::ListVersions {
        bucket_id: bucket.id.0,
        delimiter: Bytes::from_static(delimiter.as_bytes()),
        limit,
        ..Default::default()
    };
    loop {
        let page = suite.meta.query_at(shard, query.clone()).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        for item in page.items {
            seen.push(match item.item.unwrap() {
                Item::Version(entry) => {
                    let key = String::from_utf8(entry.key.to_vec()).unwrap();
                    (key, entry.version.unwrap().stamp, item.is_latest)
                }
                Item::CommonPrefix(prefix) => {
                    (String::from_utf8(prefix.to_vec()).unwrap(), 0, false)
                }
            });
        }
        if !page.more {
            return seen;
        }
        query.key_marker = page.next_key;
        query.stamp_marker = page.next_stamp;
    }
}
