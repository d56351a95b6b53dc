"""Buckets with a hierarchical namespace: directories, renames, and deleting in steps.

Of the SDKs only the one for Java knows these operations, so the requests are raw here."""
import random
import threading

import pytest

from harness import signing
from harness.wire import content_md5
from sdk.test_bucket import fresh_name


@pytest.fixture(params=["v1", "v4"])
def tree(wire, request):
    """A bucket with directories, behind a few calls that tell what came of them."""
    name = fresh_name("hns-")
    client = wire.clone(auth=request.param)
    made = client.request("PUT", name, headers={"x-oss-hns-status": "enabled"})
    assert made.status == 200, made.body
    yield Tree(client, name)
    while keys := listed(client, name):
        for key in reversed(keys):
            assert client.request("DELETE", name, key).status == 204
    assert client.request("DELETE", name).status == 204


def listed(client, bucket, **query):
    """Keys of the first page of a listing."""
    page = client.request("GET", bucket, query=query)
    assert page.status == 200, page.body
    return page.texts("Contents/Key")


class Tree:
    """One bucket; every call answers (status, code)."""

    def __init__(self, client, bucket):
        self.client, self.bucket = client, bucket

    def call(self, method, path, query=(), headers=None, body=b""):
        """A raw call."""
        return self.client.request(method, self.bucket, path, query=query, headers=headers or {}, body=body)

    def put(self, path, body=b"123"):
        """PutObject."""
        return outcome(self.call("PUT", path, body=body))

    def mkdir(self, path):
        """CreateDirectory."""
        return outcome(self.call("POST", path, ["x-oss-dir"]))

    def rename(self, source, path):
        """Rename."""
        source = signing.escape(source, safe="")
        return outcome(self.call("POST", path, ["x-oss-rename"], {"x-oss-rename-source": source}))

    def rmdir(self, path, **headers):
        """DeleteDirectory; the answer itself."""
        headers = {"x-oss-delete-" + name: value for name, value in headers.items()}
        return self.call("POST", path, ["x-oss-delete"], headers)

    def keys(self, **query):
        """Every key."""
        return listed(self.client, self.bucket, **query)


def outcome(answer):
    """Status and code."""
    return answer.status, answer.code


OK = (200, "")
TAKEN = (409, "FileAlreadyExists")
MISSING = (404, "NoSuchKey")


def test_the_bucket_says_what_it_is(tree):
    info = tree.client.request("GET", tree.bucket, query=["bucketInfo"])
    assert info.text("Bucket/HierarchicalNamespace") == "Enabled"
    other = tree.client.request("PUT", tree.bucket, headers={"x-oss-hns-status": "disabled"})
    assert outcome(other) == (409, "BucketAlreadyExists")
    assert tree.client.request("PUT", tree.bucket).status == 200


def test_directories_come_with_objects_and_stay(tree):
    assert tree.put("a/b/c") == OK
    assert tree.mkdir("a/d/e") == OK
    assert tree.mkdir("a/d/e") == OK
    assert tree.keys() == ["a/", "a/b/", "a/b/c", "a/d/", "a/d/e/"]
    head = tree.call("HEAD", "a/b")
    assert (head.status, head.headers["content-type"], head.headers["content-length"]) == (200, "application/x-directory", "0")
    assert "etag" not in head.headers
    assert tree.put("a/b") == TAKEN
    assert tree.put("a/b/c/d") == TAKEN
    assert tree.mkdir("a/b/c") == TAKEN
    assert tree.put("a//b") == (400, "InvalidObjectName")
    assert outcome(tree.call("GET", "a/b", ["acl"])) == TAKEN
    assert tree.call("DELETE", "a/b/c").status == 204
    assert tree.keys(prefix="a/b") == ["a/b/"]
    page = tree.client.request("GET", tree.bucket, query={"delimiter": "/", "prefix": "a/"})
    assert page.texts("CommonPrefixes/Prefix") == ["a/b/", "a/d/"]


def test_renames_as_the_java_sdk_makes_them(tree):
    name = "test-obj-1-#+<>中文测试"
    assert tree.put(name, b"1234") == OK
    assert tree.rename(name, "new-test-obj-1") == OK
    assert tree.call("GET", "new-test-obj-1").body == b"1234"
    large = random.randbytes(300_000)
    assert tree.put("d/in/large", large) == OK
    assert tree.rename("d", "e/f") == MISSING
    assert tree.mkdir("e") == OK
    assert tree.rename("d", "e/f") == OK
    assert tree.call("GET", "e/f/in/large").body == large
    assert outcome(tree.call("GET", "d/in/large")) == MISSING
    assert tree.rename("d", "g") == MISSING
    assert tree.rename("e", "new-test-obj-1") == TAKEN
    assert tree.rename("e", "e/f/g") == (400, "InvalidObjectName")


def test_a_reader_goes_on_while_directories_are_renamed(tree):
    body = random.randbytes(2_000_000)
    assert tree.put("a/x", body) == OK
    readers = [threading.Thread(target=read, args=(tree, body)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(40):
        assert tree.rename(*(("a", "b") if n % 2 == 0 else ("b", "a"))) == OK
    for reader in readers:
        reader.join()
    assert tree.keys() == ["a/", "a/x"]


def read(tree, body):
    """Reads the object under either name: it is there, whole, or not there at all."""
    client = tree.client.clone()
    for n in range(20):
        got = client.request("GET", tree.bucket, "ab"[n % 2] + "/x")
        assert outcome(got) == MISSING or got.body == body


def test_deleting_in_steps(tree):
    for n in range(100):
        assert tree.put(f"test-dir/test-obj-{n}") == OK
    assert outcome(tree.rmdir("test-dir")) == TAKEN
    first = tree.rmdir("test-dir", recursive="true")
    assert (first.text("DirectoryName"), first.text("DeleteNumber")) == ("test-dir", "100")
    last = tree.rmdir("test-dir", recursive="true", token=first.text("NextDeleteToken"))
    assert (last.text("DeleteNumber"), last.text("NextDeleteToken")) == ("1", None)
    assert outcome(tree.rmdir("test-dir")) == MISSING
    assert tree.keys() == []


def test_only_the_owner_deletes_what_is_in_a_directory(tree):
    tree.client.must("PUT", tree.bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    tree.client.must("PUT", tree.bucket, "d/secret", headers={"x-oss-object-acl": "private"}, body=b"secret")
    anyone = Tree(tree.client.clone(cred=None, auth=None), tree.bucket)
    assert outcome(anyone.rmdir("d", recursive="true")) == (403, "AccessDenied")
    assert tree.call("GET", "d/secret").body == b"secret"
    assert tree.rmdir("d", recursive="true").text("DeleteNumber") == "2"


def test_attributes_of_a_directory_are_refused(tree):
    for name, value in (("x-oss-object-acl", "private"), ("x-oss-meta-a", "1"), ("x-oss-tagging", "a=1")):
        assert outcome(tree.call("PUT", "d/", headers={name: value})) == (501, "NotImplemented")
    assert tree.keys() == []


def test_what_the_service_does_not_have_there(tree):
    for method, query in [("GET", ["versioning"]), ("GET", ["versions"]), ("GET", ["cors"]), ("POST", ["delete"])]:
        refused = tree.client.request(method, tree.bucket, query=query, headers={"Content-MD5": content_md5(b"")})
        assert outcome(refused) == (501, "NotImplemented"), query


def test_a_bucket_without_directories(wire, bucket):
    for query in ["x-oss-dir", "x-oss-rename", "x-oss-delete"]:
        refused = wire.request("POST", bucket, "d", query=[query], headers={"x-oss-rename-source": "x"})
        assert outcome(refused) == (400, "InvalidArgument")
        assert refused.error["Message"] == "Hierarchical namespace is disabled."
