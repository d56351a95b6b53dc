"""Every metadata volume is lost, and the cluster is rebuilt from the backup in its storage pool.

What was backed up is there with its bytes, the storage nodes find the new meta node by themselves, and the cluster goes on:
it takes writes, grows voters again, and can be lost and rebuilt once more.
"""
import hashlib
import os
import random
import shutil
import time
import urllib.request

import pytest

from harness.cluster import ADMIN_PORT, SETTINGS, Spec, wait_for

BUCKET = "rebuilt-bucket"
NODE_ROLES = ("gateway", "meta", "worker")
BACKED_UP = SETTINGS.replace("backup = false", "backup = true")


def body_of(name, size):
    """Bytes that a name and a size decide."""
    return random.Random(f"{name}/{size}").randbytes(size)


class Objects:
    """What was written, and must be read back."""

    def __init__(self):
        self.written = {}

    def put(self, wire, prefix, count):
        """Small ones, which stand in the metadata, and large ones, which stand on disks."""
        for n in range(count):
            name, size = f"{prefix}/{n}", (300, 5000, 700_000)[n % 3]
            wire.must("PUT", BUCKET, name, body=body_of(name, size))
            self.written[name] = size

    def check(self, wire):
        """Every one is there with its bytes."""
        for name, size in self.written.items():
            answer = wire.must("GET", BUCKET, name)
            assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body_of(name, size)).digest(), name


def samples(node, name):
    """The samples of one metric by label."""
    with urllib.request.urlopen(f"http://{node.machine.address}:{ADMIN_PORT}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split("{")[1].split("}")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")}


def wait_backed_up(cluster, names, shards):
    """Everything that was acknowledged by now is in the backup."""

    def lacking():
        lag, checkpoint = {}, {}
        for name in names:
            lag.update(samples(cluster[name], "granary_meta_backup_lag_seconds"))
            checkpoint.update(samples(cluster[name], "granary_meta_backup_checkpoint_index"))
        missing = [f"{len(lag)} of {shards} shards"] if len(lag) < shards else []
        missing += [f"{shard} has no checkpoint" for shard, index in checkpoint.items() if not index]
        return missing + [f"{shard} lags {seconds} s" for shard, seconds in lag.items() if seconds > 0]

    time.sleep(1.5)  # Longer than the interval: a lag of 0 s is of now.
    wait_for("the backup", lacking, 120, 0.3)


def rebuild(cluster, name, *more, sources, admin_dir):
    """Runs `granary admin rebuild` on a node's machine."""
    addresses = ",".join(cluster[source].cluster_listen for source in sources)
    return cluster.on(name, "admin", "rebuild", "--config", cluster[name].config_path, "--admin-dir", admin_dir, "--from", addresses,
                      "--json", *more, timeout_s=300)


def keep_admin_dir(cluster, name):
    """The operator's copy, made while there was something to copy."""
    kept = os.path.join(cluster[name].place, "kept-admin")
    shutil.copytree(os.path.join(cluster[name].state_dir, "admin"), kept)
    return kept


@pytest.fixture
def small(make_cluster):
    """One meta node and three with a disk each."""
    specs = [Spec("m", "z1", NODE_ROLES)] + [Spec(f"s{n}", "z1", ("storage",)) for n in (1, 2, 3)]
    cluster = make_cluster("small", specs=specs, settings=BACKED_UP)
    cluster.form(whole=False)
    yield cluster
    make_cluster.remove(cluster)


def test_the_only_meta_node_is_lost_and_rebuilt_twice(small, say):
    """Its state directory is gone; the storage nodes run on, or are started while there is no metadata."""
    objects, wire = Objects(), small.wire("m")
    wait_for("a first group", lambda: wire.request("PUT", BUCKET).status == 200, 60, 0.3)
    wait_for("the first bytes", lambda: wire.request("PUT", BUCKET, "first", body=bytes(100_000)).status == 200, 60, 0.3)
    objects.put(wire, "before", 30)
    wait_backed_up(small, ["m"], 5)
    admin_dir, storage = keep_admin_dir(small, "m"), ["s1", "s2", "s3"]
    small.kill("m")
    refused = rebuild(small, "m", sources=["s1"], admin_dir=admin_dir)
    assert refused.code == 1 and "state directory" in refused.err, f"there is metadata still: {refused}"
    small.wipe(small["m"].state_dir)

    # A node that was not asked cannot be read, and nothing is begun without the root.
    small.kill(*storage)
    nothing = rebuild(small, "m", sources=["s1"], admin_dir=admin_dir)
    assert nothing.code == 1 and "root" in nothing.data["refused"], nothing
    assert nothing.data["problems"] and nothing.data["node_id"] is None, nothing
    small.start(*storage, wait=False)

    def rebuilt():
        answer = rebuild(small, "m", sources=["s1"], admin_dir=admin_dir)
        return answer if answer.code == 0 and answer.data["disks"] == 3 else None

    answer = wait_for("the disks of nodes that have no metadata", rebuilt, 90, 1)
    assert answer.data["missing"] == [] and answer.data["removed"] == [1], answer
    assert all(shard["reached"] >= shard["checkpoint"] for shard in answer.data["shards"]), answer
    assert answer.data["not_told"] == [], answer
    again = rebuild(small, "m", sources=["s1"], admin_dir=admin_dir)
    assert (again.code, again.data["node_id"]) == (0, answer.data["node_id"]), again
    small["m"].node_id = answer.data["node_id"]
    small.start("m")
    small.wait_ready(*storage)
    objects.check(wire)
    wait_for("writes", lambda: wire.request("PUT", BUCKET, "first", body=bytes(100_000)).status == 200, 60, 0.3)
    objects.put(wire, "between", 30)
    say(f"rebuilt from {answer.data['disks']} disks: node {answer.data['node_id']}")

    # The same once more, with the storage nodes running.
    wait_backed_up(small, ["m"], 5)
    small.kill("m")
    small.wipe(small["m"].state_dir)
    second = rebuild(small, "m", sources=storage, admin_dir=admin_dir)
    assert second.code == 0 and second.data["node_id"] > answer.data["node_id"], second
    small.start("m")
    objects.check(wire)
    objects.put(wire, "after", 9)
    objects.check(wire)
    small.fsck()


def test_three_combined_nodes_lose_their_state_and_keep_their_disks(make_cluster, say):
    """The disks of the machine that is rebuilt are read where they lie; the others join again with theirs."""
    specs = [spec for n in (1, 2, 3) for spec in (Spec(f"a{n}", "z1"), Spec(f"b{n}", "z1", ("storage",)))]
    cluster = make_cluster("combined", specs=specs, settings=BACKED_UP)
    cluster.form()
    objects, combined = Objects(), ["a1", "a2", "a3"]
    cluster.wire("a1").must("PUT", BUCKET)
    objects.put(cluster.wire("a1"), "before", 60)
    wait_backed_up(cluster, combined, 5)
    admin_dir = keep_admin_dir(cluster, "a1")
    cluster.kill(*combined)
    for name in combined:
        cluster.wipe(cluster[name].state_dir)
    # The disks of the other two cannot be read before they are nodes again.
    refused = rebuild(cluster, "a1", sources=["b2"], admin_dir=admin_dir)
    assert refused.code == 1 and sum("which has disks" in problem for problem in refused.data["problems"]) == 2, refused
    answer = rebuild(cluster, "a1", "--accept-loss", sources=["b2"], admin_dir=admin_dir)
    assert answer.code == 0 and answer.data["disks"] == 4, answer
    assert sorted(answer.data["removed"]) == sorted(cluster[name].node_id for name in combined), answer
    cluster["a1"].node_id = answer.data["node_id"]
    cluster.start("a1")
    token = cluster.token()
    for name in ("a2", "a3"):
        cluster.join(name, token)
    cluster.start("a2", "a3")
    cluster.wait_whole()
    for name in combined:
        objects.check(cluster.wire(name))
    objects.put(cluster.wire("a2"), "after", 30)
    objects.check(cluster.wire("a3"))
    cluster.fsck()
    say(f"rebuilt with the disks of its own machine: node {answer.data['node_id']}")
    make_cluster.remove(cluster)
