"""Two accounts and a stranger: what is whose, and who may do what under which ACL."""
import os
import stat

import oss2
import pytest

from harness import sdk
from harness.signing import Credentials
from harness.waiting import wait_for

from .test_bucket import check_refused, fresh_name

BUCKET_ACL = "You have no right to access this object because of bucket acl."
NOT_YOURS = "The bucket you access does not belong to you."


@pytest.fixture(scope="session")
def second(shared_server):
    """Credentials of an account that is not the root account."""
    made = shared_server.account("create", "Second of two")
    return Credentials(made["access_key_id"], made["access_key_secret"], shared_server.credentials.region)


@pytest.fixture(params=["oss2-v1", "oss2-v2", "ossv2-v4"])
def both(request, server, second):
    """The root account and the other one, through the same SDK."""
    return sdk.make(request.param, server), sdk.make(request.param, server, credentials=second)


@pytest.fixture
def theirs(server, second):
    """A bucket of the other account: its name and a raw client of its owner."""
    raw = server.wire(cred=second)
    name = fresh_name("theirs-")
    raw.must("PUT", name)
    yield name, raw
    raw.delete_bucket_with_contents(name)
    raw.close()


def account_of(server, key_id):
    """The account of an access key as `granary admin account list` shows it."""
    accounts = server.account("list")["accounts"]
    return next(a for a in accounts if any(k["access_key_id"] == key_id for k in a["access_keys"]))


def test_accounts_are_listed_without_secrets(server, second):
    told = server.account("list")
    assert second.secret not in str(told) and server.credentials.secret not in str(told)
    root, other = account_of(server, server.credentials.key_id), account_of(server, second.key_id)
    assert other["name"] == "Second of two" and other["account_id"] != root["account_id"]
    assert len(other["account_id"]) == 16 and [key["enabled"] for key in other["access_keys"]] == [True]
    again = server.account("create", "Second of two")
    assert again["account_id"] != other["account_id"], "names need not be unique"


def test_a_server_by_itself(make_server):
    """Who may ask it, and that its own key is no matter of commands; in a cluster neither is so."""
    server = make_server("alone")
    path = os.path.join(server.data_dirs[0], "meta", "admin.sock")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert "admin.sock" in server.account("list", "--server", "/nonexistent", expect=1)
    assert "root account" in server.account("disable", server.credentials.key_id, expect=1)


@pytest.mark.parametrize("name", ["", " ", "a" * 129, "a\nb"])
def test_names_that_are_none(server, name):
    assert "name" in server.account("create", name, expect=1)


def test_a_key_is_disabled_and_enabled(server):
    made = server.account("create", "Third")
    cred = Credentials(made["access_key_id"], made["access_key_secret"], server.credentials.region)
    raw = server.wire(cred=cred)
    assert raw.request("GET").status == 200
    assert server.account("disable", cred.key_id) == {"access_key_id": cred.key_id, "enabled": False, "changed": True}
    assert not server.account("disable", cred.key_id)["changed"]
    wait_for("the new view of the key", lambda: raw.request("GET").code == "InvalidAccessKeyId")
    assert server.account("enable", cred.key_id)["changed"]
    wait_for("the new view of the key", lambda: raw.request("GET").status == 200)
    raw.close()
    assert "there is no access key nobody" in server.account("disable", "nobody", expect=1)


def test_accounts_outlive_the_server(make_server):
    server = make_server("accounts")
    made = server.account("create", "Stays")
    cred = Credentials(made["access_key_id"], made["access_key_secret"], server.credentials.region)
    for stop in (server.stop, server.kill):
        stop()
        server.start()
        raw = server.wire(cred=cred)
        assert raw.request("GET").status == 200
        raw.close()
        assert account_of(server, cred.key_id)["name"] == "Stays"


def test_everybody_lists_their_own_buckets(both, server, second, bucket, theirs):
    root, other = both
    name, _ = theirs
    names = [{b.name for b in client.list_buckets(max_keys=1000).buckets} for client in (root, other)]
    assert bucket in names[0] and name not in names[0]
    assert bucket not in names[1] and name in names[1]
    for client, own, key_id in ((root, bucket, server.credentials.key_id), (other, name, second.key_id)):
        assert client.get_bucket_info(own).owner.id == account_of(server, key_id)["account_id"]


def test_a_bucket_of_somebody_else(both, theirs):
    root, _ = both
    name, owner = theirs
    owner.put(name, "k", b"private")
    check_refused(lambda: root.put_bucket(name), 409, "BucketAlreadyExists")
    check_refused(lambda: root.put_bucket(name, acl="public-read"), 409, "BucketAlreadyExists")
    check_refused(lambda: root.put_bucket_acl(name, "public-read"), 409, "BucketAlreadyExists")
    for call in (lambda: root.get_bucket_info(name), lambda: root.list_objects(name), lambda: root.delete_bucket(name),
                 lambda: root.get_bucket_location(name)):
        check_refused(call, 403, "AccessDenied", "0003-00000001", NOT_YOURS)
    for call in (lambda: root.get_object(name, "k"), lambda: root.put_object(name, "k", b"x"), lambda: root.delete_object(name, "k"),
                 lambda: root.initiate(name, "k")):
        check_refused(call, 403, "AccessDenied", "0003-00000001", BUCKET_ACL)
    assert owner.get(name, "k").body == b"private"


@pytest.mark.parametrize("acl, reads, writes", [("private", False, False), ("public-read", True, False), ("public-read-write", True, True)])
def test_acls_of_buckets(both, theirs, acl, reads, writes):
    root, _ = both
    name, owner = theirs
    owner.must("PUT", name, query=["acl"], headers={"x-oss-acl": acl})
    owner.put(name, "k", b"data")
    if reads:
        assert root.get_object(name, "k").data == b"data"
        assert root.head_object(name, "k").status == 200
    else:
        check_refused(lambda: root.get_object(name, "k"), 403, "AccessDenied", "0003-00000001", BUCKET_ACL)
    if writes:
        assert root.put_object(name, "n", b"new").status == 200
        assert root.delete_object(name, "n").status == 204
    else:
        check_refused(lambda: root.put_object(name, "n", b"new"), 403, "AccessDenied", "0003-00000001", BUCKET_ACL)
        check_refused(lambda: root.delete_object(name, "k"), 403, "AccessDenied", "0003-00000001", BUCKET_ACL)
    # Nobody else's ACL opens the names in a bucket.
    check_refused(lambda: root.list_objects(name), 403, "AccessDenied", "0003-00000001", NOT_YOURS)


def test_acls_of_objects_come_before_those_of_buckets(both, theirs):
    root, _ = both
    name, owner = theirs
    owner.must("PUT", name, query=["acl"], headers={"x-oss-acl": "public-read"})
    for acl in ("private", "public-read", "public-read-write", "default"):
        owner.put(name, acl, b"data", headers={"x-oss-object-acl": acl})
    assert [root.get_object(name, acl).data for acl in ("public-read", "public-read-write", "default")] == [b"data"] * 3
    check_refused(lambda: root.get_object(name, "private"), 403, "AccessDenied")
    assert root.put_object(name, "public-read-write", b"written").status == 200
    check_refused(lambda: root.put_object(name, "default", b"x"), 403, "AccessDenied")


def test_only_the_owner_of_the_bucket_sees_and_sets_acls(server, theirs):
    name, owner = theirs
    owner.put(name, "k", b"x", headers={"x-oss-object-acl": "public-read-write"})
    service = oss2.Bucket(oss2.Auth(server.credentials.key_id, server.credentials.secret), server.endpoint, name)
    for call, message, ec in ((lambda: service.get_object_acl("k"), "You do not have read acl permission on this object.", "0003-00000007"),
                              (lambda: service.put_object_acl("k", "private"), "You do not have write acl permission on this object.", "0003-00000008"),
                              (service.get_bucket_acl, NOT_YOURS, "0003-00000001")):
        with pytest.raises(oss2.exceptions.AccessDenied) as caught:
            call()
        assert (caught.value.status, caught.value.message, caught.value.ec) == (403, message, ec)


def test_what_others_write_belongs_to_the_owner_of_the_bucket(both, server, second, theirs):
    root, other = both
    name, owner = theirs
    owner.must("PUT", name, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    root.put_object(name, "put", b"x")
    root.copy_object(name, "put", name, "copied")
    upload = root.initiate(name, "multipart")
    part = root.upload_part(name, "multipart", upload, 1, b"x")
    root.complete(name, "multipart", upload, [part])
    server.wire(cred=None, auth=None).must("PUT", name, "anonymous", body=b"x")
    owners = {entry.key: entry.owner for entry in other.list_objects(name).entries}
    assert set(owners) == {"put", "copied", "multipart", "anonymous"}
    assert set(owners.values()) == {account_of(server, second.key_id)["account_id"]}
    # The writer gets no more of it than anybody else.
    owner.must("PUT", name, query=["acl"], headers={"x-oss-acl": "private"})
    check_refused(lambda: root.get_object(name, "put"), 403, "AccessDenied", "0003-00000001", BUCKET_ACL)


def test_copies_need_the_right_to_read(both, bucket, theirs):
    root, _ = both
    name, owner = theirs
    owner.put(name, "closed", b"x")
    owner.put(name, "open", b"x", headers={"x-oss-object-acl": "public-read"})
    check_refused(lambda: root.copy_object(name, "closed", bucket, "k"), 403, "AccessDenied")
    assert root.copy_object(name, "open", bucket, "k").status == 200
    assert root.get_object(bucket, "k").data == b"x"
