"""One `granary server` process: start, wait until ready, stop, kill, and what it leaves behind.

Finds the binary in GRANARY_BIN or in the target directory. Knows nothing of the OSS protocol.
"""
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from .signing import Credentials
from .wire import Wire

START_DEADLINE_S = 60
STOP_DEADLINE_S = 60
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^\S*\s*(?P<level>WARN|ERROR)\b")


def binary():
    """Path of the server binary; fails with a sentence when it was not built."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(os.path.dirname(__file__), "..", "..", "target")
    path = os.environ.get("GRANARY_BIN") or os.path.join(target, "release", "granary")
    if not os.path.exists(path):
        raise RuntimeError(f"there is no server at {path}: run `make build` or set GRANARY_BIN")
    return os.path.abspath(path)


def free_ports(count):
    """Distinct local ports nobody listens on right now."""
    sockets = []
    try:
        for _ in range(count):
            held = socket.socket()
            held.bind(("127.0.0.1", 0))
            sockets.append(held)
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()


def metrics_of(admin):
    """/metrics at the address of an admin listener as {sample with labels: value}."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


class Server:
    """A server process on local ports. Directories outlive it, so it can be started again."""

    # What a bucket has that asks for no redundancy.
    redundancy = "LRS"

    def __init__(self, data_dirs, log_path, region="cn-granary-1", flags=(), env=None):
        self.data_dirs = [str(d) for d in data_dirs]
        self.log_path = str(log_path)
        self.flags, self.extra_env = list(flags), dict(env or {})
        self.credentials = Credentials("granaryTestKey", "granaryTestSecret0123456789", region)
        self.port, self.admin_port = free_ports(2)
        self.process = None
        self._log_read = 0

    @property
    def endpoint(self):
        """The URL clients are given."""
        return f"http://127.0.0.1:{self.port}"

    def wire(self, auth="v4", **changes):
        """A raw client of this server with the root credentials."""
        settings = dict(cred=self.credentials, auth=auth)
        settings.update(changes)
        return Wire("127.0.0.1", self.port, **settings)

    def command(self):
        """The command line of the process."""
        line = [binary(), "server"]
        for directory in self.data_dirs:
            line += ["--data", directory]
        return line + ["--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin_port}",
                       "--region", self.credentials.region] + self.flags

    def account(self, *line, expect=0):
        """`granary admin account` on this server; what it prints, read as JSON, or what it complains of."""
        asked = [binary(), "admin", "--json", "account", "--server", self.data_dirs[0], *line]
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60, env=env)
        assert done.returncode == expect, f"{line}: {done.returncode} {done.stdout} {done.stderr}"
        return json.loads(done.stdout) if expect == 0 else done.stderr

    def start(self, wait=True):
        """Starts the process and waits until it says that it is ready."""
        assert self.process is None or self.process.poll() is not None, "it is running already"
        env = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
        env["GRANARY_ROOT_ACCESS_KEY_ID"] = self.credentials.key_id
        env["GRANARY_ROOT_ACCESS_KEY_SECRET"] = self.credentials.secret
        env.update(self.extra_env)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, env=env)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, deadline_s=START_DEADLINE_S):
        """Polls /health/ready; a process that ends meanwhile fails with its log."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log_tail()}")
            if self.health("ready") == 200:
                return
            time.sleep(0.02)
        raise RuntimeError(f"not ready after {deadline_s} s:\n{self.log_tail()}")

    def health(self, which):
        """Status of /health/live or /health/ready, None when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/health/{which}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metrics(self):
        """/metrics as {sample with labels: value}."""
        return metrics_of(f"127.0.0.1:{self.admin_port}")

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"SIGTERM did not end it in {STOP_DEADLINE_S} s:\n{self.log_tail()}") from None
        code, self.process = self.process.returncode, None
        return code

    def kill(self):
        """SIGKILL, as the power cord would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()
            self.process = None

    def memory_bytes(self, field="VmHWM"):
        """Peak (VmHWM) or present (VmRSS) resident memory of the process."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {field}")

    def forget_memory_peak(self):
        """Sets the peak to the present resident memory."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w", encoding="ascii") as handle:
            handle.write("5")

    def log_tail(self, lines=40):
        """The last lines of the log."""
        with open(self.log_path, errors="replace", encoding="utf-8") as log:
            return "".join(log.readlines()[-lines:])

    def new_alarms(self, allowed=()):
        """WARN and ERROR lines and panics since the last call, but those that match a pattern of `allowed`."""
        if not os.path.exists(self.log_path):
            return []
        with open(self.log_path, errors="replace", encoding="utf-8") as log:
            log.seek(self._log_read)
            text = log.read()
            self._log_read = log.tell()
        found = []
        for line in text.splitlines():
            plain = _ANSI.sub("", line)
            if _is_alarm(plain) and not any(re.search(pattern, plain) for pattern in allowed):
                found.append(plain)
        return found


def _is_alarm(line):
    if line.startswith("{"):
        try:
            return json.loads(line).get("level") in ("WARN", "ERROR")
        except ValueError:
            return False
    return bool(_LEVEL.match(line)) or "panicked at" in line
