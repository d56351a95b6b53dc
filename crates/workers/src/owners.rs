//! Asks every shard that may own an object id what it knows of it. Only what every one of them
//! calls expired is garbage; a shard that does not answer, or is the wrong one, means keep.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_meta_api::Meta;
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
    let asked = objects.iter().map(|object| object.to_bytes());
    let asked = asked.map(|id| Bytes::copy_from_slice(&id)).collect();
    let expired = meta.expired_owners(bucket, asked).await?;
    Ok(expired
        .iter()
        .filter_map(|id| ObjectId::from_slice(id))
        .collect())
}
