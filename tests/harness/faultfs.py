"""Disks that can fail: a directory behind a FUSE file system that loses what was not synced, errs, lags or hangs.

The file system is `tests/faultfs`; it needs root (or fusermount3) and /dev/fuse.
"""
import os
import queue
import subprocess
import threading

ANSWER_DEADLINE_S = 30


def program():
    """The binary: GRANARY_FAULTFS, or where the stage `cluster` builds it."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(os.path.dirname(__file__), "..", "..", "target")
    return os.environ.get("GRANARY_FAULTFS") or os.path.join(target, "release", "faultfs")


def why_not():
    """None, or a sentence that says why there can be no such disks here."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse needs root"
    if not os.path.exists(program()):
        return f"{program()} was not built"
    return None


class FaultyDisk:
    """One mounted directory; `backing` is the true one."""

    def __init__(self, backing, mount, leftovers):
        self.backing, self.mount = backing, mount
        os.makedirs(backing, exist_ok=True)
        os.makedirs(mount, exist_ok=True)
        leftovers.add("mounts", mount)
        self._process = subprocess.Popen([program(), backing, mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        leftovers.add("pids", self._process.pid)
        self._lock, self._answers = threading.Lock(), queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._expect("mounted")

    def _listen(self):
        for line in self._process.stdout:
            self._answers.put(line.strip())
        self._answers.put("error: it ended")

    def _expect(self, wanted=None):
        try:
            answer = self._answers.get(timeout=ANSWER_DEADLINE_S)
        except queue.Empty:
            answer = "error: no answer"
        if answer.startswith("error") or (wanted and answer != wanted):
            raise AssertionError(f"faultfs at {self.mount}: {answer}")
        return answer

    def _say(self, line):
        with self._lock:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._expect()

    def fail(self, *kinds):
        """EIO from now on: of "read", "write" and "sync"."""
        self._say(f"eio {','.join(kinds)}")

    def slow(self, delay_ms):
        """Every read, write and sync takes so much longer."""
        self._say(f"delay {delay_ms}")

    def hang(self):
        """Nothing is answered until it heals; not even a killed process can go before."""
        self._say("hang")

    def heal(self):
        """All is well, but for what was lost."""
        self._say("heal")

    def cut(self, seed):
        """Power failure under a process that was killed: some of what was not synced is gone. Says how much."""
        return self._say(f"cut {seed}")

    def close(self):
        """Unmounts."""
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
