"""Clients that write, overwrite, delete, upload in parts and list at once, and the history of what they saw.

A client never repeats a request: an answer that is lost, or says nothing about the outcome, is noted
as unknown. A value is known by its ETag, and its bytes are drawn anew from a recipe to compare.
Knows nothing of clusters: it is given gateways, and judges by `linearizability`.
"""
import collections
import http.client
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from crash.model import Value

from . import digest
from .linearizability import CREATE, FOREVER, READ, WRITE, Op, is_linearizable, smallest_bad_prefix
from .wire import Wire

PART_BYTES = 102_400
# What a client sees of a gateway that was killed, stopped or cut off.
LOST = (OSError, http.client.HTTPException)
# Objects inside of records, in one chunk, and in several.
SIZES = ((20, 3), (150, 3), (4097, 3), (40_000, 3), (300_000, 2), (1_500_000, 1), (5_000_000, 0.3))
# What a client does how often.
MIX = (("put", 5), ("delete", 2), ("get", 6), ("head", 2), ("create", 1), ("multipart", 1), ("listing", 1))
GROUP_KEYS, GROUP_CALLS = 6, 600


class Surprise(AssertionError):
    """The store answered something it never may."""


class Once(Wire):
    """A client that sends every request at most once, so that what is in the history happened at most once."""

    def send(self, method, target, headers, body=b"", host=None):
        """One exchange; any failure closes the connection."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)
        try:
            return self._exchange(method, target, headers, body, host)
        except BaseException:
            self.close()
            raise


class Gateways:
    """Where clients may send to: [(host, port)] and whose credentials."""

    def __init__(self, addresses, credentials, timeout_s=5):
        self.addresses, self.credentials, self.timeout_s = list(addresses), credentials, timeout_s

    def wire(self, number, timeout_s=None):
        """A client of one of them."""
        host, port = self.addresses[number % len(self.addresses)]
        return Once(host, port, self.credentials, "v1" if number % 2 else "v4", timeout_s or self.timeout_s)


class History:
    """What happened to the keys of one bucket. Safe to share between threads."""

    def __init__(self, bucket, rng, groups=3):
        self.bucket, self.rng = bucket, rng
        self.ops = collections.defaultdict(list)
        self.values = {}
        self.uploads = set()
        self.counts = collections.Counter()
        self.successes, self.acknowledged = [], 0
        self._groups = [[0, 0] for _ in range(groups)]
        self._lock = threading.Lock()

    def prefix(self, rng):
        """A prefix with few keys; after some hundred calls it is left for a new one, so that no history gets too long."""
        with self._lock:
            number = rng.randrange(len(self._groups))
            group = self._groups[number]
            group[1] += 1
            if group[1] > GROUP_CALLS:
                group[:] = [group[0] + 1, 0]
            return f"g{number}/{group[0]:04}/"

    def learn(self, value):
        """A value is about to be written; returns its ETag."""
        with self._lock:
            self.values[value.etag()] = value
            return value.etag()

    def add(self, key, kind, value, start, end, refused=False, who=None):
        """An operation ended, or will never be known to have."""
        with self._lock:
            self.ops[key].append(Op(kind, value, start, end, refused, who))
            self.counts[kind, "unknown" if end == FOREVER else "known"] += 1
            if kind != READ and end != FOREVER:
                self.successes.append(end)
                self.acknowledged += 1

    def keys(self, prefix=""):
        """The keys that were ever written below a prefix."""
        with self._lock:
            return sorted(key for key in self.ops if key.startswith(prefix))

    def acknowledged_since(self, moment):
        """Number of writes and deletions acknowledged after a moment (monotonic)."""
        with self._lock:
            return sum(at > moment for at in self.successes[-2000:])

    def check(self, label="history"):
        """Every key behaved like one register."""
        for key in self.keys():
            if not is_linearizable(self.ops[key]):
                bad = smallest_bad_prefix(self.ops[key])
                told = "\n".join(str(op) for op in bad[-40:])
                raise Surprise(f"{key} is not linearizable (of {len(self.ops[key])} operations these are enough):\n{told}\nall of it: {self.dump(label)}")

    def dump(self, label):
        """Writes the histories beside the logs."""
        place = os.environ.get("GRANARY_TEST_LOGS")
        if not place:
            return "set GRANARY_TEST_LOGS to keep it"
        path = os.path.join(place, f"{label}.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump({key: [[o.kind, o.value, o.start, None if o.end == FOREVER else o.end, o.refused, o.who] for o in ops]
                       for key, ops in self.ops.items()}, out)
        return path

    def summary(self):
        """How much happened, in a sentence."""
        parts = [f"{count} {kind} {outcome}" for (kind, outcome), count in sorted(self.counts.items())]
        return f"{len(self.ops)} keys: " + ", ".join(parts)


class Client(threading.Thread):
    """One client; goes from gateway to gateway when one does not answer."""

    def __init__(self, number, gateways, history, rng, stopping, sizes=SIZES, mix=MIX):
        super().__init__(daemon=True)
        self.sizes, self.mix = sizes, mix
        self.number, self.gateways, self.history, self.rng, self.stopping = number, gateways, history, rng, stopping
        self.at, self.surprise = number, None
        self.raw = gateways.wire(number)

    def run(self):
        actions = [getattr(self, name) for name, times in self.mix for _ in range(times)]
        while not self.stopping.is_set() and self.surprise is None:
            try:
                self.rng.choice(actions)()
            except LOST:
                self.raw.close()
                self.at += 1
                self.raw = self.gateways.wire(self.at)
                self.stopping.wait(0.05)
            except Exception as surprise:  # pylint: disable=broad-except
                self.surprise = surprise
        self.raw.close()

    def key(self):
        """A key that others use, too."""
        return f"{self.history.prefix(self.rng)}k{self.rng.randrange(GROUP_KEYS)}"

    def draw(self):
        """A fresh value of a random size."""
        sizes, weights = zip(*self.sizes)
        return Value.draw(self.rng, size=self.rng.choices(sizes, weights)[0] + self.rng.randrange(16))

    def write(self, key, kind, value, send):
        """Sends a change and notes what came of it: 2xx done, 5xx or nothing unknown."""
        start, end, refused = time.monotonic(), FOREVER, False
        try:
            answer = send()
            if answer.status in (200, 204):
                end = time.monotonic()
            elif kind == CREATE and answer.status == 409:
                end, refused = time.monotonic(), True
            elif answer.status < 500:
                raise Surprise(f"{kind} {key}: {answer.status} {answer.body[:300]!r}")
            else:
                self.stopping.wait(0.02)
            return answer if end != FOREVER and not refused else None
        finally:
            self.history.add(key, kind, value, start, end, refused, self.number)

    def put(self, kind=WRITE, headers=None):
        key, value = self.key(), self.draw()
        etag, body = self.history.learn(value), value.body()
        answer = self.write(key, kind, etag, lambda: self.raw.request("PUT", self.history.bucket, key, body=body, headers=headers or {}))
        if answer is not None and (answer.headers["etag"].strip('"'), answer.headers["x-oss-hash-crc64ecma"]) != (etag, str(digest.crc64(body))):
            raise Surprise(f"PUT {key}: digests of something else")

    def create(self):
        self.put(CREATE, {"x-oss-forbid-overwrite": "true"})

    def delete(self):
        key = self.key()
        self.write(key, WRITE, None, lambda: self.raw.request("DELETE", self.history.bucket, key))

    def multipart(self):
        key = self.key()
        begun = self.raw.request("POST", self.history.bucket, key, query=["uploads"])
        if begun.status != 200:
            return
        upload = begun.text("UploadId")
        self.history.uploads.add((key, upload))
        pieces = [(self.rng.getrandbits(48), PART_BYTES + self.rng.randrange(200_000)) for _ in range(self.rng.randint(1, 3))]
        etags = []
        for number, piece in enumerate(pieces, 1):
            body = Value((piece,)).body()
            answer = self.raw.request("PUT", self.history.bucket, key, query=[("partNumber", str(number)), ("uploadId", upload)], body=body)
            if answer.status != 200:
                return
            etags.append((number, digest.etag(body)))
        if self.rng.random() < 0.2:
            if self.raw.request("DELETE", self.history.bucket, key, query=[("uploadId", upload)]).status == 204:
                self.history.uploads.discard((key, upload))
            return
        value = Value(tuple(pieces), parted=True)
        etag = self.history.learn(value)
        if self.write(key, WRITE, etag, lambda: self.raw.complete(self.history.bucket, key, upload, etags)) is not None:
            self.history.uploads.discard((key, upload))

    def get(self):
        read(self.raw, self.history, self.key(), "GET", self.number)

    def head(self):
        read(self.raw, self.history, self.key(), "HEAD", self.number)

    def listing(self):
        """A listing is a read of every key of its prefix."""
        prefix = self.history.prefix(self.rng)
        keys, start = self.history.keys(prefix), time.monotonic()
        seen = list_all(self.raw, self.history.bucket, prefix, page=self.rng.choice([2, 4, 1000]))
        end = time.monotonic()
        if seen is None:
            return
        for key in keys:
            etag = seen.get(key, (None, 0))[0]
            if etag is not None and etag not in self.history.values:
                raise Surprise(f"the listing shows {key} with an ETag nobody wrote: {etag}")
            self.history.add(key, READ, etag, start, end, who=f"listing by {self.number}")


def read(raw, history, key, method="GET", who="final"):
    """Reads a key, checks that what came is whole, and notes it; None when the store could not say."""
    start = time.monotonic()
    answer = raw.request(method, history.bucket, key)
    end = time.monotonic()
    if answer.status >= 500:
        return None
    etag = None
    if answer.status == 200:
        etag = answer.headers["etag"].strip('"')
        value = history.values.get(etag)
        if value is None:
            raise Surprise(f"{method} {key}: an ETag nobody wrote: {etag}")
        if int(answer.headers["content-length"]) != value.size:
            raise Surprise(f"{method} {key}: {answer.headers['content-length']} bytes, {value.size} were written")
        body = value.body()
        if method == "GET" and answer.body != body:
            raise Surprise(f"GET {key}: other bytes than were written, from {first_difference(answer.body, body)} on")
        if answer.headers["x-oss-hash-crc64ecma"] != str(digest.crc64(body)):
            raise Surprise(f"{method} {key}: CRC-64 of something else")
    elif answer.status != 404 or (method == "GET" and answer.code != "NoSuchKey"):
        raise Surprise(f"{method} {key}: {answer.status} {answer.body[:300]!r}")
    history.add(key, READ, etag, start, end, who=who)
    return (etag,)


def first_difference(one, other):
    """Offset of the first byte that differs."""
    return next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def list_all(raw, bucket, prefix="", page=1000):
    """{key: (ETag, size)} of a prefix, page by page; None when the store could not say. Order is checked."""
    seen, marker = {}, ""
    while True:
        answer = raw.request("GET", bucket, query=[("prefix", prefix), ("max-keys", str(page)), ("marker", marker)])
        if answer.status >= 500:
            return None
        if answer.status != 200:
            raise Surprise(f"listing {prefix}: {answer.status} {answer.body[:300]!r}")
        for row in answer.xml.findall("Contents"):
            key = row.findtext("Key")
            if key <= marker or key in seen or (seen and key < next(reversed(seen))):
                raise Surprise(f"listing {prefix}: {key} is out of order")
            seen[key] = (row.findtext("ETag").strip('"'), int(row.findtext("Size")))
        if answer.text("IsTruncated") != "true":
            return seen
        marker = answer.text("NextMarker")


class Load:
    """Clients that run until stopped; use as a context manager. `how`: sizes and mix of what they do."""

    def __init__(self, gateways, history, seed, clients=6, **how):
        self.history, self.stopping = history, threading.Event()
        self.clients = [Client(n, gateways, history, random.Random(f"{seed}-client-{n}"), self.stopping, **how) for n in range(clients)]
        self.patience_s = 20 * gateways.timeout_s + 30

    def __enter__(self):
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *failure):
        self.stopping.set()
        for client in self.clients:
            client.join(self.patience_s)
        if failure[0] is None:
            self.check()
            assert not any(client.is_alive() for client in self.clients), "a client waits longer than its timeout"

    def check(self):
        """Raises what a client saw that it never may."""
        for client in self.clients:
            if client.surprise is not None:
                raise client.surprise

    def wait_acknowledged(self, count=20, deadline_s=90):
        """Waits until this many more changes were acknowledged: the store serves."""
        since, end = time.monotonic(), time.monotonic() + deadline_s
        while self.history.acknowledged_since(since) < count:
            self.check()
            if time.monotonic() > end:
                raise AssertionError(f"{self.history.acknowledged_since(since)} of {count} changes were acknowledged in {deadline_s} s")
            time.sleep(0.05)
        return time.monotonic() - since


def check_everything(gateways, history, label="history"):
    """After healing: every key from every gateway, listings against point reads, open uploads ended, all of it linearizable."""
    numbers = range(len(gateways.addresses))
    wires = threading.local()

    def look(task):
        number, key = task
        if not hasattr(wires, "by"):
            wires.by = {}
        raw = wires.by.setdefault(number, gateways.wire(number, 60))
        seen = _patiently(lambda: read(raw, history, key, who=f"final {number}"), f"GET {key}")
        return number, key, seen[0]

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(look, [(number, key) for key in history.keys() for number in numbers]))
    for number in numbers:
        raw = gateways.wire(number, 60)
        listed = _patiently(lambda raw=raw: list_all(raw, history.bucket, page=97), "the listing")
        points = {key: etag for n, key, etag in seen if n == number}
        for key, etag in points.items():
            shown = listed.get(key, (None, 0))[0]
            # A change of unknown outcome may have arrived in between: then a new point read agrees.
            if shown != etag and look((number, key))[2] != shown:
                raise Surprise(f"gateway {number}: the listing shows {key} as {shown}, a read as {etag}")
            if shown is not None and listed[key][1] != history.values[shown].size:
                raise Surprise(f"gateway {number}: the listing shows {key} with {listed[key][1]} bytes")
        strangers = [key for key in listed if key not in points and not key.startswith("ballast/")]
        assert not strangers, f"gateway {number} lists what nobody wrote: {strangers[:5]}"
    raw = gateways.wire(0, 60)
    for key, upload in sorted(history.uploads):
        answer = _patiently(lambda k=key, u=upload: _said(raw.request("DELETE", history.bucket, k, query=[("uploadId", u)])), "abort")
        assert answer.status in (204, 404), answer.body
    history.uploads.clear()
    history.check(label)
    return {key: etag for number, key, etag in seen if number == 0 and etag is not None}


def _said(answer):
    return None if answer.status >= 500 else answer


def _patiently(call, what, deadline_s=60):
    """Repeats a read until it says something."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            answer = call()
            if answer is not None:
                return answer
        except LOST as error:
            answer = error
        if time.monotonic() > end:
            raise AssertionError(f"{what}: no answer in {deadline_s} s ({answer!r})")
        time.sleep(0.1)


class Ballast:
    """Objects that are written once, before anything happens, and have to be there with their bytes ever after."""

    def __init__(self, gateways, bucket, seed, count=120):
        self.gateways, self.bucket = gateways, bucket
        rng = random.Random(f"{seed}-ballast")
        sizes, weights = zip(*SIZES)
        self.values = {f"ballast/{n:05}": Value.draw(rng, size=rng.choices(sizes, weights)[0]) for n in range(count)}

    def write(self):
        """Stores them; every one has to be acknowledged."""
        wires = threading.local()

        def put(item):
            if not hasattr(wires, "raw"):
                wires.raw = self.gateways.wire(hash(item[0]), 60)
            wires.raw.put(self.bucket, item[0], item[1].body())

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(put, self.values.items()))
        return self

    def check(self, gateway=None):
        """Reads all of them, through all gateways in turn or through one, and compares bytes and CRC-64."""
        wires = threading.local()

        def look(item):
            number, (key, value) = item
            if not hasattr(wires, "by"):
                wires.by = {}
            at = (number if gateway is None else gateway) % len(self.gateways.addresses)
            raw = wires.by.setdefault(at, self.gateways.wire(at, 60))
            answer = _patiently(lambda: _said(raw.request("GET", self.bucket, key)), f"GET {key}")
            body = value.body()
            if answer.status != 200 or answer.body != body or answer.headers["x-oss-hash-crc64ecma"] != str(digest.crc64(body)):
                raise Surprise(f"{key} was acknowledged and is not there with its bytes: {answer.status}, {len(answer.body)} of {value.size} bytes")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(look, enumerate(self.values.items())))
