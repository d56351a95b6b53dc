//! Objects whose bytes are chunks: write ids and their leases, extents, deletion, the sweep.

use bytes::Bytes;

use super::{Suite, TestBucket, extent};
use crate::pb;
use crate::pb::extent_piece::Piece;
use crate::pb::rejection::Reason;
use crate::pb::state;

const CHUNK: u32 = 1000;

/// Commits `staged + rest` chunks of [`CHUNK`] bytes; the object id.
pub(super) async fn write(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    chunks: u32,
    staged: u32,
) -> Bytes {
    let write_id = suite.begin_write(bucket, key).await;
    let all: Vec<_> = (0..chunks).map(|n| extent(n, CHUNK)).collect();
    let (staged, rest) = all.split_at(staged as usize);
    for (index, extents) in staged.chunks(100).enumerate() {
        let command = pb::StageExtents {
            at: Some(bucket.at(key)),
            write_id: write_id.clone(),
            first: index as u64 * 100,
            extents: extents.to_vec(),
            ..Default::default()
        };
        suite.accepted(command).await;
    }
    suite
        .accepted(commit(bucket, key, &write_id, rest, staged.len(), chunks))
        .await;
    write_id
}

fn commit(
    bucket: TestBucket,
    key: &str,
    write_id: &Bytes,
    rest: &[state::Extent],
    staged: usize,
    chunks: u32,
) -> pb::PutObject {
    pb::PutObject {
        at: Some(bucket.at(key)),
        payload: Some(pb::Payload {
            write_id: write_id.clone(),
            extents: rest.to_vec(),
            staged_extents: staged as u64,
            size: u64::from(chunks * CHUNK),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The chunk numbers from an offset on, read in pages of `limit`.
pub(super) async fn read(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    body: &state::Version,
    offset: u64,
    limit: u32,
) -> Vec<u32> {
    let mut query = pb::ListExtents {
        at: Some(bucket.at(key)),
        object_id: body.object_id.clone(),
        body: body.body.clone(),
        offset,
        limit,
    };
    let mut seen = Vec::new();
    loop {
        let page = suite.meta.query(query.clone()).await.unwrap();
        assert!(page.pieces.len() <= limit as usize);
        assert!(page.pieces.is_empty() || page.first_offset <= query.offset);
        let mut end = page.first_offset;
        for piece in &page.pieces {
            match piece.piece.as_ref().unwrap() {
                Piece::Extent(extent) => {
                    end += u64::from(extent.length);
                    seen.push(extent.digest);
                }
                Piece::Inline(bytes) => end += bytes.len() as u64,
            }
        }
        if !page.more {
            return seen;
        }
        query.offset = end;
    }
}

/// Few extents stand in the record, many in pages; any offset is found.
pub async fn staged_extents_are_committed_and_found_by_offset(suite: Suite) {
    let bucket = suite.bucket("chunks").await;
    for (key, chunks, staged) in [
        ("few", 4, 0),
        ("some", 5, 0),
        ("staged", 3, 2),
        ("many", 700, 650),
    ] {
        write(&suite, bucket, key, chunks, staged).await;
        let version = suite.version(bucket, key, 0).await.version.unwrap();
        assert_eq!(version.size, u64::from(chunks * CHUNK));
        for first in [0, 1, chunks / 2, chunks - 1] {
            let offset = u64::from(first * CHUNK + CHUNK / 3);
            let seen = read(&suite, bucket, key, &version, offset, 50).await;
            assert_eq!(
                seen,
                (first..chunks).collect::<Vec<_>>(),
                "{key} from {offset}"
            );
        }
        assert!(
            read(&suite, bucket, key, &version, version.size, 50)
                .await
                .is_empty()
        );
    }
}

/// Replaced chunks are not deleted before the readers' grace, nor while one is pinned.
pub async fn replaced_chunks_wait_for_their_readers(suite: Suite) {
    let bucket = suite.bucket("grace").await;
    let grace_ms = suite.settings().await.reader_grace_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let object = write(&suite, bucket, "a", 200, 0).await;
    let old = suite.version(bucket, "a", 0).await.version.unwrap();
    suite.put(bucket, "a", "new").await;
    assert!(suite.deletions(shard).await.entries.is_empty());
    assert_eq!(suite.deletions(shard).await.pending, 1);
    let seen = read(&suite, bucket, "a", &old, 0, 1000).await;
    assert_eq!(seen.len(), 200, "a reader goes on");
    let until_ms = suite.runtime.now().as_millis() + grace_ms + 60_000;
    let pin = pb::PinRead {
        at: Some(bucket.at("a")),
        object_id: object.clone(),
        until_ms,
    };
    suite.accepted(pin.clone()).await;
    suite.advance(grace_ms + 1).await;
    assert!(suite.deletions(shard).await.entries.is_empty(), "pinned");
    suite.advance(120_001).await;
    let due = suite.deletions(shard).await.entries;
    assert_eq!(due.len(), 1);
    let deletion = due[0].deletion.clone().unwrap();
    assert_eq!(
        (&deletion.object_id, deletion.size),
        (&object, u64::from(200 * CHUNK))
    );
    let listed = state::Version {
        object_id: deletion.object_id.clone(),
        body: deletion.body.clone(),
        ..Default::default()
    };
    assert_eq!(read(&suite, bucket, "a", &listed, 0, 1000).await.len(), 200);
    suite.acknowledge(shard, vec![due[0].seq]).await;
    assert_eq!(suite.deletions(shard).await.pending, 0);
    assert!(read(&suite, bucket, "a", &old, 0, 1000).await.is_empty());
    assert_eq!(suite.rejected(pin).await, Reason::NoSuchVersion);
    assert_eq!(suite.get(bucket, "a").await.as_deref(), Some("new"));
}

/// After its deadline a write id cannot be committed; staging renews it.
pub async fn an_expired_write_cannot_be_committed(suite: Suite) {
    let bucket = suite.bucket("late").await;
    let lease_ms = suite.settings().await.write_lease_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let slow = suite.begin_write(bucket, "a").await;
    let dead = suite.begin_write(bucket, "a").await;
    let stage = |write_id: &Bytes, first: u64, n: u32| pb::StageExtents {
        at: Some(bucket.at("a")),
        write_id: write_id.clone(),
        first,
        extents: vec![extent(n, CHUNK)],
        ..Default::default()
    };
    suite.accepted(stage(&dead, 0, 9)).await;
    suite.advance(lease_ms / 2).await;
    suite.accepted(stage(&slow, 0, 0)).await;
    suite.advance(lease_ms / 2 + 2).await;
    assert_eq!(
        suite.rejected(stage(&dead, 1, 10)).await,
        Reason::WriteExpired
    );
    let late = commit(bucket, "a", &dead, &[], 1, 1);
    assert_eq!(suite.rejected(late).await, Reason::WriteExpired);
    suite.accepted(stage(&slow, 1, 1)).await;
    suite.advance(lease_ms / 2).await;
    suite.accepted(commit(bucket, "a", &slow, &[], 2, 2)).await;
    let version = suite.version(bucket, "a", 0).await.version.unwrap();
    assert_eq!(read(&suite, bucket, "a", &version, 0, 9).await, [0, 1]);
    // What the dead write had staged is given up, and only that.
    suite.advance(lease_ms + 120_000).await;
    suite.advance(lease_ms).await;
    let due = suite.deletions(shard).await.entries;
    let objects: Vec<_> = due
        .iter()
        .map(|d| d.deletion.clone().unwrap().object_id)
        .collect();
    assert_eq!(objects, [dead]);
}

/// A write id stands for one version, whatever became of it.
pub async fn a_write_id_is_used_once(suite: Suite) {
    let bucket = suite.bucket("once").await;
    let shard = suite.shard_of(bucket, "a").await;
    let write_id = write(&suite, bucket, "a", 3, 0).await;
    let again = commit(bucket, "a", &write_id, &[extent(0, CHUNK)], 0, 1);
    assert_eq!(suite.rejected(again.clone()).await, Reason::Invalid);
    let elsewhere = pb::PutObject {
        at: Some(bucket.at("b")),
        ..again.clone()
    };
    assert_eq!(suite.rejected(elsewhere).await, Reason::Invalid);
    suite.delete(bucket, "a").await;
    assert_eq!(suite.rejected(again.clone()).await, Reason::Invalid);
    let settings = suite.settings().await;
    suite.advance(settings.reader_grace_ms + 1).await;
    let seq = suite.deletions(shard).await.entries[0].seq;
    suite.acknowledge(shard, vec![seq]).await;
    assert_ne!(suite.rejected(again).await, Reason::None);
    assert_eq!(suite.get(bucket, "a").await, None);
}

/// The sweep is told to delete only what no commit can refer to any more.
pub async fn the_sweep_keeps_what_may_live(suite: Suite) {
    let bucket = suite.bucket("sweep").await;
    let lease_ms = suite.settings().await.write_lease_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let other = *suite
        .data_shards()
        .await
        .iter()
        .find(|s| **s != shard)
        .unwrap();
    let committed = write(&suite, bucket, "a", 9, 3).await;
    let unfinished = suite.begin_write(bucket, "a").await;
    let ask = |ids: Vec<Bytes>| pb::LookupOwners {
        bucket_id: bucket.id.0,
        object_ids: ids,
    };
    let ids = vec![committed, unfinished];
    let status = |result: pb::OwnersResult| -> Vec<_> {
        result
            .owners
            .iter()
            .map(|owner| (owner.known, owner.expired))
            .collect()
    };
    let now = suite.meta.query_at(shard, ask(ids.clone())).await.unwrap();
    assert_eq!(status(now), [(true, false), (false, false)]);
    suite.clock.advance_wall_clock(lease_ms + 2);
    let later = suite.meta.query_at(shard, ask(ids.clone())).await.unwrap();
    assert!(
        later.applied_ms + 1000 >= suite.runtime.now().as_millis(),
        "a barrier in time"
    );
    assert_eq!(status(later), [(true, false), (false, true)]);
    let foreign = suite.meta.query_at(other, ask(ids)).await.unwrap();
    assert_eq!(
        status(foreign),
        [(true, false), (true, false)],
        "not my range: keep"
    );
}
