"""A client that sends exactly what it is told: raw HTTP with signatures of any version.

It neither retries nor repairs, so that a test sees the server's own behaviour.
"""
import base64
import hashlib
import http.client
import socket
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

from . import signing


@dataclass
class Response:
    """An answer as it came: status, headers by lower-case name, whole body."""
    status: int
    reason: str
    headers: dict
    body: bytes
    header_pairs: list = field(default_factory=list)

    @property
    def xml(self):
        """The root element of the body."""
        return ElementTree.fromstring(self.body)

    @property
    def error(self):
        """The error as {element: text}, from the body or, for HEAD, from `x-oss-err`."""
        body = self.body or base64.b64decode(self.headers.get("x-oss-err", ""))
        root = ElementTree.fromstring(body)
        assert root.tag == "Error", root.tag
        return {child.tag: child.text or "" for child in root}

    @property
    def code(self):
        """The error code, '' for a success."""
        return self.error["Code"] if self.status >= 300 else ""

    def text(self, path):
        """Text of the element at `path`, '' if empty, None if absent."""
        found = self.xml.find(path)
        return None if found is None else (found.text or "")

    def texts(self, path):
        """Texts of all elements at `path`."""
        return [found.text or "" for found in self.xml.findall(path)]


class Wire:
    """Signs and sends single requests to one server.

    One connection is kept per instance, so an instance belongs to one thread.
    """

    def __init__(self, host, port, cred, auth="v4", timeout_s=60):
        self.host, self.port, self.cred, self.auth, self.timeout_s = host, port, cred, auth, timeout_s
        self._connection = None

    def clone(self, **changes):
        """A client with its own connection and some settings changed."""
        settings = dict(host=self.host, port=self.port, cred=self.cred, auth=self.auth, timeout_s=self.timeout_s)
        settings.update(changes)
        return Wire(**settings)

    @property
    def netloc(self):
        """`host:port` of the server."""
        return f"{self.host}:{self.port}"

    def path(self, bucket, key, host=None):
        """Percent-encoded path; with a `host` that names the bucket, without the bucket."""
        if bucket is None:
            return "/"
        encoded = "" if key is None else signing.escape(key, safe="-_.~/")
        return f"/{encoded}" if host else f"/{bucket}/{encoded}"

    def signed(self, method, bucket, key, query, headers, auth, at=None, additional=()):
        """Headers with a signature of the version `auth` (v1, v2, v4, or None for none)."""
        if auth is None:
            return dict(headers)
        if auth == "v1":
            return signing.v1_header(self.cred, method, bucket, key, query, headers, at)
        if auth == "v2":
            return signing.v2_header(self.cred, method, bucket, key, query, headers, at, additional)
        return signing.v4_header(self.cred, method, bucket, key, query, headers, at, additional)

    def request(self, method, bucket=None, key=None, query=(), headers=None, body=b"", auth="default",
                host=None, at=None, path=None, additional=()):
        """Sends one request. `body` is bytes or an iterator (then chunked); `host` sets virtual-host style;
        `path` replaces the whole request target."""
        pairs = list(query.items()) if isinstance(query, dict) else [(q, "") if isinstance(q, str) else q for q in query]
        auth = self.auth if auth == "default" else auth
        full = self.signed(method, bucket, key, pairs, headers or {}, auth, at, additional)
        target = path or self.path(bucket, key, host) + (f"?{signing.query_text(pairs)}" if pairs else "")
        return self.send(method, target, full, body, host)

    def send(self, method, target, headers, body=b"", host=None):
        """Sends a request line and headers as given and reads the whole answer."""
        for attempt in (1, 2):
            fresh = self._connection is None
            if fresh:
                self._connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
            try:
                return self._exchange(method, target, headers, body, host)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                # A kept connection may have been closed by the server while idle; a fresh one may not.
                if fresh or attempt == 2 or not isinstance(body, bytes):
                    raise
            except Exception:
                self.close()
                raise

    def _exchange(self, method, target, headers, body, host):
        connection = self._connection
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or self.netloc)
        names = {name.lower() for name in headers}
        for name, value in headers.items():
            connection.putheader(name, value.encode() if isinstance(value, str) else value)
        if isinstance(body, bytes):
            if "content-length" not in names and "transfer-encoding" not in names and (body or method in ("PUT", "POST")):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
        else:
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(body, encode_chunked=True)
        answer = connection.getresponse()
        payload = answer.read()
        if answer.will_close:
            self.close()
        pairs = answer.getheaders()
        return Response(answer.status, answer.reason, {k.lower(): v for k, v in pairs}, payload, pairs)

    def close(self):
        """Drops the kept connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def socket(self, timeout_s=None):
        """A bare TCP connection to the server."""
        return socket.create_connection((self.host, self.port), timeout=timeout_s or self.timeout_s)

    def head_bytes(self, method, bucket, key, headers, query=(), auth="default"):
        """The signed request head as bytes, for tests that drive the socket themselves."""
        pairs = [(q, "") if isinstance(q, str) else q for q in query]
        auth = self.auth if auth == "default" else auth
        full = {"Host": self.netloc, **self.signed(method, bucket, key, pairs, headers, auth)}
        target = self.path(bucket, key) + (f"?{signing.query_text(pairs)}" if pairs else "")
        lines = [f"{method} {target} HTTP/1.1"] + [f"{k}: {v}" for k, v in full.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def url(self, method, bucket, key, query=(), headers=None, expires_s=600, auth="default", at=None):
        """A signed request target (path and query)."""
        pairs = list(query)
        auth = self.auth if auth == "default" else auth
        start = time.time() if at is None else at
        if auth == "v1":
            full = signing.v1_query(self.cred, method, bucket, key, pairs, headers or {}, start + expires_s)
        elif auth == "v2":
            full = signing.v2_query(self.cred, method, bucket, key, pairs, headers or {}, start + expires_s)
        else:
            full = signing.v4_query(self.cred, method, bucket, key, pairs, headers or {}, expires_s, at)
        return f"{self.path(bucket, key)}?{signing.query_text(full)}"

    # The few calls that set up and tear down what a test is about.

    def must(self, method, bucket=None, key=None, expect=(200, 204, 206), **more):
        """A request that has to succeed."""
        answer = self.request(method, bucket, key, **more)
        assert answer.status in expect, f"{method} {bucket}/{key}: {answer.status} {answer.body[:600]!r}"
        return answer

    def put(self, bucket, key, body, headers=None):
        """PutObject that has to succeed."""
        return self.must("PUT", bucket, key, body=body, headers=headers or {})

    def get(self, bucket, key, headers=None, query=()):
        """GetObject that has to succeed."""
        return self.must("GET", bucket, key, headers=headers or {}, query=query)

    def delete_bucket_with_contents(self, bucket):
        """Removes a bucket, its objects and its unfinished uploads."""
        while True:
            answer = self.request("GET", bucket, query=[("max-keys", "1000"), ("encoding-type", "url")])
            if answer.status == 404:
                return
            assert answer.status == 200, answer.body
            keys = [_unquote(k) for k in answer.texts("Contents/Key")]
            if not keys:
                break
            self.delete_objects(bucket, keys)
        while True:
            answer = self.must("GET", bucket, query=["uploads", ("max-uploads", "1000"), ("encoding-type", "url")])
            uploads = [(_unquote(u.findtext("Key")), u.findtext("UploadId")) for u in answer.xml.findall("Upload")]
            if not uploads:
                break
            for key, upload_id in uploads:
                self.must("DELETE", bucket, key, query=[("uploadId", upload_id)])
        self.must("DELETE", bucket)

    def delete_objects(self, bucket, keys, quiet=True):
        """DeleteMultipleObjects that has to succeed."""
        body = delete_body(keys, quiet)
        return self.must("POST", bucket, query=["delete", ("encoding-type", "url")], body=body,
                         headers={"Content-MD5": content_md5(body)})

    def initiate(self, bucket, key, headers=None):
        """InitiateMultipartUpload; returns the upload id."""
        return self.must("POST", bucket, key, query=["uploads"], headers=headers or {}).text("UploadId")

    def upload_part(self, bucket, key, upload_id, number, body, headers=None):
        """UploadPart that has to succeed; returns the quoted ETag."""
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        return self.must("PUT", bucket, key, query=query, body=body, headers=headers or {}).headers["etag"]

    def complete(self, bucket, key, upload_id, parts, headers=None):
        """CompleteMultipartUpload with [(number, etag)], whatever comes of it."""
        return self.request("POST", bucket, key, query=[("uploadId", upload_id)], body=complete_body(parts),
                            headers=headers or {})


def _unquote(text):
    return urllib.parse.unquote(text or "")


def content_md5(body):
    """The Content-MD5 of a body."""
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def xml_escape(text):
    """Escapes text for XML, control characters as references."""
    out = []
    for char in text:
        if char in "<>&\"'" or ord(char) < 0x20:
            out.append(f"&#x{ord(char):x};")
        else:
            out.append(char)
    return "".join(out)


def delete_body(keys, quiet):
    """The request body of DeleteMultipleObjects."""
    objects = "".join(f"<Object><Key>{xml_escape(k)}</Key></Object>" for k in keys)
    return f"<Delete><Quiet>{'true' if quiet else 'false'}</Quiet>{objects}</Delete>".encode()


def complete_body(parts):
    """The request body of CompleteMultipartUpload."""
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{xml_escape(e)}</ETag></Part>" for n, e in parts)
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
