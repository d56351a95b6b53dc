#!/usr/bin/env python3
"""Shows with strace that Granary answers a PUT only after an fdatasync that began after the PUT's bytes were written.

    bench/proof.py --binaries target/release [--sizes 4k,64k,1m] [--count 20] [--clients 4] [--keep FILE]
    bench/proof.py --read FILE     reads a trace that was kept, with the notes beside it

Clients store objects while strace watches every write, sync and answer of the server. Body and key of a PUT
are made of marks that occur nowhere else, and its answer carries the MD5 of the body. So each answer can be
held against the writes that carried its bytes (and those that carried its key) and the syncs of those files:
a mark counts as durable at the end of a successful fsync or fdatasync of its file that began after the end of
its write. Needs python3, strace, and the permission to trace.
"""
import argparse
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time

from targets import SIZES, start_granary

# What can make bytes durable or send them. Ring and mapping calls are watched to show that nothing goes past the others.
WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
ANSWERS = {"write", "writev", "sendto", "sendmsg"}
SYNCS = {"fsync", "fdatasync"}
UNREAD = {"sendfile", "splice", "copy_file_range", "msync", "io_uring_setup", "io_uring_enter"}
SYSCALLS = ",".join(sorted(WRITES | ANSWERS | SYNCS | UNREAD))
DIGEST, MARK = re.compile(r"[0-9A-Fa-f]{32}"), re.compile(r"([A-Z]{10})\.(\d+);")
MARK_BYTES, KEY_MARKS = 32, 8
# What RocksDB frames its log in; a frame's header may stand within a mark.
LOG_FRAME_BYTES = 32 << 10
# Between the buffers of one call, which follow each other in the file.
BETWEEN = re.compile(r'", iov_len=\d+\}, \{iov_base="')
STRING_BYTES = 8 << 20
ATTACH_S = 20

CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)$", re.S)
RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$", re.S)
RETURNED = re.compile(r"\)\s+= (-?\d+)[^=]*$")
FILE = re.compile(r"^\d+<(.*?)>[,)]|^\d+<(.*?)>(?= <unfinished)")


def marks(token, count):
    """A run of numbered marks of MARK_BYTES each."""
    return "".join(f"{token}.{number:0{MARK_BYTES - len(token) - 2}d};" for number in range(count))


def read_calls(lines):
    """The system calls of a trace, as [name, file, text of the arguments, line it began at, line it ended at, what it returned]."""
    open_calls = {}
    for at, line in enumerate(lines):
        line = line.rstrip("\n")
        began, resumed = CALL.match(line), RESUMED.match(line)
        if began:
            thread, name, rest = began.groups()
            file = FILE.match(rest)
            call = [name, (file.group(1) or file.group(2)) if file else "", rest, at, None, None]
            if rest.endswith("<unfinished ...>"):
                open_calls[thread] = call
                continue
        elif resumed:
            thread, name, rest = resumed.groups()
            call = open_calls.pop(thread, None)
            if call is None or call[0] != name:  # strace came in the middle of it
                continue
            call[2] += rest
        else:
            continue
        returned = RETURNED.search(call[2])
        call[4], call[5] = at, int(returned.group(1)) if returned else None
        yield call


class Part:
    """The marks of one body or one key, and which of them are durable."""

    def __init__(self, token, count):
        self.token, self.count, self.written, self.durable = token, count, [], set()

    def wrote(self, file, numbers, ended):
        """A write that carried some of the marks has ended."""
        self.written.append((file, numbers, ended))

    def synced(self, file, began):
        """A sync that began then has ended well."""
        waiting = []
        for where, numbers, ended in self.written:
            if where == file and ended < began:
                self.durable |= numbers
            else:
                waiting.append((where, numbers, ended))
        self.written = waiting

    def is_durable(self):
        """All marks are, but for single ones that the frames of a log may have cut in two: one, and one more for each frame that fits in."""
        missing = [number for number in range(self.count) if number not in self.durable]
        return len(missing) <= 1 + self.count * MARK_BYTES // LOG_FRAME_BYTES and all(b - a > 1 for a, b in zip(missing, missing[1:]))


def events_of(lines, unread):
    """What a trace says happened, in the order in which it was over (an answer: in which it began): (line, kind, ...), where
    a write has its file and {token: numbers}, a sync its file and the line it began at, an answer the digests in it."""
    events = []
    for name, file, text, began, ended, returned in read_calls(lines):
        if name in UNREAD:
            unread.add(name)
        is_socket = file.startswith(("socket:", "TCP", "UNIX"))
        if name in SYNCS and returned == 0:
            events.append((ended, "sync", file, began))
        elif is_socket and name in ANSWERS:
            events.append((began, "answer", [found.upper() for found in DIGEST.findall(text)], began))
        elif name in WRITES and not is_socket and returned is not None and returned > 0:
            carried = {}
            for token, number in MARK.findall(BETWEEN.sub("", text)):
                carried.setdefault(token, set()).add(int(number))
            if carried:
                events.append((ended, "write", file, carried))
    return sorted(events, key=lambda event: event[0])


def judge(lines, puts):
    """Holds every answer against the syncs before it. `puts` are {"key": token, "body": token, "marks": count, "md5": hex}.
    Returns (answers, those that were covered, [sentences about the others], calls that are not read)."""
    parts = {token: Part(token, count) for put in puts for token, count in ((put["body"], put["marks"]), (put["key"], KEY_MARKS))}
    waiting = {put["md5"].upper(): put for put in puts}
    unread, wrong, answered = set(), [], 0
    for at, kind, what, more in events_of(lines, unread):
        if kind == "write":
            for token in more.keys() & parts.keys():
                parts[token].wrote(what, more[token], at)
        elif kind == "sync":
            for part in parts.values():
                part.synced(what, more)
        else:
            for put in [waiting.pop(digest) for digest in what if digest in waiting]:
                answered += 1
                late = [name for name in ("body", "key") if not parts[put[name]].is_durable()]
                wrong += [f"line {at + 1}: the answer to {put['key']} came before a sync of its {' and '.join(late)}"] if late else []
    return answered, answered - len(wrong), wrong, sorted(unread)


def store(target, sizes, count, clients):
    """Stores objects from several clients at once; what each consisted of."""
    puts, failed, lock = [], [], threading.Lock()

    def put(size):
        body_token, key_token = ("".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(10)) for _ in range(2))
        body = marks(body_token, size // MARK_BYTES).encode()
        status, content = target.call("PUT", target.sign("PUT", "proof/" + marks(key_token, KEY_MARKS)), body)
        if status != 200:
            raise RuntimeError(f"{status} {content[:200]!r}")
        return {"key": key_token, "body": body_token, "marks": size // MARK_BYTES, "md5": hashlib.md5(body).hexdigest()}

    def client(some):
        for size in some:
            try:
                done = put(size)
            except Exception as failure:  # pylint: disable=broad-except
                with lock:
                    failed.append(repr(failure))
                return
            with lock:
                puts.append(done)

    work = [size for size in sizes for _ in range(count)]
    threads = [threading.Thread(target=client, args=(work[n::clients],)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} clients ended with a PUT that failed, as {failed[0]}")
    if len(puts) != len(work) or not puts:
        raise RuntimeError(f"{len(puts)} of {len(work)} objects were stored: that proves nothing")
    return puts


def trace(target, file, work):
    """Runs `work` while strace writes the calls of all threads of the server to a file."""
    command = ["strace", "-f", "-y", "-v", "-s", str(STRING_BYTES), "-e", f"trace={SYSCALLS}", "-e", "signal=none", "-o", file, "-p", str(target.pid)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said, subprocess.Popen(command, stderr=said) as tracer:
        try:
            end = time.monotonic() + ATTACH_S
            while not all_traced(target.pid):
                if tracer.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise RuntimeError(f"strace does not trace the server: {said.read().strip()}")
                time.sleep(0.05)
            return work()
        finally:
            tracer.send_signal(signal.SIGINT)


def all_traced(pid):
    """Whether every thread of a process is traced."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as status:
                if "TracerPid:\t0\n" in status.read():
                    return False
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            pass
    return True


def say(file, puts):
    """Reads a trace and prints what it shows; whether it shows what it should."""
    with open(file, encoding="ascii", errors="replace") as lines:
        answered, covered, wrong, unread = judge(lines, puts)
    for sentence in wrong[:20]:
        print(sentence)
    if unread:
        print(f"calls whose bytes this does not read: {', '.join(unread)}")
    print(f"{covered} of {answered} answers came after a sync that began after their bytes and their key were written"
          + (f"; {len(puts) - answered} answers were not seen" if answered != len(puts) else ""))
    return covered == len(puts) > 0


def main():
    """Traces a server, or reads a trace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries")
    parser.add_argument("--sizes", default="4k,64k,1m")
    parser.add_argument("--count", type=int, default=20, help="PUTs of each size")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--disks", type=int, default=1)
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--keep", help="keeps the trace here, and notes for --read beside it")
    parser.add_argument("--read", help="a trace that was kept")
    args = parser.parse_args()
    if args.read:
        with open(args.read + ".json", encoding="ascii") as notes:
            return 0 if say(args.read, json.load(notes)) else 1
    with tempfile.TemporaryDirectory(prefix="granary-proof-", dir=args.place, ignore_cleanup_errors=True) as place:
        file = args.keep or os.path.join(place, "trace")
        target = start_granary(os.path.join(place, "granary"), args.binaries, args.disks)
        try:
            puts = trace(target, file, lambda: store(target, [SIZES[name] for name in args.sizes.split(",")], args.count, args.clients))
            if args.keep:
                with open(file + ".json", "w", encoding="ascii") as notes:
                    json.dump(puts, notes)
            return 0 if say(file, puts) else 1
        finally:
            target.stop()


if __name__ == "__main__":
    sys.exit(main())
