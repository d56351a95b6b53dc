"""Buckets through the SDKs: create, describe, list, count, delete, and the refusals."""
import random
import string
import time

import alibabacloud_oss_v2 as ossv2
import oss2
import pytest

from harness.sdk import ApiError


def fresh_name(prefix="b-"):
    """A bucket name nobody used."""
    return prefix + "".join(random.choices(string.ascii_lowercase + string.digits, k=12))


@pytest.fixture
def names(wire):
    """Collects bucket names to remove afterwards."""
    collected = []
    yield collected
    for name in collected:
        wire.delete_bucket_with_contents(name)


def check_refused(call, status, code, ec=None, message=None):
    """The call raises the given service error, whole and well-formed."""
    with pytest.raises(ApiError) as caught:
        call()
    error = caught.value
    assert (error.status, error.code) == (status, code), error
    assert len(error.request_id) == 24, error.request_id
    assert error.headers["x-oss-request-id"] == error.request_id
    assert error.ec == error.headers.get("x-oss-ec"), "EC of the body and of the header differ"
    if ec:
        assert error.ec == ec
    if message:
        assert error.message == message
    return error


def test_life_of_a_bucket(client, names, server):
    name = fresh_name()
    names.append(name)
    made = client.put_bucket(name)
    assert made.status == 200
    assert made.headers["Location"] == f"/{name}"

    info = client.get_bucket_info(name)
    assert info.name == name
    assert info.location == "oss-cn-granary-1"
    assert info.storage_class == "Standard"
    assert info.extranet_endpoint.endswith(server.endpoint.removeprefix("http://"))
    assert info.intranet_endpoint.endswith(server.endpoint.removeprefix("http://"))
    assert info.owner.id
    grant = info.acl if isinstance(info.acl, str) else info.acl.grant
    assert grant == "private"

    assert client.get_bucket_location(name) == "oss-cn-granary-1"
    assert client.delete_bucket(name).status == 204
    check_refused(lambda: client.get_bucket_info(name), 404, "NoSuchBucket", "0015-00000101",
                  "The specified bucket does not exist.")


@pytest.mark.parametrize("storage_class, redundancy", [("IA", None), ("Standard", None), ("Standard", "LRS"), ("IA", "LRS")])
def test_storage_class_and_redundancy_are_kept(client, server, names, storage_class, redundancy):
    name = fresh_name()
    names.append(name)
    client.put_bucket(name, acl="private", storage_class=storage_class, redundancy=redundancy)
    info = client.get_bucket_info(name)
    assert info.storage_class == storage_class
    assert info.data_redundancy_type == (redundancy or server.redundancy)


@pytest.mark.parametrize("storage_class, redundancy, status, code", [
    ("Archive", None, 501, "NotImplemented"), ("ColdArchive", None, 501, "NotImplemented"), ("Standard", "ZRS", 400, "InvalidArgument"),
])
def test_promises_that_cannot_be_kept_are_not_made(client, names, storage_class, redundancy, status, code):
    """One zone cannot hold copies in three, and there is no freezing without thawing."""
    name = fresh_name()
    names.append(name)
    said = "ZRS needs storage nodes in three zones, which this cluster lacks." if redundancy else None
    check_refused(lambda: client.put_bucket(name, storage_class=storage_class, redundancy=redundancy), status, code, message=said)
    check_refused(lambda: client.get_bucket_info(name), 404, "NoSuchBucket")


@pytest.mark.parametrize("acl", ["private", "public-read", "public-read-write"])
def test_acl_is_kept(client, names, acl):
    name = fresh_name()
    names.append(name)
    client.put_bucket(name, acl=acl)
    info = client.get_bucket_info(name)
    assert (info.acl if isinstance(info.acl, str) else info.acl.grant) == acl


def test_put_again_is_idempotent_but_class_may_not_change(client, names):
    name = fresh_name()
    names.append(name)
    client.put_bucket(name)
    client.put_bucket(name)
    check_refused(lambda: client.put_bucket(name, storage_class="IA"), 409, "BucketAlreadyExists")
    assert client.get_bucket_info(name).storage_class == "Standard"


def test_list_buckets_by_prefix_in_pages(client, names):
    prefix = fresh_name("list-")
    expected = [f"{prefix}-{n}" for n in range(5)]
    for name in expected:
        names.append(name)
        client.put_bucket(name)
    seen, marker = [], None
    for _ in range(5):
        page = client.list_buckets(prefix=prefix, marker=marker or "", max_keys=2)
        seen += [b.name for b in page.buckets]
        assert len(page.buckets) <= 2
        if not page.is_truncated:
            break
        marker = page.next_marker
    assert seen == expected
    whole = client.list_buckets(prefix=prefix)
    assert [b.name for b in whole.buckets] == expected
    assert not whole.is_truncated
    for bucket in whole.buckets:
        assert bucket.location == "oss-cn-granary-1"
        assert bucket.region == "cn-granary-1"
        assert bucket.storage_class == "Standard"
        created = bucket.creation_date
        assert abs(time.time() - (created if isinstance(created, int) else created.timestamp())) < 120
    assert client.list_buckets(prefix=prefix + "-none").buckets == []


def test_list_buckets_by_tags(server, names):
    prefix = fresh_name("tags-")
    service = oss2.Service(oss2.Auth(server.credentials.key_id, server.credentials.secret), server.endpoint)
    for n in range(6):
        names.append(f"{prefix}-{n}")
        made = oss2.Bucket(service.auth, server.endpoint, names[-1])
        made.create_bucket()
        rule = oss2.models.TaggingRule()
        rule.add("half", str(n % 2))
        rule.add(f"only {n}", "ä")
        made.put_bucket_tagging(oss2.models.Tagging(rule))

    def listed(**params):
        found = service.list_buckets(prefix=prefix, params={name.replace("_", "-"): value for name, value in params.items()})
        return [int(bucket.name[-1]) for bucket in found.buckets]
    assert listed(tag_key="half") == [0, 1, 2, 3, 4, 5]
    assert listed(tag_key="half", tag_value="1") == [1, 3, 5]
    assert listed(tag_key="only 4", tag_value="ä") == [4]
    assert listed(tag_key="only") == []
    config = ossv2.config.load_default()
    config.region, config.endpoint = server.credentials.region, server.endpoint
    config.credentials_provider = ossv2.credentials.StaticCredentialsProvider(server.credentials.key_id, server.credentials.secret)
    client = ossv2.Client(config)
    asked = ossv2.ListBucketsRequest(prefix=prefix, tagging='"half":"0","only 2":"ä"')
    assert [bucket.name for bucket in client.list_buckets(asked).buckets] == [f"{prefix}-2"]
    asked = ossv2.ListBucketsRequest(prefix=prefix, tag_key="half", tag_value="0", max_keys=2)
    first = client.list_buckets(asked)
    assert [bucket.name for bucket in first.buckets] == [f"{prefix}-0", f"{prefix}-2"] and first.is_truncated
    asked.marker = first.next_marker
    rest = client.list_buckets(asked)
    assert [bucket.name for bucket in rest.buckets] == [f"{prefix}-4"] and not rest.is_truncated


def test_stat_counts_objects_bytes_and_uploads(client, bucket):
    before = client.get_bucket_stat(bucket)
    assert (before["storage"], before["objects"], before["uploads"]) == (0, 0, 0)
    client.put_object(bucket, "a", b"x" * 1000)
    client.put_object(bucket, "b", b"y" * 500_000)
    client.put_object(bucket, "a", b"z" * 10)
    client.initiate(bucket, "c")
    after = client.get_bucket_stat(bucket)
    assert after["storage"] == 500_010
    assert after["objects"] == 2
    assert after["uploads"] == 1
    assert after["standard_objects"] == 2
    client.delete_object(bucket, "b")
    assert client.get_bucket_stat(bucket)["storage"] == 10


def test_bucket_with_objects_or_uploads_is_not_deleted(client, bucket):
    client.put_object(bucket, "k", b"1")
    check_refused(lambda: client.delete_bucket(bucket), 409, "BucketNotEmpty")
    client.delete_object(bucket, "k")
    upload = client.initiate(bucket, "u")
    check_refused(lambda: client.delete_bucket(bucket), 409, "BucketNotEmpty")
    client.abort(bucket, "u", upload)
    assert client.delete_bucket(bucket).status == 204
    client.put_bucket(bucket)
    assert client.list_objects(bucket).keys == []


def test_bucket_made_again_is_empty(client, bucket):
    client.put_object(bucket, "k", b"old")
    client.delete_object(bucket, "k")
    client.delete_bucket(bucket)
    client.put_bucket(bucket)
    check_refused(lambda: client.get_object(bucket, "k"), 404, "NoSuchKey")
    client.put_object(bucket, "k", b"new")
    assert client.get_object(bucket, "k").data == b"new"


MISSING = [
    ("get_bucket_info", ()), ("get_bucket_location", ()), ("get_bucket_stat", ()), ("list_objects", ()),
    ("list_objects_v2", ()), ("list_uploads", ()), ("delete_bucket", ()), ("put_object", ("k", b"")),
    ("get_object", ("k",)), ("head_object", ("k",)), ("get_object_meta", ("k",)), ("delete_object", ("k",)),
    ("delete_objects", (["k"],)), ("initiate", ("k",)), ("list_parts", ("k", "0" * 32)),
    ("abort", ("k", "0" * 32)), ("upload_part", ("k", "0" * 32, 1, b"")),
]


@pytest.mark.parametrize("call, args", MISSING, ids=[m[0] for m in MISSING])
def test_every_operation_says_no_such_bucket(client, call, args):
    error = check_refused(lambda: getattr(client, call)("no-such-bucket-0", *args), 404, "NoSuchBucket",
                          "0015-00000101", "The specified bucket does not exist.")
    if call not in ("head_object", "get_object_meta"):
        assert error.headers["Content-Type"].startswith("application/xml")


def test_unknown_key_id(client, server, bucket):
    from harness import sdk
    from harness.signing import Credentials
    stranger = sdk.make(client.name, server, credentials=Credentials("nobody", "secret", "cn-granary-1"))
    message = "The OSS Access Key Id you provided does not exist in our records."
    check_refused(lambda: stranger.get_bucket_info(bucket), 403, "InvalidAccessKeyId", "0002-00000902", message)
    check_refused(lambda: stranger.put_object(bucket, "k", b""), 403, "InvalidAccessKeyId", "0002-00000902", message)
    check_refused(lambda: stranger.head_object(bucket, "k"), 403, "InvalidAccessKeyId", "0002-00000902", message)
    # The bucket is looked up before the caller is.
    check_refused(lambda: stranger.get_bucket_info("no-such-bucket-1"), 404, "NoSuchBucket", "0015-00000101")


def test_wrong_secret(client, server, bucket):
    from harness import sdk
    from harness.signing import Credentials
    liar = sdk.make(client.name, server, credentials=Credentials(server.credentials.key_id, "wrong", "cn-granary-1"))
    for call in (lambda: liar.get_bucket_info(bucket), lambda: liar.put_object(bucket, "k", b"x"),
                 lambda: liar.list_objects(bucket), lambda: liar.head_object(bucket, "k")):
        check_refused(call, 403, "SignatureDoesNotMatch")
