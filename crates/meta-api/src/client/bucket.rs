//! Creating and deleting buckets: a pending change in the root, an acknowledgement by every shard
//! that holds a part of the bucket, then the end in the root.
//!
//! Every step can be repeated, by this client or by a worker that finds the bucket unfinished
//! after a crash. Each attempt to delete has a generation of its own; when a later one takes over,
//! the shards and the root refuse what the earlier one still sends, and it looks again.

use std::time::Duration;

use granary_runtime::Backoff;
use granary_types::BucketId;

use super::{BucketSegment, Decision, Meta};
use crate::pb::fence_bucket::Action;
use crate::pb::rejection::Reason;
use crate::pb::state::bucket::State;
use crate::{Command, ErrorKind, MetaError, pb};

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How an attempt to delete a bucket ended.
enum Attempt {
    Deleted,
    NotEmpty {
        uploads: bool,
    },
    /// Another attempt took over.
    Superseded,
}

impl Meta {
    /// Creates a bucket, or finds the one that is there. It exists when this returns.
    ///
    /// # Errors
    /// Outer: not decided in time; a repeat goes on with it. Inner: the cluster said no.
    pub async fn create_bucket(&self, command: pb::CreateBucket) -> Decision<pb::state::Bucket> {
        let mut backoff = self.backoff();
        loop {
            let mut bucket = match self.propose(command.clone()).await? {
                Ok(bucket) => bucket,
                Err(rejection) => return Ok(Err(rejection)),
            };
            match bucket.state() {
                State::Active => return Ok(Ok(bucket)),
                State::Creating => {
                    if self.finish_creation(&bucket).await? {
                        bucket.set_state(State::Active);
                        return Ok(Ok(bucket));
                    }
                }
                // Its owner was deleting it: that comes first. Whatever came of it, the root is asked
                // again.
                State::Deleting => {
                    let _ = self.attempt_deletion(BucketId(bucket.id)).await?;
                }
            }
            self.pause(&mut backoff, "a bucket's creation").await?;
        }
    }

    /// Deletes an empty bucket. It is gone when this returns.
    ///
    /// # Errors
    /// Outer: not decided in time; the bucket may be left unfinished for a worker. Inner:
    /// `BUCKET_NOT_EMPTY` (with the detail "uploads" when it holds nothing else), `NO_SUCH_BUCKET`.
    pub async fn delete_bucket(&self, bucket: BucketId) -> Decision<()> {
        // Looked at first: a fence would shut writers out of a bucket that stays.
        if let Some(rejection) = self.contents(bucket).await? {
            return Ok(Err(rejection));
        }
        let mut backoff = self.backoff();
        loop {
            match self.attempt_deletion(bucket).await? {
                Err(rejection) => return Ok(Err(rejection)),
                Ok(Attempt::Deleted) => return Ok(Ok(())),
                Ok(Attempt::NotEmpty { uploads }) => return Ok(Err(not_empty(uploads))),
                Ok(Attempt::Superseded) => {}
            }
            self.pause(&mut backoff, "a bucket's deletion").await?;
            let known = self.query(pb::GetBucketById { id: bucket.0 }).await?;
            if !known.found {
                // The other attempt deleted it.
                return Ok(Ok(()));
            }
        }
    }

    /// Finishes what was begun with a bucket: for the worker that reads
    /// `pb::ListUnfinishedBuckets`.
    ///
    /// # Errors
    /// Outer: not finished; try again later. Inner: the bucket is gone.
    pub async fn finish_bucket(&self, bucket: pb::state::Bucket) -> Decision<()> {
        match bucket.state() {
            State::Active => self.settle(&bucket).await?,
            State::Creating => {
                self.finish_creation(&bucket).await?;
            }
            State::Deleting => {
                if let Err(rejection) = self.attempt_deletion(BucketId(bucket.id)).await? {
                    return Ok(Err(rejection));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Turns versioning on (1) or off again (2). Every shard knows it when this returns.
    ///
    /// # Errors
    /// Outer: not decided in time; a repeat or a worker goes on with it. Inner: the cluster said no.
    pub async fn set_bucket_versioning(
        &self,
        command: pb::SetBucketVersioning,
    ) -> Decision<pb::state::Bucket> {
        let mut backoff = self.backoff();
        loop {
            match self.propose(command).await? {
                Ok(bucket) => {
                    self.settle(&bucket).await?;
                    return Ok(Ok(bucket));
                }
                // Its deletion is being decided.
                Err(rejection) if rejection.reason() == Reason::Stale => {}
                Err(rejection) => return Ok(Err(rejection)),
            }
            let bucket = BucketId(command.bucket_id);
            let _ = self.attempt_deletion(bucket).await?;
            self.pause(&mut backoff, "a bucket's configuration").await?;
        }
    }

    /// Tells every shard the bucket's generation, if they may not know it, then the root.
    async fn settle(&self, bucket: &pb::state::Bucket) -> Result<(), MetaError> {
        if !bucket.settling {
            return Ok(());
        }
        self.configure_again(bucket).await?;
        let finish = pb::FinishConfigureBucket {
            bucket_id: bucket.id,
            generation: bucket.generation,
        };
        // Gone meanwhile: nothing is left to settle.
        self.propose(finish).await.map(drop)
    }

    /// Tells every shard of a bucket that the root knows, once more: shards that were put back from
    /// a backup may not have heard of it.
    ///
    /// # Errors
    /// Not decided in time.
    pub async fn configure_again(&self, bucket: &pb::state::Bucket) -> Result<(), MetaError> {
        let view = pb::state::BucketView {
            bucket_id: bucket.id,
            generation: bucket.generation,
            versioning: bucket.versioning,
            hierarchical: bucket.hierarchical,
            ..Default::default()
        };
        // A shard that knows more than the root refuses, and is right.
        self.on_every_segment(BucketId(bucket.id), |segment| pb::ConfigureBucket {
            view: Some(view),
            segment: Some(segment),
        })
        .await
        .map(drop)
    }

    /// Tells every shard of a new bucket, then the root; false when the bucket's state has changed
    /// meanwhile.
    async fn finish_creation(&self, bucket: &pb::state::Bucket) -> Result<bool, MetaError> {
        let view = pb::state::BucketView {
            bucket_id: bucket.id,
            generation: bucket.generation,
            versioning: bucket.versioning,
            hierarchical: bucket.hierarchical,
            ..Default::default()
        };
        let told = self.on_every_segment(BucketId(bucket.id), |segment| pb::ConfigureBucket {
            view: Some(view),
            segment: Some(segment),
        });
        if told.await?.iter().any(Result::is_err) {
            return Ok(false);
        }
        let finish = pb::FinishCreateBucket {
            bucket_id: bucket.id,
        };
        Ok(self.propose(finish).await?.is_ok())
    }

    /// One attempt to delete: fence everywhere, then drop everywhere if all is empty, or lift the
    /// fence again.
    async fn attempt_deletion(&self, bucket: BucketId) -> Decision<Attempt> {
        let begin = pb::BeginDeleteBucket {
            bucket_id: bucket.0,
        };
        let generation = match self.propose(begin).await? {
            Ok(begun) => begun.generation,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let Some(contents) = self.fence(bucket, generation, Action::Fence).await? else {
            return Ok(Ok(Attempt::Superseded));
        };
        let empty = contents.iter().all(|shard| shard.empty);
        let last = if empty { Action::Drop } else { Action::Unfence };
        if self.fence(bucket, generation, last).await?.is_none() {
            return Ok(Ok(Attempt::Superseded));
        }
        let end = pb::EndDeleteBucket {
            bucket_id: bucket.0,
            deleted: empty,
            generation,
        };
        let ended = self.propose(end).await?.is_ok();
        Ok(Ok(match (ended, empty) {
            (false, _) => Attempt::Superseded,
            (true, true) => Attempt::Deleted,
            (true, false) => Attempt::NotEmpty {
                // The look before found nothing but uploads, if anything.
                uploads: contents.iter().any(|shard| shard.has_uploads),
            },
        }))
    }

    /// Gives every shard a fence command; `None` when one of them knows of a later attempt.
    async fn fence(
        &self,
        bucket: BucketId,
        generation: u64,
        action: Action,
    ) -> Result<Option<Vec<pb::FenceReply>>, MetaError> {
        let told = self.on_every_segment(bucket, |segment| pb::FenceBucket {
            bucket_id: bucket.0,
            generation,
            action: action.into(),
            segment: Some(segment),
        });
        Ok(told.await?.into_iter().collect::<Result<_, _>>().ok())
    }

    /// Has a command decided for every segment of a bucket; from the start again when the map of
    /// ranges turns out to be old.
    async fn on_every_segment<C: Command>(
        &self,
        bucket: BucketId,
        command: impl Fn(pb::Segment) -> C + Send + Sync,
    ) -> Result<Vec<Result<C::Reply, pb::Rejection>>, MetaError> {
        let mut backoff = self.backoff();
        'again: loop {
            let mut replies = Vec::new();
            for segment in self.segments(bucket).await? {
                let shard = segment.shard;
                match self.propose_to(shard, command(named(segment))).await {
                    Ok(decision) => replies.push(decision),
                    Err(error) if error.kind() == ErrorKind::Reroute => {
                        self.pause(&mut backoff, "a bucket's shards").await?;
                        self.refresh_map().await?;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(replies);
        }
    }

    /// Why a bucket cannot be deleted, as far as a look at it tells.
    async fn contents(&self, bucket: BucketId) -> Result<Option<pb::Rejection>, MetaError> {
        let mut backoff = self.backoff();
        'again: loop {
            let mut uploads = false;
            for segment in self.segments(bucket).await? {
                let found = self.segment_contents(bucket, segment).await;
                match found {
                    Ok((true, _)) => return Ok(Some(not_empty(false))),
                    Ok((false, more)) => uploads |= more,
                    Err(error) if error.kind() == ErrorKind::Reroute => {
                        self.pause(&mut backoff, "a bucket's shards").await?;
                        self.refresh_map().await?;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(uploads.then(|| not_empty(true)));
        }
    }

    /// Whether a segment holds versions, and whether it holds uploads.
    async fn segment_contents(
        &self,
        bucket: BucketId,
        segment: BucketSegment,
    ) -> Result<(bool, bool), MetaError> {
        let shard = segment.shard;
        let segment = named(segment);
        let versions = pb::ListVersions {
            bucket_id: bucket.0,
            limit: 1,
            start_key: segment.start_key.clone(),
            bounded: segment.bounded,
            end_key: segment.end_key.clone(),
            ..Default::default()
        };
        let uploads = pb::ListUploads {
            bucket_id: bucket.0,
            limit: 1,
            start_key: segment.start_key,
            bounded: segment.bounded,
            end_key: segment.end_key,
            ..Default::default()
        };
        let versions = self.query_at(shard, versions).await?;
        let uploads = self.query_at(shard, uploads).await?;
        Ok((!versions.items.is_empty(), !uploads.items.is_empty()))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline)
    }

    async fn pause(&self, backoff: &mut Backoff, what: &str) -> Result<(), MetaError> {
        match backoff.wait(&self.runtime).await {
            true => Ok(()),
            false => Err(MetaError::Expired(format!("{what} did not come to an end"))),
        }
    }
}

pub(super) fn named(segment: BucketSegment) -> pb::Segment {
    pb::Segment {
        start_key: segment.start_key,
        bounded: segment.end_key.is_some(),
        end_key: segment.end_key.unwrap_or_default(),
    }
}

fn not_empty(uploads: bool) -> pb::Rejection {
    let detail = if uploads { "uploads" } else { "objects" };
    pb::Rejection::with_detail(Reason::BucketNotEmpty, detail)
}
