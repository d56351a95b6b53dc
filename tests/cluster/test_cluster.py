"""Three zones of real processes lose nodes, leaders, zones, disks and power, and nothing that was acknowledged.

GRANARY_SOAK_SECONDS sets how long the nemesis strikes (80 unless told, about once with every kind of
fault), GRANARY_TEST_SEED repeats a run. Drills are long: what they do one by one the nemesis does, too.
"""
import collections
import json
import os
import subprocess
import threading
import time

import pytest

from harness import nemesis
from harness.cluster import BACKED_UP, SETTINGS, Spec, apart, together
from harness.history import LOST
from harness.server import binary
from harness.signing import Credentials
from harness.waiting import wait_for

from .drill import Drill

ROUND_S = 300


@pytest.fixture(scope="module")
def able():
    """The binary knows clusters; a failure and no skip when it does not."""
    done = subprocess.run([binary(), "start", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{binary()} has no `start`: {done.stderr.strip()[:200]}"


@pytest.fixture(scope="module")
def shelf():
    """Keeps a formed cluster from one test for the next."""
    return {}


@pytest.fixture
def cluster(able, make_cluster, shelf, request):  # pylint: disable=unused-argument
    """A whole cluster of three zones. Tests leave it whole; after one that failed the next gets a new one."""
    if "cluster" in shelf and shelf.get("spoilt"):
        make_cluster.remove(shelf.pop("cluster"))
    if "cluster" not in shelf:
        shelf["cluster"] = make_cluster("three-zones")
        shelf["cluster"].form()
    shelf["spoilt"] = True
    yield shelf["cluster"]
    shelf["spoilt"] = getattr(request.node, "failed_call", True)


def test_forming(cluster, seed, say):
    """Six processes are one cluster: zones, voters and groups as designed; forming again changes nothing."""
    status = cluster.wait_whole()
    assert {zone["id"]: sorted(cluster.name_of(n) for n in zone["nodes"]) for zone in status["zones"]} == {
        zone: cluster.some(zone=zone) for zone in cluster.zones}
    zone_of = {node["id"]: node["zone"] for node in status["nodes"]}
    for shard in status["shards"]:
        assert {zone_of[voter] for voter in shard["voters"]} == {"z1", "z2", "z3"}, shard
    leaders = [shard["leader"] for shard in status["shards"]]
    assert len(set(leaders)) > 1, f"one node leads everything: {leaders}"
    assert len(status["disks"]) == 6
    first = cluster["z1a"]
    again = cluster.on("z1a", "admin", "init", "--config", first.config_path, "--json")
    assert (again.code, again.data["cluster_id"], again.data["node_id"]) == (0, status["cluster_id"], first.node_id)
    assert cluster.join("z2b") == next(node["id"] for node in status["nodes"] if node["address"].startswith(cluster["z2b"].machine.address))
    with Drill(cluster, seed, "forming") as drill:
        drill.resumes(100)
    drill.judge(say, deep=True)
    drill.empty()


def test_accounts(cluster):
    """An account that one node made is known to every gateway, owns what it makes, and its key counts only while it is enabled."""
    made = cluster.admin("account", "create", "Second of two").data
    cred = Credentials(made["access_key_id"], made["access_key_secret"], cluster.credentials.region)
    gateways = cluster.some(role="gateway")
    theirs = {name: cluster.wire(name, cred=cred) for name in gateways}
    theirs[gateways[0]].must("PUT", "second-of-two")
    for name, wire in theirs.items():
        wire.put("second-of-two", name, b"x")
        refused = cluster.wire(name).request("GET", "second-of-two", name)
        assert (refused.status, refused.code) == (403, "AccessDenied")
    accounts = cluster.admin("account", "list").data["accounts"]
    assert [a["name"] for a in accounts if a["account_id"] == made["account_id"]] == ["Second of two"]
    assert len(accounts) == 2 and cred.secret not in str(accounts)
    for command, expected in (("disable", 403), ("enable", 200)):
        assert cluster.admin("account", command, cred.key_id).data["changed"]
        for wire in theirs.values():
            wait_for(f"{command} to be known", lambda w=wire, status=expected: w.request("GET").status == status, 30, 0.2)
    theirs[gateways[0]].delete_bucket_with_contents("second-of-two")


@pytest.mark.long
@pytest.mark.parametrize("name", ["z1b", "z2a"])
def test_one_node_is_killed(cluster, seed, say, name):
    """Writes and reads go on without it, and it catches up when it is back."""
    with Drill(cluster, seed, f"killed-{name}") as drill:
        cluster.kill(name)
        seconds = drill.resumes()
        drill.ballast.check(next(n for n, gateway in enumerate(cluster.some(role="gateway")) if gateway != name))
        wait_for("the status to say so", lambda: (cluster.status() or {}).get("health") == "degraded", 60, 0.5)
        assert cluster.admin("status").code == 3
        cluster.start(name)
        drill.resumes()
    say(f"{name} killed: 20 changes after {seconds:.1f} s")
    drill.judge(say)


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "paused", "isolated"])
def test_leaders_go_under_load(cluster, seed, say, how):
    """Of the root and of a data shard, one after the other; a deposed one never answers from the past."""
    with Drill(cluster, seed, f"leader-{how}") as drill:
        for shard in (0, 1, 2):
            leader = cluster.wait_leader(shard)
            others = [name for name in cluster.nodes if name != leader]
            if how == "killed":
                cluster.kill(leader)
            elif how == "paused":
                cluster.pause(leader)
            else:
                cluster.part([leader], others)
            seconds = drill.resumes()
            # Who is cut off takes itself for the leader still, and says so when it is asked.
            wait_for("another leader", lambda s=shard, old=leader, ask=others: cluster.leader(s, ask) not in (None, old), 60, 0.3)
            say(f"leader of shard {shard} {how}: 20 changes after {seconds:.1f} s")
            cluster.mend_all()
            cluster.resume(leader)
            if not cluster[leader].running:
                cluster.start(leader)
            drill.resumes()
            cluster.wait_whole()
    drill.judge(say)


def test_no_gateway_is_unready_while_the_root_changes_its_leader(cluster, seed, say):
    """An election is no reason for a load balancer to send nobody anywhere."""
    with Drill(cluster, seed, "elected") as drill:
        leader = cluster.wait_leader(0)
        others = [name for name in cluster.some(role="gateway") if name != leader]
        seen, done = [], threading.Event()

        def look():
            while not done.wait(0.1):
                seen.extend((name, cluster[name].health("ready")) for name in others)
        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            cluster.kill(leader)
            seconds = drill.resumes()
            wait_for("another leader", lambda: cluster.leader(0) not in (None, leader), 60, 0.3)
        finally:
            done.set()
            watcher.join()
        assert seen and {status for _, status in seen} == {200}, seen
        say(f"leader of the root killed: 20 changes after {seconds:.1f} s, ready {len(seen)} times of {len(seen)}")
        cluster.start(leader)
        drill.resumes()
    drill.judge(say)


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut off", "killed"])
def test_a_zone_goes_and_comes_back(cluster, seed, say, how):
    """Two of three zones serve; the third repairs itself when it is back."""
    zone = cluster.some(zone="z3")
    others = [name for name in cluster.nodes if name not in zone]
    with Drill(cluster, seed, f"zone-{how.replace(' ', '-')}") as drill:
        if how == "killed":
            cluster.kill(*zone)
        else:
            cluster.part(zone, others)
        seconds = drill.resumes()
        drill.ballast.check(0)
        drill.resumes(100)
        cluster.mend_all()
        cluster.start(*[name for name in zone if not cluster[name].running])
        drill.resumes()
    say(f"zone {how}: 20 changes after {seconds:.1f} s")
    drill.judge(say, deep=True)


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_the_majority_is_lost(cluster, seed, say, how):
    """Requests stop with a clear answer, soon, and never a wrong one; with the majority everything is back."""
    gone = cluster.some(zone="z1") + cluster.some(zone="z2")
    with Drill(cluster, seed, f"majority-{how.replace(' ', '-')}") as drill:
        if how == "killed":
            cluster.kill(*gone)
        else:
            cluster.part(gone, cluster.some(zone="z3"))
        raw = cluster.wire("z3a", timeout_s=60)

        def refused(method="PUT", body=b"x"):
            began = time.monotonic()
            try:
                answer = raw.request(method, drill.bucket, "ballast/nobody-may-store-this", body=body)
            except LOST:
                return False
            assert answer.status >= 500, f"answered without a majority: {answer.status}"
            # The store as a whole answers for as long as a leader's lease counts; then the limit counts.
            seconds.append(time.monotonic() - began)
            return (answer.status, answer.code) == (503, "ServiceUnavailable")
        seconds = []
        wait_for("a clear 503 to a write", refused, 90)
        wait_for("a clear 503 to a read", lambda: refused("GET", b""), 90)
        # Five election timeouts, the last attempt, and patience with this machine.
        assert max(seconds) < 20, f"refused after {max(seconds):.1f} s"
        # Whoever comes later does not wait as long: places at the gateway are few.
        del seconds[:]
        assert refused() and refused("GET", b"")
        say(f"majority {how}: later requests refused after {max(seconds):.1f} s")
        assert max(seconds) < 10, seconds
        # Load balancers are to know; whoever restarts what does not live is not to.
        wait_for("the gateway to be unready", lambda: cluster["z3a"].health("ready") == 503, 30)
        assert cluster["z3a"].health("live") == 200
        # What cannot be done is not offered, and the way out is named.
        for flags in ([], ["--force"]):
            said = cluster.admin("replace", "node", str(cluster["z1a"].node_id), *flags, ask=["z3a"]).err
            assert "rebuild --accept-loss" in said and "all the same" not in said, said
        cluster.mend_all()
        cluster.start(*[name for name in gone if not cluster[name].running])
        cluster.wait_ready(*cluster.nodes)
        drill.resumes()
        raw.request("DELETE", drill.bucket, "ballast/nobody-may-store-this")
    drill.judge(say)


def test_a_node_vanishes_without_a_word(cluster, seed, say):
    """No connection is refused, nothing answers: reads come from another copy, and writes go elsewhere."""
    with Drill(cluster, seed, "vanished") as drill:
        raw, body = cluster.wire("z2a", timeout_s=60), os.urandom(256 * 1024)
        keys = [f"ballast/far-{n}" for n in range(24)]
        for key in keys:
            raw.put(drill.bucket, key, body)
        gone = ["z1b"]
        cluster.part(gone, [name for name in cluster.nodes if name not in gone])
        slowest = 0.0
        for key in keys:
            began = time.monotonic()
            assert raw.get(drill.bucket, key).body == body
            slowest = max(slowest, time.monotonic() - began)
        seconds = drill.resumes()
        say(f"a storage node vanished: the slowest of {len(keys)} reads took {slowest:.2f} s, 20 changes after {seconds:.1f} s")
        assert slowest < 6, f"a read waited {slowest:.1f} s for a node that is gone"
        cluster.mend_all()
        drill.resumes()
        for key in keys:
            raw.request("DELETE", drill.bucket, key)
    drill.judge(say)


def test_all_nodes_move(cluster, seed, say):
    """Everybody's address is another one at a cold start: what node.toml names under `join` leads them together."""
    with Drill(cluster, seed, "moved") as drill:
        drill.resumes()
    if cluster.relay is not None:
        say("the nodes are behind relays here, which have their addresses: nothing is moved")
        return
    cluster.stop(*cluster.nodes)
    for node in cluster.nodes.values():
        node.cluster_port += 1
    for name in cluster.nodes:
        cluster.write_config(name)
    began = time.monotonic()
    cluster.start(*cluster.nodes)
    say(f"moved: ready after {time.monotonic() - began:.1f} s")
    with Drill(cluster, seed, "moved-since") as drill:
        drill.resumes()
    status = drill.cluster.wait_whole()
    assert {node["address"] for node in status["nodes"]} == {node.cluster_listen for node in cluster.nodes.values()}
    drill.judge(say)


@pytest.mark.long
def test_a_rolling_restart(cluster, seed, say):
    """Every node in turn, cleanly, under load."""
    with Drill(cluster, seed, "rolling") as drill:
        for name in cluster.nodes:
            cluster.stop(name)
            drill.resumes()
            cluster.start(name)
            cluster.wait_whole()
        drill.resumes()
    drill.judge(say)


@pytest.mark.long
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_cold_start_of_all(cluster, seed, say, how):
    """Everything goes down at once and comes up one by one, the loneliest first."""
    with Drill(cluster, seed, f"cold-{how}") as drill:
        (cluster.stop if how == "stopped" else cluster.kill)(*cluster.nodes)
        names = list(cluster.nodes)
        raw, last = cluster.wire("z3a", timeout_s=60), cluster.some(zone="z1")

        def written():
            try:
                return raw.request("PUT", drill.bucket, "ballast/two-zones", body=b"two").status == 200
            except LOST:
                return False

        for name in reversed(names):
            if name == last[-1]:
                # Two zones are a quorum: nobody waits for the third one.
                wait_for("a write with one zone down", written, 90, 0.5)
                assert raw.get(drill.bucket, "ballast/two-zones").body == b"two"
                raw.must("DELETE", drill.bucket, "ballast/two-zones")
            cluster.start(name, wait=False)
            wait_for(f"{name} to live", lambda n=name: cluster[n].health("live") == 200, 60)
            assert cluster.died() == [], cluster[name].log_tail()
        cluster.wait_ready(*names)
        drill.resumes()
    drill.judge(say)


@pytest.mark.long
def test_a_wiped_meta_node_is_replaced(cluster, seed, say):
    """Its machine comes back empty and joins as a new node, while the cluster serves."""
    with Drill(cluster, seed, "meta-wiped") as drill:
        node = cluster["z2a"]
        old = node.node_id
        cluster.kill("z2a")
        for directory in [node.state_dir, *node.data_dirs]:
            cluster.wipe(directory)
        drill.resumes()
        assert cluster.join("z2a", replaces=old) != old
        cluster.start("z2a")
        drill.resumes()
        status = cluster.wait_whole()
        for shard in status["shards"]:
            assert node.node_id in shard["voters"] and old not in shard["voters"], shard
        # The new one holds what it should: it is half of what is left of the majority.
        cluster.kill("z1a")
        drill.resumes()
        cluster.start("z1a")
    drill.judge(say, deep=True)


@pytest.mark.long
def test_two_of_three_voters_are_given_up_at_once(make_cluster, say):
    """Their processes run: they vote until every shard has let them go, and hand what they lead to somebody who stays."""
    cluster = make_cluster("given-up", specs=[Spec(f"z{z}{side}", f"z{z}") for z in (1, 2, 3) for side in "ab"])
    cluster.form()
    root = next(shard for shard in cluster.status()["shards"] if shard["id"] == 0)
    *given_up, stays = sorted(root["voters"], key=lambda node: node == root["leader"])
    names = [cluster.name_of(node) for node in given_up]
    raw = cluster.wire(cluster.name_of(stays), timeout_s=60)
    raw.must("PUT", "given-up")
    for n in range(20):
        raw.put("given-up", f"k{n}", b"before" * 1000)
    began = time.monotonic()
    for node in given_up:
        answer = cluster.admin("replace", "node", str(node), "--force", ask=[cluster.name_of(stays)])
        assert answer.code == 0, answer
    others = [name for name in cluster.nodes if name not in names]

    def let_go():
        status = cluster.status(ask=others)
        voters = {node for shard in status["shards"] for node in shard["voters"]} if status else set(given_up)
        return not voters.intersection(given_up) and all(shard["leader"] for shard in status["shards"])

    wait_for("every shard to let the given up nodes go", let_go, 120, 1)
    say(f"two of three voters given up at once: nowhere members after {time.monotonic() - began:.0f} s")
    raw.must("PUT", "given-up-since")
    for n in range(20):
        assert raw.get("given-up", f"k{n}").body == b"before" * 1000
    cluster.stop(*names)
    for name in names:
        for directory in [cluster[name].state_dir, *cluster[name].data_dirs]:
            cluster.wipe(directory)
        cluster.join(name)
    cluster.start(*names)
    cluster.wait_whole()
    make_cluster.remove(cluster)


@pytest.mark.long
def test_a_node_is_given_up_and_nobody_takes_its_place(make_cluster, say):
    """Its zone has no second disk for copies within the zone; where nothing lacks a copy that is no trouble."""
    cluster = make_cluster("five-left", specs=[Spec(f"z{z}{side}", f"z{z}") for z in (1, 2, 3) for side in "ab"])
    cluster.form()
    raw = cluster.wire("z2a", timeout_s=60)
    raw.must("PUT", "five-left")
    for n in range(60):
        raw.put("five-left", f"k{n}", os.urandom(200_000))
    cluster.kill("z1b")
    assert cluster.admin("replace", "node", str(cluster["z1b"].node_id), ask=["z2a"]).code == 0
    others = [name for name in cluster.nodes if name != "z1b"]
    began = time.monotonic()
    wait_for("the cluster to be well without it", lambda: (cluster.status(ask=others) or {}).get("health") == "ok", 240, 1)
    groups = cluster.status(ask=others)["groups"]
    say(f"a node given up for good: ok after {time.monotonic() - began:.0f} s, groups {groups}")
    assert groups["vacant"] > 0 and groups["degraded"] == 0
    assert cluster.admin("repair", ask=["z2a"]).code == 0
    make_cluster.remove(cluster)


@pytest.mark.long
def test_a_wiped_disk_is_refilled(cluster, seed, say):
    """A node comes back with an empty disk; every chunk gets its copy again, and they are good for reading."""
    with Drill(cluster, seed, "disk-wiped") as drill:
        cluster.kill("z1b")
        for directory in cluster["z1b"].data_dirs:
            cluster.wipe(directory)
        drill.resumes()
        cluster.start("z1b")
        drill.resumes()
    drill.judge(say, deep=True)
    # Groups on all three storage-only nodes are read from what was refilled alone.
    cluster.kill("z2b", "z3b")
    drill.ballast.check(0)
    cluster.start("z2b", "z3b")
    cluster.wait_whole()


def test_nemesis(able, make_cluster, shelf, seed, say):  # pylint: disable=unused-argument
    """All faults, drawn from the seed, in rounds of a few minutes; everything is checked after each."""
    if "cluster" in shelf:
        make_cluster.remove(shelf.pop("cluster"))
    seconds = float(os.environ.get("GRANARY_SOAK_SECONDS") or 80)
    # Every other seed has the metadata backed up, which always has some bytes to give back.
    settings = (SETTINGS, BACKED_UP)[seed % 2]
    cluster = make_cluster("nemesis", relays=True, disk_mebibytes=768, faulty_disks=True, settings=settings)
    nemesis.set_up_clocks(cluster)
    impossible = {kind.kind: why for kind in nemesis.FAULTS if (why := kind.possible(cluster))}
    for kind, why in impossible.items():
        say(f"not injected: {kind}: {why}")
    cluster.form()
    tally = Tally(seed)
    try:
        while (left := seconds - tally.seconds) > 0 or tally.rounds == 0:
            _round(cluster, seed, tally, min(max(left, 10), ROUND_S), say)
    finally:
        tally.tell(say)


def _round(cluster, seed, tally, seconds, say):
    """A plan, and everything checked after it."""
    tally.rounds += 1
    steps = nemesis.plan(f"{seed}-{tally.rounds}", cluster, seconds)
    run = nemesis.Nemesis(cluster, steps)
    with Drill(cluster, seed, f"nemesis-{tally.rounds}", ballast=120) as drill:
        print(f"round {tally.rounds} of seed {seed}: {len(steps)} steps")
        run.start()
        try:
            run.wait(40 * len(steps) + 3 * seconds + 600, drill.load.check)
        finally:
            tally.faults.update(run.counts)
            run.heal_all()
            tally.acknowledged += drill.history.acknowledged
        resumed = drill.resumes(deadline_s=120)
    print(f"round {tally.rounds}: served again after {resumed:.1f} s; {run.summary()}")
    drill.judge(say, deep=True)
    drill.empty()


class Tally:
    """What a nemesis did, for people and, beside the logs, for `scripts/soak.py`."""

    def __init__(self, seed):
        self.seed, self.rounds, self.acknowledged, self.faults = seed, 0, 0, collections.Counter()
        self._began = time.monotonic()

    @property
    def seconds(self):
        """Since it began."""
        return time.monotonic() - self._began

    def tell(self, say):
        """Writes it down."""
        say(f"nemesis, seed {self.seed}: {self.rounds} round(s), {self.seconds:.0f} s, {self.acknowledged} changes acknowledged under {sum(self.faults.values())} faults:")
        for kind, count in sorted(self.faults.items()):
            say(f"  {kind:<34} {count:>5}")
        place = os.environ.get("GRANARY_TEST_LOGS")
        if place:
            with open(os.path.join(place, f"nemesis-{self.seed}.json"), "w", encoding="utf-8") as out:
                json.dump({"rounds": self.rounds, "faults": self.faults, "acknowledged": self.acknowledged}, out)


@pytest.mark.long
@pytest.mark.parametrize("layout", [apart, together])
def test_other_layouts(able, make_cluster, seed, say, layout):  # pylint: disable=unused-argument
    """Roles in processes of their own, or five zones with five voters: one kill of each kind of process."""
    five = layout is together
    settings = SETTINGS.replace("[meta]", "[meta]\nvoters = 5") if five else SETTINGS
    cluster = make_cluster(layout.__name__, specs=layout(5) if five else layout(), settings=settings)
    cluster.form()
    if five:
        def voters():
            return [len(shard["voters"]) for shard in cluster.status()["shards"]]

        wait_for("five voters of every shard", lambda: set(voters()) == {5}, 120, 0.5)
        with Drill(cluster, seed, "two-of-five") as drill:
            cluster.kill("z1a", "z4a")
            drill.resumes()
            cluster.start("z1a", "z4a")
        drill.judge(say)
    with Drill(cluster, seed, f"layout-{layout.__name__}") as drill:
        for name in cluster.some(zone="z2"):
            cluster.kill(name)
            drill.resumes()
            cluster.start(name)
            drill.resumes()
    drill.judge(say)
    make_cluster.remove(cluster)
