#!/usr/bin/env python3
"""Granary beside a bare HTTP server, a raw writer and, when installed, garage: same requests, same run, in turn.

    bench/compare.py --binaries target/release [--work put-4k,get-4k,...] [--connections 32] [--seconds 5] [--rounds 3]
                     [--one-work put-4k,...] [--many-keys 1000000] [--garage off,on] [--signature v4] [--disks 1]
                     [--place DIR] [--out FILE.md] [--json FILE]

The targets take turns (A B C, B C A, C A B, ...), so that a noisy machine hurts all alike: read the ratios
of medians, not the figures. A ratio above 1 says Granary is faster. CPU is the server process's own time
per request, which noise disturbs least. docs/performance.md says what the tables mean. Needs python3 and wrk.
"""
import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

import requirements
import wrk
from origin import origin
from targets import GARAGE, SIGNATURES, SIZES, RawWriter, files_bytes, start_bare, start_garage, start_granary

# No HEAD: wrk waits for the body that the length of the answer announces.
WORK = "put-4k,get-4k,put-64k,get-64k,put-1m,get-1m,put-16m,get-16m,get-4k-uniform"
ONE_WORK = "put-4k,get-4k,put-64k,get-64k"
HEAD = ["work", "target", "req/s", "MB/s", "p50 ms", "p99 ms", "p99/p50", "CPU µs/req", "failed", "ratio"]
# What the requests of all connections, or the blocks of all threads, take in memory at most.
FLIGHT_BYTES = 64 << 20
WARM_UP_S = 1
DROP_CACHES = "/proc/sys/vm/drop_caches"
FREE_BYTES_MIN = 4 << 30


def at_once(wanted, size):
    """How many requests of a size run at once."""
    return max(min(wanted, 2), min(wanted, FLIGHT_BYTES // max(size, 1 << 20)))


def in_turn(targets, number):
    """The order of a round: each begins with the next one, so that none always comes after the same other."""
    first = number % len(targets)
    return targets[first:] + targets[:first]


def md5_megabytes():
    """What one core of this machine digests with MD5, in MB/s; None without openssl."""
    try:
        done = subprocess.run(["openssl", "speed", "-mr", "-seconds", "1", "-bytes", "16384", "-evp", "md5"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    found = re.search(r"^\+F:\d+:md5:([\d.]+)", done.stdout, re.M | re.I)
    return float(found.group(1)) / 1e6 if found else None


def drop_caches():
    """Empties the kernel's caches of files; False where that is not permitted."""
    os.sync()
    try:
        with open(DROP_CACHES, "w", encoding="ascii") as handle:
            handle.write("3")
    except OSError:
        return False
    return True


def turn(target, load):
    """One run, of the raw writer in the terms of a run of wrk."""
    if isinstance(target, RawWriter):
        return target.measure(load.size, load.connections, load.seconds)
    return wrk.measure(target, load)


class Comparison:
    """One run of the tool: the targets, what was measured, and the report."""
    tool = "compare"
    # How often an acknowledged body has to be on a disk.
    copies = 1

    def __init__(self, args):
        self.args, self.place, self.targets, self.lines = args, tempfile.mkdtemp(prefix="granary-bench-", dir=args.place), [], []
        self.random, self.md5, self.cold, self.notes = random.Random(args.seed), [], None, []
        self.report = {"origin": origin(self.tool), "many": {}, "one": {}, "bytes": {}}

    def start(self):
        """Starts the servers; Granary is the first one."""
        self.targets.append(start_granary(self.under("granary"), self.args.binaries, self.args.disks, self.args.signature))
        self.start_garages()
        self.targets += [start_bare(self.place, self.args.binaries), RawWriter(self.place, self.args.binaries)]

    def under(self, name):
        """Where a target has its data."""
        return os.path.join(self.place, name)

    def start_garages(self, nodes=1):
        """Starts garage in each of the ways asked for, where it is installed."""
        for durable in filter(None, self.args.garage.split(",")):
            target = start_garage(self.under(f"garage-{durable}"), durable, nodes)
            if target is None:
                self.notes.append("garage was not installed")
                break
            self.targets.append(target)
            version = subprocess.run(["garage", "--version"], capture_output=True, text=True, check=False).stdout
            self.notes.append(version.partition("[")[0].strip())

    def stop(self):
        """Ends the servers and removes what they kept."""
        with contextlib.ExitStack() as ending:
            ending.callback(shutil.rmtree, self.place, ignore_errors=True)
            for target in self.targets:
                if not isinstance(target, RawWriter):
                    ending.callback(target.stop)

    def write(self, out, runs):
        """Writes the report, and all runs, to these files."""
        if out:
            out.write("\n".join(self.lines) + "\n")
        if runs:
            json.dump(self.report, runs, indent=1)

    def say(self, line):
        """A line of the report."""
        self.lines.append(line)
        print(line, flush=True)

    def table(self, head, rows):
        """A table of the report, row by row as they come; cells are aligned for whoever reads it on a terminal."""
        def cells(row):
            return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |"

        widths = [max(len(name), 8) for name in head]
        if isinstance(rows, list):
            widths = [max(width, *(len(str(row[n])) for row in rows)) for n, width in enumerate(widths)]
        elif len(head) == len(HEAD):
            widths[:2] = [14, 14]
        self.say(cells(head))
        self.say(cells(["-" * width for width in widths]))
        for row in rows:
            self.say(cells(row))
        self.say("")

    def room(self):
        """Says so before a disk is full: a benchmark of a full disk is none."""
        free = shutil.disk_usage(self.place).free
        if free < FREE_BYTES_MIN:
            raise RuntimeError(f"{free >> 20} MiB are free in {self.place}: not enough to go on (--place moves the data elsewhere)")

    def of_work(self, work, report, connections):
        """Measures one work on all targets that do it; rows of the table."""
        verb, size_name, *uniform = work.split("-")
        method, size = verb.upper(), SIZES[size_name]
        targets = [target for target in self.targets if method == "PUT" or not isinstance(target, RawWriter)]
        if uniform:
            targets = [target for target in targets if target is self.targets[0] or not target.keeps or self.args.many_all]
        runs = report[work] = {target.name: [] for target in targets}
        keys = self.prepare(method, size_name, targets, uniform)
        for number in range(self.args.rounds):
            if work == "put-16m":
                self.md5.append(md5_megabytes())
            if uniform:
                asked = self.random.sample(keys, min(len(keys), self.args.many_sample))
            for target in in_turn(targets, number):
                load = wrk.Load(method, asked if uniform else keys, size, connections, self.args.seconds, bool(uniform))
                if uniform and target.keeps:
                    self.chill(target)
                runs[target.name].append(self.one_run(target, load))
                if uniform and target.keeps and runs[target.name][-1]["requests"] > len(asked):
                    self.notes.append(f"{target.name} was asked for more than {len(asked)} of the keys, some of them twice: --many-sample should be larger")
        return self.rows(work, runs, size)

    def prepare(self, method, size_name, targets, uniform):
        """Stores what will be read; the keys that the work goes round: many for writes, as many as fit a cache for reads."""
        size = SIZES[size_name]
        self.room()
        if uniform:
            keys = [f"{size_name}/u/{n:07d}" for n in range(self.args.many_keys)]
            self.random.shuffle(keys)
            for target in targets:
                if target.keeps:
                    wrk.store(target, keys, size)
                    self.settle(target, "it was given what is read")
            return keys
        if method == "PUT":
            return [f"{size_name}/w/{n:06d}" for n in range(max(16, min(self.args.keys, (2 << 30) // size)))]
        keys = [f"{size_name}/r/{n:06d}" for n in range(max(8, min(self.args.keys, 500, (128 << 20) // size)))]
        for target in targets:
            for key in keys:
                target.put(key, os.urandom(size))
            self.settle(target, "it was given what is read")
        return keys

    def chill(self, target):
        """Starts a server again, with nothing in its caches nor, where that is permitted, in the kernel's."""
        target.restart()
        self.settle(target, "its start")
        self.cold = not self.args.keep_page_cache and drop_caches()

    def one_run(self, target, load):
        """One target's turn, after a short one that warms up, unless it is to begin cold, and says how long this one has to be."""
        self.room()
        at_most = self.args.raw_threads if isinstance(target, RawWriter) and load.connections > 1 else load.connections
        load = load._replace(connections=at_once(at_most, load.size))
        if not load.cold:
            warm_up = turn(target, load._replace(seconds=WARM_UP_S))
            load = load._replace(seconds=wrk.turn_seconds(load.seconds, warm_up))
        counted = load.method == "PUT" and target is self.targets[0]
        before = files_bytes(target.place) if counted else 0
        run = turn(target, load)
        if counted:
            run["files_bytes"] = files_bytes(target.place) - before
        if load.method == "PUT":
            self.settle(target, "its PUTs")
        return run

    def settle(self, target, what):
        """What one target still works off, or left in the page cache, must not be done during the next one's turn."""
        if target.keeps and not target.settle(self.args.settle):
            self.notes.append(f"{target.name} was busy for more than {self.args.settle} s after {what}")
        os.sync()

    def rows(self, work, runs, size):
        """The rows of one work."""
        first = None
        for name, mine in runs.items():
            def median(of, mine=mine):
                return statistics.median(of(run) for run in mine)

            rate = median(lambda run: (run["requests"] - run["failed"]) / run["seconds"])
            first = rate if first is None else first
            cpu = sum(run["cpu_seconds"] for run in mine) / max(sum(run["requests"] for run in mine), 1)
            tail = ["", ""]
            if wrk.has_tail(mine):
                tail = [f"{median(lambda run: run['p99_us']) / 1e3:.2f}", f"{median(lambda run: run['p99_us'] / max(run['p50_us'], 1)):.2f}"]
            yield [work, name, f"{rate:.0f}", f"{rate * size / 1e6:.1f}", f"{median(lambda run: run['p50_us']) / 1e3:.2f}", *tail, f"{cpu * 1e6:.0f}",
                   sum(run["failed"] + run["errors"] for run in mine), "" if name == self.targets[0].name else f"{first / max(rate, 1e-9):.2f}"]

    def measure(self):
        """All tables."""
        args = self.args
        for title, works, report, connections in ((f"{args.connections} connections", args.work, self.report["many"], args.connections),
                                                  ("One connection", args.one_work, self.report["one"], 1)):
            works = [work for work in works.split(",") if work]
            if works:
                self.say(f"{title}\n")
                self.table(HEAD, (row for work in works for row in self.of_work(work, report, connections)))
        written = list(self.bytes_rows())
        if written:
            self.say("Bytes of Granary's PUTs\n")
            self.table(["work", "acknowledged MB", "written MB", "factor", "files grew MB", "factor", "accounted for"], written)
        self.say("Requirements\n")
        md5 = [rate for rate in self.md5 if rate]
        self.report["md5_mb_s"] = statistics.median(md5) if md5 else None
        self.report["requirements"] = self.required()
        self.table(["requirement", "bound", "measured", "kept"], self.report["requirements"])
        self.say(self.about())

    def required(self):
        """The rows of the requirements."""
        return requirements.check(self.report["many"], self.report["one"], self.report["md5_mb_s"])

    def bytes_rows(self):
        """For each PUT work, whether what the process wrote accounts for what it acknowledged."""
        for prefix, runs in (("", self.report["many"]), ("one connection: ", self.report["one"])):
            for work in (work for work in runs if work.startswith("put")):
                mine = runs[work][self.targets[0].name]
                answered = sum(run["requests"] - run["failed"] for run in mine) * SIZES[work.split("-")[1]]
                written, grew = sum(run["written_bytes"] for run in mine), sum(run["files_bytes"] for run in mine)
                factors = [f"{value / answered:.2f}" if answered else "-" for value in (written, grew)]
                yield [prefix + work, f"{answered / 1e6:.1f}", f"{written / 1e6:.1f}", factors[0], f"{grew / 1e6:.1f}", factors[1],
                       "yes" if written >= self.copies * answered else "NO"]

    def about(self):
        """What the figures were taken on."""
        args = self.args
        servers = [target for target in self.targets if not isinstance(target, RawWriter)]
        sentences = [f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {args.rounds} rounds of {args.seconds} s and more, seed {args.seed}, "
                     f"data directories of Granary: {args.disks}, signatures: {args.signature}",
                     "peak memory: " + ", ".join(f"{target.name} {target.peak_mebibytes()} MiB" for target in servers)]
        if self.cold is not None:
            sentences.append(f"get-4k-uniform: {args.many_keys} keys, restarted before every round, " + (
                "the kernel's caches of files dropped" if self.cold else
                "the kernel's caches of files kept" + ("" if args.keep_page_cache else f" (writing {DROP_CACHES} is not permitted)")))
        if not all(run["as_measured"] for part in ("many", "one") for runs in self.report[part].values() for mine in runs.values() for run in mine):
            sentences.append("some latencies are as wrk corrects them")
        return "; ".join(sentences + sorted(set(filter(None, self.notes))))


def arguments(doc, work, one_work, garage):
    """A parser of what every comparison understands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", required=True, help="where granary, bare_hyper and raw_writer are")
    parser.add_argument("--work", default=work, help="(%(default)s)")
    parser.add_argument("--one-work", default=one_work, help="what is measured again with one connection; empty: nothing (%(default)s)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=5, help=f"of a turn; longer, up to {wrk.TURN_S_MAX}, where answers are few (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=4000)
    parser.add_argument("--settle", type=int, default=60, help="seconds that are waited at most for a server to become idle: after PUTs and restarts (%(default)s)")
    parser.add_argument("--garage", default=garage, help=f"how garage syncs, in turn: {', '.join(GARAGE)}; empty: no garage (%(default)s)")
    parser.add_argument("--signature", choices=SIGNATURES, default=SIGNATURES[0], help="of the requests to Granary; garage's are V4 (%(default)s)")
    parser.add_argument("--disks", type=int, default=1)
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--out", help="the report goes to this file, too")
    parser.add_argument("--json", help="every run goes to this file")
    return parser


def run(kind, args):
    """Measures with a kind of comparison and writes the report."""
    with contextlib.ExitStack() as held:
        # What cannot be written is said before anything is measured.
        out, runs = (held.enter_context(open(path, "w", encoding="utf-8")) if path else None for path in (args.out, args.json))
        comparison = kind(args)
        held.callback(comparison.stop)
        try:
            comparison.start()
            comparison.measure()
        finally:
            # What was measured before a failure counts too.
            comparison.write(out, runs)
    return 0


def main():
    """Reads the arguments, measures, writes the report."""
    parser = arguments(__doc__, WORK, ONE_WORK, "off,on")
    parser.add_argument("--raw-threads", type=int, default=64)
    parser.add_argument("--many-keys", type=int, default=1000000, help="keys of get-4k-uniform")
    parser.add_argument("--many-sample", type=int, default=200000, help="how many of them a round asks for, drawn anew for each, none twice")
    parser.add_argument("--many-all", action="store_true", help="get-4k-uniform on garage too (storing the keys takes it long)")
    parser.add_argument("--keep-page-cache", action="store_true", help="get-4k-uniform without dropping the kernel's caches")
    return run(Comparison, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
