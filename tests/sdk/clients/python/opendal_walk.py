"""OpenDAL against the server that the environment names; see tests/sdk/clients/program.py.

OpenDAL reads and writes files; buckets and their settings are made with `oss2`.
"""
import asyncio
import datetime
import json
import os
import random
import sys
import traceback
import urllib.error
import urllib.request

import opendal
import oss2
from opendal import exceptions

ENDPOINT, DOMAIN, RUN = os.environ["GRANARY_ENDPOINT"], os.environ["GRANARY_DOMAIN"], os.environ["GRANARY_RUN"]
KEY_ID, SECRET = os.environ["GRANARY_KEY_ID"], os.environ["GRANARY_KEY_SECRET"]
PART = 100 << 10
CASES = []


def case(name, operations):
    """Makes a case of a function of a world."""
    return lambda run: CASES.append((name, operations.split(), run))


class World:
    """One way to name buckets."""

    def __init__(self, name, endpoint, **more):
        self.name, self.endpoint, self.more = name, endpoint, more
        self.made = 0
        self.buckets = []

    def setup(self, bucket):
        """`oss2` on a bucket."""
        return oss2.Bucket(oss2.Auth(KEY_ID, SECRET), ENDPOINT, bucket)

    def bucket(self):
        """A new bucket, removed after the case."""
        self.made += 1
        name = f"{RUN}-{self.name}-{self.made}"
        self.setup(name).create_bucket()
        self.buckets.append(name)
        return name

    def operator(self, bucket=None, secret=SECRET, root="/"):
        """OpenDAL on a bucket."""
        return opendal.Operator("oss", endpoint=self.endpoint, bucket=bucket or self.bucket(), root=root, access_key_id=KEY_ID, access_key_secret=secret, **self.more)

    def clean(self):
        """Removes the buckets of a case."""
        for name in self.buckets:
            bucket = self.setup(name)
            while True:
                page = bucket.list_object_versions(max_keys=1000)
                if not page.versions and not page.delete_marker:
                    break
                for version in page.versions + page.delete_marker:
                    bucket.delete_object(version.key, {"versionId": version.versionid})
            for upload in oss2.MultipartUploadIterator(bucket):
                bucket.abort_multipart_upload(upload.key, upload.upload_id)
            bucket.delete_bucket()
        self.buckets.clear()


def equal(got, want):
    """Says what came instead."""
    if got != want:
        raise AssertionError(f"got {got!r}"[:400] + f", expected {want!r}"[:400])


def refused(call, kind, text=""):
    """The call raises this error, which says this."""
    try:
        got = call()
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"not {text}: {error}") from error
        return error
    raise AssertionError(f"expected {kind.__name__} {text}, but it went well: {got!r}"[:400])


def paths(entries):
    """The paths of a listing."""
    return sorted(entry.path for entry in entries)


@case("bytes there and back", "PutObject GetObject HeadObject DeleteObject")
def _bytes(world):
    operator = world.operator()
    for size in (0, 1, 16384, 65537, 300_000, (4 << 20) + 1):
        body = random.randbytes(size)
        key = f"dir/{size}"
        written = operator.write(key, body)
        equal(bytes(operator.read(key)), body)
        meta = operator.stat(key)
        equal((meta.content_length, meta.is_file, meta.is_dir), (size, True, False))
        assert meta.etag and meta.content_md5 and meta.last_modified, meta
        if written is not None:
            equal(written.etag, meta.etag)
        assert operator.exists(key)
        operator.delete(key)
        assert not operator.exists(key)
        operator.delete(key)
    refused(lambda: operator.read("none"), exceptions.NotFound, "NoSuchKey")
    refused(lambda: operator.stat("none"), exceptions.NotFound)


@case("headers and user metadata are kept", "PutObject HeadObject")
def _headers(world):
    operator = world.operator()
    operator.write("k", b"x", content_type="text/x-granary", content_disposition="attachment", content_encoding="identity", cache_control="no-cache", user_metadata={"people": "8"})
    meta = operator.stat("k")
    equal((meta.content_type, meta.content_disposition, meta.content_encoding, meta.user_metadata), ("text/x-granary", "attachment", "identity", {"people": "8"}))


@case("ranges", "GetObject")
def _ranges(world):
    operator = world.operator()
    body = random.randbytes(300_000)
    operator.write("k", body)
    for offset, size in ((0, 1), (70_000, 70_001), (299_999, 1), (5, 299_995)):
        equal(bytes(operator.read("k", offset=offset, size=size)), body[offset:offset + size])
    equal(bytes(operator.read("k", chunk=100_000, concurrent=3)), body)
    with operator.open("k", "rb") as file:
        file.seek(299_990)
        equal(bytes(file.read()), body[-10:])
        file.seek(3)
        equal(bytes(file.read(4)), body[3:7])


@case("conditions", "GetObject HeadObject PutObject")
def _conditions(world):
    operator = world.operator()
    operator.write("k", b"x")
    etag = operator.stat("k").etag
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    equal(bytes(operator.read("k", if_match=etag)), b"x")
    equal(bytes(operator.read("k", if_none_match='"0"')), b"x")
    equal(bytes(operator.read("k", if_modified_since=now - day)), b"x")
    equal(bytes(operator.read("k", if_unmodified_since=now + day)), b"x")
    for condition in ({"if_match": '"0"'}, {"if_none_match": etag}, {"if_unmodified_since": now - day}):
        refused(lambda: operator.read("k", **condition), exceptions.ConditionNotMatch)  # pylint: disable=cell-var-from-loop
    refused(lambda: operator.stat("k", if_match='"0"'), exceptions.ConditionNotMatch)
    refused(lambda: operator.write("k", b"y", if_not_exists=True), exceptions.ConditionNotMatch)
    equal(bytes(operator.read("k")), b"x")
    operator.write("n", b"y", if_not_exists=True)


@case("copies", "CopyObject")
def _copies(world):
    operator = world.operator()
    body = random.randbytes(200_000)
    operator.write("dir/a b+ü", body, content_type="text/x-granary")
    operator.copy("dir/a b+ü", "copy & ü")
    equal(bytes(operator.read("copy & ü")), body)
    equal(operator.stat("copy & ü").content_type, "text/x-granary")
    refused(lambda: operator.copy("none", "x"), exceptions.NotFound)


@case("keys as people choose them", "PutObject GetObject")
def _keys(world):
    operator = world.operator()
    for key in ("空 格/日本語.txt", "a+b&c=d?e#f", "100%/%41", "quote'\"<>", "~!@$^*()_-=[]{}|;:,"):
        operator.write(key, key.encode())
        equal(bytes(operator.read(key)), key.encode())


@case("listing", "ListObjectsV2 PutObject")
def _listing(world):
    operator = world.operator()
    operator.check()
    for key in ("a", "b/1", "b/2", "b/c/3", "d & e", "f"):
        operator.write(key, key.encode())
    equal(paths(operator.list("")), ["a", "b/", "d & e", "f"])
    equal([path for path in paths(operator.list("b/")) if path != "b/"], ["b/1", "b/2", "b/c/"])
    equal([path for path in paths(operator.list("", recursive=True)) if not path.endswith("/")], ["a", "b/1", "b/2", "b/c/3", "d & e", "f"])
    equal(paths(operator.list("", limit=2)), ["a", "b/", "d & e", "f"])
    equal(paths(operator.list("", start_after="b/")), ["d & e", "f"])
    equal({entry.path: entry.metadata.content_length for entry in operator.list("b/") if entry.path == "b/1"}, {"b/1": 3})
    equal(paths(operator.list("none/")), [])
    operator.create_dir("made/")
    assert operator.stat("made/").is_dir


@case("deleting a whole directory", "DeleteMultipleObjects ListObjectsV2")
def _delete_all(world):
    operator = world.operator()
    for n in range(25):
        operator.write(f"dir & ü/{n}", b"x")
    operator.write("stays", b"x")
    operator.remove_all("dir & ü/")
    equal(paths(operator.list("")), ["stays"])


@case("many at once, asynchronously", "DeleteMultipleObjects PutObject GetObject")
def _async(world):
    operator = world.operator().to_async_operator()

    async def work():
        bodies = {f"k{n}": random.randbytes(1000 * n) for n in range(12)}
        await asyncio.gather(*(operator.write(key, body) for key, body in bodies.items()))
        for key, got in zip(bodies, await asyncio.gather(*(operator.read(key) for key in bodies))):
            equal(bytes(got), bodies[key])
        await asyncio.gather(*(operator.delete(key) for key in bodies))
        equal(await operator.exists("k3"), False)

    asyncio.run(work())


@case("uploads in parts", "InitiateMultipartUpload UploadPart CompleteMultipartUpload")
def _parts(world):
    operator = world.operator()
    body = random.randbytes(5 * PART + 7)
    operator.write("big", body, chunk=PART, concurrent=3, content_type="text/x-granary")
    equal(bytes(operator.read("big")), body)
    meta = operator.stat("big")
    equal((meta.content_length, meta.content_type), (len(body), "text/x-granary"))
    assert meta.etag.endswith('-6"'), meta.etag
    with operator.open("streamed", "wb", chunk=PART) as file:
        for at in range(0, len(body), 70_000):
            file.write(body[at:at + 70_000])
    equal(bytes(operator.read("streamed")), body)


@case("versions", "ListObjectVersions GetObject HeadObject DeleteObject")
def _versions(world):
    name = world.bucket()
    world.setup(name).put_bucket_versioning(oss2.models.BucketVersioningConfig("Enabled"))
    operator = world.operator(name)
    operator.write("k", b"one")
    one = operator.stat("k").version
    operator.write("k", b"second")
    two = operator.stat("k").version
    assert one and two and one != two, (one, two)
    equal(bytes(operator.read("k", version=one)), b"one")
    equal(operator.stat("k", version=one).content_length, 3)
    operator.delete("k")
    assert not operator.exists("k")
    equal({entry.metadata.version for entry in operator.list("", versions=True)}, {one, two})
    operator.delete("k", version=two)
    refused(lambda: operator.read("k", version=two), exceptions.NotFound, "NoSuchVersion")


@case("addresses that are signed", "GetObject PutObject HeadObject")
def _presigned(world):
    name = world.bucket()
    operator = world.operator(name)
    asynchronous = operator.to_async_operator()

    async def sign(kind, *arguments, **options):
        return await getattr(asynchronous, f"presign_{kind}")(*arguments, **options)

    def send(signed, body=None, method=None):
        # It names the length of the body that it did not see.
        headers = {name: value for name, value in signed.headers.items() if name.lower() not in ("host", "content-length")}
        request = urllib.request.Request(signed.url, data=body, method=method or signed.method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers

    equal(send(asyncio.run(sign("write", "a b", 60, content_type="text/x-granary")), b"signed")[0], 200)
    equal(send(asyncio.run(sign("read", "a b", 60)))[1], b"signed")
    equal(send(asyncio.run(sign("stat", "a b", 60)))[2]["Content-Length"], "6")
    equal(operator.stat("a b").content_type, "text/x-granary")
    try:
        send(asyncio.run(sign("read", "a b", 60)), method="DELETE")
    except urllib.error.HTTPError as error:
        equal(error.code, 403)
    else:
        raise AssertionError("an address for reading deletes")


@case("what is refused", "PutObject GetObject")
def _refused(world):
    name = world.bucket()
    refused(lambda: world.operator(name, secret="wrong").write("k", b"x"), exceptions.PermissionDenied, "SignatureDoesNotMatch")
    refused(lambda: world.operator("no-such-bucket-for-opendal").write("k", b"x"), Exception, "NoSuchBucket")


@case("appending", "AppendObject HeadObject")
def _append(world):
    operator = world.operator()
    operator.write("log", b"one", append=True)
    operator.write("log", b"-two", append=True)
    equal(bytes(operator.read("log")), b"one-two")
    with operator.open("log", "wb", append=True) as file:
        file.write(b"-three")
    equal(bytes(operator.read("log")), b"one-two-three")


def main():
    """Prints a line per case."""
    port = ENDPOINT.rpartition(":")[2]
    worlds = [World("path", ENDPOINT, addressing_style="path"), World("name", f"http://{DOMAIN}:{port}")]
    for world in worlds:
        for name, operations, run in CASES:
            message = ""
            try:
                run(world)
            except Exception as error:  # pylint: disable=broad-except
                last = traceback.extract_tb(error.__traceback__)
                where = next((f"{frame.name}:{frame.lineno}" for frame in reversed(last) if frame.filename == __file__ and frame.name.startswith("_")), "")
                message = f"{type(error).__name__}: {error} at {where}"[:1500]
            world.clean()
            print(json.dumps({"case": f"{world.name}: {name}", "operations": operations, "ok": not message, "message": message}), flush=True)
    print(json.dumps({"cases": len(worlds) * len(CASES)}))


if __name__ == "__main__":
    sys.exit(main())
