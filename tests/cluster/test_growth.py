"""A `granary server` becomes the first node of a cluster, as docs/running-a-cluster.md says, and the cluster grows around it.

Nothing is copied out or in, clients write and read all the while, and at the end the machine it began on may be killed.
"""
import contextlib
import glob
import os
import random
import struct
import time

import pytest

from compat.make_directory import body, fill
from compat.test_old_directories import check
from harness.cluster import GATEWAY_PORT, Spec
from harness.history import Gateways, History, Load, check_everything
from harness.waiting import wait_for
from harness.wire import complete_body

OLD, LIVE, NEW = "old-bucket", "live-bucket", "new-bucket"
PASSING = ("date", "server", "connection", "x-oss-request-id", "x-oss-server-time", "keep-alive")


def more(wire, expected):
    """What `fill` has not: tags, an ACL of its own, a copy, an upload of several parts."""
    for key, headers in (("tagged", {"x-oss-tagging": "colour=green&shape=round"}), ("private", {"x-oss-object-acl": "private"})):
        content = body(400, 120_000)
        answer = wire.must("PUT", OLD, key, body=content, headers=headers)
        expected["objects"][key] = {"seed": [400], "size": [120_000], "crc64": answer.headers["x-oss-hash-crc64ecma"]}
    wire.must("PUT", OLD, "copy", headers={"x-oss-copy-source": f"/{OLD}/large"})
    expected["objects"]["copy"] = expected["objects"]["large"]
    upload = wire.initiate(OLD, "two-parts")
    etag = wire.upload_part(OLD, "two-parts", upload, 1, body(500, 300_000))
    expected["uploads"]["two-parts"] = {"id": upload, "parts": [(1, etag)]}
    return expected


def seen_by(wire, expected):
    """All that a client sees of what the server was given, but for bytes."""
    seen = {}
    for key in expected["objects"]:
        answer = wire.must("HEAD", OLD, key)
        seen[key] = {name: value for name, value in answer.headers.items() if name not in PASSING}
        seen[key]["for anybody"] = wire.request("HEAD", OLD, key, auth=None).status
    info = wire.must("GET", OLD, query=["bucketInfo"])
    for name in ("Name", "CreationDate", "StorageClass", "DataRedundancyType", "Owner/ID", "AccessControlList/Grant"):
        seen["bucket", name] = info.text(f"Bucket/{name}")
    listed = wire.must("GET", OLD, query=[("max-keys", "1000")]).xml.findall("Contents")
    seen["listing"] = [[row.findtext(name) for name in ("Key", "ETag", "Size", "LastModified", "Type")] for row in listed]
    stat = wire.must("GET", OLD, query=["stat"])
    seen["stat"] = {name: stat.text(name) for name in ("Storage", "ObjectCount", "MultipartUploadCount")}
    for key, upload in expected["uploads"].items():
        parts = wire.must("GET", OLD, key, query=[("uploadId", upload["id"])]).xml.findall("Part")
        seen["upload", key] = [[part.findtext(name) for name in ("PartNumber", "ETag", "Size", "LastModified")] for part in parts]
    seen["buckets"] = wire.must("GET").texts("Buckets/Bucket/Name")
    return seen


def cluster_id_of(directory):
    """Whose disk it says it is."""
    with open(os.path.join(directory, "granary-disk"), "rb") as file:
        head = file.read()
    return head[24:24 + struct.unpack_from("B", head, 10)[0]].decode()


def volumes(node):
    """The volume files on the disks of a node, and which files they are."""
    return {path: os.stat(path).st_ino for directory in node.data_dirs for path in glob.glob(os.path.join(directory, "volumes", "*"))}


def specs(first_zone):
    """In the order in which they join. Three storage nodes in the first zone, so that LRS can have its copies on three nodes."""
    return [Spec("z1a", first_zone, disks=2), Spec("z1b", first_zone, ("storage",)), Spec("z2a", "z2"), Spec("z1c", first_zone, ("storage",)),
            Spec("z3a", "z3"), Spec("z2b", "z2", ("storage",))]


class Clients:
    """Load on one bucket through ever more gateways. What they see goes into one history."""

    def __init__(self, cluster, history, seed):
        self.cluster, self.history, self.seed = cluster, history, seed
        self.loads, self._stack = {}, contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        return self._stack.__exit__(*failure)

    def through(self, *names):
        """Gateways on some nodes."""
        return Gateways([(self.cluster[name].machine.address, GATEWAY_PORT) for name in names], self.cluster.credentials)

    def add(self, name):
        """More clients, of another gateway."""
        self.loads[name] = self._stack.enter_context(Load(self.through(name), self.history, f"{self.seed}-{name}", clients=3))

    def resume(self, count=10, deadline_s=120):
        """Changes are acknowledged again, and nobody saw what he must not."""
        next(iter(self.loads.values())).wait_acknowledged(count, deadline_s)
        for load in self.loads.values():
            load.check()


@pytest.mark.parametrize("first_zone", ["default", "z1"])
def test_a_server_becomes_a_cluster_of_three_zones(make_cluster, seed, say, first_zone):
    """Begun with two data directories and the metadata in the first of them, as most are; its zone has the name that it had, or a new one."""
    cluster = make_cluster(f"growth-{first_zone}", specs=specs(first_zone))
    first = cluster["z1a"]
    first.state = os.path.join(first.data_dirs[0], "meta")
    cluster.serve("z1a")
    wire = cluster.wire("z1a")
    expected = more(wire, fill(wire))
    wire.must("PUT", LIVE)
    before = seen_by(wire, expected)
    assert before["tagged"]["x-oss-tagging-count"] == "2" and before["private"]["for anybody"] == 403
    assert before["bucket", "DataRedundancyType"] == "LRS"

    history = History(LIVE, random.Random(f"{seed}-growth"))
    with Clients(cluster, history, f"{seed}-growing") as clients:
        clients.add("z1a")
        clients.resume(50)
        cluster.stop("z1a")
        becomes_a_node(cluster, first)
        began = time.monotonic()
        cluster.start("z1a")
        clients.resume()
        say(f"growth: the node serves {time.monotonic() - began:.1f} s after its start")
        check(wire, expected)
        assert seen_by(wire, expected) == before
        token, began = cluster.token(), time.monotonic()
        for spec in specs(first_zone)[1:]:
            cluster.join(spec.name, token)
            cluster.start(spec.name)
            if "gateway" in spec.roles:
                clients.add(spec.name)
            clients.resume()
        cluster.wait_whole()
        say(f"growth: five nodes joined, and all is as it should be after {time.monotonic() - began:.0f} s under load")
        clients.resume(50)
    is_spread(cluster)
    for name in ("z1a", "z2a", "z3a"):
        assert seen_by(cluster.wire(name), expected) == before, name

    # The machine it all began on is not needed any more.
    with Clients(cluster, history, f"{seed}-without") as clients:
        for name in ("z2a", "z3a"):
            clients.add(name)
        clients.resume(50)
        cluster.kill("z1a")
        clients.resume(50)
        finish_uploads(cluster, expected)
        for name in ("z2a", "z3a"):
            check(cluster.wire(name), expected)
        goes_on_without_the_first(cluster)
        cluster.start("z1a")
        clients.resume(50)
    is_spread(cluster)
    for name in ("z1a", "z2a", "z3a"):
        check(cluster.wire(name), expected)
    check_everything(clients.through("z1a", "z2a", "z3a"), history, "history-growth")
    assert not cluster.panics(), cluster.panics()[:5]
    say(f"growth: {history.summary()}")
    make_cluster.remove(cluster)


def becomes_a_node(cluster, first):
    """The procedure of the documentation; the disks stay as they are."""
    owner, files = cluster_id_of(first.data_dirs[0]), volumes(first)
    assert files
    for name in cluster.nodes:
        cluster.write_config(name)
    made = cluster.init(first.name)
    assert made["created"] and made["cluster_id"] == owner == cluster_id_of(first.data_dirs[1]), made
    again = cluster.init(first.name)
    assert not again["created"] and (again["cluster_id"], again["node_id"]) == (owner, made["node_id"]), again
    assert volumes(first) == files, "the disks were touched"


def is_spread(cluster):
    """Three voters in three zones, more than one leader, and every chunk three times, old ones too."""
    status = cluster.wait_whole()
    zone_of = {node["id"]: node["zone"] for node in status["nodes"]}
    for shard in status["shards"]:
        assert sorted(zone_of[voter] for voter in shard["voters"]) == cluster.zones, shard
    assert len({shard["leader"] for shard in status["shards"]}) > 1, "one node leads everything"
    assert [disk["state"] for disk in status["disks"]] == ["up"] * 7, status["disks"]
    report = cluster.fsck("--deep")
    assert report["copies_expected"] == 3 * report["chunks_referenced"] > 0, report


def goes_on_without_the_first(cluster):
    """Old buckets take writes, and new ones are as safe as three zones allow."""
    one, other = cluster.wire("z2a"), cluster.wire("z3a")
    wait_for("a new bucket", lambda: other.request("PUT", NEW).status == 200, 60, 0.5)
    for bucket in (OLD, NEW):
        one.must("PUT", bucket, "without-the-first", body=body(700, 2_000_000))
        assert other.must("GET", bucket, "without-the-first").body == body(700, 2_000_000)
        one.must("DELETE", bucket, "without-the-first")
    assert other.must("GET", NEW, query=["bucketInfo"]).text("Bucket/DataRedundancyType") == "ZRS"


def finish_uploads(cluster, expected):
    """The uploads that the server began end in the cluster: one as it was, the other with one more part."""
    last = cluster.wire("z3a")
    upload = expected["uploads"].pop("unfinished")
    assert last.complete(OLD, "unfinished", upload["id"], [(1, upload["etag"])]).status == 200
    upload_two = expected["uploads"].pop("two-parts")
    parts = upload_two["parts"] + [(2, cluster.wire("z2a").upload_part(OLD, "two-parts", upload_two["id"], 2, body(501, 200_000)))]
    done = last.request("POST", OLD, "two-parts", query=[("uploadId", upload_two["id"])], body=complete_body(parts))
    assert done.status == 200, done.body
    for key, seeds, sizes in (("unfinished", [upload["seed"]], [upload["size"]]), ("two-parts", [500, 501], [300_000, 200_000])):
        crc = last.must("HEAD", OLD, key).headers["x-oss-hash-crc64ecma"]
        expected["objects"][key] = {"seed": seeds, "size": sizes, "crc64": crc}


# What `init` makes, in its order; the last of it makes the directory a node's.
MADE = ("root-key-ids.toml", "admin", "admin/ca.key", "admin/ca.pem", "node.key", "node.pem", "admin/admin.pem", "admin/master.key", "identity.json")


def test_an_init_that_is_killed_is_run_again(make_cluster, seed, say):
    """Whenever it was killed, the next one makes the cluster, out of all that the server had."""
    cluster = make_cluster("killed-init", specs=[Spec("z1a", "default", disks=2)])
    first = cluster["z1a"]
    first.state = os.path.join(first.data_dirs[0], "meta")
    cluster.serve("z1a")
    expected = more(cluster.wire("z1a"), fill(cluster.wire("z1a")))
    before = seen_by(cluster.wire("z1a"), expected)
    cluster.kill("z1a")
    owner = cluster_id_of(first.data_dirs[0])
    cluster.write_config("z1a")
    line, files = ["admin", "init", "--config", first.config_path, "--json"], [os.path.join(first.state, name) for name in MADE]
    hit = cluster.cut_short_often("z1a", *line, files=files, rng=random.Random(f"{seed}-init"), times=4, most_s=0.5)
    assert cluster.init("z1a")["cluster_id"] == owner
    cluster.start("z1a")
    check(cluster.wire("z1a"), expected)
    assert seen_by(cluster.wire("z1a"), expected) == before
    cluster.wait_whole()
    cluster.fsck("--deep")
    say(f"init killed at {', '.join(hit)}, and run again")
    make_cluster.remove(cluster)
