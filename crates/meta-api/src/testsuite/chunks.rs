//! Objects whose bytes are chunks: write ids and their leases, extents, deletion, the sweep.

use bytes::Bytes;

use super::{Suite, TestBucket, extent};
use crate::MetaError;
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

/// What is staged again must be what was staged: a sender is never told yes about chunks that
/// nothing refers to.
pub async fn extents_are_staged_once(suite: Suite) {
    let bucket = suite.bucket("again").await;
    let write_id = suite.begin_write(bucket, "a").await;
    let stage = |first: u64, numbers: std::ops::Range<u32>| pb::StageExtents {
        at: Some(bucket.at("a")),
        write_id: write_id.clone(),
        first,
        extents: numbers.map(|n| extent(n, CHUNK)).collect(),
        ..Default::default()
    };
    suite.accepted(stage(0, 0..400)).await;
    suite.accepted(stage(400, 400..700)).await;
    suite.accepted(stage(400, 400..700)).await;
    suite.accepted(stage(100, 100..650)).await;
    for other in [
        stage(400, 800..1100),
        stage(101, 100..650),
        stage(701, 701..702),
    ] {
        assert_eq!(suite.rejected(other).await, Reason::Invalid);
    }
    suite
        .accepted(commit(bucket, "a", &write_id, &[], 700, 700))
        .await;
    let version = suite.version(bucket, "a", 0).await.version.unwrap();
    let seen = read(&suite, bucket, "a", &version, 0, 1000).await;
    assert_eq!(seen, (0..700).collect::<Vec<_>>());
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
        segment: None,
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
    let foreign = suite.meta.query_at(other, ask(ids)).await;
    assert_eq!(foreign, Err(MetaError::WrongShard(other)), "no verdict");
}

/// Once a deletion can have been handed to a worker its bytes are not promised to a reader any more;
/// and a pin that ends in the past promises nothing and hinders nobody.
pub async fn a_pin_does_not_come_after_the_deletion(suite: Suite) {
    let bucket = suite.bucket("pins").await;
    let grace_ms = suite.settings().await.reader_grace_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let object = write(&suite, bucket, "a", 3, 0).await;
    let pin = |from_now: i64| pb::PinRead {
        at: Some(bucket.at("a")),
        object_id: object.clone(),
        until_ms: suite
            .runtime
            .now()
            .as_millis()
            .saturating_add_signed(from_now),
    };
    assert_eq!(suite.rejected(pin(-60_000)).await, Reason::Invalid);
    suite.put(bucket, "a", "new").await;
    suite.accepted(pin(1000)).await;
    suite.advance(grace_ms + 1).await;
    assert_eq!(suite.rejected(pin(60_000)).await, Reason::NoSuchVersion);
    assert_eq!(suite.deletions(shard).await.entries.len(), 1);
    assert_eq!(suite.rejected(pin(60_000)).await, Reason::NoSuchVersion);
    // A reader that has pinned all the time goes on.
    let kept = write(&suite, bucket, "b", 3, 0).await;
    let renewed = |until_ms: u64| pb::PinRead {
        at: Some(bucket.at("b")),
        object_id: kept.clone(),
        until_ms,
    };
    suite.put(bucket, "b", "new").await;
    for _ in 0..4 {
        let until = suite.runtime.now().plus_millis(grace_ms + 1000);
        suite.accepted(renewed(until.as_millis())).await;
        suite.advance(grace_ms).await;
        let due = suite.deletions(shard).await.entries;
        assert!(
            due.iter()
                .all(|d| d.deletion.as_ref().unwrap().object_id != kept)
        );
    }
}

/// What cannot be deleted now (pinned, or never acknowledged because its disk is gone) does not hide
/// what was queued after it, in pages of any size.
pub async fn deletions_behind_stuck_ones_are_listed(suite: Suite) {
    let bucket = suite.bucket("stuck").await;
    let grace_ms = suite.settings().await.reader_grace_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let mut objects = Vec::new();
    for n in 0..7 {
        let key = format!("k{n}");
        objects.push(write(&suite, bucket, &key, 1 + n * 3, 0).await);
        suite.put(bucket, &key, "new").await;
    }
    for pinned in [0, 3] {
        let until_ms = suite.runtime.now().as_millis() + 2 * grace_ms;
        let pin = pb::PinRead {
            at: Some(bucket.at(&format!("k{pinned}"))),
            object_id: objects[pinned].clone(),
            until_ms,
        };
        suite.accepted(pin).await;
    }
    suite.advance(grace_ms + 1).await;
    let expected: Vec<_> = [1, 2, 4, 5, 6].map(|n| objects[n].clone()).to_vec();
    for limit in [1, 2, 5, 1000] {
        let (mut seen, mut after_seq) = (Vec::new(), 0);
        loop {
            let query = pb::ListDeletions { limit, after_seq };
            let page = suite.meta.query_at(shard, query).await.unwrap();
            assert!(page.entries.len() <= limit as usize);
            if after_seq == 0 {
                assert_eq!(page.pending, 7);
            }
            for entry in page.entries {
                seen.push(entry.deletion.unwrap().object_id);
            }
            if !page.more {
                break;
            }
            assert!(page.next_after_seq > after_seq, "a page goes on");
            after_seq = page.next_after_seq;
        }
        assert_eq!(seen, expected, "pages of {limit}");
    }
}

/// A write id stands for chunks. Beside inline bytes nothing would remember that it was used.
pub async fn inline_bytes_take_no_write_id(suite: Suite) {
    let bucket = suite.bucket("inline").await;
    let write_id = suite.begin_write(bucket, "a").await;
    let command = pb::PutObject {
        at: Some(bucket.at("a")),
        payload: Some(pb::Payload {
            write_id: write_id.clone(),
            ..super::inline("bytes")
        }),
        ..Default::default()
    };
    assert_eq!(suite.rejected(command).await, Reason::Invalid);
    assert_eq!(suite.get(bucket, "a").await, None);
    suite
        .accepted(commit(bucket, "a", &write_id, &[extent(1, CHUNK)], 0, 1))
        .await;
}

/// A chunk that a command refers to is not given up by the same command.
pub async fn kept_chunks_are_not_abandoned(suite: Suite) {
    let bucket = suite.bucket("kept").await;
    let write_id = suite.begin_write(bucket, "a").await;
    let mut command = commit(bucket, "a", &write_id, &[extent(1, CHUNK)], 0, 1);
    let abandoned = |n: u32| vec![extent(n, CHUNK).chunk];
    command.payload.as_mut().unwrap().abandoned = abandoned(1);
    assert_eq!(suite.rejected(command.clone()).await, Reason::Invalid);
    let stage = pb::StageExtents {
        at: Some(bucket.at("a")),
        write_id: write_id.clone(),
        first: 0,
        extents: vec![extent(1, CHUNK)],
        abandoned: abandoned(1),
    };
    assert_eq!(suite.rejected(stage).await, Reason::Invalid);
    command.payload.as_mut().unwrap().abandoned = abandoned(2);
    suite.accepted(command).await;
    let shard = suite.shard_of(bucket, "a").await;
    assert_eq!(suite.deletions(shard).await.pending, 1);
}

/// What an attempt left stays until no attempt of its write can be on its way to a disk any more.
pub async fn abandoned_chunks_go_when_no_attempt_is_under_way(suite: Suite) {
    let bucket = suite.bucket("abandoned").await;
    let settings = suite.settings().await;
    let write_id = suite.begin_write(bucket, "a").await;
    let mut command = commit(bucket, "a", &write_id, &[extent(1, CHUNK)], 0, 1);
    let abandoned = extent(2, CHUNK).chunk;
    command.payload.as_mut().unwrap().abandoned = vec![abandoned.clone()];
    suite.accepted(command).await;
    let shard = suite.shard_of(bucket, "a").await;
    let lease_ms = settings.write_lease_ms;
    assert!(
        lease_ms / 2 > settings.reader_grace_ms,
        "else nothing is tested"
    );
    suite.advance(lease_ms / 2).await;
    let page = suite.deletions(shard).await;
    assert_eq!((page.pending, page.entries.len()), (1, 0));
    suite.advance(lease_ms).await;
    let due = suite.deletions(shard).await.entries;
    let deletion = due
        .first()
        .and_then(|entry| entry.deletion.clone())
        .unwrap();
    let Some(state::body::Place::Extents(body)) = deletion.body.unwrap().place else {
        panic!("chunks are deleted by their names")
    };
    let named: Vec<_> = body
        .extents
        .into_iter()
        .map(|extent| extent.chunk)
        .collect();
    assert_eq!(named, [abandoned]);
}
