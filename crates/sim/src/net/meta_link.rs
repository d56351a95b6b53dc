//! An endpoint's way to the metadata service: it follows leaders, and now and then it repeats a
//! command that was answered long ago, whose answer must be the first one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use granary_meta_api::{MetaError, MetaService, pb};
use granary_types::{NodeId, ShardId};
use parking_lot::Mutex;

use super::{Endpoint, Life, Message, NetError, Services, SimNet};

/// Commands that are repeated after they were answered, of a thousand.
const REPEATED_PER_MILLE: u32 = 60;
/// The longest wait before such a repeat, in milliseconds.
const REPEAT_DELAY_MS_MAX: u64 = 20_000;

/// The way of one life to the metadata service. Cheap to clone.
#[derive(Clone)]
pub struct MetaLink {
    net: SimNet,
    life: Life,
    nodes: Arc<[Endpoint]>,
    leaders: Arc<Mutex<BTreeMap<ShardId, Endpoint>>>,
    /// Longest wait for one answer; the client above tries again.
    timeout: Duration,
}

impl MetaLink {
    /// A way to the service on `nodes`; an answer is waited for `timeout`.
    pub fn new(
        net: SimNet,
        life: Life,
        nodes: impl Into<Arc<[Endpoint]>>,
        timeout: Duration,
    ) -> Self {
        Self {
            net,
            life,
            nodes: nodes.into(),
            leaders: Arc::default(),
            timeout,
        }
    }

    fn target(&self, shard: ShardId) -> Endpoint {
        let known = self.leaders.lock().get(&shard).copied();
        known.unwrap_or_else(|| self.any())
    }

    fn any(&self) -> Endpoint {
        let pick = self.net.below(self.nodes.len() as u64);
        self.nodes[usize::try_from(pick).unwrap_or(0)]
    }

    fn learn<T>(&self, shard: ShardId, asked: Endpoint, outcome: &Result<T, MetaError>) {
        let next = match outcome {
            Ok(_) => asked,
            Err(MetaError::NotLeader {
                leader: Some(NodeId(leader)),
                ..
            }) => Endpoint(*leader),
            Err(
                MetaError::NotLeader { leader: None, .. }
                | MetaError::Unavailable(_)
                | MetaError::WrongShard(_)
                | MetaError::UnknownOutcome(_),
            ) => self.any(),
            Err(_) => return,
        };
        self.leaders.lock().insert(shard, next);
    }

    async fn exchange<T, S, F>(
        &self,
        to: Endpoint,
        message: Message,
        serve: S,
    ) -> Result<T, MetaError>
    where
        S: Fn(Arc<dyn MetaService>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, MetaError>> + Send + 'static,
        T: Send + 'static,
    {
        let serve = Arc::new(serve);
        let served = self
            .net
            .call(&self.life, to, message, move |services: Services| {
                let serve = Arc::clone(&serve);
                async move {
                    match services.meta {
                        Some(meta) => serve(meta).await,
                        None => Err(MetaError::Unavailable("starting".to_owned())),
                    }
                }
            });
        match served.await {
            Ok(outcome) => outcome,
            Err(NetError::Refused) => Err(MetaError::Unavailable("refused".to_owned())),
            Err(NetError::NoAnswer) => Err(MetaError::UnknownOutcome("no answer".to_owned())),
        }
    }

    async fn propose_once(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let to = self.target(shard);
        let message = Message {
            label: "meta propose",
            detail: u64::from(shard.0),
            timeout: self.timeout,
        };
        let outcome = self
            .exchange(to, message, move |meta| {
                let command = command.clone();
                async move { meta.propose(shard, command).await }
            })
            .await;
        self.learn(shard, to, &outcome);
        outcome
    }

    /// Repeats an answered command later. Invariant: a command is decided once, and its repeats
    /// get the first answer for as long as they may come.
    fn repeat_later(&self, shard: ShardId, command: pb::Command, first: pb::CommandReply) {
        let link = self.clone();
        let delay = Duration::from_millis(self.net.below(REPEAT_DELAY_MS_MAX));
        self.life.runtime.spawn(async move {
            link.life.runtime.sleep(delay).await;
            link.net.trace.count("answered command repeated");
            let outcome = link.propose_once(shard, command.clone()).await;
            if let Ok(second) = outcome
                && second != first
            {
                link.net.findings.report(format!(
                    "a repeated command got another answer: {command:?} got {first:?}, then \
                     {second:?}"
                ));
            }
        });
    }
}

#[async_trait]
impl MetaService for MetaLink {
    async fn propose(
        &self,
        shard: ShardId,
        command: pb::Command,
    ) -> Result<pb::CommandReply, MetaError> {
        let reply = self.propose_once(shard, command.clone()).await?;
        if self.net.one_of(REPEATED_PER_MILLE) {
            self.repeat_later(shard, command, reply.clone());
        }
        Ok(reply)
    }

    async fn query(&self, shard: ShardId, query: pb::Query) -> Result<pb::QueryReply, MetaError> {
        let to = self.target(shard);
        let message = Message {
            label: "meta query",
            detail: u64::from(shard.0),
            timeout: self.timeout,
        };
        let outcome = self
            .exchange(to, message, move |meta| {
                let query = query.clone();
                async move { meta.query(shard, query).await }
            })
            .await;
        self.learn(shard, to, &outcome);
        outcome
    }
}
