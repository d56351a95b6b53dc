//! What all shards of a bucket know of object ids: the sweep's question.

use std::collections::HashSet;

use bytes::Bytes;
use granary_runtime::Backoff;
use granary_types::BucketId;

use super::Meta;
use super::bucket::{FIRST_PAUSE, LONGEST_PAUSE, named};
use crate::{ErrorKind, MetaError, pb};

impl Meta {
    /// Those of `object_ids` that no shard of the bucket knows and no commit can bring to life any
    /// more: their chunks are garbage. Every part of the bucket is asked at its owner; a shard that
    /// does not own (all of) what it is asked for does not answer.
    ///
    /// # Errors
    /// Not every part of the bucket gave an answer in time: keep all of them.
    pub async fn expired_owners(
        &self,
        bucket: BucketId,
        object_ids: Vec<Bytes>,
    ) -> Result<HashSet<Bytes>, MetaError> {
        let mut backoff = Backoff::new(&self.runtime, FIRST_PAUSE, LONGEST_PAUSE, self.deadline);
        'again: loop {
            let mut expired: HashSet<Bytes> = object_ids.iter().cloned().collect();
            for segment in self.segments(bucket).await? {
                if expired.is_empty() {
                    break;
                }
                let shard = segment.shard;
                let query = pb::LookupOwners {
                    bucket_id: bucket.0,
                    object_ids: expired.iter().cloned().collect(),
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
                let agreed = answer.owners.into_iter();
                let agreed = agreed.filter(|owner| !owner.known && owner.expired);
                let agreed: HashSet<_> = agreed.map(|owner| owner.object_id).collect();
                expired.retain(|object| agreed.contains(object));
            }
            return Ok(expired);
        }
    }
}
