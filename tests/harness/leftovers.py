"""What a test makes outside of its directory (namespaces, links, mounts, processes), written down before it is made.

A run that was killed cannot clean up; the next one finds its list here and does. Only what is on a
list is touched, and a process only if it still is the one that was listed.
"""
import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading

PLACE = os.path.join(tempfile.gettempdir(), f"granary-cluster-runs-{os.getuid()}")


def started(pid):
    """When a process was started, in ticks since boot; None if there is no such process, or only its remains."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Leftovers:
    """The list of one run. Things are removed in the order: processes, mounts, namespaces, links."""

    KINDS = ("pids", "mounts", "namespaces", "links")

    def __init__(self, path=None):
        os.makedirs(PLACE, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        if path is None:
            path = os.path.join(PLACE, f"{os.getpid()}-{os.urandom(4).hex()}.json")
            self._known = {"owner": [os.getpid(), started(os.getpid())], **{kind: [] for kind in self.KINDS}}
        else:
            with open(path, encoding="utf-8") as listed:
                self._known = json.load(listed)
        self.path = path

    @property
    def abandoned(self):
        """True when the run that wrote the list is over."""
        pid, since = self._known["owner"]
        return started(pid) != since

    def add(self, kind, thing):
        """Notes a thing that is about to be made (a process: that was just made)."""
        with self._lock:
            self._known[kind].append([thing, started(thing)] if kind == "pids" else thing)
            self._write()

    def drop(self, kind, thing):
        """The thing is gone."""
        with self._lock:
            self._known[kind] = [t for t in self._known[kind] if (t[0] if kind == "pids" else t) != thing]
            self._write()

    def _write(self):
        with open(self.path + ".new", "w", encoding="utf-8") as out:
            json.dump(self._known, out)
        os.replace(self.path + ".new", self.path)

    def remove_all(self):
        """Removes all that is on the list, and the list; returns what there was to remove."""
        with self._lock:
            done = []
            for pid, since in self._known["pids"]:
                if since is not None and started(pid) == since:
                    os.kill(pid, signal.SIGKILL)
                    done.append(f"process {pid}")
            for mount in self._known["mounts"]:
                if os.path.ismount(mount) and quiet("umount", "-l", mount):
                    done.append(f"mount {mount}")
            for namespace in self._known["namespaces"]:
                if os.path.exists(f"/run/netns/{namespace}") and quiet("ip", "netns", "del", namespace):
                    done.append(f"namespace {namespace}")
            for link in self._known["links"]:
                if os.path.exists(f"/sys/class/net/{link}") and quiet("ip", "link", "del", link):
                    done.append(f"link {link}")
            if os.path.exists(self.path):
                os.remove(self.path)
            return done


def quiet(*command):
    """Runs a command; True if it worked."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def clean_after_others():
    """Removes what runs that are over left behind; returns what it removed."""
    removed = []
    os.makedirs(PLACE, mode=0o700, exist_ok=True)
    with exclusive():
        for name in sorted(os.listdir(PLACE)):
            if not name.endswith(".json"):
                continue
            try:
                run = Leftovers(os.path.join(PLACE, name))
            except (OSError, ValueError):
                continue
            if run.abandoned:
                removed += run.remove_all()
    return removed


class exclusive:  # pylint: disable=invalid-name
    """Held by one run of this machine at a time: while choosing addresses and names, and while cleaning."""

    def __enter__(self):
        os.makedirs(PLACE, mode=0o700, exist_ok=True)
        self._file = open(os.path.join(PLACE, "lock"), "w", encoding="ascii")  # pylint: disable=consider-using-with
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self._file.close()
