//! Settings of buckets and objects that change after they were made, over the real metadata service.

use base64::Engine as _;
use md5::{Digest as _, Md5};

use super::client::Sign;
use super::fixture::Served;

async fn with_bucket(name: &str) -> Served {
    let served = Served::real().await;
    assert_eq!(served.client().put(name, "").await.status, 200);
    served
}

pub(super) async fn put_versioning(served: &Served, bucket: &str, status: &str) {
    let body =
        format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    let target = format!("{bucket}?versioning");
    assert_eq!(served.client().put(&target, body).await.status, 200);
}

#[tokio::test]
async fn a_buckets_acl_opens_it_and_closes_it() {
    let served = with_bucket("acl-bucket").await;
    let client = served.client();
    let stranger = client.signing(Sign::Anonymous);
    client.put("acl-bucket/k", "x").await;
    assert_eq!(stranger.get("acl-bucket/k").await.status, 403);
    let acl = client.get("acl-bucket?acl").await;
    assert_eq!(
        (acl.element("Grant").as_str(), acl.element("ID").as_str()),
        ("private", "1")
    );
    let open = client
        .call("PUT", "acl-bucket?acl")
        .header("x-oss-acl", "public-read");
    assert_eq!(open.send().await.status, 200);
    assert_eq!(
        client.get("acl-bucket?acl").await.element("Grant"),
        "public-read"
    );
    assert_eq!(stranger.get("acl-bucket/k").await.status, 200);
    // Without the header nothing changes.
    assert_eq!(client.put("acl-bucket?acl", "").await.status, 200);
    assert_eq!(
        client.get("acl-bucket?acl").await.element("Grant"),
        "public-read"
    );
    let bad = client
        .call("PUT", "acl-bucket?acl")
        .header("x-oss-acl", "open");
    assert_eq!(
        bad.send().await.outcome(),
        (400, "InvalidArgument".to_owned())
    );
    assert_eq!(served.other().get("acl-bucket?acl").await.status, 403);
    // To another account the name is taken.
    for target in ["acl-bucket?acl", "acl-bucket"] {
        let (other, taken) = (served.other(), (409, "BucketAlreadyExists".to_owned()));
        let open = other
            .call("PUT", target)
            .header("x-oss-acl", "public-read-write");
        assert_eq!(open.send().await.outcome(), taken, "{target}");
    }
    let anonymous = stranger.call("PUT", "acl-bucket?acl");
    let anonymous = anonymous.header("x-oss-acl", "private").send().await;
    assert_eq!(anonymous.outcome(), (403, "AccessDenied".to_owned()));
    assert_eq!(
        client.get("acl-bucket?acl").await.element("Grant"),
        "public-read"
    );
}

#[tokio::test]
async fn an_objects_acl_is_its_own() {
    let served = with_bucket("object-acl").await;
    let client = served.client();
    let stranger = client.signing(Sign::Anonymous);
    client.put("object-acl/k", "x").await;
    assert_eq!(
        client.get("object-acl/k?acl").await.element("Grant"),
        "default"
    );
    let open = client
        .call("PUT", "object-acl/k?acl")
        .header("x-oss-object-acl", "public-read");
    assert_eq!(open.send().await.status, 200);
    assert_eq!(
        client.get("object-acl/k?acl").await.element("Grant"),
        "public-read"
    );
    assert_eq!(stranger.get("object-acl/k").await.status, 200);
    let missing = client
        .call("PUT", "object-acl/none?acl")
        .header("x-oss-object-acl", "private");
    assert_eq!(
        missing.send().await.outcome(),
        (404, "NoSuchKey".to_owned())
    );
    assert_eq!(
        client.put("object-acl/k?acl", "").await.outcome(),
        (400, "MissingArgument".to_owned())
    );
}

#[tokio::test]
async fn tags_of_buckets_and_objects() {
    let served = with_bucket("tagged").await;
    let client = served.client();
    let body = |tags: &[(&str, &str)]| {
        let tags: String = tags
            .iter()
            .map(|(k, v)| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>"))
            .collect();
        format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")
    };
    client.put("tagged/k", "x").await;
    for target in ["tagged?tagging", "tagged/k?tagging"] {
        assert!(client.get(target).await.elements("Key").is_empty());
        let two = body(&[("a", "1"), ("b", "2")]);
        assert_eq!(client.put(target, two).await.status, 200);
        let read = client.get(target).await;
        assert_eq!(read.elements("Key"), ["a", "b"]);
        assert_eq!(read.elements("Value"), ["1", "2"]);
        let bad = client.put(target, body(&[("a", "1"), ("a", "2")])).await;
        assert_eq!(bad.outcome(), (400, "InvalidArgument".to_owned()));
        let bad = client.put(target, "<Tagging>").await;
        assert_eq!(bad.outcome(), (400, "MalformedXML".to_owned()));
    }
    assert_eq!(
        client.head("tagged/k").await.header("x-oss-tagging-count"),
        "2"
    );
    assert_eq!(client.delete("tagged?tagging=a,c").await.status, 204);
    assert_eq!(client.get("tagged?tagging").await.elements("Key"), ["b"]);
    for target in ["tagged?tagging", "tagged/k?tagging"] {
        assert_eq!(client.delete(target).await.status, 204);
        assert!(client.get(target).await.elements("Key").is_empty());
    }
}

#[tokio::test]
async fn versions_are_kept_listed_and_changed_one_by_one() {
    let served = with_bucket("versioned").await;
    let client = served.client();
    assert!(
        !client
            .get("versioned?versioning")
            .await
            .text()
            .contains("Status")
    );
    client.put("versioned/k", "null").await;
    put_versioning(&served, "versioned", "Enabled").await;
    assert_eq!(
        client.get("versioned?versioning").await.element("Status"),
        "Enabled"
    );
    let one = client
        .put("versioned/k", "one")
        .await
        .header("x-oss-version-id")
        .to_owned();
    let two = client
        .put("versioned/k", "two!")
        .await
        .header("x-oss-version-id")
        .to_owned();
    assert!(one.len() == 64 && two.len() == 64 && one < two);
    let deleted = client.delete("versioned/k").await;
    assert_eq!(deleted.header("x-oss-delete-marker"), "true");
    let marker = deleted.header("x-oss-version-id").to_owned();
    assert_eq!(client.get("versioned/k").await.status, 404);
    let list = client.get("versioned?versions").await;
    assert_eq!(
        list.elements("VersionId"),
        [marker.as_str(), &two, &one, "null"]
    );
    assert_eq!(
        list.elements("IsLatest"),
        ["true", "false", "false", "false"]
    );
    assert_eq!(list.elements("DeleteMarker").len(), 1);
    // Page by page, also behind the null version.
    let (mut key, mut version, mut seen) = (String::new(), String::new(), Vec::new());
    for _ in 0..10 {
        let target =
            format!("versioned?versions&max-keys=1&key-marker={key}&version-id-marker={version}");
        let page = client.get(&target).await;
        seen.extend(page.elements("VersionId"));
        if page.element("IsTruncated") == "false" {
            break;
        }
        (key, version) = (
            page.element("NextKeyMarker"),
            page.element("NextVersionIdMarker"),
        );
    }
    assert_eq!(seen, [marker.as_str(), &two, &one, "null"]);
    for (id, content) in [(two.as_str(), "two!"), (&one, "one"), ("null", "null")] {
        let read = client.get(&format!("versioned/k?versionId={id}")).await;
        assert_eq!(
            (read.text().as_str(), read.header("x-oss-version-id")),
            (content, id)
        );
    }
    // Attributes of one version, and of no other.
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    let tagged = client
        .put(&format!("versioned/k?tagging&versionId={one}"), tags)
        .await;
    assert_eq!(
        (tagged.status, tagged.header("x-oss-version-id")),
        (200, one.as_str())
    );
    let count = |id: &str| {
        let (client, id) = (served.client(), id.to_owned());
        async move {
            let target = format!("versioned/k?tagging&versionId={id}");
            client.get(&target).await.elements("Key").len()
        }
    };
    assert_eq!((count(&one).await, count(&two).await), (1, 0));
    assert_eq!(
        client
            .put(&format!("versioned/k?tagging&versionId={marker}"), tags)
            .await
            .outcome(),
        (405, "MethodNotAllowed".to_owned())
    );
    let acl = format!("versioned/k?acl&versionId={marker}");
    let put = client
        .call("PUT", &acl)
        .header("x-oss-object-acl", "private");
    for (answer, ec) in [
        (client.get(&acl).await, "0017-00000002"),
        (put.send().await, "0017-00000002"),
        (
            client
                .get(&format!("versioned/k?tagging&versionId={marker}"))
                .await,
            "0003-00000016",
        ),
    ] {
        assert_eq!(answer.outcome(), (405, "MethodNotAllowed".to_owned()));
        assert_eq!(answer.header("x-oss-ec"), ec);
    }
    assert_eq!(
        client.put("versioned/k?tagging", tags).await.outcome(),
        (404, "NoSuchKey".to_owned())
    );
    // Suspended: the null version is replaced, the others stay.
    put_versioning(&served, "versioned", "Suspended").await;
    assert_eq!(
        client
            .put("versioned/k", "again")
            .await
            .header("x-oss-version-id"),
        "null"
    );
    let list = client.get("versioned?versions").await;
    assert_eq!(
        list.elements("VersionId"),
        ["null", marker.as_str(), &two, &one]
    );
    // Its markers are null versions, by whichever operation they are made.
    let named = "<Delete><Object><Key>k</Key></Object></Delete>";
    let digest = base64::engine::general_purpose::STANDARD.encode(Md5::digest(named));
    let deleted = client
        .call("POST", "versioned?delete")
        .header("content-md5", &digest)
        .body(named)
        .send()
        .await;
    assert_eq!(
        (
            deleted.element("DeleteMarker"),
            deleted.element("DeleteMarkerVersionId")
        ),
        ("true".to_owned(), "null".to_owned())
    );
    let alone = client.delete("versioned/k").await;
    assert_eq!(alone.header("x-oss-version-id"), "null");
    assert_eq!(
        client.delete("versioned/k?versionId=null").await.status,
        204
    );
    for (body, code) in [
        (
            "<VersioningConfiguration><Status>On</Status></VersioningConfiguration>",
            "MalformedXML",
        ),
        ("<VersioningConfiguration/>", "MalformedXML"),
    ] {
        let bad = client.put("versioned?versioning", body).await;
        assert_eq!(bad.outcome(), (400, code.to_owned()));
    }
    let marker_alone = client
        .get("versioned?versions&version-id-marker=null")
        .await;
    assert_eq!(marker_alone.outcome(), (400, "InvalidArgument".to_owned()));
}

#[tokio::test]
async fn browsers_of_other_sites_are_told_what_they_may() {
    let served = with_bucket("cors-bucket").await;
    let client = served.client();
    client.put("cors-bucket/k", "x").await;
    let ask = |target: &'static str, origin: &'static str, method: &'static str| {
        let anyone = served.client().signing(Sign::Anonymous);
        async move {
            anyone
                .call("OPTIONS", target)
                .header("origin", origin)
                .header("access-control-request-method", method)
                .header("access-control-request-headers", "x-oss-test")
                .send()
                .await
        }
    };
    assert_eq!(
        client.get("cors-bucket?cors").await.outcome(),
        (404, "NoSuchCORSConfiguration".to_owned())
    );
    let none = ask("cors-bucket/k", "http://a.example", "PUT").await;
    assert_eq!(none.outcome(), (403, "AccessForbidden".to_owned()));
    for headers in [
        &[][..],
        &[("origin", "http://a.example")],
        &[("access-control-request-method", "PUT")],
    ] {
        let anyone = client.signing(Sign::Anonymous);
        let call = anyone.call("OPTIONS", "cors-bucket/k");
        let call = headers
            .iter()
            .fold(call, |call, (name, value)| call.header(name, value));
        let answer = call.send().await;
        assert_eq!(answer.outcome(), (400, "BadRequest".to_owned()));
    }
    let rules = "<CORSConfiguration><CORSRule><AllowedOrigin>http://a.example</AllowedOrigin>\
                 <AllowedMethod>PUT</AllowedMethod><AllowedMethod>GET</AllowedMethod>\
                 <AllowedHeader>*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
                 <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule><ResponseVary>true</ResponseVary>\
                 </CORSConfiguration>";
    assert_eq!(client.put("cors-bucket?cors", rules).await.status, 200);
    let read = client.get("cors-bucket?cors").await;
    assert_eq!(read.elements("AllowedMethod"), ["PUT", "GET"]);
    assert_eq!(read.element("ResponseVary"), "true");
    // With the parameters of the request that follows, whatever they would mean.
    for target in [
        "cors-bucket/k",
        "cors-bucket/k?acl",
        "cors-bucket",
        "cors-bucket/none?x-oss-process=y",
    ] {
        let granted = ask(target, "http://a.example", "PUT").await;
        assert_eq!(granted.status, 200, "{target}");
        for (name, value) in [
            ("access-control-allow-origin", "http://a.example"),
            ("access-control-allow-methods", "PUT, GET"),
            ("access-control-allow-headers", "x-oss-test"),
            ("access-control-expose-headers", "ETag"),
            ("access-control-max-age", "60"),
        ] {
            assert_eq!(granted.header(name), value, "{target}: {name}");
        }
    }
    assert_eq!(
        ask("cors-bucket/k", "http://b.example", "PUT").await.status,
        403
    );
    assert_eq!(
        ask("cors-bucket/k", "http://a.example", "DELETE")
            .await
            .status,
        403
    );
    let no_bucket = ask("no-such-bucket/k", "http://a.example", "PUT").await;
    assert_eq!(no_bucket.outcome(), (404, "NoSuchBucket".to_owned()));
    // Real requests, successful or not, say the same.
    for (target, origin, allowed) in [
        ("cors-bucket/k", "http://a.example", "http://a.example"),
        ("cors-bucket/none", "http://a.example", "http://a.example"),
        ("cors-bucket/k", "http://b.example", ""),
    ] {
        let answer = client
            .call("GET", target)
            .header("origin", origin)
            .send()
            .await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            allowed,
            "{target} {origin}"
        );
        assert_eq!(answer.header("vary"), "Origin");
    }
    assert_eq!(client.delete("cors-bucket?cors").await.status, 204);
    assert_eq!(client.delete("cors-bucket?cors").await.status, 204);
    assert_eq!(client.get("cors-bucket?cors").await.status, 404);
    let bad = client.put("cors-bucket?cors", "<CORSConfiguration/>").await;
    assert_eq!(bad.outcome(), (400, "MalformedXML".to_owned()));
}

#[tokio::test]
async fn links_lead_to_the_bytes_of_their_target() {
    let served = with_bucket("linked").await;
    let client = served.client();
    let target = client
        .put("linked/a/b c", "hello")
        .await
        .header("etag")
        .to_owned();
    let link = |key: &str, to: &str| {
        let (client, key, to) = (served.client(), key.to_owned(), to.to_owned());
        async move {
            client
                .call("PUT", &format!("linked/{key}?symlink"))
                .header("x-oss-symlink-target", &to)
                .header("x-oss-meta-of", "link")
                .send()
                .await
        }
    };
    let made = link("l", "a%2Fb%20c").await;
    assert_eq!(made.status, 200);
    let own = client.get("linked/l?symlink").await;
    assert_eq!(
        (own.status, own.header("x-oss-symlink-target")),
        (200, "a/b%20c")
    );
    assert_eq!(own.header("etag"), made.header("etag"));
    for answer in [client.get("linked/l").await, client.head("linked/l").await] {
        assert_eq!((answer.status, answer.header("content-length")), (200, "5"));
        assert_eq!(
            (answer.header("etag"), answer.header("x-oss-meta-of")),
            (target.as_str(), "link")
        );
        assert_eq!(answer.header("x-oss-object-type"), "Symlink");
        assert_eq!(answer.header("content-md5"), "XUFAKrxLKna5cZ2REBfFkg==");
    }
    assert_eq!(client.get("linked/l").await.text(), "hello");
    let part = client
        .call("GET", "linked/l")
        .header("range", "bytes=1-2")
        .send()
        .await;
    assert_eq!((part.status, part.text().as_str()), (206, "el"));
    // The link itself is what is listed, described by its meta data, copied and deleted.
    let copied = client
        .call("PUT", "linked/copy")
        .header("x-oss-copy-source", "/linked/l");
    assert_eq!(copied.send().await.status, 200);
    assert_eq!(
        client
            .get("linked/copy?symlink")
            .await
            .header("x-oss-symlink-target"),
        "a/b%20c"
    );
    assert_eq!(client.delete("linked/copy").await.status, 204);
    assert_eq!(client.get("linked/a/b c").await.status, 200);
    // Nowhere, to itself, and to another link.
    for (key, to) in [("gone", "none"), ("self", "self"), ("second", "l")] {
        assert_eq!(link(key, to).await.status, 200);
    }
    for (key, outcome) in [
        ("gone", (404, "SymlinkTargetNotExist")),
        ("self", (400, "InvalidTargetType")),
        ("second", (400, "InvalidTargetType")),
    ] {
        let (status, code) = outcome;
        let answer = client.get(&format!("linked/{key}")).await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{key}");
    }
    let plain = client.get("linked/a/b c?symlink").await;
    assert_eq!(plain.outcome(), (400, "NotSymlink".to_owned()));
    // A public link opens no private object.
    let open = client
        .call("PUT", "linked/l?acl")
        .header("x-oss-object-acl", "public-read");
    assert_eq!(open.send().await.status, 200);
    let stranger = client.signing(Sign::Anonymous);
    assert_eq!(
        stranger.get("linked/l").await.outcome(),
        (403, "AccessDenied".to_owned())
    );
}

#[tokio::test]
async fn there_is_one_region() {
    let served = Served::real().await;
    let client = served.client();
    for target in ["?regions", "?regions=oss-cn-granary-1"] {
        let regions = client.get(target).await;
        assert_eq!(regions.elements("Region"), ["oss-cn-granary-1"], "{target}");
        assert!(!regions.element("InternetEndpoint").is_empty());
    }
    let other = client.get("?regions=oss-cn-elsewhere").await;
    assert_eq!(other.outcome(), (404, "NoSuchRegion".to_owned()));
    assert_eq!(
        client.signing(Sign::Anonymous).get("?regions").await.status,
        403
    );
}
