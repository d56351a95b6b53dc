//! Multipart uploads.

use bytes::Bytes;
use granary_types::{ObjectType, limits};

use super::chunks::read;
use super::{Suite, TestBucket, extent, inline};
use crate::pb;
use crate::pb::rejection::Reason;
use crate::pb::state;
use crate::pb::upload_item::Item;

/// Opens an upload of a key.
pub(super) async fn initiate(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    sequential: bool,
) -> Bytes {
    let upload_id = suite.begin_write(bucket, key).await;
    let command = pb::InitiateUpload {
        at: Some(bucket.at(key)),
        upload_id: upload_id.clone(),
        template: Some(state::Version {
            owner: 7,
            ..Default::default()
        }),
        sequential,
    };
    suite.accepted(command).await;
    upload_id
}

/// A part of `chunks` chunks of 100 KiB, numbered from `first` on.
pub(super) async fn part(
    suite: &Suite,
    bucket: TestBucket,
    key: &str,
    upload_id: &Bytes,
    number: u32,
    chunks: u32,
) -> pb::PutPart {
    let length = u32::try_from(limits::PART_BYTES_MIN).unwrap();
    let write_id = suite.begin_write(bucket, key).await;
    pb::PutPart {
        at: Some(bucket.at(key)),
        upload_id: upload_id.clone(),
        number,
        etag: format!("{number:032X}"),
        crc64: u64::from(number),
        payload: Some(pb::Payload {
            write_id,
            extents: (0..chunks)
                .map(|n| extent(number * 1000 + n, length))
                .collect(),
            size: u64::from(length * chunks),
            ..Default::default()
        }),
        prefix: None,
    }
}

pub(super) fn complete(
    bucket: TestBucket,
    key: &str,
    upload_id: &Bytes,
    numbers: &[u32],
) -> pb::CompleteUpload {
    let parts = numbers.iter().map(|number| pb::CompletePart {
        number: *number,
        etag: format!("\"{number:032x}\""),
    });
    pb::CompleteUpload {
        at: Some(bucket.at(key)),
        upload_id: upload_id.clone(),
        parts: parts.collect(),
        ..Default::default()
    }
}

/// Named parts become an object in their order, without their bytes moving; others are given up.
pub async fn parts_become_an_object(suite: Suite) {
    let bucket = suite.bucket("multipart").await;
    let upload = initiate(&suite, bucket, "a", false).await;
    for (number, chunks) in [(1, 2), (2, 6), (3, 1), (2, 5), (9, 150)] {
        let command = part(&suite, bucket, "a", &upload, number, chunks).await;
        suite.accepted(command).await;
    }
    let last = pb::PutPart {
        payload: Some(inline("tail")),
        ..part(&suite, bucket, "a", &upload, 10, 0).await
    };
    suite.accepted(last).await;
    let counters = suite.counters(bucket).await;
    assert_eq!((counters.uploads, counters.multipart_parts), (1, 5));
    let listed = pb::ListParts {
        at: Some(bucket.at("a")),
        upload_id: upload.clone(),
        after: 2,
        limit: 2,
    };
    let page = suite.meta.query(listed).await.unwrap();
    assert_eq!(
        page.parts.iter().map(|p| p.number).collect::<Vec<_>>(),
        [3, 9]
    );
    assert!(page.found && page.more);
    assert_eq!(
        suite.get(bucket, "a").await,
        None,
        "nothing to see before the end"
    );
    let done = suite
        .accepted(complete(bucket, "a", &upload, &[1, 2, 9, 10]))
        .await;
    let version = done.version.unwrap();
    let part_bytes = limits::PART_BYTES_MIN;
    assert_eq!(version.size, 157 * part_bytes + 4);
    assert_eq!(version.object_type, ObjectType::Multipart.number());
    assert!(version.etag.ends_with("-4") && version.has_crc64 && version.owner == 7);
    let version = suite.version(bucket, "a", 0).await.version.unwrap();
    let expected: Vec<u32> = [(1, 2), (2, 5), (9, 150)]
        .iter()
        .flat_map(|(number, chunks)| (0..*chunks).map(move |n| number * 1000 + n))
        .collect();
    assert_eq!(read(&suite, bucket, "a", &version, 0, 20).await, expected);
    assert_eq!(
        read(&suite, bucket, "a", &version, 3 * part_bytes, 20).await,
        expected[3..]
    );
    assert_eq!(
        read(&suite, bucket, "a", &version, 157 * part_bytes + 1, 20).await,
        [0; 0]
    );
    let counters = suite.counters(bucket).await;
    let expected = state::Counter {
        objects: 1,
        bytes: i64::try_from(version.size).unwrap(),
        ..Default::default()
    };
    assert_eq!(counters, expected);
    let again = complete(bucket, "a", &upload, &[1]);
    assert_eq!(suite.rejected(again).await, Reason::NoSuchUpload);
    // The first part 2 and part 3 were given up.
    let shard = suite.shard_of(bucket, "a").await;
    assert_eq!(suite.deletions(shard).await.pending, 2);
}

/// The digest of the whole is known of one part that came in order, of several that went on from each
/// other, and of nothing else.
pub async fn parts_in_order_have_a_digest(suite: Suite) {
    let bucket = suite.bucket("digests").await;
    for (sequential, parts, digest) in [
        (true, 1, "AAAAAAAAAAAAAAAAAAAAAQ=="),
        (true, 2, ""),
        (false, 1, ""),
    ] {
        let upload = initiate(&suite, bucket, "a", sequential).await;
        for number in 1..=parts {
            let part = part(&suite, bucket, "a", &upload, number, 1).await;
            suite.accepted(part).await;
        }
        let numbers: Vec<u32> = (1..=parts).collect();
        suite
            .accepted(complete(bucket, "a", &upload, &numbers))
            .await;
        let version = suite.version(bucket, "a", 0).await.version.unwrap();
        assert_eq!(version.content_md5, digest, "{sequential} {parts}");
    }
    let nothing = 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128;
    // Of each part what was before it, and what is with it.
    let good = [(nothing, 11), (11, 12), (12, 13)];
    let torn = [(nothing, 11), (10, 12), (12, 13)];
    for (sequential, chain, named, digest) in [
        (true, good, &[1, 2, 3][..], "AAAAAAAAAAAAAAAAAAAADQ=="),
        (true, good, &[1, 2], "AAAAAAAAAAAAAAAAAAAADA=="),
        (true, good, &[1, 3], ""),
        (true, good, &[2, 3], ""),
        (true, torn, &[1, 2, 3], ""),
        (false, good, &[1, 2, 3], ""),
    ] {
        let upload = initiate(&suite, bucket, "a", sequential).await;
        for (number, (before, md5)) in (1..).zip(chain) {
            let part = pb::PutPart {
                prefix: Some(state::PrefixDigest {
                    before: digest_bytes(before),
                    md5_state: Bytes::from_static(b"to go on from"),
                    md5: digest_bytes(md5),
                }),
                ..part(&suite, bucket, "a", &upload, number, 1).await
            };
            suite.accepted(part).await;
        }
        let listed = pb::ListParts {
            at: Some(bucket.at("a")),
            upload_id: upload.clone(),
            after: 1,
            limit: 1,
        };
        let kept = suite.meta.query(listed).await.unwrap();
        assert_eq!(kept.parts[0].prefix.is_some(), sequential);
        suite.accepted(complete(bucket, "a", &upload, named)).await;
        let version = suite.version(bucket, "a", 0).await.version.unwrap();
        assert_eq!(version.content_md5, digest, "{named:?}");
    }
    let upload = initiate(&suite, bucket, "a", true).await;
    let odd = pb::PutPart {
        prefix: Some(state::PrefixDigest::default()),
        ..part(&suite, bucket, "a", &upload, 1, 1).await
    };
    assert_eq!(suite.rejected(odd).await, Reason::Invalid);
}

fn digest_bytes(digest: u128) -> Bytes {
    Bytes::copy_from_slice(&digest.to_be_bytes())
}

/// A list that names what is not there, or in no order, is refused; an empty one makes an empty
/// object, and "all" takes whatever is there.
pub async fn bad_part_lists_are_refused(suite: Suite) {
    let bucket = suite.bucket("lists").await;
    let upload = initiate(&suite, bucket, "a", true).await;
    let second = part(&suite, bucket, "a", &upload, 2, 1).await;
    assert_eq!(suite.rejected(second).await, Reason::PartNotSequential);
    for number in [1, 2] {
        suite
            .accepted(part(&suite, bucket, "a", &upload, number, 1).await)
            .await;
    }
    let small = pb::PutPart {
        payload: Some(inline("small")),
        ..part(&suite, bucket, "a", &upload, 3, 0).await
    };
    suite.accepted(small).await;
    suite
        .accepted(part(&suite, bucket, "a", &upload, 4, 1).await)
        .await;
    let list = |numbers: &[u32]| complete(bucket, "a", &upload, numbers);
    assert_eq!(suite.rejected(list(&[1, 5])).await, Reason::InvalidPart);
    assert_eq!(suite.rejected(list(&[2, 1])).await, Reason::Invalid);
    assert_eq!(suite.rejected(list(&[1, 1])).await, Reason::Invalid);
    assert_eq!(suite.rejected(list(&[1, 3, 4])).await, Reason::PartTooSmall);
    let mut other_tag = list(&[1, 2]);
    other_tag.parts[1].etag = "F".repeat(32);
    assert_eq!(suite.rejected(other_tag).await, Reason::InvalidPart);
    let empty = initiate(&suite, bucket, "b", false).await;
    let version = suite
        .accepted(complete(bucket, "b", &empty, &[]))
        .await
        .version
        .unwrap();
    assert_eq!((version.size, version.crc64), (0, 0));
    assert_eq!(suite.get(bucket, "b").await.as_deref(), Some(""));
    let all = initiate(&suite, bucket, "c", false).await;
    suite
        .accepted(part(&suite, bucket, "c", &all, 5, 2).await)
        .await;
    suite
        .accepted(part(&suite, bucket, "c", &all, 2, 1).await)
        .await;
    let command = pb::CompleteUpload {
        all: true,
        ..complete(bucket, "c", &all, &[])
    };
    let version = suite.accepted(command).await.version.unwrap();
    assert_eq!(version.size, 3 * limits::PART_BYTES_MIN);
    let unknown = part(&suite, bucket, "c", &all, 1, 1).await;
    assert_eq!(suite.rejected(unknown).await, Reason::NoSuchUpload);
}

/// An aborted upload is gone, and so are its parts in due time.
pub async fn aborted_parts_are_given_up(suite: Suite) {
    let bucket = suite.bucket("aborted").await;
    let shard = suite.shard_of(bucket, "a").await;
    let upload = initiate(&suite, bucket, "a", false).await;
    for number in 1..=70 {
        suite
            .accepted(part(&suite, bucket, "a", &upload, number, 1).await)
            .await;
    }
    let abort = pb::AbortUpload {
        at: Some(bucket.at("a")),
        upload_id: upload,
    };
    suite.accepted(abort.clone()).await;
    assert_eq!(suite.rejected(abort).await, Reason::NoSuchUpload);
    assert_eq!(suite.counters(bucket).await, state::Counter::default());
    suite
        .advance(suite.settings().await.reader_grace_ms + 1)
        .await;
    let due = suite.deletions(shard).await.entries;
    let mut chunks = Vec::new();
    for entry in &due {
        let deletion = entry.deletion.clone().unwrap();
        let version = state::Version {
            object_id: deletion.object_id,
            body: deletion.body,
            ..Default::default()
        };
        chunks.extend(read(&suite, bucket, "a", &version, 0, 1000).await);
    }
    assert_eq!(chunks, (1..=70).map(|n| n * 1000).collect::<Vec<_>>());
    suite
        .acknowledge(shard, due.iter().map(|entry| entry.seq).collect())
        .await;
    assert_eq!(suite.deletions(shard).await.pending, 0);
}

/// An object of thousands of parts takes several acknowledgements, each of bounded work.
pub async fn many_parts_are_deleted_in_steps(suite: Suite) {
    let bucket = suite.bucket("large").await;
    let shard = suite.shard_of(bucket, "a").await;
    let upload = initiate(&suite, bucket, "a", false).await;
    const PARTS: u32 = 2300;
    for number in 1..=PARTS {
        suite
            .accepted(part(&suite, bucket, "a", &upload, number, 1).await)
            .await;
    }
    let command = pb::CompleteUpload {
        all: true,
        ..complete(bucket, "a", &upload, &[])
    };
    let version = suite.accepted(command).await.version.unwrap();
    assert_eq!(version.size, u64::from(PARTS) * limits::PART_BYTES_MIN);
    let version = suite.version(bucket, "a", 0).await.version.unwrap();
    let from = suite.version(bucket, "a", 0).await.version.unwrap().size - 1;
    assert_eq!(
        read(&suite, bucket, "a", &version, from, 5).await,
        [PARTS * 1000]
    );
    suite.delete(bucket, "a").await;
    suite
        .advance(suite.settings().await.reader_grace_ms + 1)
        .await;
    let due = suite.deletions(shard).await.entries;
    assert_eq!(due.len(), 1);
    let command = pb::AckDeletions {
        seqs: vec![due[0].seq],
        lease_token: 0,
    };
    let first = suite
        .meta
        .propose_to(shard, command)
        .await
        .unwrap()
        .unwrap();
    assert!(first.more, "not all in one command");
    assert_eq!(suite.deletions(shard).await.pending, 1);
    suite.acknowledge(shard, vec![due[0].seq]).await;
    assert_eq!(suite.deletions(shard).await.pending, 0);
    assert!(read(&suite, bucket, "a", &version, 0, 5).await.is_empty());
}

/// Uploads come by key and then by age, in pages of any size, grouped like objects.
pub async fn uploads_are_listed_by_key_and_age(suite: Suite) {
    let bucket = suite.bucket("pending").await;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        for _ in 0..3 {
            let id = initiate(&suite, bucket, key, false).await;
            expected.push((key.to_owned(), id));
            suite.clock.advance_wall_clock(1);
        }
    }
    for limit in [1, 2, 5, 1000] {
        assert_eq!(
            all_uploads(&suite, bucket, limit, "").await,
            expected,
            "pages of {limit}"
        );
    }
    let grouped = all_uploads(&suite, bucket, 2, "/").await;
    let keys: Vec<_> = grouped.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "a", "a", "b/", "c", "c", "c"]);
}

pub(super) async fn all_uploads(
    suite: &Suite,
    bucket: TestBucket,
    limit: u32,
    delimiter: &'static str,
) -> Vec<(String, Bytes)> {
    let mut seen = Vec::new();
    let mut query = pb::ListUploads {
        bucket_id: bucket.id.0,
        delimiter: Bytes::from_static(delimiter.as_bytes()),
        limit,
        ..Default::default()
    };
    loop {
        let page = suite.meta.list_uploads(query.clone()).await.unwrap();
        for item in page.items {
            seen.push(match item.item.unwrap() {
                Item::Upload(entry) => {
                    let key = String::from_utf8(entry.key.to_vec()).unwrap();
                    (key, entry.upload.unwrap().upload_id)
                }
                Item::CommonPrefix(prefix) => {
                    (String::from_utf8(prefix.to_vec()).unwrap(), Bytes::new())
                }
            });
        }
        if !page.more {
            return seen;
        }
        query.key_marker = page.next_key;
        query.upload_id_marker = page.next_upload_id;
    }
}

/// An upload of thousands of parts is gone at once when it is aborted; its parts follow in steps.
pub async fn many_parts_are_aborted_in_steps(suite: Suite) {
    let bucket = suite.bucket("given-up").await;
    let shard = suite.shard_of(bucket, "a").await;
    let upload = initiate(&suite, bucket, "a", false).await;
    const PARTS: u32 = 2300;
    for number in 1..=PARTS {
        let part = part(&suite, bucket, "a", &upload, number, 1).await;
        suite.accepted(part).await;
    }
    let abort = pb::AbortUpload {
        at: Some(bucket.at("a")),
        upload_id: upload.clone(),
    };
    suite.accepted(abort.clone()).await;
    assert_eq!(suite.rejected(abort).await, Reason::NoSuchUpload);
    assert_eq!(suite.counters(bucket).await, state::Counter::default());
    let late = part(&suite, bucket, "a", &upload, 1, 1).await;
    assert_eq!(suite.rejected(late).await, Reason::NoSuchUpload);
    let listed = pb::ListUploads {
        bucket_id: bucket.id.0,
        limit: 10,
        ..Default::default()
    };
    assert!(
        suite
            .meta
            .list_uploads(listed)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    for _ in 0..4 {
        suite.advance(61_000).await;
    }
    suite
        .advance(suite.settings().await.reader_grace_ms + 1)
        .await;
    let due = suite.deletions(shard).await.entries;
    assert!(due.len() > 1, "not all in one command");
    let mut chunks = Vec::new();
    for entry in &due {
        let deletion = entry.deletion.clone().unwrap();
        let version = state::Version {
            object_id: deletion.object_id,
            body: deletion.body,
            ..Default::default()
        };
        chunks.extend(read(&suite, bucket, "a", &version, 0, 1000).await);
    }
    chunks.sort_unstable();
    assert_eq!(chunks, (1..=PARTS).map(|n| n * 1000).collect::<Vec<_>>());
    suite.meta.delete_bucket(bucket.id).await.unwrap().unwrap();
}
