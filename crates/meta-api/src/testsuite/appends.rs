//! Objects that are appended to: positions, the tail, folds, and what becomes of them.

use bytes::Bytes;
use granary_types::crc64::combine;
use granary_types::{ObjectType, limits};

use super::{Suite, TestBucket, extent, inline, settings, splits};
use crate::pb;
use crate::pb::extent_piece::Piece;
use crate::pb::rejection::Reason;
use crate::pb::state;

/// CRC-64/XZ, a bit at a time: the suite links no digest.
fn crc64(bytes: &[u8]) -> u64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0xC96C_5795_D787_0F42;
            }
        }
    }
    !crc
}

/// An append of bytes that travel inside the command.
pub(super) fn small(bucket: TestBucket, key: &str, position: u64, bytes: &str) -> pb::AppendObject {
    pb::AppendObject {
        at: Some(bucket.at(key)),
        payload: Some(inline(bytes)),
        position,
        crc64: crc64(bytes.as_bytes()),
        ..Default::default()
    }
}

/// An append of one chunk of zero bytes; `n` makes it unlike others.
async fn chunk(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    position: u64,
    (n, length): (u32, u32),
) -> pb::AppendObject {
    pb::AppendObject {
        at: Some(bucket.at(key)),
        payload: Some(chunks(suite, bucket, key, &[(n, length)]).await),
        position,
        crc64: crc64(&vec![0; length as usize]),
        ..Default::default()
    }
}

async fn chunks(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    chunks: &[(u32, u32)],
) -> pb::Payload {
    pb::Payload {
        write_id: suite.begin_write(bucket, key).await,
        extents: chunks
            .iter()
            .map(|(n, length)| extent(*n, *length))
            .collect(),
        size: chunks.iter().map(|(_, length)| u64::from(*length)).sum(),
        ..Default::default()
    }
}

pub(super) async fn current(suite: &Suite, bucket: TestBucket, key: &str) -> state::Version {
    suite.version(bucket, key, 0).await.version.unwrap()
}

fn body(version: &state::Version) -> state::AppendedBody {
    match version.body.as_ref().unwrap().place.as_ref().unwrap() {
        state::body::Place::Appended(body) => *body,
        other => panic!("{other:?}"),
    }
}

/// The bytes as a reader of `version` finds them from an offset on: `#n,length;` stands for a chunk.
async fn read_from(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    version: &state::Version,
    offset: u64,
) -> String {
    let mut query = pb::ListExtents {
        at: Some(bucket.at(key)),
        object_id: version.object_id.clone(),
        body: version.body.clone(),
        offset,
        limit: 3,
    };
    let mut seen = String::new();
    loop {
        let page = suite.meta.query(query.clone()).await.unwrap();
        let mut end = page.first_offset;
        assert!(end <= query.offset);
        for piece in page.pieces {
            match piece.piece.unwrap() {
                Piece::Extent(extent) => {
                    end += u64::from(extent.length);
                    seen.push_str(&format!("#{},{};", extent.digest, extent.length));
                }
                Piece::Inline(bytes) => {
                    let skipped = usize::try_from(query.offset.saturating_sub(end)).unwrap();
                    seen.push_str(std::str::from_utf8(&bytes[skipped..]).unwrap());
                    end += bytes.len() as u64;
                }
            }
            query.offset = query.offset.max(end);
        }
        if !page.more {
            return seen;
        }
    }
}

pub(super) async fn read(suite: &Suite, bucket: TestBucket, key: &str) -> String {
    let version = current(suite, bucket, key).await;
    read_from(suite, bucket, key, &version, 0).await
}

/// Each append goes where the object ends, and nowhere else; what was said at the beginning stays.
pub async fn bytes_are_added_at_the_end(suite: Suite) {
    let bucket = suite.bucket("appends").await;
    let rejected = suite
        .meta
        .propose(small(bucket, "a", 3, "x"))
        .await
        .unwrap();
    let rejected = rejected.unwrap_err();
    assert_eq!(
        (rejected.reason(), rejected.length),
        (Reason::PositionNotEqualToLength, 0)
    );
    let first = pb::AppendObject {
        version: Some(state::Version {
            owner: 7,
            user_meta: vec![state::Header {
                name: "a".into(),
                value: "1".into(),
            }],
            ..Default::default()
        }),
        ..small(bucket, "a", 0, "one")
    };
    let made = suite.accepted(first).await.version.unwrap();
    assert_eq!(made.object_type, ObjectType::Appendable.number());
    assert_eq!((made.size, made.crc64), (3, crc64(b"one")));
    suite.clock.advance_wall_clock(5000);
    let later = suite.accepted(small(bucket, "a", 3, " two")).await;
    let later = later.version.unwrap();
    assert_eq!((later.size, later.crc64), (7, crc64(b"one two")));
    assert_eq!(later.stamp, made.stamp, "the same version");
    assert!(later.modified_ms >= made.modified_ms + 5000);
    assert_ne!(later.etag, made.etag);
    let shown = current(&suite, bucket, "a").await;
    assert_eq!((shown.owner, shown.user_meta.len()), (7, 1));
    assert_eq!(read(&suite, bucket, "a").await, "one two");
    for offset in 0..=7 {
        let seen = read_from(&suite, bucket, "a", &shown, offset).await;
        assert_eq!(seen, "one two"[offset as usize..]);
    }
    for position in [0, 3, 8] {
        let late = suite.meta.propose(small(bucket, "a", position, "x")).await;
        assert_eq!(late.unwrap().unwrap_err().length, 7);
    }
    // Nothing is added, nothing changes.
    let nothing = suite.accepted(small(bucket, "a", 7, "")).await;
    assert_eq!(nothing.version.unwrap().modified_ms, later.modified_ms);
    let forbids = pb::AppendObject {
        forbid_overwrite: true,
        ..small(bucket, "a", 0, "x")
    };
    assert_eq!(suite.rejected(forbids).await, Reason::AlreadyExists);
    let empty = suite.accepted(small(bucket, "empty", 0, "")).await;
    assert_eq!(empty.version.unwrap().size, 0);
    suite.accepted(small(bucket, "empty", 0, "now")).await;
    suite.put(bucket, "normal", "bytes").await;
    for position in [0, 5] {
        let command = small(bucket, "normal", position, "x");
        assert_eq!(suite.rejected(command).await, Reason::ObjectNotAppendable);
    }
    let counters = suite.counters(bucket).await;
    assert_eq!((counters.objects, counters.bytes), (3, 7 + 3 + 5));
}

/// Of two that append at one position one does; a repeat of it gets its answer again.
pub async fn one_of_two_appends_wins_and_repeats_add_nothing(suite: Suite) {
    let bucket = suite.bucket("races").await;
    suite.accepted(small(bucket, "a", 0, "0")).await;
    let shard = suite.shard_of(bucket, "a").await;
    let [one, two] = ["1", "2"].map(|byte| suite.envelope(small(bucket, "a", 1, byte)));
    let (first, second) = futures_util::join!(suite.send(shard, &one), suite.send(shard, &two));
    let (first, second) = (first.unwrap(), second.unwrap());
    let won = [&first, &second].map(|reply| reply.rejection.is_none());
    assert!(won == [true, false] || won == [false, true], "{won:?}");
    let bytes = if won[0] { "01" } else { "02" };
    assert_eq!(read(&suite, bucket, "a").await, bytes);
    suite.accepted(small(bucket, "a", 2, "3")).await;
    assert_eq!(suite.send(shard, &one).await.unwrap(), first);
    assert_eq!(suite.send(shard, &two).await.unwrap(), second);
    assert_eq!(read(&suite, bucket, "a").await, format!("{bytes}3"));
}

/// A sealed object ends for ever; when it was sealed is said again and again.
pub async fn a_sealed_object_takes_no_more(suite: Suite) {
    let bucket = suite.bucket("sealed").await;
    let seal = |position| pb::SealObject {
        at: Some(bucket.at("a")),
        position,
    };
    assert_eq!(suite.rejected(seal(0)).await, Reason::NoSuchKey);
    suite.accepted(small(bucket, "a", 0, "abc")).await;
    assert_eq!(
        suite.rejected(seal(2)).await,
        Reason::PositionNotEqualToLength
    );
    let sealed = suite.accepted(seal(3)).await.version.unwrap();
    assert!(sealed.sealed_ms > 0);
    suite.clock.advance_wall_clock(9000);
    let again = suite.accepted(seal(3)).await.version.unwrap();
    assert_eq!(again.sealed_ms, sealed.sealed_ms);
    assert_eq!(
        suite.rejected(seal(4)).await,
        Reason::PositionNotEqualToLength
    );
    for (position, bytes) in [(3, "d"), (0, "d"), (3, "")] {
        let command = small(bucket, "a", position, bytes);
        assert_eq!(suite.rejected(command).await, Reason::AppendSealedObject);
    }
    suite.put(bucket, "a", "normal").await;
    assert_eq!(suite.rejected(seal(6)).await, Reason::ObjectNotAppendable);
}

/// The tail has a limit; a fold makes room without anybody seeing it.
pub async fn a_full_tail_is_folded_first(suite: Suite) {
    let bucket = suite.bucket("tails").await;
    let bytes = "x".repeat(200 * 1024);
    let mut size = 0;
    while size + bytes.len() as u64 <= limits::TAIL_BYTES_MAX {
        suite.accepted(small(bucket, "a", size, &bytes)).await;
        size += bytes.len() as u64;
    }
    let next = small(bucket, "a", size, &bytes);
    assert_eq!(suite.rejected(next).await, Reason::FoldFirst);
    let before = current(&suite, bucket, "a").await;
    let length = u32::try_from(size).unwrap();
    let fold = fold_of(&suite, bucket, "a", 0, (1, length)).await;
    let folded = suite.accepted(fold).await.version.unwrap();
    assert_eq!(
        (folded.etag, folded.modified_ms, folded.crc64),
        (before.etag.clone(), before.modified_ms, before.crc64)
    );
    // Who began before finds the bytes where they are now.
    let seen = read_from(&suite, bucket, "a", &before, 1000).await;
    assert_eq!(seen, format!("#1,{length};"));
    suite.accepted(small(bucket, "a", size, "y")).await;
    assert_eq!(read(&suite, bucket, "a").await, format!("#1,{length};y"));
}

/// A fold of the bytes from `from` on into one chunk, which is said to have the bytes of the object.
pub(super) async fn fold_of(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    from: u64,
    (n, length): (u32, u32),
) -> pb::FoldTail {
    let version = current(suite, bucket, key).await;
    let body = body(&version);
    let before = match from == body.part_bytes {
        true => body.part_crc64,
        false => body.run_from_crc64,
    };
    // What makes the whole of what stands before: crc(a + b) is linear in crc(b).
    let folded = version.crc64 ^ combine(before, 0, u64::from(length));
    pb::FoldTail {
        at: Some(bucket.at(key)),
        object_id: version.object_id.clone(),
        from,
        payload: Some(chunks(suite, bucket, key, &[(n, length)]).await),
        crc64: folded,
    }
}

/// Folds take what was there when they read it: appends behind it stay, and another fold, a
/// replaced object or other bytes refuse them.
pub async fn folds_replace_what_they_read(suite: Suite) {
    let bucket = suite.bucket("folds").await;
    suite.accepted(small(bucket, "a", 0, "abc")).await;
    suite.accepted(small(bucket, "a", 3, "de")).await;
    let fold = fold_of(&suite, bucket, "a", 0, (1, 5)).await;
    let torn = fold_of(&suite, bucket, "a", 0, (2, 4)).await;
    assert_eq!(suite.rejected(torn).await, Reason::Stale);
    let other_bytes = pb::FoldTail {
        crc64: fold.crc64 ^ 1,
        ..fold.clone()
    };
    assert_eq!(suite.rejected(other_bytes).await, Reason::Invalid);
    suite.accepted(small(bucket, "a", 5, "fg")).await;
    let longer = fold_of(&suite, bucket, "a", 0, (3, 7)).await;
    suite.accepted(fold.clone()).await;
    assert_eq!(read(&suite, bucket, "a").await, "#1,5;fg");
    // The same bytes and more: that is as good.
    suite.accepted(longer).await;
    assert_eq!(read(&suite, bucket, "a").await, "#3,7;");
    // A second piece behind the first, once; then both, and what came since, in one.
    suite.accepted(small(bucket, "a", 7, "h")).await;
    let second = fold_of(&suite, bucket, "a", 7, (4, 1)).await;
    let rival = fold_of(&suite, bucket, "a", 7, (8, 1)).await;
    suite.accepted(second).await;
    assert_eq!(suite.rejected(rival).await, Reason::Stale);
    suite.accepted(small(bucket, "a", 8, "i")).await;
    assert_eq!(read(&suite, bucket, "a").await, "#3,7;#4,1;i");
    let all = fold_of(&suite, bucket, "a", 0, (5, 9)).await;
    suite.accepted(all).await;
    assert_eq!(read(&suite, bucket, "a").await, "#5,9;");
    let version = current(&suite, bucket, "a").await;
    let (folded, crc) = (body(&version), version.crc64);
    assert_eq!(
        (folded.parts, folded.run_parts, folded.tail_rows),
        (1, 1, 0)
    );
    assert_eq!((version.size, crc), (9, crc64(b"abcdefghi")));
    // What was replaced is given up once their readers have had their time.
    let shard = suite.shard_of(bucket, "a").await;
    assert!(suite.deletions(shard).await.entries.is_empty());
    suite
        .advance(suite.settings().await.reader_grace_ms + 1)
        .await;
    let due = suite.deletions(shard).await.entries;
    assert_eq!(due.len(), 2);
    suite
        .acknowledge(shard, due.iter().map(|entry| entry.seq).collect())
        .await;
    assert_eq!(read(&suite, bucket, "a").await, "#5,9;");
    // The object is another one by the time the fold comes.
    suite.accepted(small(bucket, "a", 9, "j")).await;
    let late = fold_of(&suite, bucket, "a", 9, (6, 1)).await;
    suite.delete(bucket, "a").await;
    assert_eq!(suite.rejected(late.clone()).await, Reason::Stale);
    suite.accepted(small(bucket, "a", 0, "other bytes")).await;
    assert_eq!(suite.rejected(late).await, Reason::Stale);
}

/// Chunks go behind chunks. Small ones at the end are counted until a fold makes one of them.
pub async fn small_parts_do_not_pile_up(suite: Suite) {
    let bucket = suite.bucket("parts").await;
    let (count, length) = (limits::SMALL_PARTS_MAX, 1000);
    let mut position = 0;
    for n in 0..count {
        let command = chunk(&suite, bucket, "a", position, (n, length)).await;
        suite.accepted(command).await;
        position += u64::from(length);
    }
    let next = chunk(&suite, bucket, "a", position, (count, length)).await;
    assert_eq!(suite.rejected(next.clone()).await, Reason::FoldFirst);
    suite.accepted(small(bucket, "a", position, "tail")).await;
    // Behind a tail no chunk can stand, and no further small part can be made of it.
    let behind = chunk(&suite, bucket, "a", position + 4, (count, length)).await;
    assert_eq!(suite.rejected(behind.clone()).await, Reason::FoldFirst);
    let light = fold_of(&suite, bucket, "a", position, (900, 4)).await;
    assert_eq!(suite.rejected(light).await, Reason::FoldFirst);
    let whole = u32::try_from(position + 4).unwrap();
    let fold = fold_of(&suite, bucket, "a", 0, (901, whole)).await;
    suite.accepted(fold).await;
    suite.accepted(behind).await;
    let seen = read(&suite, bucket, "a").await;
    assert_eq!(seen, format!("#901,{whole};#{count},{length};"));
    // A large part ends the run.
    let large = u32::try_from(limits::SMALL_PART_BYTES).unwrap();
    let position = u64::from(whole + length);
    let command = chunk(&suite, bucket, "a", position, (902, large)).await;
    suite.accepted(command).await;
    let version = current(&suite, bucket, "a").await;
    let body = body(&version);
    assert_eq!((body.parts, body.run_parts, body.run_bytes), (3, 0, 0));
    assert_eq!(body.part_bytes, version.size);
    let from = read_from(&suite, bucket, "a", &version, position).await;
    assert_eq!(from, format!("#902,{large};"));
}

/// An append makes no version; what is not current, or no appendable object, is not appended to. Above
/// a delete marker an append makes a new object.
pub async fn versions_are_appended_to_only_while_current(suite: Suite) {
    let bucket = suite.bucket("versions").await;
    suite.accepted(small(bucket, "a", 0, "null")).await;
    let bucket = settings::versioning(&suite, bucket, 1).await;
    suite.accepted(small(bucket, "a", 4, "!")).await;
    let first = suite.accepted(small(bucket, "b", 0, "kept")).await;
    let first = first.version.unwrap();
    assert!(!first.is_null && current(&suite, bucket, "a").await.is_null);
    suite.put(bucket, "b", "above").await;
    let command = small(bucket, "b", 4, "x");
    assert_eq!(suite.rejected(command).await, Reason::ObjectNotAppendable);
    let old = suite
        .version(bucket, "b", first.stamp)
        .await
        .version
        .unwrap();
    assert_eq!(read_from(&suite, bucket, "b", &old, 0).await, "kept");
    suite.delete(bucket, "a").await;
    let marker = current(&suite, bucket, "a").await;
    let behind = small(bucket, "a", 5, "x");
    assert_eq!(
        suite.rejected(behind).await,
        Reason::PositionNotEqualToLength
    );
    let seal = pb::SealObject {
        at: Some(bucket.at("a")),
        position: 5,
    };
    assert_eq!(suite.rejected(seal).await, Reason::NoSuchKey);
    let above = suite.accepted(small(bucket, "a", 0, "anew")).await;
    let above = above.version.unwrap();
    suite.accepted(small(bucket, "a", 4, "!")).await;
    assert_eq!(read(&suite, bucket, "a").await, "anew!");
    let counters = suite.counters(bucket).await;
    assert_eq!((counters.objects, counters.versions), (2, 2));
    let anew = pb::DeleteObject {
        at: Some(bucket.at("a")),
        version_stamp: above.stamp,
        ..Default::default()
    };
    suite.accepted(anew).await;
    // The marker goes: what was appended is current again, and goes on.
    assert_eq!(current(&suite, bucket, "a").await.stamp, marker.stamp);
    let undelete = pb::DeleteObject {
        at: Some(bucket.at("a")),
        version_stamp: marker.stamp,
        ..Default::default()
    };
    suite.accepted(undelete).await;
    suite.accepted(small(bucket, "a", 5, "?")).await;
    assert_eq!(read(&suite, bucket, "a").await, "null!?");
    let counters = suite.counters(bucket).await;
    assert_eq!((counters.objects, counters.versions), (2, 1));
}

/// What is deleted or replaced can be read by who began before, pins it like any object, and leaves
/// nothing behind.
pub async fn readers_keep_the_tail_of_what_was_deleted(suite: Suite) {
    let bucket = suite.bucket("readers").await;
    let grace_ms = suite.settings().await.reader_grace_ms;
    let shard = suite.shard_of(bucket, "a").await;
    let command = chunk(&suite, bucket, "a", 0, (1, 10)).await;
    suite.accepted(command).await;
    suite.accepted(small(bucket, "a", 10, "tail")).await;
    suite.accepted(small(bucket, "b", 0, "no chunks")).await;
    let (a, b) = (
        current(&suite, bucket, "a").await,
        current(&suite, bucket, "b").await,
    );
    suite.delete(bucket, "a").await;
    suite.put(bucket, "b", "replaced").await;
    let until_ms = suite.runtime.now().plus_millis(3 * grace_ms).as_millis();
    let pin = pb::PinRead {
        at: Some(bucket.at("a")),
        object_id: a.object_id.clone(),
        until_ms,
    };
    suite.accepted(pin).await;
    suite.advance(grace_ms + 1).await;
    let due = suite.deletions(shard).await.entries;
    let of = |id: &Bytes| {
        let mut due = due.iter();
        due.find(|entry| entry.deletion.as_ref().unwrap().object_id == *id)
    };
    assert!(of(&a.object_id).is_none(), "pinned");
    let seq = of(&b.object_id).unwrap().seq;
    assert_eq!(read_from(&suite, bucket, "b", &b, 3).await, "chunks");
    suite.acknowledge(shard, vec![seq]).await;
    assert_eq!(read_from(&suite, bucket, "b", &b, 0).await, "");
    assert_eq!(read_from(&suite, bucket, "a", &a, 0).await, "#1,10;tail");
    suite.advance(3 * grace_ms).await;
    let due = suite.deletions(shard).await.entries;
    suite
        .acknowledge(shard, due.iter().map(|entry| entry.seq).collect())
        .await;
    assert_eq!(read_from(&suite, bucket, "a", &a, 0).await, "");
    assert_eq!(suite.deletions(shard).await.pending, 0);
}

/// A split moves nothing of an appendable object, and it goes on where it belongs.
pub async fn a_split_keeps_what_was_appended(suite: Suite) {
    let bucket = suite.bucket("split").await;
    for key in ["a", "z"] {
        let command = chunk(&suite, bucket, key, 0, (1, 10)).await;
        suite.accepted(command).await;
        suite.accepted(small(bucket, key, 10, "one ")).await;
    }
    let child = splits::split(&suite, bucket, "m").await;
    assert_eq!(suite.shard_of(bucket, "z").await, child);
    for key in ["a", "z"] {
        suite.accepted(small(bucket, key, 14, "two")).await;
        assert_eq!(read(&suite, bucket, key).await, "#1,10;one two");
        let fold = fold_of(&suite, bucket, key, 0, (2, 17)).await;
        suite.accepted(fold).await;
        assert_eq!(read(&suite, bucket, key).await, "#2,17;");
    }
}
