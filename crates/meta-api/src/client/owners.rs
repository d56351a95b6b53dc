//! What all shards of a bucket know of object ids: the sweep's question.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_runtime::Backoff;
use granary_types::BucketId;

use super::Meta;
use super::bucket::{FIRST_PAUSE, LONGEST_PAUSE, named};
use crate::{ErrorKind, MetaError, pb};

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
        let mut backoff = Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline);
        'again: loop {
            let all = object_ids.iter().cloned();
            let mut fates: HashMap<Bytes, OwnerFate> =
                all.map(|object| (object, OwnerFate::Expired)).collect();
            for segment in self.segments(bucket).await? {
                // Who was found once is nobody else's.
                let unfound = fates
                    .iter()
                    .filter(|(_, fate)| **fate == OwnerFate::Expired);
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
                let answer = match self.query_at(shard, query).await {
                    Ok(answer) => answer,
                    Err(error) if error.kind() == ErrorKind::Reroute => {
                        if !backoff.wait(&self.runtime).await {
                            return Err(error);
                        }
                        self.refresh_map().await?;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                };
                for owner in answer.owners {
                    unanswered.remove(&owner.object_id);
                    if owner.settled {
                        fates.insert(owner.object_id, OwnerFate::Settled);
                    } else if owner.known || !owner.expired {
                        fates.insert(owner.object_id, OwnerFate::Open);
                    }
                }
                // Not a word is not a verdict.
                for object in unanswered {
                    fates.insert(object, OwnerFate::Open);
                }
            }
            return Ok(fates);
        }
    }
}
