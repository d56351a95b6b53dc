//! Buckets: the steps of creating and deleting one, which any gateway can take over from another.

use granary_meta_api::client::BucketSegment;
use granary_meta_api::pb::fence_bucket::Action as Fence;
use granary_meta_api::pb::state::bucket::State;
use granary_meta_api::pb::{self, state};
use granary_meta_api::{Command, ErrorKind};
use granary_types::{BucketAcl, BucketId, Redundancy, StorageClass};

use super::{Gateway, NotDone};
use crate::cluster::OWNER;
use crate::history::ObjectName;
use crate::linearizability::Action;

/// A bucket as a gateway saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Identity.
    pub id: BucketId,
    /// Name.
    pub name: String,
    /// The generation that commits carry.
    pub generation: u64,
}

impl Bucket {
    fn of(record: &state::Bucket) -> Self {
        Self {
            id: BucketId(record.id),
            name: record.name.clone(),
            generation: record.generation,
        }
    }

    /// Where a command about a key acts.
    pub fn position(&self, key: &str) -> pb::Position {
        pb::Position {
            bucket_id: self.id.0,
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            generation: self.generation,
        }
    }

    /// A key of this bucket in the history.
    pub fn object(&self, key: &str) -> ObjectName {
        (self.id.0, key.to_owned())
    }
}

/// Times that a step starts again because ranges have moved meanwhile.
const REROUTES_MAX: usize = 20;

impl Gateway {
    /// GetBucket: `None` when there is none, or not yet, or not for long.
    ///
    /// # Errors
    /// No answer.
    pub async fn find_bucket(&self, name: &str) -> Result<Option<Bucket>, NotDone> {
        let answer = self
            .meta
            .query(pb::GetBucket {
                name: name.to_owned(),
            })
            .await;
        let answer = answer.map_err(|error| self.judge("look-up of a bucket", &error))?;
        let active = |record: &state::Bucket| answer.found && record.state() == State::Active;
        Ok(answer
            .bucket
            .as_ref()
            .filter(|record| active(record))
            .map(Bucket::of))
    }

    /// PutBucket.
    ///
    /// # Errors
    /// It was not done, or not in full.
    pub async fn create_bucket(&self, name: &str) -> Result<Bucket, NotDone> {
        let wanted = state::Bucket {
            name: name.to_owned(),
            owner: OWNER.0,
            storage_class: StorageClass::Standard.number(),
            redundancy: Redundancy::Lrs.number(),
            acl: BucketAcl::Private.number(),
            ..state::Bucket::default()
        };
        let command = pb::CreateBucket {
            bucket: Some(wanted),
            buckets_max: 0,
            acl_given: false,
        };
        let record = self.root(command).await?;
        match record.state() {
            State::Active => return Ok(Bucket::of(&record)),
            State::Creating => {}
            State::Deleting => {
                self.finish_deletion(&record).await?;
                return Err(NotDone);
            }
        }
        let view = state::BucketView {
            bucket_id: record.id,
            generation: record.generation,
            versioning: record.versioning,
            ..state::BucketView::default()
        };
        self.on_every_shard(BucketId(record.id), |segment| pb::ConfigureBucket {
            view: Some(view),
            segment: Some(segment),
        })
        .await?;
        self.root(pb::FinishCreateBucket {
            bucket_id: record.id,
        })
        .await?;
        self.count("bucket created");
        Ok(Bucket::of(&record))
    }

    /// DeleteBucket: true when it is gone, false when it is not empty. When it is gone, every key
    /// of it was absent: `keys` are noted so.
    ///
    /// # Errors
    /// It was not done, or not in full.
    pub async fn delete_bucket(&self, bucket: &Bucket, keys: &[String]) -> Result<bool, NotDone> {
        let called = self.record.history.call();
        let record = self
            .root(pb::BeginDeleteBucket {
                bucket_id: bucket.id.0,
            })
            .await?;
        let gone = self.finish_deletion(&record).await?;
        if gone {
            let names: Vec<ObjectName> = keys.iter().map(|key| bucket.object(key)).collect();
            let absent = names.iter().map(|name| (name, Action::Read(None)));
            self.record
                .history
                .answered_many(self.client(), called, absent);
            self.count("bucket deleted");
        } else {
            self.count("bucket not empty");
        }
        Ok(gone)
    }

    async fn finish_deletion(&self, record: &state::Bucket) -> Result<bool, NotDone> {
        let (bucket, generation) = (BucketId(record.id), record.generation);
        let fence = |action: Fence| {
            move |segment: pb::Segment| pb::FenceBucket {
                bucket_id: bucket.0,
                generation,
                action: action.into(),
                segment: Some(segment),
            }
        };
        let fenced = self.on_every_shard(bucket, fence(Fence::Fence)).await?;
        let empty = fenced.iter().all(|reply| reply.empty);
        let last = if empty { Fence::Drop } else { Fence::Unfence };
        self.on_every_shard(bucket, fence(last)).await?;
        self.root(pb::EndDeleteBucket {
            bucket_id: bucket.0,
            deleted: empty,
            generation,
        })
        .await?;
        Ok(empty)
    }

    /// A command of the root; a bucket that is gone, or taken over by another attempt, is no
    /// finding.
    async fn root<C: Command>(&self, command: C) -> Result<C::Reply, NotDone> {
        match self.meta.propose(command).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(no)) => Err(self.judge_rejection("bucket command", &no)),
            Err(error) => Err(self.judge("bucket command", &error)),
        }
    }

    /// Has a command decided by every shard that holds a part of a bucket.
    async fn on_every_shard<C, F>(
        &self,
        bucket: BucketId,
        command: F,
    ) -> Result<Vec<C::Reply>, NotDone>
    where
        C: Command,
        F: Fn(pb::Segment) -> C,
    {
        'again: for _ in 0..REROUTES_MAX {
            let segments = self.meta.segments(bucket).await;
            let segments = segments.map_err(|error| self.judge("segments", &error))?;
            let mut replies = Vec::with_capacity(segments.len());
            for segment in segments {
                let shard = segment.shard;
                match self.meta.propose_to(shard, command(named(segment))).await {
                    Ok(Ok(reply)) => replies.push(reply),
                    Ok(Err(no)) => return Err(self.judge_rejection("bucket step", &no)),
                    Err(error) if error.kind() == ErrorKind::Reroute => {
                        let refreshed = self.meta.refresh_map().await;
                        refreshed.map_err(|error| self.judge("map", &error))?;
                        continue 'again;
                    }
                    Err(error) => return Err(self.judge("bucket step", &error)),
                }
            }
            return Ok(replies);
        }
        Err(NotDone)
    }

    /// Every bucket; an error while one is still being created or deleted.
    ///
    /// # Errors
    /// A sentence.
    pub async fn settled_buckets(&self) -> Result<Vec<Bucket>, String> {
        let query = pb::ListBuckets {
            owner: OWNER.0,
            limit: 100,
            ..pb::ListBuckets::default()
        };
        let listed = self
            .meta
            .query(query)
            .await
            .map_err(|error| error.to_string())?;
        let unfinished = pb::ListUnfinishedBuckets { limit: 100 };
        let unfinished = self
            .meta
            .query(unfinished)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(bucket) = unfinished.buckets.first() {
            return Err(format!("bucket {} stays {:?}", bucket.name, bucket.state()));
        }
        Ok(listed.buckets.iter().map(Bucket::of).collect())
    }
}

fn named(segment: BucketSegment) -> pb::Segment {
    pb::Segment {
        start_key: segment.start_key,
        bounded: segment.end_key.is_some(),
        end_key: segment.end_key.unwrap_or_default(),
    }
}
