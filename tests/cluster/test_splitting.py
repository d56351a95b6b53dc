"""A bucket whose keys all grow at the end splits, and spreads over the nodes, while clients write to it.

Nothing is lost or listed twice: not by the splits, not in what was begun before them (uploads, appended objects), and not by a
restart of every process afterwards. The metadata is backed up meanwhile, which holds splits up until a shard has a checkpoint.
"""
import collections
import hashlib
import random
import threading

import pytest

from harness.cluster import BACKED_UP, Spec
from harness.waiting import wait_for
from harness.wire import complete_body

BUCKET, TREE = "growing-bucket", "tree-bucket"
SPLIT_BYTES = 1 << 20
BODY_BYTES = 6000
# Shards that own a part of the bucket, at least.
PARTS = 4
SPLIT_DEADLINE_S = 240
SPREAD_DEADLINE_S = 120
SETTINGS = BACKED_UP.replace("shards = 4\n", f"shards = 2\nsplit_bytes = {SPLIT_BYTES}\n")
NODES = ("a", "b", "c")


def key_of(number):
    """In the order of the numbers, as a time is."""
    return f"2026/{number:09d}"


def body_of(number):
    """Bytes that nothing makes smaller."""
    return random.Random(f"split/{number}").randbytes(BODY_BYTES)


@pytest.fixture(scope="module")
def cluster(make_cluster):
    """Three processes with every role."""
    made = make_cluster("splitting", specs=[Spec(name, "z1") for name in NODES], settings=SETTINGS)
    made.form()
    yield made
    make_cluster.remove(made)


class Writers:
    """Clients that write one key after the other, each through another gateway, until they are told to stop."""

    def __init__(self, cluster):
        self.cluster, self.stopping, self.lock = cluster, threading.Event(), threading.Lock()
        self.next, self.written, self.failures = 0, set(), []
        self.threads = [threading.Thread(target=self._run, args=(name,), daemon=True) for name in NODES]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def _run(self, name):
        wire = self.cluster.wire(name)
        try:
            while not self.stopping.is_set():
                with self.lock:
                    number, self.next = self.next, self.next + 1
                wire.must("PUT", BUCKET, key_of(number), body=body_of(number))
                with self.lock:
                    self.written.add(number)
        except Exception as error:  # pylint: disable=broad-except
            self.failures.append(error)
            raise

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def parts_of(cluster):
    """The shards that own what lies behind a split inside the bucket: {first key: shard}."""
    status = cluster.status()
    if not status:
        return {}
    return {start["key"]: shard for shard in status["shards"] for start in shard["ranges"] if start["key"]}


def listed(wire, bucket=BUCKET, prefix=""):
    """Every key, as the pages give them."""
    keys, token = [], ""
    while True:
        query = [("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix)] + [("continuation-token", token)] * bool(token)
        page = wire.must("GET", bucket, query=query)
        keys += page.texts("Contents/Key")
        if page.text("IsTruncated") != "true":
            return keys
        token = page.text("NextContinuationToken")


def everything_is_there(cluster, numbers, others):
    """Listed once and in order through every gateway, and what is sampled has its bytes."""
    expected = sorted([key_of(number) for number in numbers] + list(others))
    for name in NODES:
        wire = cluster.wire(name)
        assert listed(wire) == expected, f"a listing through {name} is not complete, or not in order"
        for number in random.Random(name).sample(sorted(numbers), 100):
            assert wire.must("GET", BUCKET, key_of(number)).body == body_of(number), key_of(number)
        for key, content in others.items():
            assert hashlib.sha256(wire.must("GET", BUCKET, key).body).digest() == hashlib.sha256(content).digest(), key


def begin_others(wire):
    """What is under way while ranges split: an upload and an object that is appended to, at keys that come to lie in the middle."""
    upload = wire.initiate(BUCKET, key_of(300) + "-upload")
    parts = [(1, wire.upload_part(BUCKET, key_of(300) + "-upload", upload, 1, bytes(100 << 10)))]
    wire.must("POST", BUCKET, key_of(500) + "-log", query=["append", ("position", "0")], body=b"first ")
    return upload, parts


def end_others(wire, upload, parts):
    """The rest of it; what they must read as."""
    key = key_of(300) + "-upload"
    parts.append((2, wire.upload_part(BUCKET, key, upload, 2, b"the end")))
    wire.must("POST", BUCKET, key, query=[("uploadId", upload)], body=complete_body(parts))
    wire.must("POST", BUCKET, key_of(500) + "-log", query=["append", ("position", "6")], body=b"second")
    # A copy from one part of the bucket into another.
    wire.must("PUT", BUCKET, "0-copy", headers={"x-oss-copy-source": f"/{BUCKET}/{key_of(600)}"})
    return {key: bytes(100 << 10) + b"the end", key_of(500) + "-log": b"first second", "0-copy": body_of(600)}


def tree(wire):
    """A bucket with directories, which stays one shard's however large it is."""
    wire.must("PUT", TREE, headers={"x-oss-hns-status": "enabled"})
    for number in range(300):
        wire.must("PUT", TREE, f"d/{number:04d}", body=body_of(number))


def test_a_growing_bucket_splits_and_spreads_and_loses_nothing(cluster, say):
    """And again after every process was restarted."""
    wire = cluster.wire("a")
    wire.must("PUT", BUCKET)
    upload, parts = begin_others(wire)
    tree(wire)
    with Writers(cluster) as writers:
        def split():
            assert not writers.failures, writers.failures
            return len(parts_of(cluster)) >= PARTS - 1 and len(writers.written) > 1000
        wait_for(f"{PARTS} shards that own the bucket", split, SPLIT_DEADLINE_S, 1)
    assert not writers.failures, writers.failures
    others = end_others(wire, upload, parts)
    numbers = set(writers.written)
    everything_is_there(cluster, numbers, others)

    def spread():
        led = collections.Counter(shard["leader"] for shard in parts_of(cluster).values())
        return led if len(led) > 1 and None not in led else None

    led = wait_for("leaders on more than one node", spread, SPREAD_DEADLINE_S, 1)
    owners = parts_of(cluster)
    assert all(start.startswith("2026/") for start in owners), f"a bucket with directories was split: {owners}"
    assert len({shard["id"] for shard in owners.values()}) == len(owners), "a shard has two parts"
    splits = sum(cluster[name].metrics().get("granary_worker_ranges_split_total", 0) for name in NODES)
    assert splits >= PARTS - 1, f"metrics tell of {splits} splits"
    say(f"splitting: {len(numbers)} objects in {len(owners) + 1} shards, leaders by node {dict(led)}")

    # Deleted across all parts, which needs each of them to be known to the workers that give the bytes back.
    gone = {number for number in numbers if number % 3 == 0}
    keys = [key_of(number) for number in sorted(gone)]
    for start in range(0, len(keys), 1000):
        wire.delete_objects(BUCKET, keys[start:start + 1000])
    numbers -= gone
    if 600 in gone:
        assert wire.must("GET", BUCKET, "0-copy").body == body_of(600)
    everything_is_there(cluster, numbers, others)

    cluster.stop(*NODES)
    cluster.start(*NODES)
    cluster.wait_whole()
    everything_is_there(cluster, numbers, others)
    assert listed(cluster.wire("b"), TREE, "d/") == ["d/"] + [f"d/{number:04d}" for number in range(300)]
    assert set(parts_of(cluster)) >= set(owners), "a shard is gone"
    for number in range(writers.next, writers.next + 50):
        wire.must("PUT", BUCKET, key_of(number), body=body_of(number))
        numbers.add(number)
    everything_is_there(cluster, numbers, others)
    cluster.fsck("--deep")
