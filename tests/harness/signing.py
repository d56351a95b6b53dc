"""OSS request signatures, written from the protocol and not taken from an SDK.

The suites need them to send what no SDK would send. Knows no sockets and no server.
"""
import base64
import datetime
import email.utils
import hashlib
import hmac
import time
import urllib.parse
from dataclasses import dataclass

# Query keys that are part of the V1 string to sign, for the operations these suites call.
V1_SIGNED_KEYS = frozenset("""
acl append bucketInfo callback callback-var cname comp continuation-token cors delete encryption
endTime inventory inventoryId lifecycle live location logging metaQuery objectMeta partNumber policy
policyStatus position qosInfo referer replication replicationLocation replicationProgress
requestPayment resourceGroup response-cache-control response-content-disposition
response-content-encoding response-content-language response-content-type response-expires restore
security-token sequential startTime stat status style styleName symlink tagging
transferAcceleration uploadId uploads versionId versioning versions vod website worm wormExtend
wormId x-oss-async-process x-oss-delete x-oss-dir x-oss-process x-oss-rename x-oss-request-payer
x-oss-traffic-limit
""".split())


@dataclass(frozen=True)
class Credentials:
    """An access key, its secret and the region V4 signs for."""
    key_id: str
    secret: str
    region: str = "cn-granary-1"


def http_date(at=None):
    """RFC 1123 date of a unix time (default: now)."""
    return email.utils.formatdate(time.time() if at is None else at, usegmt=True)


def escape(text, safe="-_.~"):
    """Percent-encodes all but the unreserved characters."""
    return urllib.parse.quote(text, safe=safe)


def query_text(query):
    """Renders (key, value) pairs; a value of None or '' gives the bare key."""
    return "&".join(escape(k) if v in (None, "") else f"{escape(k)}={escape(str(v))}" for k, v in query)


def _lowered(headers):
    return {k.lower(): str(v).strip() for k, v in headers.items()}


def _oss_headers(headers):
    lowered = _lowered(headers)
    return "".join(f"{k}:{lowered[k]}\n" for k in sorted(lowered) if k.startswith("x-oss-"))


def v1_resource(bucket, key, query):
    """The resource line of a V1 string to sign."""
    resource = "/" if bucket is None else f"/{bucket}/{key or ''}"
    signed = sorted((k, v) for k, v in query if k in V1_SIGNED_KEYS)
    if signed:
        resource += "?" + "&".join(k if v in (None, "") else f"{k}={v}" for k, v in signed)
    return resource


def v1_signature(cred, method, bucket, key, query, headers, date):
    """Base64 V1 signature; `date` is the Date header or, for a URL, the expiry."""
    lowered = _lowered(headers)
    text = "\n".join([method, lowered.get("content-md5", ""), lowered.get("content-type", ""), str(date),
                      _oss_headers(headers) + v1_resource(bucket, key, query)])
    digest = hmac.new(cred.secret.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def v1_header(cred, method, bucket, key, query, headers, at=None):
    """Adds Date and Authorization to a copy of `headers`."""
    signed = dict(headers)
    lowered = _lowered(headers)
    date = lowered.get("x-oss-date") or lowered.get("date") or http_date(at)
    if "x-oss-date" not in lowered and "date" not in lowered:
        signed["Date"] = date
    signature = v1_signature(cred, method, bucket, key, query, signed, date)
    signed["Authorization"] = f"OSS {cred.key_id}:{signature}"
    return signed


def v1_query(cred, method, bucket, key, query, headers, expires_at):
    """The query of a V1 URL that is good until the unix time `expires_at`."""
    signature = v1_signature(cred, method, bucket, key, query, headers, int(expires_at))
    return list(query) + [("OSSAccessKeyId", cred.key_id), ("Expires", str(int(expires_at))), ("Signature", signature)]


def v2_signature(cred, method, bucket, key, query, headers, date, additional=()):
    """Base64 V2 signature; `date` is the Date header or, for a URL, the expiry. All of the query is signed."""
    lowered = _lowered(headers)
    names = sorted(name for name in lowered if name.startswith("x-oss-") or name in additional)
    resource = escape("/" if bucket is None else f"/{bucket}/{key or ''}")
    pairs = sorted((escape(k), "" if v in (None, "") else escape(str(v))) for k, v in query)
    if pairs:
        resource += "?" + "&".join(k if v == "" else f"{k}={v}" for k, v in pairs)
    text = "\n".join([method, lowered.get("content-md5", ""), lowered.get("content-type", ""), str(date),
                      "".join(f"{name}:{lowered[name]}\n" for name in names) + ";".join(sorted(additional)), resource])
    digest = hmac.new(cred.secret.encode(), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def v2_header(cred, method, bucket, key, query, headers, at=None, additional=()):
    """Adds Date and Authorization to a copy of `headers`."""
    signed = dict(headers)
    lowered = _lowered(headers)
    date = lowered.get("x-oss-date") or lowered.get("date") or http_date(at)
    if "x-oss-date" not in lowered and "date" not in lowered:
        signed["Date"] = date
    signature = v2_signature(cred, method, bucket, key, query, signed, date, additional)
    extra = f",AdditionalHeaders:{';'.join(sorted(additional))}" if additional else ""
    signed["Authorization"] = f"OSS2 AccessKeyId:{cred.key_id}{extra},Signature:{signature}"
    return signed


def v2_query(cred, method, bucket, key, query, headers, expires_at, additional=()):
    """The query of a V2 URL that is good until the unix time `expires_at`."""
    full = list(query) + [
        ("x-oss-signature-version", "OSS2"),
        ("x-oss-expires", str(int(expires_at))),
        ("x-oss-access-key-id", cred.key_id),
    ]
    if additional:
        full.append(("x-oss-additional-headers", ";".join(sorted(additional))))
    signature = v2_signature(cred, method, bucket, key, full, headers, int(expires_at), additional)
    return full + [("x-oss-signature", signature)]


def v4_canonical(method, bucket, key, query, headers, additional, payload):
    """The canonical request of V4."""
    if bucket is None:
        uri = "/"
    else:
        uri = escape(f"/{bucket}/{key or ''}", safe="-_.~/")
    pairs = sorted((escape(k), "" if v in (None, "") else escape(str(v))) for k, v in query)
    query_line = "&".join(k if v == "" else f"{k}={v}" for k, v in pairs)
    lowered = _lowered(headers)
    signed = sorted(k for k in lowered
                    if k.startswith("x-oss-") or k in ("content-type", "content-md5") or k in additional)
    header_lines = "".join(f"{k}:{lowered[k]}\n" for k in signed)
    return "\n".join([method, uri, query_line, header_lines, ";".join(sorted(additional)), payload])


def v4_signature(cred, method, bucket, key, query, headers, stamp, additional=(), payload="UNSIGNED-PAYLOAD"):
    """Hex V4 signature for the ISO 8601 basic time `stamp`."""
    scope = f"{stamp[:8]}/{cred.region}/oss/aliyun_v4_request"
    canonical = v4_canonical(method, bucket, key, query, headers, additional, payload)
    text = f"OSS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    secret = ("aliyun_v4" + cred.secret).encode()
    for part in (stamp[:8], cred.region, "oss", "aliyun_v4_request"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def v4_stamp(at=None):
    """`yyyymmddThhmmssZ` of a unix time (default: now)."""
    moment = datetime.datetime.fromtimestamp(time.time() if at is None else at, datetime.timezone.utc)
    return moment.strftime("%Y%m%dT%H%M%SZ")


def v4_header(cred, method, bucket, key, query, headers, at=None, additional=()):
    """Adds x-oss-date, x-oss-content-sha256 and Authorization to a copy of `headers`."""
    signed = dict(headers)
    stamp = _lowered(headers).get("x-oss-date") or v4_stamp(at)
    signed["x-oss-date"] = stamp
    signed.setdefault("x-oss-content-sha256", "UNSIGNED-PAYLOAD")
    signature = v4_signature(cred, method, bucket, key, query, signed, stamp, additional)
    credential = f"{cred.key_id}/{stamp[:8]}/{cred.region}/oss/aliyun_v4_request"
    extra = f",AdditionalHeaders={';'.join(sorted(additional))}" if additional else ""
    signed["Authorization"] = f"OSS4-HMAC-SHA256 Credential={credential}{extra},Signature={signature}"
    return signed


def v4_query(cred, method, bucket, key, query, headers, expires_s, at=None, additional=()):
    """The query of a V4 URL that is good for `expires_s` seconds from `at`."""
    stamp = v4_stamp(at)
    full = list(query) + [
        ("x-oss-signature-version", "OSS4-HMAC-SHA256"),
        ("x-oss-credential", f"{cred.key_id}/{stamp[:8]}/{cred.region}/oss/aliyun_v4_request"),
        ("x-oss-date", stamp),
        ("x-oss-expires", str(expires_s)),
    ]
    if additional:
        full.append(("x-oss-additional-headers", ";".join(sorted(additional))))
    signature = v4_signature(cred, method, bucket, key, full, headers, stamp, additional)
    return full + [("x-oss-signature", signature)]
