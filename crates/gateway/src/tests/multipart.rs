//! The multipart operations, over the real metadata service, data path and disk engine.

use base64::Engine as _;
use granary_oss::error::ec;
use md5::{Digest as _, Md5};

use super::client::Client;
use super::fixture::Served;

const PART: usize = 100 * 1024;

async fn bucket() -> (Served, Client) {
    let served = Served::real().await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

async fn begin(client: &Client, key: &str) -> String {
    let answer = client.post(&format!("bkt/{key}?uploads"), "").await;
    assert_eq!(
        (
            answer.status,
            answer.element("Bucket"),
            answer.element("Key")
        ),
        (200, "bkt".into(), key.into())
    );
    answer.element("UploadId")
}

async fn part(client: &Client, key: &str, upload: &str, number: u32, body: &[u8]) -> String {
    let answer = client
        .put(
            &format!("bkt/{key}?partNumber={number}&uploadId={upload}"),
            body,
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("etag").to_owned()
}

fn completion(parts: &[(u32, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(n, etag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

#[tokio::test]
async fn parts_make_an_object() {
    let (_served, client) = bucket().await;
    let begun = client
        .call("POST", "bkt/dir/key?uploads")
        .header("content-type", "a/b")
        .header("x-oss-meta-k", "v")
        .header("x-oss-storage-class", "IA")
        .send()
        .await;
    let upload = begun.element("UploadId");
    assert_eq!(upload.len(), 32);
    let (one, two) = (vec![1; PART], vec![2; 3]);
    let first = part(&client, "dir/key", &upload, 1, b"replaced").await;
    assert_ne!(first, "");
    let first = part(&client, "dir/key", &upload, 1, &one).await;
    let second = part(&client, "dir/key", &upload, 7, &two).await;
    let listed = client.get(&format!("bkt/dir/key?uploadId={upload}")).await;
    assert_eq!(listed.elements("PartNumber"), ["1", "7"]);
    assert_eq!(listed.elements("Size"), [PART.to_string(), "3".to_owned()]);
    assert_eq!(
        (
            listed.element("IsTruncated"),
            listed.element("NextPartNumberMarker")
        ),
        ("false".into(), "7".into())
    );
    assert_eq!(listed.element("StorageClass"), "IA");
    let page = client
        .get(&format!(
            "bkt/dir/key?uploadId={upload}&max-parts=1&part-number-marker=1"
        ))
        .await;
    assert_eq!(page.elements("PartNumber"), ["7"]);
    assert_eq!(
        client.get("bkt/dir/key").await.status,
        404,
        "nothing is visible yet"
    );
    let body = completion(&[(1, &first), (7, &second)]);
    let done = client
        .post(&format!("bkt/dir/key?uploadId={upload}"), &body)
        .await;
    assert_eq!(done.status, 200, "{}", done.text());
    let tags: String = [&first, &second]
        .map(|tag| tag.trim_matches('"').to_owned())
        .concat();
    let digest: String = Md5::digest(tags)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect();
    let etag = format!("\"{digest}-2\"");
    assert_eq!(
        (done.element("ETag"), done.header("etag")),
        (etag.clone(), etag.as_str())
    );
    assert_eq!(
        done.element("Location"),
        format!("http://{}/bkt/dir/key", client.host)
    );
    let got = client.get("bkt/dir/key").await;
    assert!(got.body == [one, two].concat());
    for (name, value) in [
        ("etag", etag.as_str()),
        ("x-oss-object-type", "Multipart"),
        ("content-type", "a/b"),
        ("x-oss-meta-k", "v"),
        ("x-oss-storage-class", "IA"),
        ("content-md5", ""),
        ("x-oss-hash-crc64ecma", done.header("x-oss-hash-crc64ecma")),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    let again = client
        .post(&format!("bkt/dir/key?uploadId={upload}"), &body)
        .await;
    assert_eq!(
        (again.outcome(), again.header("x-oss-ec")),
        (
            (404, "NoSuchUpload".to_owned()),
            ec::NO_SUCH_UPLOAD_COMPLETE
        )
    );
    // A range across the parts.
    let call = client
        .call("GET", "bkt/dir/key")
        .header("range", &format!("bytes={}-{}", PART - 1, PART));
    assert_eq!(call.send().await.body, [1, 2]);
}

#[tokio::test]
async fn completions_are_checked() {
    let (_served, client) = bucket().await;
    let upload = begin(&client, "key").await;
    let small = part(&client, "key", &upload, 1, b"small").await;
    let last = part(&client, "key", &upload, 2, b"last").await;
    let target = format!("bkt/key?uploadId={upload}");
    for (body, status, code) in [
        (
            completion(&[(1, &small), (2, &last)]),
            400,
            "EntityTooSmall",
        ),
        (
            completion(&[(2, &last), (1, &small)]),
            400,
            "InvalidPartOrder",
        ),
        (completion(&[(1, "\"0\"")]), 400, "InvalidPart"),
        (completion(&[(3, &small)]), 400, "InvalidPart"),
        ("<Nonsense/>".to_owned(), 400, "MalformedXML"),
        (String::new(), 400, "MalformedXML"),
    ] {
        let answer = client.post(&target, &body).await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{body}");
    }
    let both = client
        .call("POST", &target)
        .header("x-oss-complete-all", "yes")
        .body(completion(&[]));
    let both = both.send().await;
    assert_eq!(
        (both.outcome(), both.header("x-oss-ec")),
        ((400, "InvalidArgument".to_owned()), "0042-00000216")
    );
    // The upload has survived all of it.
    assert_eq!(
        client.post(&target, completion(&[(2, &last)])).await.status,
        200
    );
    assert_eq!(client.get("bkt/key").await.text(), "last");
}

#[tokio::test]
async fn all_parts_and_no_parts() {
    let (_served, client) = bucket().await;
    let upload = begin(&client, "all").await;
    part(&client, "all", &upload, 3, b"end").await;
    part(&client, "all", &upload, 1, &[b'x'; PART]).await;
    let target = format!("bkt/all?uploadId={upload}");
    let done = client
        .call("POST", &target)
        .header("x-oss-complete-all", "yes")
        .send()
        .await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(client.get("bkt/all").await.body.len(), PART + 3);
    let upload = begin(&client, "none").await;
    let done = client
        .post(&format!("bkt/none?uploadId={upload}"), completion(&[]))
        .await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(client.head("bkt/none").await.header("content-length"), "0");
}

#[tokio::test]
async fn uploads_that_are_not_there() {
    let (_served, client) = bucket().await;
    let upload = begin(&client, "key").await;
    let other = "0".repeat(32);
    for upload in ["x", other.as_str()] {
        for (method, target, ec) in [
            (
                "PUT",
                format!("bkt/key?partNumber=1&uploadId={upload}"),
                "0042-00000104",
            ),
            (
                "POST",
                format!("bkt/key?uploadId={upload}"),
                ec::NO_SUCH_UPLOAD_COMPLETE,
            ),
            (
                "DELETE",
                format!("bkt/key?uploadId={upload}"),
                "0042-00000002",
            ),
            (
                "GET",
                format!("bkt/key?uploadId={upload}"),
                ec::NO_SUCH_UPLOAD_LIST_PARTS,
            ),
        ] {
            let answer = client
                .call(method, &target)
                .body(completion(&[]))
                .send()
                .await;
            assert_eq!(
                (answer.outcome(), answer.header("x-oss-ec")),
                ((404, "NoSuchUpload".to_owned()), ec),
                "{method} {target}"
            );
        }
        let copy = client.call("PUT", &format!("bkt/key?partNumber=1&uploadId={upload}"));
        let answer = copy.header("x-oss-copy-source", "/bkt/key").send().await;
        assert_eq!(answer.header("x-oss-ec"), "0042-00000311");
    }
    // Half of what names a part.
    for (target, expected, ec) in [
        (
            "bkt/key?partNumber=1",
            (404, "NoSuchUpload"),
            "0017-00000244",
        ),
        (
            "bkt/key?partNumber=1&uploadId=",
            (404, "NoSuchUpload"),
            "0017-00000244",
        ),
        (
            &format!("bkt/key?uploadId={upload}"),
            (400, "InvalidArgument"),
            "0017-00000219",
        ),
        (
            &format!("bkt/key?partNumber&uploadId={upload}"),
            (400, "InvalidArgument"),
            "0017-00000219",
        ),
    ] {
        for source in ["", "/bkt/key"] {
            let mut put = client.call("PUT", target).body("x");
            if !source.is_empty() {
                put = put.header("x-oss-copy-source", source);
            }
            let answer = put.send().await;
            let expected = (expected.0, expected.1.to_owned());
            assert_eq!(answer.outcome(), expected, "{target} {source}");
            assert_eq!(answer.header("x-oss-ec"), ec, "{target} {source}");
        }
    }
    // Another key's upload.
    let answer = client
        .put(&format!("bkt/other?partNumber=1&uploadId={upload}"), "x")
        .await;
    assert_eq!(answer.outcome(), (404, "NoSuchUpload".to_owned()));
    for number in ["0", "10001", "x", ""] {
        let answer = client
            .put(
                &format!("bkt/key?partNumber={number}&uploadId={upload}"),
                "x",
            )
            .await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{number}"
        );
    }
    assert_eq!(
        client
            .delete(&format!("bkt/key?uploadId={upload}"))
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .delete(&format!("bkt/key?uploadId={upload}"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn uploads_are_listed() {
    let (_served, client) = bucket().await;
    let mut uploads = Vec::new();
    for key in ["a", "b/1", "b/2", "c", "c"] {
        uploads.push(begin(&client, key).await);
    }
    let all = client.get("bkt?uploads").await;
    assert_eq!(all.elements("Key"), ["a", "b/1", "b/2", "c", "c"]);
    assert_eq!(all.elements("UploadId"), uploads);
    assert_eq!(
        (all.element("MaxUploads"), all.element("IsTruncated")),
        ("1000".into(), "false".into())
    );
    assert_eq!(
        (
            all.element("NextKeyMarker"),
            all.element("NextUploadIdMarker")
        ),
        (String::new(), String::new())
    );
    let grouped = client.get("bkt?uploads&delimiter=/").await;
    assert_eq!(grouped.elements("Key"), ["a", "c", "c"]);
    assert_eq!(grouped.elements("Prefix"), ["", "b/"]);
    let (mut marker, mut seen) = (String::new(), Vec::new());
    loop {
        let page = client
            .get(&format!("bkt?uploads&max-uploads=2{marker}"))
            .await;
        seen.extend(page.elements("UploadId"));
        if page.element("IsTruncated") == "false" {
            break;
        }
        marker = format!(
            "&key-marker={}&upload-id-marker={}",
            page.element("NextKeyMarker"),
            page.element("NextUploadIdMarker")
        );
    }
    assert_eq!(seen, uploads);
    for target in [
        "bkt?uploads&max-uploads=0",
        "bkt?uploads&max-uploads=1001",
        "bkt?uploads&key-marker=a&upload-id-marker=x",
    ] {
        assert_eq!(
            client.get(target).await.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{target}"
        );
    }
}

#[tokio::test]
async fn parts_can_be_copied() {
    let (_served, client) = bucket().await;
    let source: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 253) as u8).collect();
    client.put("bkt/source", &source).await;
    let upload = begin(&client, "key").await;
    let copy = |number: u32, range: &'static str| {
        let call = client.call(
            "PUT",
            &format!("bkt/key?partNumber={number}&uploadId={upload}"),
        );
        let call = call.header("x-oss-copy-source", "/bkt/source");
        if range.is_empty() {
            call
        } else {
            call.header("x-oss-copy-source-range", range)
        }
    };
    let first = copy(1, "bytes=1000-201000").send().await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert!(first.element("LastModified").ends_with(".000Z"));
    assert_eq!(first.header("etag"), first.element("ETag"));
    // A range that does not lie inside means everything.
    let second = copy(2, "bytes=0-9999999").send().await;
    let missing = copy(3, "")
        .header("x-oss-copy-source-if-match", "\"0\"")
        .send()
        .await;
    assert_eq!(missing.outcome(), (412, "PreconditionFailed".to_owned()));
    let body = completion(&[(1, &first.element("ETag")), (2, &second.element("ETag"))]);
    assert_eq!(
        client
            .post(&format!("bkt/key?uploadId={upload}"), &body)
            .await
            .status,
        200
    );
    let got = client.get("bkt/key").await;
    assert!(got.body == [&source[1000..=201_000], &source[..]].concat());
}

#[tokio::test]
async fn completing_can_forbid_overwriting() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "old").await;
    let upload = begin(&client, "key").await;
    let etag = part(&client, "key", &upload, 1, b"new").await;
    let target = format!("bkt/key?uploadId={upload}");
    let forbidding = client
        .call("POST", &target)
        .header("x-oss-forbid-overwrite", "true");
    let answer = forbidding.body(completion(&[(1, &etag)])).send().await;
    assert_eq!(answer.outcome(), (409, "FileAlreadyExists".to_owned()));
    assert_eq!(client.get("bkt/key").await.text(), "old");
    assert_eq!(
        client.post(&target, completion(&[(1, &etag)])).await.status,
        200
    );
    assert_eq!(client.get("bkt/key").await.text(), "new");
}

/// Only parts that come in order make a whole of which anything is known but the tags.
#[tokio::test]
async fn a_sequential_upload_has_the_digest_of_the_whole() {
    let (_served, client) = bucket().await;
    let digest =
        |bytes| base64::engine::general_purpose::STANDARD.encode(Md5::digest(vec![5; bytes]));
    for (query, parts, expected) in [
        ("uploads&sequential", 1, digest(PART).as_str()),
        ("uploads&sequential", 2, digest(2 * PART).as_str()),
        ("uploads&sequential", 3, digest(3 * PART).as_str()),
        ("uploads", 1, ""),
    ] {
        let begun = client.post(&format!("bkt/k?{query}"), "").await;
        let upload = begun.element("UploadId");
        let mut etags = Vec::new();
        for number in 1..=parts {
            etags.push(part(&client, "k", &upload, number, &vec![5; PART]).await);
        }
        let named: Vec<_> = (1..).zip(etags.iter().map(String::as_str)).collect();
        let target = format!("bkt/k?uploadId={upload}");
        let done = client.post(&target, completion(&named)).await;
        assert_eq!(done.header("content-md5"), expected, "{query} {parts}");
        for answer in [client.head("bkt/k").await, client.get("bkt/k").await] {
            assert_eq!(answer.header("content-md5"), expected, "{query} {parts}");
        }
        let copy = client
            .call("PUT", "bkt/copy")
            .header("x-oss-copy-source", "/bkt/k");
        assert_eq!(copy.send().await.status, 200);
        assert_eq!(
            client.head("bkt/copy").await.header("content-md5"),
            expected
        );
    }
}
