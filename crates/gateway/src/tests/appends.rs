//! AppendObject and SealAppendObject, and what other operations make of the objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_meta_api::pb;
use granary_meta_api::pb::state::body::Place;
use granary_types::limits::{SMALL_PART_BYTES, SMALL_PARTS_MAX, TAIL_BYTES_MAX, TAIL_ROWS_MAX};
use md5::{Digest as _, Md5};

use super::client::{Answer, Client};
use super::fixture::Served;
use super::settings::put_versioning;

async fn bucket() -> (Served, Client) {
    let served = Served::real().await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

async fn append(client: &Client, target: &str, position: usize, body: &[u8]) -> Answer {
    let target = format!("{target}?append&position={position}");
    client.post(&target, body).await
}

fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn etag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&md5_of(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn crc64(bytes: &[u8]) -> String {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ if low == 1 { 0xC96C_5795_D787_0F42 } else { 0 };
        }
    }
    (!crc).to_string()
}

/// The body of an object as the metadata keeps it.
async fn body(served: &Served, bucket: &str, key: &str) -> pb::state::AppendedBody {
    let found = pb::GetBucket {
        name: bucket.to_owned(),
        ..Default::default()
    };
    let bucket = served.meta.query(found).await.unwrap().bucket.unwrap();
    let query = pb::GetVersion {
        at: Some(pb::Position {
            bucket_id: bucket.id,
            key: bytes::Bytes::copy_from_slice(key.as_bytes()),
            generation: bucket.generation,
        }),
        ..Default::default()
    };
    let version = served.meta.query(query).await.unwrap().version.unwrap();
    match version.body.unwrap().place.unwrap() {
        Place::Appended(body) => body,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn bytes_are_added_where_the_object_ends() {
    let (_served, client) = bucket().await;
    let first = client
        .call("POST", "bkt/log?append&position=0")
        .header("content-type", "text/plain")
        .header("x-oss-meta-a", "1")
        .header("x-oss-tagging", "t=v")
        .header("x-oss-storage-class", "IA")
        .header("content-md5", &STANDARD.encode(md5_of(b"one ")))
        .body("one ");
    let first = first.send().await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("x-oss-next-append-position"), "4");
    assert_eq!(first.header("x-oss-hash-crc64ecma"), crc64(b"one "));
    // Attributes are those of the first append.
    let second = client
        .call("POST", "bkt/log?append&position=4")
        .header("x-oss-meta-a", "2")
        .header("x-oss-object-acl", "no such thing")
        .body("two");
    let second = second.send().await;
    assert_eq!(second.header("x-oss-next-append-position"), "7");
    assert_eq!(second.header("x-oss-hash-crc64ecma"), crc64(b"one two"));
    assert_ne!(second.header("etag"), first.header("etag"));
    for answer in [client.get("bkt/log").await, client.head("bkt/log").await] {
        for (name, value) in [
            ("content-length", "7"),
            ("content-type", "text/plain"),
            ("etag", second.header("etag")),
            ("content-md5", ""),
            (
                "x-oss-hash-crc64ecma",
                second.header("x-oss-hash-crc64ecma"),
            ),
            ("x-oss-object-type", "Appendable"),
            ("x-oss-storage-class", "IA"),
            ("x-oss-next-append-position", "7"),
            ("x-oss-meta-a", "1"),
            ("x-oss-tagging-count", "1"),
            ("x-oss-sealed-time", ""),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
    }
    assert_eq!(client.get("bkt/log").await.text(), "one two");
    let part = client.call("GET", "bkt/log").header("range", "bytes=2-5");
    let part = part.send().await;
    assert_eq!((part.status, part.text()), (206, "e tw".to_owned()));
    for position in [0, 4, 8] {
        let late = append(&client, "bkt/log", position, b"x").await;
        let outcome = (409, "PositionNotEqualToLength".to_owned());
        assert_eq!(late.outcome(), outcome, "{position}");
        assert_eq!(late.header("x-oss-next-append-position"), "7");
    }
    let nothing = append(&client, "bkt/log", 7, b"").await;
    assert_eq!(nothing.status, 200);
    assert_eq!(nothing.header("etag"), second.header("etag"));
    let listed = client.get("bkt").await;
    assert_eq!(listed.element("Type"), "Appendable");
    assert_eq!(listed.element("Size"), "7");
}

#[tokio::test]
async fn what_cannot_be_appended_is_refused() {
    let (_served, client) = bucket().await;
    client.put("bkt/normal", "bytes").await;
    append(&client, "bkt/log", 0, b"abc").await;
    for (target, status, code) in [
        ("bkt/log?append", 400, "MissingArgument"),
        ("bkt/log?append&position=-1", 400, "MissingArgument"),
        ("bkt/normal?append&position=5", 409, "ObjectNotAppendable"),
        ("bkt/new?append&position=1", 409, "PositionNotEqualToLength"),
        ("no-bkt/log?append&position=3", 404, "NoSuchBucket"),
        ("bkt/log?seal", 400, "MissingArgument"),
        ("bkt/log?seal&position=2", 409, "PositionNotEqualToLength"),
        ("bkt/none?seal&position=0", 404, "NoSuchKey"),
        ("bkt/normal?seal&position=5", 409, "ObjectNotAppendable"),
    ] {
        let answer = client.post(target, "x").await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{target}");
    }
    let call = |name: &str, value: &str, position: &str| {
        let target = format!("bkt/log?append&position={position}");
        client
            .call("POST", &target)
            .header(name, value)
            .body("defg")
    };
    for (name, value, position, outcome) in [
        (
            "content-md5",
            "1B2M2Y8AsgTpgAmY7PhCfg==",
            "3",
            (400, "InvalidDigest"),
        ),
        (
            "x-oss-forbid-overwrite",
            "true",
            "0",
            (409, "FileAlreadyExists"),
        ),
        ("x-oss-object-acl", "open", "0", (400, "InvalidArgument")),
        ("x-oss-callback", "e30=", "3", (501, "NotImplemented")),
    ] {
        let answer = call(name, value, position).send().await;
        assert_eq!(
            answer.outcome(),
            (outcome.0, outcome.1.to_owned()),
            "{name}"
        );
    }
    assert_eq!(client.get("bkt/log").await.text(), "abc");
    let allowed = call("x-oss-forbid-overwrite", "true", "3").send().await;
    assert_eq!(allowed.status, 200, "nothing is overwritten");
}

#[tokio::test]
async fn a_sealed_object_says_so_and_takes_no_more() {
    let (_served, client) = bucket().await;
    append(&client, "bkt/log", 0, b"abc").await;
    let sealed = client.post("bkt/log?seal&position=3", "").await;
    assert_eq!(sealed.status, 200, "{}", sealed.text());
    let time = sealed.header("x-oss-sealed-time").to_owned();
    assert!(time.ends_with(" GMT"), "{time}");
    let again = client.post("bkt/log?seal&position=3", "").await;
    assert_eq!(again.header("x-oss-sealed-time"), time);
    assert_eq!(
        client.head("bkt/log").await.header("x-oss-sealed-time"),
        time
    );
    assert_eq!(
        client.get("bkt/log").await.header("x-oss-sealed-time"),
        time
    );
    let more = append(&client, "bkt/log", 3, b"d").await;
    let refused = (400, "AppendSealedObjectNotAllowed".to_owned());
    assert_eq!(more.outcome(), refused);
    // It can be replaced, and the new one begins anew.
    assert_eq!(client.put("bkt/log", "normal").await.status, 200);
    assert_eq!(client.head("bkt/log").await.header("x-oss-sealed-time"), "");
    client.delete("bkt/log").await;
    assert_eq!(append(&client, "bkt/log", 0, b"new").await.status, 200);
}

/// More rows than a tail may have: the bytes go to chunks, a few of them, and stay what they were.
#[tokio::test]
async fn many_small_appends_become_few_pieces() {
    let (served, client) = bucket().await;
    let appends = TAIL_ROWS_MAX as usize + 7;
    let mut expected = Vec::new();
    for n in 0..appends {
        let line = format!("{n} ");
        let answer = append(&client, "bkt/log", expected.len(), line.as_bytes()).await;
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
        expected.extend_from_slice(line.as_bytes());
    }
    let get = client.get("bkt/log").await;
    assert!(get.body == expected);
    assert_eq!(get.header("x-oss-hash-crc64ecma"), crc64(&expected));
    let kept = body(&served, "bkt", "log").await;
    assert!(kept.tail_rows == 7 && kept.parts == 1, "{kept:?}");
    let tail = expected.len() as u64 - kept.part_bytes;
    assert!(tail > 0 && tail <= TAIL_BYTES_MAX);
    // Across the border between chunk and tail.
    let border = kept.part_bytes as usize;
    let range = format!("bytes={}-{}", border - 3, border + 2);
    let part = client.call("GET", "bkt/log").header("range", &range);
    assert_eq!(part.send().await.body, &expected[border - 3..border + 3]);
}

/// Appends of every size one after the other: inline, one chunk, several; small ones in between.
#[tokio::test]
async fn large_and_small_appends_mix() {
    let (served, client) = bucket().await;
    let mut expected = Vec::new();
    for length in [
        5,
        100_000,
        7,
        5 * 1024 * 1024 + 3,
        16 * 1024,
        16 * 1024 + 1,
        9,
    ] {
        let bytes = pattern(length);
        let answer = append(&client, "bkt/mix", expected.len(), &bytes).await;
        assert_eq!(answer.status, 200, "{length}: {}", answer.text());
        assert_eq!(
            answer.header("content-md5"),
            STANDARD.encode(md5_of(&bytes))
        );
        expected.extend_from_slice(&bytes);
        let next = expected.len().to_string();
        assert_eq!(answer.header("x-oss-next-append-position"), next);
        let get = client.get("bkt/mix").await;
        assert!(get.body == expected, "after {length}");
        let crc = get.header("x-oss-hash-crc64ecma").to_owned();
        assert_eq!(crc, answer.header("x-oss-hash-crc64ecma"));
    }
    assert_eq!(
        client.head("bkt/mix").await.header("x-oss-hash-crc64ecma"),
        crc64(&expected)
    );
    // Many chunks of a small part each: they are made few.
    let bytes = pattern(20_000);
    for n in 0..2 * SMALL_PARTS_MAX {
        let answer = append(&client, "bkt/mix", expected.len(), &bytes).await;
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
        expected.extend_from_slice(&bytes);
    }
    assert!(client.get("bkt/mix").await.body == expected);
    let kept = body(&served, "bkt", "mix").await;
    let most = expected.len() as u64 / SMALL_PART_BYTES + u64::from(SMALL_PARTS_MAX);
    assert!(u64::from(kept.parts) <= most, "{kept:?}");
}

#[tokio::test]
async fn copies_links_and_uploads_take_the_bytes() {
    let (_served, client) = bucket().await;
    let chunk = pattern(50_000);
    append(&client, "bkt/log", 0, &chunk).await;
    append(&client, "bkt/log", chunk.len(), b"tail").await;
    let whole = [&chunk[..], b"tail"].concat();
    let copy = client
        .call("PUT", "bkt/copy")
        .header("x-oss-copy-source", "/bkt/log");
    assert_eq!(copy.send().await.status, 200);
    let copied = client.get("bkt/copy").await;
    assert!(copied.body == whole);
    assert_eq!(copied.header("x-oss-object-type"), "Normal");
    assert_eq!(copied.header("etag"), etag_of(&whole));
    assert_eq!(copied.header("x-oss-hash-crc64ecma"), crc64(&whole));
    let link = client
        .call("PUT", "bkt/link?symlink")
        .header("x-oss-symlink-target", "log");
    assert_eq!(link.send().await.status, 200);
    assert!(client.get("bkt/link").await.body == whole);
    let refused = append(&client, "bkt/link", whole.len(), b"x").await;
    assert_eq!(refused.outcome(), (409, "ObjectNotAppendable".to_owned()));
    // An upload that is completed over it replaces it.
    let begun = client.post("bkt/log?uploads", "").await;
    let id = begun.element("UploadId");
    let target = format!("bkt/log?partNumber=1&uploadId={id}");
    let etag = client.put(&target, "part").await.header("etag").to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let done = client.post(&format!("bkt/log?uploadId={id}"), list).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(client.get("bkt/log").await.text(), "part");
    let refused = append(&client, "bkt/log", 4, b"x").await;
    assert_eq!(refused.outcome(), (409, "ObjectNotAppendable".to_owned()));
}

#[tokio::test]
async fn an_append_makes_no_version() {
    let (served, client) = bucket().await;
    put_versioning(&served, "bkt", "Enabled").await;
    let first = append(&client, "bkt/log", 0, b"one").await;
    let id = first.header("x-oss-version-id").to_owned();
    assert!(!id.is_empty());
    let second = append(&client, "bkt/log", 3, b"two").await;
    assert_eq!(second.header("x-oss-version-id"), id);
    assert_eq!(client.get("bkt?versions").await.elements("Key"), ["log"]);
    client.put("bkt/log", "above").await;
    let outcome = (409, "ObjectNotAppendable".to_owned());
    assert_eq!(append(&client, "bkt/log", 6, b"x").await.outcome(), outcome);
    let old = client.get(&format!("bkt/log?versionId={id}")).await;
    assert_eq!(old.text(), "onetwo");
    // Above a delete marker an append makes a new object.
    client.delete("bkt/log").await;
    let refused = append(&client, "bkt/log", 6, b"x").await;
    let behind = (409, "PositionNotEqualToLength".to_owned());
    assert_eq!(refused.outcome(), behind);
    let third = append(&client, "bkt/log", 0, b"three").await;
    assert_eq!(third.status, 200, "{}", third.text());
    assert_ne!(third.header("x-oss-version-id"), id);
    assert_eq!(client.get("bkt/log").await.text(), "three");
    let old = client.get(&format!("bkt/log?versionId={id}")).await;
    assert_eq!(old.text(), "onetwo");
}

/// Two clients that append to one object at the same place: one is told where the other has got to.
#[tokio::test]
async fn of_two_at_one_place_one_comes_second() {
    let (_served, client) = bucket().await;
    append(&client, "bkt/log", 0, b"").await;
    let mut length = 0;
    for _ in 0..20 {
        let (a, b) = futures_util::join!(
            append(&client, "bkt/log", length, b"a"),
            append(&client, "bkt/log", length, b"b")
        );
        let mut statuses = [a.status, b.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
        length += 1;
    }
    assert_eq!(client.get("bkt/log").await.body.len(), length);
}
