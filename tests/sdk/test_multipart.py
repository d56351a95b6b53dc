"""Multipart uploads through the SDKs and raw: all seven operations, their order, errors and edges."""
import concurrent.futures
import random

import pytest

from harness import digest
from harness.sdk import ApiError, Part

from harness.wire import content_md5

from .test_bucket import check_refused

PART = 102_400
NO_UPLOAD = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."


@pytest.mark.parametrize("sizes", [[PART, PART, 17], [1], [0], [PART * 3 + 1, PART, PART * 2, 1], [5 << 20, (5 << 20) + 3, 100]])
def test_parts_become_an_object(client, bucket, sizes):
    bodies = [random.randbytes(size) for size in sizes]
    upload = client.initiate(bucket, "k", {"Content-Type": "text/m", "x-oss-meta-a": "b", "x-oss-tagging": "t=1"})
    parts = [client.upload_part(bucket, "k", upload, n, body) for n, body in enumerate(bodies, 1)]
    assert [p.etag for p in parts] == [digest.etag(body) for body in bodies]
    assert not client.object_exists(bucket, "k")
    assert client.list_objects(bucket).keys == []
    done = client.complete(bucket, "k", upload, parts)
    whole = b"".join(bodies)
    assert done.etag == digest.multipart_etag([p.etag for p in parts])
    assert done.crc64 == str(digest.crc64(whole))
    got = client.get_object(bucket, "k")
    assert got.data == whole
    assert got.etag == done.etag
    assert got.crc64 == str(digest.crc64(whole))
    assert got.headers["x-oss-object-type"] == "Multipart"
    assert "Content-MD5" not in got.headers
    assert (got.headers["Content-Type"], got.headers["x-oss-meta-a"], got.headers["x-oss-tagging-count"]) == ("text/m", "b", "1")
    entry = client.list_objects(bucket).entries[0]
    assert (entry.size, entry.type, entry.etag) == (len(whole), "Multipart", done.etag)
    assert client.list_uploads(bucket).entries == []


def test_numbers_may_skip_and_arrive_in_any_order(client, bucket):
    upload = client.initiate(bucket, "k")
    bodies = {7: random.randbytes(PART), 10000: b"end", 2: random.randbytes(PART)}
    parts = {n: client.upload_part(bucket, "k", upload, n, body) for n, body in bodies.items()}
    client.complete(bucket, "k", upload, [parts[n] for n in sorted(parts)])
    assert client.get_object(bucket, "k").data == bodies[2] + bodies[7] + bodies[10000]


def test_unlisted_parts_are_left_out(client, bucket):
    upload = client.initiate(bucket, "k")
    first, second = random.randbytes(PART), random.randbytes(PART)
    part = client.upload_part(bucket, "k", upload, 1, first)
    client.upload_part(bucket, "k", upload, 2, second)
    client.complete(bucket, "k", upload, [part])
    assert client.get_object(bucket, "k").data == first
    assert client.get_bucket_stat(bucket)["storage"] == PART


def test_part_uploaded_again_replaces(client, bucket):
    upload = client.initiate(bucket, "k")
    old = client.upload_part(bucket, "k", upload, 1, random.randbytes(PART))
    new_body = random.randbytes(PART + 1)
    new = client.upload_part(bucket, "k", upload, 1, new_body)
    assert [(p.number, p.etag, p.size) for p in client.list_parts(bucket, "k", upload).entries] == [(1, new.etag, PART + 1)]
    check_refused(lambda: client.complete(bucket, "k", upload, [old]), 400, "InvalidPart")
    client.complete(bucket, "k", upload, [new])
    assert client.get_object(bucket, "k").data == new_body


def test_upload_over_an_object(client, bucket):
    client.put_object(bucket, "k", b"before")
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, b"after")
    assert client.get_object(bucket, "k").data == b"before"
    client.complete(bucket, "k", upload, [part])
    assert client.get_object(bucket, "k").data == b"after"
    assert client.get_bucket_stat(bucket)["storage"] == 5


def test_complete_all(client, bucket):
    upload = client.initiate(bucket, "k")
    bodies = [random.randbytes(PART), random.randbytes(PART), b"tail"]
    for n, body in enumerate(bodies, 1):
        client.upload_part(bucket, "k", upload, n, body)
    done = client.complete(bucket, "k", upload, None, {"x-oss-complete-all": "yes"})
    assert client.get_object(bucket, "k").data == b"".join(bodies)
    assert done.etag == digest.multipart_etag([digest.etag(body) for body in bodies])


def test_complete_all_and_a_body(client, bucket):
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, b"x")
    check_refused(lambda: client.complete(bucket, "k", upload, [part], {"x-oss-complete-all": "yes"}), 400, "InvalidArgument", "0042-00000216")


def test_empty_part_list_makes_an_empty_object(signed, bucket):
    upload = signed.initiate(bucket, "k")
    answer = signed.complete(bucket, "k", upload, [])
    assert answer.status == 200, answer.body
    assert signed.get(bucket, "k").body == b""


def test_small_parts(client, bucket):
    upload = client.initiate(bucket, "k")
    parts = [client.upload_part(bucket, "k", upload, 1, b"small"), client.upload_part(bucket, "k", upload, 2, b"last")]
    check_refused(lambda: client.complete(bucket, "k", upload, parts), 400, "EntityTooSmall")
    assert not client.object_exists(bucket, "k")
    client.complete(bucket, "k", upload, parts[1:])
    assert client.get_object(bucket, "k").data == b"last"


def test_wrong_parts(client, bucket):
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, random.randbytes(PART))
    for bad in ([Part(1, "0" * 32)], [part, Part(2, part.etag)], [Part(3, part.etag)]):
        check_refused(lambda bad=bad: client.complete(bucket, "k", upload, bad), 400, "InvalidPart")
    assert [p.number for p in client.list_parts(bucket, "k", upload).entries] == [1]


def test_order_of_the_list(signed, bucket):
    upload = signed.initiate(bucket, "k")
    etags = [signed.upload_part(bucket, "k", upload, n, random.randbytes(PART)) for n in (1, 2)]
    for order in ([(2, etags[1]), (1, etags[0])], [(1, etags[0]), (1, etags[0])]):
        answer = signed.complete(bucket, "k", upload, order)
        assert (answer.status, answer.code) == (400, "InvalidPartOrder"), answer.body
    for body in (b"", b"<CompleteMultipartUpload>", b"<X/>", b"<CompleteMultipartUpload><Part><PartNumber>x</PartNumber></Part></CompleteMultipartUpload>"):
        answer = signed.request("POST", bucket, "k", query=[("uploadId", upload)], body=body)
        assert (answer.status, answer.code) == (400, "MalformedXML"), (body, answer.body)
    # ETags are compared whether they come quoted or not.
    answer = signed.complete(bucket, "k", upload, [(1, etags[0].strip('"')), (2, etags[1])])
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", ""])
def test_part_numbers(signed, bucket, number):
    upload = signed.initiate(bucket, "k")
    answer = signed.request("PUT", bucket, "k", query=[("partNumber", number), ("uploadId", upload)], body=b"x")
    assert (answer.status, answer.code) == (400, "InvalidArgument"), answer.body


def test_abort(client, bucket):
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, random.randbytes(PART))
    assert client.abort(bucket, "k", upload).status == 204
    check_refused(lambda: client.abort(bucket, "k", upload), 404, "NoSuchUpload", "0042-00000002", NO_UPLOAD)
    check_refused(lambda: client.upload_part(bucket, "k", upload, 2, b"x"), 404, "NoSuchUpload", "0042-00000104", NO_UPLOAD)
    check_refused(lambda: client.complete(bucket, "k", upload, [part]), 404, "NoSuchUpload", None, NO_UPLOAD)
    check_refused(lambda: client.list_parts(bucket, "k", upload), 404, "NoSuchUpload", None, NO_UPLOAD)
    client.put_object(bucket, "src", b"x")
    check_refused(lambda: client.upload_part_copy(bucket, "src", bucket, "k", upload, 1), 404, "NoSuchUpload", "0042-00000311", NO_UPLOAD)
    assert not client.object_exists(bucket, "k")
    assert client.get_bucket_stat(bucket)["uploads"] == 0


def test_upload_belongs_to_its_key(client, bucket):
    upload = client.initiate(bucket, "k")
    check_refused(lambda: client.upload_part(bucket, "other", upload, 1, b"x"), 404, "NoSuchUpload")
    check_refused(lambda: client.abort(bucket, "other", upload), 404, "NoSuchUpload")
    assert client.list_uploads(bucket).entries == [("k", upload)]


def test_completed_upload_is_gone(client, bucket):
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, b"x")
    client.complete(bucket, "k", upload, [part])
    check_refused(lambda: client.upload_part(bucket, "k", upload, 1, b"y"), 404, "NoSuchUpload")
    check_refused(lambda: client.list_parts(bucket, "k", upload), 404, "NoSuchUpload")
    check_refused(lambda: client.abort(bucket, "k", upload), 404, "NoSuchUpload")
    assert client.get_object(bucket, "k").data == b"x"


def test_copied_parts(client, bucket):
    source = random.randbytes(PART * 4)
    client.put_object(bucket, "dir/src ü", source)
    upload = client.initiate(bucket, "k")
    copies = [((0, PART - 1), source[:PART]), ((PART, PART * 3 - 1), source[PART:PART * 3]), (None, source)]
    parts = []
    for number, (byte_range, expected) in enumerate(copies, 1):
        part = client.upload_part_copy(bucket, "dir/src ü", bucket, "k", upload, number, byte_range)
        assert part.etag == digest.etag(expected)
        parts.append(part)
    client.complete(bucket, "k", upload, parts)
    whole = b"".join(expected for _, expected in copies)
    client.delete_object(bucket, "dir/src ü")
    got = client.get_object(bucket, "k")
    assert got.data == whole
    assert got.crc64 == str(digest.crc64(whole))


def test_copy_range_beyond_the_end_copies_all(client, bucket):
    client.put_object(bucket, "src", b"0123456789")
    upload = client.initiate(bucket, "k")
    part = client.upload_part_copy(bucket, "src", bucket, "k", upload, 1, (5, 100))
    assert part.etag == digest.etag(b"0123456789")


def test_part_copy_conditions_and_missing_source(client, signed, bucket):
    etag = signed.put(bucket, "src", b"x").headers["etag"]
    upload = signed.initiate(bucket, "k")
    query = [("partNumber", "1"), ("uploadId", upload)]
    source = {"x-oss-copy-source": f"/{bucket}/src"}
    answer = signed.request("PUT", bucket, "k", query=query, headers={**source, "x-oss-copy-source-if-match": etag})
    assert answer.status == 200
    assert answer.xml.tag == "CopyPartResult"
    assert answer.text("ETag") == f'"{digest.etag(b"x")}"'
    answer = signed.request("PUT", bucket, "k", query=query, headers={**source, "x-oss-copy-source-if-match": '"0"'})
    assert (answer.status, answer.code) == (412, "PreconditionFailed")
    check_refused(lambda: client.upload_part_copy(bucket, "gone", bucket, "k", upload, 1), 404, "NoSuchKey")


def test_list_parts_in_pages(client, bucket):
    upload = client.initiate(bucket, "k")
    expected = []
    for number in (1, 2, 5, 9, 100, 101, 9999):
        body = random.randbytes(number % 7 + 1)
        expected.append((number, client.upload_part(bucket, "k", upload, number, body).etag, len(body)))
    seen, marker = [], ""
    for _ in range(10):
        page = client.list_parts(bucket, "k", upload, marker=marker or (None if "ossv2" in client.name else ""), max_parts=3)
        assert len(page.entries) <= 3
        seen += [(p.number, p.etag, p.size) for p in page.entries]
        if not page.truncated:
            break
        marker = page.next
    assert seen == expected


def test_shape_of_list_parts(signed, bucket):
    upload = signed.initiate(bucket, "dir/k")
    body = b"x" * 77
    signed.upload_part(bucket, "dir/k", upload, 3, body)
    answer = signed.must("GET", bucket, "dir/k", query=[("uploadId", upload), ("encoding-type", "url")])
    assert answer.xml.tag == "ListPartsResult"
    got = {name: answer.text(name) for name in ("Bucket", "Key", "UploadId", "MaxParts", "IsTruncated", "PartNumberMarker")}
    assert got == {"Bucket": bucket, "Key": "dir%2Fk", "UploadId": upload, "MaxParts": "1000", "IsTruncated": "false", "PartNumberMarker": "0"}
    assert answer.text("NextPartNumberMarker") is not None
    part = answer.xml.find("Part")
    assert (part.findtext("PartNumber"), part.findtext("Size"), part.findtext("ETag")) == ("3", "77", f'"{digest.etag(body)}"')
    assert part.findtext("HashCrc64ecma") == str(digest.crc64(body))
    assert part.findtext("LastModified").endswith("Z")
    for bad in ([("max-parts", "0")], [("max-parts", "1001")], [("part-number-marker", "x")], [("part-number-marker", "-1")]):
        answer = signed.request("GET", bucket, "dir/k", query=[("uploadId", upload)] + bad)
        assert (answer.status, answer.code) == (400, "InvalidArgument"), bad


def test_list_uploads_in_pages_and_groups(client, bucket):
    keys = ["a", "dir/1", "dir/2", "dir/2", "é", "z z"]
    made = [(key, client.initiate(bucket, key)) for key in keys]
    expected = sorted(made, key=lambda m: m[0].encode())
    seen, marker = [], (None, None) if "ossv2" in client.name else ("", "")
    for _ in range(10):
        page = client.list_uploads(bucket, marker=marker, max_uploads=2)
        seen += page.entries
        if not page.truncated:
            break
        marker = page.next
    assert [k for k, _ in seen] == [k for k, _ in expected]
    assert sorted(seen) == sorted(expected)
    assert [k for k, _ in client.list_uploads(bucket, prefix="dir/").entries] == ["dir/1", "dir/2", "dir/2"]
    for key, upload in made:
        client.abort(bucket, key, upload)
    assert client.list_uploads(bucket).entries == []


def test_shape_of_list_uploads(signed, bucket):
    upload = signed.initiate(bucket, "dir/a b")
    signed.initiate(bucket, "top")
    answer = signed.must("GET", bucket, query=["uploads", ("delimiter", "/"), ("encoding-type", "url")])
    assert answer.xml.tag == "ListMultipartUploadsResult"
    assert answer.text("Bucket") == bucket
    assert answer.texts("CommonPrefixes/Prefix") == ["dir%2F"]
    assert answer.texts("Upload/Key") == ["top"]
    for name in ("KeyMarker", "UploadIdMarker", "NextKeyMarker", "NextUploadIdMarker", "IsTruncated", "MaxUploads"):
        assert answer.text(name) is not None, name
    row = signed.must("GET", bucket, query=["uploads", ("prefix", "dir/")]).xml.find("Upload")
    assert (row.findtext("Key"), row.findtext("UploadId")) == ("dir/a b", upload)
    assert row.findtext("Initiated").endswith("Z")
    for bad in ("0", "1001", "x"):
        answer = signed.request("GET", bucket, query=["uploads", ("max-uploads", bad)])
        assert (answer.status, answer.code) == (400, "InvalidArgument"), bad


def test_shapes_of_initiate_and_complete(signed, bucket, server):
    answer = signed.must("POST", bucket, "dir/ü", query=["uploads", ("encoding-type", "url")])
    assert answer.xml.tag == "InitiateMultipartUploadResult"
    assert (answer.text("Bucket"), answer.text("Key")) == (bucket, "dir%2F%C3%BC")
    upload = answer.text("UploadId")
    etag = signed.upload_part(bucket, "dir/ü", upload, 1, b"x")
    done = signed.complete(bucket, "dir/ü", upload, [(1, etag)])
    assert done.xml.tag == "CompleteMultipartUploadResult"
    assert (done.text("Bucket"), done.text("Key")) == (bucket, "dir/ü")
    assert done.text("ETag") == done.headers["etag"]
    assert "dir/%C3%BC" in done.text("Location") or "dir%2F%C3%BC" in done.text("Location")
    assert bucket in done.text("Location")


def test_forbid_overwrite_on_complete(client, bucket):
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, b"new")
    client.put_object(bucket, "k", b"there")
    check_refused(lambda: client.complete(bucket, "k", upload, [part], {"x-oss-forbid-overwrite": "true"}), 409, "FileAlreadyExists")
    assert client.get_object(bucket, "k").data == b"there"


def test_part_md5(signed, bucket):
    upload = signed.initiate(bucket, "k")
    query = [("partNumber", "1"), ("uploadId", upload)]
    good = signed.request("PUT", bucket, "k", query=query, body=b"abc", headers={"Content-MD5": content_md5(b"abc")})
    assert good.status == 200
    bad = signed.request("PUT", bucket, "k", query=query, body=b"abd", headers={"Content-MD5": content_md5(b"abc")})
    assert (bad.status, bad.code) == (400, "InvalidDigest")
    parts = signed.must("GET", bucket, "k", query=[("uploadId", upload)])
    assert parts.texts("Part/ETag") == [f'"{digest.etag(b"abc")}"']


def test_sequential_parts(signed, bucket):
    upload = signed.must("POST", bucket, "k", query=["uploads", "sequential"]).text("UploadId")
    first = signed.upload_part(bucket, "k", upload, 1, random.randbytes(PART))
    answer = signed.request("PUT", bucket, "k", query=[("partNumber", "3"), ("uploadId", upload)], body=b"x")
    assert (answer.status, answer.code) == (400, "PartNotSequential")
    second = signed.upload_part(bucket, "k", upload, 2, b"x")
    assert signed.complete(bucket, "k", upload, [(1, first), (2, second)]).status == 200


def begin_sequential(raw, bucket, key):
    """An upload whose parts come in order; returns its id."""
    return raw.must("POST", bucket, key, query=["uploads", "sequential"]).text("UploadId")


def test_sequential_parts_have_the_md5_of_the_whole(signed, bucket):
    bodies = [random.randbytes(size) for size in (PART, PART + 63, 3 * PART, 5)]
    upload = begin_sequential(signed, bucket, "k")
    parts = [(n, signed.upload_part(bucket, "k", upload, n, body)) for n, body in enumerate(bodies, 1)]
    done = signed.complete(bucket, "k", upload, parts)
    whole = b"".join(bodies)
    for answer in (done, signed.request("HEAD", bucket, "k"), signed.get(bucket, "k")):
        assert (answer.status, answer.headers["content-md5"]) == (200, content_md5(whole))
        assert answer.headers["etag"] == f'"{digest.multipart_etag([etag.strip(chr(34)) for _, etag in parts])}"'
    upload = begin_sequential(signed, bucket, "all")
    copied = signed.must("PUT", bucket, "all", query=[("partNumber", "1"), ("uploadId", upload)], headers={"x-oss-copy-source": f"/{bucket}/k"})
    assert copied.text("ETag") == f'"{digest.etag(whole)}"'
    signed.upload_part(bucket, "all", upload, 2, b"more")
    done = signed.must("POST", bucket, "all", query=[("uploadId", upload)], headers={"x-oss-complete-all": "yes"})
    assert done.headers["content-md5"] == content_md5(whole + b"more")


def test_a_sequential_part_that_is_replaced_leaves_no_md5_behind_it(signed, bucket):
    """What stands behind a part went on from it; after other bytes it has to be sent again. A repeat changes nothing."""
    for again, other, known in (((2,), True, False), ((1, 2), True, False), ((2, 3), True, True), ((3,), True, True), ((1,), False, True), ((2, 1), False, True)):
        bodies = [random.randbytes(PART) for _ in range(3)]
        upload = begin_sequential(signed, bucket, "k")
        etags = [signed.upload_part(bucket, "k", upload, n, body) for n, body in enumerate(bodies, 1)]
        for number in again:
            bodies[number - 1] = random.randbytes(PART) if other else bodies[number - 1]
            etags[number - 1] = signed.upload_part(bucket, "k", upload, number, bodies[number - 1])
        done = signed.complete(bucket, "k", upload, list(enumerate(etags, 1)))
        assert (done.status, done.headers.get("content-md5")) == (200, content_md5(b"".join(bodies)) if known else None), (again, other)
        assert signed.get(bucket, "k").body == b"".join(bodies)


def test_a_part_out_of_sequence_is_refused_before_its_bytes(signed, bucket):
    upload = begin_sequential(signed, bucket, "k")
    head = signed.head_bytes("PUT", bucket, "k", {"Content-Length": "1000000", "Expect": "100-continue"}, query=[("partNumber", "2"), ("uploadId", upload)])
    with signed.socket(timeout_s=20) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_many_parts(signed, bucket):
    """The part list of one object goes over many metadata records."""
    upload = signed.initiate(bucket, "k")
    parts, whole = [], b""
    for number in range(1, 301):
        body = bytes([number % 251]) * PART
        parts.append((number, signed.upload_part(bucket, "k", upload, number, body)))
        whole += body
    done = signed.complete(bucket, "k", upload, parts)
    assert done.status == 200, done.body
    assert signed.get(bucket, "k").body == whole
    middle = signed.get(bucket, "k", {"Range": f"bytes={PART * 150 - 5}-{PART * 150 + 5}"})
    assert middle.body == whole[PART * 150 - 5:PART * 150 + 6]


@pytest.mark.long
@pytest.mark.parametrize("by", ["list", "all"])
def test_as_many_parts_as_there_may_be(wire, bucket, by):
    """10,000 parts of the smallest size that all but the last may have: uploaded, listed, completed and read across their borders."""
    count, common = 10_000, random.randbytes(PART - 4)

    def body(number):
        return number.to_bytes(4, "big") + common

    def span(start, end):
        first, last = start // PART, (end - 1) // PART
        around = b"".join(body(n + 1) for n in range(first, last + 1))
        return around[start - first * PART:end - first * PART]

    upload = wire.initiate(bucket, "k")

    def send(share):
        own = wire.clone()
        sent = [(n, own.upload_part(bucket, "k", upload, n, body(n))) for n in range(1 + share, count + 1, 4)]
        own.close()
        return sent

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        parts = sorted(part for sent in pool.map(send, range(4)) for part in sent)
    assert parts == [(n, f'"{digest.etag(body(n))}"') for n in range(1, count + 1)]
    refused = wire.request("PUT", bucket, "k", query=[("partNumber", str(count + 1)), ("uploadId", upload)], body=b"x")
    assert (refused.status, refused.code) == (400, "InvalidArgument")
    listed, marker = [], "0"
    while marker:
        page = wire.must("GET", bucket, "k", query=[("uploadId", upload), ("max-parts", "1000"), ("part-number-marker", marker)])
        assert set(page.texts("Part/Size")) == {str(PART)}
        listed += zip(map(int, page.texts("Part/PartNumber")), page.texts("Part/ETag"))
        marker = page.text("NextPartNumberMarker") if page.text("IsTruncated") == "true" else ""
    assert listed == parts
    if by == "list":
        done = wire.complete(bucket, "k", upload, parts)
    else:
        done = wire.request("POST", bucket, "k", query=[("uploadId", upload)], headers={"x-oss-complete-all": "yes"})
    assert done.status == 200, done.body
    assert done.headers["etag"] == f'"{digest.multipart_etag([etag.strip(chr(34)) for _, etag in parts])}"'
    crc = 0
    for number in range(1, count + 1):
        crc = digest.crc64(body(number), crc)
    head = wire.must("HEAD", bucket, "k")
    assert (done.headers["x-oss-hash-crc64ecma"], head.headers["x-oss-hash-crc64ecma"], head.headers["content-length"]) == (str(crc), str(crc), str(count * PART))
    starts = [n * PART + d for n in (1, 31, 32, 33, 4999, 9998, count - 1) for d in (-1, 0)] + [random.randrange(count * PART) for _ in range(30)]
    for start in starts:
        end = min(start + random.choice((1, 2, PART, 40 * PART + 1)), count * PART)
        got = wire.get(bucket, "k", {"Range": f"bytes={start}-{end - 1}"})
        assert (got.status, got.body == span(start, end)) == (206, True), (start, end)
    crc, step = 0, 500 * PART
    for start in range(0, count * PART, step):
        crc = digest.crc64(wire.get(bucket, "k", {"Range": f"bytes={start}-{start + step - 1}"}).body, crc)
    assert str(crc) == head.headers["x-oss-hash-crc64ecma"]


@pytest.mark.parametrize("query, status, code, ec", [
    ([("partNumber", "1")], 404, "NoSuchUpload", "0017-00000244"),
    ([("uploadId", "7" * 32)], 400, "InvalidArgument", "0017-00000219"),
    ([("partNumber", ""), ("uploadId", "7" * 32)], 400, "InvalidArgument", "0017-00000219"),
    ([("partNumber", "x"), ("uploadId", "7" * 32)], 400, "InvalidArgument", "0017-00000220"),
])
def test_half_of_what_names_a_part(signed, bucket, query, status, code, ec):
    answer = signed.request("PUT", bucket, "k", query=query, body=b"x")
    assert (answer.status, answer.code, answer.headers["x-oss-ec"]) == (status, code, ec), answer.body
    assert signed.request("GET", bucket, "k").status == 404


def test_malformed_ids(signed, bucket):
    for upload in ("", "x", "../..", "A" * 2000):
        answer = signed.request("PUT", bucket, "k", query=[("partNumber", "1"), ("uploadId", upload)], body=b"x")
        assert answer.status in (400, 404), (upload, answer.status)
        assert answer.code in ("NoSuchUpload", "InvalidArgument"), answer.body


def test_second_completion_finds_it_gone(client, bucket):
    """Two completions of one upload: one wins, the other finds it gone."""
    upload = client.initiate(bucket, "k")
    part = client.upload_part(bucket, "k", upload, 1, b"x")
    client.complete(bucket, "k", upload, [part])
    with pytest.raises(ApiError) as caught:
        client.complete(bucket, "k", upload, [part])
    assert caught.value.code == "NoSuchUpload"
