//! Settings of buckets and of versions: ACLs, tags, configurations, versioning.

use bytes::Bytes;
use granary_types::limits::{BUCKET_CONFIG_BYTES_MAX, BUCKET_TAGS_MAX, OBJECT_TAGS_MAX};
use granary_types::{BucketAcl, BucketId, ObjectAcl, ObjectType};

use super::splits::split;
use super::versions::{ENABLED, SUSPENDED};
use super::{Suite, TestBucket, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;
use crate::pb::version_item::Item;

fn tags(keys: &[&str]) -> Vec<state::Tag> {
    let tag = |key: &&str| state::Tag {
        key: (*key).to_owned(),
        value: format!("value of {key}"),
    };
    keys.iter().map(tag).collect()
}

fn many_tags(count: usize) -> Vec<state::Tag> {
    let keys: Vec<_> = (0..count).map(|n| format!("k{n}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    tags(&keys)
}

async fn bucket(suite: &Suite, name: &str, configs: &[&str]) -> pb::BucketResult {
    let query = pb::GetBucket {
        name: name.to_owned(),
        configs: configs.iter().map(|&name| name.to_owned()).collect(),
    };
    suite.meta.query(query).await.unwrap()
}

/// Turns versioning to a state; what the bucket is then.
pub(super) async fn versioning(suite: &Suite, bucket: TestBucket, state: u32) -> TestBucket {
    let command = pb::SetBucketVersioning {
        bucket_id: bucket.id.0,
        versioning: state,
    };
    let changed = suite.meta.set_bucket_versioning(command).await;
    let changed = changed.unwrap().unwrap();
    assert_eq!((changed.id, changed.versioning), (bucket.id.0, state));
    TestBucket {
        id: bucket.id,
        generation: changed.generation,
    }
}

/// The attributes of what was read are replaced where it stands, bytes and identity stay; of anything else
/// nothing is changed.
pub async fn an_object_gets_other_attributes_in_place(suite: Suite) {
    let bucket = suite.bucket("in-place").await;
    let header = |value: &str| state::Header {
        name: "content-type".to_owned(),
        value: value.to_owned(),
    };
    let put = |bucket: TestBucket, key: &str| pb::PutObject {
        at: Some(bucket.at(key)),
        version: Some(state::Version {
            etag: "TAG".to_owned(),
            headers: vec![header("old")],
            tags: tags(&["kept"]),
            ..Default::default()
        }),
        payload: Some(inline("bytes")),
        ..Default::default()
    };
    let meta = |bucket: TestBucket, key: &str, seen: &state::Version| pb::SetObjectMeta {
        at: Some(bucket.at(key)),
        version_stamp: seen.stamp,
        modified_ms: seen.modified_ms,
        etag: seen.etag.clone(),
        headers: vec![header("new")],
        user_meta: vec![header("own")],
        acl: ObjectAcl::PublicRead.number(),
        ..Default::default()
    };
    suite.accepted(put(bucket, "k")).await;
    let found = suite.version(bucket, "k", 0).await;
    assert!(found.takes_object_meta);
    let seen = found.version.unwrap();
    suite.clock.advance_wall_clock(5_000);
    let reply = suite.accepted(meta(bucket, "k", &seen)).await;
    let now = suite.version(bucket, "k", 0).await;
    assert_eq!(now.inline, Bytes::from_static(b"bytes"));
    let now = now.version.unwrap();
    assert_eq!(reply.version.unwrap().modified_ms, now.modified_ms);
    assert!(now.modified_ms >= seen.modified_ms + 5_000);
    let expected = state::Version {
        headers: vec![header("new")],
        user_meta: vec![header("own")],
        acl: ObjectAcl::PublicRead.number(),
        modified_ms: now.modified_ms,
        ..seen.clone()
    };
    assert_eq!(now, expected, "the rest stays");
    assert_eq!(suite.counters(bucket).await.objects, 1);

    // Of what is not there any more nothing is changed.
    for change in [
        meta(bucket, "k", &seen),
        pb::SetObjectMeta {
            etag: "OTHER".to_owned(),
            ..meta(bucket, "k", &now)
        },
        pb::SetObjectMeta {
            version_stamp: now.stamp + 1,
            ..meta(bucket, "k", &now)
        },
        meta(bucket, "missing", &now),
    ] {
        assert_eq!(suite.rejected(change).await, Reason::Stale);
    }
    let retagged = pb::SetObjectMeta {
        set_tags: true,
        tags: tags(&["a", "b"]),
        ..meta(bucket, "k", &now)
    };
    suite.accepted(retagged).await;
    let now = suite.version(bucket, "k", 0).await.version.unwrap();
    assert_eq!(now.tags, tags(&["a", "b"]));
    for (change, reason) in [
        (
            pb::SetObjectMeta {
                forbid_overwrite: true,
                ..meta(bucket, "k", &now)
            },
            Reason::AlreadyExists,
        ),
        (
            pb::SetObjectMeta {
                acl: 99,
                ..meta(bucket, "k", &now)
            },
            Reason::Invalid,
        ),
        (
            pb::SetObjectMeta {
                set_tags: true,
                tags: many_tags(OBJECT_TAGS_MAX + 1),
                ..meta(bucket, "k", &now)
            },
            Reason::Invalid,
        ),
    ] {
        assert_eq!(suite.rejected(change).await, reason);
    }
    assert_eq!(suite.version(bucket, "k", 0).await.version.unwrap(), now);
    let link = pb::PutObject {
        version: Some(state::Version {
            object_type: ObjectType::Symlink.number(),
            symlink_target: "k".to_owned(),
            ..Default::default()
        }),
        payload: Some(pb::Payload::default()),
        ..put(bucket, "link")
    };
    suite.accepted(link).await;
    let link = suite.version(bucket, "link", 0).await.version.unwrap();
    let change = meta(bucket, "link", &link);
    assert_eq!(suite.rejected(change).await, Reason::Invalid);
}

/// Where a write would make a version beside what is there, nothing is changed in place.
pub async fn versions_are_not_changed_in_place(suite: Suite) {
    let bucket = suite.bucket("in-place-versions").await;
    let put = |bucket: TestBucket| pb::PutObject {
        at: Some(bucket.at("k")),
        payload: Some(inline("bytes")),
        ..Default::default()
    };
    let meta = |bucket: TestBucket, seen: &state::Version| pb::SetObjectMeta {
        at: Some(bucket.at("k")),
        version_stamp: seen.stamp,
        modified_ms: seen.modified_ms,
        etag: seen.etag.clone(),
        acl: ObjectAcl::Private.number(),
        ..Default::default()
    };
    suite.accepted(put(bucket)).await;
    let null = suite.version(bucket, "k", 0).await.version.unwrap();
    let bucket = versioning(&suite, bucket, ENABLED).await;
    assert_eq!(suite.rejected(meta(bucket, &null)).await, Reason::Stale);
    suite.accepted(put(bucket)).await;
    let bucket = versioning(&suite, bucket, SUSPENDED).await;
    let named = suite.version(bucket, "k", 0).await.version.unwrap();
    for seen in [&null, &named] {
        assert_eq!(suite.rejected(meta(bucket, seen)).await, Reason::Stale);
    }
    suite.accepted(put(bucket)).await;
    let null = suite.version(bucket, "k", 0).await.version.unwrap();
    assert!(null.is_null);
    suite.accepted(meta(bucket, &null)).await;
    let delete = pb::DeleteObject {
        at: Some(bucket.at("k")),
        ..Default::default()
    };
    suite.accepted(delete).await;
    let marker = suite.version(bucket, "k", 0).await.version.unwrap();
    assert!(marker.delete_marker);
    assert_eq!(suite.rejected(meta(bucket, &marker)).await, Reason::Stale);
}

/// ACL, tags and configurations are there until they are changed, and nobody else's are.
pub async fn a_bucket_keeps_its_settings(suite: Suite) {
    let (id, other) = (
        suite.bucket("settings").await.id.0,
        suite.bucket("other").await.id.0,
    );
    suite
        .accepted(pb::SetBucketAcl {
            bucket_id: id,
            acl: BucketAcl::PublicRead.number(),
        })
        .await;
    let set_tags = |tags: Vec<state::Tag>, only_named: bool| pb::SetBucketTags {
        bucket_id: id,
        tags,
        only_named,
    };
    suite.accepted(set_tags(tags(&["old"]), false)).await;
    suite
        .accepted(set_tags(tags(&["a", "b", "c"]), false))
        .await;
    suite
        .accepted(set_tags(tags(&["b", "unknown"]), true))
        .await;
    let too_many = set_tags(many_tags(BUCKET_TAGS_MAX + 1), false);
    assert_eq!(suite.rejected(too_many).await, Reason::Invalid);
    let set_config = |bucket: u64, name: &str, config: &'static [u8]| pb::SetBucketConfig {
        bucket_id: bucket,
        name: name.to_owned(),
        config: Bytes::from_static(config),
    };
    suite.accepted(set_config(id, "cors", b"first")).await;
    suite.accepted(set_config(id, "cors", b"second")).await;
    suite.accepted(set_config(id, "lifecycle", b"third")).await;
    suite.accepted(set_config(other, "cors", b"other")).await;
    let large = pb::SetBucketConfig {
        config: vec![0; BUCKET_CONFIG_BYTES_MAX + 100].into(),
        ..set_config(id, "cors", b"")
    };
    assert_ne!(suite.rejected(large).await, Reason::None);
    assert_eq!(
        suite.rejected(set_config(id, "", b"unnamed")).await,
        Reason::Invalid
    );

    let found = bucket(&suite, "settings", &["cors", "never set"]).await;
    let record = found.bucket.unwrap();
    assert_eq!(record.acl, BucketAcl::PublicRead.number());
    assert_eq!(record.tags, tags(&["a", "c"]));
    let config = |config: &'static [u8]| pb::BucketConfig {
        name: "cors".to_owned(),
        config: Bytes::from_static(config),
    };
    assert_eq!(found.configs, [config(b"second")]);
    suite.accepted(set_config(id, "cors", b"")).await;
    assert!(
        bucket(&suite, "settings", &["cors"])
            .await
            .configs
            .is_empty()
    );
    let others = bucket(&suite, "other", &["cors"]).await;
    assert_eq!(others.configs, [config(b"other")]);
    assert!(others.bucket.unwrap().tags.is_empty());

    // They go with the bucket: the next one of that name begins without.
    suite
        .meta
        .delete_bucket(BucketId(other))
        .await
        .unwrap()
        .unwrap();
    let late = set_config(other, "cors", b"late");
    assert_eq!(suite.rejected(late).await, Reason::NoSuchBucket);
    suite.bucket("other").await;
    assert!(bucket(&suite, "other", &["cors"]).await.configs.is_empty());
}

/// When versioning has changed, every shard of the bucket knows: nobody's older view replaces a
/// version afterwards.
pub async fn every_shard_keeps_versions_at_once(suite: Suite) {
    let unset = suite.bucket("versioned").await;
    suite.put(unset, "a", "null").await;
    suite.put(unset, "k", "null").await;
    split(&suite, unset, "k").await;
    assert_ne!(
        suite.shard_of(unset, "a").await,
        suite.shard_of(unset, "k").await
    );
    let enabled = versioning(&suite, unset, ENABLED).await;
    assert!(enabled.generation > unset.generation);
    for key in ["a", "k"] {
        let late = pb::PutObject {
            at: Some(unset.at(key)),
            payload: Some(inline("late")),
            ..Default::default()
        };
        assert_eq!(suite.rejected(late).await, Reason::StaleGeneration, "{key}");
        let null = suite.version(enabled, key, 0).await.version.unwrap();
        let newer = suite.put(enabled, key, "newer").await;
        assert!(null.is_null && !newer.is_null);
        assert!(suite.version(enabled, key, null.stamp).await.found);
    }
    // The same again changes nothing, and nobody has to look the bucket up anew.
    let again = versioning(&suite, enabled, ENABLED).await;
    assert_eq!(again.generation, enabled.generation);
    let suspended = versioning(&suite, enabled, SUSPENDED).await;
    for key in ["a", "k"] {
        assert!(suite.put(suspended, key, "null again").await.is_null);
    }
    let counter = suite.counters(suspended).await;
    // The null versions were replaced, and lie above the one newer version of each key.
    assert_eq!((counter.objects, counter.versions), (2, 2));
    let unknown = pb::SetBucketVersioning {
        bucket_id: unset.id.0,
        versioning: 3,
    };
    assert_eq!(suite.rejected(unknown).await, Reason::Invalid);
    let nobody = pb::SetBucketVersioning {
        bucket_id: 1 << 40,
        versioning: ENABLED,
    };
    assert_eq!(suite.rejected(nobody).await, Reason::NoSuchBucket);
}

/// Whoever changed the versioning and died has left a bucket that others finish.
pub async fn a_change_is_finished_by_others(suite: Suite) {
    let bucket = suite.bucket("half-changed").await;
    suite.put(bucket, "a", "null").await;
    let begun = suite
        .accepted(pb::SetBucketVersioning {
            bucket_id: bucket.id.0,
            versioning: ENABLED,
        })
        .await;
    assert!(begun.settling);
    let unfinished = pb::ListUnfinishedBuckets { limit: 10 };
    let found = suite.meta.query(unfinished).await.unwrap().buckets;
    assert_eq!(found.len(), 1);
    for bucket in found {
        suite.meta.finish_bucket(bucket).await.unwrap().unwrap();
    }
    let left = suite.meta.query(unfinished).await.unwrap().buckets;
    assert!(left.is_empty(), "{left:?}");
    let enabled = TestBucket {
        generation: begun.generation,
        ..bucket
    };
    assert!(!suite.put(enabled, "a", "newer").await.is_null);
    // A deletion that is called off keeps what was changed.
    let refused = suite.meta.delete_bucket(bucket.id).await.unwrap();
    assert_eq!(refused.unwrap_err().reason(), Reason::BucketNotEmpty);
    let query = pb::GetBucketById { id: bucket.id.0 };
    let known = suite.meta.query(query).await.unwrap().bucket.unwrap();
    assert_eq!(known.versioning, ENABLED);
}

/// The ACL and the tags of one version change, and neither its time nor anything that is counted.
pub async fn a_version_keeps_its_settings(suite: Suite) {
    let bucket = suite.bucket("marked").await;
    let null = suite.put(bucket, "a", "null").await;
    let bucket = versioning(&suite, bucket, ENABLED).await;
    let old = suite.put(bucket, "a", "old").await;
    let new = suite.put(bucket, "a", "new").await;
    let counters = suite.counters(bucket).await;
    let acl = |key: &str, stamp: u64, null_version: bool| pb::SetObjectAcl {
        at: Some(bucket.at(key)),
        version_stamp: stamp,
        null_version,
        acl: ObjectAcl::PublicRead.number(),
    };
    let tagged = |key: &str, stamp: u64, null_version: bool| pb::SetObjectTags {
        at: Some(bucket.at(key)),
        version_stamp: stamp,
        null_version,
        tags: tags(&["of", &stamp.to_string()]),
    };
    let answer = suite.accepted(acl("a", 0, false)).await;
    assert_eq!(answer.version.unwrap().stamp, new.stamp);
    suite.accepted(acl("a", 0, true)).await;
    suite.accepted(tagged("a", old.stamp, false)).await;
    suite.accepted(tagged("a", new.stamp, false)).await;
    let public = ObjectAcl::PublicRead.number();
    for (stamp, body, acl, tag) in [
        (new.stamp, "new", public, Some(new.stamp)),
        (old.stamp, "old", 0, Some(old.stamp)),
        (null.stamp, "null", public, None),
    ] {
        let found = suite.version(bucket, "a", stamp).await;
        let version = found.version.unwrap();
        assert_eq!((version.stamp, version.acl), (stamp, acl), "{body}");
        assert_eq!(found.inline, body.as_bytes());
        let expected = tag.map(|stamp| tags(&["of", &stamp.to_string()]));
        assert_eq!(version.tags, expected.unwrap_or_default(), "{body}");
    }
    assert_eq!(suite.counters(bucket).await, counters);
    let without = pb::SetObjectTags {
        tags: Vec::new(),
        ..tagged("a", old.stamp, false)
    };
    suite.accepted(without).await;
    let version = suite.version(bucket, "a", old.stamp).await.version;
    assert!(version.unwrap().tags.is_empty());

    assert_eq!(suite.rejected(acl("b", 0, false)).await, Reason::NoSuchKey);
    assert_eq!(
        suite.rejected(acl("a", 1, false)).await,
        Reason::NoSuchVersion
    );
    assert_eq!(
        suite.rejected(tagged("b", 0, true)).await,
        Reason::NoSuchVersion
    );
    let too_many = pb::SetObjectTags {
        tags: many_tags(OBJECT_TAGS_MAX + 1),
        ..tagged("a", 0, false)
    };
    assert_eq!(suite.rejected(too_many).await, Reason::Invalid);
    let marker = suite.delete(bucket, "a").await.stamp;
    assert_eq!(suite.rejected(acl("a", 0, false)).await, Reason::NoSuchKey);
    assert_eq!(
        suite.rejected(tagged("a", marker, false)).await,
        Reason::NoSuchVersion
    );
}

/// Versions of a bucket that several shards hold come in one order, in pages of any size.
pub async fn versions_are_listed_across_splits(suite: Suite) {
    let bucket = suite.bucket("history").await;
    let bucket = versioning(&suite, bucket, ENABLED).await;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/5", "b/9", "c", "d"] {
        let mut stamps = Vec::new();
        for n in 0..3 {
            stamps.push(suite.put(bucket, key, &format!("{n}")).await.stamp);
        }
        stamps.push(suite.delete(bucket, key).await.stamp);
        stamps.reverse();
        expected.extend(stamps.into_iter().map(|stamp| (key.to_owned(), stamp)));
    }
    for key in ["b/5", "c"] {
        split(&suite, bucket, key).await;
    }
    let grouped: Vec<_> = expected
        .iter()
        .filter(|(key, _)| *key == "a")
        .cloned()
        .chain([("b/".to_owned(), 0)])
        .chain(
            expected
                .iter()
                .filter(|(key, _)| matches!(key.as_str(), "c" | "d"))
                .cloned(),
        )
        .collect();
    for limit in [1, 3, 4, 5, 1000] {
        let listed = all_versions(&suite, bucket, limit, "").await;
        assert_eq!(listed, expected, "pages of {limit}");
        let listed = all_versions(&suite, bucket, limit, "/").await;
        assert_eq!(listed, grouped, "grouped, pages of {limit}");
    }
}

pub(super) async fn all_versions(
    suite: &Suite,
    bucket: TestBucket,
    limit: u32,
    delimiter: &'static str,
) -> Vec<(String, u64)> {
    let mut seen = Vec::new();
    let mut query = pb::ListVersions {
        bucket_id: bucket.id.0,
        delimiter: Bytes::from_static(delimiter.as_bytes()),
        limit,
        ..Default::default()
    };
    loop {
        let page = suite.meta.list_versions(query.clone()).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        for item in page.items {
            let (name, stamp) = match item.item.unwrap() {
                Item::Version(entry) => (entry.key, entry.version.unwrap().stamp),
                Item::CommonPrefix(prefix) => (prefix, 0),
            };
            seen.push((String::from_utf8(name.to_vec()).unwrap(), stamp));
        }
        if !page.more {
            return seen;
        }
        query.key_marker = page.next_key;
        query.stamp_marker = page.next_stamp;
    }
}
