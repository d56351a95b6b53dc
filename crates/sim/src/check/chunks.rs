//! Invariants: no chunk leaks, no live chunk is deleted, and full redundancy follows without a
//! human.
//!
//! All three are one comparison, made again and again while simulated time passes: the chunks that
//! records refer to, on every member of their group, against the chunks that are on the disks. It
//! must become an equality once leases, reader grace, sweep, deletion and repair have had their
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use granary_blob_api::{BlobNode, Block, ChunkEntry, DiskHealth, GetChunk};
use granary_meta_api::pb::extent_piece::Piece;
use granary_meta_api::pb::list_item::Item;
use granary_meta_api::pb::upload_item;
use granary_meta_api::{MetaError, pb};
use granary_types::{BucketId, ChunkId, DiskId, ObjectId, PgId};

use parking_lot::Mutex;

use super::eventually;
use crate::Cluster;
use crate::cluster::NODES;
use crate::gateway::{Bucket, Gateway};

/// How long a healed cluster may take until its disks hold what they should.
const SETTLED_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How often records and disks are compared.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Differences shown.
const SHOWN: usize = 10;

/// Live chunks by disk.
type OnDisks = BTreeMap<DiskId, BTreeMap<ChunkId, ChunkEntry>>;

/// Ends every upload that was left lying, and waits until disks and records agree.
pub async fn check(cluster: &Cluster, reader: &Gateway, buckets: &[Bucket]) {
    let leaked = Mutex::new(BTreeSet::new());
    let settled = eventually(cluster, SETTLED_WITHIN, LOOK_EVERY, || async {
        for bucket in buckets {
            abort_uploads(reader, bucket).await?;
        }
        let expected = referenced(reader, buckets)
            .await
            .map_err(|error| error.to_string())?;
        let found = stored(cluster, &expected.groups).await?;
        *leaked.lock() = owners_of_leaked(&expected, &found);
        compare(&expected, &found)?;
        read_every_copy(cluster, &found).await
    });
    let Err(wrong) = settled.await else {
        return cluster.net().trace().count("chunks compared");
    };
    cluster.findings().report(format!("chunks: {wrong}"));
    for (bucket, object) in leaked.into_inner().into_iter().take(SHOWN) {
        let verdicts = verdicts(reader, BucketId(bucket), ObjectId(object)).await;
        cluster.findings().report(verdicts);
    }
}

/// Bucket and object of chunks that no record refers to.
fn owners_of_leaked(expected: &Expected, found: &OnDisks) -> BTreeSet<(u64, u128)> {
    let chunks = found.values().flatten();
    let leaked = chunks.filter(|(id, _)| !expected.chunks.contains_key(id));
    leaked
        .map(|(_, entry)| (entry.owner.bucket.0, entry.owner.object.0))
        .collect()
}

/// What the shards say of a leaked chunk's owner: where to look for the cause.
async fn verdicts(reader: &Gateway, bucket: BucketId, object: ObjectId) -> String {
    let mut text = format!(
        "leaked: bucket {bucket} object {object} born {}",
        object.birth_ms()
    );
    for segment in reader.meta.segments(bucket).await.unwrap_or_default() {
        let query = pb::LookupOwners {
            bucket_id: bucket.0,
            object_ids: vec![Bytes::copy_from_slice(&object.to_bytes())],
            segment: Some(pb::Segment {
                start_key: segment.start_key.clone(),
                bounded: segment.end_key.is_some(),
                end_key: segment.end_key.clone().unwrap_or_default(),
            }),
        };
        let owners = reader.meta.query_at(segment.shard, query).await;
        let deletions = pb::ListDeletions {
            limit: 10,
            after_seq: 0,
        };
        let deletions = reader.meta.query_at(segment.shard, deletions).await;
        let shard = segment.shard;
        text.push_str(&format!("\n  shard {shard}: {owners:?} {deletions:?}"));
    }
    text
}

async fn abort_uploads(reader: &Gateway, bucket: &Bucket) -> Result<(), String> {
    let query = pb::ListUploads {
        bucket_id: bucket.id.0,
        limit: 1000,
        ..pb::ListUploads::default()
    };
    let page = reader
        .meta
        .list_uploads(query)
        .await
        .map_err(|error| error.to_string())?;
    for item in page.items {
        let Some(upload_item::Item::Upload(entry)) = item.item else {
            continue;
        };
        let upload_id = entry.upload.unwrap_or_default().upload_id;
        let key = String::from_utf8_lossy(&entry.key).into_owned();
        let at = Some(bucket.position(&key));
        let outcome = reader.meta.propose(pb::AbortUpload { at, upload_id }).await;
        outcome
            .map_err(|error| error.to_string())?
            .map_err(|no| format!("{no:?}"))?;
    }
    Ok(())
}

/// What the metadata says.
struct Expected {
    groups: Vec<pb::state::PlacementGroup>,
    /// By chunk: its length, and whose it is.
    chunks: BTreeMap<ChunkId, (u32, String)>,
}

async fn referenced(reader: &Gateway, buckets: &[Bucket]) -> Result<Expected, MetaError> {
    let map = reader
        .meta
        .query(pb::GetClusterMap { known_epoch: 0 })
        .await?;
    let mut chunks = BTreeMap::new();
    for bucket in buckets {
        let query = pb::ListObjects {
            bucket_id: bucket.id.0,
            limit: 1000,
            ..pb::ListObjects::default()
        };
        for item in reader.meta.list_objects(query).await?.items {
            let Some(Item::Object(entry)) = item.item else {
                continue;
            };
            chunks_of(reader, bucket, &entry.key, &mut chunks).await?;
        }
    }
    Ok(Expected {
        groups: map.groups,
        chunks,
    })
}

async fn chunks_of(
    reader: &Gateway,
    bucket: &Bucket,
    key: &Bytes,
    chunks: &mut BTreeMap<ChunkId, (u32, String)>,
) -> Result<(), MetaError> {
    let key = String::from_utf8_lossy(key).into_owned();
    let at = Some(bucket.position(&key));
    let query = pb::GetVersion {
        at: at.clone(),
        with_body: true,
        ..pb::GetVersion::default()
    };
    let found = reader.meta.query(query).await?;
    let Some(version) = found.version.filter(|_| found.found) else {
        return Ok(());
    };
    if matches!(
        version.body,
        Some(pb::state::Body {
            place: Some(pb::state::body::Place::Inline(_))
        })
    ) {
        return Ok(());
    }
    let mut offset = 0;
    while offset < version.size {
        let query = pb::ListExtents {
            at: at.clone(),
            object_id: version.object_id.clone(),
            body: version.body.clone(),
            offset,
            limit: 1000,
        };
        let page = reader.meta.query(query).await?;
        let mut end = page.first_offset;
        for piece in page.pieces {
            match piece.piece {
                Some(Piece::Extent(extent)) => {
                    let id = ChunkId::from_slice(&extent.chunk).unwrap_or_default();
                    let whose = format!("{}/{key}", bucket.name);
                    chunks.insert(id, (extent.length, whose));
                    end += u64::from(extent.length);
                }
                Some(Piece::Inline(bytes)) => end += bytes.len() as u64,
                None => {}
            }
        }
        if end <= offset {
            let (name, size) = (&bucket.name, version.size);
            return Err(MetaError::Internal(format!(
                "extents of {name}/{key} end at {end} of {size}"
            )));
        }
        offset = end;
    }
    Ok(())
}

async fn stored(
    cluster: &Cluster,
    groups: &[pb::state::PlacementGroup],
) -> Result<OnDisks, String> {
    let mut found = OnDisks::new();
    for node in NODES {
        let blob = cluster
            .blob(node)
            .ok_or_else(|| format!("node {node} is not up"))?;
        for disk in blob.disks().await.map_err(|error| error.to_string())? {
            if disk.health != DiskHealth::Healthy {
                return Err(format!("disk {} is {:?}", disk.id, disk.health));
            }
            let chunks = found.entry(disk.id).or_default();
            for group in groups {
                list(blob.as_ref(), disk.id, PgId(group.id), chunks).await?;
            }
        }
    }
    Ok(found)
}

async fn list(
    blob: &dyn BlobNode,
    disk: DiskId,
    pg: PgId,
    chunks: &mut BTreeMap<ChunkId, ChunkEntry>,
) -> Result<(), String> {
    let mut after = None;
    loop {
        let page = blob
            .list(disk, pg, after, 1000)
            .await
            .map_err(|error| error.to_string())?;
        let live = page.entries.iter().filter(|entry| !entry.deleted);
        chunks.extend(live.map(|entry| (entry.id, *entry)));
        after = page.next_after;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Every copy can be read whole, and has the digest that it is listed with.
async fn read_every_copy(cluster: &Cluster, found: &OnDisks) -> Result<(), String> {
    for node in NODES {
        let blob = cluster
            .blob(node)
            .ok_or_else(|| format!("node {node} is not up"))?;
        for disk in blob.disks().await.map_err(|error| error.to_string())? {
            for entry in found.get(&disk.id).into_iter().flat_map(BTreeMap::values) {
                let whole = GetChunk {
                    id: entry.id,
                    offset: 0,
                    length: entry.length,
                    background: false,
                };
                let read = blob.get(disk.id, whole).await;
                let read = read.map_err(|error| format!("disk {}: {error}", disk.id))?;
                let sums: Vec<u8> = read
                    .blocks
                    .iter()
                    .flat_map(|block| block.crc32c.to_le_bytes())
                    .collect();
                let intact = read.blocks.iter().all(Block::is_intact);
                if !intact
                    || crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &sums)
                        != u64::from(entry.digest)
                {
                    return Err(format!("chunk {} on disk {} is damaged", entry.id, disk.id));
                }
            }
        }
    }
    Ok(())
}

fn compare(expected: &Expected, found: &OnDisks) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut members: BTreeMap<PgId, BTreeSet<DiskId>> = BTreeMap::new();
    for group in &expected.groups {
        for member in &group.members {
            members
                .entry(PgId(group.id))
                .or_default()
                .insert(DiskId(member.disk));
            if !member.complete {
                wrong.push(format!(
                    "disk {} of group {} is not complete",
                    member.disk, group.id
                ));
            }
        }
    }
    for (chunk, (length, whose)) in &expected.chunks {
        for disk in members.get(&chunk.pg()).into_iter().flatten() {
            let held = found.get(disk).and_then(|chunks| chunks.get(chunk));
            if held.map(|entry| entry.length) != Some(*length) {
                wrong.push(format!(
                    "chunk {chunk} of {whose} ({length} bytes) is on disk {disk} with {held:?}"
                ));
            }
        }
    }
    for (disk, chunks) in found {
        for chunk in chunks.keys() {
            let member = members
                .get(&chunk.pg())
                .is_some_and(|disks| disks.contains(disk));
            match expected.chunks.get(chunk) {
                Some(_) if member => {}
                Some(_) => wrong.push(format!("chunk {chunk} is on disk {disk}, no member")),
                None => wrong.push(format!("chunk {chunk} on disk {disk} belongs to nothing")),
            }
        }
    }
    let count = wrong.len();
    wrong.truncate(SHOWN);
    match count {
        0 => Ok(()),
        _ => Err(format!("{count} differences:\n  {}", wrong.join("\n  "))),
    }
}
