#!/usr/bin/env python3
"""How fast a lost disk is repaired, and what clients notice of it.

    bench/repair.py --binary target/release/granary [--gib 4] [--connections 4] [--seconds 20] [--place DIR] [--out FILE.md] [--json FILE]

Three processes in three zones on this machine, every object in all of them. The disk of one is emptied under it, as
if it had been exchanged, while `granary bench` reads, writes and asks (mixed-64k, 70 % GET) through another one's gateway.
Measured with the default throttle (`repair_bytes_per_sec` and `repair_bytes_per_sec_beside_clients`) and without one,
each with clients and without; beside them what clients get while nothing is repaired, and what one stream of writes
gets out of the disk, which all three nodes share.
"""
import argparse
import functools
import json
import operator
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "tests"))
# pylint: disable=wrong-import-position
from failover import write_report  # noqa: E402
from harness.cluster import GATEWAY_PORT, Cluster, Spec  # noqa: E402
from origin import origin  # noqa: E402

MIB = 1 << 20
UNTHROTTLED = 1 << 40
REPAIR_DEADLINE_S, RUN_DEADLINE_S = 1800, 600
ASK_EVERY_S = 2


# Pauses before an exchanged disk is repaired are short, all else is as in a real node.
SETTINGS = """
[storage]
min_free_percent = 1
[meta]
shards = 4
[workers]
missing_out_secs = 3
replace_after_secs = 1
count_interval_secs = 60
"""


def settings(throttle):
    """node.toml's sections."""
    if throttle is None:
        return SETTINGS
    both = SETTINGS.replace("[storage]\n", f"[storage]\nrepair_bytes_per_sec_beside_clients = {throttle}\n")
    return f"{both}[datapath]\nrepair_bytes_per_sec = {throttle}\n"


class Bench:
    """`granary bench` against one gateway."""

    def __init__(self, binary, cluster, place):
        self.binary, self.cluster, self.place = binary, cluster, place

    def start(self, workload, seconds, connections):
        """Begins a run; its JSON stands in the file that is returned with the process."""
        out = os.path.join(self.place, "bench.json")
        if os.path.exists(out):
            # A run that fails must not be taken for the one before.
            os.remove(out)
        env = dict(os.environ, OSS_ACCESS_KEY_ID=self.cluster.credentials.key_id, OSS_ACCESS_KEY_SECRET=self.cluster.credentials.secret)
        line = [self.binary, "bench", "--endpoint", f"http://{self.cluster['z1a'].machine.address}:{GATEWAY_PORT}", "--bucket", "repair",
                "--region", self.cluster.credentials.region, "--connections", str(connections), "--seconds", str(seconds), "--json", out, workload]
        return subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL), out

    def run(self, workload, seconds, connections):
        """The figures of a whole run."""
        return figures_of(*self.start(workload, seconds, connections))


def figures_of(process, out):
    """What a run has found, once it is over; one with failed requests is an error."""
    try:
        code = process.wait(RUN_DEADLINE_S)
    finally:
        process.kill()
    if code != 0:
        raise RuntimeError(f"granary bench ended with {code}")
    with open(out, encoding="utf-8") as found:
        return json.load(found)["workloads"][0]


def fill(cluster, gib):
    """Stores so many GiB, whose copies are on every disk; returns the bytes."""
    wire, body = cluster.wire("z1a", timeout_s=120), os.urandom(16 * MIB)
    for n in range(gib * 64):
        # Different bytes for each, though nothing here looks at them.
        wire.put("repair", f"ballast/{n:06}", n.to_bytes(8, "big") + body[8:])
    return gib * 64 * 16 * MIB


def lose_disk(cluster):
    """The disk of one node is exchanged for an empty one; returns when the node is up again."""
    cluster.stop("z3a")
    for directory in cluster["z3a"].data_dirs:
        cluster.wipe(directory)
    cluster.start("z3a")


def lacking(cluster):
    """How many groups lack a complete member, and how many are being filled; None when nobody can say."""
    status = cluster.status()
    if not status:
        return None
    groups = status["groups"]
    return groups["degraded"] + groups["backfilling"] + groups["unavailable"], groups["backfilling"]


def repair(cluster, bench, args, clients):
    """Loses a disk and waits until everything is whole; the seconds that filling took, and what clients got meanwhile."""
    lose_disk(cluster)
    began, figures, process, out = None, [], None, None
    end = time.monotonic() + REPAIR_DEADLINE_S
    while True:
        now, state = time.monotonic(), lacking(cluster)
        if state and state[1] and began is None:
            began = now
        if began is not None and state and state[0] == 0:
            break
        if now > end:
            if process is not None:
                process.kill()
            raise RuntimeError("the repair does not come to an end")
        if clients and began is not None and (process is None or process.poll() is not None):
            if process is not None:
                figures.append(figures_of(process, out))
            process, out = bench.start("mixed-64k", args.seconds, args.connections)
        # Asking takes processor time that clients would have.
        time.sleep(0.2 if began is None else ASK_EVERY_S)
    seconds = time.monotonic() - began
    if process is not None:
        # The last run saw an end of the repair, and counts only when it is the only one.
        last = figures_of(process, out)
        figures = figures or [last]
    cluster.wait_whole()
    return seconds, figures


def measure(args, place, throttle, say):
    """One cluster with one throttle."""
    report = {}
    specs = [Spec(f"z{n}a", f"z{n}") for n in (1, 2, 3)]
    with Cluster(os.path.join(place, "cluster"), program=[os.path.abspath(args.binary)], specs=specs, settings=settings(throttle)) as cluster:
        cluster.form()
        cluster.wire("z1a").must("PUT", "repair")
        stored = fill(cluster, args.gib)
        bench = Bench(os.path.abspath(args.binary), cluster, place)
        name = "default" if throttle is None else "none"
        report["before"] = bench.run("mixed-64k", args.seconds, args.connections)
        for clients in (False, True):
            seconds, figures = repair(cluster, bench, args, clients)
            row = report["with clients" if clients else "alone"] = {"seconds": seconds, "mib_per_sec": stored / MIB / seconds, "clients": figures}
            seen = f"{median(figures, 'requests_per_second'):.0f} | {median(figures, 'latency_ms', 'p50'):.1f} | {median(figures, 'latency_ms', 'p99'):.1f}" if figures else "| |"
            say(f"| {name} | {'yes' if clients else 'no'} | {seconds:.1f} | {row['mib_per_sec']:.0f} | {seen} |")
        before = [report["before"]]
        say(f"| {name} | no repair | | | {median(before, 'requests_per_second'):.0f} | {median(before, 'latency_ms', 'p50'):.1f} | {median(before, 'latency_ms', 'p99'):.1f} |")
    return report


def median(figures, *names):
    """The median run's number."""
    return statistics.median(functools.reduce(operator.getitem, names, found) for found in figures)


def disk_mib_per_sec(place):
    """What one stream of 4 MiB blocks with an fdatasync for every 64 MiB gets written here."""
    path, block, blocks = os.path.join(place, "stream"), os.urandom(4 * MIB), 512
    began = time.monotonic()
    with open(path, "wb", buffering=0) as out:
        for n in range(blocks):
            out.write(block)
            if n % 16 == 15:
                os.fdatasync(out.fileno())
    seconds = time.monotonic() - began
    os.remove(path)
    return blocks * 4 / seconds


def main():
    """Both throttles, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--out")
    parser.add_argument("--json")
    args = parser.parse_args()
    lines, report = [], {"origin": origin("repair")}

    def say(line):
        lines.append(line)
        print(line, flush=True)

    say("| throttle | clients | seconds | MiB/s | requests/s | p50 ms | p99 ms |")
    say("|---|---|---|---|---|---|---|")
    for throttle in (None, UNTHROTTLED):
        place = tempfile.mkdtemp(prefix="granary-repair-", dir=args.place)
        try:
            disk = report["disk_mib_per_sec"] = disk_mib_per_sec(place)
            report["default" if throttle is None else "none"] = measure(args, place, throttle, say)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    say(f"\n{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {args.gib} GiB per disk, {args.connections} connections; one stream writes {disk:.0f} MiB/s here")
    write_report(args, lines, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
