#!/usr/bin/env python3
"""What things cost as the number of objects grows, when the space of deleted ones comes back, and whether a growing bucket spreads over shards.

    bench/growth.py --binaries target/release [--counts 10000,1000000,10000000] [--rounds 5] [--place DIR] [--out FILE.md] [--json FILE] [--quick]

A server of its own for each count, so that disk, memory and restart are that count's; all run on this machine, one is measured at a
time, in turn. Objects have 1 KiB and keys under ten prefixes, which wrk stores in no order, without signatures. What is measured then
is signed:

- a listing of 1000 keys from a random marker, a listing of the ten prefixes, GET and PUT of random keys over one connection
  (the median of each turn), GET and PUT over --connections with wrk (the time by the requests);
- a restart: SIGTERM, start, until it says that it is ready and has answered a GET.

Then the keys of one prefix of the largest bucket (--delete of them at most) are deleted, 1000 per request, while wrk reads and
overwrites others, and the files are watched until they have become no smaller for --stable seconds after the bytes' grace is over.

Last, --spread objects whose keys come in order are put into a bucket of three processes whose ranges split from --split-mib on: which
shards do the work, are there more of them than at first, and who leads them?

--quick is for a look whether the tool works. A quick look says nothing of costs.
"""
import argparse
import concurrent.futures
import contextlib
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time

import requirements
import wrk
from compare import in_turn
from raw_client import Connection
from report import Report, read_arguments
from targets import files_bytes, start_granary, start_granary_nodes

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness.wire import Wire  # noqa: E402

OBJECT_BYTES, PREFIXES, PAGE_KEYS = 1024, 10, 1000
# One run of wrk stores so many; one that fails is repeated, and the report says so.
SLICE_KEYS, SLICE_TRIES = 250_000, 3
GROWTH_MAX = 1.5
# A node's default, and what a quick look has.
GRACE_S, QUICK_GRACE_S = 900, 2
START_S_MAX, SETTLE_S, POLL_S = 1800, 600, 0.005
SPACE_POLL_S, SPACE_DEADLINE_S = 2, 7200
# Roughly, with the room that compaction takes meanwhile; less free space is only spoken of.
ROOM_PER_OBJECT = 3 * OBJECT_BYTES
# So much of what the deleted objects took counts as all.
BACK_SHARE = 0.9
DELETERS, SPREAD_STEPS, SPREAD_PAUSE_S = 4, 10, 10
LIST, FOLD, GET, PUT, RESTART = "list of 1000 keys", "list of the prefixes", "GET", "PUT", "restart"
MANY_GET, MANY_PUT, FOLD_AFTER = "GET, many connections", "PUT, many connections", "list of the prefixes after the deletion"
QUICK = {"counts": "2000,20000", "rounds": 2, "seconds": 1, "times": 50, "sample": 2000, "window": 1, "around": 3, "stable": 5, "spread": 20000,
         "split_mib": 2, "delete": 1000}


def key_of(index):
    """The key of an object; every tenth has the same prefix."""
    return f"p{index % PREFIXES}/{index // PREFIXES:08}"


def stride(count):
    """A step through the numbers below `count` that comes by each of them once, and jumps."""
    step = max(1, int(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return step


def progress(text):
    """What happens, for who waits."""
    print(text, file=sys.stderr, flush=True)


def fill(target, pattern, count, start, take, step, prefixes=PREFIXES):
    """Stores numbered objects; returns the seconds and how many requests had to be repeated."""
    seconds, failed = 0, 0
    for begin in range(start, start + take, SLICE_KEYS):
        part = {"PATTERN": pattern, "FROM": begin, "TAKE": min(SLICE_KEYS, start + take - begin), "COUNT": count, "STEP": step, "PREFIXES": prefixes}
        for _ in range(SLICE_TRIES):
            took, wrong = wrk.fill(target, part, OBJECT_BYTES)
            seconds, failed = seconds + took, failed + wrong
            if not wrong:
                break
        else:
            raise RuntimeError(f"{wrong} of {part} failed {SLICE_TRIES} times")
        progress(f"{begin + part['TAKE']} of {count} objects, the last {part['TAKE']} at {part['TAKE'] / took:.0f}/s")
    return seconds, failed


def disk_bytes(target):
    """What its files take, once everything is written."""
    os.sync()
    return files_bytes(target.place)


class Bucket:
    """A server with so many objects, and what was measured on it."""

    def __init__(self, target, count, rng):
        self.target, self.count, self.rng = target, count, rng
        self.costs, self.details, self.facts = {}, {}, {}
        self.empty = self.size()

    def load(self):
        """Stores its objects and waits until the server is idle."""
        seconds, failed = fill(self.target, f"/{self.target.bucket}/p%d/%08d", self.count, 0, self.count, stride(self.count))
        idle = self.target.settle(SETTLE_S)
        self.facts = {"load_seconds": seconds, "load_failed": failed, "idle_after_load": idle, "loaded": self.size(),
                      "memory_peak_bytes": self.target.memory_bytes("VmHWM")}

    def size(self):
        """What the objects take."""
        return {"disk_bytes": disk_bytes(self.target), "memory_bytes": self.target.memory_bytes()}

    def keys(self, number):
        """Random keys, as far as possible none twice."""
        return [key_of(index) for index in self.rng.sample(range(self.count), min(number, self.count))]

    def pages(self):
        """A page from a random place, with as many keys behind it."""
        marker = self.rng.randrange(max(1, self.count - PAGE_KEYS))
        # In the order of the listing the prefixes come one after the other.
        each = self.count // PREFIXES
        return [("marker", key_of(min(marker // each, PREFIXES - 1) + marker % each * PREFIXES)), ("max-keys", str(PAGE_KEYS))]

    def note(self, what, cost, **details):
        """One turn's figure, in seconds."""
        self.costs.setdefault(what, []).append(cost)
        self.details.setdefault(what, []).append(details)

    def alone(self, what, asks, holds=lambda content: True):
        """Requests over one connection, one after the other."""
        times = []
        with Connection(self.target.port) as connection:
            # Opening it is not what is measured.
            connection.must("GET", self.target.sign("GET", key_of(1)))
            for method, path, body in asks:
                began = time.perf_counter()
                content = connection.must(method, path, body)
                times.append(time.perf_counter() - began)
                if not holds(content):
                    raise RuntimeError(f"{what}: a wrong answer: {content[:300]!r}")
        # The quickest tenth tells a busy machine from a slow server.
        self.note(what, statistics.median(times), least=min(times), p10=statistics.quantiles(times, n=10)[0], most=max(times), times=len(times))

    def listings(self, times):
        """Both listings, so many times each."""
        asks = [("GET", self.target.sign("GET", "", self.pages()), b"") for _ in range(times)]
        self.alone(LIST, asks, lambda content: content.count(b"<Key>") == min(PAGE_KEYS, self.count - 1))
        self.fold(times)

    def fold(self, times, what=FOLD, wanted=PREFIXES):
        """The listing of the prefixes."""
        path = self.target.sign("GET", "", [("delimiter", "/")])
        self.alone(what, [("GET", path, b"")] * times, lambda content: content.count(b"<CommonPrefixes>") == wanted)

    def measure(self, args):
        """One turn of everything but the restart."""
        body = os.urandom(OBJECT_BYTES)
        self.listings(args.times)
        for what, method, content in ((GET, "GET", b""), (PUT, "PUT", body)):
            self.alone(what, [(method, self.target.sign(method, key), content) for key in self.keys(args.times * 10)])
        for what, method in ((MANY_GET, "GET"), (MANY_PUT, "PUT")):
            run = wrk.measure(self.target, wrk.Load(method, self.keys(args.sample), OBJECT_BYTES, args.connections, args.seconds, False))
            if run["failed"] or run["errors"]:
                raise RuntimeError(f"{what}: {run['failed']} requests failed, {run['errors']} errors")
            self.note(what, run["seconds"] / max(run["requests"], 1), **run)
        self.target.settle(SETTLE_S)

    def restart(self):
        """One restart."""
        path = self.target.sign("GET", key_of(self.rng.randrange(self.count)))
        began = time.perf_counter()
        self.target.stop()
        stopped = time.perf_counter()
        self.target.start(self.target.command, self.target.ready, self.target.env)
        ready = time.perf_counter()
        with Connection(self.target.port) as connection:
            connection.must("GET", path)
        answered = time.perf_counter()
        self.note(RESTART, answered - began, stop=stopped - began, ready=ready - stopped, first_answer=answered - ready)
        self.target.settle(SETTLE_S)

    def per_object(self, when, what, first):
        """What an object takes. Room in reserve and logs are as large with few objects: what the first bucket takes is not of the objects."""
        if first is self:
            return (self.facts[when][what] - self.empty[what]) / self.count
        return (self.facts[when][what] - first.facts[when][what]) / (self.count - first.count)

    def cost(self, what):
        """The median of the turns, in ms."""
        return statistics.median(self.costs[what]) * 1e3

    def said(self, what):
        """The median, and the least and the most of the turns."""
        return f"{self.cost(what):.3f} ({min(self.costs[what]) * 1e3:.3f} to {max(self.costs[what]) * 1e3:.3f})"


def open_server(place, name, args):
    """A server whose bucket all may write to."""
    settings = f"[meta]\nreader_grace_secs = {QUICK_GRACE_S}\n[workers]\ndeletion_interval_secs = 1\n" if args.quick else ""
    target = start_granary(os.path.join(place, name), args.binaries, settings=settings)
    target.poll_s, target.ready_in_s = POLL_S, START_S_MAX
    wire(target).must("PUT", target.bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
    return target


def wire(target):
    """A client that signs."""
    return Wire(target.address, target.port, target.credentials, timeout_s=300)


def costs(buckets, args, report):
    """Measures the buckets in turn."""
    for number in range(args.rounds):
        for bucket in in_turn(buckets, number):
            progress(f"round {number + 1}: {bucket.count} objects")
            bucket.measure(args)
    for number in range(args.rounds):
        for bucket in in_turn(buckets, number):
            bucket.restart()
    for bucket in buckets:
        bucket.facts["after"] = bucket.size()
    first, rows = buckets[0], []
    for what in first.costs:
        ratios = [bucket.cost(what) / first.cost(what) for bucket in buckets]
        rows.append([what, *(bucket.said(what) for bucket in buckets), *(f"{ratio:.2f}" for ratio in ratios[1:])])
        report.require([requirements.at_most(f"{what}: cost with {bucket.count} objects to that with {first.count}", ratio, GROWTH_MAX)
                        for bucket, ratio in zip(buckets[1:], ratios[1:])])
    head = ["", *(str(bucket.count) for bucket in buckets), *(f"{bucket.count} ratio" for bucket in buckets[1:])]
    report.table("Costs in ms, medians of the turns (least to most), and the ratios of the medians to the first", head, rows)
    steps = ("stop", "ready", "first_answer")
    rows = [[bucket.count, *(f"{statistics.median(one[step] for one in bucket.details[RESTART]) * 1e3:.0f}" for step in steps)] for bucket in buckets]
    report.table("Restarts in ms, medians", ["objects", "SIGTERM to end", "start to ready", "first answer"], rows)

    def taken(bucket, when, what):
        """Megabytes, and bytes per object where there are many."""
        each = "" if bucket is first else f", {bucket.per_object(when, what, first):.0f} B"
        return f"{bucket.facts[when][what] / 1e6:.1f} MB{each}"

    rows = [[bucket.count, f"{bucket.count / bucket.facts['load_seconds']:.0f}", bucket.facts["load_failed"],
             *(taken(bucket, when, what) for what in ("disk_bytes", "memory_bytes") for when in ("loaded", "after")),
             f"{bucket.facts['memory_peak_bytes'] / 1e6:.0f} MB"] for bucket in buckets]
    report.table("Disk and resident memory, and what an object adds to what the first bucket takes",
                 ["objects", "loaded per s", "repeated", "disk once loaded", "disk after the restarts", "memory once loaded",
                  "memory after the restarts", "peak of the loading"], rows)
    report.runs["buckets"] = [{"count": b.count, "facts": b.facts, "costs": b.costs, "details": b.details, "empty": b.empty} for b in buckets]


class Clients:
    """wrk at keys that stay, in one window after the other, until it is told to stop."""

    def __init__(self, bucket, args):
        self.target, self.stopping, self.windows = bucket.target, threading.Event(), {"GET": [], "PUT": []}
        keys = [key for key in bucket.keys(args.sample) if not key.startswith("p0/")]
        self.loads = [wrk.Load(method, keys, OBJECT_BYTES, args.connections // 4 or 1, args.window, False) for method in self.windows]
        self.pool = concurrent.futures.ThreadPoolExecutor(len(self.loads))

    def __enter__(self):
        self.running = [self.pool.submit(self.run, load) for load in self.loads]
        return self

    def run(self, load):
        """Windows of one kind."""
        with wrk.signed(self.target, load) as paths:
            while not self.stopping.is_set():
                began = time.monotonic()
                run = wrk.measure_signed(self.target, load, paths)
                self.windows[load.method].append((began, time.monotonic(), run))

    def __exit__(self, *_):
        self.stopping.set()
        self.pool.shutdown()

    def figures(self, method, since, until):
        """Medians of the windows that touch a time; requests per second, p99 in ms, failures, number of windows."""
        mine = [run for began, ended, run in self.windows[method] if ended > since and began < until]
        if not mine:
            return ["", "", 0, 0]
        rate, p99 = statistics.median(run["requests"] / run["seconds"] for run in mine), statistics.median(run["p99_us"] / 1e3 for run in mine)
        return [f"{rate:.0f}", f"{p99:.2f}", sum(run["failed"] + run["errors"] for run in mine), len(mine)]


class Space(threading.Thread):
    """Notes what the files take, again and again."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.stopping, self.curve = target, threading.Event(), []

    def run(self):
        while not self.stopping.is_set():
            self.curve.append((time.monotonic(), files_bytes(self.target.place)))
            self.stopping.wait(SPACE_POLL_S)

    def since_least(self):
        """For how many seconds the files have become no smaller, by a thousandth at least."""
        least, at = math.inf, 0
        for when, size in self.curve:
            if size < least * 0.999:
                least, at = size, when
        return self.curve[-1][0] - at if self.curve else 0


def delete(target, keys):
    """DeleteMultipleObjects from a few clients at once."""
    pages = [keys[start:start + PAGE_KEYS] for start in range(0, len(keys), PAGE_KEYS)]

    def some(number):
        client = wire(target)
        times = []
        for page in pages[number::DELETERS]:
            began = time.perf_counter()
            client.delete_objects(target.bucket, page)
            times.append(time.perf_counter() - began)
        client.close()
        return times

    with concurrent.futures.ThreadPoolExecutor(DELETERS) as pool:
        return [took for times in pool.map(some, range(DELETERS)) for took in times]


def deletion(bucket, first, args, report):
    """Deletes much of a bucket under clients and waits until its space has come back."""
    target, each = bucket.target, bucket.count // PREFIXES
    keys = [key_of(number * PREFIXES) for number in range(min(args.delete, each))]
    space, grace = Space(target), QUICK_GRACE_S if args.quick else GRACE_S
    progress(f"deletes {len(keys)} objects")
    space.start()
    with Clients(bucket, args) as clients:
        while not all(clients.windows.values()):
            # A client that has failed is to be heard of.
            for running in clients.running:
                if running.done():
                    running.result()
            time.sleep(0.1)
        # The first windows have warmed it up.
        started = time.monotonic()
        time.sleep(args.around)
        began = time.monotonic()
        times = delete(target, keys)
        ended = time.monotonic()
        time.sleep(args.around)
    for running in clients.running:
        running.result()
    over = time.monotonic()
    while True:
        time.sleep(SPACE_POLL_S)
        now = time.monotonic()
        if now - ended > grace + args.stable and space.since_least() > args.stable or now - ended > SPACE_DEADLINE_S:
            break
    space.stopping.set()
    space.join()
    bucket.fold(args.times, FOLD_AFTER, PREFIXES if len(keys) < each else PREFIXES - 1)
    curve = [(at - began, size) for at, size in space.curve]
    most, least = max(size for at, size in curve if at <= over - began), curve[-1][1]
    wanted = len(keys) * bucket.per_object("after", "disk_bytes", first)
    back = next((at for at, size in curve if at > ended - began and most - size >= BACK_SHARE * wanted), None)
    report.table("What clients notice of the deletion", ["client", "", "req/s", "p99 ms", "failed", "windows"],
                 [[method, when, *clients.figures(method, *times_of)] for method in clients.windows
                  for when, times_of in (("before", (started, began)), ("during", (began, ended)), ("after", (ended, over)))])
    report.say(f"{len(keys)} objects of {bucket.count} were deleted in {ended - began:.1f} s: {len(keys) / (ended - began):.0f} objects/s, "
               f"{DELETERS} requests at a time, median {statistics.median(times) * 1e3:.1f} ms, longest {max(times) * 1e3:.1f} ms.")
    how = f"less than {BACK_SHARE:.0%} of it" if back is None else f"{BACK_SHARE:.0%} of what they took after {back:.0f} s"
    report.say(f"Space: {most / 1e6:.1f} MB at most, {least / 1e6:.1f} MB when watching ended, {curve[-1][0]:.0f} s after the deletion began. "
               f"The deleted objects took {wanted / 1e6:.1f} MB; {(most - least) / 1e6:.1f} MB came back, {how} (a grace of {grace} s is in it).")
    report.say(f"The prefixes are listed in {bucket.cost(FOLD_AFTER):.3f} ms then, in {bucket.cost(FOLD):.3f} before.\n")
    # As many as a table can hold; all of them are in the JSON.
    shown = curve[::max(1, len(curve) // 20)] + [curve[-1]]
    report.table("Space by time", ["s since the deletion began", "MB"], [[f"{at:.0f}", f"{size / 1e6:.1f}"] for at, size in shown])
    report.runs["deletion"] = {"keys": len(keys), "seconds": ended - began, "request_seconds": times, "space": curve, "back_seconds": back,
                               "windows": {method: [(a - began, b - began, run) for a, b, run in runs] for method, runs in clients.windows.items()}}


def shards_of(target):
    """How far the log of each shard was applied, and which process leads it: {shard: (index, node)}."""
    return {shard["id"]: (shard["applied"], shard["leader"]) for shard in target.cluster.status()["shards"] if shard["id"]}


def spread(args, place, report):
    """Whether a bucket that grows at its end splits, and who takes the writes then."""
    target = start_granary_nodes(os.path.join(place, "spread"), args.binaries, f"[meta]\nsplit_bytes = {args.split_mib << 20}\n")
    try:
        wire(target).must("PUT", target.bucket, query=["acl"], headers={"x-oss-acl": "public-read-write"})
        at_first = last = shards_of(target)
        rows, led, each = [], {}, args.spread // SPREAD_STEPS
        now = int(time.time())
        for step in range(SPREAD_STEPS):
            # Numbers in their order behind the time, as a log that is written has them.
            fill(target, f"/{target.bucket}/{now}-%d/%012d", args.spread, step * each, each, 1, 1)
            # Splits are made every few seconds, and what is filled on this machine is filled faster than by most.
            time.sleep(SPREAD_PAUSE_S)
            this = shards_of(target)
            rows.append({shard: index - last.get(shard, (0,))[0] for shard, (index, _) in this.items()})
            for shard, (_, node) in this.items():
                led[node] = led.get(node, 0) + rows[-1][shard]
            last = this
    finally:
        target.stop()
    done = {shard: index - at_first.get(shard, (0,))[0] for shard, (index, _) in last.items()}
    total = max(sum(done.values()), 1)
    took_part = [shard for shard, entries in done.items() if entries > total / 100]
    writers = {node: entries for node, entries in led.items() if entries > total / 20}
    busiest, splits = max(done.values()) / total, len(last) - len(at_first)
    report.table(f"A bucket that grows at its end: {each * SPREAD_STEPS} objects, ranges split from {args.split_mib} MiB on, three processes with "
                 f"{len(at_first)} shards at first; entries of each shard's log by tenth of the objects",
                 ["shard", "led by", *(f"{step + 1}" for step in range(SPREAD_STEPS)), "share"],
                 [[shard, last[shard][1], *(f"{row.get(shard, 0):.0f}" for row in rows), f"{entries / total:.0%}"]
                  for shard, entries in sorted(done.items())])
    shares = ", ".join(f"node {node} {entries / total:.0%}" for node, entries in sorted(led.items(), key=str))
    report.say(f"Shards that were made by splits: {splits}; shards that wrote more than a hundredth of the entries: {len(took_part)}; "
               f"share of the busiest: {busiest:.0%}. Entries by the process that led their shard at the end of each tenth: {shares}.\n")
    report.require([requirements.row("splits of a bucket that grows at its end", "at least 1", str(splits), lambda found: int(found) >= 1),
                    requirements.row("shards it is spread over", "at least 2", str(len(took_part)), lambda found: int(found) >= 2),
                    requirements.row("processes that took a twentieth of its writes", "at least 2", str(len(writers)), lambda found: int(found) >= 2)])
    report.runs["spread"] = {"at_first": at_first, "steps": rows, "at_last": last, "led": led, "split_mib": args.split_mib}


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", required=True, help="where granary is")
    parser.add_argument("--counts", default="10000,1000000,10000000", help="objects of each bucket, from the smallest on (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each bucket, and its restarts (%(default)s)")
    parser.add_argument("--times", type=int, default=200, help="listings of each kind in a turn; GETs and PUTs are ten times as many (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of a run of wrk (%(default)s)")
    parser.add_argument("--sample", type=int, default=100000, help="random keys a run of wrk asks for, drawn anew for each (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="of wrk; a quarter each for reads and writes beside the deletion (%(default)s)")
    parser.add_argument("--delete", type=int, default=1000000, help="objects to delete at most; 0: none (%(default)s)")
    parser.add_argument("--window", type=int, default=5, help="seconds of each figure of the clients beside the deletion (%(default)s)")
    parser.add_argument("--around", type=int, default=30, help="seconds that they run before it and after (%(default)s)")
    parser.add_argument("--stable", type=int, default=300, help="seconds without less space until it counts as stable (%(default)s)")
    parser.add_argument("--spread", type=int, default=1000000, help="objects of the bucket that grows at its end; 0: none (%(default)s)")
    parser.add_argument("--split-mib", type=int, default=64, help="metadata in a range of that bucket from which on it is split (%(default)s)")
    return read_arguments(parser, QUICK)


def main():
    """All of it; what was measured before a failure is written too."""
    args = arguments()
    report, rng = Report(args), random.Random(args.seed)
    counts = sorted(int(count) for count in args.counts.split(",") if count)
    if any(count < PREFIXES or count % PREFIXES for count in counts):
        sys.exit(f"each of --counts has to be a multiple of {PREFIXES}")
    place = tempfile.mkdtemp(prefix="granary-growth-", dir=args.place)
    free = shutil.disk_usage(place).free
    if free < ROOM_PER_OBJECT * sum(counts):
        progress(f"{free / 1e9:.0f} GB of disk are free, and {ROOM_PER_OBJECT * sum(counts) / 1e9:.0f} GB may be needed")
    try:
        with contextlib.ExitStack() as servers:
            buckets = []
            for count in counts:
                target = open_server(place, f"objects-{count}", args)
                servers.callback(target.stop)
                buckets.append(Bucket(target, count, rng))
                buckets[-1].load()
            if buckets:
                costs(buckets, args, report)
            if buckets and args.delete:
                deletion(buckets[-1], buckets[0], args, report)
        if args.spread:
            spread(args, place, report)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        report.judge()
        report.about("bench/growth.py")
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
