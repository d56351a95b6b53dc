"""Machines for a test cluster: an address of its own for every process, and the wires between them.

`Namespaces` gives each machine a network namespace on a bridge of the cluster and cuts wires inside
of them. `Loopback` gives addresses of 127.0.0.0/8 where namespaces cannot be made; there only a
relay can cut. Knows nothing of Granary.
"""
import json
import os
import random
import shutil
import socket
import subprocess

from .leftovers import exclusive

# How a cut wire looks to the sender: packets vanish, the sender is told at once, or a relay takes them and keeps them.
SILENT, REFUSED, HELD = "silent", "refused", "held"
_NOBODY = "02:00:00:00:00:de"
_RELAYS_FROM = 100


def ip(*arguments):
    """Runs `ip`; an error has what it said."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def why_no_namespaces():
    """None when this machine can make network namespaces, else the reason in a sentence."""
    if os.environ.get("GRANARY_TEST_NETWORK") == "loopback":
        return "GRANARY_TEST_NETWORK=loopback"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}`"
    name = f"granary-probe-{os.getpid()}"
    link = f"gp{os.getpid()}"[:15]
    try:
        ip("netns", "add", name)
        try:
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "del", link)
            ip("link", "add", link, "type", "bridge")
            ip("link", "del", link)
        finally:
            ip("netns", "del", name)
    except OSError as error:
        return str(error)
    return None


class Machine:
    """One address. `relay_address` is where a relay for it may listen, `reached_at` where others connect to it."""

    def __init__(self, name, number, address, relay_address, prefix=()):
        self.name, self.number, self.address, self.relay_address = name, number, address, relay_address
        self.reached_at = address
        self.prefix = list(prefix)

    def command(self, line):
        """The command line that runs `line` on this machine; keeps the process id."""
        return self.prefix + list(line)


class Namespaces:
    """A bridge with one namespace per machine; this process reaches all of them through the bridge."""

    kind = "namespaces"
    can_cut = True

    def __init__(self, leftovers):
        self.leftovers = leftovers
        self.machines = {}
        self._cuts = {}
        self._tag = f"{os.getpid() % 0xfffff:x}{random.SystemRandom().randrange(1 << 8):02x}"
        self.bridge = f"gb{self._tag}"
        with exclusive():
            self.net = self._free_net()
            leftovers.add("links", self.bridge)
            ip("link", "add", self.bridge, "type", "bridge")
            # The address holds the net for this run.
            ip("addr", "add", f"{self.net}.254/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
        self.host_address = f"{self.net}.254"

    @staticmethod
    def _free_net():
        taken = set()
        for link in json.loads(ip("-j", "addr")):
            taken |= {a["local"].rpartition(".")[0] for a in link.get("addr_info", []) if a["family"] == "inet"}
        nets = [f"10.213.{n}" for n in range(256)]
        random.SystemRandom().shuffle(nets)
        return next(net for net in nets if net not in taken)

    def add(self, name):
        """A new machine."""
        number = len(self.machines) + 1
        assert number < _RELAYS_FROM, "too many machines for one bridge"
        namespace, port = f"granary-{self._tag}-{name}", f"gv{self._tag}{number}"
        address, relay = f"{self.net}.{number}", f"{self.net}.{_RELAYS_FROM + number}"
        self.leftovers.add("namespaces", namespace)
        ip("netns", "add", namespace)
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("link", "set", port, "master", self.bridge, "up")
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("addr", "add", f"{relay}/32", "dev", self.bridge)
        machine = Machine(name, number, address, relay, ["nsenter", f"--net=/run/netns/{namespace}"])
        machine.namespace = namespace
        self.machines[name] = machine
        return machine

    def cut(self, source, target, how=SILENT):
        """What `source` sends to `target` does not arrive any more; the other direction stays as it is."""
        if (source, target) in self._cuts:
            return
        here, there = self.machines[source], self.machines[target]
        if how == REFUSED:
            ip("-n", here.namespace, "route", "replace", "blackhole", f"{there.reached_at}/32")
        else:
            # A neighbour that does not exist swallows packets without a word, as a dead switch does.
            ip("-n", here.namespace, "neigh", "replace", there.reached_at, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")
        self._cuts[source, target] = how

    def mend(self, source, target):
        """Undoes a cut, if there is one."""
        how = self._cuts.pop((source, target), None)
        here, there = self.machines[source], self.machines[target]
        if how == REFUSED:
            ip("-n", here.namespace, "route", "del", "blackhole", f"{there.reached_at}/32")
        elif how == SILENT:
            ip("-n", here.namespace, "neigh", "del", there.reached_at, "dev", "eth0")

    def cuts(self):
        """The pairs (source, target) that are cut."""
        return set(self._cuts)


class Loopback:
    """Addresses of 127.0.0.0/8: the fallback without namespaces. Wires are cut by a relay only."""

    kind = "loopback"
    can_cut = False

    def __init__(self, leftovers):
        self.leftovers = leftovers
        self.machines = {}
        self.host_address = "127.0.0.1"
        rng = random.SystemRandom()
        with exclusive():
            for _ in range(64):
                self.net = f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}"
                self._held = socket.socket()
                try:
                    # Listening on the last address holds the net for this run.
                    self._held.bind((f"{self.net}.254", 9100))
                    self._held.listen(1)
                    return
                except OSError:
                    self._held.close()
        raise OSError("no addresses of 127.0.0.0/8 can be bound here")

    def add(self, name):
        """A new machine."""
        number = len(self.machines) + 1
        machine = Machine(name, number, f"{self.net}.{number}", f"{self.net}.{_RELAYS_FROM + number}")
        self.machines[name] = machine
        return machine

    @staticmethod
    def cuts():
        """Nothing is ever cut here."""
        return set()


def make(leftovers):
    """The best network this machine allows, and a sentence that says which."""
    reason = why_no_namespaces()
    if reason is None:
        return Namespaces(leftovers), "every process has a network namespace of its own"
    return Loopback(leftovers), f"addresses of 127.0.0.0/8 and a relay, because: {reason}"
