#!/usr/bin/env python3
"""Runs a program under callgrind, and counts the instructions between two moments of its life.

    bench/callgrind.py PROGRAM [ARGUMENT ...]     becomes the program, with PR_GET_AUXV refused

The program starts with instrumentation off, which is several times faster and counts nothing, until `Count.begin`.
On Linux 6.4 and later prctl(PR_GET_AUXV) gives a program the auxiliary vector of valgrind itself, with a vDSO that it
may not read: rustix does, and dies of it. A kernel that does not know the call answers EINVAL, upon which rustix
reads /proc/self/auxv, which valgrind makes up. So a seccomp filter answers like such a kernel. Only on x86-64.
"""
import ctypes
import errno
import glob
import os
import platform
import re
import struct
import subprocess
import sys
import time

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SYS_PRCTL, PR_GET_AUXV = 157, 0x41555856
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EINVAL
# Where a filter finds the number of the call and the low half of its first argument.
NUMBER_AT, ARGUMENT_AT = 0, 16
COMMAND_S = 120


class FilterProgram(ctypes.Structure):  # pylint: disable=too-few-public-methods
    """struct sock_fprog."""
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def refuse_auxv():
    """From here on prctl(PR_GET_AUXV) of this process and its children is EINVAL."""
    steps = [(LOAD_WORD, 0, 0, NUMBER_AT), (JUMP_IF_EQUAL, 0, 3, SYS_PRCTL), (LOAD_WORD, 0, 0, ARGUMENT_AT),
             (JUMP_IF_EQUAL, 0, 1, PR_GET_AUXV), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = FilterProgram(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "cannot refuse PR_GET_AUXV")


def command(dumps):
    """What stands before a command line that is to be counted. Threads take turns fairly: else one may keep the others out for long."""
    return [sys.executable, os.path.abspath(__file__), "valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes",
            f"--callgrind-out-file={dumps}.%p", f"--vgdb-prefix={dumps}-vgdb"]


def read_dump(lines, apart):
    """The instructions of a dump, None where it has none, and those of all calls of the functions that `apart` matches, which must not
    call each other."""
    totals, within, matching, called = None, 0, set(), None
    lines = iter(lines)
    for line in lines:
        # A name stands behind its number where the number comes first.
        found = re.match(r"(c?)fn=(\(\d+\))(?: (.*))?", line)
        if found:
            of_call, number, name = found.groups()
            if name and apart.search(name):
                matching.add(number)
            called = number if of_call else None
        elif line.startswith("calls="):
            cost = next(lines).split()[-1]
            within += int(cost) if called in matching else 0
        elif line.startswith("totals:"):
            totals = int(line.split()[1])
    return totals, within


class Count:
    """The instructions of one running process, all its threads together. `dumps` is what its `command` got."""

    def __init__(self, pid, dumps):
        # The pipes lie beside the dumps, where they go with them when a process is killed.
        self.pid, self.file, self.pipes = pid, f"{dumps}.{pid}", f"--vgdb-prefix={dumps}-vgdb"
        self.began, self.seconds = 0.0, 0.0

    def _control(self, *line):
        done = subprocess.run(["callgrind_control", self.pipes, *line, str(self.pid)], capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if done.returncode != 0 or "OK." not in done.stdout:
            raise RuntimeError(f"callgrind_control {' '.join(line)}: {done.stdout}{done.stderr}")

    def switch_on(self):
        """Instrumentation on: everything is slower from here on."""
        self._control("-i", "on")

    def begin(self):
        """Counts from here."""
        self._control("-z")
        self.began = time.monotonic()

    def end(self, apart):
        """What was counted since `begin`, which was `seconds` ago: of all, and of that within the functions that `apart` matches."""
        self.seconds = time.monotonic() - self.began
        self._control("-d")
        # Each dump has a number of its own behind the name.
        newest = max(glob.glob(f"{glob.escape(self.file)}.*"), key=lambda name: int(name.rpartition(".")[2]))
        with open(newest, encoding="utf-8", errors="replace") as dump:
            totals, within = read_dump(dump, apart)
        os.remove(newest)
        if totals is None:
            raise RuntimeError(f"no instructions in {newest}")
        return totals, within


class Counts:
    """Several processes counted together: {pid: what its `command` got}. `apart` matches functions that are counted apart, as in `Count.end`."""

    def __init__(self, dumps, apart):
        self.counts, self.apart = [Count(pid, file) for pid, file in dumps.items()], apart
        # What each does per second when nobody asks, without what is apart; and the CPU time of all.
        self.idle_rates, self.idle_cpu = [0.0] * len(self.counts), 0.0

    def cpu_seconds(self):
        """CPU time they have used."""
        total = 0
        for count in self.counts:
            with open(f"/proc/{count.pid}/stat", encoding="ascii") as stat:
                fields = stat.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def switch_on(self):
        """Instrumentation on, everywhere."""
        for count in self.counts:
            count.switch_on()

    def begin(self):
        """Counts from here."""
        for count in self.counts:
            count.begin()

    def end(self):
        """What was counted since `begin`: of all, of that apart, and what they would have done if nobody had asked. The last one of them begins
        and ends later than the first one: each has its own time."""
        ends = [count.end(self.apart) for count in self.counts]
        idle = sum(rate * count.seconds for rate, count in zip(self.idle_rates, self.counts))
        return sum(counted for counted, _ in ends), sum(apart for _, apart in ends), idle

    def idle(self, seconds):
        """Learns what they do while nobody asks; returns their instructions per second, without those apart."""
        before, began = self.cpu_seconds(), time.monotonic()
        self.begin()
        time.sleep(seconds)
        ends = [count.end(self.apart) for count in self.counts]
        self.idle_rates = [(counted - apart) / count.seconds for count, (counted, apart) in zip(self.counts, ends)]
        self.idle_cpu = (self.cpu_seconds() - before) / (time.monotonic() - began)
        return sum(self.idle_rates)

    def settle(self, seconds):
        """Waits until they do no more than when nobody asks, no longer than told; whether that is so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - before <= 0.1 + 1.5 * self.idle_cpu:
                return True
        return False


if __name__ == "__main__":
    if platform.machine() == "x86_64":
        refuse_auxv()
    os.execvp(sys.argv[1], sys.argv[1:])
