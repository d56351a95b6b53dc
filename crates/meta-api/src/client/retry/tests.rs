//! Tests of how long a request waits for a leader.

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use granary_runtime::{Runtime, SeededEntropy, SimulatedClock};
use granary_types::NodeId;
use parking_lot::Mutex;

use super::*;
use crate::MetaService;

const SHARD: ShardId = ShardId(3);
const PATIENCE: Duration = Duration::from_secs(8);

/// Answers every query of a shard in one way, at once or late.
struct Scripted {
    fails: Mutex<Option<MetaError>>,
    takes: Duration,
    asked: AtomicUsize,
}

#[async_trait]
impl MetaService for Scripted {
    async fn propose(&self, _: ShardId, _: pb::Command) -> Result<pb::CommandReply, MetaError> {
        tokio::time::sleep(self.takes).await;
        let error = self.fails.lock().clone();
        error.map_or(Ok(pb::CommandReply::default()), Err)
    }

    async fn query(&self, _: ShardId, _: pb::Query) -> Result<pb::QueryReply, MetaError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        if let Some(error) = self.fails.lock().clone() {
            return Err(error);
        }
        let reply = pb::query_reply::Reply::Shard(pb::ShardDescription::default());
        Ok(pb::QueryReply { reply: Some(reply) })
    }
}

fn client(fails: MetaError, takes: Duration) -> (Arc<Scripted>, Meta) {
    let clock = Arc::new(SimulatedClock::starting_at(1_700_000_000_000));
    let runtime = Runtime::simulated(clock, Arc::new(SeededEntropy::new(1)));
    let service = Arc::new(Scripted {
        fails: Mutex::new(Some(fails)),
        takes,
        asked: AtomicUsize::new(0),
    });
    let meta = Meta::new(runtime, Arc::clone(&service) as _).with_patience(PATIENCE);
    (service, meta)
}

/// What came of a question, and how long that took.
async fn ask(meta: &Meta) -> (Result<pb::ShardDescription, MetaError>, Duration) {
    let began = tokio::time::Instant::now();
    let outcome = meta.query_at(SHARD, pb::DescribeShard {}).await;
    (outcome, began.elapsed())
}

fn led_by(leader: Option<u64>) -> MetaError {
    MetaError::NotLeader {
        shard: SHARD,
        leader: leader.map(NodeId),
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_without_a_leader_is_given_up_before_the_deadline() {
    let silent = || MetaError::Unavailable("silent".to_owned());
    let unknown = MetaError::UnknownOutcome("silent".to_owned());
    for (fails, takes_ms) in [
        (led_by(None), 1),
        (led_by(Some(2)), 1),
        (silent(), 2000),
        (unknown, 2000),
    ] {
        let (service, meta) = client(fails.clone(), Duration::from_millis(takes_ms));
        let (outcome, spent) = ask(&meta).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry, "{fails}: {error}");
        let most = PATIENCE + Duration::from_millis(takes_ms + 500);
        assert!(spent >= PATIENCE && spent <= most, "{fails}: {spent:?}");
        // Those who come later need not find out by themselves.
        let (outcome, spent) = ask(&meta).await;
        assert!(outcome.is_err());
        let most = LEADERLESS_LEAST + Duration::from_millis(takes_ms + 500);
        assert!(spent <= most, "{fails}: {spent:?}");
        // Once there is a leader, it is found.
        *service.fails.lock() = None;
        ask(&meta).await.0.unwrap();
        // The next time without one is another one.
        *service.fails.lock() = Some(fails.clone());
        let (_, spent) = ask(&meta).await;
        assert!(spent >= PATIENCE, "{fails}: {spent:?}");
        tokio::time::sleep(LEADERLESS_FORGET).await;
        let (_, spent) = ask(&meta).await;
        assert!(spent >= PATIENCE, "{fails}: {spent:?} after nobody asked");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_leader_finds_it_soon() {
    for leader in [None, Some(2)] {
        let (service, meta) = client(led_by(leader), Duration::from_millis(1));
        let asking = meta.clone();
        let waiting = meta.runtime.spawn(async move { ask(&asking).await });
        tokio::time::sleep(Duration::from_secs(5)).await;
        *service.fails.lock() = None;
        let elected = tokio::time::Instant::now();
        waiting.await.unwrap().0.unwrap();
        assert!(elected.elapsed() <= LONGEST_PAUSE * 2, "{leader:?}");
        // And nobody is asked without end.
        assert!(service.asked.load(Ordering::SeqCst) < 150, "{leader:?}");
    }
}

/// A named leader is asked at once: a redirection is no failure.
#[tokio::test(start_paused = true)]
async fn a_named_leader_is_asked_without_a_pause() {
    let (service, meta) = client(led_by(Some(2)), Duration::from_millis(1));
    let asking = meta.clone();
    let waiting = meta.runtime.spawn(async move { ask(&asking).await });
    while service.asked.load(Ordering::SeqCst) < REDIRECTS_MAX as usize {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    *service.fails.lock() = None;
    let (outcome, spent) = waiting.await.unwrap();
    outcome.unwrap();
    assert!(spent < FIRST_PAUSE / 2, "{spent:?}");
}

/// A command that may be applied does not become one that is not because the last attempt found no
/// leader: whoever makes it anew would do it twice.
#[tokio::test(start_paused = true)]
async fn an_outcome_stays_unknown() {
    let lost = || MetaError::UnknownOutcome("the answer was lost".to_owned());
    for last in [
        led_by(None),
        MetaError::Unavailable("silent".to_owned()),
        MetaError::Busy(SHARD),
        MetaError::NoSpace("full".to_owned()),
        MetaError::Invalid("of a later version".to_owned()),
    ] {
        let (service, meta) = client(lost(), Duration::from_millis(1));
        let asking = meta.clone();
        let waiting = meta
            .runtime
            .spawn(async move { asking.propose_to(SHARD, pb::Tick {}).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        *service.fails.lock() = Some(last.clone());
        let error = waiting.await.unwrap().unwrap_err();
        assert!(
            matches!(error, MetaError::UnknownOutcome(_)),
            "{last}: {error}"
        );
    }
    let (_service, meta) = client(led_by(None), Duration::from_millis(1));
    let error = meta.propose_to(SHARD, pb::Tick {}).await.unwrap_err();
    assert!(matches!(error, MetaError::Unavailable(_)), "{error}");
    for certain in [
        MetaError::Busy(SHARD),
        MetaError::NoSpace("full".to_owned()),
        MetaError::Invalid("of a later version".to_owned()),
    ] {
        let (_service, meta) = client(certain.clone(), Duration::from_millis(1));
        let error = meta.propose_to(SHARD, pb::Tick {}).await.unwrap_err();
        assert_eq!(error, certain);
    }
}
