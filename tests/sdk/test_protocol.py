"""What SDKs hide: signatures, clocks, errors on the wire, addressing, HTTP framing, refusals."""
import base64
import gzip
import hashlib
import hmac
import random
import re
import socket
import time
import xml.etree.ElementTree as ElementTree

import pytest

from harness import signing
from harness.signing import Credentials, http_date, v4_stamp
from harness.wire import content_md5

from conftest import DOMAIN, NAMED

REQUEST_ID = re.compile(r"[0-9A-F]{24}")


def check_error(answer, status, code, ec=None, message=None, host=None, **fields):
    """The answer is this error, whole: body or x-oss-err, headers, ids."""
    assert answer.status == status, (answer.status, answer.body)
    error = answer.error
    assert error["Code"] == code, error
    assert REQUEST_ID.fullmatch(error["RequestId"]), error
    assert answer.headers["x-oss-request-id"] == error["RequestId"]
    assert answer.headers["x-oss-ec"] == error["EC"]
    assert re.fullmatch(r"\d{4}-\d{8}", error["EC"])
    assert error["HostId"].split(":")[0] in (host or NAMED["address"]).lower()
    assert error["Message"]
    if ec:
        assert error["EC"] == ec
    if message:
        assert error["Message"] == message
    for name, value in fields.items():
        assert error[name] == value, error
    return error


# -- every answer ------------------------------------------------------------------------------------


def test_common_headers(signed, bucket):
    signed.put(bucket, "k", b"x")
    seen = set()
    for answer in (signed.request("GET", bucket, "k"), signed.request("HEAD", bucket, "k"), signed.request("GET", bucket),
                   signed.request("GET", bucket, "gone"), signed.request("DELETE", bucket, "k"), signed.request("GET")):
        assert answer.headers["server"] == "AliyunOSS"
        assert REQUEST_ID.fullmatch(answer.headers["x-oss-request-id"])
        assert answer.headers["x-oss-server-time"].isdigit()
        stamp = time.mktime(time.strptime(answer.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
        assert abs(stamp - time.time()) < 5
        seen.add(answer.headers["x-oss-request-id"])
    assert len(seen) == 6


def test_errors_of_head_travel_in_a_header(signed, bucket):
    answer = signed.request("HEAD", bucket, "gone")
    assert answer.body == b""
    check_error(answer, 404, "NoSuchKey", "0026-00000001", "The specified key does not exist.", Key="gone")
    answer = signed.request("HEAD", "no-such-bucket-3")
    check_error(answer, 404, "NoSuchBucket", "0015-00000101")
    answer = signed.request("HEAD", bucket, "gone", query=["objectMeta"])
    check_error(answer, 404, "NoSuchKey", "0026-00000001")
    root = ElementTree.fromstring(base64.b64decode(answer.headers["x-oss-err"]))
    assert root.findtext("RequestId") == answer.headers["x-oss-request-id"]
    # However long what is asked for.
    answer = signed.request("HEAD", bucket, "gone", query={"versionId": "x" * 60_000})
    assert len(answer.headers["x-oss-err"]) < 8192
    check_error(answer, 400, "InvalidArgument", "0012-00000202")


def test_errors_name_what_was_asked_for(signed, bucket):
    check_error(signed.request("GET", "no-such-bucket-4"), 404, "NoSuchBucket", message="The specified bucket does not exist.",
                BucketName="no-such-bucket-4")
    error = check_error(signed.request("GET", bucket, "<a>&'"), 404, "NoSuchKey")
    assert error["Key"] == "<a>&'"


def test_elements_of_nothing_are_empty(signed, bucket):
    """There are parsers that take white space in an element for its content."""
    signed.put(bucket, "k", b"x")
    upload = signed.initiate(bucket, "up")
    for method, key, query, body in (("GET", None, [("list-type", "2"), ("prefix", "none")], b""), ("GET", None, [("prefix", "none")], b""),
                                     ("GET", None, ["versions", ("prefix", "none")], b""), ("GET", None, ["uploads", ("prefix", "none")], b""), ("GET", None, ["acl"], b""),
                                     ("GET", None, ["versioning"], b""), ("GET", None, ["bucketInfo"], b""), ("GET", None, ["stat"], b""), ("GET", "k", ["tagging"], b""),
                                     ("GET", "up", [("uploadId", upload)], b"")):
        answer = signed.must(method, bucket, key, query=query, body=body)
        assert not re.search(rb"<(\w+)>\s+</\1>", answer.body), answer.body
    answer = signed.must("GET", query=[("prefix", "no-bucket-is-called-this")])
    assert b"<Buckets></Buckets>" in answer.body, answer.body


def test_head_bucket(signed, bucket):
    answer = signed.request("HEAD", bucket)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["x-oss-bucket-region"] in ("cn-granary-1", "oss-cn-granary-1")


@pytest.mark.parametrize("name", ["UPPER-case", "ab", "a" * 64, "-lead", "trail-", "under_score", "dot.ted", "spa ce"])
def test_bad_bucket_names(signed, name):
    check_error(signed.request("PUT", name, path=f"/{signing.escape(name)}/"), 400, "InvalidBucketName")


@pytest.mark.parametrize("body, code", [
    (b"<CreateBucketConfiguration><StorageClass>Gold</StorageClass></CreateBucketConfiguration>", None),
    (b"<CreateBucketConfiguration><LocationConstraint>oss-cn-elsewhere</LocationConstraint></CreateBucketConfiguration>", "InvalidLocationConstraint"),
    (b"<CreateBucketConfiguration>", "MalformedXML"), (b"<Other/>", "MalformedXML"), (b"x" * 1000, "MalformedXML"),
])
def test_bad_bucket_configurations(signed, bucket_name, body, code):
    answer = signed.request("PUT", bucket_name, body=body)
    assert answer.status == 400, answer.body
    assert code is None or answer.code == code
    assert signed.request("HEAD", bucket_name).status == 404


def test_location_constraint_of_this_region(signed, bucket_name):
    body = b"<CreateBucketConfiguration><LocationConstraint>oss-cn-granary-1</LocationConstraint></CreateBucketConfiguration>"
    signed.must("PUT", bucket_name, body=body)
    signed.must("DELETE", bucket_name)


def test_bad_acl(signed, bucket_name):
    check_error(signed.request("PUT", bucket_name, headers={"x-oss-acl": "world"}), 400, "InvalidArgument")


def test_bucket_info_is_complete(signed, bucket, server):
    info = signed.must("GET", bucket, query=["bucketInfo"]).xml.find("Bucket")
    expected = {"Name": bucket, "Location": "oss-cn-granary-1", "StorageClass": "Standard", "DataRedundancyType": server.redundancy,
                "AccessMonitor": "Disabled", "TransferAcceleration": "Disabled", "CrossRegionReplication": "Disabled",
                "AccessControlList/Grant": "private", "Comment": "", "ServerSideEncryptionRule/SSEAlgorithm": "None"}
    assert {path: info.findtext(path) for path in expected} == expected
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", info.findtext("CreationDate"))
    assert info.findtext("Owner/ID") and info.findtext("Owner/DisplayName")
    assert info.findtext("BlockPublicAccess") in ("true", "false")
    location = signed.must("GET", bucket, query=["location"])
    assert location.xml.tag.split("}")[-1] == "LocationConstraint"
    assert location.xml.text == "oss-cn-granary-1"


def test_bucket_stat_has_every_counter(signed, bucket):
    stat = signed.must("GET", bucket, query=["stat"]).xml
    assert stat.tag == "BucketStat"
    for name in ("Storage", "ObjectCount", "MultipartUploadCount", "LiveChannelCount", "LastModifiedTime", "StandardStorage", "StandardObjectCount",
                 "InfrequentAccessStorage", "InfrequentAccessRealStorage", "InfrequentAccessObjectCount", "ArchiveStorage", "ArchiveRealStorage",
                 "ArchiveObjectCount", "ColdArchiveStorage", "ColdArchiveRealStorage", "ColdArchiveObjectCount", "DeepColdArchiveStorage",
                 "DeepColdArchiveRealStorage", "DeepColdArchiveObjectCount", "MultipartPartCount", "DeleteMarkerCount"):
        assert (stat.findtext(name) or "").isdigit(), name


# -- signatures --------------------------------------------------------------------------------------


def test_signature_mismatch_shows_the_string_to_sign(server, bucket):
    liar = server.wire(auth="v1", cred=Credentials(server.credentials.key_id, "wrong"))
    date = http_date()
    answer = liar.request("PUT", bucket, "dir/k", query=["acl"], headers={"Date": date, "Content-Type": "text/x", "x-oss-meta-b": "2", "x-oss-meta-a": " 1 "})
    error = check_error(answer, 403, "SignatureDoesNotMatch", OSSAccessKeyId=server.credentials.key_id)
    expected = f"PUT\n\ntext/x\n{date}\nx-oss-meta-a:1\nx-oss-meta-b:2\n/{bucket}/dir/k?acl"
    assert error["StringToSign"] == expected
    assert error["StringToSignBytes"].strip().upper() == " ".join(f"{b:02X}" for b in expected.encode())
    assert error["SignatureProvided"]
    liar = server.wire(auth="v4", cred=Credentials(server.credentials.key_id, "wrong"))
    error = check_error(liar.request("GET", bucket, "a b"), 403, "SignatureDoesNotMatch")
    assert error["StringToSign"].startswith("OSS4-HMAC-SHA256\n")
    assert f"/{bucket}/a%20b" in error.get("CanonicalRequest", f"/{bucket}/a%20b")


@pytest.mark.parametrize("offset, accepted", [(-14 * 60, True), (14 * 60, True), (-16 * 60, False), (16 * 60, False), (-86400 * 400, False)])
def test_clock_skew(signed, bucket, offset, accepted):
    answer = signed.request("GET", bucket, at=time.time() + offset)
    if accepted:
        assert answer.status == 200
    else:
        check_error(answer, 403, "RequestTimeTooSkewed", "0002-00000504")


@pytest.mark.parametrize("date", [None, "yesterday", "2024-01-01", "Fri, 3 Jan 2025 00:00:00 GMT!"])
def test_v1_needs_a_date(server, bucket, date):
    raw = server.wire(auth="v1")
    headers = raw.signed("GET", bucket, None, [], {"Date": date or ""}, "v1")
    if date is None:
        del headers["Date"]
    check_error(raw.send("GET", f"/{bucket}/", headers), 403, "AccessDenied")


def test_x_oss_date_replaces_date_in_v1(server, bucket):
    raw = server.wire(auth="v1")
    assert raw.request("GET", bucket, headers={"x-oss-date": http_date()}).status == 200
    assert raw.request("GET", bucket, headers={"x-oss-date": http_date(), "Date": http_date(time.time() - 90000)}).status == 200


@pytest.mark.parametrize("value, status, code, ec", [
    ("OSS", 400, "InvalidArgument", None), ("OSS abc", 400, "InvalidArgument", None), ("Basic YTpi", 400, "InvalidArgument", None),
    ("OSS4-HMAC-SHA256 nonsense", 400, "InvalidArgument", None), ("OSS nobody:AAAA", 403, "InvalidAccessKeyId", "0002-00000902"),
    ("OSS4-HMAC-SHA256 Credential=a/b/c,Signature=d", 400, "InvalidArgument", None),
])
def test_malformed_authorization(wire, bucket, value, status, code, ec):
    answer = wire.request("GET", bucket, auth=None, headers={"Authorization": value, "Date": http_date(), "x-oss-date": v4_stamp()} if "OSS4" in value
                          else {"Authorization": value, "Date": http_date()})
    check_error(answer, status, code, ec)


@pytest.mark.parametrize("value, ec", [
    ("OSS2", "0002-00000102"), ("OSS2 AccessKeyId:a,", "0002-00000102"), ("OSS2 AccessKeyId:a,Signature:b,Other:c", "0002-00000104"),
    ("OSS2 AdditionalHeaders:host,Signature:b", "0002-00000105"), ("OSS2 AccessKeyId:,Signature:b", "0002-00000106"),
    ("OSS2 AccessKeyId:a,AdditionalHeaders:host", "0002-00000108"),
])
def test_malformed_authorization_of_v2(wire, bucket, value, ec):
    answer = wire.request("GET", bucket, auth=None, headers={"Authorization": value, "Date": http_date()})
    check_error(answer, 400, "InvalidArgument", ec)


def test_v2_signs_the_query_and_the_additional_headers(server, bucket):
    raw = server.wire(auth="v2")
    raw.put(bucket, "dir/k", b"0123456789")
    answer = raw.request("GET", bucket, "dir/k", headers={"Range": "bytes=0-1", "X-Other": " v "}, additional=("range", "x-other"))
    assert (answer.status, answer.body) == (206, b"01")
    headers = raw.signed("GET", bucket, "dir/k", [], {"Range": "bytes=0-1"}, "v2", additional=("range",))
    headers["Range"] = "bytes=0-5"
    check_error(raw.send("GET", f"/{bucket}/dir/k", headers), 403, "SignatureDoesNotMatch")
    headers = raw.signed("GET", bucket, None, [("max-keys", "1")], {}, "v2")
    assert raw.send("GET", f"/{bucket}/?max-keys=1", headers).status == 200
    check_error(raw.send("GET", f"/{bucket}/?max-keys=2", headers), 403, "SignatureDoesNotMatch")
    liar = server.wire(auth="v2", cred=Credentials(server.credentials.key_id, "wrong"))
    error = check_error(liar.request("GET", bucket, "dir/k", query=["acl"]), 403, "SignatureDoesNotMatch")
    assert error["StringToSign"].endswith(f"\n\n%2F{bucket}%2Fdir%2Fk?acl")


def test_v4_wrong_region(server, bucket):
    other = server.wire(cred=Credentials(server.credentials.key_id, server.credentials.secret, "cn-elsewhere"))
    check_error(other.request("HEAD", bucket, "k"), 400, "InvalidArgument", "0002-00000226", "Invalid signing region in Authorization header.")


def test_v4_scope_date_must_be_the_request_date(wire, bucket):
    headers = wire.signed("GET", bucket, None, [], {}, "v4")
    headers["Authorization"] = re.sub(r"/\d{8}/", "/20200101/", headers["Authorization"])
    answer = wire.send("GET", f"/{bucket}/", headers)
    assert answer.status in (400, 403), answer.body


def test_v4_additional_headers(wire, bucket):
    wire.put(bucket, "k", b"0123456789")
    answer = wire.request("GET", bucket, "k", headers={"Range": "bytes=0-1", "X-Other": " v "}, additional=("range", "x-other"))
    assert (answer.status, answer.body) == (206, b"01")
    headers = wire.signed("GET", bucket, "k", [], {"Range": "bytes=0-1"}, "v4", additional=("range",))
    headers["Range"] = "bytes=0-5"
    check_error(wire.send("GET", f"/{bucket}/k", headers), 403, "SignatureDoesNotMatch")


def test_v4_header_order_and_spaces(wire, bucket):
    """One SDK puts AdditionalHeaders last and a space after each comma."""
    headers = wire.signed("GET", bucket, None, [], {"Range": "bytes=0-"}, "v4", additional=("range",))
    credential, additional, signature = headers["Authorization"].removeprefix("OSS4-HMAC-SHA256 ").split(",")
    headers["Authorization"] = f"OSS4-HMAC-SHA256 {credential}, {signature}, {additional}"
    assert wire.send("GET", f"/{bucket}/", headers).status == 200


def test_only_unsigned_payloads(wire, bucket):
    """The one value every client sends; a digest that nobody verifies must not look verified."""
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    stamp = v4_stamp()
    headers = {"x-oss-date": stamp, "x-oss-content-sha256": digest}
    signature = signing.v4_signature(wire.cred, "GET", bucket, None, [], headers, stamp, payload=digest)
    headers["Authorization"] = (f"OSS4-HMAC-SHA256 Credential={wire.cred.key_id}/{stamp[:8]}/{wire.cred.region}/oss/aliyun_v4_request,Signature={signature}")
    check_error(wire.send("GET", f"/{bucket}/", headers), 400, "InvalidArgument")


def test_query_is_signed_in_v4_and_only_subresources_in_v1(server, bucket):
    v1, v4 = server.wire(auth="v1"), server.wire(auth="v4")
    headers = v1.signed("GET", bucket, None, [("max-keys", "1")], {}, "v1")
    assert v1.send("GET", f"/{bucket}/?max-keys=2&x-unknown=1", headers).status == 200
    headers = v4.signed("GET", bucket, None, [("max-keys", "1")], {}, "v4")
    check_error(v4.send("GET", f"/{bucket}/?max-keys=2", headers), 403, "SignatureDoesNotMatch")


def test_anonymous_access_follows_the_acl(wire, bucket_name):
    for acl, reads, writes in (("private", False, False), ("public-read", True, False), ("public-read-write", True, True)):
        name = f"{bucket_name}-{acl}"
        wire.must("PUT", name, headers={"x-oss-acl": acl})
        wire.put(name, "k", b"data")
        try:
            got = wire.request("GET", name, "k", auth=None)
            assert got.status == (200 if reads else 403), acl
            put = wire.request("PUT", name, "n", body=b"new", auth=None)
            assert put.status == (200 if writes else 403), acl
            if not writes:
                check_error(put, 403, "AccessDenied")
            # Object lists open objects; the names in a bucket are its owner's.
            check_error(wire.request("GET", name, auth=None), 403, "AccessDenied")
            check_error(wire.request("DELETE", name, auth=None), 403, "AccessDenied")
        finally:
            wire.delete_bucket_with_contents(name)


# -- presigned URLs ----------------------------------------------------------------------------------


def test_url_that_expired(signed, bucket):
    signed.put(bucket, "k", b"x")
    fresh = signed.send("GET", signed.url("GET", bucket, "k", expires_s=5), {})
    assert fresh.body == b"x"
    stale = signed.send("GET", signed.url("GET", bucket, "k", expires_s=60, at=time.time() - 120), {})
    check_error(stale, 403, "AccessDenied")


@pytest.mark.parametrize("drop", ["OSSAccessKeyId", "Expires", "Signature"])
def test_v1_url_needs_its_three_parts(server, bucket, drop):
    raw = server.wire(auth="v1")
    target = re.sub(rf"[?&]{drop}=[^&]*", lambda m: "?" if m.group().startswith("?") else "", raw.url("GET", bucket, "k")).replace("?&", "?")
    assert drop not in target
    check_error(raw.send("GET", target, {}), 403, "AccessDenied")


def test_v1_url_expiry_comes_before_the_signature(server, bucket):
    raw = server.wire(auth="v1", cred=Credentials(server.credentials.key_id, "wrong"))
    check_error(raw.send("GET", raw.url("GET", bucket, "k", at=time.time() - 9999, expires_s=1), {}), 403, "AccessDenied")
    check_error(raw.send("GET", raw.url("GET", bucket, "k"), {}), 403, "SignatureDoesNotMatch")
    good = server.wire(auth="v1").url("GET", bucket, "k")
    check_error(raw.send("GET", re.sub(r"Expires=\d+", "Expires=soon", good), {}), 403, "AccessDenied")


def test_v1_url_and_header_together(server, bucket):
    raw = server.wire(auth="v1")
    headers = raw.signed("GET", bucket, "k", [], {}, "v1")
    check_error(raw.send("GET", raw.url("GET", bucket, "k"), headers), 400, "InvalidArgument")


@pytest.mark.parametrize("drop, ec", [("x-oss-access-key-id", "0002-00000115"), ("x-oss-expires", "0002-00000113"), ("x-oss-signature", None)])
def test_v2_url_needs_its_parts(server, bucket, drop, ec):
    raw = server.wire(auth="v2")
    target = re.sub(rf"[?&]{drop}=[^&]*", lambda m: "?" if m.group().startswith("?") else "", raw.url("GET", bucket, "k")).replace("?&", "?")
    assert f"{drop}=" not in target
    check_error(raw.send("GET", target, {}), 400, "InvalidArgument", ec)


def test_v4_url_bounds(wire, bucket):
    wire.put(bucket, "k", b"x")
    assert wire.send("GET", wire.url("GET", bucket, "k", expires_s=604800), {}).status == 200
    for seconds in (0, 604801, -5):
        answer = wire.send("GET", wire.url("GET", bucket, "k", expires_s=seconds), {})
        assert answer.status in (400, 403), (seconds, answer.status)
    tampered = wire.url("GET", bucket, "k", expires_s=60).replace("x-oss-expires=60", "x-oss-expires=6000")
    check_error(wire.send("GET", tampered, {}), 403, "SignatureDoesNotMatch")
    other_key = wire.url("GET", bucket, "k").replace(f"/{bucket}/k?", f"/{bucket}/k2?")
    check_error(wire.send("GET", other_key, {}), 403, "SignatureDoesNotMatch")


def test_url_with_overrides(signed, bucket):
    signed.put(bucket, "k", b"x")
    target = signed.url("GET", bucket, "k", query=[("response-content-type", "image/png")])
    assert signed.send("GET", target, {}).headers["content-type"] == "image/png"


# -- addressing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [f"{{}}.{DOMAIN}", "{}.localhost"])
def test_virtual_host(signed, bucket, server, host):
    host = host.format(bucket)
    for name in (host, f"{host}:{server.port}", host.upper() if "localhost" in host else host):
        put = signed.request("PUT", bucket, "dir/k ü", body=b"v", host=name)
        assert put.status == 200, put.body
        assert signed.request("GET", bucket, "dir/k ü", host=name).body == b"v"
        listing = signed.request("GET", bucket, host=name)
        assert listing.texts("Contents/Key") == ["dir/k ü"]
    assert signed.get(bucket, "dir/k ü").body == b"v"


def test_virtual_host_of_a_missing_bucket(signed):
    check_error(signed.request("GET", "no-such-bucket-5", host=f"no-such-bucket-5.{DOMAIN}"), 404, "NoSuchBucket", host=f"no-such-bucket-5.{DOMAIN}")


def test_domain_itself_is_the_service(signed, bucket):
    answer = signed.request("GET", host=DOMAIN)
    assert bucket in answer.texts("Buckets/Bucket/Name")


def test_sdks_by_virtual_host(server, bucket):
    from harness import sdk
    for name in sdk.NAMES:
        client = sdk.make(name, server, endpoint=f"http://{DOMAIN}:{server.port}")
        client.put_object(bucket, f"dir/{name}", b"by host")
        assert client.get_object(bucket, f"dir/{name}").data == b"by host"
        assert client.list_objects(bucket, prefix=f"dir/{name}").keys == [f"dir/{name}"]
        assert client.get_bucket_info(bucket).name == bucket


def test_path_style_without_slash(signed, bucket):
    assert signed.request("GET", bucket, path=f"/{bucket}").status == 200


def test_v1_of_a_path_without_slash(server, bucket):
    """Some clients sign the path as they send it; a resource without the slash is good for nothing else."""
    raw = server.wire(auth="v1")
    raw.put(bucket, "k", b"x")

    def signed_without_slash(method, query=""):
        headers = {"Date": http_date()}
        text = f"{method}\n\n\n{headers['Date']}\n/{bucket}" + (f"?{query}" if query else "")
        digest = hmac.new(raw.cred.secret.encode(), text.encode(), hashlib.sha1).digest()
        return {**headers, "Authorization": f"OSS {raw.cred.key_id}:{base64.b64encode(digest).decode()}"}

    assert raw.send("GET", f"/{bucket}?list-type=2", signed_without_slash("GET")).texts("Contents/Key") == ["k"]
    assert raw.send("GET", f"/{bucket}?acl", signed_without_slash("GET", "acl")).status == 200
    expires = int(time.time()) + 60
    digest = hmac.new(raw.cred.secret.encode(), f"GET\n\n\n{expires}\n/{bucket}".encode(), hashlib.sha1).digest()
    url = signing.query_text([("OSSAccessKeyId", raw.cred.key_id), ("Expires", str(expires)), ("Signature", base64.b64encode(digest).decode())])
    assert raw.send("GET", f"/{bucket}?{url}", {}).status == 200
    for method, target, host in (("GET", f"/{bucket}/", None), ("GET", f"/{bucket}/k", None), ("GET", f"/{bucket}?cors", None), ("HEAD", f"/{bucket}", None),
                                 ("GET", f"/{bucket[0]}%{ord(bucket[1]):02x}{bucket[2:]}", None), ("GET", f"/{bucket}", f"{bucket}.{DOMAIN}")):
        answer = raw.send(method, target, signed_without_slash("GET"), host=host)
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch"), (method, target, host)


def test_slashes_and_escapes_in_paths(signed, bucket):
    """`%2F` and `/` are the same key, and nothing is normalised away."""
    signed.put(bucket, "a/b", b"1")
    assert signed.request("GET", bucket, "a/b", path=f"/{bucket}/a%2Fb").body == b"1"
    assert signed.request("GET", bucket, "a/b", path=f"/{bucket}/%61/b").body == b"1"
    for key in ("x//y", "x/./y", "x/../y", "./x", "../x", "x/"):
        assert signed.request("PUT", bucket, key, body=key.encode()).status == 200, key
        assert signed.get(bucket, key).body == key.encode()


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_meta_by_get_announces_a_body_that_does_not_come(signed, bucket, size):
    """Clients of old read the length; whoever waits for the bytes is not left waiting, nor given another answer for them."""
    signed.put(bucket, "k", bytes(size))
    head = signed.request("HEAD", bucket, "k", query=["objectMeta"]).headers
    with signed.socket(timeout_s=20) as connection:
        second = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" if size == 0 else b""
        connection.sendall(signed.head_bytes("GET", bucket, "k", {}, query=["objectMeta"]) + second)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    first, _, rest = received.partition(b"\r\n\r\n")
    status, *lines = first.decode().split("\r\n")
    got = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert status == "HTTP/1.1 200 OK"
    assert (got["content-length"], got["etag"], got["last-modified"]) == (str(size), head["etag"], head["last-modified"])
    assert (got["connection"], rest[:8]) == (("close", b"") if size else ("keep-alive", b"HTTP/1.1"))


def test_plus_is_a_plus_in_paths(signed, bucket):
    assert signed.request("PUT", bucket, "a+b", path=f"/{bucket}/a+b", body=b"plus").status == 200
    assert signed.must("GET", bucket).texts("Contents/Key") == ["a+b"]


@pytest.mark.parametrize("path", ["/{}/%zz", "/{}/%", "/{}/%ff%fe", "/{}/a%00b"])
def test_undecodable_keys(wire, bucket, path):
    answer = wire.request("GET", bucket, "x", path=path.format(bucket))
    assert answer.status in (400, 403, 404), answer.status
    assert answer.code


# -- HTTP --------------------------------------------------------------------------------------------


def read_answer(connection):
    """Head and body of one answer on a bare socket."""
    reader = connection.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = {}
    while (line := reader.readline().strip()):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, reader.read(int(headers.get("content-length", 0)))


def test_expect_continue_is_answered(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {"Content-Length": "5", "Expect": "100-continue"}))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(b"hello")
        assert read_answer(connection)[0] == 200
    assert wire.get(bucket, "k").body == b"hello"


def test_body_of_a_refused_request_is_not_asked_for(server, wire, bucket):
    liar = server.wire(cred=Credentials(server.credentials.key_id, "wrong"))
    cases = [(liar, bucket, "k", {}, 403), (wire, "no-such-bucket-6", "k", {}, 404), (wire, bucket, "/lead", {}, 400)]
    wire.put(bucket, "there", b"")
    for raw, name, key, headers, status in cases:
        with raw.socket() as connection:
            connection.sendall(raw.head_bytes("PUT", name, key, {"Content-Length": str(1 << 30), "Expect": "100-continue", **headers}))
            assert read_answer(connection)[0] == status


def test_keep_alive_and_pipelining(wire, bucket):
    wire.put(bucket, "k", b"0123456789")
    with wire.socket() as connection:
        head = wire.head_bytes("GET", bucket, "k", {})
        for _ in range(5):
            connection.sendall(head)
            assert read_answer(connection)[2] == b"0123456789"


def test_connection_close_is_honoured(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("GET", bucket, None, {"Connection": "close"}))
        received = b""
        while (piece := connection.recv(65536)):
            received += piece
        assert received.startswith(b"HTTP/1.1 200")


def test_http_1_0(wire, bucket):
    wire.put(bucket, "k", b"old")
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("GET", bucket, "k", {}).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"))
        received = b""
        while (piece := connection.recv(65536)):
            received += piece
        assert received.endswith(b"\r\n\r\nold")


def test_chunked_body(signed, bucket):
    pieces = [b"a" * 10, b"b" * 70_000, b"c"]
    answer = signed.request("PUT", bucket, "k", body=iter(pieces))
    assert answer.status == 200
    assert signed.get(bucket, "k").body == b"".join(pieces)


def test_neither_length_nor_chunks(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {}))
        status, _, body = read_answer(connection)
    assert (status, b"<Code>MissingContentLength</Code>" in body) == (411, True)


def test_body_over_the_limit_is_refused_by_its_length(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {"Content-Length": str((5 << 30) + 1)}))
        status, _, body = read_answer(connection)
    assert (status, b"<Code>EntityTooLarge</Code>" in body) == (400, True)


@pytest.mark.parametrize("names", [("Content-Length", "Transfer-Encoding"), ("Transfer-Encoding", "Content-Length")])
def test_chunks_win_over_a_length(wire, bucket, names):
    """Whoever forwarded the request may have believed the length: it must not be what ends the body."""
    framing = {"Content-Length": "3", "Transfer-Encoding": "chunked"}
    with wire.socket() as link:
        link.sendall(wire.head_bytes("PUT", bucket, "k", {name: framing[name] for name in names}) + b"5\r\nhello\r\n0\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert wire.get(bucket, "k").body == b"hello"


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked, chunked"])
def test_bodies_come_plain_or_in_chunks(wire, bucket, coding):
    with wire.socket() as link:
        link.sendall(wire.head_bytes("PUT", bucket, "k", {"Transfer-Encoding": coding}) + b"1\r\nx\r\n0\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 501 ")
    assert wire.request("HEAD", bucket, "k").status == 404


@pytest.mark.parametrize("sent", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("old", [None, b"old"])
def test_hanging_up_mid_body_stores_nothing(wire, bucket, sent, old):
    if old:
        wire.put(bucket, "k", old)
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {"Content-Length": "4000000"}))
        connection.sendall(b"x" * sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass
    got = wire.request("GET", bucket, "k")
    assert (got.status, got.body) == (200, old) if old else got.status == 404


def test_hanging_up_mid_chunk_stores_nothing(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {"Transfer-Encoding": "chunked"}) + b"ff\r\nshort")
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        try:
            connection.recv(65536)
        except OSError:
            pass
    assert wire.request("GET", bucket, "k").status == 404


def test_malformed_chunk_stores_nothing(wire, bucket):
    with wire.socket() as connection:
        connection.sendall(wire.head_bytes("PUT", bucket, "k", {"Transfer-Encoding": "chunked"}) + b"5\r\nhello\r\nZZ\r\n")
        connection.settimeout(10)
        try:
            connection.recv(65536)
        except OSError:
            pass
    assert wire.request("GET", bucket, "k").status == 404


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                                  b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
                                  b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_junk_is_refused_and_the_server_lives(wire, bucket, junk):
    with wire.socket(timeout_s=15) as connection:
        try:
            connection.sendall(junk)
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
        assert answer == b"" or re.match(rb"HTTP/1\.[01] (4\d\d|505)", answer), answer[:100]
    assert wire.request("HEAD", bucket).status == 200


def test_slow_reader_gets_everything(wire, bucket):
    body = bytes(range(256)) * 40_000
    wire.put(bucket, "k", body)
    with wire.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(wire.head_bytes("GET", bucket, "k", {"Connection": "close"}))
        received = bytearray()
        for count in range(10**9):
            piece = connection.recv(3000 if count < 300 else 1 << 20)
            if not piece:
                break
            received += piece
            if count == 300:
                # Slow enough by now; with a window this small some kernels take minutes for the rest.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            if count < 300 and count % 30 == 0:
                time.sleep(0.02)
    assert bytes(received).split(b"\r\n\r\n", 1)[1] == body


def test_methods_that_are_not_there(wire, bucket):
    for method in ("PATCH", "TRACE", "PROPFIND"):
        answer = wire.request(method, bucket, "k")
        assert answer.status in (400, 405, 501), (method, answer.status)
        assert answer.code in ("MethodNotAllowed", "NotImplemented", "InvalidArgument")


def test_delete_objects_needs_no_more_than_its_body(signed, bucket):
    signed.put(bucket, "k", b"")
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    answer = signed.request("POST", bucket, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
    assert (answer.status, answer.texts("Deleted/Key")) == (200, ["k"])


def test_an_empty_version_id_is_not_the_current_version(signed, bucket):
    signed.put(bucket, "k", b"kept")
    for method in ("GET", "HEAD", "DELETE"):
        check_error(signed.request(method, bucket, "k", query=["versionId"]), 400, "InvalidArgument", "0012-00000201")
    body = b"<Delete><Object><Key>k</Key><VersionId></VersionId></Object></Delete>"
    answer = signed.request("POST", bucket, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
    check_error(answer, 400, "InvalidArgument", "0016-00000612")
    assert signed.get(bucket, "k").body == b"kept"


def test_a_header_that_cannot_be_read_is_not_absent(wire, bucket):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    wire.put(bucket, "k", b"kept")
    anyone = wire.clone(cred=None, auth=None)
    for name, code in (("x-oss-forbid-overwrite", "InvalidArgument"), ("Content-MD5", "InvalidDigest")):
        check_error(anyone.request("PUT", bucket, "k", body=b"lost", headers={name: b"tru\xe9"}), 400, code)
    assert wire.get(bucket, "k").body == b"kept"


def test_a_caller_who_may_not_delete_one_of_many_deletes_none(wire, bucket):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    for key in "abc":
        wire.put(bucket, key, b"kept", headers={"x-oss-object-acl": "private" if key == "b" else "default"})
    body = b"<Delete>" + b"".join(b"<Object><Key>%c</Key></Object>" % key for key in b"abc") + b"</Delete>"
    anyone = wire.clone(cred=None, auth=None)
    answer = anyone.request("POST", bucket, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
    check_error(answer, 403, "AccessDenied")
    assert [wire.get(bucket, key).body for key in "abc"] == [b"kept"] * 3


def test_xml_bodies_are_bounded(wire, bucket):
    body = b"<Delete>" + b"<!--" + b"x" * (3 << 20) + b"-->" + b"</Delete>"
    answer = wire.request("POST", bucket, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
    assert answer.status == 400
    bomb = b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>'
    answer = wire.request("POST", bucket, query=["delete"], body=bomb, headers={"Content-MD5": content_md5(bomb)})
    assert (answer.status, answer.code) == (400, "MalformedXML")


# -- answers on their way ----------------------------------------------------------------------------


def test_text_is_compressed_for_clients_that_name_gzip(signed, bucket):
    body = b"".join(b"line %d of a text\n" % n for n in range(300_000))
    for key, kind, content in (("text", "text/plain; charset=utf-8", body), ("small", "text/css", body[:1024]), ("json", "application/json", body[:70_000])):
        signed.put(bucket, key, content, {"Content-Type": kind})
        got = signed.get(bucket, key, {"Accept-Encoding": "gzip, deflate"})
        assert gzip.decompress(got.body) == content
        assert len(got.body) < len(content)
        assert (got.headers["content-encoding"], got.headers["transfer-encoding"]) == ("gzip", "chunked")
        assert got.headers["content-type"] == kind
        # They would be those of other bytes.
        assert not {"etag", "content-length", "content-md5"} & set(got.headers), got.headers


def test_everything_else_is_sent_as_it_is(signed, bucket):
    body = random.randbytes(500) * 8
    signed.put(bucket, "text", body, {"Content-Type": "text/html"})
    signed.put(bucket, "short", body[:1023], {"Content-Type": "text/html"})
    signed.put(bucket, "image", body, {"Content-Type": "image/jpeg"})
    signed.put(bucket, "packed", body, {"Content-Type": "text/html", "Content-Encoding": "br"})
    for method, key, headers, expected in (
            ("GET", "text", {}, body), ("GET", "text", {"Accept-Encoding": "br, *"}, body), ("GET", "text", {"Accept-Encoding": "gzip;q=0"}, body),
            ("GET", "text", {"Accept-Encoding": "gzip", "Range": "bytes=0-2047"}, body[:2048]), ("GET", "short", {"Accept-Encoding": "gzip"}, body[:1023]),
            ("GET", "image", {"Accept-Encoding": "gzip"}, body), ("GET", "packed", {"Accept-Encoding": "gzip"}, body),
            ("HEAD", "text", {"Accept-Encoding": "gzip"}, b"")):
        answer = signed.must(method, bucket, key, headers=headers)
        assert answer.body == expected, (method, key, headers)
        assert int(answer.headers["content-length"]) == len(expected or body)
        assert answer.headers["etag"]
        assert answer.headers.get("content-encoding") == ("br" if key == "packed" else None)


def test_traffic_limit(signed, bucket):
    body = random.randbytes(200_000)
    limit = {"x-oss-traffic-limit": "819200"}
    upload = signed.initiate(bucket, "parts")
    steps = [lambda: signed.put(bucket, "k", body, limit), lambda: signed.get(bucket, "k", limit),
             lambda: signed.get(bucket, "k", query=list(limit.items())), lambda: signed.put(bucket, "copy", b"", {"x-oss-copy-source": f"/{bucket}/k", **limit}),
             lambda: signed.upload_part(bucket, "parts", upload, 1, body, limit)]
    for number, step in enumerate(steps):
        begun = time.monotonic()
        step()
        # 100 KiB per second, but for a little at the beginning and the end.
        assert 1.4 < time.monotonic() - begun < 10, number
    assert signed.get(bucket, "k").body == signed.get(bucket, "copy").body == body
    for value in ("245759", "838860801", "x", "-1"):
        for method, content in (("GET", b""), ("PUT", b"y")):
            check_error(signed.request(method, bucket, "k", body=content, headers={"x-oss-traffic-limit": value}), 400, "InvalidArgument",
                        ArgumentName="x-oss-traffic-limit")
    assert signed.get(bucket, "k").body == body
