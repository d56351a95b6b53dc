"""The harness itself, on a stand-in program: forming, signals, cut wires, relays, disks and cleaning up."""
import json
import os
import subprocess
import sys
import urllib.request

import pytest

from harness import leftovers, network
from harness.cluster import ADMIN_PORT, Cluster, Spec, apart, not_whole, together
from harness.waiting import wait_for

pytestmark = pytest.mark.long


def peers(cluster, name):
    """Names of the nodes that a stand-in hears from."""
    with urllib.request.urlopen(f"http://{cluster[name].machine.address}:{ADMIN_PORT}/peers", timeout=5) as answer:
        return {cluster.name_of(n) for n in json.load(answer)}


def hears(cluster, name, *others):
    """Waits until a node hears from exactly itself and these."""
    wait_for(f"{name} to hear from {others}", lambda: [] if peers(cluster, name) == {name, *others} else [peers(cluster, name)], 60)


def test_forming_and_the_whole_life(standins):
    cluster = standins(disk_mebibytes=4 if os.geteuid() == 0 else None)
    cluster.form()
    assert [n.node_id for n in cluster.nodes.values()] == [1, 2, 3, 4, 5, 6]
    assert cluster.zones == ["z1", "z2", "z3"]
    assert len({n.machine.address for n in cluster.nodes.values()}) == 6
    assert cluster.leader() == "z1a"

    cluster.kill("z1a", "z3b")
    assert cluster.some(running=False) == ["z1a", "z3b"]
    assert any("z3b" in why for why in cluster.whats_missing(cluster.status()) or ["z3b"])
    assert cluster.wait_leader(other_than="z1a") == "z2a"
    cluster.start("z1a", "z3b")
    cluster.wait_whole()

    cluster.pause("z2a")
    assert cluster["z2a"].health(timeout_s=0.5) is None
    wait_for("the paused one to be missed", lambda: "z2a" not in peers(cluster, "z1a"))
    cluster.resume("z2a")
    cluster.wait_whole()

    assert cluster.join("z2b") == 4, "joining again gives the same id"
    cluster.stop("z2b")
    cluster.wipe(cluster["z2b"].state_dir)
    assert cluster.join("z2b", replaces=4) == 7
    cluster.start("z2b")
    cluster.wait_whole()
    cluster.stop(*cluster.nodes)
    assert cluster.status() is None
    assert cluster.died() == []
    cluster.start(*cluster.nodes)
    cluster.wait_whole()
    cluster["z3a"].process.kill()
    wait_for("the death to be seen", lambda: cluster.died() == ["z3a"])


def test_wires_are_cut_one_way_and_both(standins):
    cluster = standins(specs=together()[::2]).form()
    a, b, c = cluster.nodes
    for how in (network.SILENT, network.REFUSED):
        # What a sends to b is lost: neither question reaches b nor answer.
        cluster.cut(a, b, how)
        hears(cluster, a, c)
        hears(cluster, b, c)
        hears(cluster, c, a, b)
        cluster.mend(a, b)
        hears(cluster, a, b, c)
        hears(cluster, b, a, c)
    cluster.part([a], [b, c])
    hears(cluster, a)
    hears(cluster, b, c)
    assert cluster.wait_leader() in (a, b)
    cluster.mend_all()
    hears(cluster, a, b, c)
    cluster.wait_whole()


def test_only_one_direction_is_lost(standins, kind):
    """Packets that go the other way do arrive: seen below TCP, which needs both."""
    if kind is network.Loopback:
        pytest.skip("wires of the loopback fallback are relays, which see streams and no packets")
    cluster = standins(specs=together()[:2])
    a, b = (cluster[name].machine for name in cluster.nodes)
    listen = "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('%s',5000));s.settimeout(%s)\ntry: print('heard',s.recv(9))\nexcept OSError: print('silence')"
    shout = "import socket,time\nfor _ in range(8):\n socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('%s',5000)); time.sleep(0.1)"

    def arrives(source, target, patience_s):
        ear = subprocess.Popen(target.command([sys.executable, "-c", listen % (target.address, patience_s)]), stdout=subprocess.PIPE, text=True)
        subprocess.run(source.command([sys.executable, "-c", shout % target.address]), check=True)
        return "heard" in ear.communicate(timeout=20)[0]

    cluster.cut("z1a", "z1b")
    assert not arrives(a, b, 1.5)
    assert arrives(b, a, 10)
    cluster.mend("z1a", "z1b")
    assert arrives(a, b, 10)


def test_relays_delay_reset_and_hold(standins):
    cluster = standins(specs=together()[::2], relays=True).form()
    a, b, c = cluster.nodes
    # The stand-in gives a peer 400 ms for connecting and answering.
    cluster.slow(a, b, delay_ms=450)
    hears(cluster, a, c)
    hears(cluster, b, a, c)
    cluster.slow(a, b)
    hears(cluster, a, b, c)
    assert cluster.relay.rules() == {}
    cluster.cut(a, b, network.HELD)
    wait_for("a connection that is held up", lambda: (a, b) in cluster.relay.connections())
    assert cluster.relay.reset(a, b) >= 1
    cluster.mend_all()
    cluster.wait_whole()
    for how in (network.SILENT, network.REFUSED):
        # The network itself lets nothing through to the relay, where it can.
        cluster.cut(a, b, how)
        assert (a, b) in cluster.network.cuts() or not cluster.network.can_cut
        hears(cluster, a, c)
        cluster.mend(a, b)
        hears(cluster, a, b, c)
    assert cluster.relay.rules() == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="sized file systems need root")
def test_disks_have_a_size(standins):
    cluster = standins(specs=together()[:1], disk_mebibytes=2)
    disk = cluster["z1a"].data_dirs[0]
    with pytest.raises(OSError, match="No space"):
        with open(f"{disk}/filler", "wb") as filler:
            filler.write(bytes(3 << 20))
    cluster.wipe(disk)
    assert os.listdir(disk) == []
    assert os.path.ismount(disk)


def test_a_killed_run_is_cleaned_by_the_next(tmp_path, kind):
    """A process makes a cluster and dies; nothing of it is left after the next cluster was made."""
    script = f"""
import os, sys
from harness import network, standin
from harness.cluster import Cluster, together
from harness.waiting import wait_for
c = Cluster({str(tmp_path / 'dead')!r}, together()[:2], network=network.{kind.__name__}, disk_mebibytes=2,
            program=[sys.executable, os.path.abspath(standin.__file__)], relays=True)
c.form(whole=False)
print(c.leftovers.path, *[n.process.pid for n in c.nodes.values()], c.relay.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tests, check=False, timeout=120)
    assert done.returncode == -9, done.stderr
    listed, *pids = done.stdout.split()
    with open(listed, encoding="utf-8") as given:
        known = json.load(given)
    assert leftovers.started(int(pids[0])) is not None
    with Cluster(tmp_path / "next", together()[:1], network=kind, program=["true"]) as cluster:
        assert cluster.cleaned
        assert [pid for pid in pids if leftovers.started(int(pid)) is not None] == []
        assert not any(os.path.ismount(mount) for mount in known["mounts"])
        assert not any(os.path.exists(f"/run/netns/{name}") for name in known["namespaces"])
        assert not any(os.path.exists(f"/sys/class/net/{name}") for name in known["links"])
        assert not os.path.exists(listed)
        own = cluster.leftovers.path
    assert not os.path.exists(own)


def test_a_process_that_ends_at_start_fails_with_its_log(standins):
    cluster = standins(specs=[Spec("z1a", "z1")])
    cluster.program = ["sh", "-c", "echo the disk is missing; exit 3"]
    with pytest.raises(AssertionError, match="ended with 3(.|\n)*the disk is missing"):
        cluster.start("z1a")


def test_layouts_have_every_role_in_every_zone():
    for layout in (together(), apart()):
        assert "meta" in layout[0].roles
        for zone in ("z1", "z2", "z3"):
            held = [spec.roles for spec in layout if spec.zone == zone]
            assert sum("storage" in roles for roles in held) == 2
            for role in ("gateway", "meta", "worker"):
                assert sum(role in roles for roles in held) == 1


WHOLE = {
    "health": "ok", "problems": [], "nodes": [{"id": 1, "state": "up"}, {"id": 2, "state": "removed"}],
    "disks": [{"id": "1", "node": 1, "state": "up"}], "groups": {"healthy": 3, "degraded": 0},
    "shards": [{"id": 0, "leader": 1, "voters": [1], "learners": [], "lag": {"1": 0}}],
    "chunks_below_target": 0, "chunks_below_target_counted_at": 1000.0, "repair": {"running": False},
}


@pytest.mark.parametrize("change, complaint", [
    ({}, None),
    ({"health": "degraded"}, "health"),
    ({"nodes": [{"id": 1, "state": "suspect"}]}, "z1a"),
    ({"nodes": []}, "z1a"),
    ({"disks": [{"id": "1", "node": 1, "state": "failed"}]}, "disk 1"),
    ({"shards": []}, "no shards"),
    ({"shards": [{"id": 0, "leader": None, "voters": [1], "learners": [], "lag": {}}]}, "no leader"),
    ({"shards": [{"id": 0, "leader": 1, "voters": [], "learners": [1], "lag": {}}]}, "voters"),
    ({"shards": [{"id": 0, "leader": 1, "voters": [1], "learners": [], "lag": {"1": None}}]}, "lags"),
    ({"groups": {"healthy": 3, "unknown": 1}}, "unknown"),
    ({"chunks_below_target": 1}, "1 chunks below"),
    ({"chunks_below_target": None, "chunks_below_target_counted_at": None}, "None chunks below"),
    ({"chunks_below_target_counted_at": 10.0}, "counted at 10"),
    ({"repair": {"running": True}}, "repair"),
])
def test_what_is_not_whole_is_said(change, complaint):
    missing = not_whole({**WHOLE, **change}, {"z1a": 1}, 1, since=500)
    if complaint is None:
        assert missing == []
    else:
        assert any(complaint in sentence for sentence in missing), missing
