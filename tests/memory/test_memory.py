"""Memory is bounded whatever clients send: big bodies, many bodies at once, many idle connections.

Each test starts a server of its own, so that its peak (VmHWM) is that of the test alone.
"""
import hashlib
import http.client
import os
import random
import resource
import socket
import time

import pytest

from harness import digest
from harness.waiting import at_once

LIMIT_BYTES = 512 << 20
BLOCK = random.Random(20).randbytes(1 << 20)
BUCKET = "memory-bucket"


@pytest.fixture
def fresh(make_server, request):
    """A server that did nothing yet, with one bucket."""
    server = make_server("memory")
    server.wire().must("PUT", BUCKET)
    yield server
    peak = server.memory_bytes()
    print(f"\n{request.node.name}: peak {peak >> 20} MiB, now {server.memory_bytes('VmRSS') >> 20} MiB")
    assert peak < LIMIT_BYTES, f"peak resident memory {peak >> 20} MiB"
    assert server.new_alarms() == []
    server.wire().delete_bucket_with_contents(BUCKET)
    assert server.stop() == 0


def put_blocks(server, key, blocks):
    """PutObject of a repeated block, streamed with a known length; returns the answer's headers."""
    raw = server.wire()
    headers = raw.signed("PUT", BUCKET, key, [], {"Content-Length": str(blocks * len(BLOCK))}, "v4")
    connection = http.client.HTTPConnection(raw.host, raw.port, timeout=600)
    connection.request("PUT", raw.path(BUCKET, key), body=(BLOCK for _ in range(blocks)), headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    return answer.headers


def get_blocks(server, key, blocks, bucket=BUCKET):
    """GetObject, compared block by block as it arrives."""
    raw = server.wire()
    connection = http.client.HTTPConnection(raw.host, raw.port, timeout=600)
    connection.request("GET", raw.path(bucket, key), headers=raw.signed("GET", bucket, key, [], {}, "v4"))
    answer = connection.getresponse()
    assert answer.status == 200
    buffer = bytearray(len(BLOCK))
    for number in range(blocks):
        view, filled = memoryview(buffer), 0
        while filled < len(BLOCK):
            count = answer.readinto(view[filled:])
            assert count, f"ended in block {number}"
            filled += count
        assert buffer == BLOCK, f"block {number} differs"
    assert answer.read() == b""
    connection.close()


def check_big_body(server, gibibytes):
    blocks = gibibytes << 10
    md5, crc = hashlib.md5(), 0
    for _ in range(blocks):
        md5.update(BLOCK)
        crc = digest.crc64(BLOCK, crc)
    began = time.monotonic()
    headers = put_blocks(server, "big", blocks)
    middle = time.monotonic()
    assert headers["ETag"] == f'"{md5.hexdigest().upper()}"'
    assert headers["x-oss-hash-crc64ecma"] == str(crc)
    get_blocks(server, "big", blocks)
    ended = time.monotonic()
    mebibytes = gibibytes << 10
    print(f"\n{gibibytes} GiB: PUT {mebibytes / (middle - began):.0f} MiB/s, GET {mebibytes / (ended - middle):.0f} MiB/s")


def test_one_gibibyte(fresh):
    check_big_body(fresh, 1)


@pytest.mark.long
def test_five_gibibytes(fresh):
    check_big_body(fresh, 5)


def shard_of(server, bucket):
    """The shard that has a bucket's objects: the one whose log grows with it."""
    def lengths():
        return {name: value for name, value in server.metrics().items() if name.startswith("granary_raft_last_index{")}

    raw, before = server.wire(), lengths()
    for number in range(50):
        raw.put(bucket, f"shard/{number}", b"x")
    return max(lengths().items(), key=lambda shard: shard[1] - before[shard[0]])[0]


def in_another_shard(server):
    """A bucket whose objects are in another shard than those of BUCKET."""
    raw, here = server.wire(), shard_of(server, BUCKET)
    for number in range(100):
        bucket = f"elsewhere-{number}"
        raw.must("PUT", bucket)
        if shard_of(server, bucket) != here:
            return bucket
    raise AssertionError("a hundred buckets in one shard")


def test_copies_of_a_gibibyte_into_another_shard(fresh):
    """A copy, whole or in parts, takes the client nothing and the server no more memory than it has for anything else."""
    raw, elsewhere, blocks = fresh.wire(), in_another_shard(fresh), 1024
    stored = put_blocks(fresh, "big", blocks)
    source = {"x-oss-copy-source": f"/{BUCKET}/big"}
    copied = raw.must("PUT", elsewhere, "whole", headers=source)
    assert copied.text("ETag") == stored["ETag"]
    assert raw.must("HEAD", elsewhere, "whole").headers["x-oss-hash-crc64ecma"] == stored["x-oss-hash-crc64ecma"]
    upload = raw.must("POST", elsewhere, "parts", query=["uploads"]).text("UploadId")
    etags, half = [], blocks // 2 << 20
    for number in (1, 2):
        span = {"x-oss-copy-source-range": f"bytes={(number - 1) * half}-{number * half - 1}"}
        part = raw.must("PUT", elsewhere, "parts", query={"partNumber": str(number), "uploadId": upload}, headers={**source, **span})
        etags.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{part.text('ETag')}</ETag></Part>")
    document = f"<CompleteMultipartUpload>{''.join(etags)}</CompleteMultipartUpload>".encode()
    raw.must("POST", elsewhere, "parts", query={"uploadId": upload}, body=document)
    assert raw.must("HEAD", elsewhere, "parts").headers["x-oss-hash-crc64ecma"] == stored["x-oss-hash-crc64ecma"]
    raw.must("DELETE", BUCKET, "big")
    for key in ("whole", "parts"):
        get_blocks(fresh, key, blocks, elsewhere)


def test_64_bodies_of_64_mebibytes_at_once(fresh):
    at_once(64, lambda n: put_blocks(fresh, f"many/{n}", 64))
    at_once(64, lambda n: get_blocks(fresh, f"many/{n}", 64))


def test_64_slow_readers(fresh):
    """Readers that do not read hold their place in line and little else."""
    put_blocks(fresh, "slow", 64)
    raw = fresh.wire()
    connections = []
    for _ in range(64):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.connect((raw.host, raw.port))
        connection.sendall(raw.head_bytes("GET", BUCKET, "slow", {}))
        connections.append(connection)
    for connection in connections:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    get_blocks(fresh, "slow", 64)
    for connection in connections:
        connection.close()


def test_64_throttled_writers(fresh):
    """Bodies that dribble in cost a buffer each, not a body each."""
    raw = fresh.wire()
    connections = []
    for number in range(64):
        connection = raw.socket()
        connection.sendall(raw.head_bytes("PUT", BUCKET, f"dribble/{number}", {"Content-Length": str(64 << 20)}))
        connections.append(connection)
    for _ in range(3):
        for connection in connections:
            connection.sendall(BLOCK)
    put_blocks(fresh, "beside", 8)
    for connection in connections:
        connection.close()
    assert raw.must("GET", BUCKET, query=[("prefix", "dribble/")]).texts("Contents/Key") == []


def test_2000_idle_connections(fresh):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4200:
        pytest.skip(f"this machine allows {hard} open files, the test needs 4200")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    raw = fresh.wire()
    raw.put(BUCKET, "k", b"small")
    connections = []
    try:
        for number in range(2000):
            connection = raw.socket()
            connections.append(connection)
            if number % 2:
                connection.sendall(raw.head_bytes("GET", BUCKET, "k", {}))
                assert connection.recv(4096).startswith(b"HTTP/1.1 200"), number
        for _ in range(20):
            assert fresh.wire().get(BUCKET, "k").body == b"small"
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_unlimited_stream(fresh):
    """A bandwidth probe that never ends is cut at the size limit of an object or by its own going away."""
    raw = fresh.wire()
    sent = 0
    with raw.socket() as connection:
        connection.sendall(raw.head_bytes("PUT", BUCKET, "endless", {"Transfer-Encoding": "chunked"}))
        chunk = f"{len(BLOCK):x}\r\n".encode() + BLOCK + b"\r\n"
        while sent < 300:
            connection.sendall(chunk)
            sent += 1
    assert raw.request("HEAD", BUCKET, "endless").status == 404


def test_giant_headers_and_bodies_of_xml(fresh):
    """What is parsed whole is limited before it is read whole."""
    raw = fresh.wire()

    def refuse(number):
        mine = fresh.wire()
        body = b"<Delete>" + b"<Object><Key>" + os.urandom(8).hex().encode() * 200_000 + b"</Key></Object></Delete>"
        try:
            answer = mine.request("POST", BUCKET, query=["delete"], body=body)
            assert answer.status in (400, 413), answer.status
        except (ConnectionResetError, BrokenPipeError):
            pass  # Refused by the length alone, before the body was sent.

    at_once(32, refuse)
    assert raw.request("HEAD", BUCKET).status == 200
