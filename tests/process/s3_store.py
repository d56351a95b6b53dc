"""A bucket in memory that speaks as much of S3 as `granary bench` asks for, and checks every signature.

The signatures are written from Amazon's documents, not from the code that makes them.
"""
import hashlib
import hmac
import http.server
import re
import threading
import urllib.parse

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request,"
                         r"SignedHeaders=(?P<names>[a-z0-9;-]+),Signature=(?P<signature>[0-9a-f]{64})")


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class S3Store:
    """Listens on a local port. `damage` changes what a GET answers: (number of the GET, body) to body."""

    def __init__(self, key_id, secret, region, damage=lambda number, body: body):
        self.key_id, self.secret, self.region, self.damage = key_id, secret, region, damage
        self.objects, self.refused, self.gets, self.lock = {}, [], 0, threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        """Stops."""
        self._server.shutdown()
        self._server.server_close()

    def _is_signed(self, request):
        claim = _CREDENTIAL.fullmatch(request.headers.get("authorization", ""))
        if not claim or (claim["id"], claim["region"]) != (self.key_id, self.region):
            return False
        names = claim["names"].split(";")
        sent = sorted(name.lower() for name in request.headers if name.lower().startswith("x-amz-"))
        if not {"host", "x-amz-date", "x-amz-content-sha256", *sent} <= set(names) or request.headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD":
            return False
        url = urllib.parse.urlsplit(request.path)
        pairs = sorted(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        query = "&".join(f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}" for k, v in pairs)
        headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
        canonical = "\n".join([request.command, url.path, query, headers, claim["names"], "UNSIGNED-PAYLOAD"])
        scope = f"{claim['day']}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in (claim["day"], self.region, "s3", "aws4_request", text):
            key = _hmac(key, part)
        return key.hex() == claim["signature"]

    def _page(self, query):
        most, prefix, after = int(query["max-keys"][0]), query["prefix"][0], query.get("start-after", [""])[0]
        with self.lock:
            keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)[:most]
        return "<ListBucketResult>" + "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys) + "</ListBucketResult>"

    def _handler(store):  # pylint: disable=no-self-argument
        class Handler(http.server.BaseHTTPRequestHandler):
            """One connection."""
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _answer(self, status, body=b"", etag=None):
                self.send_response(status)
                if etag:
                    self.send_header("ETag", etag)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _serve(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                url = urllib.parse.urlsplit(self.path)
                key = url.path.removeprefix("/bucket/")
                query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
                if not store._is_signed(self):  # pylint: disable=protected-access
                    store.refused.append(f"{self.command} {self.path} {self.headers}")
                    self._answer(403, b"<Error><Code>SignatureDoesNotMatch</Code><Message>It does not.</Message></Error>")
                elif not key and "list-type" in query:
                    self._answer(200, store._page(query).encode())  # pylint: disable=protected-access
                elif not key:
                    self._answer(501, b"<Error><Code>NotImplemented</Code><Message>Not here.</Message></Error>")
                elif self.command == "PUT":
                    with store.lock:
                        store.objects[key] = body
                    self._answer(200, etag=f'"{hashlib.md5(body).hexdigest()}"')
                elif self.command == "DELETE":
                    with store.lock:
                        store.objects.pop(key, None)
                    self._answer(204)
                elif key not in store.objects:
                    self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>No.</Message></Error>")
                else:
                    body = store.objects[key]
                    etag = f'"{hashlib.md5(body).hexdigest()}"'
                    if self.command == "GET":
                        with store.lock:
                            store.gets += 1
                            number = store.gets
                        body = store.damage(number, body)
                    self._answer(200, body, etag)

            do_GET = do_HEAD = do_PUT = do_DELETE = _serve

            def log_message(self, *_):  # pylint: disable=arguments-differ
                """Says nothing."""

        return Handler
