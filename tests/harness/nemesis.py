"""Faults for a cluster, drawn from a seed: what, when, for how long; each undone and counted.

Faults that destroy data (rot, wiped disks) happen only to a whole cluster and one at a time, because
no store survives losing every copy; all others may overlap and may take every node. Knows no OSS.
"""
import collections
import errno
import os
import random
import threading
import time
import traceback

from .cluster import SWEEP_DEADLINE_S
from .network import HELD, REFUSED, SILENT
from .waiting import wait_for

CLOCK_VARIABLE = "GRANARY_TEST_CLOCK"


def set_up_clocks(cluster):
    """Lets clocks be wrong, before the nodes are started."""
    for node in cluster.nodes.values():
        clock = os.path.join(node.place, "clock")
        _write(clock, "0 1")
        node.env[CLOCK_VARIABLE] = clock


def _write(path, text):
    with open(path + ".new", "w", encoding="ascii") as out:
        out.write(text)
    os.replace(path + ".new", path)


class Fault:
    """One fault of a plan. `needs_whole`: waits for the cluster to be whole before it strikes, alone."""

    kind = ""
    needs_whole = False

    def __init__(self, rng, cluster):
        """Draws what it hits; nothing happens yet."""

    @classmethod
    def possible(cls, cluster):
        """None, or a sentence that says why this machine cannot do it."""

    def inject(self, cluster):
        """Strikes."""
        raise NotImplementedError

    def heal(self, cluster):
        """Undoes it; may be called when the injection failed half way."""

    def told(self):
        """What it is counted as."""
        return self.kind

    def describe(self):
        """What it hits, for the log."""
        return ", ".join(f"{name}={value}" for name, value in sorted(vars(self).items()) if not name.startswith("_"))


class Kill(Fault):
    """kill -9 of any set of processes, started again when it heals."""

    kind = "kill -9"

    def __init__(self, rng, cluster):
        names = list(cluster.nodes)
        count = rng.choices([1, 2, 3, len(names)], [6, 3, 2, 1])[0]
        self.nodes = sorted(rng.sample(names, min(count, len(names))))

    def inject(self, cluster):
        cluster.kill(*self.nodes)

    def heal(self, cluster):
        cluster.start(*[name for name in self.nodes if not cluster[name].running], wait=False)


class KillZone(Kill):
    """The power of a zone fails."""

    kind = "kill -9 of a zone"

    def __init__(self, rng, cluster):  # pylint: disable=super-init-not-called
        self.nodes = cluster.some(zone=rng.choice(cluster.zones))


class KillLeader(Kill):
    """kill -9 of the node that leads a shard when it strikes."""

    kind = "kill -9 of a leader"

    def __init__(self, rng, cluster):  # pylint: disable=super-init-not-called
        self.shard, self.nodes = rng.choice([0, 1, 2]), []

    def inject(self, cluster):
        leader = cluster.leader(self.shard)
        if leader is None:
            return False
        self.nodes = [leader]
        cluster.kill(leader)
        return True


def _needs_faulty_disks(cluster):
    return None if cluster.faulty_disks else "the disks cannot fail: they are not behind FUSE"


class FailPower(Kill):
    """The power of some nodes fails: killed, and their disks lose writes and names that were not synced."""

    kind = "power failure"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self._seed = rng.getrandbits(48)

    @classmethod
    def possible(cls, cluster):
        return _needs_faulty_disks(cluster)

    def inject(self, cluster):
        cluster.fail_power(self._seed, *self.nodes)


class FailPowerOfAll(FailPower):
    """The power of the whole site fails."""

    kind = "power failure of all"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.nodes = list(cluster.nodes)


class Pause(Fault):
    """SIGSTOP, SIGCONT when it heals."""

    kind = "pause"

    def __init__(self, rng, cluster):
        names = list(cluster.nodes)
        self.nodes = sorted(rng.sample(names, min(rng.choice([1, 1, 2, 3]), len(names))))

    def inject(self, cluster):
        cluster.pause(*self.nodes)

    def heal(self, cluster):
        cluster.resume(*self.nodes)


class PauseLeader(Pause):
    """The leader stops for a while and wakes up deposed."""

    kind = "pause of a leader"

    def __init__(self, rng, cluster):  # pylint: disable=super-init-not-called
        self.shard, self.nodes = rng.choice([0, 1, 2]), []

    def inject(self, cluster):
        leader = cluster.leader(self.shard)
        if leader is None:
            return False
        self.nodes = [leader]
        cluster.pause(leader)
        return True


class _Cuts(Fault):
    """Cut wires; `_pairs` are (source, target)."""

    def __init__(self, rng, cluster):
        self.how, self._pairs = rng.choice([SILENT, REFUSED]), []

    def told(self):
        return f"{self.kind}, {self.how}"

    def _all(self, one, other, both=True):
        return [(a, b) for a in one for b in other] + ([(b, a) for a in one for b in other] if both else [])

    def inject(self, cluster):
        for pair in self._pairs:
            cluster.cut(*pair, self.how)

    def heal(self, cluster):
        for pair in self._pairs:
            cluster.mend(*pair)


class CutZone(_Cuts):
    """A zone is cut off from the others."""

    kind = "zone cut off"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.zone = rng.choice(cluster.zones)
        inside = cluster.some(zone=self.zone)
        self._pairs = self._all(inside, [name for name in cluster.nodes if name not in inside])

    @classmethod
    def possible(cls, cluster):
        return None if len(cluster.zones) > 1 else "there is one zone only"


class CutTwoZones(CutZone):
    """Two zones do not see each other; the third sees both."""

    kind = "two zones cut from each other"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.other = rng.choice([zone for zone in cluster.zones if zone != self.zone])
        self._pairs = self._all(cluster.some(zone=self.zone), cluster.some(zone=self.other))


class CutOneWay(_Cuts):
    """What some nodes send to some others is lost, not what they are sent."""

    kind = "one-way cut"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        names = list(cluster.nodes)
        rng.shuffle(names)
        self.mute, self.deaf = sorted(names[:len(names) // 2]), sorted(names[len(names) // 2:])
        if rng.random() < 0.5:
            self.mute = self.mute[:1]
        self._pairs = self._all(self.mute, self.deaf, both=False)


class IsolateLeader(_Cuts):
    """The leader of a shard is alone, in one direction or both; clients still reach it."""

    kind = "leader isolated"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.shard, self.ways = rng.choice([0, 1, 2]), rng.choice(["both", "both", "out", "in"])
        self.leader = None

    def inject(self, cluster):
        self.leader = cluster.leader(self.shard)
        if self.leader is None:
            return False
        others = [name for name in cluster.nodes if name != self.leader]
        out, into = self._all([self.leader], others, both=False), self._all(others, [self.leader], both=False)
        self._pairs = {"both": out + into, "out": out, "in": into}[self.ways]
        super().inject(cluster)
        return True


class _Relayed(Fault):
    """Needs a relay per node; `_pairs` are (source, target)."""

    def __init__(self, rng, cluster):
        names = list(cluster.nodes)
        self.node = rng.choice(names)
        others = [name for name in names if name != self.node]
        chosen = others if rng.random() < 0.5 else rng.sample(others, 1)
        self._pairs = [(self.node, other) for other in chosen] + [(other, self.node) for other in chosen]

    @classmethod
    def possible(cls, cluster):
        return None if cluster.relay is not None else "the cluster has no relays"


class Delay(_Relayed):
    """Slow wires."""

    kind = "delay"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.delay_ms = rng.choice([5, 30, 100, 400, 1500])
        self.bytes_per_sec = rng.choice([0, 0, 200_000, 2_000_000])

    def inject(self, cluster):
        for pair in self._pairs:
            cluster.slow(*pair, delay_ms=self.delay_ms, bytes_per_sec=self.bytes_per_sec)

    def heal(self, cluster):
        for pair in self._pairs:
            cluster.slow(*pair)


class Stall(_Relayed):
    """Connections stay open and nothing passes."""

    kind = "stall"

    def inject(self, cluster):
        for pair in self._pairs:
            cluster.cut(*pair, HELD)

    def heal(self, cluster):
        for pair in self._pairs:
            cluster.mend(*pair)


class Reset(_Relayed):
    """Open connections are torn."""

    kind = "reset"

    def inject(self, cluster):
        return sum(cluster.relay.reset(*pair) for pair in self._pairs) > 0


class FullDisk(Fault):
    """Something else fills the disks of a node but for some KiB."""

    kind = "full disk"

    def __init__(self, rng, cluster):
        self.node, self.left = rng.choice(cluster.some(role="storage")), rng.choice([0, 64 << 10, 1 << 20])
        self._fillers = []

    @classmethod
    def possible(cls, cluster):
        return None if cluster.disk_mebibytes else "the disks have no size of their own"

    def inject(self, cluster):
        node = cluster[self.node]
        for directory in node.data_dirs:
            filler = os.path.join(node.backing(directory), "not-ours-filler")
            self._fillers.append(filler)
            fill(filler, self.left)

    def heal(self, cluster):
        for filler in self._fillers:
            if os.path.exists(filler):
                os.remove(filler)


def fill(path, left):
    """A file that leaves this many bytes of its file system free; others may write meanwhile."""
    with open(path, "wb") as out:
        at = 0
        while True:
            state = os.fstatvfs(out.fileno())
            more = min(state.f_bavail * state.f_frsize - left, 64 << 20)
            if more <= 0:
                return
            try:
                os.posix_fallocate(out.fileno(), at, more)
                at += more
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise
                return


class BitFlips(Fault):
    """Bits of volume files on one disk change under the running node."""

    kind = "bit flips"
    needs_whole = True

    def __init__(self, rng, cluster):
        self.node, self.flips, self._seed = rng.choice(cluster.some(role="storage")), rng.choice([1, 5, 40]), rng.getrandbits(48)

    def inject(self, cluster):
        rng = random.Random(self._seed)
        node, flipped = cluster[self.node], 0
        directory = node.backing(rng.choice(node.data_dirs))
        for _ in range(self.flips):
            files = volume_files(directory)
            try:
                flipped += bool(files) and flip(rng.choice(files), rng)
            except FileNotFoundError:
                # The node gave the volume back in between.
                continue
        return flipped > 0

    def heal(self, cluster):
        """Found by reading every copy, and repaired then; the next destructive fault waits for that."""
        def damage():
            answer = cluster.admin("scrub", timeout_s=300)
            return [] if answer.code == 0 else [f"admin scrub: {answer}"]

        # A broken-off write may have left the only copy: nobody can repair it, and the sweep takes it.
        wait_for("everything damaged to be repaired or swept", damage, SWEEP_DEADLINE_S, 2)


def volume_files(directory):
    """The bigger files of a data directory, in order."""
    found = []
    for path, _, names in os.walk(directory):
        for full in (os.path.join(path, name) for name in names):
            try:
                if os.path.getsize(full) > 65_536:
                    found.append(full)
            except FileNotFoundError:
                # Gone since the directory was read.
                continue
    return sorted(found)


def flip(path, rng):
    """One bit of a file, not in its first block; True."""
    with open(path, "r+b") as volume:
        at = rng.randrange(4096, os.path.getsize(path))
        volume.seek(at)
        old = volume.read(1)[0]
        volume.seek(at)
        volume.write(bytes([old ^ 1 << rng.randrange(8)]))
    return True


class WipeDisk(Fault):
    """A node stops, its disks are emptied, and it starts again: new disks in the place of the old."""

    kind = "wiped disk"
    needs_whole = True

    def __init__(self, rng, cluster):
        self.node = rng.choice(cluster.some(role="storage"))

    def inject(self, cluster):
        cluster.kill(self.node)
        for directory in cluster[self.node].data_dirs:
            cluster.wipe(directory)

    def heal(self, cluster):
        if not cluster[self.node].running:
            cluster.start(self.node, wait=False)


class _FaultyDisk(Fault):
    """Something with one data directory of a node."""

    def __init__(self, rng, cluster):
        self.node = rng.choice(cluster.some(role="storage"))
        self._number = rng.randrange(cluster[self.node].spec.disks)

    @classmethod
    def possible(cls, cluster):
        return _needs_faulty_disks(cluster)

    def _disk(self, cluster):
        node = cluster[self.node]
        return node.faulty[node.data_dirs[self._number]]


class SlowDisk(_FaultyDisk):
    """Every read, write and sync of a disk takes longer."""

    kind = "slow disk"

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.delay_ms = rng.choice([10, 50, 300])

    def inject(self, cluster):
        self._disk(cluster).slow(self.delay_ms)

    def heal(self, cluster):
        self._disk(cluster).heal()


class BrokenDisk(_FaultyDisk):
    """A disk answers with EIO, or hangs. An empty one takes its place, as an operator would have it."""

    kind = "broken disk"
    needs_whole = True

    def __init__(self, rng, cluster):
        super().__init__(rng, cluster)
        self.how = rng.choice(["read", "write", "sync", "read,write,sync", "hang"])

    def inject(self, cluster):
        disk = self._disk(cluster)
        if self.how == "hang":
            disk.hang()
        else:
            disk.fail(*self.how.split(","))

    def heal(self, cluster):
        disk = self._disk(cluster)
        disk.heal()
        cluster.kill(self.node)
        cluster.wipe(disk.mount)
        cluster.start(self.node, wait=False)


class ReplaceNode(Fault):
    """A machine is lost with everything on it; an empty one joins in the place of the old."""

    kind = "replaced node"
    needs_whole = True

    def __init__(self, rng, cluster):
        self.node = rng.choice(list(cluster.nodes))
        self._old = None

    @classmethod
    def possible(cls, cluster):
        return None if len(cluster.nodes) > 1 else "there is one node only"

    def inject(self, cluster):
        self._old = cluster[self.node].node_id
        cluster.kill(self.node)
        for directory in [cluster[self.node].state_dir, *cluster[self.node].data_dirs]:
            cluster.wipe(directory)

    def heal(self, cluster):
        if self._old is not None and not cluster[self.node].running:
            cluster.join(self.node, replaces=self._old)
            cluster.start(self.node, wait=False)


class WrongClock(Fault):
    """The time of day of a node is off, and its clocks run fast or slow."""

    kind = "wrong clock"

    def __init__(self, rng, cluster):
        self.node, self.offset_ms = rng.choice(list(cluster.nodes)), rng.choice([-60_000, -5000, -400, 0, 400, 5000, 60_000])
        self.rate = rng.choice([0.9, 0.99, 1, 1, 1.01, 1.1])

    @classmethod
    def possible(cls, cluster):
        able = all(CLOCK_VARIABLE in node.env for node in cluster.nodes.values())
        return None if able else "the nodes were started with true clocks"

    def _set(self, cluster, offset_ms, rate):
        _write(cluster[self.node].env[CLOCK_VARIABLE], f"{offset_ms} {rate}")

    def inject(self, cluster):
        self._set(cluster, self.offset_ms, self.rate)

    def heal(self, cluster):
        self._set(cluster, 0, 1)


FAULTS = (Kill, KillZone, KillLeader, FailPower, FailPowerOfAll, Pause, PauseLeader, CutZone, CutTwoZones, CutOneWay, IsolateLeader,
          Delay, Stall, Reset, FullDisk, SlowDisk, BitFlips, WipeDisk, BrokenDisk, ReplaceNode, WrongClock)


class Step:
    """Faults that strike together, stay for a while and are undone together; then a rest."""

    def __init__(self, number, faults, hold_s, rest_s):
        self.number, self.faults, self.hold_s, self.rest_s = number, faults, hold_s, rest_s

    def __str__(self):
        faults = " + ".join(f"{fault.kind} ({fault.describe()})" for fault in self.faults)
        return f"step {self.number}: {faults}, for {self.hold_s:.1f} s, then {self.rest_s:.1f} s of rest"


def plan(seed, cluster, seconds, kinds=FAULTS):
    """Steps for about this many seconds, the same for the same seed and cluster; every possible kind comes up."""
    rng = random.Random(f"{seed}-nemesis")
    able = [kind for kind in kinds if kind.possible(cluster) is None]
    steps, at, deck = [], 0.0, []
    while at < seconds:
        if not deck:
            # Every kind once before any comes again, so that a short run has them all.
            deck = rng.sample(able, len(able))
        first = deck.pop()
        faults = [first(rng, cluster)]
        while not first.needs_whole and rng.random() < 0.3:
            other = rng.choice([kind for kind in able if not kind.needs_whole])
            faults.append(other(rng, cluster))
        hold = rng.choice([0.3, 1.0, 2.5, 5.0, 8.0])
        rest = rng.choice([0.0, 0.5, 2.0, 5.0])
        steps.append(Step(len(steps) + 1, faults, hold, rest))
        at += hold + rest
    return steps


class Nemesis:
    """Carries a plan out in a thread; `log` is called with a sentence for everything it does."""

    def __init__(self, cluster, steps, log=print, whole_s=300):
        self.cluster, self.steps, self.log, self.whole_s = cluster, steps, log, whole_s
        self.counts, self.failure = collections.Counter(), None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        """Begins."""
        self._thread.start()
        return self

    @property
    def running(self):
        """True until the plan is done or something failed."""
        return self._thread.is_alive()

    def wait(self, deadline_s, while_waiting=lambda: None):
        """Waits for the end of the plan; raises what went wrong in it."""
        end = time.monotonic() + deadline_s
        while self.running:
            self._thread.join(0.5)
            while_waiting()
            if time.monotonic() > end:
                self.stop()
                raise AssertionError(f"the plan was not done in {deadline_s} s")
        if self.failure is not None:
            raise self.failure

    def stop(self):
        """Ends early; what was injected is undone."""
        self._stop.set()
        self._thread.join(self.whole_s + 60)

    def _run(self):
        try:
            for step in self.steps:
                if self._stop.is_set():
                    return
                self._do(step)
        except Exception as failure:  # pylint: disable=broad-except
            self.log(f"the nemesis failed: {traceback.format_exc()}")
            self.failure = failure

    def _do(self, step):
        died = self.cluster.died()
        assert not died, f"before step {step.number}: ended without being asked to: {died}\n" + "\n".join(self.cluster[name].log_tail() for name in died)
        if any(fault.needs_whole for fault in step.faults):
            # From now, because a count from before the last fault says nothing about it.
            self._start_what_is_down()
            self.cluster.wait_whole(deadline_s=self.whole_s)
        struck = []
        try:
            for fault in step.faults:
                struck.append(fault)
                done = fault.inject(self.cluster)
                self.counts[fault.told() if done in (None, True) else f"{fault.kind}, in vain"] += 1
            self.log(str(step))
            self._stop.wait(step.hold_s)
        finally:
            for fault in reversed(struck):
                fault.heal(self.cluster)
        self._stop.wait(step.rest_s)

    def _start_what_is_down(self):
        self.cluster.start(*self.cluster.some(running=False))

    def heal_all(self):
        """After the plan: everything runs, nothing is cut, slow or paused. Processes that died by themselves are an error."""
        self.stop()
        self.cluster.mend_all()
        self.cluster.resume(*self.cluster.nodes)
        died = self.cluster.died()
        self._start_what_is_down()
        self.cluster.wait_ready(*self.cluster.nodes)
        assert not died, f"ended without being asked to: {died}\n" + "\n".join(self.cluster[name].log_tail() for name in died)

    def summary(self):
        """How often each fault struck."""
        return "faults injected: " + (", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items())) or "none")
