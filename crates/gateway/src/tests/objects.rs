//! Operations on objects, over the real metadata service, data path and disk engine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granary_meta_api::pb;
use granary_types::{BucketAcl, Redundancy, StorageClass};
use md5::{Digest as _, Md5};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{Client, Sign, read_answer};
use super::fixture::Served;

async fn bucket() -> (Served, Client) {
    let served = Served::real().await;
    let client = served.client();
    assert_eq!(client.put("bkt", "").await.status, 200);
    (served, client)
}

fn md5_of(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// Bytes that repeat nowhere near a chunk's length.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[tokio::test]
async fn what_is_put_is_got() {
    let (_served, client) = bucket().await;
    // Empty, inline, one chunk, several chunks.
    for length in [0, 5, 16 * 1024, 300_000, 9 * 1024 * 1024 + 7] {
        let body = pattern(length);
        let put = client.put("bkt/key", &body).await;
        assert_eq!(put.status, 200, "{length}: {}", put.text());
        let etag = Md5::digest(&body)
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect::<String>();
        assert_eq!(put.header("etag"), format!("\"{etag}\""));
        assert_eq!(put.header("content-md5"), md5_of(&body));
        let get = client.get("bkt/key").await;
        assert_eq!(get.status, 200);
        assert!(get.body == body, "{length} bytes come back");
        let head = client.head("bkt/key").await;
        for (name, value) in [
            ("content-length", length.to_string()),
            ("etag", format!("\"{etag}\"")),
            ("content-md5", md5_of(&body)),
            ("content-type", "application/octet-stream".to_owned()),
            ("x-oss-object-type", "Normal".to_owned()),
            ("x-oss-storage-class", "Standard".to_owned()),
            (
                "x-oss-hash-crc64ecma",
                put.header("x-oss-hash-crc64ecma").to_owned(),
            ),
            ("accept-ranges", "bytes".to_owned()),
            ("x-oss-version-id", String::new()),
        ] {
            assert_eq!(get.header(name), value, "GET {name}");
            assert_eq!(head.header(name), value, "HEAD {name}");
        }
        assert!(get.header("last-modified").ends_with(" GMT"));
    }
    let put = client.put("bkt/check", "123456789").await;
    assert_eq!(put.header("x-oss-hash-crc64ecma"), "11051210869376104954");
    let meta = client.head("bkt/check?objectMeta").await;
    assert_eq!((meta.status, meta.header("content-length")), (200, "9"));
    assert_eq!(meta.header("x-oss-hash-crc64ecma"), "11051210869376104954");
    assert_eq!(meta.header("content-type"), "");
}

#[tokio::test]
async fn attributes_come_back() {
    let (_served, client) = bucket().await;
    let put = client
        .call("PUT", "bkt/key")
        .header("content-type", "text/plain")
        .header("cache-control", "no-store")
        .header("content-disposition", "attachment")
        .header("content-encoding", "gzip")
        .header("content-language", "zh")
        .header("expires", "Wed, 21 Oct 2037 07:28:00 GMT")
        .header("x-oss-meta-Name", "väl")
        .header("x-oss-tagging", "a=1&b=2")
        .header("x-oss-storage-class", "IA")
        .header("x-oss-persistent-headers", "x-own:djE=")
        .body("12345");
    assert_eq!(put.send().await.status, 200);
    for answer in [client.get("bkt/key").await, client.head("bkt/key").await] {
        for (name, value) in [
            ("content-type", "text/plain"),
            ("cache-control", "no-store"),
            ("content-disposition", "attachment"),
            ("content-encoding", "gzip"),
            ("content-language", "zh"),
            ("expires", "Wed, 21 Oct 2037 07:28:00 GMT"),
            ("x-oss-storage-class", "IA"),
            ("x-oss-tagging-count", "2"),
            ("x-own", "v1"),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        assert_eq!(
            answer.header("x-oss-meta-name").as_bytes(),
            "väl".as_bytes()
        );
    }
    let get = client
        .get("bkt/key?response-content-type=a%2Fb&response-content-disposition=x&response-cache-control=y")
        .await;
    assert_eq!(
        (
            get.header("content-type"),
            get.header("content-disposition")
        ),
        ("a/b", "x")
    );
    assert_eq!(get.header("cache-control"), "y");
    // An overwrite keeps nothing of them.
    client.put("bkt/key", "x").await;
    let head = client.head("bkt/key").await;
    assert_eq!(
        (head.header("cache-control"), head.header("x-oss-meta-name")),
        ("", "")
    );
}

#[tokio::test]
async fn ranges_and_conditions() {
    let (_served, client) = bucket().await;
    let body = pattern(200_000);
    let etag = client.put("bkt/key", &body).await.header("etag").to_owned();
    for (range, standard, status, content_range, bytes) in [
        ("bytes=0-9", false, 206, "bytes 0-9/200000", &body[..10]),
        (
            "bytes=70000-150000",
            false,
            206,
            "bytes 70000-150000/200000",
            &body[70000..=150_000],
        ),
        (
            "bytes=199999-",
            false,
            206,
            "bytes 199999-199999/200000",
            &body[199_999..],
        ),
        (
            "bytes=-5",
            false,
            206,
            "bytes 199995-199999/200000",
            &body[199_995..],
        ),
        ("bytes=5-3", false, 200, "", &body[..]),
        ("bytes=0-200000", false, 200, "", &body[..]),
        (
            "bytes=199990-200000",
            true,
            206,
            "bytes 199990-199999/200000",
            &body[199_990..],
        ),
        ("nonsense", true, 200, "", &body[..]),
    ] {
        let mut call = client.call("GET", "bkt/key").header("range", range);
        if standard {
            call = call.header("x-oss-range-behavior", "standard");
        }
        let answer = call.send().await;
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (status, content_range),
            "{range}"
        );
        assert!(answer.body == bytes, "{range}");
        let md5 = if status == 200 {
            md5_of(&body)
        } else {
            String::new()
        };
        assert_eq!(
            answer.header("content-md5"),
            md5,
            "of the whole object or of nothing"
        );
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
    }
    for (range, behaviour) in [("bytes=-0", "x"), ("bytes=200000-", "standard")] {
        let call = client.call("GET", "bkt/key").header("range", range);
        let answer = call.header("x-oss-range-behavior", behaviour).send().await;
        assert_eq!(
            answer.outcome(),
            (416, "InvalidRange".to_owned()),
            "{range}"
        );
    }
    let (past, future) = (
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 2037 07:28:00 GMT",
    );
    for (name, value, status) in [
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"0\"", 412),
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"0\"", 200),
        ("if-modified-since", past, 200),
        ("if-modified-since", future, 304),
        ("if-unmodified-since", past, 412),
        ("if-unmodified-since", future, 200),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = client
                .call(method, "bkt/key")
                .header(name, value)
                .send()
                .await;
            assert_eq!(answer.status, status, "{method} {name}: {value}");
            match (status, method) {
                (304, _) => assert_eq!(
                    (answer.header("etag"), answer.body.len()),
                    (etag.as_str(), 0)
                ),
                (412, "GET") => assert_eq!(answer.element("Code"), "PreconditionFailed"),
                (412, _) => assert!(!answer.header("x-oss-err").is_empty()),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn digests_and_framing_are_checked() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "old").await;
    let wrong = client
        .call("PUT", "bkt/key")
        .header("content-md5", &md5_of(b"other"))
        .body("new");
    assert_eq!(
        wrong.send().await.outcome(),
        (400, "InvalidDigest".to_owned())
    );
    let large = client
        .call("PUT", "bkt/key")
        .header("content-length", "5368709121");
    assert_eq!(
        large.send().await.outcome(),
        (400, "EntityTooLarge".to_owned())
    );
    // Neither length nor chunks.
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    let head = client.call("GET", "bkt/key").wire_head();
    let anonymous = String::from_utf8(head).unwrap().replacen("GET", "PUT", 1);
    stream.write_all(anonymous.as_bytes()).await.unwrap();
    assert_eq!(
        read_answer(&mut stream, false).await.status,
        403,
        "the method is signed"
    );
    assert_eq!(
        client.get("bkt/key").await.text(),
        "old",
        "what is refused changes nothing"
    );
    let right = client
        .call("PUT", "bkt/key")
        .header("content-md5", &md5_of(b"new"))
        .body("new");
    assert_eq!(right.send().await.status, 200);
    assert_eq!(client.get("bkt/key").await.text(), "new");
}

#[tokio::test]
async fn chunked_and_waiting_uploads() {
    let (_served, client) = bucket().await;
    let head = client
        .call("PUT", "bkt/key")
        .header("transfer-encoding", "chunked")
        .header("expect", "100-continue")
        .wire_head();
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    assert_eq!(read_answer(&mut stream, false).await.status, 100);
    stream
        .write_all(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
        .await
        .unwrap();
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client.get("bkt/key").await.text(), "hello!");
    // The connection can be used again.
    stream
        .write_all(&client.call("GET", "bkt/key").wire_head())
        .await
        .unwrap();
    assert_eq!(read_answer(&mut stream, false).await.text(), "hello!");
}

#[tokio::test]
async fn a_client_that_leaves_changes_nothing() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "old").await;
    for sent in [10, 400_000] {
        let head = client
            .call("PUT", "bkt/key")
            .header("content-length", "500000")
            .wire_head();
        let mut stream = TcpStream::connect(client.address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        stream.write_all(&vec![1; sent]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(client.get("bkt/key").await.text(), "old");
    }
}

#[tokio::test]
async fn overwriting_can_be_forbidden() {
    let (_served, client) = bucket().await;
    let forbidding = |target: &'static str| {
        client
            .call("PUT", target)
            .header("x-oss-forbid-overwrite", "true")
            .body("new")
    };
    assert_eq!(forbidding("bkt/key").send().await.status, 200);
    let refused = forbidding("bkt/key").send().await;
    assert_eq!(refused.outcome(), (409, "FileAlreadyExists".to_owned()));
    let copy = forbidding("bkt/key")
        .body("")
        .header("x-oss-copy-source", "/bkt/key");
    assert_eq!(
        copy.send().await.outcome(),
        (409, "FileAlreadyExists".to_owned())
    );
    let link = forbidding("bkt/key?symlink")
        .body("")
        .header("x-oss-symlink-target", "other");
    assert_eq!(
        link.send().await.outcome(),
        (409, "FileAlreadyExists".to_owned())
    );
    let initiate = |key: &str| {
        client
            .call("POST", &format!("bkt/{key}?uploads"))
            .header("x-oss-forbid-overwrite", "true")
    };
    assert_eq!(
        initiate("key").send().await.outcome(),
        (409, "FileAlreadyExists".to_owned())
    );
    assert_eq!(initiate("free").send().await.status, 200);
    assert_eq!(client.delete("bkt/key").await.status, 204);
    assert_eq!(forbidding("bkt/key").send().await.status, 200);
}

#[tokio::test]
async fn older_spellings_are_understood() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "12345").await;
    let (head, got) = (
        client.head("bkt/key?objectMeta").await,
        client.get("bkt/key?objectMeta").await,
    );
    assert_eq!(
        (head.status, got.status, got.text().as_str()),
        (200, 200, "")
    );
    for name in ["etag", "last-modified"] {
        assert_eq!(got.header(name), head.header(name), "{name}");
    }
    assert_eq!(
        (head.header("content-length"), got.header("content-length")),
        ("5", "5")
    );
    assert_eq!(
        (head.header("connection"), got.header("connection")),
        ("keep-alive", "close")
    );
    let link = client
        .call("PUT", "bkt/link?symlink")
        .header("x-oss-symlink-target", "key");
    assert_eq!(link.send().await.status, 200);
    assert_eq!(client.delete("bkt/link?symlink").await.status, 204);
    assert_eq!(client.get("bkt/link?symlink").await.status, 404);
    assert_eq!(client.get("bkt/key").await.text(), "12345");
}

#[tokio::test]
async fn whoever_wants_no_further_answer_is_told_that_this_was_the_last() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "x").await;
    for (asked, told) in [
        ("close", "close"),
        ("Keep-Alive, Close", "close"),
        ("keep-alive", "keep-alive"),
    ] {
        let call = client.call("GET", "bkt/key").header("connection", asked);
        let answer = call.send().await;
        assert_eq!(answer.header("connection"), told, "{asked}");
    }
}

#[tokio::test]
async fn writes_have_no_conditions() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "x").await;
    let upload = client.post("bkt/up?uploads", "").await.element("UploadId");
    let (part, all) = (
        format!("bkt/up?partNumber=1&uploadId={upload}"),
        format!("bkt/up?uploadId={upload}"),
    );
    let writes = [
        ("PUT", "bkt/key"),
        ("POST", "bkt/log?append&position=0"),
        ("POST", "bkt/log?seal&position=0"),
        ("PUT", "bkt/link?symlink"),
        ("DELETE", "bkt/key"),
        ("POST", "bkt?delete"),
        ("PUT", "bkt/key?acl"),
        ("PUT", "bkt/key?tagging"),
        ("DELETE", "bkt/key?tagging"),
        ("POST", "bkt/up?uploads"),
        ("PUT", &part),
        ("POST", &all),
        ("DELETE", &all),
        ("POST", "bkt/dir?x-oss-dir"),
        ("POST", "bkt/dir?x-oss-rename"),
        ("POST", "bkt/dir?x-oss-delete"),
        ("PUT", "bkt?acl"),
        ("DELETE", "bkt"),
    ];
    let long_ago = "Mon, 01 Jan 2001 00:00:00 GMT";
    for (name, value) in [
        ("If-Match", "\"0\""),
        ("If-None-Match", "*"),
        ("If-Unmodified-Since", long_ago),
        ("If-Modified-Since", long_ago),
    ] {
        for (method, target) in writes {
            if (name, target) == ("If-Modified-Since", "bkt/up?uploads") {
                continue;
            }
            let refused = client.call(method, target).header(name, value).send().await;
            let expected = (400, "NotImplemented".to_owned());
            assert_eq!(refused.outcome(), expected, "{name}: {method} {target}");
            assert_eq!(refused.element("Header"), name);
            assert_eq!(refused.element("EC"), "0017-00000245");
        }
        // A copy's conditions are about its source.
        let copy = client
            .call("PUT", "bkt/copy")
            .header("x-oss-copy-source", "/bkt/key");
        assert_eq!(copy.header(name, value).send().await.status, 200, "{name}");
    }
    assert_eq!(client.get("bkt/key").await.text(), "x");
    let begun = client
        .call("POST", "bkt/up?uploads")
        .header("if-modified-since", long_ago);
    assert_eq!(begun.send().await.status, 200);
    assert_eq!(
        client.put(&part, "x").await.status,
        200,
        "nothing aborted it"
    );
}

#[tokio::test]
async fn deletions() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "x").await;
    assert_eq!(client.delete("bkt/key").await.status, 204);
    assert_eq!(
        client.get("bkt/key").await.outcome(),
        (404, "NoSuchKey".to_owned())
    );
    assert_eq!(
        client.delete("bkt/key").await.status,
        204,
        "what is not there is deleted"
    );
    for key in ["a", "b/c", "d\u{1}e"] {
        client.put(&format!("bkt/{key}"), "x").await;
    }
    let delete = |target: &'static str, xml: &str| {
        client
            .call("POST", target)
            .header("content-md5", &md5_of(xml.as_bytes()))
            .body(xml)
    };
    let xml = "<Delete><Object><Key>a</Key></Object><Object><Key>d&#x1;e</Key></Object>\
               <Object><Key>missing</Key></Object></Delete>";
    let answer = delete("bkt?delete&encoding-type=url", xml).send().await;
    assert_eq!(answer.elements("Key"), ["a", "d%01e", "missing"]);
    let answer = delete(
        "bkt?delete",
        "<Delete><Quiet>true</Quiet><Object><Key>b/c</Key></Object></Delete>",
    );
    let answer = answer.send().await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(client.get("bkt").await.elements("Key").is_empty());
    assert_eq!(
        delete("bkt?delete", "<Delete></Delete>")
            .send()
            .await
            .outcome(),
        (400, "MalformedXML".to_owned())
    );
    assert_eq!(
        client.post("bkt?delete", "<Delete/>").await.outcome(),
        (400, "MissingArgument".to_owned())
    );
    let many: String = (0..1000)
        .map(|i| format!("<Object><Key>k{i}</Key></Object>"))
        .collect();
    let answer = delete("bkt?delete", &format!("<Delete>{many}</Delete>"))
        .send()
        .await;
    assert_eq!(answer.elements("Key").len(), 1000);
}

#[tokio::test]
async fn copies() {
    let (_served, client) = bucket().await;
    assert_eq!(client.put("other", "").await.status, 200);
    let body = pattern(5 * 1024 * 1024);
    let put = client
        .call("PUT", "bkt/source & ü")
        .header("content-type", "a/b")
        .header("x-oss-meta-k", "v")
        .header("x-oss-tagging", "t=1")
        .body(&body);
    let etag = put.send().await.header("etag").to_owned();
    let from = "/bkt/source%20%26%20%C3%BC";
    let copied = client
        .call("PUT", "other/copy")
        .header("x-oss-copy-source", from)
        .send()
        .await;
    assert_eq!(
        (copied.status, copied.element("ETag")),
        (200, etag.clone()),
        "{}",
        copied.text()
    );
    assert!(copied.element("LastModified").ends_with(".000Z"));
    assert_eq!(copied.header("etag"), etag);
    let got = client.get("other/copy").await;
    assert!(got.body == body);
    for (name, value) in [
        ("content-type", "a/b"),
        ("x-oss-meta-k", "v"),
        ("x-oss-tagging-count", "1"),
        ("etag", etag.as_str()),
    ] {
        assert_eq!(got.header(name), value, "{name}");
    }
    assert_eq!(
        got.header("x-oss-hash-crc64ecma"),
        copied.header("x-oss-hash-crc64ecma")
    );
    // A copy outlives its source.
    let replaced = client
        .call("PUT", "bkt/copy")
        .header("x-oss-copy-source", "/other/copy")
        .header("x-oss-metadata-directive", "REPLACE")
        .header("x-oss-tagging-directive", "Replace")
        .header("x-oss-meta-other", "w")
        .send()
        .await;
    assert_eq!(replaced.status, 200);
    client.delete("other/copy").await;
    let got = client.get("bkt/copy").await;
    assert!(got.body == body);
    assert_eq!(
        (got.header("x-oss-meta-k"), got.header("x-oss-meta-other")),
        ("", "w")
    );
    assert_eq!(
        (
            got.header("content-type"),
            got.header("x-oss-tagging-count")
        ),
        ("application/octet-stream", "")
    );
    // Onto itself: new metadata, same bytes.
    let itself = client
        .call("PUT", "bkt/copy")
        .header("x-oss-copy-source", "/bkt/copy")
        .header("x-oss-meta-third", "z");
    assert_eq!(itself.send().await.status, 200);
    let got = client.get("bkt/copy").await;
    assert!(got.body == body);
    assert_eq!(
        (
            got.header("x-oss-meta-other"),
            got.header("x-oss-meta-third")
        ),
        ("", "z")
    );
    for (source, header, value, status, code) in [
        ("/bkt/missing", "x-a", "b", 404, "NoSuchKey"),
        ("/missing/k", "x-a", "b", 404, "NoSuchBucket"),
        ("no-slash", "x-a", "b", 400, "InvalidArgument"),
        (
            "/bkt/copy",
            "x-oss-copy-source-if-match",
            "\"0\"",
            412,
            "PreconditionFailed",
        ),
        (
            "/bkt/copy",
            "x-oss-copy-source-if-none-match",
            etag.as_str(),
            304,
            "",
        ),
        (
            "/bkt/copy",
            "x-oss-metadata-directive",
            "MOVE",
            400,
            "InvalidArgument",
        ),
    ] {
        let copy = client
            .call("PUT", "bkt/target")
            .header("x-oss-copy-source", source);
        let answer = copy.header(header, value).send().await;
        assert_eq!(
            answer.outcome(),
            (status, code.to_owned()),
            "{source} {header}"
        );
    }
}

#[tokio::test]
async fn access_follows_the_lists() {
    let (_served, client) = bucket().await;
    let anonymous = client.signing(Sign::Anonymous);
    client.put("bkt/default", "x").await;
    let open = client
        .call("PUT", "bkt/open")
        .header("x-oss-object-acl", "public-read")
        .body("x");
    open.send().await;
    assert_eq!(anonymous.get("bkt/default").await.status, 403);
    assert_eq!(anonymous.get("bkt/open").await.text(), "x");
    assert_eq!(
        anonymous
            .get("bkt/open?response-content-type=a")
            .await
            .outcome(),
        (400, "InvalidRequest".to_owned())
    );
    assert_eq!(anonymous.put("bkt/open", "y").await.status, 403);
    client
        .call("PUT", "shared")
        .header("x-oss-acl", "public-read-write")
        .send()
        .await;
    assert_eq!(anonymous.put("shared/key", "from nobody").await.status, 200);
    assert_eq!(
        client.get("shared").await.element("ID"),
        "1",
        "the bucket's owner owns it"
    );
    let closed = client
        .call("PUT", "shared/closed")
        .header("x-oss-object-acl", "private")
        .body("x");
    closed.send().await;
    assert_eq!(anonymous.get("shared/key").await.text(), "from nobody");
    assert_eq!(anonymous.get("shared/closed").await.status, 403);
    assert_eq!(
        anonymous.get("shared").await.status,
        403,
        "listing is not reading"
    );
    let copy = anonymous
        .call("PUT", "shared/stolen")
        .header("x-oss-copy-source", "/bkt/default");
    assert_eq!(copy.send().await.status, 403);
    assert_eq!(anonymous.delete("shared/key").await.status, 204);
}

#[tokio::test]
async fn who_may_not_delete_one_of_many_deletes_none() {
    let served = Served::real().await;
    let client = served.client();
    let open = client
        .call("PUT", "open")
        .header("x-oss-acl", "public-read-write");
    assert_eq!(open.send().await.status, 200);
    let names: Vec<_> = (0..3).map(|n| format!("open/{n}")).collect();
    for name in &names {
        client.put(name, "x").await;
    }
    let close = client
        .call("PUT", "open/2?acl")
        .header("x-oss-object-acl", "private");
    assert_eq!(close.send().await.status, 200);
    let objects: String = (0..3)
        .map(|n| format!("<Object><Key>{n}</Key></Object>"))
        .collect();
    let xml = format!("<Delete>{objects}</Delete>");
    let delete_as = |caller: Client| {
        let (digest, xml) = (md5_of(xml.as_bytes()), xml.clone());
        async move {
            caller
                .call("POST", "open?delete")
                .header("content-md5", &digest)
                .body(xml)
                .send()
                .await
        }
    };
    for stranger in [served.other(), client.signing(Sign::Anonymous)] {
        let refused = delete_as(stranger).await;
        assert_eq!(refused.outcome(), (403, "AccessDenied".to_owned()));
        for name in &names {
            assert_eq!(client.head(name).await.status, 200, "{name}");
        }
    }
    assert_eq!(delete_as(client).await.elements("Key"), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_header_that_cannot_be_read_is_not_absent() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "kept").await;
    let overwrite = "x-oss-forbid-overwrite";
    for (name, values, code) in [
        (overwrite, &["tru\u{e9}"][..], "InvalidArgument"),
        (overwrite, &["false", "true"], "InvalidArgument"),
        ("content-md5", &["\u{e9}"], "InvalidDigest"),
        ("content-disposition", &["\u{e9}"], "InvalidArgument"),
    ] {
        let mut call = client.call("PUT", "bkt/key");
        for value in values {
            call = call.header_line(name, value);
        }
        let answer = call.body("lost").send().await;
        assert_eq!(answer.outcome(), (400, code.to_owned()), "{name}");
    }
    let read = client.call("GET", "bkt/key");
    let answer = read.header_line("if-match", "\u{e9}").send().await;
    assert_eq!(answer.outcome(), (400, "InvalidArgument".to_owned()));
    let read = client.call("GET", "bkt/key");
    let answer = read.header_line("user-agent", "\u{e9}").send().await;
    assert_eq!(answer.text(), "kept");
}

#[tokio::test]
async fn versions_of_a_bucket_without_versioning() {
    let (_served, client) = bucket().await;
    client.put("bkt/key", "x").await;
    assert_eq!(client.get("bkt/key?versionId=null").await.text(), "x");
    let stamp = "0".repeat(63) + "1";
    assert_eq!(
        client
            .get(&format!("bkt/key?versionId={stamp}"))
            .await
            .outcome(),
        (404, "NoSuchVersion".to_owned())
    );
    // An id that was forgotten is not the current version.
    for (id, ec) in [("x", "0012-00000202"), ("", "0012-00000201")] {
        let target = format!("bkt/key?versionId={id}");
        for answer in [client.get(&target).await, client.delete(&target).await] {
            assert_eq!(answer.outcome(), (400, "InvalidArgument".to_owned()));
            assert_eq!(answer.header("x-oss-ec"), ec);
        }
    }
    let forgotten = "<Delete><Object><Key>key</Key><VersionId></VersionId></Object></Delete>";
    let many = client
        .call("POST", "bkt?delete")
        .header("content-md5", &md5_of(forgotten.as_bytes()))
        .body(forgotten);
    let many = many.send().await;
    assert_eq!(many.outcome(), (400, "InvalidArgument".to_owned()));
    assert_eq!(many.header("x-oss-ec"), "0016-00000612");
    assert_eq!(client.get("bkt/key").await.text(), "x");
    assert_eq!(client.delete("bkt/key?versionId=null").await.status, 204);
    assert_eq!(client.get("bkt/key").await.status, 404);
}

#[tokio::test]
async fn names_are_bytes() {
    let (_served, client) = bucket().await;
    let longest = "k".repeat(1023);
    for key in [
        "a//b",
        "./..",
        "a%2Fb",
        "a+b c",
        "中文/😀",
        "\u{1}\u{1f}",
        longest.as_str(),
    ] {
        assert_eq!(
            client.put(&format!("bkt/{key}"), key).await.status,
            200,
            "{key:?}"
        );
        assert_eq!(
            client.get(&format!("bkt/{key}")).await.text(),
            key,
            "{key:?}"
        );
    }
    let too_long = "k".repeat(1024);
    for key in ["/a", "\\a", too_long.as_str()] {
        let answer = client.put(&format!("bkt/{key}"), "x").await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidObjectName".to_owned()),
            "{key:?}"
        );
    }
}

#[tokio::test]
async fn an_overwrite_does_not_disturb_readers() {
    let (_served, client) = bucket().await;
    let body = pattern(12 * 1024 * 1024);
    client.put("bkt/key", &body).await;
    let mut stream = TcpStream::connect(client.address).await.unwrap();
    stream
        .write_all(&client.call("GET", "bkt/key").wire_head())
        .await
        .unwrap();
    client.put("bkt/key", "new").await;
    let answer = read_answer(&mut stream, false).await;
    assert!(
        answer.body == body || answer.text() == "new",
        "one version or the other"
    );
    assert_eq!(client.get("bkt/key").await.text(), "new");
}

#[tokio::test]
async fn versions_of_a_bucket_with_versioning() {
    let served = Served::real().await;
    let client = served.client();
    // No operation switches versioning on yet; the records know it.
    let bucket = pb::state::Bucket {
        name: "kept".to_owned(),
        owner: 1,
        storage_class: StorageClass::Standard.number(),
        redundancy: Redundancy::Lrs.number(),
        acl: BucketAcl::Private.number(),
        versioning: 1,
        ..Default::default()
    };
    let create = pb::CreateBucket {
        bucket: Some(bucket),
        ..Default::default()
    };
    served.meta.create_bucket(create).await.unwrap().unwrap();
    let put = |body: &'static str| client.call("PUT", "kept/key").body(body).send();
    let first = put("first").await.header("x-oss-version-id").to_owned();
    // Overwriting is never forbidden where nothing is lost.
    let call = client
        .call("PUT", "kept/key")
        .header("x-oss-forbid-overwrite", "true");
    let second = call
        .body("second")
        .send()
        .await
        .header("x-oss-version-id")
        .to_owned();
    assert_eq!((first.len(), second.len()), (64, 64));
    assert!(first < second);
    let current = client.get("kept/key").await;
    assert_eq!(
        (current.text(), current.header("x-oss-version-id")),
        ("second".into(), second.as_str())
    );
    let old = format!("kept/key?versionId={first}");
    assert_eq!(client.get(&old).await.text(), "first");
    assert_eq!(client.head(&old).await.header("x-oss-version-id"), first);
    let copy = client
        .call("PUT", "kept/copy")
        .header("x-oss-copy-source", &format!("/kept/key?versionId={first}"));
    let copy = copy.send().await;
    assert_eq!(copy.header("x-oss-copy-source-version-id"), first);
    assert_eq!(copy.header("x-oss-version-id").len(), 64);
    assert_eq!(client.get("kept/copy").await.text(), "first");
    // A deletion puts a marker on top.
    let deleted = client.delete("kept/key").await;
    assert_eq!(
        (deleted.status, deleted.header("x-oss-delete-marker")),
        (204, "true")
    );
    let marker = deleted.header("x-oss-version-id").to_owned();
    let gone = client.get("kept/key").await;
    assert_eq!(
        (gone.outcome(), gone.header("x-oss-delete-marker")),
        ((404, "NoSuchKey".to_owned()), "true")
    );
    assert_eq!(gone.header("x-oss-version-id"), marker);
    let named = client.get(&format!("kept/key?versionId={marker}")).await;
    assert_eq!(
        (named.outcome(), named.header("x-oss-ec")),
        ((405, "MethodNotAllowed".to_owned()), "0003-00000016")
    );
    let copy = client
        .call("PUT", "kept/copy")
        .header("x-oss-copy-source", "/kept/key")
        .send()
        .await;
    assert_eq!(copy.outcome(), (404, "NoSuchKey".to_owned()));
    // Removing the marker brings the object back.
    let removed = client.delete(&format!("kept/key?versionId={marker}")).await;
    assert_eq!(
        (
            removed.header("x-oss-delete-marker"),
            removed.header("x-oss-version-id")
        ),
        ("true", marker.as_str())
    );
    assert_eq!(client.get("kept/key").await.text(), "second");
    let removed = client.delete(&format!("kept/key?versionId={second}")).await;
    assert_eq!(
        (removed.status, removed.header("x-oss-delete-marker")),
        (204, "")
    );
    assert_eq!(client.get("kept/key").await.text(), "first");
    let xml = format!(
        "<Delete><Object><Key>key</Key><VersionId>{first}</VersionId></Object><Object><Key>copy</Key></Object></Delete>"
    );
    let many = client
        .call("POST", "kept?delete")
        .header("content-md5", &md5_of(xml.as_bytes()))
        .body(&xml);
    let many = many.send().await;
    assert_eq!(many.elements("VersionId"), [first]);
    assert_eq!(many.elements("DeleteMarker"), ["true"]);
    assert_eq!(many.element("DeleteMarkerVersionId").len(), 64);
    assert_eq!(client.get("kept/key").await.status, 404);
}

#[tokio::test]
async fn a_bucket_that_was_made_again_keeps_its_own_objects_private() {
    // This gateway sees the bucket as it was; another one deletes it and makes it again.
    let served = Served::real_with(|config| config.bucket_view_ms = 3_600_000).await;
    let beside = served.beside().await;
    let (stranger, owner) = (served.client().signing(Sign::Anonymous), beside.client());
    let open = || {
        let create = owner.call("PUT", "open");
        create.header("x-oss-acl", "public-read-write").send()
    };
    assert_eq!(open().await.status, 200);
    assert_eq!(stranger.get("open/key").await.status, 404);
    assert_eq!(owner.delete("open").await.status, 204);
    assert_eq!(open().await.status, 200);
    let private = owner.call("PUT", "open/key");
    let private = private.header("x-oss-object-acl", "private").body("mine");
    assert_eq!(private.send().await.status, 200);
    let xml = "<Delete><Object><Key>key</Key></Object></Delete>";
    let delete = stranger
        .call("POST", "open?delete")
        .header("content-md5", &md5_of(xml.as_bytes()))
        .body(xml);
    assert_eq!(
        delete.send().await.outcome(),
        (403, "AccessDenied".to_owned())
    );
    assert_eq!(owner.get("open/key").await.text(), "mine");
}
