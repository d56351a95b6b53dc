//! Commands that arrive more than once, or too late.

use std::sync::Arc;

use granary_runtime::{Runtime, SimulatedClock};

use super::{Suite, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::{Meta, MetaError};

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
    let bucket = suite.bucket("noes").await;
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
    assert!(is_late(&late, true), "{late:?}");
    suite.advance(10 * 60_000).await;
    suite.put(bucket, "a", "newer").await;
    let late = suite.send(shard, &decided).await;
    assert!(is_late(&late, false), "{late:?}");
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("newer"));
    let mut eternal = put("eternal");
    eternal.deadline_ms = u64::MAX;
    let refused = suite.send(shard, &eternal).await;
    assert!(matches!(refused, Err(MetaError::Invalid(_))), "{refused:?}");
}

fn is_late(answer: &Result<pb::CommandReply, MetaError>, known: bool) -> bool {
    matches!(answer, Err(MetaError::Late { never_applied, .. }) if *never_applied == known)
}

/// A shard's time never goes back. When a clock stepped forward and back again, clients are far
/// behind their shards: their commands are decided all the same, each once.
pub async fn a_clock_that_stepped_forward_and_back_expires_nothing(suite: Suite) {
    let bucket = suite.bucket("clock-step").await;
    suite.advance(150_000).await;
    for (behind_ms, key) in [
        (45_000, "a little"),
        (3_600_000, "far"),
        (7_200_000, "further"),
    ] {
        let now_ms = suite.runtime.now().as_millis() - behind_ms;
        let clock = Arc::new(SimulatedClock::starting_at(now_ms));
        let entropy = Arc::clone(suite.runtime.entropy());
        let late = Meta::new(
            Runtime::simulated(clock, entropy),
            Arc::clone(&suite.service),
        );
        let objects = suite.counters(bucket).await.objects;
        for n in 0..20 {
            let put = pb::PutObject {
                at: Some(bucket.at(key)),
                payload: Some(inline(&format!("{n}"))),
                ..Default::default()
            };
            let decided = match late.propose(put.clone()).await {
                // The first command taught it the shard's time, but its own outcome may be lost:
                // the answers of that minute are not kept any more.
                Err(MetaError::Expired(_)) if behind_ms > 60_000 && n == 0 => {
                    late.propose(put).await
                }
                decided => decided,
            };
            decided.unwrap().unwrap();
            let seen = suite.get(bucket, key).await;
            assert_eq!(seen, Some(format!("{n}")), "{behind_ms} ms behind");
        }
        assert_eq!(suite.counters(bucket).await.objects, objects + 1);
    }
}
