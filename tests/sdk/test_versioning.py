"""Versioning, operation by operation, in the three states a bucket can be in, through both SDKs."""
import time

import alibabacloud_oss_v2 as ossv2
import oss2
import pytest

from harness import sdk
from harness.wire import content_md5

from .test_bucket import check_refused, fresh_name


class OfOss2:
    """What `oss2` says of versions."""

    def __init__(self, client, bucket):
        self.face, self.call, self.name, self.bucket = client, client._call, bucket, client._bucket(bucket)

    def switch(self, status):
        self.call(self.bucket.put_bucket_versioning, oss2.models.BucketVersioningConfig(status))

    def status(self):
        return self.call(self.bucket.get_bucket_versioning).status

    def put(self, key, data, headers=None):
        return self.call(self.bucket.put_object, key, data, headers=headers).versionid

    def get(self, key, version=None):
        found = self.call(self.bucket.get_object, key, params={"versionId": version} if version else None)
        return found.read(), found.versionid

    def head(self, key, version=None):
        return self.call(self.bucket.head_object, key, params={"versionId": version} if version else None).versionid

    def meta(self, key, version=None):
        return self.call(self.bucket.get_object_meta, key, params={"versionId": version} if version else None).versionid

    def delete(self, key, version=None):
        gone = self.call(self.bucket.delete_object, key, params={"versionId": version} if version else None)
        return bool(gone.delete_marker), gone.versionid

    def delete_many(self, pairs):
        names = oss2.models.BatchDeleteObjectVersionList()
        for key, version in pairs:
            names.append(oss2.models.BatchDeleteObjectVersion(key, version))
        gone = self.call(self.bucket.delete_object_versions, names)
        return [(v.key, v.versionid or None, bool(v.delete_marker), v.delete_marker_versionid or None) for v in gone.delete_versions]

    def copy(self, source, key, version=None, headers=None):
        made = self.call(self.bucket.copy_object, self.name, source, key, headers=headers,
                         params={"versionId": version} if version else None)
        return made.versionid, made.headers.get("x-oss-copy-source-version-id")

    def acl(self, key, version):
        return self.call(self.bucket.get_object_acl, key, params={"versionId": version}).acl

    def set_acl(self, key, acl, version):
        return self.call(self.bucket.put_object_acl, key, acl, params={"versionId": version}).versionid

    def tags(self, key, version):
        return self.call(self.bucket.get_object_tagging, key, params={"versionId": version}).tag_set.tagging_rule

    def tag(self, key, tags, version):
        rule = oss2.models.TaggingRule()
        for name, value in tags.items():
            rule.add(name, value)
        self.call(self.bucket.put_object_tagging, key, oss2.models.Tagging(rule), params={"versionId": version})

    def link(self, target, key):
        return self.call(self.bucket.put_symlink, target, key).headers.get("x-oss-version-id")

    def target(self, key, version=None):
        return self.call(self.bucket.get_symlink, key, params={"versionId": version} if version else None).target_key

    def versions(self, **params):
        page = self.call(self.bucket.list_object_versions, **params)
        objects = [(v.key, v.versionid, bool(v.is_latest)) for v in page.versions]
        markers = [(m.key, m.versionid, bool(m.is_latest)) for m in page.delete_marker]
        return objects, markers, (page.next_key_marker, page.next_versionid_marker) if page.is_truncated else None


class OfOssV2:
    """What `alibabacloud-oss-v2` says of versions."""

    def __init__(self, client, bucket):
        self.face, self.client, self.name = client, client.client, bucket

    def ask(self, operation, kind, **fields):
        return self.face._call(getattr(self.client, operation), kind(bucket=self.name, **fields))

    def switch(self, status):
        config = ossv2.VersioningConfiguration(status=status)
        self.ask("put_bucket_versioning", ossv2.PutBucketVersioningRequest, versioning_configuration=config)

    def status(self):
        return self.ask("get_bucket_versioning", ossv2.GetBucketVersioningRequest).version_status

    def put(self, key, data, headers=None):
        return self.ask("put_object", ossv2.PutObjectRequest, key=key, body=data, headers=headers or {}).version_id

    def get(self, key, version=None):
        def read():
            found = self.client.get_object(ossv2.GetObjectRequest(bucket=self.name, key=key, version_id=version))
            with found.body as body:
                return body.read(), found.version_id
        return self.face._call(read)

    def head(self, key, version=None):
        return self.ask("head_object", ossv2.HeadObjectRequest, key=key, version_id=version).version_id

    def meta(self, key, version=None):
        return self.ask("get_object_meta", ossv2.GetObjectMetaRequest, key=key, version_id=version).version_id

    def delete(self, key, version=None):
        gone = self.ask("delete_object", ossv2.DeleteObjectRequest, key=key, version_id=version)
        return bool(gone.delete_marker), gone.version_id

    def delete_many(self, pairs):
        objects = [ossv2.ObjectIdentifier(key=key, version_id=version) for key, version in pairs]
        gone = self.ask("delete_multiple_objects", ossv2.DeleteMultipleObjectsRequest, delete=ossv2.Delete(objects=objects))
        return [(v.key, v.version_id or None, bool(v.delete_marker), v.delete_marker_version_id or None) for v in gone.deleted_objects]

    def copy(self, source, key, version=None, headers=None):
        made = self.ask("copy_object", ossv2.CopyObjectRequest, key=key, source_key=source, source_version_id=version, headers=headers or {})
        return made.version_id, made.source_version_id

    def acl(self, key, version):
        return self.ask("get_object_acl", ossv2.GetObjectAclRequest, key=key, version_id=version).acl

    def set_acl(self, key, acl, version):
        return self.ask("put_object_acl", ossv2.PutObjectAclRequest, key=key, acl=acl, version_id=version).version_id

    def tags(self, key, version):
        found = self.ask("get_object_tagging", ossv2.GetObjectTaggingRequest, key=key, version_id=version)
        return {tag.key: tag.value for tag in found.tag_set.tags or []}

    def tag(self, key, tags, version):
        tagging = ossv2.Tagging(ossv2.TagSet(tags=[ossv2.Tag(key=k, value=v) for k, v in tags.items()]))
        self.ask("put_object_tagging", ossv2.PutObjectTaggingRequest, key=key, version_id=version, tagging=tagging)

    def link(self, target, key):
        return self.ask("put_symlink", ossv2.PutSymlinkRequest, key=key, symlink_target=target).version_id

    def target(self, key, version=None):
        return self.ask("get_symlink", ossv2.GetSymlinkRequest, key=key, version_id=version).target

    def versions(self, prefix=None, delimiter=None, key_marker=None, versionid_marker=None, max_keys=None):
        page = self.ask("list_object_versions", ossv2.ListObjectVersionsRequest, prefix=prefix, delimiter=delimiter, key_marker=key_marker,
                        version_id_marker=versionid_marker, max_keys=max_keys)
        objects = [(v.key, v.version_id, bool(v.is_latest)) for v in page.version or []]
        markers = [(m.key, m.version_id, bool(m.is_latest)) for m in page.delete_marker or []]
        return objects, markers, (page.next_key_marker, page.next_version_id_marker) if page.is_truncated else None


def delete_with_versions(wire, bucket):
    """Removes a bucket and every version in it."""
    while True:
        page = wire.must("GET", bucket, query=["versions", ("max-keys", "1000")])
        entries = page.xml.findall("Version") + page.xml.findall("DeleteMarker")
        if not entries:
            break
        for entry in entries:
            wire.must("DELETE", bucket, entry.findtext("Key"), query=[("versionId", entry.findtext("VersionId"))])
    wire.delete_bucket_with_contents(bucket)


@pytest.fixture
def kept(wire):
    """A fresh bucket; its versions go with it."""
    name = fresh_name("kept-")
    wire.must("PUT", name)
    yield name
    delete_with_versions(wire, name)


@pytest.fixture(params=["oss2-v1", "oss2-v2", "oss2-v4", "ossv2-v4"])
def versions(request, server, kept):
    """The bucket through each SDK."""
    client = sdk.make(request.param, server)
    return (OfOss2 if request.param.startswith("oss2-") else OfOssV2)(client, kept)


def test_the_three_states(versions, kept, wire):
    assert not versions.status()
    for status in ("Enabled", "Suspended", "Enabled"):
        versions.switch(status)
        assert versions.status() == status
    for body in ("<VersioningConfiguration><Status>Off</Status></VersioningConfiguration>", "<VersioningConfiguration/>", "x", ""):
        refused = wire.request("PUT", kept, query=["versioning"], body=body.encode())
        assert (refused.status, refused.code) == (400, "MalformedXML"), body
    assert versions.status() == "Enabled"


def test_without_versioning_nothing_has_a_version(versions):
    assert not versions.put("k", b"1") and not versions.put("k", b"2")
    data, version = versions.get("k")
    assert data == b"2" and not version
    assert not versions.head("k") and not versions.meta("k")
    assert not any(versions.copy("k", "copy"))
    assert versions.get("k", "null")[0] == b"2", "the null version is the one there is"
    assert versions.versions() == ([("copy", "null", True), ("k", "null", True)], [], None)
    assert versions.delete("k") in ((False, None), (False, ""))
    check_refused(lambda: versions.get("k"), 404, "NoSuchKey")
    assert versions.versions()[0] == [("copy", "null", True)]


def test_every_write_makes_a_version(versions):
    assert not versions.put("k", b"null")
    versions.switch("Enabled")
    ids = [versions.put("k", b"1"), versions.copy("k", "k", headers={"x-oss-meta-a": "b"})[0], versions.put("k", b"2")]
    bucket = versions.name
    upload = versions.face.initiate(bucket, "k")
    part = versions.face.upload_part(bucket, "k", upload, 1, b"3")
    ids.append(versions.face.complete(bucket, "k", upload, [part]).headers["x-oss-version-id"])
    ids.append(versions.link("other", "k"))
    assert len(set(ids)) == 5 and all(len(version) == 64 for version in ids)
    assert [versions.get("k", version) for version in ids[:4]] == list(zip([b"1", b"1", b"2", b"3"], ids))
    assert versions.get("k", "null") == (b"null", "null")
    assert versions.target("k") == versions.target("k", ids[4]) == "other"
    for version in ids[:4] + ["null"]:
        assert versions.head("k", version) == version and versions.meta("k", version) == version
    listed, markers, more = versions.versions()
    assert ([v for _, v, _ in listed], [latest for *_, latest in listed]) == (ids[::-1] + ["null"], [True] + [False] * 5)
    assert (markers, more) == ([], None)


def test_deleting_makes_a_marker_and_deletes_nothing(versions):
    versions.switch("Enabled")
    first, second = versions.put("k", b"1"), versions.put("k", b"2")
    is_marker, marker = versions.delete("k")
    assert is_marker and len(marker) == 64
    for call in (lambda: versions.get("k"), lambda: versions.copy("k", "other")):
        check_refused(call, 404, "NoSuchKey")
    check_refused(lambda: versions.get("k", marker), 405, "MethodNotAllowed", "0003-00000016")
    again = versions.delete("k")
    assert again[0] and again[1] not in (marker, first, second), "a marker upon a marker"
    assert versions.versions() == ([("k", second, False), ("k", first, False)], [("k", again[1], True), ("k", marker, False)], None)
    # A marker that is deleted brings back what was under it.
    assert versions.delete("k", again[1]) == (True, again[1])
    assert versions.delete("k", marker) == (True, marker)
    assert versions.get("k") == (b"2", second)
    assert versions.delete("k", second) == (False, second)
    assert versions.get("k") == (b"1", first)
    assert versions.delete("k", second) == (False, second), "what is gone is deleted already"
    assert versions.delete("k", first) == (False, first)
    assert versions.versions() == ([], [], None)
    check_refused(lambda: versions.get("k", first), 404, "NoSuchVersion")


def test_an_absent_key_gets_a_marker(versions):
    versions.switch("Enabled")
    is_marker, marker = versions.delete("never")
    assert is_marker and versions.versions() == ([], [("never", marker, True)], None)


def test_suspended_buckets_write_null_versions(versions):
    versions.put("k", b"null")
    versions.switch("Enabled")
    kept = versions.put("k", b"kept")
    versions.switch("Suspended")
    assert versions.put("k", b"new null") == "null"
    assert [v for _, v, _ in versions.versions()[0]] == ["null", kept], "the old null version was replaced"
    assert versions.get("k") == (b"new null", "null") == versions.get("k", "null")
    assert versions.copy("k", "k", version=kept)[0] == "null"
    assert versions.get("k") == (b"kept", "null")
    # A marker replaces it too, and is one itself.
    assert versions.delete("k") == (True, "null")
    assert versions.versions() == ([("k", kept, False)], [("k", "null", True)], None)
    check_refused(lambda: versions.get("k"), 404, "NoSuchKey")
    check_refused(lambda: versions.get("k", "null"), 405, "MethodNotAllowed")
    assert versions.delete("k", "null") == (True, "null")
    assert versions.get("k") == (b"kept", kept)
    assert versions.delete("k", "null") == (False, "null"), "there is none"


def test_copying_onto_itself_in_every_state(versions):
    versions.put("k", b"bytes", headers={"Content-Type": "a/b"})
    assert not versions.copy("k", "k", headers={"x-oss-metadata-directive": "REPLACE", "Content-Type": "c/d"})[0]
    assert [v for _, v, _ in versions.versions()[0]] == ["null"]
    versions.switch("Enabled")
    copied, source = versions.copy("k", "k", headers={"x-oss-metadata-directive": "REPLACE", "Content-Type": "e/f"})
    assert len(copied) == 64 and source == "null"
    assert [v for _, v, _ in versions.versions()[0]] == [copied, "null"]
    versions.switch("Suspended")
    assert versions.copy("k", "k")[0] == "null"
    assert [v for _, v, _ in versions.versions()[0]] == ["null", copied]
    assert versions.copy("k", "k") == ("null", "null")
    assert [v for _, v, _ in versions.versions()[0]] == ["null", copied]
    assert [versions.get("k", v)[0] for v in ("null", copied)] == [b"bytes"] * 2


def test_new_metadata_for_what_is_there(server, kept, wire):
    """A copy onto itself that names no metadata keeps it; one that does replaces it, in versions only if told so."""
    bucket = oss2.Bucket(oss2.Auth(server.credentials.key_id, server.credentials.secret), server.endpoint, kept)
    bucket.put_object("k", b"123")
    bucket.update_object_meta("k", {"Content-Type": "text/plain", "x-oss-meta-a": "1"})
    bucket.update_object_meta("k", None)
    head = bucket.head_object("k")
    assert (head.content_type, head.headers["x-oss-meta-a"]) == ("text/plain", "1")
    bucket.copy_object(kept, "k", "k", headers={"x-oss-meta-b": "2"})
    head = bucket.head_object("k")
    assert head.headers["x-oss-meta-b"] == "2" and "x-oss-meta-a" not in head.headers
    bucket.put_bucket_versioning(oss2.models.BucketVersioningConfig("Enabled"))
    bucket.copy_object(kept, "k", "k", headers={"x-oss-meta-c": "3"})
    head = bucket.head_object("k")
    assert head.headers["x-oss-meta-b"] == "2" and "x-oss-meta-c" not in head.headers
    bucket.update_object_meta("k", {"Content-Type": "a/b"})
    assert bucket.head_object("k").content_type == "a/b"
    assert len(wire.must("GET", kept, query=["versions"]).texts("Version/VersionId")) == 3


def test_several_are_deleted_at_once(versions):
    versions.put("null", b"0")
    versions.switch("Enabled")
    one, two = versions.put("a", b"1"), versions.put("a", b"2")
    gone = versions.delete_many([("a", one), ("b", None), ("null", "null")])
    assert gone[0] == ("a", one, False, None)
    assert gone[1][:3] == ("b", None, True) and len(gone[1][3]) == 64
    assert gone[2] == ("null", "null", False, None)
    # The marker by its id: it is said to have been one.
    marker = gone[1][3]
    assert versions.delete_many([("b", marker)]) == [("b", marker, True, marker)]
    versions.switch("Suspended")
    assert versions.delete_many([("a", None)]) == [("a", None, True, "null")]
    assert versions.versions() == ([("a", two, False)], [("a", "null", True)], None)


def test_attributes_belong_to_one_version(versions):
    versions.switch("Enabled")
    one, two = versions.put("k", b"1"), versions.put("k", b"2")
    assert versions.set_acl("k", "public-read", one) == one
    assert (versions.acl("k", one), versions.acl("k", two)) == ("public-read", "default")
    versions.tag("k", {"a": "1"}, two)
    assert (versions.tags("k", one), versions.tags("k", two)) == ({}, {"a": "1"})
    _, marker = versions.delete("k")
    check_refused(lambda: versions.set_acl("k", "private", marker), 405, "MethodNotAllowed")
    check_refused(lambda: versions.tag("k", {"a": "1"}, marker), 405, "MethodNotAllowed")


def test_copies_of_versions(versions):
    versions.switch("Enabled")
    one, two = versions.put("k", b"1"), versions.put("k", b"2")
    made, source = versions.copy("k", "copy", version=one)
    assert source == one and versions.get("copy") == (b"1", made)
    assert versions.copy("k", "copy")[1] == two
    _, marker = versions.delete("k")
    check_refused(lambda: versions.copy("k", "copy", version=marker), 404, "NoSuchKey")
    assert versions.copy("k", "k", version=one)[1] == one, "brings an old version back"
    assert versions.get("k")[0] == b"1"


def test_overwriting_is_not_forbidden_where_nothing_is_lost(versions):
    forbidding = {"x-oss-forbid-overwrite": "true"}
    versions.put("k", b"1")
    check_refused(lambda: versions.put("k", b"2", headers=forbidding), 409, "FileAlreadyExists")
    for status in ("Enabled", "Suspended"):
        versions.switch(status)
        assert versions.put("k", b"2", headers=forbidding)
        assert versions.copy("k", "k", headers=forbidding)[0]


def test_pages_of_versions(versions):
    versions.switch("Enabled")
    expected = []
    for key in ("a", "b/1", "b/2", "c"):
        for n in range(3):
            expected.append((key, versions.put(key, str(n).encode())))
        expected.append((key, versions.delete(key)[1]))
    expected.sort(key=lambda pair: (pair[0], -int(pair[1], 16)))
    seen, following = [], (None, None)
    while following:
        more = {"key_marker": following[0], "versionid_marker": following[1]} if following[0] else {}
        objects, markers, following = versions.versions(max_keys=3, **more)
        assert len(objects) + len(markers) <= 3
        seen += sorted([entry[:2] for entry in objects + markers], key=lambda pair: (pair[0], -int(pair[1], 16)))
    assert seen == expected
    objects, markers, _ = versions.versions(prefix="b/")
    assert {key for key, *_ in objects + markers} == {"b/1", "b/2"}
    assert sorted(v for _, v, _ in versions.versions(delimiter="/")[0]) == sorted(v for k, v in expected if "/" not in k and (k, v, True)
                                                                                  not in versions.versions()[1])


def test_ids_that_are_none(versions):
    versions.switch("Enabled")
    versions.put("k", b"1")
    for version in ("x", "0" * 64, "NULL"):
        check_refused(lambda: versions.get("k", version), 400, "InvalidArgument")
    check_refused(lambda: versions.get("k", "F" * 64), 400, "InvalidArgument")
    check_refused(lambda: versions.get("k", "0" * 63 + "1"), 404, "NoSuchVersion")


def test_a_bucket_with_versions_is_not_empty(versions, kept, wire):
    versions.switch("Enabled")
    versions.delete("k")
    refused = wire.request("DELETE", kept)
    assert (refused.status, refused.code) == (409, "BucketNotEmpty"), "a marker is something, too"
    listing = wire.must("GET", kept)
    assert listing.texts("Contents/Key") == []


def test_times_go_on_and_wire_names_are_the_services(versions, kept, wire):
    versions.switch("Enabled")
    before = time.time()
    versions.put("k", b"1")
    versions.delete("k")
    page = wire.must("GET", kept, query=["versions"]).xml
    assert page.tag == "ListVersionsResult"
    marker, version = page.find("DeleteMarker"), page.find("Version")
    assert [child.tag for child in page if child.tag in ("Version", "DeleteMarker")] == ["DeleteMarker", "Version"], "newest first"
    for name in ("Key", "VersionId", "IsLatest", "LastModified", "Owner/ID", "Owner/DisplayName"):
        assert marker.findtext(name) and version.findtext(name), name
    for name in ("ETag", "Type", "Size", "StorageClass"):
        assert version.findtext(name) and marker.find(name) is None, name
    stamp = time.mktime(time.strptime(version.findtext("LastModified"), "%Y-%m-%dT%H:%M:%S.000Z")) - time.timezone
    assert abs(stamp - before) < 30
    gone = wire.request("GET", kept, "k")
    assert (gone.status, gone.headers["x-oss-delete-marker"], gone.headers["x-oss-version-id"]) == (404, "true", marker.findtext("VersionId"))
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    answer = wire.must("POST", kept, query=["delete"], body=body, headers={"Content-MD5": content_md5(body)})
    assert answer.text("Deleted/DeleteMarker") == "true" and len(answer.text("Deleted/DeleteMarkerVersionId")) == 64
