//! What all shards of a bucket know of object ids and of their chunks: the sweep's questions.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_runtime::Backoff;
use granary_types::{BucketId, ShardId};

use super::Meta;
use super::bucket::{FIRST_PAUSE, LONGEST_PAUSE, named};
use crate::{ErrorKind, MetaError, Query, pb};

/// What has become of an object id that chunks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerFate {
    /// No shard knows it and no commit can bring it to life any more: its chunks are garbage.
    Expired,
    /// An object or a part: rows name every chunk that it has.
    Settled,
    /// A write that may still be committed, or something that is being deleted.
    Open,
}

impl Meta {
    /// Those of `object_ids` that no shard of the bucket knows and no commit can bring to life any
    /// more: their chunks are garbage.
    ///
    /// # Errors
    /// As for [`Meta::owner_fates`]: keep all of them.
    pub async fn expired_owners(
        &self,
        bucket: BucketId,
        object_ids: Vec<Bytes>,
    ) -> Result<HashSet<Bytes>, MetaError> {
        let fates = self.owner_fates(bucket, object_ids).await?.into_iter();
        let expired = fates.filter(|(_, fate)| *fate == OwnerFate::Expired);
        Ok(expired.map(|(object, _)| object).collect())
    }

    /// What has become of each of `object_ids`. Every part of the bucket is asked at its owner; a
    /// shard that does not own (all of) what it is asked for does not answer.
    ///
    /// # Errors
    /// Not every part of the bucket gave an answer in time.
    pub async fn owner_fates(
        &self,
        bucket: BucketId,
        object_ids: Vec<Bytes>,
    ) -> Result<HashMap<Bytes, OwnerFate>, MetaError> {
        let found = self.owners(bucket, object_ids).await?.into_iter();
        Ok(found.map(|(object, (fate, _))| (object, fate)).collect())
    }

    /// Since when, in milliseconds since the epoch, those of `object_ids` are expired that are. 0
    /// where a shard of an older version knows that they are, but does not tell since when.
    ///
    /// # Errors
    /// As for [`Meta::owner_fates`].
    pub async fn owners_expired_since(
        &self,
        bucket: BucketId,
        object_ids: Vec<Bytes>,
    ) -> Result<HashMap<Bytes, u64>, MetaError> {
        let found = self.owners(bucket, object_ids).await?.into_iter();
        let expired = found.filter(|(_, (fate, _))| *fate == OwnerFate::Expired);
        Ok(expired
            .map(|(object, (_, since))| (object, since))
            .collect())
    }

    /// What has become of each, and since when those are expired that are.
    async fn owners(
        &self,
        bucket: BucketId,
        object_ids: Vec<Bytes>,
    ) -> Result<HashMap<Bytes, (OwnerFate, u64)>, MetaError> {
        let mut backoff = Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline);
        'again: loop {
            let all = object_ids.iter().cloned();
            let mut fates: HashMap<Bytes, (OwnerFate, u64)> = all
                .map(|object| (object, (OwnerFate::Expired, 0)))
                .collect();
            for segment in self.segments(bucket).await? {
                // An object or a part has one owner. That one shard calls another fate open is not
                // the last word: after a split it may see a row of its sibling.
                let unfound = fates
                    .iter()
                    .filter(|(_, (fate, _))| *fate != OwnerFate::Settled);
                let unfound: Vec<Bytes> = unfound.map(|(object, _)| object.clone()).collect();
                if unfound.is_empty() {
                    break;
                }
                let shard = segment.shard;
                let mut unanswered: HashSet<Bytes> = unfound.iter().cloned().collect();
                let query = pb::LookupOwners {
                    bucket_id: bucket.0,
                    object_ids: unfound,
                    segment: Some(named(segment)),
                };
                let Some(answer) = self.ask_segment(&mut backoff, shard, query).await? else {
                    continue 'again;
                };
                for owner in answer.owners {
                    unanswered.remove(&owner.object_id);
                    let Some((fate, since)) = fates.get_mut(&owner.object_id) else {
                        continue;
                    };
                    if owner.settled {
                        *fate = OwnerFate::Settled;
                    } else if owner.known || !owner.expired {
                        *fate = OwnerFate::Open;
                    } else {
                        *since = (*since).max(owner.deadline_ms);
                    }
                }
                // Not a word is not a verdict.
                for object in unanswered {
                    fates.insert(object, (OwnerFate::Open, 0));
                }
            }
            return Ok(fates);
        }
    }

    /// Those of `chunks` (4096 at most), which disks hold as written for `object`, that no row names
    /// and none ever will: it is an object or a part, and its body has others. Every part of the
    /// bucket is asked until its owner answers; when nobody is certain, none is.
    ///
    /// # Errors
    /// As for [`Meta::owner_fates`]: keep all of them.
    pub async fn unnamed_chunks(
        &self,
        bucket: BucketId,
        object: Bytes,
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, MetaError> {
        let mut backoff = Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline);
        'again: loop {
            for segment in self.segments(bucket).await? {
                let shard = segment.shard;
                let query = pb::LookupChunks {
                    bucket_id: bucket.0,
                    object_id: object.clone(),
                    chunks: chunks.clone(),
                    segment: Some(named(segment)),
                };
                let Some(answer) = self.ask_segment(&mut backoff, shard, query).await? else {
                    continue 'again;
                };
                if answer.decided {
                    let named: HashSet<Bytes> = answer.named.into_iter().collect();
                    let unnamed = chunks.into_iter().filter(|chunk| !named.contains(chunk));
                    return Ok(unnamed.collect());
                }
            }
            return Ok(Vec::new());
        }
    }

    /// Asks about one part of a bucket; `None` when the map of ranges was old and was read again.
    async fn ask_segment<Q: Query>(
        &self,
        backoff: &mut Backoff,
        shard: ShardId,
        query: Q,
    ) -> Result<Option<Q::Reply>, MetaError> {
        match self.query_at(shard, query).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind() == ErrorKind::Reroute => {
                if !backoff.wait(&self.runtime).await {
                    return Err(error);
                }
                self.refresh_map().await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
