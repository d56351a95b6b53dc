//! Operations on buckets and on the account, over the real metadata service.

use super::client::Sign;
use super::fixture::Served;

fn keys(answer: &super::client::Answer) -> Vec<String> {
    answer.elements("Key")
}

#[tokio::test]
async fn a_bucket_lives_and_dies() {
    let served = Served::real().await;
    let client = served.client();
    let created = client
        .call("PUT", "first-bucket")
        .header("x-oss-acl", "public-read")
        .send()
        .await;
    assert_eq!(
        (created.status, created.header("location")),
        (200, "/first-bucket")
    );
    // Again: the same owner, nothing changes but the ACL that is given.
    assert_eq!(client.put("first-bucket", "").await.status, 200);
    let info = client.get("first-bucket?bucketInfo").await;
    assert_eq!(info.status, 200);
    for (element, value) in [
        ("Name", "first-bucket"),
        ("Grant", "public-read"),
        ("Location", "oss-cn-granary-1"),
        ("StorageClass", "Standard"),
        ("DataRedundancyType", "LRS"),
        ("ID", "1"),
        ("SSEAlgorithm", "None"),
        ("BlockPublicAccess", "false"),
    ] {
        assert_eq!(info.element(element), value, "{element}");
    }
    assert!(info.element("CreationDate").ends_with(".000Z"));
    let location = client.get("first-bucket?location").await;
    assert_eq!(location.element("LocationConstraint"), "oss-cn-granary-1");
    let head = client.head("first-bucket").await;
    assert_eq!(
        (head.status, head.header("x-oss-bucket-region")),
        (200, "oss-cn-granary-1")
    );
    assert_eq!(client.get("").await.elements("Name"), ["first-bucket"]);
    assert_eq!(client.delete("first-bucket").await.status, 204);
    assert_eq!(
        client.get("first-bucket").await.outcome(),
        (404, "NoSuchBucket".to_owned())
    );
    assert_eq!(client.delete("first-bucket").await.status, 404);
    // The name is free again, and found at once.
    assert_eq!(client.put("first-bucket", "").await.status, 200);
    assert_eq!(client.get("first-bucket").await.status, 200);
}

#[tokio::test]
async fn what_a_bucket_may_be() {
    let served = Served::real().await;
    let client = served.client();
    let xml = |inner: &str| {
        format!("<CreateBucketConfiguration>{inner}</CreateBucketConfiguration>").into_bytes()
    };
    for (body, status, code) in [
        (xml("<StorageClass>IA</StorageClass>"), 200, ""),
        // Nothing said: as it is.
        (Vec::new(), 200, ""),
        (
            xml("<StorageClass>Standard</StorageClass>"),
            409,
            "BucketAlreadyExists",
        ),
        (
            xml("<StorageClass>Archive</StorageClass>"),
            501,
            "NotImplemented",
        ),
        (xml("<StorageClass>Hot</StorageClass>"), 400, "MalformedXML"),
        (
            xml("<DataRedundancyType>ZRS</DataRedundancyType>"),
            400,
            "InvalidArgument",
        ),
        (
            xml("<LocationConstraint>oss-cn-granary-1</LocationConstraint>"),
            200,
            "",
        ),
        (
            xml("<LocationConstraint>oss-elsewhere</LocationConstraint>"),
            400,
            "InvalidLocationConstraint",
        ),
        (b"<Nonsense>".to_vec(), 400, "MalformedXML"),
    ] {
        let answer = client.put("a-bucket", &body).await;
        let body = String::from_utf8_lossy(&body);
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{body}");
    }
    assert_eq!(
        client
            .get("a-bucket?bucketInfo")
            .await
            .element("StorageClass"),
        "IA"
    );
    for name in ["ab", "UPPER", "under_score", "-x-", "x-", &"x".repeat(64)] {
        assert_eq!(
            client.put(name, "").await.outcome(),
            (400, "InvalidBucketName".to_owned()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_bucket_with_something_in_it_stays() {
    let served = Served::real().await;
    let client = served.client();
    client.put("full", "").await;
    client.put("full/key", "x").await;
    let refused = client.delete("full").await;
    assert_eq!(refused.outcome(), (409, "BucketNotEmpty".to_owned()));
    // The attempt leaves the bucket as it was.
    assert_eq!(client.get("full/key").await.text(), "x");
    assert_eq!(client.put("full/other", "y").await.status, 200);
    client.delete("full/key").await;
    client.delete("full/other").await;
    let upload = client.post("full/up?uploads", "").await.element("UploadId");
    let refused = client.delete("full").await;
    assert_eq!(refused.outcome(), (409, "BucketNotEmpty".to_owned()));
    assert_eq!(
        refused.element("Message"),
        "The bucket has Multipart Uploads."
    );
    assert_eq!(
        client
            .delete(&format!("full/up?uploadId={upload}"))
            .await
            .status,
        204
    );
    assert_eq!(client.delete("full").await.status, 204);
}

#[tokio::test]
async fn buckets_are_listed_in_pages() {
    let served = Served::real().await;
    let client = served.client();
    for name in ["bbb", "aaa", "abc", "ccc"] {
        assert_eq!(client.put(name, "").await.status, 200);
    }
    let all = client.get("").await;
    assert_eq!(all.elements("Name"), ["aaa", "abc", "bbb", "ccc"]);
    assert_eq!(
        all.element("IsTruncated"),
        "",
        "no paging elements for the whole list"
    );
    assert_eq!(all.elements("Region"), ["cn-granary-1"; 4]);
    let first = client.get("?max-keys=3").await;
    assert_eq!(first.elements("Name"), ["aaa", "abc", "bbb"]);
    assert_eq!(
        (first.element("IsTruncated"), first.element("NextMarker")),
        ("true".into(), "bbb".into())
    );
    let rest = client.get("?max-keys=3&marker=bbb").await;
    assert_eq!(
        (rest.elements("Name"), rest.element("IsTruncated")),
        (vec!["ccc".into()], "false".into())
    );
    assert_eq!(
        client.get("?prefix=a").await.elements("Name"),
        ["aaa", "abc"]
    );
    for (target, status, code) in [
        ("?max-keys=0", 400, "InvalidArgument"),
        ("?max-keys=1001", 400, "InvalidArgument"),
    ] {
        assert_eq!(
            client.get(target).await.outcome(),
            (status, code.to_owned()),
            "{target}"
        );
    }
    let anonymous = client.signing(Sign::Anonymous);
    assert_eq!(
        anonymous.get("").await.outcome(),
        (403, "AccessDenied".to_owned())
    );
}

#[tokio::test]
async fn objects_are_listed_in_both_versions() {
    let served = Served::real().await;
    let client = served.client();
    client.put("listed", "").await;
    assert_eq!(client.get("listed").await.element("IsTruncated"), "false");
    for key in ["a", "dir/1", "dir/2", "dir/sub/3", "ä &<\u{1}", "z"] {
        assert_eq!(
            client.put(&format!("listed/{key}"), key).await.status,
            200,
            "{key:?}"
        );
    }
    let all = client.get("listed").await;
    assert_eq!(all.elements("Key").len(), 6);
    assert_eq!(all.elements("ID"), ["1"; 6], "version 1 shows owners");
    assert_eq!(all.element("Type"), "Normal");
    assert_eq!(all.element("ETag").trim_matches('"').len(), 32);
    assert_eq!(all.element("MaxKeys"), "100");
    let encoded = client.get("listed?encoding-type=url&prefix=%C3%A4").await;
    assert_eq!(keys(&encoded), ["%C3%A4%20%26%3C%01"]);
    let grouped = client.get("listed?delimiter=/").await;
    assert_eq!(keys(&grouped), ["a", "z", "ä &amp;&lt;&#1;"]);
    assert_eq!(grouped.elements("Prefix"), ["", "dir/"]);
    let inside = client.get("listed?delimiter=/&prefix=dir/").await;
    assert_eq!(
        (keys(&inside), inside.elements("Prefix")),
        (
            vec!["dir/1".into(), "dir/2".into()],
            vec!["dir/".to_owned(), "dir/sub/".into()]
        )
    );
    // Pages, version 1: every key and group once.
    let (mut marker, mut seen) = (String::new(), Vec::new());
    loop {
        let page = client
            .get(&format!(
                "listed?max-keys=1&delimiter=/&encoding-type=url&marker={marker}"
            ))
            .await;
        seen.extend(keys(&page));
        seen.extend(page.elements("Prefix").into_iter().skip(1));
        if page.element("IsTruncated") == "false" {
            break;
        }
        marker = page.element("NextMarker");
    }
    assert_eq!(seen, ["a", "dir%2F", "z", "%C3%A4%20%26%3C%01"]);
    // Pages, version 2.
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let page = client
            .get(&format!("listed?list-type=2&max-keys=2{token}"))
            .await;
        assert_eq!(page.element("KeyCount"), keys(&page).len().to_string());
        assert_eq!(page.elements("ID"), Vec::<String>::new());
        seen.extend(keys(&page));
        if page.element("IsTruncated") == "false" {
            break;
        }
        token = format!(
            "&continuation-token={}",
            page.element("NextContinuationToken")
        );
    }
    assert_eq!(
        seen,
        ["a", "dir/1", "dir/2", "dir/sub/3", "z", "ä &amp;&lt;&#1;"]
    );
    let after = client
        .get("listed?list-type=2&start-after=dir/2&fetch-owner=true&max-keys=1")
        .await;
    assert_eq!(
        (keys(&after), after.element("ID")),
        (vec!["dir/sub/3".into()], "1".into())
    );
    for target in [
        "listed?max-keys=0",
        "listed?list-type=2&max-keys=0",
        "listed?versions&max-keys=0",
        "listed?max-keys=1001",
        "listed?encoding-type=x",
        "listed?list-type=2&continuation-token=x",
    ] {
        assert_eq!(
            client.get(target).await.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{target}"
        );
    }
}

#[tokio::test]
async fn the_stat_counts_what_is_there() {
    let served = Served::real().await;
    let client = served.client();
    client.put("counted", "").await;
    client.put("counted/a", "12345").await;
    client.put("counted/a", "123").await;
    client
        .call("PUT", "counted/b")
        .header("x-oss-storage-class", "IA")
        .body("12")
        .send()
        .await;
    let upload = client
        .post("counted/up?uploads", "")
        .await
        .element("UploadId");
    client
        .put(
            &format!("counted/up?partNumber=1&uploadId={upload}"),
            "1234",
        )
        .await;
    let stat = client.get("counted?stat").await;
    for (element, value) in [
        ("Storage", "9"),
        ("ObjectCount", "2"),
        ("MultipartUploadCount", "1"),
        ("MultipartPartCount", "1"),
        ("StandardStorage", "7"),
        ("StandardObjectCount", "1"),
        ("InfrequentAccessStorage", "2"),
        ("InfrequentAccessObjectCount", "1"),
        ("DeleteMarkerCount", "0"),
    ] {
        assert_eq!(stat.element(element), value, "{element}");
    }
    assert!(stat.element("LastModifiedTime").parse::<u64>().unwrap() > 1_600_000_000);
}

#[tokio::test]
async fn a_resource_group_has_the_id_of_one() {
    let served = Served::real().await;
    let client = served.client();
    let put = async |group: &str| {
        let call = client.call("PUT", "grouped");
        call.header("x-oss-resource-group-id", group).send().await
    };
    for group in ["team-a", &format!("rg-{}", "a".repeat(17 * 1024))] {
        let refused = put(group).await;
        assert_eq!(
            refused.outcome(),
            (400, "ResourceGroupIdPreCheckError".to_owned())
        );
        assert_eq!(refused.header("x-oss-ec"), "0039-00000003");
    }
    assert_eq!(put("rg-default-id").await.status, 200);
    let info = client.get("grouped?bucketInfo").await;
    assert_eq!(info.element("ResourceGroupId"), "rg-default-id");
}

#[tokio::test]
async fn filtered_lists_have_full_pages() {
    let served = Served::real().await;
    let client = served.client();
    for n in 0..9 {
        let name = format!("tagged-{n}");
        let group = if n % 2 == 0 { "rg-even" } else { "rg-odd" };
        let made = client
            .call("PUT", &name)
            .header("x-oss-resource-group-id", group)
            .send()
            .await;
        assert_eq!(made.status, 200);
        let value = n % 3;
        let tags = format!(
            "<Tagging><TagSet><Tag><Key>third</Key><Value>{value}</Value></Tag>\
             <Tag><Key>n{n}</Key><Value>x</Value></Tag></TagSet></Tagging>"
        );
        assert_eq!(
            client.put(&format!("{name}?tagging"), tags).await.status,
            200
        );
    }
    let list = async |query: &str, group: Option<&str>| {
        let (mut pages, mut marker) = (Vec::new(), String::new());
        loop {
            let mut call = client.call("GET", &format!("?max-keys=2&marker={marker}&{query}"));
            if let Some(group) = group {
                call = call.header("x-oss-resource-group-id", group);
            }
            let answer = call.send().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let names = answer.elements("Name").into_iter();
            pages.push(
                names
                    .map(|name| name.replace("tagged-", ""))
                    .collect::<String>(),
            );
            marker = answer.element("NextMarker");
            if marker.is_empty() {
                assert_ne!(answer.element("IsTruncated"), "true");
                return pages;
            }
            assert_eq!(answer.element("IsTruncated"), "true");
        }
    };
    for (query, group, pages) in [
        ("", None, &["01", "23", "45", "67", "8"][..]),
        ("tag-key=third&tag-value=0", None, &["03", "6"]),
        ("tag-key=third&tag-value=2", None, &["25", "8"]),
        ("tag-key=third", Some("rg-even"), &["02", "46", "8"]),
        ("tag-key=n7", None, &["7"]),
        ("tag-key=third&tag-value=9", None, &[""]),
        ("tagging=%22third%22:%221%22,%22n4%22:%22x%22", None, &["4"]),
        ("tag-key=third&tag-value=1", Some("rg-odd"), &["17"]),
        ("prefix=tagged-4", Some("rg-odd"), &[""]),
    ] {
        assert_eq!(list(query, group).await, pages, "{query} {group:?}");
    }
    for query in [
        "tag-value=x",
        "tagging=x",
        "tagging=%22a%22:%22b%22&tag-key=a",
    ] {
        let answer = client.get(&format!("?{query}")).await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{query}"
        );
    }
}
