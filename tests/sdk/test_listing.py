"""Listings: order, paging, markers, delimiters, encodings, limits; through the SDKs and raw."""
import random
import re

import pytest

from harness.wire import xml_escape

from .test_bucket import check_refused

KEYS = sorted([
    "a", "a/", "a/1", "a/2", "a/b/1", "a/b/2", "a0", "b", "b/x/y/z", "c//d", "c/", "d+e", "d e", "d%20e", "ä/1", "ä/2", "中/1", "z",
    "a/b", "a/b0", "aa", "aa/1", "\x7f", "~",
], key=lambda k: k.encode())


def model(keys, prefix="", delimiter="", after=""):
    """What a complete listing must contain, in order: keys and common prefixes."""
    rows = []
    for key in sorted(keys, key=lambda k: k.encode()):
        if not key.startswith(prefix):
            continue
        row = ("key", key)
        if delimiter:
            cut = key.find(delimiter, len(prefix))
            if cut >= 0:
                row = ("prefix", key[:cut + len(delimiter)])
        # A marker hides the keys up to it, and a common prefix that it is or goes beyond.
        if row[1].encode() <= after.encode():
            continue
        if not rows or rows[-1] != row:
            rows.append(row)
    return [r[1] for r in rows if r[0] == "key"], [r[1] for r in rows if r[0] == "prefix"]


@pytest.fixture(scope="module")
def stocked(shared_server):
    """A bucket with KEYS, shared by this module's read-only tests."""
    raw = shared_server.wire()
    name = f"t-listing-{random.randrange(10**9)}"
    raw.must("PUT", name)
    for key in KEYS:
        raw.put(name, key, key.encode())
    yield name
    raw.delete_bucket_with_contents(name)
    raw.close()


QUERIES = [("", ""), ("a", ""), ("a/", ""), ("a/b", ""), ("ä", ""), ("none", ""), ("", "/"), ("a", "/"), ("a/", "/"), ("a/b/", "/"),
           ("c", "/"), ("c/", "/"), ("", "//"), ("", "b"), ("a/", "b"), ("ä/", "/"), ("d", " "), ("", "e"), ("", "中")]


@pytest.mark.parametrize("max_keys", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("prefix, delimiter", QUERIES)
def test_pages_make_up_the_whole(client, stocked, prefix, delimiter, max_keys):
    expected = model(KEYS, prefix, delimiter)
    for listing in ("v1", "v2"):
        keys, prefixes, following = [], [], ""
        for _ in range(100):
            if listing == "v1":
                page = client.list_objects(stocked, prefix, delimiter, following, max_keys)
            else:
                page = client.list_objects_v2(stocked, prefix, delimiter, token=following or None if "ossv2" in client.name else following,
                                              max_keys=max_keys)
            assert len(page.keys) + len(page.prefixes) <= max_keys
            keys += page.keys
            prefixes += page.prefixes
            if not page.truncated:
                break
            assert len(page.keys) + len(page.prefixes) == max_keys
            following = page.next
        assert (keys, prefixes) == expected, listing


MARKERS = ["", "a", "a/", "a/1", "a/b/", "a/b/1", "a/zzz", "c/", "c//", "d", "ä", "~", "\U0010ffff"]


@pytest.mark.parametrize("marker", MARKERS, ids=ascii)
@pytest.mark.parametrize("delimiter", ["", "/"])
def test_markers(client, stocked, marker, delimiter):
    keys, prefixes = model(KEYS, "", delimiter, marker)
    for page in (client.list_objects(stocked, delimiter=delimiter, marker=marker, max_keys=1000),
                 client.list_objects_v2(stocked, delimiter=delimiter, start_after=marker, max_keys=1000)):
        assert page.keys == keys
        # Whether a group that the marker is inside of is shown once more is nowhere written.
        assert [p for p in page.prefixes if not (marker.startswith(p) and marker != p)] == prefixes


def test_entries_are_complete(client, bucket):
    put = client.put_object(bucket, "k", b"hello")
    entry = client.list_objects(bucket).entries[0]
    assert (entry.key, entry.size, entry.etag, entry.type, entry.storage_class) == ("k", 5, put.etag, "Normal", "Standard")
    assert entry.owner
    without = client.list_objects_v2(bucket).entries[0]
    assert (without.size, without.owner) == (5, None)
    assert client.list_objects_v2(bucket, fetch_owner=True).entries[0].owner == entry.owner


def test_listing_sees_every_write_at_once(client, bucket):
    for n in range(12):
        client.put_object(bucket, f"k{n:02}", b"")
        assert client.list_objects(bucket, max_keys=1000).keys == [f"k{i:02}" for i in range(n + 1)]
    for n in range(12):
        client.delete_object(bucket, f"k{n:02}")
        assert client.list_objects_v2(bucket, max_keys=1000).keys == [f"k{i:02}" for i in range(n + 1, 12)]


def test_default_page_is_100(signed, bucket):
    for n in range(101):
        signed.put(bucket, f"{n:04}", b"")
    for query in ([], [("list-type", "2")]):
        answer = signed.must("GET", bucket, query=query)
        assert len(answer.texts("Contents/Key")) == 100
        assert answer.text("MaxKeys") == "100"
        assert answer.text("IsTruncated") == "true"
    answer = signed.must("GET", bucket, query=[("max-keys", "101")])
    assert (len(answer.texts("Contents/Key")), answer.text("IsTruncated")) == (101, "false")
    assert answer.text("NextMarker") in (None, "")


def test_shape_of_v1(signed, stocked):
    query = [("prefix", "a/"), ("delimiter", "/"), ("marker", "a/0"), ("max-keys", "2")]
    answer = signed.must("GET", stocked, query=query)
    assert answer.headers["content-type"].startswith("application/xml")
    assert answer.xml.tag.split("}")[-1] == "ListBucketResult"
    got = {name: answer.text(name) for name in ("Name", "Prefix", "Marker", "MaxKeys", "Delimiter", "IsTruncated", "NextMarker")}
    assert got == {"Name": stocked, "Prefix": "a/", "Marker": "a/0", "MaxKeys": "2", "Delimiter": "/", "IsTruncated": "true", "NextMarker": "a/2"}
    row = answer.xml.find("Contents")
    assert [child.tag for child in row][:1] == ["Key"]
    assert {child.tag for child in row} >= {"Key", "LastModified", "ETag", "Type", "Size", "StorageClass", "Owner"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", row.findtext("LastModified"))
    assert re.fullmatch(r'"[0-9A-F]{32}"', row.findtext("ETag"))
    assert row.findtext("Owner/ID") and row.findtext("Owner/DisplayName")


def test_shape_of_v2(signed, stocked):
    answer = signed.must("GET", stocked, query=[("list-type", "2"), ("max-keys", "3"), ("delimiter", "/"), ("start-after", "a")])
    assert answer.text("KeyCount") == "3"
    assert answer.text("StartAfter") == "a"
    assert answer.text("NextContinuationToken")
    assert answer.xml.find("Contents/Owner") is None
    token = answer.text("NextContinuationToken")
    following = signed.must("GET", stocked, query=[("list-type", "2"), ("continuation-token", token), ("delimiter", "/")])
    assert following.text("ContinuationToken") == token
    expected = model(KEYS, "", "/", "a")
    assert answer.texts("Contents/Key") + following.texts("Contents/Key") == expected[0]


def test_encoding_type_url(signed, bucket):
    key = "p ä/+%&\x01/k"
    signed.put(bucket, key, b"")
    query = [("encoding-type", "url"), ("prefix", "p ä/"), ("delimiter", "+"), ("marker", "p ")]
    answer = signed.must("GET", bucket, query=query)
    assert answer.text("EncodingType") == "url"
    assert answer.text("Prefix") == "p%20%C3%A4%2F"
    assert answer.text("Delimiter") == "%2B"
    assert answer.text("Marker") == "p%20"
    assert answer.texts("CommonPrefixes/Prefix") == ["p%20%C3%A4%2F%2B"]
    answer = signed.must("GET", bucket, query=[("encoding-type", "url"), ("list-type", "2"), ("start-after", "p")])
    assert answer.texts("Contents/Key") == ["p%20%C3%A4%2F%2B%25%26%01%2Fk"]
    assert answer.text("StartAfter") == "p"


@pytest.mark.parametrize("query", [[("max-keys", "1001")], [("max-keys", "0")], [("max-keys", "-1")], [("max-keys", "x")],
                                   [("encoding-type", "base64")],
                                   [("list-type", "2"), ("max-keys", "1001")], [("list-type", "2"), ("max-keys", "0")],
                                   [("versions", ""), ("max-keys", "0")],
                                   [("list-type", "2"), ("continuation-token", "!not one of ours!")],
                                   [("prefix", "x" * 1025)], [("marker", "x" * 1025)]])
def test_bad_arguments(signed, stocked, query):
    answer = signed.request("GET", stocked, query=query)
    assert (answer.status, answer.code) == (400, "InvalidArgument"), answer.body
    assert answer.headers["x-oss-ec"] == answer.error["EC"]


def test_many_common_prefixes(client, wire, bucket):
    """Groups are skipped over, so that a page of prefixes is complete whatever their members number."""
    for group in range(15):
        for n in range(12):
            wire.put(bucket, f"g{group:02}/{n:03}", b"")
    keys, prefixes, marker = [], [], ""
    while True:
        page = client.list_objects(bucket, delimiter="/", marker=marker, max_keys=4)
        prefixes += page.prefixes
        keys += page.keys
        if not page.truncated:
            break
        marker = page.next
    assert (keys, prefixes) == ([], [f"g{n:02}/" for n in range(15)])


def test_delete_multiple_bodies(signed, bucket):
    from harness.wire import content_md5

    def post(body, headers=None):
        return signed.request("POST", bucket, query=["delete"], body=body,
                              headers={"Content-MD5": content_md5(body)} if headers is None else headers)

    for key in ("a", "b&<>", "c\x02", "d e", "kept"):
        signed.put(bucket, key, b"x")
    body = f"<Delete><Quiet>false</Quiet><Object><Key>a</Key></Object><Object><Key>{xml_escape('b&<>')}</Key></Object></Delete>".encode()
    answer = post(body)
    assert answer.status == 200
    assert sorted(answer.texts("Deleted/Key")) == ["a", "b&<>"]
    quiet = post(b'<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com">'
                 b"<Quiet>true</Quiet><Object><Key>c&#x2;</Key></Object><Object><Key>never was</Key></Object></Delete>")
    assert (quiet.status, quiet.body) == (200, b"")
    assert signed.get(bucket, "", query=[("encoding-type", "url")]).texts("Contents/Key") == ["d%20e", "kept"]
    for bad in (b"", b"<Delete>", b"not xml", b"<Other/>", b"<Delete></Delete>", b"<Delete><Object></Object></Delete>",
                b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>"):
        answer = post(bad)
        assert (answer.status, answer.code) == (400, "MalformedXML"), (bad[:60], answer.body)
    wrong = post(b"<Delete><Object><Key>kept</Key></Object></Delete>", {"Content-MD5": content_md5(b"other")})
    assert (wrong.status, wrong.code) == (400, "InvalidDigest")
    assert signed.request("HEAD", bucket, "kept").status == 200


def test_delete_many_without_quiet_lists_every_key(client, bucket):
    assert client.delete_objects(bucket, ["never", "ä ö"]) == ["never", "ä ö"]


def test_uploads_sort_by_key_then_time(client, bucket):
    first = client.initiate(bucket, "b")
    second = client.initiate(bucket, "b")
    other = client.initiate(bucket, "a")
    assert client.list_uploads(bucket).entries == [("a", other), ("b", first), ("b", second)]


def test_bucket_listing_arguments(signed, bucket):
    answer = signed.must("GET", query=[("prefix", bucket), ("max-keys", "1")])
    assert answer.xml.tag == "ListAllMyBucketsResult"
    assert answer.texts("Buckets/Bucket/Name") == [bucket]
    assert answer.text("Owner/ID")
    for bad in ("0", "1001", "x"):
        refused = signed.request("GET", query=[("max-keys", bad)])
        assert (refused.status, refused.code) == (400, "InvalidArgument"), bad
    anonymous = signed.request("GET", auth=None)
    assert (anonymous.status, anonymous.code) == (403, "AccessDenied")


def test_anonymous_may_list_nothing(client, signed, bucket):
    check_refused(lambda: client.get_object(bucket, "k"), 404, "NoSuchKey")
    answer = signed.request("GET", bucket, auth=None)
    assert (answer.status, answer.code) == (403, "AccessDenied")
