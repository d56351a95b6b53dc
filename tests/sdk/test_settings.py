"""Settings of buckets and objects, versions and symbolic links through the SDKs."""
import urllib.parse

import pytest

from harness import digest
from harness.sdk import CorsRule

from .test_bucket import check_refused


@pytest.fixture
def versioned(client, bucket):
    """A bucket that keeps versions, emptied of them afterwards."""
    client.put_bucket_versioning(bucket, "Enabled")
    yield bucket
    while True:
        page = client.list_versions(bucket)
        if not page.versions and not page.markers:
            break
        for version in page.versions + page.markers:
            client.delete_version(bucket, version.key, version.version)


def test_regions(client, server):
    own = f"oss-{server.credentials.region}"
    assert own in client.describe_regions()
    assert client.describe_regions(own) == [own]
    check_refused(lambda: client.describe_regions("oss-cn-nowhere"), 404, "NoSuchRegion")


def test_acl_of_a_bucket(client, bucket, wire):
    wire.put(bucket, "k", b"open?")
    assert client.get_bucket_acl(bucket) == "private"
    for acl in ("public-read", "public-read-write", "private"):
        assert client.put_bucket_acl(bucket, acl).status == 200
        assert client.get_bucket_acl(bucket) == acl
        assert (wire.request("GET", bucket, "k", auth=None).status == 200) == (acl != "private")
        assert (wire.request("PUT", bucket, "k", body=b"open?", auth=None).status == 200) == (acl == "public-read-write")
    check_refused(lambda: client.put_bucket_acl(bucket, "everybody"), 400, "InvalidArgument")
    check_refused(lambda: client.get_bucket_acl("no-such-bucket-0"), 404, "NoSuchBucket", "0015-00000101")


def test_tags_of_a_bucket(client, bucket):
    assert client.get_bucket_tags(bucket) == {}
    client.put_bucket_tags(bucket, {"team": "storage", "k+1": "v:/=1"})
    assert client.get_bucket_tags(bucket) == {"team": "storage", "k+1": "v:/=1"}
    client.put_bucket_tags(bucket, {"only": "one"})
    assert client.get_bucket_tags(bucket) == {"only": "one"}
    assert client.delete_bucket_tags(bucket).status == 204
    assert client.get_bucket_tags(bucket) == {}


def test_cors_rules_of_a_bucket(client, bucket, wire):
    check_refused(lambda: client.get_bucket_cors(bucket), 404, "NoSuchCORSConfiguration")
    rules = [CorsRule(["http://one.example", "http://*.two.example"], ["PUT", "GET"], ["x-oss-*"], ["ETag", "x-oss-test"], 60), CorsRule(["*"], ["HEAD"])]
    client.put_bucket_cors(bucket, rules, True)
    assert client.get_bucket_cors(bucket) == (rules, True)
    asked = {"Origin": "http://a.two.example", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-oss-meta-a"}
    allowed = wire.request("OPTIONS", bucket, "k", headers=asked, auth=None)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "http://a.two.example")
    assert client.delete_bucket_cors(bucket).status == 204
    refused = wire.request("OPTIONS", bucket, "k", headers=asked, auth=None)
    assert (refused.status, refused.code) == (403, "AccessForbidden")


def test_versions(client, versioned):
    assert client.get_bucket_versioning(versioned) == "Enabled"
    ids = [client.put_object(versioned, "k", body).headers["x-oss-version-id"] for body in (b"one", b"two")]
    assert client.get_object(versioned, "k").data == b"two"
    assert client.get_object(versioned, "k", params={"versionId": ids[0]}).data == b"one"
    gone = client.delete_object(versioned, "k")
    assert gone.headers["x-oss-delete-marker"] == "true"
    marker = gone.headers["x-oss-version-id"]
    check_refused(lambda: client.get_object(versioned, "k"), 404, "NoSuchKey", "0026-00000001")
    check_refused(lambda: client.get_object(versioned, "k", params={"versionId": marker}), 405, "MethodNotAllowed")
    page = client.list_versions(versioned)
    assert [(v.version, v.latest, v.etag, v.size) for v in page.versions] == [(ids[1], False, digest.etag(b"two"), 3), (ids[0], False, digest.etag(b"one"), 3)]
    assert [(m.version, m.latest) for m in page.markers] == [(marker, True)]
    first = client.list_versions(versioned, max_keys=2)
    assert first.truncated
    rest = client.list_versions(versioned, marker=first.next)
    assert [v.version for v in rest.versions] == [ids[0]] and not rest.markers
    assert client.delete_version(versioned, "k", marker).status == 204
    assert client.get_object(versioned, "k").data == b"two"
    client.delete_version(versioned, "k", ids[1])
    check_refused(lambda: client.get_object(versioned, "k", params={"versionId": ids[1]}), 404, "NoSuchVersion")
    client.put_bucket_versioning(versioned, "Suspended")
    assert client.get_bucket_versioning(versioned) == "Suspended"
    assert client.put_object(versioned, "k", b"over").headers["x-oss-version-id"] == "null"


def test_acl_of_an_object(client, bucket, wire):
    client.put_object(bucket, "k", b"open?")
    assert client.get_object_acl(bucket, "k") == "default"
    for acl in ("public-read", "public-read-write", "private", "default"):
        client.put_object_acl(bucket, "k", acl)
        assert client.get_object_acl(bucket, "k") == acl
        assert (wire.request("GET", bucket, "k", auth=None).status == 200) == acl.startswith("public")
    check_refused(lambda: client.get_object_acl(bucket, "none"), 404, "NoSuchKey", "0026-00000001")


def test_tags_of_an_object(client, bucket):
    client.put_object(bucket, "k", b"x")
    assert client.get_object_tags(bucket, "k") == {}
    client.put_object_tags(bucket, "k", {"a b": "1", "c:d": "e/f=g"})
    assert client.get_object_tags(bucket, "k") == {"a b": "1", "c:d": "e/f=g"}
    assert client.head_object(bucket, "k").headers["x-oss-tagging-count"] == "2"
    client.copy_object(bucket, "k", bucket, "copy")
    assert client.get_object_tags(bucket, "copy") == {"a b": "1", "c:d": "e/f=g"}
    assert client.delete_object_tags(bucket, "k").status == 204
    assert client.get_object_tags(bucket, "k") == {}
    client.put_object(bucket, "made", b"x", {"x-oss-tagging": "k1=v1&k%202=v%2F2"})
    assert client.get_object_tags(bucket, "made") == {"k1": "v1", "k 2": "v/2"}
    check_refused(lambda: client.get_object_tags(bucket, "none"), 404, "NoSuchKey", "0026-00000001")


def test_symbolic_links(client, bucket):
    client.put_object(bucket, "dir/target ü", b"content")
    client.put_symlink(bucket, "link", "dir/target ü", {"x-oss-meta-a": "1"})
    assert client.get_symlink(bucket, "link") == "dir/target ü"
    got = client.get_object(bucket, "link")
    assert (got.data, got.headers["x-oss-object-type"], got.headers["Content-Length"]) == (b"content", "Symlink", "7")
    client.put_symlink(bucket, "dangling", "nothing")
    check_refused(lambda: client.get_object(bucket, "dangling"), 404, "SymlinkTargetNotExist")
    client.put_symlink(bucket, "twice", "link")
    check_refused(lambda: client.get_object(bucket, "twice"), 400, "InvalidTargetType")
    check_refused(lambda: client.get_symlink(bucket, "none"), 404, "NoSuchKey", "0026-00000001")


def test_targets_of_links_as_go_v1_spells_them(wire, bucket):
    wire.must("PUT", bucket, "dir/a b+c", body=b"content")
    wire.must("PUT", bucket, "link", query=["symlink"], headers={"x-oss-symlink-target": "dir%2Fa+b%2Bc"})
    assert wire.must("GET", bucket, "link").body == b"content"
    shown = wire.must("GET", bucket, "link", query=["symlink"]).headers["x-oss-symlink-target"]
    assert urllib.parse.unquote(shown) == urllib.parse.unquote_plus(shown) == "dir/a b+c"
