"""What strangers send: the exact error, flat memory, other clients unharmed, nothing stored.

docs/testing.md has the table. Every case runs many times at once against one server while a bystander
writes, reads and lists; afterwards no request may be left behind and memory must be where it was.
"""
import base64
import contextlib
import json
import os
import random
import re
import resource
import socket
import struct
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest

from harness.waiting import at_once, wait_for
from harness.wire import content_md5

BUCKET = "bad-input"
SETTINGS = """
[gateway]
first_byte_timeout_ms = 1500
header_timeout_ms = 1500
idle_timeout_ms = 4000
body_stall_timeout_ms = 1500
write_stall_timeout_ms = 3000
"""
# What one case may add to the resident memory at its worst. Bodies of objects have a budget of their own, all together.
GROWTH_BYTES_MAX = 64 << 20
GROWTH_OF_OBJECTS_MAX = 256 << 20
# 2,300 connections at once, each with its buffers and half a form.
GROWTH_OF_CONNECTIONS_MAX = 128 << 20
TWO_GIB = 2 << 30


@pytest.fixture(scope="module")
def stormy(make_server, tmp_path_factory):
    """A server with short deadlines, a bucket and an object."""
    config = tmp_path_factory.mktemp("config") / "granary.toml"
    config.write_text(SETTINGS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = make_server("stormy", flags=["--config", str(config)])
    server.wire().must("PUT", BUCKET)
    server.wire().put(BUCKET, "there", b"0123456789" * 1000)
    # What serving costs for the first time is not what an attack costs.
    for number in range(200):
        server.wire().put(BUCKET, f"warm/{number}", os.urandom(200_000))
    yield server
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Bystander(threading.Thread):
    """A client that minds its own business; anything but success is a failure."""

    def __init__(self, server):
        super().__init__()
        self.raw, self.stop, self.rounds, self.failure = server.wire(timeout_s=30), threading.Event(), 0, None

    def run(self):
        try:
            while not self.stop.is_set():
                body = os.urandom(random.choice([10, 5_000, 300_000]))
                self.raw.put(BUCKET, "bystander", body)
                assert self.raw.get(BUCKET, "bystander").body == body
                assert self.raw.must("GET", BUCKET, query=[("prefix", "by")]).texts("Contents/Key") == ["bystander"]
                self.rounds += 1
        except BaseException as failure:  # pylint: disable=broad-except
            self.failure = failure


def in_flight(server):
    """Requests the server has not finished."""
    return sum(value for name, value in server.metrics().items() if name.startswith("granary_gateway_in_flight"))


@pytest.fixture
def storm(stormy, request):
    """The server, with a bystander beside the test; checks all that has to hold afterwards."""
    names_before = stormy.wire().must("GET", BUCKET, query=[("max-keys", "1000")]).texts("Contents/Key")
    before = stormy.memory_bytes("VmRSS")
    stormy.forget_memory_peak()
    bystander = Bystander(stormy)
    bystander.start()
    yield stormy
    wait_for("the bystander", lambda: bystander.rounds >= 3 or bystander.failure)
    bystander.stop.set()
    bystander.join()
    assert bystander.failure is None, repr(bystander.failure)
    grown = stormy.memory_bytes() - before
    print(f"\n{request.node.name}: peak {grown / (1 << 20):+.1f} MiB, bystander {bystander.rounds} rounds")
    allowed = {"test_endless_objects": GROWTH_OF_OBJECTS_MAX, "test_forms_that_trickle": GROWTH_OF_CONNECTIONS_MAX}
    assert grown < allowed.get(request.node.name, GROWTH_BYTES_MAX)
    wait_for("no request in flight", lambda: in_flight(stormy) == 0)
    assert stormy.new_alarms() == []
    names = stormy.wire().must("GET", BUCKET, query=[("max-keys", "1000")]).texts("Contents/Key")
    assert set(names) - {"bystander"} == set(names_before) - {"bystander"}


def rest_of(link):
    """Everything until the server closes; a reset counts as closing."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while piece := link.recv(65536):
            received += piece
    return bytes(received)


def say(link, content):
    """Sends; the server may have closed already."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        link.sendall(content)


def answer_to(server, content, finish=False):
    """(status, code) of the first answer to these bytes; (0, '') when the connection is closed without one."""
    with server.wire().socket(timeout_s=60) as link:
        say(link, content)
        if finish:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_WR)
        return first_answer(rest_of(link))


def first_answer(received):
    """(status, code) of the first answer in these bytes."""
    if not received:
        return 0, ""
    match = re.match(rb"HTTP/1\.[01] (\d{3}) [^\r]*\r\n", received)
    assert match, received[:200]
    code = re.search(rb"<Code>(\w+)</Code>", received)
    return int(match[1]), code[1].decode() if code else ""


def head(server, method, key, headers=None, query=()):
    """A signed head whose connection is to be closed after the answer."""
    return server.wire().head_bytes(method, BUCKET, key, {"Connection": "close", **(headers or {})}, query)


# -- heads -------------------------------------------------------------------------------------------

FLOODS = {
    "many headers": (lambda: b"".join(b"X-%d: y\r\n" % n for n in range(5_000)) + b"\r\n", (431,)),
    "a long header": (lambda: b"X: " + b"a" * 3_000_000 + b"\r\n\r\n", (431,)),
    "a header without end": (lambda: b"X: " + b"a" * 8_000_000, (431,)),
    "a header name without end": (lambda: b"a" * 8_000_000, (400, 431)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_header_floods(storm, flood):
    make, statuses = FLOODS[flood]
    content = b"GET / HTTP/1.1\r\nHost: x\r\n" + make()

    def attack(_):
        status, _ = answer_to(storm, content)
        # Who is still sending when the connection is closed may lose the answer.
        assert status in (*statuses, 0), status

    at_once(50, attack)
    assert answer_to(storm, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(600)) + b"\r\n")[0] in (431, 0)


def test_a_request_line_without_end(storm):
    def attack(_):
        assert answer_to(storm, b"GET /" + b"a" * 4_000_000)[0] in (0, 400, 414, 431)

    at_once(50, attack)


def test_a_query_of_thousands(storm):
    def attack(number):
        query = "&".join(f"q{n}" for n in range(9_000))
        assert answer_to(storm, f"GET /{BUCKET}/there?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {number}\r\n\r\n".encode())[0] in (400, 403)

    at_once(20, attack)


BROKEN_HEADS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n Folded: y\n\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA\x00B: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", b"G\xffT / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1 2\r\n\r\n", b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 0x10\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("junk", BROKEN_HEADS, ids=range(len(BROKEN_HEADS)))
def test_heads_that_are_not_http(storm, junk):
    status, _ = answer_to(storm, junk, finish=True)
    assert status == 0 or 400 <= status < 500 or status in (501, 505), status


def test_silent_and_half_open_connections(storm):
    """Connections that say nothing, or half a head, or a byte now and then, are closed at their deadline."""
    beginnings = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "]
    links = []
    for number in range(600):
        link = storm.wire().socket()
        say(link, beginnings[number % 3])
        links.append(link)
    began = time.monotonic()
    # A byte at a time does not put the deadline off.
    while time.monotonic() - began < 1.2:
        for link in links[2::3]:
            say(link, b"a")
        time.sleep(0.1)
    for number, link in enumerate(links):
        assert first_answer(rest_of(link))[0] in (0, 400, 408), number
        link.close()


def test_clients_that_vanish(storm):
    """A reset in the middle of a body or of an answer frees its place and stores nothing."""
    for number in range(150):
        with storm.wire().socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 2:
                say(link, storm.wire().head_bytes("PUT", BUCKET, f"vanished/{number}", {"Content-Length": "5000000"}) + b"x" * 100_000)
            else:
                say(link, storm.wire().head_bytes("GET", BUCKET, "there", {}))
                link.recv(10)
    wait_for("their places", lambda: in_flight(storm) <= 1)


def test_pipelines_that_nobody_reads(storm):
    """Thousands of requests ahead of the answers wait in the client's socket, not in the server."""
    request = storm.wire().head_bytes("GET", BUCKET, "there", {})

    def attack(_):
        with storm.wire().socket(timeout_s=5) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(OSError, TimeoutError):
                for _ in range(20_000):
                    link.sendall(request)

    at_once(20, attack)


# -- bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["closed", "silent"])
def test_bodies_shorter_than_declared(storm, ending):
    def attack(number):
        sent = head(storm, "PUT", f"short/{number}", {"Content-Length": "1000000"}) + b"x" * 70_000
        status, code = answer_to(storm, sent, finish=ending == "closed")
        assert (status, code) == (400, "RequestTimeout") or (ending == "closed" and status == 0), (status, code)

    at_once(50, attack)


def test_bodies_longer_than_declared(storm):
    """The rest is no part of the object, and no request."""
    raw = storm.wire()
    with raw.socket() as link:
        say(link, raw.head_bytes("PUT", BUCKET, "long", {"Content-Length": "5"}) + b"helloDELETE-all-of-this")
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_WR)
        received = rest_of(link)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 2") == 1
    assert raw.get(BUCKET, "long").body == b"hello"
    raw.must("DELETE", BUCKET, "long")


CHUNKS = {
    "no number": (b"zz\r\n", False), "a negative number": (b"-1\r\n", False), "a number without end": (b"f" * 200_000, False),
    "an overflow": (b"ffffffffffffffffff\r\n", False), "an extension without end": (b"1;" + b"e" * 3_000_000, False),
    "no line end after the data": (b"1\r\nxx\r\n", False), "trailers without end": (b"1\r\nx\r\n0\r\n" + b"T: y\r\n" * 200_000, False),
    "a chunk that breaks off": (b"ff\r\nshort", True),
}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunks_that_are_none(storm, chunk):
    content, finish = CHUNKS[chunk]

    def attack(number):
        sent = head(storm, "PUT", f"chunks/{number}", {"Transfer-Encoding": "chunked"}) + b"5\r\nhello\r\n" + content
        assert answer_to(storm, sent, finish)[0] in (0, 400, 413, 431)

    at_once(20, attack)


def test_a_body_of_one_byte_chunks(storm):
    """Framing costs five times the bytes; it is taken, and stored as what it is."""
    raw = storm.wire()
    content = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    assert answer_to(storm, head(storm, "PUT", "crumbs", {"Transfer-Encoding": "chunked"}) + content) == (200, "")
    assert raw.get(BUCKET, "crumbs").body == b"x" * 200_000
    raw.must("DELETE", BUCKET, "crumbs")


@pytest.mark.parametrize("method, key, query", [("POST", None, ["delete"]), ("PUT", None, ["tagging"]), ("PUT", None, ["cors"]),
                                                ("PUT", None, ["versioning"]), ("PUT", "there", ["tagging"]), ("POST", "there", [("uploadId", "A" * 32)])])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_endless_documents(storm, method, key, query, framing):
    """A document that is parsed whole is refused by its length, or once it is too long."""
    def attack(_):
        if framing == "length":
            sent = head(storm, method, key, {"Content-Length": str(TWO_GIB), "Content-MD5": content_md5(b"")}, query)
        else:
            piece = b"10000\r\n" + b"<a>" + b" " * 65533 + b"\r\n"
            sent = head(storm, method, key, {"Transfer-Encoding": "chunked", "Content-MD5": content_md5(b"")}, query) + piece * 200
        status, code = answer_to(storm, sent)
        assert status in (0, 400, 404, 411), status
        assert status == 0 or code in ("MalformedXML", "EntityTooLarge", "NoSuchUpload", "InvalidArgument", "MissingContentLength"), code

    at_once(20, attack)


def test_endless_objects(storm):
    """Objects without end cost a window of memory each and leave nothing behind."""
    block = b"10000\r\n" + os.urandom(65536) + b"\r\n"

    def attack(number):
        with storm.wire().socket() as link:
            say(link, storm.wire().head_bytes("PUT", BUCKET, f"endless/{number}", {"Transfer-Encoding": "chunked"}))
            for _ in range(320):
                say(link, block)

    at_once(16, attack)


# -- documents ---------------------------------------------------------------------------------------

KEY = "<Object><Key>%s</Key></Object>"
DOCUMENTS = {
    "nothing": b"", "blanks": b" \n ", "no XML": b"{}", "half": b"<Delete><Object>", "another root": b"<Remove/>", "two roots": b"<Delete/><Delete/>",
    "crossed tags": b"<Delete><Object></Delete></Object>", "UTF-16": "<Delete><Object><Key>k</Key></Object></Delete>".encode("utf-16"),
    "invalid UTF-8": b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>",
    "surrogate": b"<Delete><Object><Key>&#xD800;</Key></Object></Delete>", "beyond Unicode": b"<Delete><Object><Key>&#x110000;</Key></Object></Delete>",
    "an entity nobody declared": b"<Delete><Object><Key>&who;</Key></Object></Delete>",
    "an entity bomb": b'<!DOCTYPE d [<!ENTITY a "' + b"a" * 1000 + b'"><!ENTITY b "' + b"&a;" * 1000 + b'">]><Delete><Object><Key>&b;</Key></Object></Delete>',
    "an external entity": b'<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&a;</Key></Object></Delete>',
    "an external DTD": b'<!DOCTYPE d SYSTEM "http://127.0.0.1:1/x.dtd"><Delete><Object><Key>k</Key></Object></Delete>',
    "deep": b"<Delete>" + b"<Object>" * 50_000 + b"</Object>" * 50_000 + b"</Delete>",
    "many attributes": b"<Delete " + b"".join(b'a%d="b" ' % n for n in range(50_000)) + b"/>",
    "a name without end": b"<" + b"D" * 1_000_000 + b">", "a comment without end": b"<Delete><!--" + b"x" * 1_000_000,
    "no key": b"<Delete><Object/></Delete>", "two keys": b"<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
    "an empty key": (f"<Delete>{KEY % ''}</Delete>").encode(), "too long a key": (f"<Delete>{KEY % ('k' * 1024)}</Delete>").encode(),
    "too many keys": ("<Delete>" + "".join(KEY % f"k{n}" for n in range(1001)) + "</Delete>").encode(),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(storm, name):
    body = DOCUMENTS[name]

    def attack(_):
        answer = storm.wire().request("POST", BUCKET, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
        assert (answer.status, answer.code) in ((400, "MalformedXML"), (400, "InvalidArgument"), (400, "InvalidObjectName")), (answer.status, answer.body[:300])
        assert b"root:" not in answer.body

    at_once(10, attack)


@pytest.mark.parametrize("query, body", [
    (["versioning"], b"<VersioningConfiguration><Status>On</Status></VersioningConfiguration>"),
    (["tagging"], b"<Tagging><TagSet><Tag><Key></Key><Value>v</Value></Tag></TagSet></Tagging>"),
    (["cors"], b"<CORSConfiguration/>"), (["cors"], b"<CORSConfiguration><CORSRule><AllowedMethod>BREW</AllowedMethod></CORSRule></CORSConfiguration>"),
    (["tagging"], b"\xef\xbb\xbf<Tagging>"), (["versioning"], b"<VersioningConfiguration>" + b"<Status>Enabled</Status>" * 1000 + b"</VersioningConfiguration>"),
])
def test_configurations_that_are_none(storm, query, body):
    answer = storm.wire().request("PUT", BUCKET, query=query, body=body, headers={"Content-MD5": content_md5(body)})
    assert answer.status == 400 and answer.code in ("MalformedXML", "InvalidArgument", "InvalidTag"), answer.body


# -- forms -------------------------------------------------------------------------------------------

CALLBACK = base64.b64encode(json.dumps({"callbackUrl": "127.0.0.1:1/c", "callbackBody": "${x:a}" * 500}).encode())
FORMS = {
    "a key that repeats the file's name": ([("key", b"${filename}" * 190_000)], "n" * 8000, [(400, "InvalidObjectName")]),
    "many persistent headers": ([("key", b"k"), ("x-oss-persistent-headers", b",".join(b"h%d:" % n for n in range(200_000)))], "f", [(400, "MetadataTooLarge")]),
    "a megabyte of metadata": ([("key", b"k"), ("x-oss-meta-a", b"m" * 1_000_000)], "f", [(400, "MetadataTooLarge")]),
    "long variables of a callback": ([("key", b"k"), ("callback", CALLBACK), ("x:a", b"v" * 2_000_000)], "f", [(400, "InvalidArgument")]),
    "a field that is too long": ([("key", b"k"), ("v", b"v" * 2_100_000)], "f", [(400, "FieldItemTooLong")]),
    "fields that are too long together": ([("key", b"k")] + [(f"v{n}", b"v" * 1_000_000) for n in range(5)], "f", [(400, "FieldItemTooLong")]),
}


def form_of(fields, filename, after=()):
    """A body of `multipart/form-data` and its head; `after` are fields behind the file."""
    part = b"--b\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n"
    body = b"".join(part % (name.encode(), value) for name, value in fields)
    body += b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%s\"\r\n\r\nbytes\r\n" % filename.encode()
    body += b"".join(part % (name.encode(), value) for name, value in after) + b"--b--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(len(body))}


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_swell(storm, name):
    """Nobody signs them: a stranger may send them to any bucket."""
    fields, filename, expected = FORMS[name]
    body, headers = form_of(fields, filename)

    def attack(_):
        answer = storm.wire().request("POST", BUCKET, headers=headers, body=body, auth=None)
        # Forms share a memory of their own; who finds it full comes again.
        assert (answer.status, answer.code) in expected + [(503, "ServiceUnavailable")], answer.body[:300]

    at_once(20, attack)


def test_forms_that_trickle(storm):
    """More than there may be requests: known callers have their places."""
    body, headers = form_of([("key", b"k"), ("v", b"v" * 1000)], "f")
    head = storm.wire().head_bytes("POST", BUCKET, None, headers, auth=None)
    links = [storm.wire().socket(timeout_s=60) for _ in range(2300)]
    try:
        for link in links:
            say(link, head + body[:100])
        assert {first_answer(rest_of(link)) for link in links} <= {(400, "RequestTimeout"), (503, "ServiceUnavailable"), (0, "")}
    finally:
        for link in links:
            link.close()


# -- names and numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [f"/{BUCKET}/%ff", f"/{BUCKET}/%", f"/{BUCKET}/%zz", f"/{BUCKET}/a%00%ff", "/%ff/k", f"/{BUCKET}/" + "k" * 1024, f"/{BUCKET}//lead",
                                    f"/{BUCKET}/%5Clead", f"/{BUCKET}/?prefix=%ff", f"/{BUCKET}/?max-keys=99999999999999999999", f"/{BUCKET}/?max-keys=-1",
                                    f"/{BUCKET}/?encoding-type=rot13", f"/{BUCKET}/there?versionId=%00"])
def test_names_and_numbers(storm, target):
    """Refused with an error of the API, signed or not."""
    raw = storm.wire()
    for method in ("GET", "PUT"):
        answer = raw.send(method, target, {"Date": "x", "Authorization": "OSS a:b"})
        assert 400 <= answer.status < 500, answer.status
        root = ElementTree.fromstring(answer.body)
        assert root.findtext("Code") and root.findtext("RequestId")


@pytest.mark.parametrize("name, value, code", [
    ("x-oss-meta-a", b"\xff\xfe", None), ("x-oss-meta-" + "a" * 9000, "v", None), ("x-oss-meta-a", "v" * 9000, None), ("x-oss-tagging", "a=b&a=c", None),
    ("x-oss-tagging", "%ff=x", None), ("x-oss-object-acl", "world", "InvalidArgument"), ("Content-MD5", "short", "InvalidDigest"),
    ("x-oss-storage-class", "Gold", None), ("x-oss-traffic-limit", "9" * 30, "InvalidArgument"), ("x-oss-copy-source", "/%ff/%ff", None), ("x-oss-copy-source", "nothing", None),
])
def test_header_values(storm, name, value, code):
    raw = storm.wire(auth="v1")
    answer = raw.request("PUT", BUCKET, "header-values", body=b"" if "copy" in name else b"x", headers={name: value})
    assert 400 <= answer.status < 500, answer.body
    assert code is None or answer.code == code, answer.body


def test_ranges_without_end(storm):
    ranges = "bytes=" + ",".join(f"{n}-{n}" for n in range(8_000))
    answer = storm.wire().request("GET", BUCKET, "there", headers={"Range": ranges})
    assert (answer.status, answer.body) == (200, b"0123456789" * 1000)


# -- parts -------------------------------------------------------------------------------------------


def test_ten_thousand_parts_that_are_not_there(storm):
    raw = storm.wire()
    upload = raw.initiate(BUCKET, "parts")
    etag = '"' + "0" * 32 + '"'
    many = [(n, etag) for n in range(1, 10_001)]
    answer = raw.complete(BUCKET, "parts", upload, many)
    assert (answer.status, answer.code) == (400, "InvalidPart"), answer.body
    answer = raw.complete(BUCKET, "parts", upload, many + [(10_001, etag)])
    assert answer.status == 400 and answer.code in ("InvalidArgument", "MalformedXML", "InvalidPart"), answer.body
    answer = raw.complete(BUCKET, "parts", upload, many[::-1])
    assert (answer.status, answer.code) == (400, "InvalidPartOrder"), answer.body
    for number in ("0", "10001", "-1", "x", "99999999999999999999"):
        answer = raw.request("PUT", BUCKET, "parts", query=[("partNumber", number), ("uploadId", upload)], body=b"x")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), answer.body
    raw.must("DELETE", BUCKET, "parts", query=[("uploadId", upload)])
