//! Buckets with a hierarchical namespace, over the real metadata service.

use super::client::{Answer, Client, Sign};
use super::fixture::Served;

async fn with_bucket(name: &str) -> Served {
    let served = Served::real().await;
    assert_eq!(create(&served.client(), name, "enabled").await.status, 200);
    served
}

async fn create(client: &Client, bucket: &str, status: &str) -> Answer {
    let call = client.call("PUT", bucket);
    call.header("x-oss-hns-status", status).send().await
}

async fn mkdir(client: &Client, target: &str) -> Answer {
    client.post(&format!("{target}?x-oss-dir"), "").await
}

async fn rename(client: &Client, source: &str, target: &str) -> Answer {
    let target = format!("{target}?x-oss-rename");
    let call = client.call("POST", &target);
    call.header("x-oss-rename-source", source).send().await
}

async fn rmdir(client: &Client, target: &str, headers: &[(&str, &str)]) -> Answer {
    let target = format!("{target}?x-oss-delete");
    let mut call = client.call("POST", &target);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

/// Of no bytes; what is refused by name is refused before its body is read.
const EMPTY_MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn a_bucket_is_made_with_directories_or_without() {
    let served = with_bucket("hns").await;
    let client = served.client();
    let shown = "HierarchicalNamespace";
    let info = client.get("hns?bucketInfo").await;
    assert_eq!(info.element(shown), "Enabled");
    assert_eq!(create(&client, "flat", "disabled").await.status, 200);
    assert_eq!(client.get("").await.elements(shown), ["Enabled"]);
    // Again, with and without saying which; but never the other.
    for (bucket, status) in [("hns", "enabled"), ("flat", "disabled")] {
        assert_eq!(create(&client, bucket, status).await.status, 200);
        assert_eq!(client.put(bucket, "").await.status, 200);
    }
    for (bucket, status) in [("hns", "disabled"), ("flat", "enabled")] {
        let answer = create(&client, bucket, status).await;
        assert_eq!(answer.outcome(), refused(409, "BucketAlreadyExists"));
    }
    let unknown = create(&client, "third", "maybe").await;
    assert_eq!(unknown.outcome(), refused(400, "InvalidArgument"));
    for answer in [
        mkdir(&client, "flat/d").await,
        rename(&client, "a", "flat/b").await,
        rmdir(&client, "flat/d", &[]).await,
    ] {
        assert_eq!(answer.outcome(), refused(400, "InvalidArgument"));
        assert_eq!(
            answer.element("Message"),
            "Hierarchical namespace is disabled."
        );
    }
}

#[tokio::test]
async fn a_directory_is_shown_as_one() {
    let served = with_bucket("shown").await;
    let client = served.client();
    let made = mkdir(&client, "shown/a/b").await;
    assert_eq!(made.status, 200);
    assert!(made.header("last-modified").ends_with("GMT"));
    assert_eq!(mkdir(&client, "shown/a/b").await.status, 200);
    client.put("shown/a/b/c", "123").await;
    for target in ["shown/a/b", "shown/a/b/"] {
        for answer in [client.head(target).await, client.get(target).await] {
            assert_eq!(answer.status, 200, "{target}");
            assert_eq!(answer.header("content-type"), "application/x-directory");
            assert_eq!(
                (answer.header("content-length"), answer.header("etag")),
                ("0", "")
            );
            assert!(answer.body.is_empty());
        }
    }
    let list = client.get("shown").await;
    assert_eq!(list.elements("Key"), ["a/", "a/b/", "a/b/c"]);
    assert_eq!(&list.elements("ETag")[..2], ["", ""]);
    let grouped = client.get("shown?delimiter=/&prefix=a/").await;
    assert_eq!(grouped.elements("Key"), ["a/"]);
    // Its own prefix comes first.
    assert_eq!(grouped.elements("Prefix"), ["a/", "a/b/"]);
    let acl = client.get("shown/a?acl").await;
    assert_eq!(acl.outcome(), refused(409, "FileAlreadyExists"));
    for (method, target) in [
        ("PUT", "shown/a"),
        ("PUT", "shown/a/b/c/d"),
        ("POST", "shown/a/b/c?x-oss-dir"),
    ] {
        let answer = client.call(method, target).send().await;
        assert_eq!(
            answer.outcome(),
            refused(409, "FileAlreadyExists"),
            "{target}"
        );
    }
    for target in ["shown/a//b", "shown/x/?uploads"] {
        let method = if target.contains('?') { "POST" } else { "PUT" };
        let answer = client.call(method, target).send().await;
        assert_eq!(
            answer.outcome(),
            refused(400, "InvalidObjectName"),
            "{target}"
        );
    }
    assert_eq!(client.get("shown/a//b").await.status, 404);
    let copy = client
        .call("PUT", "shown/copy")
        .header("x-oss-copy-source", "/shown/a/b");
    assert_eq!(
        copy.send().await.outcome(),
        refused(409, "FileAlreadyExists")
    );
    let bytes = client.post("shown/e?x-oss-dir", "bytes").await;
    assert_eq!(bytes.outcome(), refused(400, "InvalidArgument"));
    // As tools make and remove them that know no other way.
    assert_eq!(client.put("shown/tool/", "").await.status, 200);
    assert_eq!(
        client.head("shown/tool").await.header("content-type"),
        "application/x-directory"
    );
    assert_eq!(client.delete("shown/tool/").await.status, 204);
    assert_eq!(
        client.delete("shown/a").await.outcome(),
        refused(409, "FileAlreadyExists")
    );
    assert_eq!(
        client.delete("shown").await.outcome(),
        refused(409, "BucketNotEmpty")
    );
}

#[tokio::test]
async fn a_directory_keeps_no_attributes_and_says_so() {
    let served = with_bucket("plain").await;
    let client = served.client();
    let source = client.call("PUT", "plain/source");
    let source = source.header("x-oss-meta-a", "1").send().await;
    assert_eq!(source.status, 200);
    for (name, value) in [
        ("x-oss-object-acl", "private"),
        ("x-oss-meta-a", "1"),
        ("x-oss-tagging", "a=1"),
        // What is copied has metadata.
        ("x-oss-copy-source", "/plain/source"),
    ] {
        let put = client.call("PUT", "plain/d/").header(name, value);
        assert_eq!(
            put.send().await.outcome(),
            refused(501, "NotImplemented"),
            "{name}"
        );
        assert_eq!(client.head("plain/d").await.status, 404);
    }
    let put = client
        .call("PUT", "plain/d/")
        .header("x-oss-object-acl", "default")
        .header("content-type", "text/plain");
    assert_eq!(put.send().await.status, 200);
    assert_eq!(
        client.head("plain/d").await.header("content-type"),
        "application/x-directory"
    );
}

#[tokio::test]
async fn objects_and_directories_are_renamed() {
    let served = with_bucket("renames").await;
    let client = served.client();
    let large = vec![7; 100_000];
    client.put("renames/d/small", "123").await;
    client.put("renames/d/large", &large).await;
    assert_eq!(mkdir(&client, "renames/to").await.status, 200);
    assert_eq!(rename(&client, "d", "renames/to/e").await.status, 200);
    assert_eq!(client.get("renames/to/e/small").await.text(), "123");
    assert_eq!(client.get("renames/to/e/large").await.body, large);
    assert_eq!(
        client.get("renames/d/small").await.outcome(),
        refused(404, "NoSuchKey")
    );
    // As the Java SDK sends it.
    let name = "to/e/#+<>中文";
    client.put(&format!("renames/{name}"), "1234").await;
    let encoded = "to%2Fe%2F%23%2B%3C%3E%E4%B8%AD%E6%96%87";
    assert_eq!(rename(&client, encoded, "renames/plain").await.status, 200);
    assert_eq!(client.get("renames/plain").await.text(), "1234");
    for (source, target, status, code) in [
        ("none", "x", 404, "NoSuchKey"),
        ("to/none", "none/x", 404, "NoSuchKey"),
        ("plain", "none/x", 404, "NoSuchKey"),
        ("plain", "to", 409, "FileAlreadyExists"),
        ("to", "plain", 409, "FileAlreadyExists"),
        ("to", "to/e/f", 400, "InvalidObjectName"),
        ("to", "x//y", 400, "InvalidObjectName"),
    ] {
        let answer = rename(&client, source, &format!("renames/{target}")).await;
        assert_eq!(
            answer.outcome(),
            refused(status, code),
            "{source} to {target}"
        );
        // A key that is missing, and not one that is there.
        let named = match source {
            "none" | "to/none" => source,
            _ => target,
        };
        assert_eq!(answer.element("Key"), named, "{source} to {target}");
    }
    let unnamed = client.post("renames/x?x-oss-rename", "").await;
    assert_eq!(unnamed.outcome(), refused(400, "InvalidArgument"));
    for stranger in [served.other(), client.signing(Sign::Anonymous)] {
        assert_eq!(
            rename(&stranger, "plain", "renames/stolen").await.status,
            403
        );
        assert_eq!(rmdir(&stranger, "renames/to", &[]).await.status, 403);
        assert_eq!(mkdir(&stranger, "renames/new").await.status, 403);
    }
    // The V1 signature covers the parameter that makes it a rename.
    let v1 = client.signing(Sign::V1);
    assert_eq!(rename(&v1, "plain", "renames/signed").await.status, 200);
}

#[tokio::test]
async fn directories_are_deleted_in_steps() {
    let served = with_bucket("deleting").await;
    let client = served.client();
    mkdir(&client, "deleting/test-dir").await;
    for n in 0..100 {
        client
            .put(&format!("deleting/test-dir/obj-{n}"), "123")
            .await;
    }
    let dir = "deleting/test-dir";
    let full = rmdir(&client, dir, &[]).await;
    assert_eq!(full.outcome(), refused(409, "FileAlreadyExists"));
    let recursive = ("x-oss-delete-recursive", "true");
    let first = rmdir(&client, dir, &[recursive]).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.element("DirectoryName"), "test-dir");
    assert_eq!(first.element("DeleteNumber"), "100");
    let token = first.element("NextDeleteToken");
    let last = rmdir(&client, dir, &[recursive, ("x-oss-delete-token", &token)]).await;
    assert_eq!(last.element("DeleteNumber"), "1");
    assert!(!last.text().contains("NextDeleteToken"));
    let gone = rmdir(&client, dir, &[recursive]).await;
    assert_eq!(gone.outcome(), refused(404, "NoSuchKey"));
    mkdir(&client, dir).await;
    let late = rmdir(&client, dir, &[recursive, ("x-oss-delete-token", &token)]).await;
    assert_eq!(late.outcome(), refused(404, "NoSuchKey"));
    let forged = rmdir(&client, dir, &[recursive, ("x-oss-delete-token", "?")]).await;
    assert_eq!(forged.outcome(), refused(400, "InvalidArgument"));
    assert_eq!(rmdir(&client, dir, &[]).await.element("DeleteNumber"), "1");
    assert_eq!(client.delete("deleting").await.status, 204);
}

#[tokio::test]
async fn only_the_owner_deletes_what_is_in_a_directory() {
    let served = Served::real().await;
    let client = served.client();
    let open = client
        .call("PUT", "open")
        .header("x-oss-hns-status", "enabled")
        .header("x-oss-acl", "public-read-write");
    assert_eq!(open.send().await.status, 200);
    let secret = client
        .call("PUT", "open/d/secret")
        .header("x-oss-object-acl", "private")
        .body("secret");
    assert_eq!(secret.send().await.status, 200);
    let recursive = ("x-oss-delete-recursive", "true");
    for stranger in [served.other(), client.signing(Sign::Anonymous)] {
        assert_eq!(stranger.delete("open/d/secret").await.status, 403);
        let answer = rmdir(&stranger, "open/d", &[recursive]).await;
        assert_eq!(answer.outcome(), refused(403, "AccessDenied"));
        assert_eq!(client.get("open/d/secret").await.text(), "secret");
        // An empty directory has nothing of its own.
        assert_eq!(mkdir(&stranger, "open/empty").await.status, 200);
        assert_eq!(rmdir(&stranger, "open/empty", &[]).await.status, 200);
    }
    let all = rmdir(&client, "open/d", &[recursive]).await;
    assert_eq!(all.element("DeleteNumber"), "2");
}

#[tokio::test]
async fn what_the_service_lacks_there_is_refused_by_name() {
    let served = with_bucket("lacking").await;
    let client = served.client();
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    for (method, target, body, name) in [
        (
            "PUT",
            "lacking?versioning",
            versioning,
            "PutBucketVersioning",
        ),
        ("GET", "lacking?versioning", "", "GetBucketVersioning"),
        ("GET", "lacking?versions", "", "ListObjectVersions"),
        ("GET", "lacking?cors", "", "GetBucketCors"),
        (
            "POST",
            "lacking?delete",
            "<Delete></Delete>",
            "DeleteMultipleObjects",
        ),
        ("GET", "lacking/k?symlink", "", "GetSymlink"),
        ("POST", "lacking/k?append&position=0", "", "AppendObject"),
    ] {
        let call = client.call(method, target).body(body);
        let answer = call.header("content-md5", EMPTY_MD5).send().await;
        assert_eq!(answer.outcome(), refused(501, "NotImplemented"), "{name}");
        assert!(
            answer.element("Message").contains(name),
            "{}",
            answer.text()
        );
    }
    // Tags, ACLs, copies and uploads in parts are there.
    client.put("lacking/a/k", "123").await;
    let copy = client
        .call("PUT", "lacking/b/k")
        .header("x-oss-copy-source", "/lacking/a/k");
    assert_eq!(copy.send().await.status, 200);
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    assert_eq!(client.put("lacking/b/k?tagging", tags).await.status, 200);
    assert_eq!(
        client.get("lacking/b/k?tagging").await.elements("Key"),
        ["a"]
    );
    assert_eq!(
        client.put("lacking/b?tagging", tags).await.outcome(),
        refused(409, "FileAlreadyExists")
    );
    let begun = client.post("lacking/c/d/big?uploads", "").await;
    let upload = begun.element("UploadId");
    let part = format!("lacking/c/d/big?partNumber=1&uploadId={upload}");
    assert_eq!(client.put(&part, "tail").await.status, 200);
    assert_eq!(rename(&client, "c/d", "lacking/e").await.status, 200);
    assert_eq!(
        client.get("lacking?uploads").await.elements("Key"),
        ["e/big"]
    );
    let complete = client.call("POST", &format!("lacking/e/big?uploadId={upload}"));
    let complete = complete.header("x-oss-complete-all", "yes").send().await;
    assert_eq!(complete.status, 200, "{}", complete.text());
    assert_eq!(client.get("lacking/e/big").await.text(), "tail");
}
