"""The nemesis on stand-ins: plans repeat with their seed, every fault strikes, is undone and counted."""
import os
import random

import pytest

from harness import nemesis
from harness.waiting import wait_for

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.long


@pytest.fixture
def cluster(standins):
    """A formed cluster of stand-ins with everything a fault may need."""
    return standins(relays=True, disk_mebibytes=4 if ROOT else None).form()


def test_a_seed_gives_one_plan_with_every_kind(standins, seed):
    cluster = standins(relays=True, disk_mebibytes=4 if ROOT else None)
    one, two, other = ([str(step) for step in nemesis.plan(s, cluster, 200)] for s in (seed, seed, seed + 1))
    assert one == two
    assert one != other
    kinds = {fault.kind for step in nemesis.plan(seed, cluster, 200) for fault in step.faults}
    assert kinds == {kind.kind for kind in nemesis.FAULTS if kind.possible(cluster) is None}
    for step in nemesis.plan(seed, cluster, 2000):
        assert len(step.faults) == 1 or not any(fault.needs_whole for fault in step.faults)


def test_kinds_that_are_impossible_say_why(standins):
    cluster = standins()
    assert "size" in nemesis.FullDisk.possible(cluster)
    if cluster.network.can_cut:
        assert "relay" in nemesis.Delay.possible(cluster)
    assert "FUSE" in nemesis.FailPower.possible(cluster)
    assert "true clocks" in nemesis.WrongClock.possible(cluster)
    nemesis.set_up_clocks(cluster)
    assert nemesis.WrongClock.possible(cluster) is None
    steps = nemesis.plan(1, cluster, 100)
    assert not any(isinstance(fault, nemesis.FullDisk) for step in steps for fault in step.faults)


@pytest.mark.parametrize("fault_class", [nemesis.Kill, nemesis.KillZone, nemesis.KillLeader, nemesis.Pause, nemesis.PauseLeader,
                                         nemesis.CutZone, nemesis.CutTwoZones, nemesis.CutOneWay, nemesis.IsolateLeader, nemesis.Stall])
def test_faults_of_processes_and_wires_are_felt_and_undone(cluster, fault_class, seed):
    fault = fault_class(random.Random(seed), cluster)
    # Every stand-in looks after every other: what one of them misses shows in what some node says.
    assert fault.inject(cluster) in (None, True)

    def felt():
        views = [seen_by(cluster, name) for name in cluster.nodes]
        return any(view is None or len(view) < 6 for view in views)

    wait_for(f"{fault.kind} ({fault.describe()}) to be felt", felt, 20)
    fault.heal(cluster)
    cluster.wait_ready(*cluster.nodes)
    wait_for("all to see all", lambda: all(len(seen_by(cluster, name) or ()) == 6 for name in cluster.nodes), 20)
    assert cluster.network.cuts() == set()
    assert cluster.relay.rules() == {}
    assert not any(node.paused for node in cluster.nodes.values())


def seen_by(cluster, name):
    """Ids of the nodes that a stand-in hears from, None when it does not answer."""
    import json
    import urllib.request
    from harness.cluster import ADMIN_PORT
    try:
        with urllib.request.urlopen(f"http://{cluster[name].machine.address}:{ADMIN_PORT}/peers", timeout=1) as answer:
            return set(json.load(answer))
    except OSError:
        return None


@pytest.mark.skipif(not ROOT, reason="sized file systems need root")
def test_faults_of_disks_are_felt_and_undone(cluster, seed):
    rng = random.Random(seed)
    full = nemesis.FullDisk(rng, cluster)
    full.left = 65536
    full.inject(cluster)
    disk = cluster[full.node].data_dirs[0]
    state = os.statvfs(disk)
    assert state.f_bavail * state.f_frsize <= 65536
    full.heal(cluster)
    state = os.statvfs(disk)
    assert state.f_bavail * state.f_frsize > 2 << 20

    flips = nemesis.BitFlips(rng, cluster)
    flips.flips = 1
    (path,) = nemesis.volume_files(cluster[flips.node].data_dirs[0])
    before = open(path, "rb").read()
    assert flips.inject(cluster)
    after = open(path, "rb").read()
    changed = [n for n in range(len(before)) if before[n] != after[n]]
    assert len(before) == len(after) and len(changed) == 1 and changed[0] >= 4096
    assert bin(before[changed[0]] ^ after[changed[0]]).count("1") == 1

    wipe = nemesis.WipeDisk(rng, cluster)
    wipe.inject(cluster)
    assert os.listdir(cluster[wipe.node].data_dirs[0]) == []
    assert not cluster[wipe.node].running
    wipe.heal(cluster)
    cluster.wait_whole()

    lost = nemesis.ReplaceNode(rng, cluster)
    old = cluster[lost.node].node_id
    lost.inject(cluster)
    assert not cluster[lost.node].running and os.listdir(cluster[lost.node].state_dir) == []
    lost.heal(cluster)
    assert cluster[lost.node].node_id != old
    cluster.wait_whole()


def test_a_whole_run_counts_and_heals(cluster, seed):
    kinds = [kind for kind in nemesis.FAULTS if kind not in (nemesis.BitFlips, nemesis.FullDisk)]
    steps = nemesis.plan(seed, cluster, 25, kinds)
    for step in steps:
        step.hold_s, step.rest_s = min(step.hold_s, 1.0), min(step.rest_s, 0.5)
    said = []
    run = nemesis.Nemesis(cluster, steps, said.append, whole_s=60).start()
    run.wait(180)
    run.heal_all()
    cluster.wait_whole(deadline_s=60)
    assert sum(run.counts.values()) == sum(len(step.faults) for step in steps)
    assert len([line for line in said if line.startswith("step")]) == len(steps)
    assert run.summary().startswith("faults injected: ")
    assert cluster.network.cuts() == set() and cluster.relay.rules() == {}


def test_a_process_that_dies_by_itself_is_an_error(cluster):
    run = nemesis.Nemesis(cluster, []).start()
    cluster["z2b"].process.kill()
    wait_for("the end of it", lambda: cluster.died() == ["z2b"])
    with pytest.raises(AssertionError, match="z2b"):
        run.heal_all()
    assert cluster["z2b"].running
