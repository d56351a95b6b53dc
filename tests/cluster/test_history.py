"""The clients and their judge, against one `granary server` that is killed, and against stores that lie."""
import http.server
import random
import threading
import urllib.parse

import pytest

from harness import digest
from harness.history import Ballast, Gateways, History, Load, Surprise, check_everything
from harness.server import Server
from harness.signing import Credentials

BUCKET = "history-bucket"


def test_a_server_killed_under_load_is_linearizable(tmp_path, seed, say):
    server = Server([tmp_path / "d0", tmp_path / "d1", tmp_path / "d2"], tmp_path / "server.log")
    history = History(BUCKET, random.Random(seed))
    gateways = Gateways([("127.0.0.1", server.port)], server.credentials)
    try:
        server.start()
        server.wire().must("PUT", BUCKET)
        ballast = Ballast(gateways, BUCKET, seed, 30).write()
        with Load(gateways, history, seed) as load:
            for _ in range(4):
                load.wait_acknowledged(60)
                server.kill()
                server.start()
            load.wait_acknowledged(60)
        ballast.check()
        objects = check_everything(gateways, history, "history-server")
        assert objects, "nothing is left to be looked at"
        assert all(history.counts[kind, "known"] for kind in ("read", "write", "create"))
        assert history.counts["write", "unknown"], "the kills interrupted nothing"
        say(f"history of a killed server: {history.summary()}")
    finally:
        server.kill()


class Liar(http.server.BaseHTTPRequestHandler):
    """A store in memory, correct but for the lie of its server."""

    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.store, self.lie, self.rng = self.server.store, self.server.lie, self.server.rng

    def reply(self, status, body=b"", **headers):
        """Sends an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def route(self):
        """(key, query, body) of the request."""
        parts = urllib.parse.urlsplit(self.path)
        key = urllib.parse.unquote(parts.path).split("/", 2)[-1] if parts.path.count("/") > 1 else ""
        return key, dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)), self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def lies(self, lie, matters=True):
        """True now and then, for the lie of this store, where it makes a difference."""
        told = self.lie == lie and bool(matters) and self.rng.random() < 0.2
        self.server.told += told
        return told

    def do_PUT(self):  # pylint: disable=invalid-name
        """PutObject."""
        key, _, body = self.route()
        with self.server.lock:
            if self.headers.get("x-oss-forbid-overwrite") and key in self.store and not self.lies("creates over an object"):
                self.reply(409, b"<Error><Code>FileAlreadyExists</Code></Error>")
                return
            if not self.lies("forgets an acknowledged write"):
                self.server.old[key] = self.store.get(key)
                self.store[key] = body
            if self.lie == "loses answers" and self.rng.random() < 0.2:
                self.close_connection = True
                return
        self.reply(200, ETag=f'"{digest.etag(body)}"', x_oss_hash_crc64ecma=digest.crc64(body))

    def do_DELETE(self):  # pylint: disable=invalid-name
        """DeleteObject."""
        key = self.route()[0]
        with self.server.lock:
            if not self.lies("forgets a deletion", key in self.store):
                self.store.pop(key, None)
        self.reply(204)

    def do_POST(self):  # pylint: disable=invalid-name
        """No uploads in parts."""
        self.route()
        self.reply(503)

    def do_HEAD(self):  # pylint: disable=invalid-name
        """HeadObject."""
        self.do_GET()

    def do_GET(self):  # pylint: disable=invalid-name
        """GetObject and ListObjects."""
        key, query, _ = self.route()
        with self.server.lock:
            if not key:
                self.list(query)
                return
            body = self.store.get(key)
            if self.lies("reads the past", self.server.old.get(key)):
                body = self.server.old[key]
        if body is None:
            self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        etag, crc = digest.etag(body), digest.crc64(body)
        if self.lies("rots"):
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.reply(200, body, ETag=f'"{etag}"', x_oss_hash_crc64ecma=crc)

    def list(self, query):
        """One page."""
        found = sorted(key for key in self.store if key.startswith(query["prefix"]) and key > query["marker"])
        page = found[:int(query["max-keys"])]
        if page and self.lies("lists without one"):
            page.pop(self.rng.randrange(len(page)))
        rows = "".join(f"<Contents><Key>{k}</Key><ETag>\"{digest.etag(self.store[k])}\"</ETag><Size>{len(self.store[k])}</Size></Contents>" for k in page)
        more = len(found) > int(query["max-keys"])
        last = found[:int(query["max-keys"])][-1] if found else ""
        self.reply(200, f"<R>{rows}<IsTruncated>{'true' if more else 'false'}</IsTruncated><NextMarker>{last}</NextMarker></R>".encode())

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Says nothing."""


LIES = [None, "loses answers", "forgets an acknowledged write", "forgets a deletion", "reads the past", "rots", "lists without one", "creates over an object"]
LIES_TOLD = 8


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_noticed(lie, seed):
    """A correct store passes, also one that loses answers; each kind of lie is caught."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.store, server.old, server.lie, server.rng, server.lock = {}, {}, lie, random.Random(seed), threading.RLock()
    server.told = 0
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    history = History(BUCKET, random.Random(seed), groups=2)
    gateways = Gateways([server.server_address] * 2, Credentials("key", "secret"), timeout_s=10)

    def run():
        with Load(gateways, history, seed, clients=4) as load:
            # Until it has lied so often that it cannot always have gone unseen: others may overwrite what it forgot.
            rounds = 0
            while rounds < 10 or (lie in LIES[2:] and server.told < LIES_TOLD):
                load.wait_acknowledged(30, deadline_s=60)
                rounds += 1
        check_everything(gateways, history, "history-liar")

    try:
        if lie in (None, "loses answers"):
            run()
            assert history.counts["read", "known"] > 100
            assert bool(history.counts["write", "unknown"]) == (lie is not None)
        else:
            with pytest.raises(Surprise):
                run()
    finally:
        server.shutdown()
        server.server_close()
