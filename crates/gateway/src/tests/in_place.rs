//! Copies of an object onto itself: other metadata, the same bytes where they are.

use granary_meta_api::pb;
use granary_oss::ErrorCode;

use super::client::{Answer, Client};
use super::fixture::Served;
use crate::failure::of_rejection;

const LARGE: usize = 300_000;

/// A bucket with a large object; a client, and one of a gateway that reaches no disk.
async fn stocked() -> (Served, Served, Client, Client) {
    let served = Served::real().await;
    let beside = served.beside().await;
    let (client, diskless) = (served.client(), beside.client());
    assert_eq!(client.put("bkt", "").await.status, 200);
    let put = client
        .call("PUT", "bkt/k")
        .header("content-type", "a/b")
        .header("x-oss-meta-old", "1")
        .header("x-oss-tagging", "kept=1")
        .header("x-oss-object-acl", "public-read")
        .body(vec![7; LARGE]);
    assert_eq!(put.send().await.status, 200);
    (served, beside, client, diskless)
}

async fn copy(client: &Client, headers: &[(&'static str, &str)]) -> Answer {
    let mut call = client
        .call("PUT", "bkt/k")
        .header("x-oss-copy-source", "/bkt/k");
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

async fn versioning(client: &Client, status: &str) {
    let body =
        format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    assert_eq!(client.put("bkt?versioning", body).await.status, 200);
}

#[tokio::test]
async fn no_byte_is_moved_for_other_metadata() {
    let (_served, _beside, client, diskless) = stocked().await;
    let before = client.head("bkt/k").await;
    let copied = copy(
        &diskless,
        &[("content-type", "c/d"), ("x-oss-meta-new", "2")],
    )
    .await;
    assert_eq!(copied.status, 200, "{}", copied.text());
    assert_eq!(copied.element("ETag"), before.header("etag"));
    assert_eq!(copied.header("etag"), before.header("etag"));
    let after = client.get("bkt/k").await;
    assert!(after.body == vec![7; LARGE]);
    for (name, value) in [
        ("content-type", "c/d"),
        ("x-oss-meta-new", "2"),
        ("x-oss-meta-old", ""),
        ("x-oss-tagging-count", "1"),
        ("etag", before.header("etag")),
        ("content-md5", before.header("content-md5")),
        (
            "x-oss-hash-crc64ecma",
            before.header("x-oss-hash-crc64ecma"),
        ),
        ("x-oss-object-type", "Normal"),
    ] {
        assert_eq!(after.header(name), value, "{name}");
    }
    let acl = client.get("bkt/k?acl").await;
    assert_eq!(acl.element("Grant"), "default", "as of any write");
    // What names no metadata keeps what there is.
    assert_eq!(copy(&diskless, &[]).await.status, 200);
    assert_eq!(client.head("bkt/k").await.header("content-type"), "c/d");
    let tagged = [
        ("x-oss-tagging-directive", "Replace"),
        ("x-oss-tagging", "a=1&b=2"),
        ("x-oss-object-acl", "private"),
    ];
    assert_eq!(copy(&diskless, &tagged).await.status, 200);
    assert_eq!(
        client.get("bkt/k?tagging").await.elements("Key"),
        ["a", "b"]
    );
    assert_eq!(client.get("bkt/k?acl").await.element("Grant"), "private");
}

#[tokio::test]
async fn an_upload_keeps_its_type_and_tag() {
    let (_served, _beside, client, diskless) = stocked().await;
    let upload = client.post("bkt/k?uploads", "").await.element("UploadId");
    let mut parts = String::new();
    for number in [1, 2] {
        let target = format!("bkt/k?partNumber={number}&uploadId={upload}");
        let etag = client.put(&target, vec![number; LARGE]).await;
        parts.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
            etag.header("etag")
        ));
    }
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let target = format!("bkt/k?uploadId={upload}");
    let etag = client.post(&target, body).await.element("ETag");
    assert!(etag.ends_with("-2\""), "{etag}");
    let copied = copy(&diskless, &[("x-oss-meta-new", "2")]).await;
    assert_eq!((copied.status, copied.element("ETag")), (200, etag));
    let head = client.head("bkt/k").await;
    assert_eq!(head.header("x-oss-object-type"), "Multipart");
    assert_eq!(client.get("bkt/k").await.body.len(), 2 * LARGE);
}

#[tokio::test]
async fn conditions_and_refusals_hold() {
    let (_served, _beside, client, diskless) = stocked().await;
    let etag = client.head("bkt/k").await.header("etag").to_owned();
    for (headers, status, code) in [
        (
            &[("x-oss-copy-source-if-match", "\"0\"")][..],
            412,
            "PreconditionFailed",
        ),
        (
            &[("x-oss-copy-source-if-none-match", etag.as_str())],
            304,
            "NotModified",
        ),
        (
            &[("x-oss-forbid-overwrite", "true")],
            409,
            "FileAlreadyExists",
        ),
        (&[("x-oss-object-acl", "open")], 400, "InvalidArgument"),
    ] {
        let refused = copy(&diskless, headers).await;
        assert_eq!(refused.status, status, "{headers:?}");
        if status != 304 {
            assert_eq!(refused.element("Code"), code, "{headers:?}");
        }
    }
    let unchanged = client.head("bkt/k").await;
    assert_eq!(unchanged.header("x-oss-meta-old"), "1");
    // A copy's conditions are about its source; plain ones mean nothing to it.
    let allowed = [
        ("x-oss-copy-source-if-match", &*etag),
        ("if-match", "\"0\""),
    ];
    assert_eq!(copy(&diskless, &allowed).await.status, 200);
}

/// Where the object is.
async fn position(served: &Served) -> pb::Position {
    let query = pb::GetBucket {
        name: "bkt".to_owned(),
        configs: Vec::new(),
    };
    let bucket = served.meta.query(query).await.unwrap().bucket.unwrap();
    pb::Position {
        bucket_id: bucket.id,
        key: "k".into(),
        generation: bucket.generation,
    }
}

/// Two changes that are each checked against what they saw, and together are more than a record holds:
/// the shard refuses the second one, which is told to its client like any metadata that is too large.
#[tokio::test]
async fn what_is_too_much_together_is_the_clients() {
    let (served, _beside, client, diskless) = stocked().await;
    let (disposition, meta) = ("d".repeat(5_900), "m".repeat(8_000));
    let large = [
        ("content-disposition", disposition.as_str()),
        ("x-oss-meta-a", &meta),
        ("x-oss-tagging-directive", "Replace"),
        ("x-oss-metadata-directive", "REPLACE"),
    ];
    assert_eq!(copy(&diskless, &large).await.status, 200);
    // As PutObjectTagging proposes it that saw the object before.
    let tags = (0..10).map(|n| pb::state::Tag {
        key: format!("{n}{}", "k".repeat(127)),
        value: "v".repeat(256),
    });
    let decision = served.meta.propose(pb::SetObjectTags {
        at: Some(position(&served).await),
        tags: tags.collect(),
        ..Default::default()
    });
    let error = of_rejection(&decision.await.unwrap().unwrap_err());
    assert_eq!(error.code(), ErrorCode::MetadataTooLarge, "{error:?}");
    assert_eq!(client.get("bkt/k?tagging").await.elements("Key").len(), 0);
}

/// The name of the object's bytes: another one when they were copied.
async fn bytes_of(served: &Served) -> Vec<u8> {
    let query = pb::GetVersion {
        at: Some(position(served).await),
        ..Default::default()
    };
    let found = served.meta.query(query).await.unwrap();
    found.version.unwrap().object_id.to_vec()
}

#[tokio::test]
async fn what_keeps_the_old_object_copies_its_bytes() {
    let (served, _beside, client, diskless) = stocked().await;
    let first = bytes_of(&served).await;
    for class in ["IA", "Standard"] {
        let copied = copy(&client, &[("x-oss-storage-class", class)]).await;
        assert_eq!(copied.status, 200);
        let head = client.head("bkt/k").await;
        assert_eq!(head.header("x-oss-storage-class"), class);
    }
    let second = bytes_of(&served).await;
    assert_ne!(first, second);
    let versions = async || client.get("bkt?versions").await.elements("VersionId");

    versioning(&client, "Enabled").await;
    let copied = copy(&client, &[("x-oss-meta-v", "2")]).await;
    assert_eq!(copied.header("x-oss-version-id").len(), 64);
    assert_eq!(versions().await.len(), 2);
    let third = bytes_of(&served).await;
    assert_ne!(second, third);

    versioning(&client, "Suspended").await;
    // The current one is no null version: this makes one, in place of the one that there was.
    let copied = copy(&client, &[("x-oss-meta-v", "3")]).await;
    assert_eq!(copied.header("x-oss-version-id"), "null");
    let fourth = bytes_of(&served).await;
    assert_ne!(third, fourth);
    let copied = copy(&diskless, &[("x-oss-meta-v", "4")]).await;
    assert_eq!(
        (copied.status, copied.header("x-oss-version-id")),
        (200, "null")
    );
    assert_eq!(fourth, bytes_of(&served).await, "the null version stays");
    let list = versions().await;
    assert_eq!((list.len(), list[0].as_str()), (2, "null"));
    assert_eq!(client.head("bkt/k").await.header("x-oss-meta-v"), "4");
}

#[tokio::test]
async fn a_link_onto_itself_stays_a_link() {
    let (_served, _beside, client, diskless) = stocked().await;
    let link = client
        .call("PUT", "bkt/link?symlink")
        .header("x-oss-symlink-target", "k");
    assert_eq!(link.send().await.status, 200);
    let copied = diskless
        .call("PUT", "bkt/link")
        .header("x-oss-copy-source", "/bkt/link")
        .header("x-oss-meta-new", "2");
    assert_eq!(copied.send().await.status, 200);
    let read = client.get("bkt/link?symlink").await;
    assert_eq!(
        (
            read.header("x-oss-symlink-target"),
            read.header("x-oss-meta-new")
        ),
        ("k", "2")
    );
}

#[tokio::test]
async fn an_object_in_a_directory_is_changed_where_it_is() {
    let (_served, _beside, client, diskless) = stocked().await;
    let bucket = client
        .call("PUT", "tree")
        .header("x-oss-hns-status", "enabled");
    assert_eq!(bucket.send().await.status, 200);
    client.put("tree/a/k", vec![7; LARGE]).await;
    let rename = client
        .call("POST", "tree/b?x-oss-rename")
        .header("x-oss-rename-source", "a");
    assert_eq!(rename.send().await.status, 200);
    let copy = diskless
        .call("PUT", "tree/b/k")
        .header("x-oss-copy-source", "/tree/b/k")
        .header("content-type", "c/d");
    let copied = copy.send().await;
    assert_eq!(copied.status, 200, "{}", copied.text());
    let after = client.get("tree/b/k").await;
    assert!(after.body == vec![7; LARGE]);
    assert_eq!(after.header("content-type"), "c/d");
}
