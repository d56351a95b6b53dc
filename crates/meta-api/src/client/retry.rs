//! One place for retries: same request, same id, until the deadline. And for commands made anew
//! because their deadline lay before the shard's time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use granary_runtime::{Backoff, within};
use granary_types::ShardId;

use super::Meta;
use crate::command::Target;
use crate::{ErrorKind, MetaError, pb};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Short: whoever waits for a new leader goes on as soon as there is one.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Times in a row that a request follows a named leader without a pause.
const REDIRECTS_MAX: u32 = 2;
/// A request that begins while its shard has long had no leader asks for this long all the same.
const LEADERLESS_LEAST: Duration = Duration::from_secs(1);
/// A shard that nobody has asked for this long may have had a leader meanwhile.
const LEADERLESS_FORGET: Duration = Duration::from_secs(5);

/// How long a shard that has too much queued is asked again: overload is answered early, and not
/// made worse.
const BUSY_LIMIT: Duration = Duration::from_secs(1);

/// Times that a command is made anew because it came late.
const LATE_ROUNDS_MAX: usize = 3;

/// What is known of shards whose time is ahead of this clock: one that stepped forward and back
/// again leaves its shards in the future, because their time never goes back. Bounded by the
/// number of shards.
#[derive(Debug, Default)]
pub(super) struct ShardTimes {
    ahead: parking_lot::Mutex<BTreeMap<ShardId, u64>>,
}

impl ShardTimes {
    /// The time that a deadline at a shard counts from, in milliseconds.
    fn base_ms(&self, shard: Option<ShardId>, now_ms: u64) -> u64 {
        let mut ahead = self.ahead.lock();
        ahead.retain(|_, time_ms| *time_ms > now_ms);
        let known = shard.and_then(|shard| ahead.get(&shard));
        known.copied().unwrap_or(now_ms)
    }

    fn learn(&self, shard: ShardId, time_ms: u64) {
        let mut ahead = self.ahead.lock();
        let known = ahead.entry(shard).or_default();
        *known = time_ms.max(*known);
    }
}

/// Since when the shards that do not answer have had no leader that does. Bounded by the number of
/// shards.
#[derive(Debug, Default)]
pub(super) struct Leaderless(parking_lot::Mutex<BTreeMap<ShardId, Silence>>);

/// Monotonic times.
#[derive(Debug)]
struct Silence {
    since: Duration,
    seen: Duration,
}

impl Leaderless {
    /// An attempt found no leader; since when that has been so.
    fn note(&self, shard: ShardId, now: Duration) -> Duration {
        let mut shards = self.0.lock();
        let fresh = || Silence {
            since: now,
            seen: now,
        };
        let silence = shards.entry(shard).or_insert_with(fresh);
        if now >= silence.seen + LEADERLESS_FORGET {
            *silence = fresh();
        }
        silence.seen = now;
        silence.since
    }

    /// The shard's leader answered.
    fn answered(&self, shard: ShardId) {
        let mut shards = self.0.lock();
        if !shards.is_empty() {
            shards.remove(&shard);
        }
    }
}

impl Meta {
    /// A backoff that ends with the deadline of a request that begins now.
    pub(super) fn request_backoff(&self) -> Backoff {
        Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline)
    }

    /// Has a command decided once: repeats carry the same id, and a new one is made only when it is
    /// certain that the last one was not and never will be applied.
    pub(super) async fn decide(
        &self,
        named: Option<ShardId>,
        target: &Target,
        command: pb::command::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let mut backoff = self.request_backoff();
        let mut rounds = LATE_ROUNDS_MAX;
        let mut envelope = pb::Command {
            command: Some(command),
            ..Default::default()
        };
        loop {
            let guess = named.or_else(|| target.fixed()).or_else(|| match target {
                Target::At(bucket, key) => self.map.load().shard_at(*bucket, key),
                Target::Root | Target::Named => None,
            });
            self.stamp(guess, &mut envelope);
            let (unknown, open) = (AtomicBool::new(false), AtomicBool::new(false));
            let attempt = |shard| {
                let (service, envelope) = (Arc::clone(&self.service), envelope.clone());
                let (unknown, open) = (&unknown, &open);
                async move {
                    let outcome = service.propose(shard, envelope).await;
                    open.fetch_or(outcome.as_ref().is_err_and(leaves_open), Ordering::Relaxed);
                    match &outcome {
                        Err(MetaError::Late { shard_ms, .. }) => {
                            self.shard_times.learn(shard, *shard_ms);
                        }
                        Err(error) if error.may_be_applied() => {
                            unknown.store(true, Ordering::Relaxed);
                        }
                        Ok(_) | Err(_) => {}
                    }
                    outcome
                }
            };
            let outcome = self.retrying(&mut backoff, named, target, attempt).await;
            let (shard_ms, never_applied) = match outcome {
                Err(MetaError::Late {
                    shard_ms,
                    never_applied,
                }) => (shard_ms, never_applied),
                Err(error) if open.load(Ordering::Relaxed) && !leaves_open(&error) => {
                    return Err(MetaError::UnknownOutcome(error.to_string()));
                }
                outcome => return outcome,
            };
            rounds -= 1;
            let undecided = never_applied || !unknown.load(Ordering::Relaxed);
            if !undecided || rounds == 0 {
                return Err(MetaError::Expired(format!(
                    "the shard's time is {shard_ms} already"
                )));
            }
        }
    }

    /// Makes a new command of it: another id, and a deadline from now.
    fn stamp(&self, shard: Option<ShardId>, envelope: &mut pb::Command) {
        let id = self.runtime.entropy().next_u128().to_be_bytes();
        let now_ms = self.runtime.now().as_millis();
        let wait_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let base_ms = self.shard_times.base_ms(shard, now_ms);
        envelope.id = Bytes::copy_from_slice(&id);
        envelope.deadline_ms = base_ms.saturating_add(wait_ms);
    }

    /// Whether the shard has been without a leader for too long to wait for one; `asking_since`:
    /// when the request began to.
    fn gives_up(&self, shard: ShardId, asking_since: Duration) -> bool {
        let now = self.runtime.monotonic();
        let silent = now.saturating_sub(self.leaderless.note(shard, now));
        let asked = now.saturating_sub(asking_since);
        silent >= self.patience && asked >= LEADERLESS_LEAST.min(self.patience)
    }

    /// Calls until an answer, a permanent error or the deadline; not as long when the shard has no
    /// leader.
    pub(super) async fn retrying<T, F, Fut>(
        &self,
        backoff: &mut Backoff,
        named: Option<ShardId>,
        target: &Target,
        call: F,
    ) -> Result<T, MetaError>
    where
        F: Fn(ShardId) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, MetaError>> + Send,
    {
        let (mut busy_since, mut redirects) = (None, 0);
        let asking_since = self.runtime.monotonic();
        loop {
            let remaining = backoff.remaining(&self.runtime);
            let attempt = async {
                // Without a map it is the root that is asked.
                let shard = self.shard_for(named, target).await;
                let shard = shard.map_err(|error| (ShardId::ROOT, error))?;
                let outcome = call(shard).await;
                outcome
                    .map(|answer| (shard, answer))
                    .map_err(|error| (shard, error))
            };
            let (shard, error) = match within(remaining, attempt).await {
                Ok(Ok((shard, answer))) => {
                    self.leaderless.answered(shard);
                    return Ok(answer);
                }
                Ok(Err(failed)) => failed,
                Err(elapsed) => return Err(MetaError::Expired(elapsed.to_string())),
            };
            match &error {
                MetaError::NotLeader { leader, .. } => {
                    if self.gives_up(shard, asking_since) {
                        return Err(no_leader(shard));
                    }
                    if leader.is_some() && redirects < REDIRECTS_MAX {
                        redirects += 1;
                        continue;
                    }
                }
                MetaError::Unavailable(_) | MetaError::UnknownOutcome(_) => {
                    if self.gives_up(shard, asking_since) {
                        return Err(error);
                    }
                }
                _ => self.leaderless.answered(shard),
            }
            redirects = 0;
            match error.kind() {
                ErrorKind::Permanent => return Err(error),
                _ if matches!(error, MetaError::NoSpace(_)) => return Err(error),
                _ if matches!(error, MetaError::Busy(_)) => {
                    let now = self.runtime.monotonic();
                    if now - *busy_since.get_or_insert(now) >= BUSY_LIMIT {
                        return Err(error);
                    }
                }
                // A named shard that does not own the range: only the caller knows another.
                ErrorKind::Reroute if named.is_some() => return Err(error),
                ErrorKind::Reroute => {
                    if let Err(error) = self.refresh_map_once().await {
                        tracing::debug!(%error, "range map not refreshed");
                        if self.gives_up(ShardId::ROOT, asking_since) {
                            return Err(error);
                        }
                    }
                }
                ErrorKind::Retry => {}
            }
            if !backoff.wait(&self.runtime).await {
                return Err(error);
            }
        }
    }
}

/// Whether a command that was answered with this error may have been applied: all others say that it
/// was not proposed. [`MetaError::may_be_applied`] is more careful, because a second id depends on it.
fn leaves_open(error: &MetaError) -> bool {
    matches!(
        error,
        MetaError::UnknownOutcome(_) | MetaError::Expired(_) | MetaError::Internal(_)
    )
}

fn no_leader(shard: ShardId) -> MetaError {
    MetaError::Unavailable(format!("shard {shard} has no leader"))
}

#[cfg(test)]
mod tests;
