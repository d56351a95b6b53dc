//! Objects in a bucket without versions.

use bytes::Bytes;
use granary_types::limits;

use super::{Suite, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;

/// What was put is read, until it is replaced or deleted; the counters follow.
pub async fn put_get_overwrite_delete(suite: Suite) {
    let bucket = suite.bucket("plain").await;
    assert_eq!(suite.get(bucket, "a").await, None);
    let first = suite.put(bucket, "a", "one").await;
    assert!(first.is_null && first.size == 3 && first.object_id.len() == 16);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("one"));
    suite.put(bucket, "a", "two+").await;
    suite.put(bucket, "b\0/\u{7f}", "").await;
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("two+"));
    assert_eq!(suite.get(bucket, "b\0/\u{7f}").await.as_deref(), Some(""));
    assert!(
        !suite.version(bucket, "a", first.stamp).await.found,
        "replaced, not kept"
    );
    let expected = state::Counter {
        objects: 2,
        bytes: 4,
        ..Default::default()
    };
    assert_eq!(suite.counters(bucket).await, expected);
    let deleted = suite.delete(bucket, "a").await;
    assert!(deleted.existed && !deleted.delete_marker && !deleted.marker_created);
    assert!(!suite.delete(bucket, "a").await.existed);
    assert_eq!(suite.get(bucket, "a").await, None);
    let expected = state::Counter {
        objects: 1,
        ..Default::default()
    };
    assert_eq!(suite.counters(bucket).await, expected);
}

/// An object is not replaced where the client forbids it.
pub async fn forbid_overwrite(suite: Suite) {
    let bucket = suite.bucket("careful").await;
    let command = |bytes: &str| pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(inline(bytes)),
        forbid_overwrite: true,
        ..Default::default()
    };
    suite.accepted(command("first")).await;
    assert_eq!(
        suite.rejected(command("second")).await,
        Reason::AlreadyExists
    );
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("first"));
    suite.delete(bucket, "a").await;
    suite.accepted(command("third")).await;
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("third"));
}

/// Later writes of a key have larger stamps and no earlier times.
pub async fn stamps_and_times_only_grow(suite: Suite) {
    let bucket = suite.bucket("clock").await;
    let mut last = (0, 0);
    for n in 0..20 {
        let version = suite.put(bucket, "a", &format!("{n}")).await;
        assert!(version.stamp > last.0 && version.modified_ms >= last.1);
        last = (version.stamp, version.modified_ms);
        if n % 5 == 0 {
            suite.clock.advance_wall_clock(3);
        }
    }
}

/// A record beyond the limit is refused and changes nothing.
pub async fn records_are_bounded(suite: Suite) {
    let bucket = suite.bucket("bounded").await;
    suite.put(bucket, "a", "before").await;
    let large = state::Version {
        user_meta: vec![state::Header {
            name: "m".to_owned(),
            value: "x".repeat(limits::RECORD_BYTES_MAX),
        }],
        ..Default::default()
    };
    let command = pb::PutObject {
        at: Some(bucket.at("a")),
        version: Some(large),
        payload: Some(inline("after")),
        ..Default::default()
    };
    assert_eq!(suite.rejected(command).await, Reason::Invalid);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("before"));
    let expected = state::Counter {
        objects: 1,
        bytes: 6,
        ..Default::default()
    };
    assert_eq!(suite.counters(bucket).await, expected);
    let lying = pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(pb::Payload {
            inline: Bytes::from_static(b"12"),
            size: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(suite.rejected(lying).await, Reason::Invalid);
}

/// A command made for another state of the bucket is refused, and so is one for a bucket that is
/// not there.
pub async fn old_generations_are_refused(suite: Suite) {
    let bucket = suite.bucket("views").await;
    let put = |at: pb::Position| pb::PutObject {
        at: Some(at),
        payload: Some(inline("x")),
        ..Default::default()
    };
    let newer = pb::Position {
        generation: bucket.generation + 1,
        ..bucket.at("a")
    };
    assert_eq!(suite.rejected(put(newer)).await, Reason::StaleGeneration);
    let unknown = pb::Position {
        bucket_id: bucket.id.0 + 1,
        ..bucket.at("a")
    };
    assert_eq!(
        suite.rejected(put(unknown.clone())).await,
        Reason::NoSuchBucket
    );
    let query = pb::GetVersion {
        at: Some(unknown),
        ..Default::default()
    };
    assert!(suite.meta.query(query).await.unwrap().bucket_unknown);
    assert!(!suite.version(bucket, "a", 0).await.bucket_unknown);
}
