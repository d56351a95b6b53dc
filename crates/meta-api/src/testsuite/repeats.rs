//! Commands that arrive more than once, or too late.

use super::{Suite, inline};
use crate::MetaError;
use crate::pb;
use crate::pb::rejection::Reason;

/// The reply to a put gets lost, another put overwrites it, and the first one is repeated: it must
/// have the answer of its one effect, and the second object must stay.
pub async fn a_repeat_changes_nothing_after_an_overwrite(suite: Suite) {
    let bucket = suite.bucket("lost-reply").await;
    let shard = suite.shard_of(bucket, "a").await;
    let first = suite.envelope(pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(inline("first")),
        ..Default::default()
    });
    let lost = suite.send(shard, &first).await.unwrap();
    let second = suite.put(bucket, "a", "second!").await;
    let counters = suite.counters(bucket).await;
    for _ in 0..3 {
        assert_eq!(suite.send(shard, &first).await.unwrap(), lost);
    }
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("second!"));
    assert_eq!(
        suite.version(bucket, "a", 0).await.version.unwrap().stamp,
        second.stamp
    );
    assert_eq!(suite.counters(bucket).await, counters);
    let delete = suite.envelope(pb::DeleteObject {
        at: Some(bucket.at("a")),
        ..Default::default()
    });
    let deleted = suite.send(shard, &delete).await.unwrap();
    suite.put(bucket, "a", "third").await;
    assert_eq!(suite.send(shard, &delete).await.unwrap(), deleted);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("third"));
}

/// A "no" stays a "no" for the command that got it, whatever changed meanwhile.
pub async fn rejections_are_repeated_too(suite: Suite) {
    let bucket = suite.bucket("no").await;
    let shard = suite.shard_of(bucket, "a").await;
    suite.put(bucket, "a", "there").await;
    let careful = suite.envelope(pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(inline("other")),
        forbid_overwrite: true,
        ..Default::default()
    });
    let refused = suite.send(shard, &careful).await.unwrap();
    assert_eq!(
        refused.rejection.as_ref().unwrap().reason(),
        Reason::AlreadyExists
    );
    suite.delete(bucket, "a").await;
    assert_eq!(suite.send(shard, &careful).await.unwrap(), refused);
    assert_eq!(suite.get(bucket, "a").await, None);
}

/// After its deadline a command is refused: at first its recorded answer is still given, later it
/// is not decided anew.
pub async fn a_late_command_is_refused(suite: Suite) {
    let bucket = suite.bucket("too-late").await;
    let shard = suite.shard_of(bucket, "a").await;
    let put = |bytes: &str| {
        suite.envelope(pb::PutObject {
            at: Some(bucket.at("a")),
            payload: Some(inline(bytes)),
            ..Default::default()
        })
    };
    let (decided, never_sent) = (put("decided"), put("never sent"));
    let answer = suite.send(shard, &decided).await.unwrap();
    suite.clock.advance_wall_clock(35_000);
    assert_eq!(suite.send(shard, &decided).await.unwrap(), answer);
    let late = suite.send(shard, &never_sent).await;
    assert!(matches!(late, Err(MetaError::Expired(_))), "{late:?}");
    suite.advance(10 * 60_000).await;
    suite.put(bucket, "a", "newer").await;
    let late = suite.send(shard, &decided).await;
    assert!(matches!(late, Err(MetaError::Expired(_))), "{late:?}");
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("newer"));
    let mut eternal = put("eternal");
    eternal.deadline_ms = u64::MAX;
    let refused = suite.send(shard, &eternal).await;
    assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
}
