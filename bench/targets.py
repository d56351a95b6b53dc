"""What is compared: the servers, how each is started, signed for and how much CPU it has used; and the raw writer.

Every target runs on this machine with its data in a directory of its own.
"""
import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness import signing  # noqa: E402
from harness.server import free_ports  # noqa: E402

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SIZES = {"1k": 1 << 10, "4k": 4 << 10, "16k": 16 << 10, "64k": 64 << 10, "256k": 256 << 10,
         "1m": 1 << 20, "4m": 4 << 20, "16m": 16 << 20, "64m": 64 << 20}
# How garage makes things durable. In 2.5 the default is off: `default` leaves the lines out of its configuration.
GARAGE = {"default": None, "off": False, "on": True}
# How requests to Granary are signed. Garage knows V4 only, that of S3.
SIGNATURES = ("v4", "v1")
SIGNED_FOR_S = 36000


def files_bytes(place):
    """What the files under a directory take on the disk."""
    total = 0
    for directory, _, names in os.walk(place):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:  # a store removes files of its own
                pass
    return total


class Target:
    """A running server and the way to sign for it."""
    keeps = True  # it stores what it is sent
    poll_s, ready_in_s = 0.05, 60  # how often a start is looked after, and how long it may take

    def __init__(self, name, port, place, bucket="bench"):
        self.name, self.port, self.place, self.bucket = name, port, place, bucket
        self.process, self.log, self.pid, self.ready, self.stored, self.peak = None, None, None, None, set(), 0
        self.command, self.env = [], {}
        self.access_key, self.secret, self.region = "benchKey", "benchSecret0123456789", "cn-granary-1"

    @property
    def base(self):
        """The URL wrk connects to."""
        return f"http://127.0.0.1:{self.port}"

    def sign(self, method, key):
        """A presigned request path that stays good for hours."""
        raise NotImplementedError

    def start(self, command, ready, env=None):
        """Starts the process and waits until it answers. Its log is not among its data, and is no write of its own to a disk."""
        self.command, self.env, self.ready = command, env or {}, ready
        with open(f"{self.place}.log" if self.keeps else os.devnull, "ab") as out:
            self.log = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=out)
        try:
            self.process = subprocess.Popen(command, stdout=self.log.stdin, stderr=subprocess.STDOUT, env={**os.environ, **self.env})
        finally:
            # Now it ends when the process does.
            self.log.stdin.close()
        self.pid = self.process.pid
        self.wait(ready)

    def wait(self, ready):
        """Polls until the server answers."""
        end = time.monotonic() + self.ready_in_s
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            try:
                if ready():
                    return
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready in {self.ready_in_s} s")
            time.sleep(self.poll_s)

    def call(self, method, path, body=None, headers=None):
        """One request; returns (status, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def put(self, key, body):
        """Stores an object before the measurement, unless it was."""
        if key in self.stored:
            return
        status, content = self.call("PUT", self.sign("PUT", key), body)
        if status // 100 != 2:
            raise RuntimeError(f"{self.name}: PUT {key}: {status} {content[:300]!r}")
        self.stored.add(key)

    def cpu_seconds(self):
        """CPU time the process has used."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def written_bytes(self):
        """Bytes the process caused to be written to a disk."""
        with open(f"/proc/{self.pid}/io", encoding="ascii") as io:
            return int(re.search(r"^write_bytes: (\d+)", io.read(), re.M).group(1))

    def memory_bytes(self, field="VmRSS"):
        """Resident memory of the process: now, or its peak (VmHWM)."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            return int(re.search(rf"^{field}:\s+(\d+)", status.read(), re.M).group(1)) << 10

    def forget_memory_peak(self):
        """Sets the peak to the present resident memory."""
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as handle:
            handle.write("5")

    def peak_mebibytes(self):
        """Peak resident memory, of all its processes so far."""
        if self.process.poll() is None:
            self.peak = max(self.peak, self.memory_bytes("VmHWM") >> 20)
        return self.peak

    def settle(self, seconds):
        """Waits until the process is all but idle, no longer than told; whether it is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - before < 0.1:
                return True
        return False

    def stop(self):
        """Ends the process."""
        if self.process is not None and self.process.poll() is None:
            self.peak_mebibytes()
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)
        if self.log is not None:
            self.log.wait(60)

    def restart(self):
        """Ends the process and starts it again on the same data."""
        self.stop()
        self.start(self.command, self.ready, self.env)


class Oss(Target):
    """Anything that speaks OSS, with URLs of one of SIGNATURES."""

    def __init__(self, name, port, place, signature):
        super().__init__(name, port, place)
        self.signature = signature
        self.admin = None

    @property
    def credentials(self):
        """What its requests are signed with."""
        return signing.Credentials(self.access_key, self.secret, self.region)

    def sign(self, method, key, query=()):  # pylint: disable=arguments-differ
        keys = self.credentials
        if self.signature == "v1":
            query = signing.v1_query(keys, method, self.bucket, key, list(query), {}, time.time() + SIGNED_FOR_S)
        else:
            query = signing.v4_query(keys, method, self.bucket, key, list(query), {}, SIGNED_FOR_S)
        return f"/{self.bucket}/{urllib.parse.quote(key)}?{signing.query_text(query)}"


class Memory(Target):
    """The bare server: no signatures, and what a GET answers is as long as its URL says."""
    keeps = False

    def sign(self, method, key):
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        return f"{path}?bytes={SIZES[key.split('/')[0]]}" if method == "GET" else path

    def put(self, key, body):
        pass


class S3(Target):
    """Anything that speaks S3 with V4 URLs."""

    def sign(self, method, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        scope = f"{day}/{self.region}/s3/aws4_request"
        full = [("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", f"{self.access_key}/{scope}"),
                ("X-Amz-Date", stamp), ("X-Amz-Expires", str(SIGNED_FOR_S)), ("X-Amz-SignedHeaders", "host")]
        text_query = "&".join(f"{k}={urllib.parse.quote(v, safe='')}" for k, v in full)
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        canonical = f"{method}\n{path}\n{text_query}\nhost:127.0.0.1:{self.port}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = ("AWS4" + self.secret).encode()
        for part in (day, self.region, "s3", "aws4_request"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        return f"{path}?{text_query}&X-Amz-Signature={hmac.digest(secret, text.encode(), 'sha256').hex()}"


class RawWriter:
    """Threads that append blocks to one file and share its fdatasyncs: what the disk can do. Runs only while it is measured."""
    name, keeps = "raw writer", False

    def __init__(self, place, binaries):
        self.program, self.file = os.path.join(binaries, "raw_writer"), os.path.join(place, "raw")

    def measure(self, size, threads, seconds):
        """One run; in the terms of a run of wrk."""
        command = [self.program, "--file", self.file, "--block-bytes", str(size), "--threads", str(threads), "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the raw writer failed: {done.stdout}{done.stderr}")
        run = json.loads(done.stdout)
        return {"connections": threads, "requests": run["appends"], "failed": 0, "errors": 0, "seconds": run["seconds"],
                "p50_us": run["p50_us"], "p90_us": run["p90_us"], "p99_us": run["p99_us"], "max_us": run["max_us"],
                "slow": run["slow"], "as_measured": True, "syncs": run["syncs"], "written_bytes": run["written_bytes"],
                "cpu_seconds": run["cpu_seconds"]}


@contextlib.contextmanager
def started(target):
    """Ends a server that cannot be made ready."""
    try:
        yield
    except BaseException:
        target.stop()
        raise


def start_granary(place, binaries, disks=1, signature=SIGNATURES[0], settings=""):
    """A Granary with its data under `place`, and these sections in its configuration."""
    port, admin = free_ports(2)
    target = Oss("granary", port, place, signature)
    target.admin = f"127.0.0.1:{admin}"
    command = [os.path.join(binaries, "granary"), "server"]
    for number in range(disks):
        command += ["--data", os.path.join(place, f"disk{number}")]
    command += ["--listen", f"127.0.0.1:{target.port}", "--admin-listen", target.admin, "--region", target.region]
    os.makedirs(place, exist_ok=True)
    if settings:
        with open(f"{place}.toml", "w", encoding="ascii") as out:
            out.write(settings)
        command += ["--config", f"{place}.toml"]

    def ready():
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200

    with started(target):
        target.start(command, ready, {"GRANARY_ROOT_ACCESS_KEY_ID": target.access_key, "GRANARY_ROOT_ACCESS_KEY_SECRET": target.secret})
        status, content = target.call("PUT", target.sign("PUT", ""))
        if status != 200:
            raise RuntimeError(f"cannot make a bucket: {status} {content[:300]!r}")
    return target


def start_bare(place, binaries):
    """The ceiling: hyper answering from memory."""
    target = Memory("bare hyper", free_ports(1)[0], place)
    with started(target):
        target.start([os.path.join(binaries, "bare_hyper"), f"127.0.0.1:{target.port}"], lambda: target.call("GET", "/x")[0] == 404)
    return target


def start_garage(place, durable):
    """A garage of one node, or None where it is not installed. `durable` is a key of GARAGE."""
    if shutil.which("garage") is None:
        return None
    os.makedirs(place, exist_ok=True)
    port, rpc = free_ports(2)
    target = S3(f"garage {durable}", port, place)
    target.region = "garage"
    config = os.path.join(place, "garage.toml")
    fsync = "" if GARAGE[durable] is None else f"metadata_fsync = {str(GARAGE[durable]).lower()}\ndata_fsync = {str(GARAGE[durable]).lower()}\n"
    with open(config, "w", encoding="ascii") as handle:
        handle.write(f"""metadata_dir = "{place}/meta"
data_dir = "{place}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{'0' * 63}1"
{fsync}[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{target.port}"
""")

    def garage(*words):
        done = subprocess.run(["garage", "-c", config, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"garage {' '.join(words)}: {done.stderr}")
        return done.stdout

    with started(target):
        target.start(["garage", "-c", config, "server"], lambda: target.call("GET", "/")[0] > 0)
        node = garage("node", "id", "-q").strip().split("@")[0]
        garage("layout", "assign", "-z", "one", "-c", "10G", node)
        garage("layout", "apply", "--version", "1")
        made = garage("key", "create", "bench")
        target.access_key = re.search(r"Key ID:\s+(\S+)", made).group(1)
        target.secret = re.search(r"Secret key:\s+(\S+)", made).group(1)
        garage("bucket", "create", target.bucket)
        garage("bucket", "allow", "--read", "--write", target.bucket, "--key", "bench")
    return target
