"""What is compared: the servers, how each is started, signed for and how much CPU it has used; and the raw writer.

Every target runs on this machine with its data in a directory of its own. A target may be several processes: what they
use and write counts together.
"""
import contextlib
import datetime
import functools
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))
# pylint: disable=wrong-import-position
from harness import network, signing  # noqa: E402
from harness.cluster import GATEWAY_PORT, Cluster, Spec  # noqa: E402
from harness.server import free_ports  # noqa: E402

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SIZES = {"1k": 1 << 10, "4k": 4 << 10, "16k": 16 << 10, "64k": 64 << 10, "256k": 256 << 10,
         "1m": 1 << 20, "4m": 4 << 20, "16m": 16 << 20, "64m": 64 << 20}
# How garage makes things durable. In 2.5 the default is off: `default` leaves the lines out of its configuration.
GARAGE = {"default": None, "off": False, "on": True}
# How requests to Granary are signed. Garage knows V4 only, that of S3.
SIGNATURES = ("v4", "v1")
SIGNED_FOR_S = 36000
# A bucket whose objects are in three zones.
ZRS = b"<CreateBucketConfiguration><DataRedundancyType>ZRS</DataRedundancyType></CreateBucketConfiguration>"
# A server that uses no more of a processor is all but idle.
IDLE_CPU = 0.1
IDLE_LOOK_S = 3


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

    def __init__(self, name, port, place, bucket="bench", address="127.0.0.1"):
        self.name, self.port, self.place, self.bucket, self.address = name, port, place, bucket, address
        self.process, self.log, self.ready, self.stored, self.peak = None, None, None, set(), 0
        self.pids, self.idle_cpu = [], IDLE_CPU
        self.command, self.env = [], {}
        self.access_key, self.secret, self.region = "benchKey", "benchSecret0123456789", "cn-granary-1"

    @property
    def pid(self):
        """Its first process."""
        return self.pids[0]

    @property
    def base(self):
        """The URL wrk connects to."""
        return f"http://{self.address}:{self.port}"

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
        self.pids = [self.process.pid]
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
        connection = http.client.HTTPConnection(self.address, self.port, timeout=120)
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

    def running(self):
        """Whether its processes are there."""
        return self.process is not None and self.process.poll() is None

    def cpu_seconds(self):
        """CPU time its processes have used."""
        return sum(cpu_seconds_of(pid) for pid in self.pids)

    def written_bytes(self):
        """Bytes its processes caused to be written to a disk."""
        return sum(from_proc(pid, "io", r"^write_bytes: (\d+)") for pid in self.pids)

    def memory_bytes(self, field="VmRSS"):
        """Resident memory of its processes: now, or their peaks (VmHWM)."""
        return sum(from_proc(pid, "status", rf"^{field}:\s+(\d+)") << 10 for pid in self.pids)

    def forget_memory_peak(self):
        """Sets the peaks to the present resident memory."""
        for pid in self.pids:
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as handle:
                handle.write("5")

    def peak_mebibytes(self):
        """Peak resident memory, the largest of all its lives so far; that of processes which run together adds up."""
        if self.running():
            self.peak = max(self.peak, self.memory_bytes("VmHWM") >> 20)
        return self.peak

    def settle(self, seconds):
        """Waits until the process is all but idle, no longer than told; whether it is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(1)
            if self.cpu_seconds() - before < self.idle_cpu:
                return True
        return False

    def look_idle(self):
        """Nodes of a cluster talk to each other also when nobody asks them anything: what that takes is no work."""
        before = self.cpu_seconds()
        time.sleep(IDLE_LOOK_S)
        self.idle_cpu = IDLE_CPU + (self.cpu_seconds() - before) / IDLE_LOOK_S

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


def from_proc(pid, file, pattern):
    """A number that the kernel says of a process."""
    with open(f"/proc/{pid}/{file}", encoding="utf-8", errors="replace") as said:
        return int(re.search(pattern, said.read(), re.M).group(1))


def cpu_seconds_of(pid):
    """CPU time a process has used."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


class Oss(Target):
    """Anything that speaks OSS, with URLs of one of SIGNATURES."""

    def __init__(self, name, port, place, signature, **more):
        super().__init__(name, port, place, **more)
        self.signature = signature
        self.admin = None

    @property
    def credentials(self):
        """What its requests are signed with."""
        return signing.Credentials(self.access_key, self.secret, self.region)

    def sign(self, method, key, query=()):  # pylint: disable=arguments-differ
        return self.sign_in(self.bucket, method, key, query)

    def sign_in(self, bucket, method, key, query=()):
        """The same in any bucket."""
        if self.signature == "v1":
            query = signing.v1_query(self.credentials, method, bucket, key, list(query), {}, time.time() + SIGNED_FOR_S)
        else:
            query = signing.v4_query(self.credentials, method, bucket, key, list(query), {}, SIGNED_FOR_S)
        return f"/{bucket}/{urllib.parse.quote(key)}?{signing.query_text(query)}"


class OssCluster(Oss):
    """A cluster of Granary, asked through the gateway that is its only one."""

    def __init__(self, name, cluster, place, signature):
        gateway, = cluster.some(role="gateway")
        super().__init__(name, GATEWAY_PORT, place, signature, address=cluster[gateway].machine.address)
        self.cluster = cluster
        self.access_key, self.secret, self.region = cluster.credentials.key_id, cluster.credentials.secret, cluster.credentials.region
        self.pids = [node.process.pid for node in cluster.nodes.values()]

    def running(self):
        return all(node.running for node in self.cluster.nodes.values())

    def stop(self):
        self.peak_mebibytes()
        self.cluster.close()

    def restart(self):
        raise NotImplementedError("a cluster is not started anew between rounds")


class Memory(Target):
    """The bare server: no signatures, and what a GET answers is as long as its URL says."""
    keeps = False

    def sign(self, method, key):
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        return f"{path}?bytes={SIZES[key.split('/')[0]]}" if method == "GET" else path

    def put(self, key, body):
        pass


class S3(Target):
    """Anything that speaks S3 with V4 URLs. `others` are further processes of it, which no client talks to."""
    others = ()

    def running(self):
        return super().running() and all(other.running() for other in self.others)

    def stop(self):
        super().stop()
        for other in self.others:
            other.stop()

    def restart(self):
        if self.others:
            raise NotImplementedError("a cluster is not started anew between rounds")
        super().restart()

    def sign(self, method, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        scope = f"{day}/{self.region}/s3/aws4_request"
        full = [("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", f"{self.access_key}/{scope}"),
                ("X-Amz-Date", stamp), ("X-Amz-Expires", str(SIGNED_FOR_S)), ("X-Amz-SignedHeaders", "host")]
        text_query = "&".join(f"{k}={urllib.parse.quote(v, safe='')}" for k, v in full)
        path = f"/{self.bucket}/{urllib.parse.quote(key)}"
        canonical = f"{method}\n{path}\n{text_query}\nhost:{self.address}:{self.port}\n\nhost\nUNSIGNED-PAYLOAD"
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


def start_granary(place, binaries, disks=1, signature=SIGNATURES[0], settings="", under=(), env=None):  # pylint: disable=too-many-arguments
    """A Granary with its data under `place`, and these sections in its configuration; `under` stands before its command line."""
    port, admin = free_ports(2)
    target = Oss("granary", port, place, signature)
    target.admin = f"127.0.0.1:{admin}"
    command = [*under, os.path.join(binaries, "granary"), "server"]
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
        target.start(command, ready, {"GRANARY_ROOT_ACCESS_KEY_ID": target.access_key, "GRANARY_ROOT_ACCESS_KEY_SECRET": target.secret, **(env or {})})
        status, content = target.call("PUT", target.sign("PUT", ""))
        if status != 200:
            raise RuntimeError(f"cannot make a bucket: {status} {content[:300]!r}")
    return target


def start_granary_cluster(place, binaries, disks=1, signature=SIGNATURES[0]):
    """Seven processes: a meta and a storage node in each of three zones, and one gateway, which also does the background work.
    Everything is as it is by default: sizes, backup of the metadata, TLS between nodes. No relay, no network but loopback."""
    specs = [Spec(f"{role[0]}{zone}", f"z{zone}", (role,), disks) for role in ("meta", "storage") for zone in (1, 2, 3)]
    cluster = Cluster(place, [*specs, Spec("gateway", "z1", ("gateway", "worker"))], settings="", relays=False, network=network.Loopback,
                      program=[os.path.abspath(os.path.join(binaries, "granary"))])
    try:
        cluster.form()
        target = OssCluster("granary", cluster, place, signature)
        status, content = target.call("PUT", target.sign("PUT", ""), ZRS)
        if status != 200:
            raise RuntimeError(f"cannot make a bucket: {status} {content[:300]!r}")
        target.look_idle()
    except BaseException:
        cluster.close()
        raise
    return target


def start_granary_nodes(place, binaries, settings, signature=SIGNATURES[0]):
    """Three processes with the metadata and a disk each, the first one with the only gateway. Sections of their configuration; the rest is as
    it is by default."""
    rest = ("meta", "storage", "worker")
    specs = [Spec("a", "z1"), Spec("b", "z1", rest), Spec("c", "z1", rest)]
    cluster = Cluster(place, specs, settings=settings, relays=False, network=network.Loopback,
                      program=[os.path.abspath(os.path.join(binaries, "granary"))])
    try:
        cluster.form()
        target = OssCluster("granary", cluster, place, signature)
        status, content = target.call("PUT", target.sign("PUT", ""))
        if status != 200:
            raise RuntimeError(f"cannot make a bucket: {status} {content[:300]!r}")
    except BaseException:
        cluster.close()
        raise
    return target


def start_bare(place, binaries):
    """The ceiling: hyper answering from memory."""
    target = Memory("bare hyper", free_ports(1)[0], place)
    with started(target):
        target.start([os.path.join(binaries, "bare_hyper"), f"127.0.0.1:{target.port}"], lambda: target.call("GET", "/x")[0] == 404)
    return target


def garage_config(place, durable, copies, port, rpc):
    """Writes the configuration of one node, which serves S3 if it has a port for that; its file."""
    os.makedirs(place, exist_ok=True)
    config = os.path.join(place, "garage.toml")
    fsync = "" if GARAGE[durable] is None else f"metadata_fsync = {str(GARAGE[durable]).lower()}\ndata_fsync = {str(GARAGE[durable]).lower()}\n"
    serves = f'api_bind_addr = "127.0.0.1:{port}"\n' if port else ""
    with open(config, "w", encoding="utf-8") as handle:
        handle.write(f"""metadata_dir = "{place}/meta"
data_dir = "{place}/data"
db_engine = "lmdb"
replication_factor = {copies}
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{'0' * 63}1"
{fsync}[s3_api]
s3_region = "garage"
{serves}""")
    return config


def garage(config, *words):
    """A command of garage's at a running node."""
    done = subprocess.run(["garage", "-c", config, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"garage {' '.join(words)}: {done.stderr}")
    return done.stdout


def listens(port):
    """Whether somebody takes connections there."""
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def start_garage(place, durable, nodes=1):
    """A garage, or None where it is not installed. `durable` is a key of GARAGE. Each node is a zone and has a copy of
    everything; clients talk to the first one."""
    if shutil.which("garage") is None:
        return None
    port, *rpcs = free_ports(1 + nodes)
    target = S3(f"garage {durable}", port, place)
    target.region = "garage"
    target.others = [S3(f"{target.name}, node {number}", None, f"{place}-{number}") for number in range(2, nodes + 1)]
    members = [target, *target.others]
    configs = [garage_config(member.place, durable, nodes, member.port, rpc) for member, rpc in zip(members, rpcs)]
    with started(target):
        for member, config, rpc in zip(members, configs, rpcs):
            ready = (lambda: target.call("GET", "/")[0] > 0) if member is target else functools.partial(listens, rpc)
            member.start(["garage", "-c", config, "server"], ready)
        target.pids = [member.process.pid for member in members]
        join_garage(target, configs)
        made = garage(configs[0], "key", "create", "bench")
        target.access_key = re.search(r"Key ID:\s+(\S+)", made).group(1)
        target.secret = re.search(r"Secret key:\s+(\S+)", made).group(1)
        garage(configs[0], "bucket", "create", target.bucket)
        garage(configs[0], "bucket", "allow", "--read", "--write", target.bucket, "--key", "bench")
        if target.others:
            target.look_idle()
    return target


def join_garage(target, configs):
    """Makes one cluster of nodes that run: a zone for each, and no way to go on before all know of all."""
    first = configs[0]
    names = [garage(config, "node", "id", "-q").strip() for config in configs]
    for name in names[1:]:
        garage(first, "node", "connect", name)
    for number, name in enumerate(names):
        target.wait(functools.partial(said_yes, first, "layout", "assign", "-z", f"zone{number + 1}", "-c", "10G", name.split("@")[0]))
    garage(first, "layout", "apply", "--version", "1")
    for config in configs if len(configs) > 1 else []:
        target.wait(functools.partial(garage_whole, config, len(configs)))


def said_yes(config, *words):
    """Whether a command of garage's succeeds: a node may not have heard yet of another one it was told to connect to."""
    try:
        garage(config, *words)
    except RuntimeError:
        return False
    return True


def garage_whole(config, nodes):
    """Whether a node knows the layout with so many storage nodes and all copies of everything are within its reach."""
    health = json.loads(garage(config, "json-api", "GetClusterHealth"))
    return health["storageNodes"] == nodes and health["partitionsAllOk"] == health["partitions"] > 0
