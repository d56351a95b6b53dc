#!/usr/bin/env python3
"""Instructions that `granary server` needs per request, counted with callgrind, and whether they are still those on record.

    bench/instructions.py --binaries target/release [--work put-4k,get-4k,head,list-1000] [--rounds 5] [--scale 1]
                          [--check | --record | --scaling] [--seed N] [--place DIR] [--out FILE.md] [--json FILE]

The whole process is counted until it is idle again after the last answer. What it does in as much time when nobody asks is
subtracted. So is what RocksDB does in the background (it flushes and compacts), which a put brings about but which comes in lumps
larger than a round: it has a column of its own, of all rounds together. --check fails when the median of a work differs by more
than 10 % from bench/instructions.json, in either direction; --record writes the medians there. Other processors, valgrinds,
compilers and C libraries have other counts.

Requests carry V4 signatures in the URL and come over 16 connections, each with one request at a time, so that commits can share
a group and threads hand work to each other as they do in service. Valgrind runs one thread at a time, with two threads for
tasks (TOKIO_WORKER_THREADS), whatever the machine has. --scale multiplies the requests of a round.

--scaling compares put-4k and get-4k of one server with 1 and with 4 shards, and of a cluster through 1 and through 3 gateways. The
cluster has three processes with metadata and disks and three gateways, all under callgrind; the sum of the six is the figure. Keys lie
in 16 buckets, which are spread evenly over the shards.
"""
import argparse
import http.client
import json
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import callgrind
from targets import SIZES, Oss, start_granary

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness.cluster import GATEWAY_PORT, SETTINGS, Cluster, Spec  # noqa: E402

RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instructions.json")
# Requests of a round.
REQUESTS = {"put-4k": 1000, "get-4k": 2000, "head": 2000, "list-1000": 64}
CONNECTIONS, TASK_THREADS = 16, 2
SIZE, READ_KEYS, LISTED_KEYS, PAGE_KEYS = SIZES["4k"], 500, 5000, 1000
TOLERANCE, SPREAD_WANTED = 0.10, 0.03
SCALED, BUCKETS = ("put-4k", "get-4k"), 16
# What is compared: from, to, and how much more the second may need.
STEPS = (("1 shard", "4 shards", 1.3), ("1 gateway", "3 gateways", 1.1))
# Nodes under callgrind are late. No deletions, sweeps and counts of the workers within a run, and no repair of what is only late.
SLOW_CLUSTER = SETTINGS.replace("backup = false", "backup = false\nelection_timeout_ms = 30000\nheartbeat_ms = 300") \
    .replace("deletion_interval_secs = 1", "deletion_interval_secs = 3600").replace("sweep_interval_secs = 5", "sweep_interval_secs = 3600") \
    .replace("unreachable_out_secs = 45", "unreachable_out_secs = 3600").replace("missing_out_secs = 3", "missing_out_secs = 3600")
# What RocksDB's background threads call.
BACKGROUND = re.compile(r"^rocksdb::DBImpl::BGWork\w+\(")
IDLE_S, SETTLE_S, ANSWER_S = 10, 30, 120


class Connection:
    """A connection that is kept; a request leaves in one piece."""

    def __init__(self, address):
        self.address = address
        self.socket = socket.create_connection(address, ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, body=b""):
        """The body of an answer that has to be a 200."""
        length = f"Content-Length: {len(body)}\r\n" if method == "PUT" else ""
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: {self.address[0]}:{self.address[1]}\r\n{length}\r\n".encode() + body)
        answer = http.client.HTTPResponse(self.socket, method=method)
        answer.begin()
        content = answer.read()
        if answer.status != 200 or answer.will_close:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return content


class Clients:
    """Connections that send a list of requests together, each the next one when it has its answer. Request n leaves on connection n, of all."""

    def __init__(self, addresses):
        self.addresses, self.connections = addresses, []
        self.connect()

    def connect(self):
        """New connections: a server ends one that says nothing for long, as between two rounds."""
        for connection in self.connections:
            connection.socket.close()
        self.connections = [Connection(self.addresses[n % len(self.addresses)]) for n in range(CONNECTIONS)]

    def send(self, requests):
        """Sends [(method, path, body), ...]; returns the number of bytes of all answers' bodies."""
        sizes, failures = [0] * len(self.connections), []

        def run(at):
            try:
                for request in requests[at::len(self.connections)]:
                    sizes[at] += len(self.connections[at].ask(*request))
            except (OSError, http.client.HTTPException, RuntimeError) as failure:
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(at,)) for at in range(len(self.connections))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(f"{len(failures)} connections failed, first: {failures[0]!r}")
        return sum(sizes)


class Requests:
    """Makes the requests of a work; keys go round the buckets."""

    def __init__(self, target, seed, buckets=("bench",)):
        self.target, self.buckets, self.random, self.written = target, buckets, random.Random(seed), 0

    def prepare(self, clients, listed=True):
        """Stores what is read and, where wanted, what is listed."""
        for bucket in [*self.buckets, *["listed"] * listed]:
            clients.connections[0].ask("PUT", self.target.sign_in(bucket, "PUT", ""))
        clients.send([self.put(self.read(n)) for n in range(READ_KEYS)])
        clients.send([("PUT", self.target.sign_in("listed", "PUT", self.listed(n)), b"x") for n in range(LISTED_KEYS * listed)])

    @staticmethod
    def listed(number):
        """A key of the bucket that is listed."""
        return f"directory/{number:06d}"

    def read(self, number):
        """Bucket and key of an object that is read."""
        return self.buckets[number % len(self.buckets)], f"r/{number:06d}"

    def put(self, place):
        """A PUT with a body of its own."""
        return "PUT", self.target.sign_in(place[0], "PUT", place[1]), self.random.randbytes(SIZE)

    def make(self, work, count):
        """So many requests; and how many bytes the bodies of their answers have, None where that is not known."""
        if work == "put-4k":
            self.written += count
            numbers = range(self.written - count, self.written)
            return [self.put((self.buckets[n % len(self.buckets)], f"w/{n:09d}")) for n in numbers], 0
        if work == "list-1000":
            pages = [[("list-type", "2"), ("max-keys", str(PAGE_KEYS)), ("start-after", self.listed(self.random.randrange(LISTED_KEYS - PAGE_KEYS)))]
                     for _ in range(count)]
            return [("GET", self.target.sign_in("listed", "GET", "", sorted(page))) for page in pages], None
        method = {"get-4k": "GET", "head": "HEAD"}[work]
        places = [self.read(self.random.randrange(READ_KEYS)) for _ in range(count)]
        return [(method, self.target.sign_in(bucket, method, key)) for bucket, key in places], count * SIZE if method == "GET" else 0


def measure(counts, clients, requests, deferred):
    """One round: `requests` as `Requests.make` gives them, which leave work for later or not. Instructions per request, without those of an
    idle server."""
    sent, wanted = requests
    clients.connect()
    counts.begin()
    began = time.monotonic()
    got = clients.send(sent)
    answered = time.monotonic()
    settled = not deferred or counts.settle(SETTLE_S)
    counted, background, idle = counts.end()
    if wanted is not None and got != wanted:
        raise RuntimeError(f"the answers have {got} bytes, not {wanted}")
    if wanted is None and got < len(sent) * PAGE_KEYS * len(Requests.listed(0)):
        raise RuntimeError(f"the pages have {got} bytes only")
    return {"requests": len(sent), "seconds": answered - began, "settled": settled, "counted": counted, "background": background, "idle": idle,
            "per_request": (counted - background - idle) / len(sent)}


def rounds_of(counts, requests, ways, args):
    """{way: {work: [round, ...]}} of several ways to send {way: clients}, in turn; and instructions per second when idle."""
    counts.switch_on()
    works = args.work
    # Code that runs for the first time loads what it needs, and caches are filled; that is no work of a request.
    for clients in ways.values():
        clients.connect()
        for work in works:
            clients.send(requests.make(work, CONNECTIONS * 4)[0])
    found, idle_rates = {way: {work: [] for work in works} for way in ways}, []
    # Writes come last: what they leave makes reads dearer, round by round.
    for work in sorted(works, key=lambda work: work.startswith("put")):
        idle_rates.append(counts.idle(IDLE_S))
        for number in range(args.rounds):
            for way, clients in ways.items():
                made = requests.make(work, max(CONNECTIONS, int(REQUESTS[work] * args.scale)))
                one = measure(counts, clients, made, work.startswith("put"))
                found[way][work].append(one)
                print(f"{way}, {work}, round {number + 1}: {one['per_request']:,.0f} ({one['seconds']:.1f} s)", file=sys.stderr, flush=True)
    return found, statistics.median(idle_rates)


def run(place, args, way="one server", settings="", buckets=("bench",)):
    """{way: {work: [round, ...]}} of one server with these settings, and instructions per second when idle."""
    dumps, config = os.path.join(place, "callgrind"), os.path.join(place, "settings.toml")
    os.makedirs(place, exist_ok=True)
    with open(config, "w", encoding="ascii") as out:
        out.write(settings)
    target = start_granary(os.path.join(place, "granary"), args.binaries, under=callgrind.command(dumps),
                           env={"TOKIO_WORKER_THREADS": str(TASK_THREADS), "GRANARY_CONFIG": config})
    try:
        clients, requests = Clients([("127.0.0.1", target.port)]), Requests(target, args.seed, buckets)
        # The same database whatever is asked of it: how much it holds tells in every count.
        requests.prepare(clients, not args.scaling)
        return rounds_of(callgrind.Counts({target.pid: dumps}, BACKGROUND), requests, {way: clients}, args)
    finally:
        target.stop()


def run_cluster(place, args, buckets):
    """The same of a cluster, through one gateway and through all."""
    specs = [Spec(f"z{n}m", f"z{n}", ("meta", "storage", "worker")) for n in (1, 2, 3)] + [Spec(f"z{n}g", f"z{n}", ("gateway",)) for n in (1, 2, 3)]
    program = [os.path.join(os.path.abspath(args.binaries), "granary")]
    with Cluster(place, specs, settings=SLOW_CLUSTER, program=program) as cluster:
        # Formed at full speed, then started again under callgrind.
        cluster.form()
        cluster.stop(*cluster.nodes)
        for name, node in cluster.nodes.items():
            node.program, node.env = [*callgrind.command(os.path.join(place, name)), *program], {"TOKIO_WORKER_THREADS": str(TASK_THREADS)}
        cluster.start(*cluster.nodes)
        cluster.wait_whole()
        target = Oss("cluster", GATEWAY_PORT, place, "v4")
        target.access_key, target.secret, target.region = cluster.credentials.key_id, cluster.credentials.secret, cluster.credentials.region
        gateways = [(cluster[name].machine.address, GATEWAY_PORT) for name in cluster.some(role="gateway")]
        ways, requests = {"1 gateway": Clients(gateways[:1]), "3 gateways": Clients(gateways)}, Requests(target, args.seed, buckets)
        requests.prepare(ways["3 gateways"], False)
        counts = callgrind.Counts({node.process.pid: os.path.join(place, name) for name, node in cluster.nodes.items()}, BACKGROUND)
        return rounds_of(counts, requests, ways, args)


def run_scaling(place, args):
    """{way: {work: [round, ...]}} of all STEPS, and instructions per second when idle, by way."""
    buckets, found, idle_rates = [f"scaling-{n:02d}" for n in range(BUCKETS)], {}, {}
    for way, shards in (("1 shard", 1), ("4 shards", 4)):
        rounds, idle_rates[way] = run(os.path.join(place, way.replace(" ", "-")), args, way, f"[meta]\nshards = {shards}\n", buckets)
        found.update(rounds)
    rounds, idle_rates["the cluster"] = run_cluster(os.path.join(place, "cluster"), args, buckets)
    return {**found, **rounds}, idle_rates


def scaling_table(found):
    """The report's lines."""
    lines = ["| way | work | requests a round | instructions per request | spread | flushes and compactions | idle |",
             "|---|---|---|---|---|---|---|"]
    for way, works in found.items():
        for work, rounds in works.items():
            lines.append(f"| {way} | {work} | {rounds[0]['requests']} | {median(rounds):,.0f} | {spread(rounds):.1%} "
                         f"| {background_of(rounds):,.0f} | {idle_of(rounds):.1%} |")
    lines.append("")
    for before, after, bound in STEPS:
        for work in SCALED:
            times = median(found[after][work]) / median(found[before][work])
            lines.append(f"required: {work}, from {before} to {after} at most {bound} times the instructions, measured: {times:.2f}, "
                         f"reached: {'yes' if times <= bound else 'NO'}")
    return lines


def median(rounds):
    """Instructions per request."""
    return statistics.median(one["per_request"] for one in rounds)


def spread(rounds):
    """How far the rounds are apart, as a share of the median."""
    values = [one["per_request"] for one in rounds]
    return (max(values) - min(values)) / median(rounds)


def background_of(rounds):
    """Instructions of flushes and compactions per request, over all rounds."""
    return sum(one["background"] for one in rounds) / sum(one["requests"] for one in rounds)


def idle_of(rounds):
    """What share of all that was counted an idle server would have done too."""
    return sum(one["idle"] for one in rounds) / sum(one["counted"] for one in rounds)


def table(works, recorded):
    """The report's lines."""
    lines = ["| work | requests a round | instructions per request | least | most | spread | flushes and compactions | idle "
             "| on record | difference |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for work, rounds in works.items():
        values, known = [one["per_request"] for one in rounds], recorded.get(work)
        lines.append(f"| {work} | {rounds[0]['requests']} | {median(rounds):,.0f} | {min(values):,.0f} | {max(values):,.0f} | {spread(rounds):.1%} "
                     f"| {background_of(rounds):,.0f} | {idle_of(rounds):.1%} "
                     f"| {f'{known:,}' if known else 'nothing'} | {f'{median(rounds) / known - 1:+.1%}' if known else ''} |")
    lines.append("")
    for work, rounds in works.items():
        lines.append(f"required: rounds of {work} no further apart than {SPREAD_WANTED:.0%}, measured: {spread(rounds):.1%}, "
                     f"reached: {'yes' if spread(rounds) <= SPREAD_WANTED else 'NO'}")
        if not all(one["settled"] for one in rounds):
            lines.append(f"{work}: the server was not idle within {SETTLE_S} s after a round; what it had left to do counts for the next one")
    return lines


def differences(works, recorded):
    """What --check has to say against the figures, as sentences."""
    found = []
    for work, rounds in works.items():
        known, now = recorded.get(work), median(rounds)
        if not known:
            found.append(f"{work}: nothing is on record: --record")
        elif abs(now / known - 1) > TOLERANCE:
            word, rest = ("more", "") if now > known else ("less", ": record it with --record")
            found.append(f"{work} needs {now:,.0f} instructions per request, {abs(now / known - 1):.1%} {word} than the {known:,} on record "
                         f"(allowed are {TOLERANCE:.0%}){rest}")
    return found


def machine(args):
    """Where and how it was measured."""
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    with open("/proc/cpuinfo", encoding="utf-8") as cpus:
        model = next((line.split(":", 1)[1].strip() for line in cpus if line.startswith("model name")), platform.machine())
    return f"{model}, Linux {platform.release()}, {' '.join(platform.libc_ver())}, {valgrind}; {args.rounds} rounds, "\
           f"{CONNECTIONS} connections, seed {args.seed}"


def repeat():
    """The command line."""
    return " ".join(["bench/instructions.py", *sys.argv[1:]])


def write_report(args, lines, report):
    """The lines to standard output and --out, everything to --json."""
    print("\n".join(lines), flush=True)
    for path, text in ((args.out, "\n".join(lines) + "\n"), (args.json, json.dumps(report, indent=1) + "\n")):
        if path:
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)


def parse():
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", required=True, help="directory of the program")
    parser.add_argument("--work", default=",".join(REQUESTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    outcome = parser.add_mutually_exclusive_group()
    outcome.add_argument("--check", action="store_true")
    outcome.add_argument("--record", action="store_true")
    outcome.add_argument("--scaling", action="store_true")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--out")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.work = list(SCALED) if args.scaling else args.work.split(",")
    unknown = [work for work in args.work if work not in REQUESTS]
    if unknown:
        parser.error(f"no such work: {', '.join(unknown)}; there are {', '.join(REQUESTS)}")
    return args


def main():
    """Measures, writes the table, compares or records."""
    args = parse()
    place = tempfile.mkdtemp(prefix="granary-instructions-", dir=args.place)
    try:
        found, idle_rates = run_scaling(place, args) if args.scaling else run(place, args)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report = {"machine": machine(args), "seed": args.seed, "idle_per_second": idle_rates, "rounds": found}
    where = [f"\n{machine(args)}. Repeat: `{repeat()}`"]
    if args.scaling:
        write_report(args, ["# Instructions per request with more shards and gateways\n", *scaling_table(found), *where], report)
        return 0
    works, recorded = found["one server"], {}
    if os.path.exists(RECORD):
        with open(RECORD, encoding="ascii") as file:
            recorded = json.load(file)
    write_report(args, ["# Instructions per request\n", *table(works, recorded), *where], report)
    if args.record:
        with open(RECORD, "w", encoding="ascii") as file:
            json.dump({**recorded, **{work: round(median(rounds)) for work, rounds in works.items()}}, file, indent=2)
            file.write("\n")
    wrong = differences(works, recorded) if args.check else []
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
