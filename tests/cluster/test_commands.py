"""What `granary admin` says to people and to scripts, of a cluster that is well, lacks a node, and has damage."""
import os
import random

import pytest

from harness import nemesis
from harness.cluster import Spec
from harness.waiting import wait_for

PEOPLE = ()
# What `join` writes, in order, and the machine may lose its power in between.
JOINED = ("node.key", "join.json", "node.pem", "identity.json")


@pytest.fixture(scope="module")
def pair(make_cluster):
    """Two nodes of one zone, each with a copy of everything."""
    cluster = make_cluster("pair", specs=[Spec("z1a", "z1"), Spec("z1b", "z1", ("storage",))])
    cluster.write_config("z1a")
    cluster.write_config("z1b")
    cluster.init("z1a")
    cluster.start("z1a")
    return cluster


def test_a_join_that_is_killed_is_run_again(pair, seed, say):
    """Whenever it was killed, the machine becomes one node, and the cluster knows of no other."""
    node, token = pair["z1b"], pair.token()
    line = ["admin", "join", "--config", node.config_path, "--token", token, "--json"]
    files = [os.path.join(node.state_dir, name) for name in JOINED]
    hit = pair.cut_short_often("z1b", *line, files=files, rng=random.Random(f"{seed}-join"), times=3, most_s=0.3)
    joined = pair.join("z1b", token)
    assert pair.join("z1b", token) == joined
    assert [n["id"] for n in pair.status()["nodes"]] == [pair["z1a"].node_id, joined]
    pair.start("z1b")
    pair.wait_whole()
    say(f"join killed at {', '.join(hit)}, and run again")


def test_people_and_scripts_are_told(pair):
    """Tables name every node, disk and shard; exit codes are those of docs/running-a-cluster.md."""
    wire, marks = pair.wire("z1a"), [os.urandom(64) for _ in range(4)]
    wire.must("PUT", "told")
    for n, mark in enumerate(marks):
        wire.put("told", f"k{n}", mark * 4096)
    pair.wait_whole()
    told = pair.admin("status", form=PEOPLE)
    status = pair.status()
    assert told.code == 0 and "ok" in told.out
    for row in [*(n["address"] for n in status["nodes"]), *(d["path"] for d in status["disks"]),
                "Placement groups:", "Chunks below their redundancy: 0"]:
        assert row in told.out, told.out
    assert len(told.out.splitlines()) > len(status["nodes"]) + len(status["disks"]) + len(status["shards"])
    for line, sentence in ((("fsck", "--deep"), "copies looked at"), (("scrub",), "Clean."), (("repair",), "Every chunk has all the copies")):
        answer = pair.admin(*line, form=PEOPLE, timeout_s=120)
        assert answer.code == 0 and sentence in answer.out, answer
    assert pair.admin("replace", "node", "4711", form=PEOPLE).code == 1

    pair.kill("z1b")
    wait_for("the status to say so", lambda: pair.admin("status").code == 3, 60, 0.5)
    assert pair["z1b"].machine.address in pair.admin("status", form=PEOPLE).out
    unfinished = pair.admin("fsck", form=PEOPLE, timeout_s=120)
    assert unfinished.code == 1 and "not looked at" in unfinished.out, unfinished
    unfinished = pair.admin("scrub", form=PEOPLE, timeout_s=120)
    assert unfinished.code == 1 and "not read" in unfinished.out, unfinished
    pair.start("z1b")
    pair.wait_whole()

    # The same bytes go bad on both: nobody can put them right.
    for name in ("z1a", "z1b"):
        assert spoil(pair[name], marks[0]), f"{name} does not hold the object"
    damage = pair.admin("scrub", form=PEOPLE, timeout_s=120)
    assert damage.code == 4 and "could not be put right" in damage.out, damage
    damage = pair.admin("fsck", "--deep", form=PEOPLE, timeout_s=120)
    assert damage.code == 4 and "chunks are lost" in damage.out, damage
    wait_for("the status to say so", lambda: pair.admin("status").code == 3, 60, 0.5)
    assert wire.request("GET", "told", "k0").status >= 500
    assert wire.get("told", "k1").body == marks[1] * 4096


def test_a_default_that_cannot_be_kept_makes_no_bucket(pair):
    """The operator's setting is a promise as the client's is."""
    node, wire = pair["z1a"], pair.wire("z1a")
    with open(node.config_path, encoding="utf-8") as file:
        before = file.read()
    for default, status in (("ZRS", 400), ("auto", 200)):
        pair.stop("z1a")
        with open(node.config_path, "w", encoding="utf-8") as file:
            file.write(f'default_redundancy = "{default}"\n{before}')
        pair.start("z1a")
        answer = wire.request("PUT", f"default-{default.lower()}")
        assert answer.status == status, answer.body
        if status == 400:
            assert answer.code == "InvalidArgument" and b"ZRS needs storage nodes in three zones" in answer.body
    assert b"<DataRedundancyType>LRS<" in wire.request("GET", "default-auto", query=["bucketInfo"]).body


def spoil(node, mark):
    """Flips a bit of the first of these bytes on a node's disks; false where they are not."""
    for path in (path for directory in node.data_dirs for path in nemesis.volume_files(directory)):
        with open(path, "r+b") as volume:
            at = volume.read().find(mark * 2)
            if at >= 0:
                volume.seek(at)
                volume.write(bytes([mark[0] ^ 1]))
                return True
    return False
