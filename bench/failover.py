#!/usr/bin/env python3
"""How long writes wait when something of a cluster dies: a leader, a storage node, a zone; and at a clean restart.

    bench/failover.py --binary target/release/granary [--times 20] [--events leader,storage,zone,silence,restart]
                      [--keys 24] [--seed N] [--out FILE.md] [--json FILE]

Six processes in three zones on this machine. One writer per key stores 64 KiB again and again through
gateways that are left alone, and never gives up a request before its answer. Every key has a bucket of its
own, so that the keys fall into all shards. The figure of an event is the longest time that any key waited
for its next acknowledged write: every shard and every placement group the keys fall into has to serve
again. Without an event the same figure is the noise of the machine. `zone` kills the processes of a zone,
whose machines still refuse connections; `silence` cuts a zone off without a word, as a dead switch does.
"""
import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter

from origin import origin
from wrk import percentile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness.cluster import GATEWAY_PORT, Cluster  # noqa: E402
from harness.history import LOST, Once  # noqa: E402

BODY = bytes(range(256)) * 256
EVENTS = ("nothing", "leader", "storage", "zone", "silence", "restart")
# Every key has to be acknowledged so often after the event, and this much time has to pass, before it is over.
ACKS_AFTER, LEAST_S, DEADLINE_S = 5, 4.0, 120.0


class Writer(threading.Thread):
    """Writes one key again and again and notes when it was acknowledged."""

    def __init__(self, bucket, address, credentials, stopping):
        super().__init__(daemon=True)
        self.bucket, self.stopping, self.acks, self.failures = bucket, stopping, [], []
        # It waits for an acknowledgement; when it has ended.
        self.waits, self.ended = False, None
        self.raw = Once(address, GATEWAY_PORT, credentials, "v4", DEADLINE_S)

    def run(self):
        while not self.stopping.is_set():
            self.waits = True
            try:
                answer = self.raw.request("PUT", self.bucket, "key", body=BODY)
                if answer.status == 200:
                    self.acks.append(time.monotonic())
                    self.waits = False
                    self.stopping.wait(0.03)
                    continue
                self.failures.append(f"{answer.status} {answer.body[:400]!r}")
            except LOST as lost:
                self.raw.close()
                self.failures.append(repr(lost))
            self.stopping.wait(0.02)
        self.ended = time.monotonic()
        self.raw.close()

    def longest_gap(self, since):
        """The longest wait for an acknowledgement that was not over at `since`, also when none came."""
        return longest_gap(self.acks, since, (self.ended or time.monotonic()) if self.waits else None)


def longest_gap(acks, since, waited_until):
    """The longest time without an acknowledgement after `since`; what came after the last one counts until `waited_until`, unless that is None."""
    times = [since] + [at for at in acks if at > since] + ([] if waited_until is None else [waited_until])
    return max((b - a for a, b in zip(times, times[1:])), default=0.0)


def victims(cluster, event, rng):
    """Whom it hits."""
    if event == "leader":
        return [cluster.wait_leader(rng.randrange(1, 5))]
    if event == "restart":
        return [cluster.wait_leader(rng.randrange(1, 5))]
    if event == "storage":
        return [rng.choice([name for name in cluster.nodes if name.endswith("b")])]
    return cluster.some(zone=rng.choice(cluster.zones)) if event in ("zone", "silence") else []


def measure(cluster, event, buckets, rng):
    """One event under writers; the longest wait and how many answers were errors."""
    hit = victims(cluster, event, rng)
    gateways = [cluster[name].machine.address for name in cluster.some(role="gateway") if name not in hit]
    stopping = threading.Event()
    writers = [Writer(bucket, gateways[n % len(gateways)], cluster.credentials, stopping) for n, bucket in enumerate(buckets)]
    for writer in writers:
        writer.start()
    wait_acks(writers, time.monotonic(), ACKS_AFTER)
    began = time.monotonic()
    if event == "restart":
        cluster.stop(*hit)
        cluster.start(*hit)
    elif event == "silence":
        cluster.part(hit, [name for name in cluster.nodes if name not in hit])
    else:
        cluster.kill(*hit)
    done = time.monotonic()
    wait_acks(writers, done, ACKS_AFTER)
    time.sleep(max(0.0, LEAST_S - (time.monotonic() - done)))
    stopping.set()
    for writer in writers:
        writer.join(DEADLINE_S)
    gaps = [writer.longest_gap(began) for writer in writers]
    cluster.mend_all()
    cluster.start(*[name for name in hit if not cluster[name].running])
    cluster.wait_whole()
    return {"hit": hit, "longest_s": max(gaps), "median_key_s": statistics.median(gaps), "failed_requests": [failure for writer in writers for failure in writer.failures]}


def wait_acks(writers, since, count):
    """Until every key was acknowledged so often since then."""
    end = time.monotonic() + DEADLINE_S
    while any(sum(at > since for at in writer.acks) < count for writer in writers):
        if time.monotonic() > end:
            late = [writer.bucket for writer in writers if sum(at > since for at in writer.acks) < count]
            raise RuntimeError(f"no writes in {DEADLINE_S:.0f} s to {late}")
        time.sleep(0.02)


def write_report(args, lines, report):
    """The lines to --out and everything to --json, where they were asked for."""
    for path, text in ((args.out, "\n".join(lines) + "\n"), (args.json, json.dumps(report, indent=1))):
        if path:
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)


def main():
    """Forms the cluster, measures, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--events", default=",".join(EVENTS))
    parser.add_argument("--keys", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--out")
    parser.add_argument("--json")
    args = parser.parse_args()
    rng, place, report = random.Random(args.seed), tempfile.mkdtemp(prefix="granary-failover-", dir=args.place), {"origin": origin("failover")}
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    try:
        with Cluster(place, program=[os.path.abspath(args.binary)]) as cluster:
            cluster.form()
            buckets = [f"failover-{n:04}" for n in range(args.keys)]
            for bucket in buckets:
                cluster.wire(cluster.some(role="gateway")[0], timeout_s=60).must("PUT", bucket)
            say("| event | times | least s | median s | p90 s | most s | median key s | failed requests |")
            say("|---|---|---|---|---|---|---|---|")
            for event in args.events.split(","):
                runs = report[event] = []
                for _ in range(args.times):
                    runs.append(measure(cluster, event, buckets, rng))
                longest = [run["longest_s"] for run in runs]
                say(f"| {event} | {len(runs)} | {min(longest):.2f} | {statistics.median(longest):.2f} | {percentile(Counter(longest), 0.9):.2f} | {max(longest):.2f} "
                    f"| {statistics.median(run['median_key_s'] for run in runs):.2f} | {sum(len(run['failed_requests']) for run in runs)} |")
            say(f"\n{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {args.keys} keys, seed {args.seed}; {'; '.join(cluster.sentences)}")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    write_report(args, lines, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
