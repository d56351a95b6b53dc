"""AppendObject and SealAppendObject through the SDKs and raw: positions, what others see, and what it costs."""
import email.utils
import random
import threading
import time

import alibabacloud_oss_v2 as ossv2
import pytest

from harness import digest
from harness.sdk import OssV2

from .test_bucket import check_refused

NEXT = "x-oss-next-append-position"
KIB, MIB = 1 << 10, 1 << 20


def append_all(client, bucket, key, bodies):
    """Appends one after the other; the bytes they make."""
    whole = b""
    for body in bodies:
        done = client.append_object(bucket, key, len(whole), body)
        whole += body
        assert done.headers[NEXT] == str(len(whole))
        assert done.crc64 == str(digest.crc64(whole))
    return whole


@pytest.mark.parametrize("sizes", [[5], [0, 3], [1, 0, 1], [16 * KIB, 16 * KIB + 1, 3], [300_000, 7, 5 * MIB + 1, 1, 4 * MIB]])
def test_appends_make_an_object(client, bucket, sizes):
    whole = append_all(client, bucket, "k", [random.randbytes(size) for size in sizes])
    got = client.get_object(bucket, "k")
    assert got.data == whole
    for reply in (got, client.head_object(bucket, "k")):
        assert reply.headers["Content-Length"] == str(len(whole))
        assert reply.headers["x-oss-object-type"] == "Appendable"
        assert reply.headers[NEXT] == str(len(whole))
        assert reply.crc64 == str(digest.crc64(whole))
        assert "Content-MD5" not in reply.headers
    entry = client.list_objects(bucket).entries[0]
    assert (entry.size, entry.type, entry.etag) == (len(whole), "Appendable", got.etag)
    assert client.get_bucket_stat(bucket)["storage"] == len(whole)
    for _ in range(5):
        if not whole:
            break
        start = random.randrange(len(whole))
        end = random.randrange(start, len(whole))
        part = client.get_object(bucket, "k", {"Range": f"bytes={start}-{end}"})
        assert part.data == whole[start:end + 1]


def test_attributes_are_those_of_the_first(client, bucket):
    first = {"Content-Type": "text/log", "x-oss-meta-a": "1", "x-oss-storage-class": "IA", "x-oss-tagging": "t=1"}
    client.append_object(bucket, "k", 0, b"one", first)
    client.append_object(bucket, "k", 3, b"two", {"Content-Type": "text/other", "x-oss-meta-a": "2", "x-oss-storage-class": "Standard",
                                                 "x-oss-tagging": "&".join(f"t{n}=v" for n in range(11))})
    headers = client.head_object(bucket, "k").headers
    assert (headers["Content-Type"], headers["x-oss-meta-a"], headers["x-oss-storage-class"]) == ("text/log", "1", "IA")
    assert headers["x-oss-tagging-count"] == "1"


def test_another_place_than_the_end_is_refused(client, bucket):
    error = check_refused(lambda: client.append_object(bucket, "k", 3, b"x"), 409, "PositionNotEqualToLength")
    assert error.headers[NEXT] == "0"
    client.append_object(bucket, "k", 0, b"abc")
    for position in (0, 2, 4):
        error = check_refused(lambda at=position: client.append_object(bucket, "k", at, b"x"), 409, "PositionNotEqualToLength")
        assert error.headers[NEXT] == "3"
    client.put_object(bucket, "normal", b"abc")
    check_refused(lambda: client.append_object(bucket, "normal", 3, b"x"), 409, "ObjectNotAppendable")
    assert client.get_object(bucket, "k").data == b"abc"


def test_an_append_names_no_version(wire, bucket):
    wire.must("POST", bucket, "k", query={"append": "", "position": "0"}, body=b"abc")
    refused = wire.request("POST", bucket, "k", query={"append": "", "position": "3", "versionId": "null"}, body=b"x")
    assert (refused.status, refused.code, refused.headers["x-oss-ec"]) == (400, "InvalidArgument", "0016-00000504")
    assert wire.must("GET", bucket, "k").body == b"abc"


def test_each_append_is_a_modification(client, bucket):
    client.append_object(bucket, "k", 0, b"a")
    before = client.head_object(bucket, "k").headers["Last-Modified"]
    deadline = time.monotonic() + 10
    length, after = 1, before
    while after == before and time.monotonic() < deadline:
        client.append_object(bucket, "k", length, b"b")
        length += 1
        after = client.head_object(bucket, "k").headers["Last-Modified"]
    assert email.utils.parsedate_to_datetime(after) > email.utils.parsedate_to_datetime(before)


def test_copy_put_and_delete_of_what_was_appended(client, bucket):
    whole = append_all(client, bucket, "k", [random.randbytes(200_000), b"tail"])
    copied = client.copy_object(bucket, "k", bucket, "copy")
    assert copied.etag == digest.etag(whole)
    got = client.get_object(bucket, "copy")
    assert (got.data, got.headers["x-oss-object-type"]) == (whole, "Normal")
    client.put_object(bucket, "k", b"replaced")
    assert client.get_object(bucket, "k").data == b"replaced"
    client.delete_object(bucket, "k")
    append_all(client, bucket, "k", [b"again"])
    assert client.get_object(bucket, "k").data == b"again"


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_appends_where_versions_are_kept(client, wire, bucket, status):
    """An append makes no version, but above a delete marker: there it makes a new object."""
    wire.must("PUT", bucket, query=["versioning"], body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    first = client.append_object(bucket, "k", 0, b"123").headers["x-oss-version-id"]
    assert client.append_object(bucket, "k", 3, b"456").headers["x-oss-version-id"] == first
    wire.must("PUT", bucket, query=["versioning"], body=f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>".encode())
    marker = wire.must("DELETE", bucket, "k").headers["x-oss-version-id"]
    error = check_refused(lambda: client.append_object(bucket, "k", 6, b"x"), 409, "PositionNotEqualToLength")
    assert error.headers[NEXT] == "0"
    check_refused(lambda: client.get_object(bucket, "k"), 404, "NoSuchKey")
    sealing = wire.request("POST", bucket, "k", query=["seal", ("position", "6")])
    assert (sealing.status, sealing.code) == (404, "NoSuchKey")
    second = client.append_object(bucket, "k", 0, b"789").headers["x-oss-version-id"]
    assert client.append_object(bucket, "k", 3, b"0").headers["x-oss-version-id"] == second
    assert client.get_object(bucket, "k").data == b"7890"
    assert wire.get(bucket, "k", query=[("versionId", first)]).body == b"123456"
    versions = wire.must("GET", bucket, query=["versions"])
    assert versions.texts("Version/VersionId") == [second, first]
    # Versioning is suspended: the null version took the place of the marker, which was one.
    assert versions.texts("DeleteMarker/VersionId") == ([marker] if status == "Enabled" else [])
    if status == "Enabled":
        wire.must("DELETE", bucket, "k", query=[("versionId", marker)])
    assert client.append_object(bucket, "k", 4, b"!").headers[NEXT] == "5"
    client.put_object(bucket, "k", b"above")
    check_refused(lambda: client.append_object(bucket, "k", 5, b"x"), 409, "ObjectNotAppendable")
    for version in wire.must("GET", bucket, query=["versions"]).texts("*/VersionId"):
        wire.must("DELETE", bucket, "k", query=[("versionId", version)])


def test_sealed_objects_end(server, bucket):
    sdk = OssV2("ossv2-v4", "v4", server.endpoint, server.credentials)
    sdk.append_object(bucket, "k", 0, b"abc")

    def seal(position):
        return sdk._call(sdk.client.seal_append_object, ossv2.SealAppendObjectRequest(bucket=bucket, key="k", position=position))

    check_refused(lambda: seal(2), 409, "PositionNotEqualToLength")
    sealed = seal(3).sealed_time
    assert email.utils.parsedate_to_datetime(sealed).timestamp() == pytest.approx(time.time(), abs=5)
    assert seal(3).sealed_time == sealed
    assert sdk.head_object(bucket, "k").headers["x-oss-sealed-time"] == sealed
    check_refused(lambda: sdk.append_object(bucket, "k", 3, b"d"), 400, "AppendSealedObjectNotAllowed")
    assert sdk.get_object(bucket, "k").data == b"abc"


def test_file_like_appends_of_the_sdk(server, bucket):
    sdk = OssV2("ossv2-v4", "v4", server.endpoint, server.credentials)
    with sdk.client.append_file(bucket, "k") as log:
        for n in range(50):
            log.write(f"line {n}\n".encode())
    with sdk.client.append_file(bucket, "k") as log:
        log.write(b"end")
    lines = [f"line {n}\n" for n in range(50)]
    assert sdk.get_object(bucket, "k").data == "".join(lines).encode() + b"end"


def test_a_reader_sees_the_length_it_began_with(wire, bucket):
    """The answer says how long it is before the bytes come, and appends and folds go on meanwhile."""
    whole, stop, seen = bytearray(), threading.Event(), []
    other = wire.clone()

    def read():
        while not stop.is_set():
            seen.append(other.get(bucket, "k").body)

    wire.must("POST", bucket, "k", query={"append": "", "position": "0"}, body=b"")
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(120):
            body = random.randbytes(random.choice([10, 9_000, 40_000]))
            wire.must("POST", bucket, "k", query={"append": "", "position": str(len(whole))}, body=body)
            whole += body
    finally:
        stop.set()
        reader.join()
        other.close()
    assert len(seen) > 1
    assert all(whole.startswith(body) for body in seen)
    assert wire.get(bucket, "k").body == bytes(whole)


def chunks_written(server):
    """Chunks that the server has written since it began."""
    samples = server.metrics()
    return sum(value for name, value in samples.items() if "chunks_written" in name)


def test_ten_thousand_appends_cost_as_much_at_the_end_as_at_the_start(server, wire, bucket):
    """The number of chunks is asserted; the times are for whoever reads them."""
    count, line = 10_000, random.randbytes(KIB)
    before, took = chunks_written(server), []
    for n in range(count):
        started = time.monotonic()
        wire.must("POST", bucket, "log", query={"append": "", "position": str(n * KIB)}, body=line)
        took.append(time.monotonic() - started)
    written = chunks_written(server) - before
    got = wire.get(bucket, "log")
    assert got.body == line * count
    mean = [1000 * sum(part) / len(part) for part in (took[:1000], took[-1000:])]
    print(f"an append of 1 KiB: {mean[0]:.2f} ms among the first thousand, {mean[1]:.2f} ms among the last; {written:.0f} chunks written")
    # One for each tail that was full, and those that were made one of four of them.
    folds = count * KIB // MIB
    assert written <= folds + folds // 4 + 2
