#!/usr/bin/env python3
"""Granary beside a bare HTTP server and, when installed, garage: same requests, same run, in turn.

    bench/compare.py --binaries target/release [--work put-4k,get-4k,...] [--connections 32]
                     [--seconds 5] [--rounds 3] [--disks 1] [--place DIR] [--out FILE.md] [--json FILE]

The targets take turns (A B C A B C ...), so that a noisy machine hurts all alike: read the ratios of
medians, not the figures. A ratio above 1 says Granary is faster. CPU is the server process's own time
per request, which noise disturbs least. Needs python3 and wrk.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

from targets import start_bare, start_garage, start_granary

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"1k": 1 << 10, "4k": 4 << 10, "16k": 16 << 10, "64k": 64 << 10, "256k": 256 << 10,
         "1m": 1 << 20, "4m": 4 << 20, "16m": 16 << 20, "64m": 64 << 20}
# No HEAD: wrk waits for the body that the length of the answer announces.
WORK = "put-4k,get-4k,put-64k,get-64k,put-1m,get-1m,put-16m,get-16m"


def measure(target, method, keys, size, connections, seconds):
    """One run of wrk; its result with the server's CPU time added."""
    with tempfile.NamedTemporaryFile("w", suffix=".paths") as paths:
        paths.write("\n".join(target.sign(method, key) for key in keys) + "\n")
        paths.flush()
        env = dict(os.environ, PATHS=paths.name, METHOD=method, BODY_BYTES=str(size))
        before = target.cpu_seconds()
        done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
                               "-s", os.path.join(HERE, "load.lua"), target.base],
                              env=env, capture_output=True, text=True, check=False)
        used = target.cpu_seconds() - before
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return {**json.loads(line[7:]), "cpu_seconds": used}
    raise RuntimeError(f"wrk gave no result for {target.name}:\n{done.stdout}{done.stderr}")


def keys_for(method, size_name, size, keys):
    """The keys one work goes round: many for writes, as many as fit a cache for reads."""
    if method == "PUT":
        count = max(16, min(keys, (2 << 30) // size))
    else:
        count = max(8, min(keys, 500, (128 << 20) // size))
    return [f"{size_name}/{'r' if method != 'PUT' else 'w'}/{n:06d}" for n in range(count)]


def rows_of(work, targets, args, report):
    """Measures one work on all targets; yields table rows."""
    verb, size_name = work.split("-")
    size, method = SIZES[size_name], verb.upper()
    connections = max(2, min(args.connections, (256 << 20) // max(size, 1 << 20)))
    keys = keys_for(method, size_name, size, args.keys)
    if method != "PUT":
        body = os.urandom(size)
        for target in targets:
            for key in keys:
                target.put(key, body)
    runs = {target.name: [] for target in targets}
    for _ in range(args.rounds):
        for target in targets:
            runs[target.name].append(measure(target, method, keys, size, connections, args.seconds))
    report[work] = runs
    first = None
    for target in targets:
        mine = runs[target.name]
        rate = statistics.median((run["requests"] - run["failed"]) / run["seconds"] for run in mine)
        first = rate if first is None else first
        requests = sum(run["requests"] for run in mine)
        yield [work, target.name, f"{rate:.0f}", f"{rate * size / 1e6:.1f}" if method != "HEAD" else "-",
               f"{statistics.median(run['p50_ms'] for run in mine):.2f}", f"{statistics.median(run['p99_ms'] for run in mine):.2f}",
               f"{sum(run['cpu_seconds'] for run in mine) / max(requests, 1) * 1e6:.0f}",
               str(sum(run["failed"] + run["socket_errors"] for run in mine)),
               "" if target is targets[0] else f"{first / max(rate, 1e-9):.2f}"]


def main():
    """Starts the targets, measures, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--work", default=WORK)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=4000)
    parser.add_argument("--disks", type=int, default=1)
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--out")
    parser.add_argument("--json")
    args = parser.parse_args()
    place = tempfile.mkdtemp(prefix="granary-bench-", dir=args.place)
    head = ["work", "target", "req/s", "MB/s", "p50 ms", "p99 ms", "CPU µs/req", "failed", "ratio"]
    widths = [8, 11, 8, 8, 8, 8, 10, 6, 6]
    lines, report, targets = [], {}, []

    def say(cells):
        line = "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
        lines.append(line)
        print(line, flush=True)

    try:
        for start in (lambda p, b: start_granary(p, b, args.disks), start_garage, start_bare):
            target = start(os.path.join(place, str(len(targets))), args.binaries)
            if target is not None:
                targets.append(target)
        if len(targets) == 2:
            print("garage is not installed: compared with the bare server only\n")
        say(head)
        say(["-" * width for width in widths])
        for work in args.work.split(","):
            for row in rows_of(work, targets, args, report):
                say(row)
        about = (f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {args.connections} connections, "
                 f"{args.rounds} rounds of {args.seconds} s; peak memory: "
                 + ", ".join(f"{target.name} {target.peak_mebibytes()} MiB" for target in targets))
        lines.append("\n" + about)
        print("\n" + about)
    finally:
        for target in targets:
            target.stop()
        shutil.rmtree(place, ignore_errors=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
