"""PostObject: forms as browsers and HTTP libraries send them, signed as the SDKs' samples do it."""
import base64
import datetime
import hashlib
import hmac
import json
import random

import pytest
import requests

from harness import digest, signing


def expiration(seconds=300):
    """ISO 8601 in GMT, as policies spell it."""
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def encoded(conditions, seconds=300):
    """A policy as its owner signs it; without conditions of its own one that every form keeps to."""
    conditions = conditions or [["starts-with", "$key", ""]]
    return base64.b64encode(json.dumps({"expiration": expiration(seconds), "conditions": conditions}).encode()).decode()


def signed_v1(cred, conditions, **more):
    """Fields of a V1 form."""
    policy = encoded(conditions, **more)
    signature = hmac.new(cred.secret.encode(), policy.encode(), hashlib.sha1).digest()
    return {"OSSAccessKeyId": cred.key_id, "policy": policy, "Signature": base64.b64encode(signature).decode()}


def signed_v4(cred, conditions, leave_out=None, **more):
    """Fields of a V4 form, its own conditions included but for one."""
    stamp = signing.v4_stamp()
    own = {"x-oss-signature-version": "OSS4-HMAC-SHA256",
           "x-oss-credential": f"{cred.key_id}/{stamp[:8]}/{cred.region}/oss/aliyun_v4_request", "x-oss-date": stamp}
    policy = encoded([{name: value} for name, value in own.items() if name != leave_out] + conditions, **more)
    key = ("aliyun_v4" + cred.secret).encode()
    for part in (stamp[:8], cred.region, "oss", "aliyun_v4_request", policy):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return {**own, "policy": policy, "x-oss-signature": key.hex()}


SIGNERS = {"v1": signed_v1, "v4": signed_v4}


@pytest.fixture(params=sorted(SIGNERS))
def sign(request, server):
    """Signs a policy with each version."""
    return lambda conditions, **more: SIGNERS[request.param](server.credentials, conditions, **more)


def post(server, bucket, fields, body, name="photo.png", content_type="image/png", **more):
    """Posts a form with `requests`; the file comes last."""
    url = f"{server.endpoint}/{bucket}"
    part = (name, body, content_type) if content_type else (name, body)
    return requests.post(url, data=fields, files={"file": part}, timeout=60, allow_redirects=False, **more)


def code(answer):
    """The error code of an answer."""
    return answer.text.split("<Code>")[1].split("</Code>")[0] if "<Code>" in answer.text else ""


@pytest.mark.parametrize("size", [0, 1, 65537, (4 << 20) + 1])
def test_bytes_and_headers(server, wire, bucket, sign, size):
    body = random.randbytes(size)
    fields = {"key": "dir/${filename}", "x-oss-meta-a": "1", "Cache-Control": "max-age=7",
              **sign([{"bucket": bucket}, ["starts-with", "$key", "dir/"], ["content-length-range", 0, 10 << 20],
                      ["in", "$content-type", ["image/png"]]])}
    answer = post(server, bucket, fields, body, name="ü x.png")
    assert (answer.status_code, answer.content) == (204, b""), answer.text
    assert answer.headers["ETag"] == f'"{digest.etag(body)}"'
    assert answer.headers["x-oss-hash-crc64ecma"] == str(digest.crc64(body))
    got = wire.get(bucket, "dir/ü x.png")
    assert got.body == body
    assert (got.headers["content-type"], got.headers["cache-control"], got.headers["x-oss-meta-a"]) == ("image/png", "max-age=7", "1")


def test_virtual_host(server, wire, bucket, sign):
    host = f"{bucket}.oss.granary.test:{server.port}"
    answer = requests.post(f"http://{host}/", data={"key": "k", "success_action_status": "201", **sign([])},
                           files={"file": b"x"}, timeout=60)
    assert answer.status_code == 201
    assert f"<Location>http://{host}/k</Location>" in answer.text
    assert f"<Bucket>{bucket}</Bucket>" in answer.text and "<Key>k</Key>" in answer.text
    assert wire.get(bucket, "k").body == b"x"


@pytest.mark.parametrize("status, expected", [("200", 200), ("201", 201), ("204", 204), ("500", 204), (None, 204)])
def test_success_status(server, bucket, sign, status, expected):
    fields = {"key": "k", **({"success_action_status": status} if status else {}), **sign([])}
    assert post(server, bucket, fields, b"x").status_code == expected


def test_success_redirect(server, bucket, sign):
    page = "http://site.example/done?a=b"
    answer = post(server, bucket, {"key": "a b", "success_action_redirect": page, **sign([])}, b"x")
    assert answer.status_code == 303
    assert answer.headers["Location"] == f"{page}&bucket={bucket}&key=a%20b&etag=%22{digest.etag(b'x')}%22"


@pytest.mark.parametrize("conditions, message", [
    ([{"bucket": "other"}], 'Policy Condition failed: ["eq", "$bucket", "other"]'),
    ([["starts-with", "$key", "admin/"]], 'Policy Condition failed: ["starts-with", "$key", "admin/"]'),
    ([["in", "$content-type", ["image/jpg"]]], 'Policy Condition failed: ["in", "$content-type", ["image/jpg"]]'),
    ([["not-in", "$key", ["k"]]], 'Policy Condition failed: ["not-in", "$key", ["k"]]'),
])
def test_conditions(server, wire, bucket, sign, conditions, message):
    answer = post(server, bucket, {"key": "k", **sign(conditions)}, b"x")
    assert (answer.status_code, code(answer)) == (403, "AccessDenied")
    assert message in answer.text.replace("&quot;", '"')
    assert wire.request("GET", bucket, "k").status == 404


@pytest.mark.parametrize("field", ["x-oss-signature-version", "x-oss-credential", "x-oss-date"])
def test_a_policy_names_its_signature(server, wire, bucket, field):
    answer = post(server, bucket, {"key": "k", **signed_v4(server.credentials, [], leave_out=field)}, b"x")
    assert (answer.status_code, code(answer), answer.headers["x-oss-ec"]) == (403, "AccessDenied", "0006-00000228")
    assert f"Invalid according to Policy: Extra input fields: {field}<" in answer.text
    assert wire.request("GET", bucket, "k").status == 404


def test_expired(server, bucket, sign):
    answer = post(server, bucket, {"key": "k", **sign([], seconds=-1)}, b"x")
    assert (answer.status_code, code(answer)) == (403, "AccessDenied")
    assert "Invalid according to Policy: Policy expired." in answer.text


@pytest.mark.parametrize("size, expected", [(9, "EntityTooSmall"), (10, ""), (100, ""), (101, "EntityTooLarge"), (3_000_000, "EntityTooLarge")])
def test_length_range(server, wire, bucket, sign, size, expected):
    answer = post(server, bucket, {"key": "k", **sign([["content-length-range", 10, 100]])}, bytes(size))
    assert code(answer) == expected
    assert wire.request("GET", bucket, "k").status == (404 if expected else 200)


def test_wrong_keys(server, bucket, sign):
    good = {"key": "k", **sign([])}
    for field in ("Signature", "x-oss-signature"):
        if field in good:
            answer = post(server, bucket, {**good, field: good[field][:-4] + "AAA="}, b"x")
            assert (answer.status_code, code(answer)) == (403, "SignatureDoesNotMatch")
    stranger = signing.Credentials("nobody", "secret")
    answer = post(server, bucket, {"key": "k", **signed_v1(stranger, [])}, b"x")
    assert (answer.status_code, code(answer)) == (403, "InvalidAccessKeyId")
    answer = post(server, bucket + "-none", {"key": "k", **signed_v1(stranger, [])}, b"x")
    assert (answer.status_code, code(answer)) == (404, "NoSuchBucket")
    assert code(post(server, bucket, {"key": "k"}, b"x")) == "AccessDenied"
    for field in ("OSSAccessKeyId", "policy", "Signature"):
        rest = {name: value for name, value in signed_v1(server.credentials, []).items() if name != field}
        answer = post(server, bucket, {"key": "k", **rest}, b"x")
        assert (answer.status_code, code(answer)) == (400, "InvalidArgument"), field


def test_anonymous_on_an_open_bucket(server, wire, bucket):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    # Views of a bucket may be a second old.
    for _ in range(60):
        answer = post(server, bucket, {"key": "k"}, b"x")
        if answer.status_code == 204:
            break
    assert answer.status_code == 204, answer.text
    assert wire.get(bucket, "k").body == b"x"


def raw(server, bucket, body, content_type="multipart/form-data; boundary=b", **headers):
    """A body made by hand; an iterable goes out in chunks."""
    return requests.post(f"{server.endpoint}/{bucket}", data=body, headers={"Content-Type": content_type, **headers}, timeout=60)


def part(name, value, more=""):
    """One part of a form made by hand."""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


@pytest.mark.parametrize("build, expected", [
    (lambda f: f + part("file", "x") + "--b--", ""),
    (lambda f: "preamble\r\n" + f + part("FILE", "x") + "--b--\r\nepilogue", ""),
    (lambda f: f + part("file", "x") + part("submit", "Upload to OSS") + "--b--", ""),
    (lambda f: f + part("file", "x") + part("submit", "go") + part("x-oss-meta-a", "1") + "--b--", "MalformedPOSTRequest"),
    (lambda f: f + part("file", "x") + part("success_action_status", "200") + "--b--", "MalformedPOSTRequest"),
    (lambda f: f + part("key", "other") + part("file", "x") + "--b--", ""),
    (lambda f: f + part("file", "x"), "MalformedPOSTRequest"),
    (lambda f: f + "--b\r\n\r\nx\r\n" + part("file", "x") + "--b--", "MalformedPOSTRequest"),
    (lambda f: f + part("file", "x") + part("file", "y") + "--b--", "IncorrectNumberOfFilesInPOSTRequest"),
    (lambda f: f + "--b--", "IncorrectNumberOfFilesInPOSTRequest"),
    (lambda f: f.replace('name="key"', 'name="kex"') + part("file", "x") + "--b--", "IncorrectNumberOfFilesInPOSTRequest"),
    (lambda f: f + part("long", "v" * (2 << 20) + "v") + part("file", "x") + "--b--", "FieldItemTooLong"),
    (lambda f: f + part("n" * 8193, "") + part("file", "x") + "--b--", "FieldItemTooLong"),
    (lambda f: f + part("x-oss-tagging", "a=b") + part("file", "x") + "--b--", "NotImplemented"),
    (lambda f: f + part("x-oss-server-side-encryption", "AES256") + part("file", "x") + "--b--", "NotImplemented"),
    (lambda f: f + part("file", "eA==", "\r\nContent-Transfer-Encoding: base64") + "--b--", "NotImplemented"),
])
def test_forms_made_by_hand(server, wire, bucket, sign, build, expected):
    fields = "".join(part(name, value) for name, value in {"key": "k", **sign([])}.items())
    body = build(fields).encode()
    for sent in (body, (body[at:at + 11] for at in range(0, len(body), 11)) if len(body) < 10_000 else body):
        answer = raw(server, bucket, sent)
        assert code(answer) == expected, answer.text
        got = wire.request("GET", bucket, "k")
        assert (got.status, got.body if got.status == 200 else b"") == ((404, b"") if expected else (200, b"x"))


@pytest.mark.parametrize("content_type, expected", [
    ("text/plain", "RequestIsNotMultiPartContent"),
    ("application/x-www-form-urlencoded", "RequestIsNotMultiPartContent"),
    ("multipart/mixed; boundary=b", "RequestIsNotMultiPartContent"),
    ("multipart/form-data", "MalformedPOSTRequest"),
    ("multipart/form-data; boundary=" + "b" * 71, "MalformedPOSTRequest"),
])
def test_other_bodies(server, bucket, content_type, expected):
    answer = raw(server, bucket, part("file", "x") + "--b--", content_type)
    assert (answer.status_code, code(answer)) == (400, expected)


def test_boundary_in_the_file(server, wire, bucket, sign):
    fields = "".join(part(name, value) for name, value in {"key": "k", **sign([])}.items())
    content = "\r\n--c\r\n--b1\r\n--b-\r\n--\r\r\n-\r\n--b x"
    body = (fields + part("file", content) + "--b--").encode()
    answer = raw(server, bucket, (body[at:at + 1] for at in range(len(body))))
    assert answer.status_code == 204, answer.text
    assert wire.get(bucket, "k").body == content.encode()


def test_whole_body_digest(server, bucket, sign):
    body = ("".join(part(name, value) for name, value in {"key": "k", **sign([])}.items()) + part("file", "x") + "--b--").encode()
    good = base64.b64encode(hashlib.md5(body).digest()).decode()
    assert raw(server, bucket, body, **{"Content-MD5": good}).status_code == 204
    answer = raw(server, bucket, body, **{"Content-MD5": base64.b64encode(bytes(16)).decode()})
    assert (answer.status_code, code(answer)) == (400, "InvalidDigest")
