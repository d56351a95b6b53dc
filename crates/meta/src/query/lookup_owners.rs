//! LookupOwners: may the sweep delete chunks of these object ids? Only when this shard knows
//! nothing of them and no commit of them can be applied any more. A shard that does not own all of
//! the segment it is asked for gives no answer: another may know more.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state::owner::State;
use granary_types::{BucketId, ObjectId};

use super::{Answer, QueryError, ShardView};
use crate::keyspace::Id;
use crate::keyspace::owner::OwnerKey;
use crate::limits::OWNERS_PER_QUERY_MAX;
use crate::ownership::{KeySpan, data_slabs, place_at};
use crate::rows::Rows;

impl Answer for pb::LookupOwners {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        if self.object_ids.len() > OWNERS_PER_QUERY_MAX {
            return Err(QueryError::Invalid("too many object ids"));
        }
        let bucket = BucketId(self.bucket_id);
        let segment = self.segment.unwrap_or_default();
        shard.slab(&KeySpan::new(
            self.bucket_id,
            &segment.start_key,
            segment.bounded,
            &segment.end_key,
        ))?;
        let mut owners = Vec::with_capacity(self.object_ids.len());
        for object_id in self.object_ids {
            owners.push(status(shard, bucket, object_id)?);
        }
        Ok(Reply::Owners(pb::OwnersResult {
            owners,
            applied_ms: shard.clock.applied_ms,
        }))
    }
}

fn status(
    shard: &ShardView<'_>,
    bucket: BucketId,
    object_id: Bytes,
) -> Result<pb::OwnerStatus, QueryError> {
    let mut status = pb::OwnerStatus {
        object_id: object_id.clone(),
        known: true,
        ..Default::default()
    };
    let Some(object) = Id::from_slice(&object_id) else {
        return Ok(status);
    };
    for slab in data_slabs(&shard.descriptor) {
        let Some(owner) = shard.rows.get(&OwnerKey {
            slab,
            bucket,
            object,
        })?
        else {
            continue;
        };
        let mine = place_at(&shard.descriptor, bucket, &owner.key).is_some();
        let gone = match owner.state() {
            State::Writing | State::Deleted => shard.clock.applied_ms > owner.deadline_ms,
            State::Committed | State::Part | State::Deleting => false,
        };
        status.settled = mine && matches!(owner.state(), State::Committed | State::Part);
        status.known = !mine || !gone;
        status.expired = mine && gone;
        status.deadline_ms = if status.expired { owner.deadline_ms } else { 0 };
        return Ok(status);
    }
    let lease_ms = shard.clock.settings.map_or(0, |s| s.write_lease_ms);
    let birth_ms = ObjectId::from_slice(&object.0)
        .unwrap_or_default()
        .birth_ms();
    let deadline_ms = birth_ms.saturating_add(lease_ms);
    status.known = false;
    status.expired = shard.clock.applied_ms > deadline_ms;
    status.deadline_ms = if status.expired { deadline_ms } else { 0 };
    Ok(status)
}
