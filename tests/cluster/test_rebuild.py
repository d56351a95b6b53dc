"""Every metadata volume is lost, and the cluster is rebuilt from the backup in its storage pool.

What was backed up is there with its bytes, the storage nodes find the new meta node by themselves, and the cluster goes on:
it takes writes, grows voters again, and can be lost and rebuilt once more.
"""
import hashlib
import json
import os
import random
import re
import shutil
import struct
import time

import pytest

from harness.cluster import BACKED_UP, Spec
from harness.waiting import wait_for

BUCKET = "rebuilt-bucket"
NODE_ROLES = ("gateway", "meta", "worker")


def body_of(name, size):
    """Bytes that a name and a size decide."""
    return random.Random(f"{name}/{size}").randbytes(size)


class Objects:
    """What was written into a bucket, and must be read back."""

    def __init__(self, bucket=BUCKET):
        self.bucket, self.written = bucket, {}

    def put(self, wire, prefix, count):
        """Small ones, which stand in the metadata, and large ones, which stand on disks."""
        for n in range(count):
            name, size = f"{prefix}/{n}", (300, 5000, 700_000)[n % 3]
            wire.must("PUT", self.bucket, name, body=body_of(name, size))
            self.written[name] = size

    def check(self, wire):
        """Every one is there with its bytes."""
        for name, size in self.written.items():
            answer = wire.must("GET", self.bucket, name)
            assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body_of(name, size)).digest(), name


def samples(node, name):
    """The samples of one metric by label."""
    return {sample.partition("{")[2].rstrip("}"): value for sample, value in node.metrics().items() if sample.startswith(name + "{")}


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


def rebuild_line(cluster, name, sources, admin_dir):
    """The words of `granary admin rebuild` for a node's machine."""
    addresses = ",".join(cluster[source].cluster_listen for source in sources)
    return ["admin", "rebuild", "--config", cluster[name].config_path, "--admin-dir", admin_dir, "--from", addresses, "--json"]


def rebuild(cluster, name, *more, sources, admin_dir):
    """Runs `granary admin rebuild` on a node's machine."""
    return cluster.on(name, *rebuild_line(cluster, name, sources, admin_dir), *more, timeout_s=300)


def keep_admin_dir(cluster, name):
    """The operator's copy, made while there was something to copy."""
    kept = os.path.join(cluster[name].place, "kept-admin")
    shutil.copytree(os.path.join(cluster[name].state_dir, "admin"), kept)
    return kept


@pytest.fixture
def small(make_cluster, request):
    """One meta node and three with a disk each; the parameter says whether they talk in plain text."""
    specs = [Spec("m", "z1", NODE_ROLES)] + [Spec(f"s{n}", "z1", ("storage",)) for n in (1, 2, 3)]
    cluster = make_cluster("small", specs=specs, settings=BACKED_UP, plaintext=getattr(request, "param", False))
    cluster.form(whole=False)
    yield cluster
    make_cluster.remove(cluster)


def fill(cluster, *buckets, count=30):
    """Buckets with objects, as soon as there are groups that take them."""
    wire, filled = cluster.wire("m"), {bucket: Objects(bucket) for bucket in buckets}
    for bucket in buckets:
        wait_for("a bucket", lambda b=bucket: wire.request("PUT", b).status == 200, 60, 0.3)
    wait_for("the first bytes", lambda: wire.request("PUT", buckets[0], "first", body=bytes(100_000)).status == 200, 60, 0.3)
    for objects in filled.values():
        objects.put(wire, "before", count)
    return filled


@pytest.mark.parametrize("small", [False, pytest.param(True, marks=pytest.mark.long)], indirect=True, ids=["tls", "plaintext"])
def test_the_only_meta_node_is_lost_and_rebuilt_twice(small, say):
    """Its state directory is gone; the storage nodes run on, or are started while there is no metadata."""
    objects, wire = fill(small, BUCKET)[BUCKET], small.wire("m")
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
    with open(small["m"].log_path, encoding="utf-8", errors="replace") as log:
        assert ("nodes talk in plain text" in log.read()) == small.plaintext
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


def exists(*names):
    """Whether something is there in a state directory."""
    return lambda state_dir: os.path.exists(os.path.join(state_dir, *names))


# When a rebuild is killed: its own directory is begun, its database is there, the shards are put back, the node has its certificate.
POINTS = (exists("rebuilding"), exists("rebuilding", "db", "CURRENT"), exists("rebuilding", "master.key"), exists("rebuilding", "node.pem"))
# The order in which the last step moves things into the state directory; a kill leaves the first few of them there.
MOVED = ("db", "format", "master.key", "node.key", "node.pem", "ca.pem")


def kill_rebuild_when(cluster, name, line, reached):
    """Starts a rebuild and kills it as soon as a condition holds; False when it had made the node by then."""
    state_dir = cluster[name].state_dir
    return cluster.cut_short(name, *line, when=lambda: reached(state_dir)) and not exists("identity.json")(state_dir)


def test_three_combined_nodes_lose_their_state_and_keep_their_disks(make_cluster, say):
    """The disks of the machine that is rebuilt are read where they lie, by a command that is killed too; the others join again with theirs."""
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
    # Killed while it reads the disks of its own machine, and while it makes the node.
    line = [*rebuild_line(cluster, "a1", ["b2"], admin_dir), "--accept-loss"]
    assert all(kill_rebuild_when(cluster, "a1", line, reached) for reached in (POINTS[1], POINTS[3])), "it was too fast to be killed"
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


@pytest.mark.long
def test_two_of_three_metadata_nodes_are_gone_for_good(make_cluster, say):
    """Nothing can be decided any more, and the last one says what is left to do; its disk has everything that was backed up."""
    cluster = make_cluster("survivor", specs=[Spec(f"a{n}", "z1") for n in (1, 2, 3)], settings=BACKED_UP)
    cluster.form()
    objects, gone = Objects(), ["a2", "a3"]
    cluster.wire("a1").must("PUT", BUCKET)
    objects.put(cluster.wire("a1"), "before", 30)
    cluster.wait_whole()
    wait_backed_up(cluster, list(cluster.nodes), 5)
    admin_dir = keep_admin_dir(cluster, "a1")
    cluster.kill(*gone)
    for name in gone:
        for directory in [cluster[name].state_dir, *cluster[name].data_dirs]:
            cluster.wipe(directory)
    said = cluster.admin("replace", "node", str(cluster["a2"].node_id), "--force", ask=["a1"])
    assert said.code == 1 and "rebuild --accept-loss" in said.err, said
    line = ["admin", "rebuild", "--config", cluster["a1"].config_path, "--admin-dir", admin_dir, "--json"]
    refused = cluster.on("a1", *line, "--accept-loss", timeout_s=300)
    assert refused.code == 1, f"beside metadata that lives: {refused}"
    cluster.stop("a1")
    cluster.wipe(cluster["a1"].state_dir)
    refused = cluster.on("a1", *line, timeout_s=300)
    assert refused.code == 1 and "--accept-loss" in refused.data["refused"], refused
    answer = cluster.on("a1", *line, "--accept-loss", timeout_s=300)
    assert answer.code == 0 and answer.data["disks"] == 1, answer
    cluster["a1"].node_id = answer.data["node_id"]
    cluster.start("a1")
    wait_for("reads", lambda: cluster.wire("a1").request("GET", BUCKET, "before/2").status == 200, 60, 0.3)
    objects.check(cluster.wire("a1"))
    token = cluster.token()
    for name in gone:
        cluster.join(name, token)
    cluster.start(*gone)
    cluster.wait_whole()
    objects.put(cluster.wire("a2"), "after", 9)
    objects.check(cluster.wire("a3"))
    cluster.fsck()
    say(f"two of three metadata nodes lost for good: rebuilt from the disk of the third, node {answer.data['node_id']}")
    make_cluster.remove(cluster)


# How a part of a backup begins: magic, format, checksum, kind, shard.
PART = re.compile(rb"GRNYBKUP\x01\0\0\0....[\0-\2](....)", re.DOTALL)
SHARDS = 4


def shard_of(bucket_number):
    """The data shard that has a bucket: bucket ids are numbers from 1 on with their bits in reverse order, in equal parts."""
    identity = int(f"{bucket_number:064b}"[::-1], 2)
    return 1 + (identity * SHARDS >> 64)


def spoil_backup(node, shard):
    """Makes the parts of one shard's backup on the disks of a stopped node unreadable; how many there were."""
    spoilt = 0
    for directory in node.data_dirs:
        for path, _, names in os.walk(os.path.join(directory, "volumes")):
            for name in names:
                with open(os.path.join(path, name), "r+b") as volume:
                    for found in PART.finditer(volume.read()):
                        if struct.unpack("<I", found.group(1)) == (shard,):
                            volume.seek(found.start())
                            volume.write(b"SPOILT!!")
                            spoilt += 1
    return spoilt


def lose_all_but(cluster, shard):
    """All metadata is lost, and so is the backup of one shard; the storage nodes are started again. Returns the operator's copy."""
    storage = ["s1", "s2", "s3"]
    wait_backed_up(cluster, ["m"], SHARDS + 1)
    admin_dir = keep_admin_dir(cluster, "m")
    cluster.kill("m")
    cluster.wipe(cluster["m"].state_dir)
    cluster.stop(*storage)
    assert all(spoil_backup(cluster[name], shard) for name in storage), "there was nothing to spoil"
    cluster.start(*storage, wait=False)
    return admin_dir


def rebuilt_with_loss(cluster, shard, admin_dir):
    """Refused, and nothing done, without --accept-loss; done with it. Returns the last answer."""
    def refused():
        answer = rebuild(cluster, "m", sources=["s1"], admin_dir=admin_dir)
        return answer if answer.data and answer.data.get("disks") == 3 else None

    answer = wait_for("the disks of nodes that have no metadata", refused, 90, 1)
    assert (answer.code, answer.data["missing"], answer.data["node_id"]) == (1, [shard], None), answer
    assert "--accept-loss" in answer.data["refused"], answer
    assert not os.path.exists(os.path.join(cluster["m"].state_dir, "identity.json"))
    nobody = cluster.on("m", "start", "--config", cluster["m"].config_path, timeout_s=20)
    assert nobody.code == 1, f"a node was made of what was refused: {nobody}"
    found = {row["shard"]: row for row in answer.data["shards"]}
    assert found[shard]["checkpoint"] is None and found[shard]["problems"], found[shard]
    return rebuild(cluster, "m", "--accept-loss", sources=["s1"], admin_dir=admin_dir)


@pytest.mark.parametrize("count, bucket_lost", [(3, 4), (8, 1)], ids=["nothing was in it", "it had buckets"])
def test_a_shard_whose_backup_is_gone_is_given_up_only_when_told_to(small, say, count, bucket_lost):
    """What is in the other shards is back, with its bytes; what was in this one is not there, and nothing else is said of it."""
    filled = fill(small, *[f"bucket-{n}" for n in range(1, count + 1)], count=9)
    lost = shard_of(bucket_lost)
    kept = [objects for n, objects in enumerate(filled.values(), 1) if shard_of(n) != lost]
    answer = rebuilt_with_loss(small, lost, lose_all_but(small, lost))
    assert answer.code == 0 and answer.data["missing"] == [lost], answer
    small["m"].node_id = answer.data["node_id"]
    small.start("m")
    small.wait_ready("s1", "s2", "s3")
    wire = small.wire("m")
    for objects in kept:
        objects.check(wire)
        wait_for("writes", lambda b=objects.bucket: wire.request("PUT", b, "after", body=bytes(100_000)).status == 200, 60, 0.3)
    for objects in filled.values():
        if objects not in kept:
            for name in objects.written:
                assert wire.request("GET", objects.bucket, name).status != 200, f"{objects.bucket}/{name} came from nowhere"
    say(f"rebuilt without shard {lost}: {len(kept)} of {len(filled)} buckets are back")


@pytest.mark.long
def test_a_shard_that_was_given_up_is_empty_and_serves_again(small):
    """New buckets can be made, whichever shard they fall into, and nothing is wrong with the cluster any more."""
    fill(small, "bucket-1", "bucket-2", "bucket-3", count=3)
    lost = shard_of(SHARDS)
    answer = rebuilt_with_loss(small, lost, lose_all_but(small, lost))
    assert answer.code == 0, answer
    small["m"].node_id = answer.data["node_id"]
    small.start("m")
    small.wait_ready("s1", "s2", "s3")
    wire = small.wire("m")
    for n in range(2 * SHARDS):
        wait_for("a new bucket", lambda n=n: wire.request("PUT", f"bucket-after-{n}").status == 200, 30, 0.5)
        wire.must("PUT", f"bucket-after-{n}", "again", body=bytes(100_000))
    small.wait_whole(deadline_s=60)
    small.fsck()


def test_a_rebuild_that_is_killed_is_run_again(small, seed, say):
    """Whenever it was killed: nothing is a node before it is complete, and the next run makes it one."""
    filled = fill(small, BUCKET)
    wait_backed_up(small, ["m"], SHARDS + 1)
    admin_dir, state_dir, storage = keep_admin_dir(small, "m"), small["m"].state_dir, ["s1", "s2", "s3"]
    small.kill("m")
    small.wipe(state_dir)
    line = rebuild_line(small, "m", storage, admin_dir)
    rng, hit = random.Random(f"{seed}-rebuild"), []
    for number, reached in enumerate(POINTS):
        if kill_rebuild_when(small, "m", line, reached):
            hit.append(number)
            nobody = small.on("m", "start", "--config", small["m"].config_path, timeout_s=20)
            assert nobody.code == 1 and "identity" not in os.listdir(state_dir), nobody
    assert len(hit) == len(POINTS), f"it was too fast to be killed: {hit}"
    # Killed between two moves of the last step.
    for count in (1, 4, len(MOVED)):
        assert kill_rebuild_when(small, "m", line, POINTS[-1]), "it was too fast to be killed"
        for name in MOVED[:count]:
            # Unless it was so far already.
            if exists("rebuilding", name)(state_dir):
                os.rename(os.path.join(state_dir, "rebuilding", name), os.path.join(state_dir, name))
        hit.append(f"{count} moved")
    for _ in range(3):
        after = time.monotonic() + rng.uniform(0, 2)
        if kill_rebuild_when(small, "m", line, lambda _, after=after: time.monotonic() > after):
            hit.append("some time")
    answer = rebuild(small, "m", sources=storage, admin_dir=admin_dir)
    assert answer.code == 0 and answer.data["missing"] == [], answer
    assert not exists("rebuilding")(state_dir)
    with open(os.path.join(state_dir, "identity.json"), encoding="utf-8") as file:
        assert json.load(file)["node_id"] == answer.data["node_id"]
    small["m"].node_id = answer.data["node_id"]
    small.start("m")
    small.wait_ready(*storage)
    wire = small.wire("m")
    filled[BUCKET].check(wire)
    wait_for("writes", lambda: wire.request("PUT", BUCKET, "first", body=bytes(100_000)).status == 200, 60, 0.3)
    filled[BUCKET].put(wire, "after", 9)
    filled[BUCKET].check(wire)
    small.wait_whole()
    small.fsck()
    say(f"rebuild killed at {', '.join(map(str, hit))}, and run again: node {answer.data['node_id']}")
