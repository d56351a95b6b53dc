"""Drives a server with wrk: one measured run, or every path of a list once."""
import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections import namedtuple

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.lua")
# Shorter than the shortest delayed acknowledgement of Linux (40 ms); raw_writer has the same.
SLOW_US = 35_000
# A turn is cut off at its end, with what is under way: so many answers per connection make that little.
TURN_ANSWERS, TURN_S_MAX = 20, 30
# Fewer have no 99th percentile worth the name: ten of them are above it then.
TAIL_ANSWERS_MIN = 1000
LOAD_PATHS = 100_000
LOAD_CONNECTIONS = 64
# Requests per second that are slower than any store: what takes longer has hung. Small ones without signatures are faster.
LOAD_RATE_MIN, FILL_RATE_MIN = 50, 250

# What a run asks for: which method on which keys, of how many bytes, over how many connections, for how long, and whether nothing warms up.
Load = namedtuple("Load", "method keys size connections seconds cold")


def as_measured(counts, expected_us):
    """Takes back wrk's correction: for every request that took longer than twice the mean interval of a connection, wrk adds the
    requests that a client with a fixed schedule would have sent meanwhile. `counts` is {microseconds: requests}."""
    counts = dict(counts)
    for slow in sorted(counts, reverse=True):
        if slow < 2 * expected_us:
            break
        added = slow - expected_us
        while counts[slow] and added > expected_us:
            counts[added] = counts.get(added, 0) - counts[slow]
            added -= expected_us
    return {value: count for value, count in counts.items() if count}


def percentile(counts, share):
    """The least value that so much of {value: times} does not exceed."""
    left = share * sum(counts.values())
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


def turn_seconds(seconds, warm_up):
    """How long a turn has to be after what its warm-up was like: as long as asked, longer for few answers, within bounds."""
    rate = warm_up["requests"] / warm_up["seconds"]
    wanted = TURN_ANSWERS * warm_up["connections"] / rate if rate else TURN_S_MAX
    return max(seconds, min(math.ceil(wanted), TURN_S_MAX))


def has_tail(runs):
    """Whether each of some runs has answers enough for a 99th percentile."""
    return all(run["requests"] >= TAIL_ANSWERS_MIN for run in runs)


def said_by(out):
    """What the script has printed; None if it did not come to that."""
    return next((json.loads(line[7:]) for line in out.splitlines() if line.startswith("RESULT ")), None)


def run_of(said, connections):
    """What the script has printed, as one run."""
    corrected = dict(said["latency"])
    each = said["requests"] // connections
    counts = as_measured(corrected, said["microseconds"] // each) if each else corrected
    exact = min(counts.values(), default=0) >= 0 and sum(counts.values()) == said["requests"] - said["timeouts"]
    counts = counts if exact else corrected
    return {"connections": connections, "requests": said["requests"], "failed": said["failed"],
            "errors": said["socket_errors"] + said["timeouts"], "seconds": said["microseconds"] / 1e6, "as_measured": exact, "max_us": max(counts, default=0),
            **{f"p{rank}_us": percentile(counts, rank / 100) for rank in (50, 90, 99)},
            "slow": sum(count for value, count in counts.items() if value >= SLOW_US)}


def command(target, connections, seconds):
    """wrk's command line."""
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", SCRIPT, target.base]


def environment(paths, method, size):
    """What the script reads."""
    return {**os.environ, "PATHS": paths, "METHOD": method, "BODY_BYTES": str(size)}


@contextlib.contextmanager
def signed(target, load):
    """A file with the paths of a run."""
    with tempfile.NamedTemporaryFile("w", suffix=".paths") as paths:
        paths.write("\n".join(target.sign(load.method, key) for key in load.keys) + "\n")
        paths.flush()
        yield paths.name


def measure(target, load):
    """One run; with the CPU time of the server and what it wrote."""
    with signed(target, load) as paths:
        return measure_signed(target, load, paths)


def measure_signed(target, load, paths):
    """One run with paths that were signed before."""
    before = target.cpu_seconds(), target.written_bytes()
    done = subprocess.run(command(target, load.connections, load.seconds), env=environment(paths, load.method, load.size),
                          capture_output=True, text=True, check=False)
    after = target.cpu_seconds(), target.written_bytes()
    said = said_by(done.stdout)
    if said is None:
        raise RuntimeError(f"wrk gave no result for {target.name}:\n{done.stdout}{done.stderr}")
    return {**run_of(said, load.connections), "cpu_seconds": after[0] - before[0], "written_bytes": after[1] - before[1]}


def store(target, keys, size):
    """Stores every key once, each with a body of its own."""
    for start in range(0, len(keys), LOAD_PATHS):
        some = keys[start:start + LOAD_PATHS]
        with signed(target, Load("PUT", some, size, 0, 0, False)) as paths:
            failed, said = all_once(target, len(some), environment(paths, "PUT", size))
        if failed:
            raise RuntimeError(f"{target.name}: not all of {len(some)} keys were stored: {said}")


def fill(target, part, size):
    """Stores numbered keys of a bucket that all may write to, each with a body of its own; returns the seconds and how many failed.

    `part` is what load.lua makes paths of."""
    env = {**os.environ, **{name: str(value) for name, value in part.items()}, "METHOD": "PUT", "BODY_BYTES": str(size)}
    began = time.monotonic()
    failed, _ = all_once(target, part["TAKE"], env, FILL_RATE_MIN)
    return time.monotonic() - began, failed


def all_once(target, count, env, rate_min=LOAD_RATE_MIN):
    """Sends each of `count` requests once; how many were not answered well, and what the script has said."""
    # A request that is lost with its connection is never answered, so this may have to be waited for.
    limit_s = 60 + count // rate_min
    with subprocess.Popen(command(target, min(LOAD_CONNECTIONS, count), limit_s), env={**env, "ONCE": "1"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as loader:
        lines = []
        for line in loader.stdout:
            lines.append(line)
            if line == "ALL\n":
                loader.send_signal(signal.SIGINT)
    said = said_by("".join(lines))
    if said is None:
        return count, "".join(lines)
    # Of an end before its time nobody knows which were answered.
    whole = 0 if "ALL\n" in lines else count
    return max(whole, said["failed"] + said["socket_errors"] + said["timeouts"]), said
