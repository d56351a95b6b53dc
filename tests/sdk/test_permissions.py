"""Permission counts for what is read and when it is changed, however long the request was on its way."""
import base64
import contextlib
import hashlib
import socket
import threading

import pytest

from harness.waiting import wait_for

READS_MAX = 20_000
ANSWERS = 300


@pytest.fixture
def anyone(server):
    """A client without keys."""
    raw = server.wire(cred=None, auth=None)
    yield raw
    raw.close()


@contextlib.contextmanager
def opened_and_shut(wire, bucket, key):
    """The object is now open to all with the one content, now private with the other, while the block runs."""
    stop, failures, own = threading.Event(), [], wire.clone()

    def turn():
        try:
            while not stop.is_set():
                own.put(bucket, key, b"open")
                own.put(bucket, key, b"shut", headers={"x-oss-object-acl": "private"})
        except Exception as error:  # pylint: disable=broad-except
            failures.append(error)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        own.close()
    assert not failures, failures


def try_until_both(attempt):
    """Repeats until it was often refused and often not."""
    seen = {True: 0, False: 0}
    for _ in range(READS_MAX):
        seen[attempt()] += 1
        if min(seen.values()) >= ANSWERS:
            return
    raise AssertionError(f"not often enough of both: {seen}")


def test_a_link_shows_nothing_that_its_target_keeps_private(wire, bucket, anyone):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read"})
    wire.put(bucket, "t", b"open")
    wire.must("PUT", bucket, "link", query=["symlink"], headers={"x-oss-symlink-target": "t"})

    def read():
        got = anyone.request("GET", bucket, "link")
        assert (got.status, got.body) in ((200, b"open"), (403, got.body)), (got.status, got.body)
        return got.status == 200

    with opened_and_shut(wire, bucket, "t"):
        try_until_both(read)


@pytest.mark.parametrize("whole", [True, False])
def test_copies_are_of_what_may_be_read(wire, bucket, anyone, whole):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    wire.put(bucket, "t", b"open")
    upload = None if whole else wire.must("POST", bucket, "parts", query=["uploads"]).text("UploadId")
    etag = wire.put(bucket, "sample", b"open").headers["etag"]

    def copy():
        query = {} if whole else {"partNumber": "1", "uploadId": upload}
        got = anyone.request("PUT", bucket, "mine" if whole else "parts", query=query, headers={"x-oss-copy-source": f"/{bucket}/t"})
        assert got.status in (200, 403), (got.status, got.body)
        assert got.status == 403 or got.text("ETag") == etag, "a copy of the private bytes"
        return got.status == 200

    with opened_and_shut(wire, bucket, "t"):
        try_until_both(copy)


class Slow:
    """An anonymous request whose head was accepted; its body is four bytes unless told otherwise."""

    def __init__(self, server, bucket, key, query="", body=b"late"):
        host, _, port = server.endpoint.partition("://")[2].partition(":")
        self.socket, self.body = socket.create_connection((host, int(port)), timeout=30), body
        method = "POST" if "append" in query or "delete" in query else "PUT"
        lines = [f"{method} /{bucket}/{key}{query} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", "Expect: 100-continue",
                 f"Content-MD5: {base64.b64encode(hashlib.md5(body).digest()).decode()}"]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        assert self.socket.recv(4096).startswith(b"HTTP/1.1 100 ")

    def finish(self):
        """Sends the body; the status."""
        self.socket.sendall(self.body)
        status = int(self.socket.recv(4096).split(b" ")[1])
        self.socket.close()
        return status


def test_a_late_body_does_not_replace_what_became_private(server, wire, bucket):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    slow = Slow(server, bucket, "k")
    wire.put(bucket, "k", b"private", headers={"x-oss-object-acl": "private"})
    assert slow.finish() == 403
    assert wire.get(bucket, "k").body == b"private"
    assert Slow(server, bucket, "other").finish() == 200


@pytest.mark.parametrize("query", ["", "?append&position=0", "?partNumber=1&uploadId="])
def test_a_late_body_does_not_come_into_a_bucket_that_was_closed(server, wire, bucket, anyone, query):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    if query.endswith("="):
        query += wire.must("POST", bucket, "k", query=["uploads"]).text("UploadId")
    slow = Slow(server, bucket, "k", query)
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "private"})
    wait_for("the gateway's view of the bucket", lambda: anyone.request("PUT", bucket, "n", body=b"x").status == 403)
    assert slow.finish() == 403
    assert wire.request("HEAD", bucket, "k").status == 404


def test_a_late_document_does_not_delete_from_a_bucket_that_was_closed(server, wire, bucket, anyone):
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    for key in ("k", "l"):
        wire.put(bucket, key, b"kept")
    document = b"<Delete><Object><Key>k</Key></Object><Object><Key>l</Key></Object></Delete>"
    slow = Slow(server, bucket, "", "?delete", document)
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "private"})
    wait_for("the gateway's view of the bucket", lambda: anyone.request("PUT", bucket, "n", body=b"x").status == 403)
    assert slow.finish() == 403
    assert wire.get(bucket, "k").body == wire.get(bucket, "l").body == b"kept"
    wire.must("PUT", bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    wait_for("the gateway's view of the bucket", lambda: anyone.request("PUT", bucket, "n", body=b"x").status == 200)
    assert Slow(server, bucket, "", "?delete", document).finish() == 200
    assert wire.request("HEAD", bucket, "k").status == 404
