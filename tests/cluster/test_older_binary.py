"""A cluster goes from an older binary to this one, a node at a time, while clients write; and stays in between for a while.

The older binary is that of the commit in tests/compat/older-commit: scripts/older-binary.sh builds it once. GRANARY_OLDER_BIN names
another one. Downgrades are not promised, so none happens here: a cluster of older nodes is upgraded.
"""
import os
import pathlib
import subprocess

import pytest

from harness.server import binary
from harness.waiting import wait_for

from .drill import Drill

ROOT = pathlib.Path(__file__).parent.parent.parent
NOT_HERE = 3
BUILD_DEADLINE_S = 5400
# What the status calls the feature level, of the cluster and of what a node applies.
LEVEL = "feature_level"
# Between two looks of whoever raises it are some seconds, and its lease may have to find another process first.
LEVEL_DEADLINE_S = 90


@pytest.fixture
def older(say):
    """Path of the older binary. Where the clone lacks the commit, that is said at the end of the run, too."""
    given = os.environ.get("GRANARY_OLDER_BIN")
    if given:
        return given
    built = subprocess.run([ROOT / "scripts" / "older-binary.sh"], stdout=subprocess.PIPE, text=True, check=False, timeout=BUILD_DEADLINE_S)
    if built.returncode == NOT_HERE:
        sentence = "NOT TESTED: a cluster with an older binary, because this clone does not have the commit in tests/compat/older-commit"
        say(sentence)
        pytest.skip(sentence)
    assert built.returncode == 0, "scripts/older-binary.sh failed; it says why above"
    return built.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("last", ["z2a", pytest.param("z1a", marks=pytest.mark.long)])
def test_a_cluster_is_upgraded_node_by_node(older, make_cluster, seed, say, last):
    """`last` keeps metadata and a disk, and is the only older node for a while: it is led, it leads, it is killed and comes back."""
    cluster = make_cluster(f"older-{last}", program=[older])
    cluster.form(whole=False)
    cluster.wait_whole()
    before = cluster.status()[LEVEL]
    cluster.program = [binary()]
    for node in cluster.nodes.values():
        node.program = [older]
    with Drill(cluster, seed, f"older-{last}") as drill:
        for name in [name for name in cluster.nodes if name != last] + [last]:
            if name == last:
                one_older_node(cluster, drill, last)
                stays_low(cluster, last, before)
            cluster.stop(name)
            drill.resumes()
            cluster[name].program = None
            cluster.start(name)
            drill.resumes()
            cluster.wait_whole()
        drill.resumes(50)
    drill.judge(say, deep=True)
    drill.empty()
    say(f"older binary, {last} last: feature level {before} before, {rises(cluster, before)} afterwards")
    make_cluster.remove(cluster)


def stays_low(cluster, last, before):
    """While a node cannot follow, the cluster does as it did; the others say what they could do."""
    others = [name for name in cluster.nodes if name != last]
    status = cluster.status(ask=others)
    applied = {node["id"]: node[LEVEL] for node in status["nodes"] if node["state"] == "up"}
    assert status[LEVEL] == before, f"the feature level rose while a node could not follow: {status[LEVEL]}"
    assert applied.pop(cluster[last].node_id) == before, "the older node tells more than it applies"
    assert applied and all(level > before for level in applied.values()), f"the new nodes apply no more than the older one: {applied}"


def rises(cluster, before):
    """Waits until the cluster does what all of its metadata nodes can; by itself."""
    def risen():
        status = cluster.status()
        if status is None:
            return None
        applied = [node[LEVEL] for node in status["nodes"] if node["state"] == "up" and "meta" in node["roles"]]
        return status[LEVEL] if status[LEVEL] == min(applied) > before else None
    return wait_for("the feature level to rise after the last node was exchanged", risen, LEVEL_DEADLINE_S, 1)


def one_older_node(cluster, drill, last):
    """The old node among new ones: everything that goes between two nodes goes between an old and a new one."""
    drill.resumes(50)
    old, others = cluster[last], [name for name in cluster.some(role="meta") if name != last]
    # Whoever leads goes until the old one leads something; the status asks it then, too.
    for name in others:
        cluster.stop(name)
        drill.resumes()
        cluster.wait_leader(0, other_than=name)
        cluster.start(name)
        cluster.wait_whole()
    cluster.kill(last)
    drill.resumes()
    cluster.start(last)
    cluster.wait_whole()
    drill.ballast.check(cluster.some(role="gateway").index(last))
    # Chunks and log entries that it missed were written by new nodes; it is read from where it is the only one left of a zone.
    neighbours = cluster.some(zone=old.spec.zone)
    neighbours.remove(last)
    cluster.kill(*neighbours)
    drill.resumes()
    drill.ballast.check(cluster.some(role="gateway").index(last))
    cluster.start(*neighbours)
    cluster.wait_whole()
