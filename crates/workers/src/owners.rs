//! Asks every shard that may own an object id what it knows of it. Only what every one of them
//! calls expired is garbage; a shard that does not answer, or is the wrong one, means keep.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_meta_api::{Meta, pb};
use granary_types::{BucketId, ObjectId};

use crate::WorkerError;

/// Object ids asked for at once.
const IDS_PER_QUERY: usize = 1000;

/// The owners among those of `chunks` that no commit can ever bring to life any more.
pub(crate) async fn expired_owners<'a>(
    meta: &Meta,
    chunks: impl Iterator<Item = &'a ChunkEntry>,
) -> Result<HashSet<ChunkOwner>, WorkerError> {
    let mut by_bucket: HashMap<BucketId, HashSet<ObjectId>> = HashMap::new();
    for chunk in chunks {
        let owner = chunk.owner;
        by_bucket
            .entry(owner.bucket)
            .or_default()
            .insert(owner.object);
    }
    let mut expired = HashSet::new();
    for (bucket, objects) in by_bucket {
        let objects: Vec<_> = objects.into_iter().collect();
        for objects in objects.chunks(IDS_PER_QUERY) {
            let gone = expired_in_bucket(meta, bucket, objects).await?;
            expired.extend(gone.into_iter().map(|object| ChunkOwner { bucket, object }));
        }
    }
    Ok(expired)
}

/// The ids that every shard with a part of the bucket's key space calls expired. That holds for
/// deleted buckets too: their part of the key space still has an owner.
async fn expired_in_bucket(
    meta: &Meta,
    bucket: BucketId,
    objects: &[ObjectId],
) -> Result<HashSet<ObjectId>, WorkerError> {
    // Shards split: a map that is not the newest may miss one that owns a part of the bucket.
    meta.refresh_map().await?;
    let mut shards: Vec<_> = meta
        .segments(bucket)
        .await?
        .iter()
        .map(|s| s.shard)
        .collect();
    shards.sort_unstable();
    shards.dedup();
    let mut expired: HashSet<ObjectId> = objects.iter().copied().collect();
    for shard in shards {
        let asked: Vec<ObjectId> = expired.iter().copied().collect();
        if asked.is_empty() {
            break;
        }
        let query = pb::LookupOwners {
            bucket_id: bucket.0,
            object_ids: asked
                .iter()
                .map(|object| Bytes::copy_from_slice(&object.to_bytes()))
                .collect(),
        };
        let answer = meta.query_at(shard, query).await?;
        let agreed = answer
            .owners
            .iter()
            .filter(|owner| !owner.known && owner.expired);
        let agreed: HashSet<_> = agreed
            .filter_map(|owner| ObjectId::from_slice(&owner.object_id))
            .collect();
        expired.retain(|object| agreed.contains(object));
    }
    Ok(expired)
}
