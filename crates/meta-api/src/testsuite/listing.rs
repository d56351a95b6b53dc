//! Listings of objects against a model of what they must show.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Suite, TestBucket};
use crate::pb;

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
    for prefix in ["", "a", "a/", "b\0", "c/", "nothing"] {
        for delimiter in ["", "/", "//", "b"] {
            for after in ["", "a/", "a/b", "b", "c//", "zz"] {
                let expected = model(&keys, prefix, delimiter, after);
                for limit in [1, 3, 1000] {
                    let seen = walk(&suite, bucket, (prefix, delimiter, after), limit).await;
                    let what = format!("{prefix:?} {delimiter:?} {after:?} {limit}");
                    assert_eq!(seen, expected, "{what}");
                }
            }
        }
    }
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

/// A page that finds nothing but delete markers ends early and says where to go on.
pub async fn delete_markers_do_not_make_a_page_endless(suite: Suite) {
    let mut bucket = suite.bucket("markers").await;
    bucket.generation += 1;
    let view = pb::state::BucketView {
        bucket_id: bucket.id.0,
        generation: bucket.generation,
        versioning: 1,
        ..Default::default()
    };
    let shard = suite.shard_of(bucket, "a").await;
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
    const MARKERS: u32 = 10_500;
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
