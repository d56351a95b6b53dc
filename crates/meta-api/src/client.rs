//! The client: routes by position, retries with the same command id until a deadline, and merges
//! what several shards know of one bucket.

mod bucket;
mod listing;
mod owners;
mod range_map;
mod refresh;
mod retry;

pub use owners::OwnerFate;
pub use range_map::{BucketSegment, RangeMap};

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use granary_runtime::Runtime;
use granary_types::{BucketId, ShardId};

use self::refresh::SingleFlight;
use self::retry::{Leaderless, ShardTimes};
use crate::command::Target;
use crate::{Command, ErrorKind, MetaError, MetaService, Query, pb};

/// What a command or a query may cost at most, retries included.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// The outcome of a command: decided yes, decided no, or not decided.
pub type Decision<R> = Result<Result<R, pb::Rejection>, MetaError>;

/// A client of the metadata service. Cheap to clone.
#[derive(Clone)]
pub struct Meta {
    service: Arc<dyn MetaService>,
    runtime: Runtime,
    map: Arc<ArcSwap<RangeMap>>,
    refreshing: Arc<SingleFlight>,
    shard_times: Arc<ShardTimes>,
    leaderless: Arc<Leaderless>,
    deadline: Duration,
    patience: Duration,
}

impl Meta {
    /// A client that gives up on a request after [`DEADLINE_DEFAULT`].
    pub fn new(runtime: Runtime, service: Arc<dyn MetaService>) -> Self {
        let map = Arc::new(ArcSwap::from_pointee(RangeMap::default()));
        Self {
            service,
            runtime,
            map,
            refreshing: Arc::default(),
            shard_times: Arc::default(),
            leaderless: Arc::default(),
            deadline: DEADLINE_DEFAULT,
            patience: DEADLINE_DEFAULT,
        }
    }

    /// The same client with another deadline per request.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same client, which gives up on a shard that has had no leader for this long, long before
    /// the deadline of the request: a few election timeouts tell that no majority is there.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Decides a command on the shard it belongs to.
    ///
    /// # Errors
    /// Outer: no decision in time. After [`MetaError::UnknownOutcome`], [`MetaError::Expired`] and
    /// [`MetaError::Internal`] the command may have been applied, after any other error it was not
    /// and never will be. Inner: the cluster said no, and nothing changed.
    pub async fn propose<C: Command>(&self, command: C) -> Decision<C::Reply> {
        self.propose_with(None, command).await
    }

    /// Decides a command on a named shard.
    ///
    /// # Errors
    /// As for [`Meta::propose`].
    pub async fn propose_to<C: Command>(&self, shard: ShardId, command: C) -> Decision<C::Reply> {
        self.propose_with(Some(shard), command).await
    }

    async fn propose_with<C: Command>(
        &self,
        named: Option<ShardId>,
        command: C,
    ) -> Decision<C::Reply> {
        let target = command.target();
        // Boxed: it holds the command, and is held by the futures of whole requests.
        let reply = Box::pin(self.decide(named, &target, command.into_wire())).await?;
        if let Some(rejection) = reply.rejection {
            return Ok(Err(rejection));
        }
        match reply.reply.and_then(C::reply) {
            Some(answer) => Ok(Ok(answer)),
            None => Err(MetaError::Internal(
                "the reply is of another kind".to_owned(),
            )),
        }
    }

    /// Asks the shard the query belongs to.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn query<Q: Query>(&self, query: Q) -> Result<Q::Reply, MetaError> {
        self.query_with(None, query).await
    }

    /// Asks a named shard.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn query_at<Q: Query>(
        &self,
        shard: ShardId,
        query: Q,
    ) -> Result<Q::Reply, MetaError> {
        self.query_with(Some(shard), query).await
    }

    async fn query_with<Q: Query>(
        &self,
        named: Option<ShardId>,
        query: Q,
    ) -> Result<Q::Reply, MetaError> {
        let target = query.target();
        let envelope = pb::Query {
            query: Some(query.into_wire()),
        };
        let mut backoff = self.request_backoff();
        let attempt = |shard| {
            let (service, envelope) = (Arc::clone(&self.service), envelope.clone());
            async move { service.query(shard, envelope).await }
        };
        let reply = self.retrying(&mut backoff, named, &target, attempt).await?;
        reply
            .reply
            .and_then(Q::reply)
            .ok_or_else(|| MetaError::Internal("the reply is of another kind".to_owned()))
    }

    /// Ids for `count` writes at a position, stamped by its shard, and how long a write may take
    /// before it must renew its lease (by staging extents).
    ///
    /// # Errors
    /// No answer in time.
    pub async fn begin_write(&self, at: pb::Position) -> Result<(Bytes, Duration), MetaError> {
        let reply = self
            .query(pb::BeginWrite {
                at: Some(at),
                count: 1,
            })
            .await?;
        let id = reply.ids.into_iter().next();
        let id = id.ok_or_else(|| MetaError::Internal("no write id in the reply".to_owned()))?;
        Ok((id, Duration::from_millis(reply.lease_ms)))
    }

    /// The shards that hold parts of a bucket, in key order.
    ///
    /// # Errors
    /// The map could not be read in time.
    pub async fn segments(&self, bucket: BucketId) -> Result<Vec<BucketSegment>, MetaError> {
        let known = self.map.load().segments(bucket);
        if !known.is_empty() {
            return Ok(known);
        }
        self.refresh_map().await?;
        let known = self.map.load().segments(bucket);
        if known.is_empty() {
            return Err(MetaError::Unavailable(
                "no shard owns the bucket yet".to_owned(),
            ));
        }
        Ok(known)
    }

    /// Reads the map of ranges from the root, or waits for another request's read that began after
    /// this call.
    ///
    /// # Errors
    /// The root gave no answer in time.
    pub async fn refresh_map(&self) -> Result<(), MetaError> {
        let mut backoff = self.request_backoff();
        loop {
            match self.refresh_map_once().await {
                Err(error) if error.kind() != ErrorKind::Permanent => {
                    if !backoff.wait(&self.runtime).await {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// One try of [`Meta::refresh_map`], for callers that try again themselves.
    async fn refresh_map_once(&self) -> Result<(), MetaError> {
        self.refreshing.refresh(|| self.read_map()).await
    }

    async fn read_map(&self) -> Result<(), MetaError> {
        let query = pb::GetClusterMap {
            known_epoch: self.map.load().epoch(),
        };
        let envelope = pb::Query {
            query: Some(query.into_wire()),
        };
        let reply = self.service.query(ShardId::ROOT, envelope).await?;
        let Some(map) = reply.reply.and_then(<pb::GetClusterMap as Query>::reply) else {
            return Err(MetaError::Internal(
                "the reply is of another kind".to_owned(),
            ));
        };
        if !map.unchanged {
            self.map
                .store(Arc::new(RangeMap::new(map.epoch, map.ranges)));
        }
        Ok(())
    }

    /// The shard a request goes to by the map as it is now.
    async fn shard_for(
        &self,
        named: Option<ShardId>,
        target: &Target,
    ) -> Result<ShardId, MetaError> {
        if let Some(shard) = named.or_else(|| target.fixed()) {
            return Ok(shard);
        }
        let Target::At(bucket, key) = target else {
            return Err(MetaError::Invalid(
                "the request needs a named shard".to_owned(),
            ));
        };
        if let Some(shard) = self.map.load().shard_at(*bucket, key) {
            return Ok(shard);
        }
        self.refresh_map_once().await?;
        self.map
            .load()
            .shard_at(*bucket, key)
            .ok_or_else(|| MetaError::Unavailable("no shard owns the position yet".to_owned()))
    }
}
