"""The servers under comparison: how each is started, signed for, and how much CPU it has used.

Every target runs on this machine with its data in a directory of its own.
"""
import base64
import datetime
import hashlib
import hmac
import http.client
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    """A local port nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Target:
    """A running server and the way to sign for it."""

    def __init__(self, name, port, bucket="bench", pid=None):
        self.name, self.port, self.bucket, self.process, self.pid = name, port, bucket, None, pid
        self.access_key, self.secret, self.region = "benchKey", "benchSecret0123456789", "cn-granary-1"

    @property
    def base(self):
        """The URL wrk connects to."""
        return f"http://127.0.0.1:{self.port}"

    def sign(self, method, key, query=()):
        """A presigned request path that stays good for hours."""
        raise NotImplementedError

    def run(self, command, log, env=None):
        """Starts the process."""
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        self.pid = self.process.pid

    def wait(self, ready, deadline_s=60):
        """Polls until the server answers."""
        end = time.monotonic() + deadline_s
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            try:
                if ready():
                    return
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready in {deadline_s} s")
            time.sleep(0.05)

    def call(self, method, path, body=None, headers=None):
        """One request; returns (status, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def put(self, key, body):
        """Stores an object before the measurement."""
        status, content = self.call("PUT", self.sign("PUT", key), body)
        if status // 100 != 2:
            raise RuntimeError(f"{self.name}: PUT {key}: {status} {content[:300]!r}")

    def cpu_seconds(self):
        """CPU time the process has used."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def peak_mebibytes(self):
        """Peak resident memory."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) >> 10

    def stop(self):
        """Ends the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Oss(Target):
    """Anything that speaks OSS with V1 URLs."""

    def sign(self, method, key, query=()):
        expires = int(time.time()) + 36000
        text = f"{method}\n\n\n{expires}\n/{self.bucket}/{key}"
        signature = base64.b64encode(hmac.new(self.secret.encode(), text.encode(), hashlib.sha1).digest()).decode()
        full = list(query) + [("OSSAccessKeyId", self.access_key), ("Expires", expires), ("Signature", signature)]
        return f"/{self.bucket}/{urllib.parse.quote(key)}?{urllib.parse.urlencode(full)}"


class Memory(Target):
    """The bare server: no signatures."""

    def sign(self, method, key, query=()):
        return f"/{self.bucket}/{urllib.parse.quote(key)}"


class S3(Target):
    """Anything that speaks S3 with V4 URLs."""

    def sign(self, method, key, query=()):
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        scope = f"{day}/{self.region}/s3/aws4_request"
        full = sorted(list(query) + [("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", f"{self.access_key}/{scope}"),
                                     ("X-Amz-Date", stamp), ("X-Amz-Expires", "36000"), ("X-Amz-SignedHeaders", "host")])
        text_query = "&".join(f"{k}={urllib.parse.quote(str(v), safe='')}" for k, v in full)
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        canonical = f"{method}\n{path}\n{text_query}\nhost:127.0.0.1:{self.port}\n\nhost\nUNSIGNED-PAYLOAD"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = ("AWS4" + self.secret).encode()
        for part in (day, self.region, "s3", "aws4_request"):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        return f"{path}?{text_query}&X-Amz-Signature={hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()}"


def start_granary(place, binaries, disks=1):
    """A Granary with its data under `place`."""
    target = Oss("granary" if disks == 1 else f"granary-{disks}", free_port())
    admin = free_port()
    command = [os.path.join(binaries, "granary"), "server"]
    for number in range(disks):
        command += ["--data", os.path.join(place, f"disk{number}")]
    command += ["--listen", f"127.0.0.1:{target.port}", "--admin-listen", f"127.0.0.1:{admin}", "--region", target.region]
    os.makedirs(place, exist_ok=True)
    target.run(command, os.path.join(place, "log"), {"GRANARY_ROOT_ACCESS_KEY_ID": target.access_key, "GRANARY_ROOT_ACCESS_KEY_SECRET": target.secret})

    def ready():
        connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200

    target.wait(ready)
    status, content = target.call("PUT", target.sign("PUT", ""))
    if status != 200:
        raise RuntimeError(f"cannot make a bucket: {status} {content[:300]!r}")
    return target


def start_bare(_place, binaries):
    """The ceiling: hyper answering from memory."""
    target = Memory("bare hyper", free_port())
    target.run([os.path.join(binaries, "bare_hyper"), f"127.0.0.1:{target.port}"], os.devnull)
    target.wait(lambda: target.call("GET", "/x")[0] == 404)
    return target


def start_garage(place, _binaries):
    """A garage of one node, or None where it is not installed."""
    if shutil.which("garage") is None:
        return None
    os.makedirs(place, exist_ok=True)
    target, rpc = S3("garage", free_port()), free_port()
    target.region = "garage"
    config = os.path.join(place, "garage.toml")
    with open(config, "w", encoding="ascii") as handle:
        handle.write(f"""metadata_dir = "{place}/meta"
data_dir = "{place}/data"
db_engine = "lmdb"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{'0' * 63}1"
metadata_fsync = true
data_fsync = true
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{target.port}"
""")

    def garage(*words):
        done = subprocess.run(["garage", "-c", config, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"garage {' '.join(words)}: {done.stderr}")
        return done.stdout

    target.run(["garage", "-c", config, "server"], os.path.join(place, "log"))
    target.wait(lambda: target.call("GET", "/")[0] > 0)
    node = garage("node", "id", "-q").strip().split("@")[0]
    garage("layout", "assign", "-z", "one", "-c", "10G", node)
    garage("layout", "apply", "--version", "1")
    made = garage("key", "create", "bench")
    target.access_key = re.search(r"Key ID:\s+(\S+)", made).group(1)
    target.secret = re.search(r"Secret key:\s+(\S+)", made).group(1)
    garage("bucket", "create", target.bucket)
    garage("bucket", "allow", "--read", "--write", target.bucket, "--key", "bench")
    return target
