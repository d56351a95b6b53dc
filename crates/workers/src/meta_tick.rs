//! Lets the time of idle shards go on, so that what is due there (expired writes, old replies,
//! the sweep's verdicts) does not wait for the next client.

use std::time::Duration;

use granary_datapath::ClusterView;
use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::ShardId;

use crate::{Tick, Worker, WorkerError};

/// The worker that ticks idle shards.
pub struct MetaTick {
    runtime: Runtime,
    meta: Meta,
    view: ClusterView,
    idle_after: Duration,
}

impl MetaTick {
    /// Ticks shards whose applied time is more than `idle_after` behind.
    pub fn new(runtime: Runtime, meta: Meta, view: ClusterView, idle_after: Duration) -> Self {
        Self {
            runtime,
            meta,
            view,
            idle_after,
        }
    }

    async fn visit(&self, shard: ShardId) -> Result<(), WorkerError> {
        let described = self.meta.query_at(shard, pb::DescribeShard {}).await?;
        let applied_ms = described.clock.map_or(0, |clock| clock.applied_ms);
        let idle_ms = u128::from(self.runtime.now().as_millis().saturating_sub(applied_ms));
        if idle_ms >= self.idle_after.as_millis() {
            let answer = self.meta.propose_to(shard, pb::Tick {}).await?;
            answer.map_err(|no| WorkerError::refused("a tick", no))?;
        }
        Ok(())
    }
}

impl Worker for MetaTick {
    const NAME: &'static str = "meta-tick";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        let map = self.view.map();
        let mut failure = None;
        for shard in std::iter::once(ShardId::ROOT).chain(map.shards().iter().copied()) {
            if let Err(error) = self.visit(shard).await {
                failure = Some(error);
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Tick::Done),
        }
    }
}
