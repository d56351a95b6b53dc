//! A metadata service behind a bad network: requests and replies get lost, arrive twice or late.
//!
//! It changes nothing but what arrives when; whoever repeats with the same command id must see one
//! effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use granary_runtime::Runtime;
use granary_types::ShardId;

use crate::{MetaError, MetaService, pb};

/// How often what happens, in thousandths of the requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The request does not arrive.
    pub drop_request: u32,
    /// The request is carried out, its reply is lost.
    pub drop_reply: u32,
    /// The request arrives again at once.
    pub duplicate: u32,
    /// The request arrives again up to this much later, when its sender may have gone on.
    pub late_duplicate: u32,
    /// The longest delay of a request or of a late duplicate.
    pub delay_max: Duration,
}

/// A metadata service behind a bad network.
pub struct FaultyMeta {
    service: Arc<dyn MetaService>,
    runtime: Runtime,
    faults: Faults,
    replies_to_drop: AtomicU32,
}

impl FaultyMeta {
    /// Puts a bad network before a service. The runtime's entropy decides what happens when.
    pub fn new(runtime: Runtime, service: Arc<dyn MetaService>, faults: Faults) -> Arc<Self> {
        Arc::new(Self {
            service,
            runtime,
            faults,
            replies_to_drop: AtomicU32::new(0),
        })
    }

    /// Loses the replies to the next `count` commands, which are carried out.
    pub fn drop_replies(&self, count: u32) {
        self.replies_to_drop.store(count, Ordering::SeqCst);
    }

    fn happens(&self, per_mille: u32) -> bool {
        self.runtime.entropy().below(1000) < u64::from(per_mille)
    }

    async fn delay(&self) {
        self.runtime
            .sleep(random_delay(&self.runtime, self.faults.delay_max))
            .await;
    }

    fn drops_this_reply(&self) -> bool {
        let take = |left: u32| left.checked_sub(1);
        let ordered = self
            .replies_to_drop
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        ordered.is_ok() || self.happens(self.faults.drop_reply)
    }
}

fn random_delay(runtime: &Runtime, most: Duration) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(runtime.entropy().below(micros.saturating_add(1)))
}

#[async_trait]
impl MetaService for FaultyMeta {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        self.delay().await;
        if self.happens(self.faults.drop_request) {
            return Err(MetaError::UnknownOutcome("the request was lost".to_owned()));
        }
        if self.happens(self.faults.late_duplicate) {
            let (service, command) = (Arc::clone(&self.service), command.clone());
            let (runtime, most) = (self.runtime.clone(), self.faults.delay_max * 20);
            self.runtime.spawn(async move {
                runtime.sleep(random_delay(&runtime, most)).await;
                // Nobody waits for it.
                let _ = service.propose(shard, command).await;
            });
        }
        if self.happens(self.faults.duplicate) {
            let first = self.service.propose(shard, command.clone()).await;
            let second = self.service.propose(shard, command.clone()).await;
            if let (Ok(first), Ok(second)) = (first, second) {
                assert_eq!(first, second, "a repeat has the first answer: {command:?}");
            }
        }
        let outcome = self.service.propose(shard, command).await;
        if self.drops_this_reply() {
            return Err(MetaError::UnknownOutcome("the reply was lost".to_owned()));
        }
        outcome
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        self.delay().await;
        if self.happens(self.faults.drop_request + self.faults.drop_reply) {
            return Err(MetaError::Unavailable("the query was lost".to_owned()));
        }
        self.service.query(shard, query).await
    }
}
