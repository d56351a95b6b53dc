"""A cluster of real processes: made, formed, stopped, killed, paused, cut apart and removed by a test.

Every process is a machine of `network`. All waiting is for conditions. Knows the command line and
the JSON answers of `granary admin`, not the OSS protocol.
"""
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from . import faultfs, network as networks
from .leftovers import Leftovers, clean_after_others
from .relay import Relay
from .server import binary, metrics_of
from .signing import Credentials
from .waiting import wait_for
from .wire import Wire

CLUSTER_PORT, GATEWAY_PORT, ADMIN_PORT = 9100, 9000, 9001
ALL_ROLES = ("gateway", "meta", "storage", "worker")
START_DEADLINE_S = 90
STOP_DEADLINE_S = 60
WHOLE_DEADLINE_S = 300
MOST_LAG = 100
# A write lease of SETTINGS, the pauses of sweep and deletion, and much patience.
SWEEP_DEADLINE_S = 120

# What the backups of a few small shards may have to give back at any moment.
BACKUP_BYTES_UNDER_WAY = 64 << 20

# Small volumes and short waits, so that a test sees in seconds what takes a cluster hours. No backup of the metadata: it
# always has some bytes to give back, and these tests wait for none.
SETTINGS = """
[storage]
volume_bytes = 16777216
min_free_bytes = 33554432
min_free_percent = 1
compact_interval_secs = 1
[meta]
shards = 4
reader_grace_secs = 2
write_lease_secs = 20
min_free_bytes = 16777216
backup = false
[workers]
deletion_interval_secs = 1
sweep_interval_secs = 5
count_interval_secs = 5
missing_out_secs = 3
replace_after_secs = 1
unreachable_out_secs = 45
"""
BACKED_UP = SETTINGS.replace("backup = false", "backup = true")


@dataclass(frozen=True)
class Spec:
    """What one process of a cluster is."""
    name: str
    zone: str
    roles: tuple = ALL_ROLES
    disks: int = 1


def together(zones=3):
    """Two processes per zone: one with every role and one with storage only."""
    return [spec for z in range(1, zones + 1) for spec in (Spec(f"z{z}a", f"z{z}"), Spec(f"z{z}b", f"z{z}", ("storage",)))]


def apart(zones=3):
    """Four processes per zone: a gateway that also works, a meta node and two storage nodes."""
    kinds = (("g", ("gateway", "worker")), ("m", ("meta",)), ("s1", ("storage",)), ("s2", ("storage",)))
    specs = [Spec(f"z{z}{kind}", f"z{z}", roles) for z in range(1, zones + 1) for kind, roles in kinds]
    # The first node is the one that the metadata begin on.
    return sorted(specs, key=lambda spec: "meta" not in spec.roles)


@dataclass
class Answer:
    """What a command said."""
    code: int
    out: str
    err: str

    @property
    def data(self):
        """The JSON on stdout; of several lines the last."""
        try:
            return json.loads(self.out)
        except ValueError:
            lines = [line for line in self.out.splitlines() if line.strip()]
            return json.loads(lines[-1]) if lines else None

    def __str__(self):
        return f"exit code {self.code}: {self.err.strip()[-1500:]} {self.out.strip()[-1500:]}"


@dataclass
class Node:
    """One process and its directories, which outlive it."""
    spec: Spec
    machine: networks.Machine
    place: str
    node_id: int = 0
    process: object = None
    paused: bool = False
    faulty: dict = field(default_factory=dict)
    cluster_port: int = CLUSTER_PORT
    env: dict = field(default_factory=dict)
    # Its own binary, where that is another one than the cluster's; its state directory, where that is not beside its disks.
    program: list = None
    state: str = ""

    @property
    def name(self):
        """The name in the test."""
        return self.spec.name

    @property
    def state_dir(self):
        """Identity and metadata."""
        return self.state or os.path.join(self.place, "state")

    @property
    def data_dirs(self):
        """The disks of a storage node."""
        return [os.path.join(self.place, f"disk{n}") for n in range(self.spec.disks)] if "storage" in self.spec.roles else []

    def backing(self, directory):
        """Where the files of a directory truly are."""
        return self.faulty[directory].backing if directory in self.faulty else directory

    @property
    def config_path(self):
        """Its node.toml."""
        return os.path.join(self.place, "node.toml")

    @property
    def log_path(self):
        """Output of the process and of the commands that made it a node."""
        return os.path.join(self.place, "log")

    @property
    def cluster_listen(self):
        """Where it listens for other nodes."""
        return f"{self.machine.address}:{self.cluster_port}"

    @property
    def running(self):
        """True while there is a process, paused or not."""
        return self.process is not None and self.process.poll() is None

    def health(self, which="ready", timeout_s=5):
        """Status of /health/live or /health/ready, None when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.machine.address}:{ADMIN_PORT}/health/{which}", timeout=timeout_s) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metrics(self):
        """/metrics as {sample with labels: value}."""
        return metrics_of(f"{self.machine.address}:{ADMIN_PORT}")

    def log_tail(self, lines=40):
        """The last lines of the log."""
        if not os.path.exists(self.log_path):
            return "(no log)\n"
        with open(self.log_path, errors="replace", encoding="utf-8") as log:
            return "".join(log.readlines()[-lines:])


class Cluster:
    """Nodes in zones. Use as a context manager; leaving it removes everything but the directory.

    Relays are there when told so, never when told not to, and else where nothing but them can cut a wire."""

    def __init__(self, place, specs=None, relays=None, disk_mebibytes=None, faulty_disks=False, settings=SETTINGS, network=None, program=None,
                 region="cn-granary-1", plaintext=False):
        self.place = str(place)
        self.plaintext = plaintext
        self.credentials = Credentials("granaryTestKey", "granaryTestSecret0123456789", region)
        self.settings, self.program = settings, program or [binary()]
        self.cleaned = clean_after_others()
        self.leftovers = Leftovers()
        self.nodes, self.relay, self.sentences = {}, None, []
        self._lock = threading.RLock()
        self._cuts = {}
        self._slow = {}
        try:
            self._make_network(network, relays)
            self.disk_mebibytes = self._disk_size(disk_mebibytes)
            self.faulty_disks = faulty_disks and self._can_be_faulty()
            for spec in specs or together():
                self._add(spec)
        except BaseException:
            self.close()
            raise

    def _make_network(self, network, relays):
        if network is None:
            self.network, sentence = networks.make(self.leftovers)
        else:
            self.network, sentence = network(self.leftovers), network.__name__
        self.sentences.append(f"network: {sentence}")
        if relays or (relays is None and not self.network.can_cut):
            os.makedirs(self.place, exist_ok=True)
            self.relay = Relay(os.path.join(self.place, "relay.log"))
            self.leftovers.add("pids", self.relay.process.pid)
            self.sentences.append("wires: a relay per node")

    def _disk_size(self, mebibytes):
        if mebibytes and os.geteuid() != 0:
            self.sentences.append("disks: plain directories, because sized file systems need root; no disk can fill up")
            return None
        return mebibytes

    def _can_be_faulty(self):
        reason = faultfs.why_not()
        self.sentences.append("disks: through FUSE" if reason is None else f"disks: without power failures and errors, because {reason}")
        return reason is None

    def _add(self, spec):
        machine = self.network.add(spec.name)
        node = Node(spec, machine, os.path.join(self.place, spec.name))
        for directory in [node.state_dir, *node.data_dirs]:
            true_one = f"{directory}-disk" if self.faulty_disks else directory
            os.makedirs(true_one, exist_ok=True)
            if self.disk_mebibytes and directory in node.data_dirs:
                self._mount(true_one)
            if self.faulty_disks:
                node.faulty[directory] = faultfs.FaultyDisk(true_one, directory, self.leftovers)
        if self.relay is not None:
            self.relay.listen(spec.name, machine.relay_address, CLUSTER_PORT, machine.address, CLUSTER_PORT)
            machine.reached_at = machine.relay_address
            if self.network.can_cut:
                self.relay.known_by_address(spec.name, machine.address)
        self.nodes[spec.name] = node
        return node

    def _mount(self, directory):
        self.leftovers.add("mounts", directory)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.disk_mebibytes}m", "granary-test", directory],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"mount tmpfs: {done.stderr.strip()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Kills every process and removes what was made outside of the directory."""
        for node in self.nodes.values():
            if node.running:
                node.process.kill()
            for disk in node.faulty.values():
                # A process cannot go while a disk holds it.
                disk.heal()
            if node.process is not None:
                node.process.wait()
            for disk in node.faulty.values():
                disk.close()
        if self.relay is not None:
            self.relay.stop()
        if isinstance(getattr(self, "network", None), networks.Loopback):
            self.network._held.close()  # pylint: disable=protected-access
        self.leftovers.remove_all()

    # Which nodes.

    def __getitem__(self, name):
        return self.nodes[name]

    def some(self, role=None, zone=None, running=None):
        """Names of the nodes with a role, in a zone, that run or do not."""
        return [name for name, node in self.nodes.items() if (role is None or role in node.spec.roles)
                and (zone is None or node.spec.zone == zone) and (running is None or node.running == running)]

    @property
    def zones(self):
        """The zones, in order."""
        return sorted({node.spec.zone for node in self.nodes.values()})

    def name_of(self, node_id):
        """The node that has this id now, None if no process of the test has it."""
        return next((name for name, node in self.nodes.items() if node.node_id == node_id and node_id), None)

    def wire(self, name, **changes):
        """A raw client of the gateway on a node."""
        return Wire(self[name].machine.address, GATEWAY_PORT, **{"cred": self.credentials, "auth": "v4", **changes})

    # Forming.

    def write_config(self, name):
        """Writes node.toml."""
        node = self[name]
        address = node.machine.relay_address if self.relay is not None else node.machine.address
        join = [n.cluster_listen for n in self.nodes.values() if n is not node and "meta" in n.spec.roles]
        lines = [f"state_dir = {quoted(node.state_dir)}", f"data = {quoted(node.data_dirs)}", f"roles = {quoted(list(node.spec.roles))}",
                 f"zone = {quoted(node.spec.zone)}", f"cluster_listen = {quoted(node.cluster_listen)}",
                 f"cluster_address = {quoted(f'{address}:{node.cluster_port}')}", f"admin_listen = {quoted(f'{node.machine.address}:{ADMIN_PORT}')}",
                 f"join = {quoted(join)}"]
        if "gateway" in node.spec.roles:
            lines.append(f"listen = {quoted(f'{node.machine.address}:{GATEWAY_PORT}')}")
        if self.plaintext:
            lines.append("plaintext = true")
        with open(node.config_path, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n" + self.settings)

    def form(self, whole=True):
        """Makes the first node, starts it, joins the others and starts them."""
        names = list(self.nodes)
        for name in names:
            self.write_config(name)
        self.init(names[0])
        self.start(names[0])
        token = self.token()
        for name in names[1:]:
            self.join(name, token)
        self.start(*names[1:])
        if whole:
            self.wait_whole()
        return self

    def init(self, name):
        """Makes a cluster of one node, new or out of the `granary server` that ran on its machine; returns what was said."""
        node = self[name]
        made = self.on(name, "admin", "init", "--config", node.config_path, "--region", self.credentials.region, "--json")
        assert made.code == 0, f"admin init: {made}"
        node.node_id = made.data["node_id"]
        return made.data

    def token(self):
        """A new join token."""
        answer = self.admin("token")
        assert answer.code == 0, f"admin token: {answer}"
        return answer.data["token"]

    def join(self, name, token=None, replaces=None):
        """Makes a node of a machine with an empty state directory; repeats itself as an operator would."""
        node = self[name]
        line = ["admin", "join", "--config", node.config_path, "--token", token or self.token(), "--json"]
        if replaces is not None:
            line += ["--replaces", str(replaces)]
        tries = []

        def joined():
            answer = self.on(name, *line)
            tries.append(str(answer))
            if answer.code == 0:
                node.node_id = answer.data["node_id"]
            return answer.code == 0

        try:
            wait_for(f"{name} to join", joined, 60, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; last: {tries[-1]}") from None
        return node.node_id

    # Commands.

    def _env(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
        env["GRANARY_ROOT_ACCESS_KEY_ID"] = self.credentials.key_id
        env["GRANARY_ROOT_ACCESS_KEY_SECRET"] = self.credentials.secret
        return env

    def on(self, name, *line, timeout_s=120):
        """Runs the program on a node's machine to its end."""
        return self._run(self.command(name, *line), timeout_s)

    def command(self, name, *line):
        """The command line that runs the program on a node's machine."""
        return self[name].machine.command([*(self[name].program or self.program), *line])

    def _run(self, command, timeout_s):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=self._env(), stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as late:
            return Answer(124, (late.stdout or b"").decode(errors="replace"), f"no answer in {timeout_s} s")
        return Answer(done.returncode, done.stdout, done.stderr)

    def cut_short(self, name, *line, when):
        """Runs the program on a node's machine and kills it (-9) as soon as `when()` holds; False when it came to its end before."""
        process = subprocess.Popen(self.command(name, *line), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                   env=self._env())
        self.leftovers.add("pids", process.pid)
        try:
            while process.poll() is None and not when():
                time.sleep(0.0005)
        finally:
            process.kill()
            code = process.wait()
            self.leftovers.drop("pids", process.pid)
        return code < 0

    def cut_short_often(self, name, *line, files, rng, times, most_s):
        """Runs the program again and again and kills it when each of these files is there, then at random moments; returns where it was hit."""
        hit = [file for file in files if self.cut_short(name, *line, when=lambda file=file: os.path.exists(file))]
        for _ in range(times):
            after = time.monotonic() + rng.uniform(0, most_s)
            if self.cut_short(name, *line, when=lambda after=after: time.monotonic() > after):
                hit.append("some time")
        assert hit, "it was too fast to be killed"
        return [os.path.relpath(place, os.path.dirname(files[0])) if os.sep in place else place for place in hit]

    def admin(self, *line, timeout_s=60, ask=None, form=("--json",)):
        """`granary admin` from outside of the cluster, with --json unless told otherwise, at one running node after the other (of `ask`)
        until one can say."""
        answer = Answer(1, "", "no node runs")
        admin_dir = os.path.join(next(iter(self.nodes.values())).place, "admin-copy")
        own = os.path.join(next(iter(self.nodes.values())).state_dir, "admin")
        if os.path.isdir(own) and not os.path.isdir(admin_dir):
            # The operator's copy: the first machine may lose its disk later.
            shutil.copytree(own, admin_dir)
        for node in [n for n in self.nodes.values() if n.running and not n.paused and (ask is None or n.name in ask)]:
            how = ["--config", node.config_path] if self.plaintext else []
            answer = self._run([*self.program, "admin", *line, *form, "--address", node.cluster_listen, "--admin-dir", admin_dir, *how], timeout_s)
            if answer.code not in (1, 124):
                break
        return answer

    def status(self, ask=None):
        """The answer of `admin status --json` of some node (of `ask`), None when nobody can say."""
        answer = self.admin("status", timeout_s=15, ask=ask)
        return answer.data if answer.code in (0, 3) else None

    # Processes.

    def start(self, *names, wait=True):
        """Starts nodes together and waits until they say that they are ready."""
        for name in names:
            self._start(self[name], self.command(name, "start", "--config", self[name].config_path))
        if wait:
            self.wait_ready(*names)

    def serve(self, name):
        """Starts `granary server` on a node's machine: its disks, the metadata where that puts them."""
        node = self[name]
        settings = node.config_path + ".server"
        with open(settings, "w", encoding="utf-8") as out:
            out.write(self.settings)
        line = ["server", "--config", settings, "--listen", f"{node.machine.address}:{GATEWAY_PORT}",
                "--admin-listen", f"{node.machine.address}:{ADMIN_PORT}", "--region", self.credentials.region]
        for directory in node.data_dirs:
            line += ["--data", directory]
        self._start(node, self.command(name, *line))
        self.wait_ready(name)

    def _start(self, node, command):
        with self._lock:
            assert not node.running, f"{node.name} is running already"
            with open(node.log_path, "ab") as log:
                node.process = subprocess.Popen(command, stdout=log,
                                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**self._env(), **node.env})
            node.paused = False
            self.leftovers.add("pids", node.process.pid)
            if self.relay is not None and not self.network.can_cut:
                self.relay.known_by_process(node.name, node.process.pid)

    def wait_ready(self, *names, deadline_s=START_DEADLINE_S):
        """Waits for /health/ready of each; a process that ends meanwhile fails with its log."""
        for name in names:
            node = self[name]

            def ready(node=node):
                if not node.running:
                    raise AssertionError(f"{node.name} ended with {node.process.returncode}:\n{node.log_tail()}")
                return node.health() == 200

            try:
                wait_for(f"{name} to be ready", ready, deadline_s)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{node.log_tail()}") from None

    def stop(self, *names):
        """SIGTERM to all at once; every exit code has to be 0."""
        with self._lock:
            chosen = [self[name] for name in names if self[name].running]
            for node in chosen:
                node.process.send_signal(signal.SIGTERM)
        codes = {}
        for node in chosen:
            try:
                codes[node.name] = node.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"SIGTERM did not end {node.name} in {STOP_DEADLINE_S} s:\n{node.log_tail()}") from None
            self._gone(node)
        assert not any(codes.values()), f"exit codes at SIGTERM: {codes}"

    def kill(self, *names):
        """SIGKILL to all at once, as the power cord would."""
        with self._lock:
            chosen = [self[name] for name in names if self[name].running]
            for node in chosen:
                node.process.kill()
            for node in chosen:
                node.process.wait()
                self._gone(node)

    def fail_power(self, seed, *names):
        """SIGKILL to all at once, and their disks lose of what was not synced what a power failure may take. Says how much."""
        self.kill(*names)
        return {name: [disk.cut(seed) for disk in self[name].faulty.values()] for name in names}

    def _gone(self, node):
        self.leftovers.drop("pids", node.process.pid)
        node.process, node.paused = None, False

    def pause(self, *names):
        """SIGSTOP."""
        self._signal(names, signal.SIGSTOP, True)

    def resume(self, *names):
        """SIGCONT."""
        self._signal(names, signal.SIGCONT, False)

    def _signal(self, names, number, paused):
        with self._lock:
            for node in (self[name] for name in names):
                if node.running:
                    node.process.send_signal(number)
                    node.paused = paused

    def died(self):
        """Names of nodes that ended without being asked to."""
        return [name for name, node in self.nodes.items() if node.process is not None and node.process.poll() is not None]

    # Disks.

    def wipe(self, directory):
        """Empties a directory under a stopped node."""
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.remove(entry.path)

    # Wires.

    def cut(self, source, target, how=networks.SILENT):
        """What `source` sends to `target` does not arrive; the other direction stays as it is.

        With relays the network swallows or refuses what goes to the target's relay, unless it is only to be held,
        and the relay holds what the source sends on connections that the target made."""
        with self._lock:
            self._cuts[source, target] = how
            if self.network.can_cut and how != networks.HELD:
                self.network.cut(source, target, how)
            self._rules(source, target)
            self._rules(target, source)

    def mend(self, source, target):
        """Undoes a cut."""
        with self._lock:
            self._cuts.pop((source, target), None)
            if self.network.can_cut:
                self.network.mend(source, target)
            self._rules(source, target)
            self._rules(target, source)

    def slow(self, source, target, delay_ms=0, bytes_per_sec=0):
        """Delays what passes between two nodes on connections of `source`; without values: no more. Needs the relay."""
        with self._lock:
            self._slow[source, target] = {"delay_ms": delay_ms, "bytes_per_sec": bytes_per_sec}
            self._rules(source, target)

    def _rules(self, source, target):
        if self.relay is None:
            return
        stall = [way for way, pair in (("there", (source, target)), ("back", (target, source))) if pair in self._cuts]
        self.relay.rule(source, target, stall=stall, **self._slow.get((source, target), {}))

    def part(self, one, other, how=networks.SILENT):
        """Cuts every wire between two sets of nodes, both directions."""
        for a in one:
            for b in other:
                self.cut(a, b, how)
                self.cut(b, a, how)

    def mend_all(self):
        """Every wire is whole again."""
        with self._lock:
            for pair in list(self._cuts):
                self.mend(*pair)
            self._slow.clear()
            if self.relay is not None:
                self.relay.clear()
            assert not self.network.cuts()

    # Conditions.

    def whats_missing(self, status, since=0.0):
        """Why the cluster is not whole, as sentences; [] when it is. Counts must have begun after `since` (unix time)."""
        if not status:
            return ["nobody answers `admin status`"]
        return not_whole(status, {name: node.node_id for name, node in self.nodes.items()}, len(self.some(role="meta")), since)

    def wait_whole(self, since=None, deadline_s=WHOLE_DEADLINE_S):
        """Waits until every node is up, every shard has its voters and every chunk its copies; returns the status."""
        since, last = time.time() if since is None else since, {}

        def missing():
            last["status"] = self.status()
            return self.whats_missing(last["status"], since)

        wait_for("the cluster to be whole", missing, deadline_s, 0.5)
        return last["status"]

    def wait_reclaimed(self, deadline_s=WHOLE_DEADLINE_S):
        """Waits until deleted bytes were given back; a backup that goes on replaces its parts, so some are always on their way."""
        most = 0 if "backup = false" in self.settings else BACKUP_BYTES_UNDER_WAY

        def left():
            status = self.status()
            if not status:
                return ["nobody answers `admin status`"]
            reclaimable = status["reclaimable_bytes"]
            return [f"{reclaimable} bytes are reclaimable"] * (reclaimable > most) + [f"{status['deletions_queued']} deletions wait"] * bool(status["deletions_queued"])
        wait_for("deleted bytes to be given back", left, deadline_s, 0.5)

    def leader(self, shard=0, ask=None):
        """Name of the node that leads a shard by the word of some node (of `ask`), None if nobody does or says so."""
        status = self.status(ask=ask)
        found = next((s for s in status["shards"] if s["id"] == shard), None) if status else None
        return self.name_of(found["leader"]) if found else None

    def wait_leader(self, shard=0, other_than=None, deadline_s=60):
        """The node that leads a shard, once there is one."""
        def leads():
            name = self.leader(shard)
            return name if name != other_than else None
        return wait_for(f"a leader of shard {shard}", leads, deadline_s, 0.3)

    def fsck(self, *more, timeout_s=600, sweep_deadline_s=SWEEP_DEADLINE_S):
        """`admin fsck`; fails on any damage. What broken off writes left belongs to nothing until the sweep comes: that is waited for."""
        last = {}

        def dirt():
            answer = self.admin("fsck", *more, timeout_s=timeout_s)
            assert answer.code in (0, 4) and answer.data["complete"], f"fsck: {answer}"
            last["report"] = answer.data
            damage = {name: answer.data[name] for name in ("copies_missing", "copies_corrupt", "chunks_lost") if answer.data[name]}
            assert not damage, f"fsck: {damage}: {answer}"
            left = answer.data["chunks_unreferenced"] + answer.data.get("chunks_unswept", 0)
            assert left or (answer.code == 0 and answer.data["clean"]), f"fsck: {answer}"
            return [f"{left} chunks belong to nothing: {answer.data['damage'][:5]}"] if left else []

        wait_for("the sweep to free what broken off writes left", dirt, sweep_deadline_s, 2)
        return last["report"]

    def panics(self):
        """Lines of the logs that no fault excuses."""
        found = []
        for node in self.nodes.values():
            if os.path.exists(node.log_path):
                with open(node.log_path, errors="replace", encoding="utf-8") as log:
                    found += [f"{node.name}: {line.rstrip()}" for line in log if "panicked at" in line]
        return found

    def keep_evidence(self, label):
        """Writes what the cluster says of itself to GRANARY_TEST_LOGS, when that is set."""
        place = os.environ.get("GRANARY_TEST_LOGS")
        if place and any(node.running for node in self.nodes.values()):
            os.makedirs(place, exist_ok=True)
            for line in (["status"], ["fsck", "--deep"]):
                answer = self.admin(*line, timeout_s=120)
                with open(os.path.join(place, f"{label}-{line[0]}.json"), "w", encoding="utf-8") as out:
                    out.write(f"exit code {answer.code}\n{answer.err}\n{answer.out}\n")

    def keep_logs(self, label):
        """Copies the logs to GRANARY_TEST_LOGS, when that is set."""
        place = os.environ.get("GRANARY_TEST_LOGS")
        if place:
            os.makedirs(place, exist_ok=True)
            for node in self.nodes.values():
                if os.path.exists(node.log_path):
                    shutil.copy(node.log_path, os.path.join(place, f"{label}-{node.name}.log"))


def quoted(value):
    """A string or list of strings in TOML; what JSON writes is the same."""
    return json.dumps(value)


def not_whole(status, node_ids, meta_nodes, since=0.0):
    """Why a status is not that of a whole cluster of these nodes, as sentences."""
    missing = []
    if status["health"] != "ok":
        missing.append(f"health is {status['health']}: {status.get('problems')}")
    states = {node["id"]: node["state"] for node in status["nodes"]}
    missing += [f"{name} (node {i}) is {states.get(i)}" for name, i in node_ids.items() if states.get(i) != "up"]
    missing += [f"disk {disk['id']} of node {disk['node']} is {disk['state']}" for disk in status["disks"]
                if disk["state"] not in ("up", "replaced", "removed") and disk["node"] in node_ids.values()]
    voters = min(3, meta_nodes)
    if not status["shards"]:
        missing.append("no shards")
    for shard in status["shards"]:
        if not shard["leader"]:
            missing.append(f"shard {shard['id']} has no leader")
        if len(shard["voters"]) < voters or shard["learners"]:
            missing.append(f"shard {shard['id']} has voters {shard['voters']}, learners {shard['learners']}")
        behind = {n: lag for n, lag in shard["lag"].items() if lag is None or lag > MOST_LAG}
        if behind:
            missing.append(f"shard {shard['id']} lags: {behind}")
    sick = {health: count for health, count in status["groups"].items() if count and health != "healthy"}
    if sick:
        missing.append(f"groups: {sick}")
    counted = status["chunks_below_target_counted_at"]
    if status["chunks_below_target"] != 0 or counted is None or counted < int(since):
        missing.append(f"{status['chunks_below_target']} chunks below target, counted at {counted}, wanted since {since:.0f}")
    if status["repair"]["running"]:
        missing.append(f"repair runs: {status['repair']}")
    return missing
