"""The suite's own signatures agree with the official clients', so that a refusal is the server's doing."""
import email.utils

import alibabacloud_oss_v2 as ossv2
import oss2
import pytest

from harness import signing
from harness.signing import Credentials

CRED = Credentials("keyId", "keySecret", "cn-granary-1")
CASES = [
    ("GET", None, "", {}, {}),
    ("GET", "bucket", "", {"prefix": "a b/ä", "max-keys": "3"}, {}),
    ("PUT", "bucket", "dir/k +%ü", {}, {"Content-Type": "text/x", "Content-MD5": "abc==", "x-oss-meta-b": "2", "x-oss-meta-a": "1"}),
    ("POST", "bucket", "k", {"uploads": ""}, {"x-oss-tagging": "a=b"}),
    ("PUT", "bucket", "k", {"partNumber": "3", "uploadId": "ABC"}, {}),
]


def as_oss2(auth, method, bucket, key, query, headers):
    """The headers `oss2` would send."""
    request = oss2.http.Request(method, "http://127.0.0.1/x", params=dict(query), headers=oss2.CaseInsensitiveDict(headers),
                                region=CRED.region, product="oss")
    oss2.make_auth(CRED.key_id, CRED.secret, auth)._sign_request(request, bucket or "", key)
    return {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize("method, bucket, key, query, headers", CASES)
def test_v1(method, bucket, key, query, headers):
    sent = as_oss2("v1", method, bucket, key, query, headers)
    at = email.utils.parsedate_to_datetime(sent["date"]).timestamp()
    ours = signing.v1_header(CRED, method, bucket, key, list(query.items()), {k: v for k, v in sent.items() if k not in ("authorization", "date")}, at)
    assert ours["Authorization"] == sent["authorization"]


@pytest.mark.parametrize("method, bucket, key, query, headers", CASES + [("GET", "bucket", "k", {}, {"Range": "bytes=0-1"})])
def test_v2(method, bucket, key, query, headers):
    sent = as_oss2("v2", method, bucket, key, query, headers)
    additional = ("range",) if "Range" in headers else ()
    ours = signing.v2_header(CRED, method, bucket, key, list(query.items()), {k: v for k, v in sent.items() if k != "authorization"}, additional=additional)
    assert ours["Authorization"] == sent["authorization"]


@pytest.mark.parametrize("method, bucket, key, query, headers", CASES)
def test_v4(method, bucket, key, query, headers):
    sent = as_oss2("v4", method, bucket, key, query, headers)
    ours = signing.v4_header(CRED, method, bucket, key, list(query.items()), {k: v for k, v in sent.items() if k != "authorization"})
    assert ours["Authorization"].rpartition("Signature=")[2] == sent["authorization"].rpartition("Signature=")[2].split(",")[0]


@pytest.mark.parametrize("method, bucket, key, query, headers", CASES)
def test_v4_of_the_other_client(method, bucket, key, query, headers):
    target = f"http://127.0.0.1/{bucket or ''}{'/' if bucket else ''}{signing.escape(key, safe='-_.~/')}"
    if query:
        target += "?" + signing.query_text(list(query.items()))
    request = ossv2.HttpRequest(method=method, url=target)
    request.headers.update(headers)
    context = ossv2.SigningContext(product="oss", region=CRED.region, bucket=bucket, key=key or None, request=request)
    context.credentials = ossv2.credentials.StaticCredentialsProvider(CRED.key_id, CRED.secret).get_credentials()
    ossv2.signer.SignerV4().sign(context)
    sent = {name.lower(): value for name, value in request.headers.items()}
    ours = signing.v4_header(CRED, method, bucket, key, list(query.items()), {k: v for k, v in sent.items() if k != "authorization"})
    assert ours["Authorization"] == sent["authorization"]
