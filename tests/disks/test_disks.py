"""A data directory that dies, fills up or rots takes only itself out; a replaced one is repaired."""
import os
import random
import shutil
import threading
import time

import pytest

from harness.server import Server
from harness.waiting import wait_for

from .volume import volumes

BUCKET = "disk-bucket"


# Small volumes, little headroom and short waits, so that a test sees in seconds what takes a disk hours.
CONFIG = """
[storage]
volume_bytes = 16777216
min_free_bytes = 67108864
min_free_percent = 1
compact_interval_secs = 1
[meta]
reader_grace_secs = 2
[workers]
deletion_interval_secs = 1
missing_out_secs = 2
replace_after_secs = 1
"""


def body_of(key):
    """The content of a key, by recipe."""
    rng = random.Random(key)
    return rng.randbytes(rng.choice([100, 5000, 140_000, 400_000, 1_300_000]))


@pytest.fixture
def rig(tmp_path_factory, request):
    """Starts servers on given directories and cleans up after them."""
    made, place = [], tmp_path_factory.mktemp("disks")

    def start(directories, **settings):
        config = place / "granary.toml"
        config.write_text(CONFIG)
        settings["flags"] = [*settings.get("flags", []), "--config", str(config)]
        server = Server(directories, place / "server.log", **settings)
        made.append(server)
        server.start()
        if server.wire().request("HEAD", BUCKET).status == 404:
            server.wire().must("PUT", BUCKET)
        return server

    start.place = place
    yield start
    for server in made:
        server.kill()
    logs = os.environ.get("GRANARY_TEST_LOGS")
    if logs and made:
        shutil.copy(made[0].log_path, os.path.join(logs, f"server-{request.node.name}.log"))
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def disks(tmp_path_factory):
    """Three small file systems."""
    made = volumes(tmp_path_factory.mktemp("volumes"), 3, 400)
    yield made
    for volume in made:
        volume.remove()


class Count:
    """What the redundancy worker counted last, if that holds for the cluster as it is now."""

    def __init__(self, server):
        metrics = server.metrics()

        def sample(name):
            return next((value for full, value in metrics.items() if full.startswith(f"granary_worker_{name}")), None)

        self.below = sample("chunks_below_redundancy")
        self.unknown = sample("groups_unknown")
        self.began = sample("redundancy_pass_began")
        assert sample("redundancy_passes") is not None, "no metric says whether anybody counts"

    def is_whole(self, since=0.0):
        """Nothing is below its redundancy, as counted by a pass that began after a moment."""
        return self.below == 0 and self.unknown == 0 and self.began >= int(since)


def wait_for_repair(server, since, deadline_s=240):
    """Waits until a count that began after `since` finds every copy in its place."""
    wait_for("repair", lambda: Count(server).is_whole(since), deadline_s)


def lacks_copies(server):
    """True once chunks below their redundancy were counted."""
    return (Count(server).below or 0) > 0


def put_all(server, keys):
    """Stores the keys; every one must be accepted."""
    raw = server.wire()
    for key in keys:
        raw.put(BUCKET, key, body_of(key))
    raw.close()


def read_all(server, keys):
    """Every object is there, byte for byte."""
    raw = server.wire()
    for key in keys:
        assert raw.get(BUCKET, key).body == body_of(key), key
    raw.close()


class Load:
    """Writers that go on while a disk fails; none of their calls may."""

    def __init__(self, server, name):
        self.server, self.name, self.keys, self.failures = server, name, [], []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, number):
        raw = self.server.wire(timeout_s=60)
        count = 0
        while not self._stop.is_set():
            key = f"{self.name}/{number}/{count}"
            count += 1
            try:
                answer = raw.request("PUT", BUCKET, key, body=body_of(key))
                if answer.status != 200:
                    self.failures.append(f"PUT {key}: {answer.status} {answer.body[:200]!r}")
                    continue
                with self._lock:
                    self.keys.append(key)
                    other = random.choice(self.keys)
                got = raw.request("GET", BUCKET, other)
                if got.body != body_of(other):
                    self.failures.append(f"GET {other}: {got.status}")
            except OSError as error:
                self.failures.append(f"{key}: {error!r}")
        raw.close()

    def stop(self):
        """Ends the load; returns the keys that were acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.failures, self.failures[:5]
        return list(self.keys)


def test_a_disk_dies_under_load_and_is_replaced(rig, disks):
    meta = rig.place / "meta"
    server = rig([disk.data for disk in disks], flags=["--meta-dir", str(meta)])
    load = Load(server, "before")
    wait_for("some load", lambda: len(load.keys) > 40, 120)
    disks[1].die()
    written = len(load.keys)
    wait_for("load going on after the failure", lambda: len(load.keys) > written + 40, 120)
    keys = load.stop()
    read_all(server, keys)
    put_all(server, [f"after/{n}" for n in range(20)])
    keys += [f"after/{n}" for n in range(20)]
    wait_for("the loss to be counted", lambda: lacks_copies(server), 120)
    assert server.stop() == 0

    disks[1].replace()
    replaced = time.time()
    server.start()
    read_all(server, keys)
    wait_for_repair(server, replaced)
    # Only now is the replaced disk as good as the others: lose each of them in turn.
    for lost in (0, 2):
        disks[lost].die()
        read_all(server, keys)
        assert server.stop() == 0
        disks[lost].replace()
        replaced = time.time()
        server.start()
        wait_for_repair(server, replaced)
    read_all(server, keys)
    assert server.stop() == 0


def test_a_directory_lost_while_stopped_is_repaired(rig):
    """The same without root: a directory is emptied between two runs."""
    directories = [rig.place / f"d{n}" for n in range(3)]
    server = rig(directories, flags=["--meta-dir", str(rig.place / "meta")])
    keys = [f"k/{n}" for n in range(60)]
    put_all(server, keys)
    wait_for_repair(server, time.time() - 60)
    assert server.stop() == 0
    for path, _, names in os.walk(directories[2], topdown=False):
        for name in names:
            os.remove(os.path.join(path, name))
        os.rmdir(path)
    lost = time.time()
    server.start()
    read_all(server, keys)
    wait_for_repair(server, lost)
    read_all(server, keys)
    assert server.stop() == 0


def volume_files(directory):
    """The bigger files of a data directory that hold object bytes."""
    found = []
    for path, _, names in os.walk(directory):
        for name in names:
            full = os.path.join(path, name)
            if "meta" not in os.path.relpath(full, directory).split(os.sep)[0] and os.path.getsize(full) > 100_000:
                found.append(full)
    return found


def test_rot_is_never_served(rig):
    """Bytes that changed on one disk are noticed and answered from another."""
    directories = [rig.place / f"r{n}" for n in range(3)]
    server = rig(directories, flags=["--meta-dir", str(rig.place / "meta")])
    keys = [f"k/{n}" for n in range(40)]
    put_all(server, keys)
    rng = random.Random(11)
    files = volume_files(directories[0])
    assert files, "no volume files found"
    for name in files:
        size = os.path.getsize(name)
        with open(name, "r+b") as volume:
            for _ in range(size // 50_000):
                at = rng.randrange(4096, size - 1)
                volume.seek(at)
                old = volume.read(1)
                volume.seek(at)
                volume.write(bytes([old[0] ^ 0x40]))
    for _ in range(3):
        read_all(server, keys)
    assert server.process.poll() is None


def test_a_single_rotten_disk_refuses_to_serve(rig):
    """With one copy there is nothing to answer from: an error, never wrong bytes."""
    directory = rig.place / "single"
    server = rig([directory], flags=["--meta-dir", str(rig.place / "meta")])
    body = random.randbytes(3_000_000)
    raw = server.wire()
    raw.put(BUCKET, "k", body)
    for name in volume_files(directory):
        with open(name, "r+b") as volume:
            whole = volume.read()
            at = whole.find(body[1_500_000:1_500_064])
            if at >= 0:
                volume.seek(at)
                volume.write(bytes(64))
    try:
        answer = raw.request("GET", BUCKET, "k")
        assert answer.status >= 500
    except Exception as error:  # pylint: disable=broad-except
        # The answer had begun: its connection ends early, which a client notices by the length.
        assert "IncompleteRead" in repr(error) or "reset" in repr(error).lower(), repr(error)
    assert server.process.poll() is None


def fill(server, limit):
    """Stores objects until the server refuses; returns the keys it acknowledged."""
    raw, keys = server.wire(), []
    for n in range(limit):
        key = f"fill/{n}"
        answer = raw.request("PUT", BUCKET, key, body=random.Random(key).randbytes(4_000_000))
        if answer.status != 200:
            assert answer.status in (500, 503, 507), answer.body
            break
        keys.append(key)
    else:
        pytest.fail("it never was full")
    return keys


def test_full_disks_refuse_writes_and_recover(rig, tmp_path_factory):
    """Writes stop early, reads and deletes go on, and deleting makes room again."""
    made = volumes(tmp_path_factory.mktemp("full"), 1, 300)
    try:
        server = rig([made[0].data], flags=["--meta-dir", str(rig.place / "meta")])
        raw = server.wire()
        keys = fill(server, 200)
        assert len(keys) > 20
        for key in keys[::5]:
            assert raw.get(BUCKET, key).body == random.Random(key).randbytes(4_000_000)
        for key in keys[:-3]:
            raw.must("DELETE", BUCKET, key)
        wait_for("room for new objects", lambda: raw.request("PUT", BUCKET, "again", body=body_of("again")).status == 200, 300)
        assert raw.get(BUCKET, "again").body == body_of("again")
        for key in keys[-3:]:
            assert raw.get(BUCKET, key).body == random.Random(key).randbytes(4_000_000)
        assert server.stop() == 0
    finally:
        server.kill()
        for volume in made:
            volume.remove()


def test_one_full_disk_of_four_is_left_out(rig, tmp_path_factory):
    """Writes go where there is room."""
    made = volumes(tmp_path_factory.mktemp("uneven"), 1, 200)
    try:
        directories = [made[0].data] + [rig.place / f"big{n}" for n in range(3)]
        server = rig(directories, flags=["--meta-dir", str(rig.place / "meta")])
        keys = [f"k/{n}" for n in range(400)]
        put_all(server, keys)
        read_all(server, keys)
        assert made[0].free_bytes() > 1 << 20
        assert server.stop() == 0
    finally:
        server.kill()
        for volume in made:
            volume.remove()


def test_restart_keeps_everything(rig):
    """The plain case: stop, start, all is there, on one disk and on three."""
    for count in (1, 3):
        directories = [rig.place / f"plain{count}-{n}" for n in range(count)]
        server = rig(directories)
        keys = [f"k/{n}" for n in range(30)]
        put_all(server, keys)
        for _ in range(3):
            assert server.stop() == 0
            server.start()
            read_all(server, keys)
        assert server.new_alarms() == []
        assert server.stop() == 0
