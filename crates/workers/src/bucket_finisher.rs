//! Finishes buckets whose creation or deletion was cut off between the root and the shards.

use std::collections::HashMap;
use std::time::Duration;

use granary_meta_api::{Meta, pb};
use granary_runtime::Runtime;
use granary_types::BucketId;

use crate::{Tick, Worker, WorkerError};

/// Buckets looked at per tick.
const PAGE: u32 = 100;

/// The worker that finishes buckets.
pub struct BucketFinisher {
    runtime: Runtime,
    meta: Meta,
    patience: Duration,
    /// Since when (monotonic) this process has seen a bucket in the same attempt. Bounded by the
    /// page: what is no longer unfinished is forgotten.
    seen: HashMap<(BucketId, u64), Duration>,
}

impl BucketFinisher {
    /// Finishes what has been unfinished for `patience`: before that, whoever began it is most
    /// likely still at it.
    pub fn new(runtime: Runtime, meta: Meta, patience: Duration) -> Self {
        Self {
            runtime,
            meta,
            patience,
            seen: HashMap::new(),
        }
    }
}

impl Worker for BucketFinisher {
    const NAME: &'static str = "bucket-finisher";

    async fn tick(&mut self, _lease_token: u64) -> Result<Tick, WorkerError> {
        let query = pb::ListUnfinishedBuckets { limit: PAGE };
        let page = self.meta.query(query).await?;
        let now = self.runtime.monotonic();
        let key = |bucket: &pb::state::Bucket| (BucketId(bucket.id), bucket.generation);
        self.seen
            .retain(|known, _| page.buckets.iter().any(|bucket| key(bucket) == *known));
        let mut failure = None;
        for bucket in page.buckets {
            let since = *self.seen.entry(key(&bucket)).or_insert(now);
            if now.saturating_sub(since) < self.patience {
                continue;
            }
            let id = bucket.id;
            match self.meta.finish_bucket(bucket).await {
                Ok(Ok(())) => tracing::info!(bucket = id, "finished a bucket left half-way"),
                // Gone: somebody else finished it.
                Ok(Err(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(Tick::Done),
        }
    }
}
