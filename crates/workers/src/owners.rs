//! Asks every shard that may own an object id what it knows of it, and of the chunks written for it.
//! Only what every one of them calls expired is garbage, or what the one that owns it does not
//! name; a shard that does not answer, or is the wrong one, means keep.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use granary_blob_api::{ChunkEntry, ChunkOwner};
use granary_meta_api::Meta;
use granary_meta_api::client::OwnerFate;
use granary_types::{BucketId, ChunkId, ObjectId};

use crate::WorkerError;
use crate::backups::is_backup;

/// Object ids asked for at once.
const IDS_PER_QUERY: usize = 1000;

/// What has become of some owners. A deleted bucket's have an answer too: its part of the key space
/// still has a shard. Owners of the metadata's backup have none: keep them.
pub(crate) async fn owner_fates(
    meta: &Meta,
    owners: impl Iterator<Item = ChunkOwner>,
) -> Result<HashMap<ChunkOwner, OwnerFate>, WorkerError> {
    let mut fates = HashMap::new();
    for (bucket, objects) in batches(owners) {
        let found = meta.owner_fates(bucket, objects).await?;
        fates.extend(owned(bucket, found));
    }
    Ok(fates)
}

/// Since when, in milliseconds since the epoch, those of some owners are expired that are; 0 where
/// that is not known.
pub(crate) async fn expired_since(
    meta: &Meta,
    owners: impl Iterator<Item = ChunkOwner>,
) -> Result<HashMap<ChunkOwner, u64>, WorkerError> {
    let mut since = HashMap::new();
    for (bucket, objects) in batches(owners) {
        let found = meta.owners_expired_since(bucket, objects).await?;
        since.extend(owned(bucket, found));
    }
    Ok(since)
}

/// Owners by buckets, as many as may be asked for at once.
fn batches(owners: impl Iterator<Item = ChunkOwner>) -> Vec<(BucketId, Vec<Bytes>)> {
    let mut by_bucket: HashMap<BucketId, HashSet<Bytes>> = HashMap::new();
    // A backup's chunks belong to no shard, and are never garbage because of that.
    for owner in owners.filter(|owner| !is_backup(owner)) {
        let objects = by_bucket.entry(owner.bucket).or_default();
        objects.insert(Bytes::copy_from_slice(&owner.object.to_bytes()));
    }
    let mut batches = Vec::new();
    for (bucket, objects) in by_bucket {
        let objects: Vec<Bytes> = objects.into_iter().collect();
        let parts = objects.chunks(IDS_PER_QUERY);
        batches.extend(parts.map(|part| (bucket, part.to_vec())));
    }
    batches
}

/// What was found of object ids, by owners.
fn owned<T>(bucket: BucketId, found: HashMap<Bytes, T>) -> impl Iterator<Item = (ChunkOwner, T)> {
    found.into_iter().filter_map(move |(object, found)| {
        let object = ObjectId::from_slice(&object)?;
        Some((ChunkOwner { bucket, object }, found))
    })
}

/// The owners among those of `chunks` that no commit can ever bring to life any more.
pub(crate) async fn expired_owners<'a>(
    meta: &Meta,
    chunks: impl Iterator<Item = &'a ChunkEntry>,
) -> Result<HashSet<ChunkOwner>, WorkerError> {
    let fates = owner_fates(meta, chunks.map(|chunk| chunk.owner)).await?;
    let expired = fates
        .into_iter()
        .filter(|(_, fate)| *fate == OwnerFate::Expired);
    Ok(expired.map(|(owner, _)| owner).collect())
}

/// Those of some chunks, at most a page, that no row names and none ever will: their owner can
/// never be committed any more, or it is an object or a part whose rows name others.
///
/// Invariant: once true of a chunk this stays true, whatever happens afterwards. An id is committed
/// once, with all of its chunks; no command adds one to what was committed (of an object that can
/// be appended to nothing is said), and rows of another owner never name this one's chunks. A split
/// hands the owner's rows on as they are, and a shard answers only for keys that it owns in the
/// snapshot it reads.
pub(crate) async fn garbage(
    meta: &Meta,
    chunks: &[&ChunkEntry],
) -> Result<Vec<ChunkId>, WorkerError> {
    let fates = owner_fates(meta, chunks.iter().map(|chunk| chunk.owner)).await?;
    let expired = chunks
        .iter()
        .filter(|chunk| fates.get(&chunk.owner) == Some(&OwnerFate::Expired));
    let mut garbage: Vec<ChunkId> = expired.map(|chunk| chunk.id).collect();
    garbage.extend(unnamed(meta, chunks.iter().copied(), &fates).await?);
    Ok(garbage)
}

/// The second half of [`garbage`]: those of some chunks whose owner is an object or a part, as was
/// asked just now, and whose rows name others.
pub(crate) async fn unnamed<'a>(
    meta: &Meta,
    chunks: impl Iterator<Item = &'a ChunkEntry>,
    fates: &HashMap<ChunkOwner, OwnerFate>,
) -> Result<Vec<ChunkId>, WorkerError> {
    let mut settled: BTreeMap<(BucketId, ObjectId), Vec<Bytes>> = BTreeMap::new();
    for chunk in chunks {
        let owner = chunk.owner;
        if fates.get(&owner) == Some(&OwnerFate::Settled) {
            let written = settled.entry((owner.bucket, owner.object)).or_default();
            written.push(Bytes::copy_from_slice(&chunk.id.to_bytes()));
        }
    }
    let mut unnamed = Vec::new();
    for ((bucket, object), written) in settled {
        let object = Bytes::copy_from_slice(&object.to_bytes());
        let found = meta.unnamed_chunks(bucket, object, written).await?;
        unnamed.extend(found.iter().filter_map(|id| ChunkId::from_slice(id)));
    }
    Ok(unnamed)
}
