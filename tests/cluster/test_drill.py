"""A drill and a nemesis on one real server with three disks: what the cluster tests do, where one node is enough."""
import os
import sys

import pytest

from harness import nemesis
from harness.cluster import Spec
from harness.server import binary

from . import oneserver
from .drill import Drill

pytestmark = pytest.mark.long


def test_the_nemesis_on_one_server(make_cluster, seed, say, monkeypatch):
    monkeypatch.setenv("ONE_SERVER", binary())
    cluster = make_cluster("one-server", specs=[Spec("z1a", "z1", disks=3)], disk_mebibytes=600,
                           program=[sys.executable, os.path.abspath(oneserver.__file__)])
    # The harness keeps GRANARY_* from the processes, and passes the rest on.
    cluster.form()
    kinds = (nemesis.Kill, nemesis.KillLeader, nemesis.Pause, nemesis.FullDisk)
    # Long enough for every kind.
    steps = nemesis.plan(seed, cluster, 40, kinds)
    run = nemesis.Nemesis(cluster, steps)
    with Drill(cluster, seed, "one-server", clients=4, ballast=30) as drill:
        run.start()
        run.wait(240, drill.load.check)
        run.heal_all()
        drill.resumes()
    assert run.counts["kill -9"] and run.counts["pause"], run.summary()
    drill.judge(say)
    drill.empty()
    say(f"one server: {run.summary()}")
