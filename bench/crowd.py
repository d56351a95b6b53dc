#!/usr/bin/env python3
"""How much memory a server takes for a crowd of slow clients, for many large transfers at once and for one very large object.

    bench/crowd.py --binaries target/release [--parts slow,many,big] [--big 50] [--place DIR] [--out FILE.md] [--json FILE] [--quick]

- slow: --slow connections upload --slow-kib each, evenly over --slow-seconds;
- many: --many transfers of --many-mib run at once, up and then down;
- big: one object of --big GiB is uploaded in parts over --big-connections and read back over one.

The server is started again before each and waits until it is idle. Resident memory is what the kernel says (VmHWM), set back before.
Every byte that is read is compared with what was sent, of slow uploads the ETag with its MD5. An answer other than 200, a lost
connection and a wrong byte are errors.

--quick is for a look whether the tool works.
"""
import argparse
import asyncio
import concurrent.futures
import contextlib
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, namedtuple

import requirements
from raw_client import PIECE_BYTES, Connection, field
from report import Report, read_arguments
from targets import start_granary

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness.server import metrics_of  # noqa: E402
from harness.wire import Wire  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
MEMORY_MAX = 512 * MIB
# No part begins where a block does, so that no two parts are the same.
BLOCK_BYTES, PART_BYTES = 16 * MIB - 4093, 64 * MIB
# A node's default: slower uploads are cut off.
BODY_RATE_MIN = 1024
SETTLE_S, TIMEOUT_S, ASK_EVERY_S = 60, 300, 0.5
# Files for logs, and room a disk must keep.
ROOM_BYTES = 4 * GIB
HEAD = ["", "connections", "requests at once", "MiB", "seconds", "MB/s", "memory before MiB", "peak MiB", "KiB per connection", "errors"]
QUICK = {"slow": 100, "slow_seconds": 5, "many": 4, "many_mib": 16, "big": 0.25}

# What was sent or read by a part as it should be, over how many connections, and what went wrong how often.
Moved = namedtuple("Moved", "connections size errors")


class Content:
    """What objects are made of: one block of random bytes, from another place on for each object. Nothing is copied."""

    def __init__(self, seed):
        block = random.Random(seed).randbytes(BLOCK_BYTES)
        self.twice = memoryview(block + block)

    def piece(self, number, offset, size):
        """So many bytes of an object, a block at most."""
        start = (number * 7919 + offset) % BLOCK_BYTES
        return self.twice[start:start + size]

    def pieces(self, number, size, piece_bytes=MIB, offset=0):
        """A range of an object, piece by piece."""
        for at in range(offset, offset + size, piece_bytes):
            yield self.piece(number, at, min(piece_bytes, offset + size - at))


class Watch(threading.Thread):
    """Asks the server how many requests it has at once, now and then."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.stopping, self.most = target, threading.Event(), 0

    def run(self):
        while not self.stopping.wait(ASK_EVERY_S):
            # One that is too busy to be asked says it the next time.
            with contextlib.suppress(OSError):
                self.most = max(self.most, int(metrics_of(self.target.admin).get("granary_gateway_in_flight", 0)))


def failure(status, content):
    """What an answer that is not good says."""
    code = content.partition(b"<Code>")[2].partition(b"</Code>")[0].decode(errors="replace")
    return f"{status} {code}".strip()


async def upload_slowly(target, content, number, size, seconds):
    """One slow upload; what went wrong, None if nothing did."""
    path, body = target.sign("PUT", f"slow/{number}"), content.piece(number, 0, size)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nContent-Length: {size}\r\n\r\n".encode())
        began, each = time.monotonic(), -(-size // seconds)
        for second in range(seconds):
            # By the clock, so that a late piece makes none of the others late.
            await asyncio.sleep(max(0, began + second - time.monotonic()))
            writer.write(body[second * each:(second + 1) * each])
            await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
        status = int(head[9:12])
        if status != 200:
            return failure(status, await reader.read(4096))
        etag = (field(head, b"etag") or b"").decode().strip('"')
        return None if etag == hashlib.md5(body).hexdigest() else f"a wrong ETag: {etag}"
    finally:
        writer.close()


def slow(target, content, args):
    """Slow uploads, all at once."""
    async def one(number):
        # Not all in the same moment: they send once a second each.
        await asyncio.sleep(number / args.slow)
        try:
            return await upload_slowly(target, content, number, args.slow_kib << 10, args.slow_seconds)
        except (OSError, EOFError, asyncio.TimeoutError) as lost:
            return type(lost).__name__

    async def every():
        return await asyncio.gather(*(one(number) for number in range(args.slow)))

    found = asyncio.run(every())
    return Moved(args.slow, (args.slow_kib << 10) * sum(error is None for error in found), Counter(error for error in found if error))


def at_once(count, transfer):
    """Runs transfer(number) in so many threads; what went wrong."""
    def one(number):
        try:
            return transfer(number)
        except (OSError, ValueError) as lost:
            return f"{type(lost).__name__}: {lost}"

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return Counter(error for error in pool.map(one, range(count)) if error)


def send(connection, path, size, pieces):
    """A PUT; returns (what went wrong or None, head of the answer)."""
    connection.socket.sendall(f"PUT {path} HTTP/1.1\r\nHost: {connection.host}\r\nContent-Length: {size}\r\n\r\n".encode())
    for piece in pieces:
        connection.socket.sendall(piece)
    status, head, said = connection.answer()
    return (None if status == 200 else failure(status, said)), head


def receive(connection, path, size, wanted):
    """A GET whose body has to be the pieces `wanted`, none longer than PIECE_BYTES; what went wrong, None if nothing did."""
    connection.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {connection.host}\r\n\r\n".encode())
    status, head = connection.head()
    length = int(field(head, b"content-length") or 0)
    if status != 200 or length != size:
        return failure(status, connection.exactly(min(length, 4096))) if status != 200 else f"{length} bytes instead of {size}"
    at = 0
    for piece in wanted:
        got = bytearray(len(piece))
        have = len(connection.left[:len(piece)])
        got[:have], connection.left = connection.left[:have], connection.left[have:]
        view = memoryview(got)
        while have < len(piece):
            more = connection.socket.recv_into(view[have:])
            if not more:
                return f"the answer ended after {at + have} bytes"
            have += more
        if got != piece:
            return f"other bytes than were sent, from {at} on"
        at += have
    return None


def many_up(target, content, args):
    """Large uploads, all at once."""
    size = args.many_mib * MIB

    def transfer(number):
        with Connection(target.port, TIMEOUT_S) as connection:
            return send(connection, target.sign("PUT", f"many/{number}"), size, content.pieces(number, size))[0]

    errors = at_once(args.many, transfer)
    return Moved(args.many, (args.many - sum(errors.values())) * size, errors)


def many_down(target, content, args):
    """Large downloads, all at once."""
    size = args.many_mib * MIB

    def transfer(number):
        with Connection(target.port, TIMEOUT_S) as connection:
            return receive(connection, target.sign("GET", f"many/{number}"), size, content.pieces(number, size, PIECE_BYTES))

    errors = at_once(args.many, transfer)
    return Moved(args.many, (args.many - sum(errors.values())) * size, errors)


def big_bytes(args):
    """Length of the very large object."""
    return int(args.big * GIB)


def big_up(target, content, args):
    """One object in parts, over a few connections."""
    size, wire, etags = big_bytes(args), Wire("127.0.0.1", target.port, target.credentials, timeout_s=TIMEOUT_S), {}
    upload, parts = wire.initiate(target.bucket, "big"), -(-size // PART_BYTES)

    def transfer(number):
        with Connection(target.port, TIMEOUT_S) as connection:
            for part in range(number, parts, args.big_connections):
                length = min(PART_BYTES, size - part * PART_BYTES)
                path = target.sign("PUT", "big", [("partNumber", str(part + 1)), ("uploadId", upload)])
                error, head = send(connection, path, length, content.pieces(0, length, offset=part * PART_BYTES))
                if error:
                    return error
                # An ETag is in upper case, and what `field` gives is not.
                etags[part + 1] = field(head, b"etag").decode().upper()
        return None

    errors = at_once(args.big_connections, transfer)
    if not errors:
        done = wire.complete(target.bucket, "big", upload, sorted(etags.items()))
        if done.status != 200:
            errors[failure(done.status, done.body)] += 1
    return Moved(args.big_connections, 0 if errors else size, errors)


def big_down(target, content, args):
    """The same object in one answer."""
    size = big_bytes(args)

    def transfer(_):
        with Connection(target.port, TIMEOUT_S) as connection:
            return receive(connection, target.sign("GET", "big"), size, content.pieces(0, size, PIECE_BYTES))

    errors = at_once(1, transfer)
    return Moved(1, 0 if errors else size, errors)


PARTS = {"slow": (("slow uploads", slow),), "many": (("large uploads", many_up), ("large downloads", many_down)),
         "big": (("one object in parts", big_up), ("one object in one answer", big_down))}


def measure(target, what, part, content, args, report):
    """One row: a part on a server that was just started."""
    target.restart()
    target.settle(SETTLE_S)
    target.forget_memory_peak()
    before, watch, cpu = target.memory_bytes(), Watch(target), target.cpu_seconds()
    print(what, file=sys.stderr, flush=True)
    watch.start()
    began = time.monotonic()
    try:
        moved = part(target, content, args)
    finally:
        watch.stopping.set()
    seconds = time.monotonic() - began
    watch.join()
    if target.process.poll() is not None:
        raise RuntimeError(f"{what}: the server ended with {target.process.returncode}; clients saw {dict(moved.errors)}")
    peak, errors = target.memory_bytes("VmHWM"), sum(moved.errors.values())
    run = {"what": what, "connections": moved.connections, "bytes": moved.size, "seconds": seconds, "cpu_seconds": target.cpu_seconds() - cpu,
           "at_once": watch.most, "memory_before_bytes": before, "memory_peak_bytes": peak, "errors": dict(moved.errors)}
    report.runs.setdefault("parts", []).append(run)
    bound = f"less than {MEMORY_MAX // MIB} MiB"
    report.require([requirements.row(f"{what}: peak resident memory", bound, f"{peak / MIB:.0f} MiB", lambda _: peak < MEMORY_MAX),
                    requirements.row(f"{what}: errors", "0", str(errors), lambda _: errors == 0)])
    return [what, moved.connections, watch.most, f"{moved.size / MIB:.0f}", f"{seconds:.1f}", f"{moved.size / 1e6 / seconds:.1f}",
            f"{before / MIB:.0f}", f"{peak / MIB:.0f}", f"{(peak - before) / 1024 / moved.connections:.0f}", errors]


def check(args):
    """Ends with a sentence where the machine or the arguments do not allow it."""
    unknown = [part for part in args.parts.split(",") if part not in PARTS]
    if unknown:
        sys.exit(f"--parts has {', '.join(PARTS)}, not {', '.join(unknown)}")
    if args.slow_kib * 1024 / args.slow_seconds < BODY_RATE_MIN * 2 or args.slow_kib * 1024 > BLOCK_BYTES:
        sys.exit("slow uploads have to be twice as fast as the server demands (1 KiB/s), and shorter than 16 MiB")
    # Each connection is a file, here as in the server.
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = args.slow + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"{args.slow} connections need {wanted} open files, and the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, wanted), hard))
    parts = args.parts.split(",")
    wanted = ROOM_BYTES + (big_bytes(args) if "big" in parts else 0) + (args.many * args.many_mib * MIB if "many" in parts else 0)
    free = shutil.disk_usage(args.place or tempfile.gettempdir()).free
    if free < wanted:
        sys.exit(f"{wanted / 1e9:.0f} GB of disk are needed, {free / 1e9:.0f} GB are free")


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", required=True, help="where granary is")
    parser.add_argument("--parts", default=",".join(PARTS), help="(%(default)s)")
    parser.add_argument("--slow", type=int, default=2000, help="slow uploads at once (%(default)s)")
    parser.add_argument("--slow-kib", type=int, default=256, help="length of each (%(default)s)")
    parser.add_argument("--slow-seconds", type=int, default=32, help="how long each takes (%(default)s)")
    parser.add_argument("--many", type=int, default=64, help="large transfers at once (%(default)s)")
    parser.add_argument("--many-mib", type=int, default=64, help="length of each (%(default)s)")
    parser.add_argument("--big", type=float, default=50, help="GiB of the one very large object (%(default)s)")
    parser.add_argument("--big-connections", type=int, default=4, help="over which its parts go (%(default)s)")
    return read_arguments(parser, QUICK)


def main():
    """All parts; what was measured before a failure is written too."""
    args = arguments()
    check(args)
    report, content, rows = Report(args), Content(args.seed), []
    place = tempfile.mkdtemp(prefix="granary-crowd-", dir=args.place)
    try:
        target = start_granary(os.path.join(place, "granary"), args.binaries)
        try:
            for part in args.parts.split(","):
                for what, run in PARTS[part]:
                    rows.append(measure(target, what, run, content, args, report))
        finally:
            target.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)
        report.table("What the server took", HEAD, rows)
        for run in report.runs.get("parts", []):
            for error, times in run["errors"].items():
                report.say(f"- {run['what']}: {times} times {error}")
        report.judge()
        report.about("bench/crowd.py")
        report.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
