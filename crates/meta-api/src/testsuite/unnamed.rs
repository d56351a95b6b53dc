//! Chunks that were written for an object id and that no row names: only a settled owner has such,
//! and only the shard that owns its key says so.

use bytes::Bytes;
use granary_types::ObjectType;

use super::splits::split;
use super::uploads::{complete, initiate, part};
use super::versions::{ENABLED, configure};
use super::{Suite, TestBucket, chunks, extent};
use crate::pb::state;
use crate::{MetaError, pb};

/// Chunk numbers that no test writes.
const STRANGE: [u32; 3] = [1_000_000, 1_000_001, 2_000_000];

fn ids(numbers: &[u32]) -> Vec<Bytes> {
    let ids = numbers.iter().map(|number| extent(*number, 1).chunk);
    ids.collect()
}

fn lookup(bucket: TestBucket, object: &Bytes, numbers: &[u32]) -> pb::LookupChunks {
    pb::LookupChunks {
        bucket_id: bucket.id.0,
        object_id: object.clone(),
        chunks: ids(numbers),
        segment: None,
    }
}

/// The owner is settled, and of some chunks its rows name exactly these.
async fn names(suite: &Suite, bucket: TestBucket, object: &Bytes, named: &[u32], what: &str) {
    let asked: Vec<u32> = named.iter().chain(&STRANGE).copied().collect();
    let of = (bucket.id, object.clone());
    let unnamed = suite.meta.unnamed_chunks(of.0, of.1, ids(&asked)).await;
    assert_eq!(unnamed.unwrap(), ids(&STRANGE), "{what}");
}

/// Nothing is said of the owner's chunks.
async fn is_silent(suite: &Suite, bucket: TestBucket, object: &Bytes, what: &str) {
    let of = (bucket.id, object.clone());
    let unnamed = suite.meta.unnamed_chunks(of.0, of.1, ids(&STRANGE)).await;
    assert_eq!(unnamed.unwrap(), Vec::<Bytes>::new(), "{what}");
}

/// An object names what its record or its pages list, whether it is current or not, and nothing
/// that another one lists.
pub async fn an_object_names_its_chunks_and_no_others(suite: Suite) {
    let mut bucket = suite.bucket("named").await;
    let numbers = |count: u32| (0..count).collect::<Vec<_>>();
    for (key, count, staged) in [("few", 3, 0), ("paged", 6, 0), ("many", 700, 650)] {
        let object = chunks::write(&suite, bucket, key, count, staged).await;
        names(&suite, bucket, &object, &numbers(count), key).await;
    }
    let few = chunks::write(&suite, bucket, "a", 2, 0).await;
    let more = chunks::write(&suite, bucket, "b", 4, 0).await;
    let both = [1, 3];
    let named = suite
        .meta
        .unnamed_chunks(bucket.id, few.clone(), ids(&both));
    assert_eq!(named.await.unwrap(), ids(&[3]), "the other object's chunk");
    names(&suite, bucket, &more, &both, "both are its own").await;
    configure(&suite, &mut bucket, ENABLED).await;
    let newer = chunks::write(&suite, bucket, "a", 150, 100).await;
    names(&suite, bucket, &few, &[0, 1], "a noncurrent version").await;
    suite.delete(bucket, "a").await;
    names(&suite, bucket, &newer, &numbers(150), "below a marker").await;
}

/// A part names its chunks, before and after its upload was completed; one that was replaced or
/// left out is being deleted.
pub async fn a_part_names_its_chunks(suite: Suite) {
    let bucket = suite.bucket("parts").await;
    let upload = initiate(&suite, bucket, "a", false).await;
    let mut parts = Vec::new();
    for (number, chunks) in [(1, 2), (2, 3), (2, 1), (7, 150), (8, 1)] {
        let command = part(&suite, bucket, "a", &upload, number, chunks).await;
        let object = command.payload.as_ref().unwrap().write_id.clone();
        suite.accepted(command).await;
        let own: Vec<u32> = (0..chunks).map(|n| number * 1000 + n).collect();
        names(&suite, bucket, &object, &own, "a part").await;
        parts.push((object, own));
    }
    let (replaced, _) = parts.remove(1);
    is_silent(&suite, bucket, &replaced, "replaced").await;
    suite
        .accepted(complete(bucket, "a", &upload, &[1, 2, 7]))
        .await;
    let (left_out, _) = parts.pop().unwrap();
    is_silent(&suite, bucket, &left_out, "left out").await;
    for (object, own) in &parts {
        names(&suite, bucket, object, own, "a part of an object").await;
    }
    is_silent(&suite, bucket, &upload, "its chunks carry other ids").await;
    suite.delete(bucket, "a").await;
    for (object, _) in &parts {
        is_silent(&suite, bucket, object, "a part of what was deleted").await;
    }
    let aborted = initiate(&suite, bucket, "a", false).await;
    let mut objects = Vec::new();
    for number in [1, 2] {
        let command = part(&suite, bucket, "a", &aborted, number, 1).await;
        objects.push(command.payload.as_ref().unwrap().write_id.clone());
        suite.accepted(command).await;
    }
    let abort = pb::AbortUpload {
        at: Some(bucket.at("a")),
        upload_id: aborted,
    };
    suite.accepted(abort).await;
    for object in &objects {
        is_silent(&suite, bucket, object, "aborted").await;
    }
}

/// As long as an owner may get chunks, or is on its way out, nothing is said of what it names.
pub async fn nothing_is_said_of_what_is_not_settled(suite: Suite) {
    let bucket = suite.bucket("open").await;
    let shard = suite.shard_of(bucket, "a").await;
    let open = suite.begin_write(bucket, "a").await;
    is_silent(&suite, bucket, &open, "not known").await;
    let stage = pb::StageExtents {
        at: Some(bucket.at("a")),
        write_id: open.clone(),
        extents: vec![extent(0, 1000)],
        ..Default::default()
    };
    suite.accepted(stage).await;
    is_silent(&suite, bucket, &open, "staged").await;
    let payload = |write_id: &Bytes, staged: u64| pb::Payload {
        write_id: write_id.clone(),
        extents: vec![extent(1, 1000)],
        staged_extents: staged,
        size: 1000 * (staged + 1),
        ..Default::default()
    };
    let put = pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(payload(&open, 1)),
        ..Default::default()
    };
    suite.accepted(put).await;
    names(&suite, bucket, &open, &[0, 1], "committed").await;
    let growing = suite.begin_write(bucket, "log").await;
    let put = pb::PutObject {
        at: Some(bucket.at("log")),
        version: Some(state::Version {
            object_type: ObjectType::Appendable.number(),
            ..Default::default()
        }),
        payload: Some(payload(&growing, 0)),
        ..Default::default()
    };
    suite.accepted(put).await;
    is_silent(&suite, bucket, &growing, "may be appended to").await;
    suite.put(bucket, "a", "new").await;
    is_silent(&suite, bucket, &open, "overwritten").await;
    let grace_ms = suite.settings().await.reader_grace_ms;
    suite.advance(grace_ms + 1).await;
    let seq = suite.deletions(shard).await.entries[0].seq;
    suite.acknowledge(shard, vec![seq]).await;
    is_silent(&suite, bucket, &open, "deleted").await;
    let malformed = Bytes::from_static(b"short");
    let asked = suite.meta.query_at(shard, lookup(bucket, &malformed, &[1]));
    assert!(matches!(asked.await, Err(MetaError::Invalid(_))));
}

/// A shard answers for the positions that it owns and no others, before and after a split.
pub async fn only_the_owner_of_the_key_decides(suite: Suite) {
    let bucket = suite.bucket("divided").await;
    let parent = suite.shard_of(bucket, "a").await;
    let upper = chunks::write(&suite, bucket, "x", 150, 0).await;
    let lower = chunks::write(&suite, bucket, "a", 3, 0).await;
    let query = lookup(bucket, &upper, &[0, STRANGE[0]]);
    let answer = suite.meta.query_at(parent, query.clone()).await.unwrap();
    assert_eq!((answer.decided, answer.named), (true, ids(&[0])));
    let shards = suite.data_shards().await;
    let other = *shards.iter().find(|shard| **shard != parent).unwrap();
    let refused = suite.meta.query_at(other, query.clone()).await;
    assert_eq!(refused, Err(MetaError::WrongShard(other)));
    split(&suite, bucket, "m").await;
    let refused = suite.meta.query_at(parent, query.clone()).await;
    assert_eq!(refused, Err(MetaError::WrongShard(parent)));
    let below = pb::LookupChunks {
        segment: Some(pb::Segment {
            bounded: true,
            end_key: Bytes::from_static(b"m"),
            ..Default::default()
        }),
        ..query
    };
    let answer = suite.meta.query_at(parent, below).await.unwrap();
    assert_eq!(answer, pb::ChunksResult::default(), "not its key any more");
    names(&suite, bucket, &upper, &[0, 149], "above").await;
    names(&suite, bucket, &lower, &[0, 1, 2], "below").await;
}
