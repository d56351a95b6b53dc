"""The process itself: first start, settings, what it refuses, what it logs and counts, how it stops."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from harness.server import Server, binary, free_ports
from harness.signing import Credentials
from harness.waiting import wait_for

from .otlp import Collector

BUCKET = "process-bucket"


@pytest.fixture
def place(tmp_path):
    """Where a test keeps its directories."""
    return tmp_path


@pytest.fixture
def start(place):
    """Makes servers that do not outlive the test."""
    made = []

    def make(name="s", config=None, **settings):
        flags = list(settings.pop("flags", []))
        if config is not None:
            path = place / f"{name}.toml"
            path.write_text(config)
            flags += ["--config", str(path)]
        directories = settings.pop("data_dirs", None) or [place / name]
        server = Server(directories, place / f"{name}.log", flags=flags, **settings)
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.kill()


def run_until_it_ends(*arguments, env=None):
    """Runs the binary when it is expected to refuse; returns its exit code and what it said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
    done = subprocess.run([binary(), *map(str, arguments)], env={**clean, **(env or {})}, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def test_make_run_gives_the_server_no_variable_of_its_own():
    """The Makefile's variables are no settings, and a server that is given one warns of it."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(os.path.join(root, "Makefile"), encoding="utf-8") as makefile:
        exported = re.findall(r"^export (GRANARY_\w+)", makefile.read(), re.MULTILINE)
    done = subprocess.run(["make", "-n", "run"], cwd=root, text=True, stdout=subprocess.PIPE, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("exec env"))
    assert exported and set(re.findall(r"-u (\w+)", line)) == set(exported)


def refuses(code, output, *words):
    """It ended with an error and one helpful sentence, not with a stack trace."""
    assert code not in (0, 101), output
    assert "panicked" not in output
    for word in words:
        assert str(word) in output, output


def test_first_start_prints_what_one_needs(place):
    """Without credentials it makes some, keeps them for the owner only, and prints a snippet that works."""
    port, admin = free_ports(2)
    command = [binary(), "server", "--data", str(place / "data"), "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
    printed = []
    for _ in range(2):
        with open(place / "out", "w+", encoding="utf-8") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=clean)
            try:
                wait_for("the greeting", lambda: "access key" in (place / "out").read_text())
                printed.append((place / "out").read_text())
                if len(printed) == 1:
                    secret = re.search(r"access key secret\s+(\S+)", printed[0]).group(1)
                    snippet = printed[0][printed[0].index("import oss2"):]
                    said = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60, check=True)
                    assert "hello" in said.stdout
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
    kept = place / "data" / "meta" / "root-credentials.toml"
    assert secret in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    assert secret not in printed[1], "the secret is printed once"
    assert str(kept) in printed[1], "and then it says where the secret is"


def greeting_of(place, *arguments):
    """Starts a server without configured credentials until it has greeted; returns what it printed."""
    ports = free_ports(2)
    command = [binary(), "server", "--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}", *map(str, arguments)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
    with open(place / "greeting", "w+", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=clean)
        try:
            wait_for("the greeting", lambda: "access key" in (place / "greeting").read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    return (place / "greeting").read_text()


def test_a_key_made_by_a_start_that_failed_is_shown_by_the_one_that_succeeds(place):
    meta = place / "meta"
    (place / "file").write_text("this is no directory")
    code, output = run_until_it_ends("server", "--data", place / "file", "--meta-dir", meta, "--listen", "127.0.0.1:0", "--admin-listen", "off")
    refuses(code, output, place / "file")
    kept = (meta / "root-credentials.toml").read_text()
    secret = re.search(r'access_key_secret = "(\S+)"', kept).group(1)
    assert secret in greeting_of(place, "--data", place / "data", "--meta-dir", meta)
    later = greeting_of(place, "--data", place / "data", "--meta-dir", meta)
    assert secret not in later and str(meta / "root-credentials.toml") in later


def test_another_root_key_replaces_the_one_before(start):
    server = start()
    first, second = server.credentials, Credentials("anotherTestKey", "anotherSecret0123456789", server.credentials.region)
    server.wire().must("PUT", BUCKET)

    def restart_with(credentials):
        assert server.stop() == 0
        server.credentials = credentials
        server.start()

    def refusal(credentials):
        answer = server.wire(cred=credentials).request("GET", BUCKET)
        return answer.status, answer.code

    for new, old in [(second, first), (second, first), (first, second)]:
        restart_with(new)
        server.wire().must("GET", BUCKET)
        assert refusal(old) == (403, "InvalidAccessKeyId")
    assert server.stop() == 0


def test_a_key_that_was_made_is_replaced_by_one_that_is_given(place):
    meta = place / "data" / "meta"
    greeting_of(place, "--data", place / "data")
    kept = dict(re.findall(r'(\w+) = "(\S+)"', (meta / "root-credentials.toml").read_text()))
    made = Credentials(kept["access_key_id"], kept["access_key_secret"], "cn-granary-1")
    server = Server([place / "data"], place / "s.log").start()
    try:
        server.wire().must("GET")
        assert server.wire(cred=made).request("GET").status == 403
        assert server.stop() == 0
    finally:
        server.kill()
    assert made.key_id in greeting_of(place, "--data", place / "data")


def test_a_data_directory_that_cannot_be_used_is_no_copy(place, start):
    """It starts with what it has, and says how many copies that is wherever one would look."""
    server = start(data_dirs=[place / "x1", "/proc/x2"])
    wait_for("the log", lambda: "directories_out=1" in (place / "s.log").read_text())
    log = (place / "s.log").read_text()
    assert re.search(rf"data +{place}/x1 \(one copy of ", log), log
    assert re.search(r"OUT +/proc/x2 ", log) and "copies=1" in log and "2 copies" not in log, log
    serves = {name.split('"')[1]: value for name, value in server.metrics().items() if name.startswith("granary_data_directory_in_service")}
    assert serves == {str(place / "x1"): 1, "/proc/x2": 0}
    assert server.stop() == 0


def test_the_banner_says_what_has_how_many_copies(place):
    greeting = greeting_of(place, "--data", place / "a", "--data", place / "b", "--public-endpoint", "https://oss.example.com")
    assert "(2 copies of objects over 16 KiB)" in greeting
    assert f"metadata   {place}/a/meta (one copy of every name and of objects up to 16 KiB" in greeting
    assert "endpoint   https://oss.example.com\n" in greeting
    assert re.search(r"listens on http://127\.0\.0\.1:\d+\n", greeting)


def test_a_lost_master_key_is_not_replaced(place, start):
    server = start()
    assert server.stop() == 0
    key = place / "s" / "meta" / "master.key"
    was = key.read_bytes()
    key.unlink()
    refuses(*run_until_it_ends(*server.command()[1:]), key, "is missing", "backup")
    assert not key.exists()
    key.write_bytes(was)
    server.start()
    server.wire().must("GET")
    assert server.stop() == 0


def test_what_it_makes_is_for_its_owner_only(place, start):
    server = start()
    raw = server.wire()
    raw.must("PUT", BUCKET)
    raw.put(BUCKET, "large", bytes(300_000))
    raw.put(BUCKET, "small", b"x")
    made = [place / "s", *(place / "s").rglob("*")]
    assert len(made) > 10
    others = [path for path in made if path.lstat().st_mode & 0o077]
    assert others == [], others
    assert server.stop() == 0


def test_the_order_of_the_directories_matters_and_it_says_so(place, start):
    (place / "c").mkdir()
    assert start("a", data_dirs=[place / "a", place / "c"]).stop() == 0
    refuses(*run_until_it_ends("server", "--data", place / "c", "--data", place / "a"), place / "c" / "meta", f"--meta-dir {place / 'a' / 'meta'}")
    assert not (place / "c" / "meta").exists(), "it left something behind"


def test_a_long_recovery_is_alive_but_not_ready(place, start):
    """What it waits for here is a file that does not come; it could be a large log as well."""
    server = start()
    assert server.stop() == 0
    key = place / "s" / "meta" / "master.key"
    was = key.read_bytes()
    key.unlink()
    os.mkfifo(key)
    server.start(wait=False)
    wait_for("live", lambda: server.health("live") == 200)
    assert server.health("ready") == 503
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=30)
    key.write_bytes(was)
    server.wait_ready()
    server.wire().must("GET")
    assert server.stop() == 0


def test_a_misspelt_variable_is_said(start):
    server = start(env={"GRANARY_LISTN": "1"})
    (alarm,) = server.new_alarms()
    assert "GRANARY_LISTN" in alarm and "GRANARY_ROOT" not in alarm
    assert server.stop() == 0


def test_flags_win_over_variables_and_variables_over_the_file(place, start):
    config = 'region = "cn-file-1"\npublic_endpoint = "http://from-the-file"\n[meta]\nshards = 2\n'
    server = start(config=config, region="cn-flag-1", env={"GRANARY_REGION": "cn-variable-1", "GRANARY_PUBLIC_ENDPOINT": "http://from-the-variable"})
    raw = server.wire()
    raw.must("PUT", BUCKET)
    info = raw.must("GET", BUCKET, query=["bucketInfo"])
    assert info.text("Bucket/Location") == "oss-cn-flag-1"
    assert "from-the-variable" in info.text("Bucket/ExtranetEndpoint")
    shards = {name for name in server.metrics() if name.startswith("granary_raft_term")}
    assert len(shards) == 3, "the root and the two shards of the file"


@pytest.mark.parametrize("text, words", [
    ("regoin = 'x'", ["regoin", "unknown field"]),
    ("[gateway]\nconections_max = 1", ["conections_max"]),
    ("[storage]\nvolume_bytes = 1", ["volume_bytes"]),
    ("[meta]\nshards = 0", ["meta.shards", "1 and 1024"]),
    ("listen = 'nowhere'", ["listen", "nowhere", "127.0.0.1:9000"]),
    ("[workers]\nsweep_interval_secs = 0", ["workers.sweep_interval_secs"]),
    ("public_endpoint = 'foo'", ["public_endpoint", "foo", "URL such as https://"]),
    ("otlp_endpoint = 'nonsense'", ["otlp-endpoint", "nonsense", "URL such as http://"]),
])
def test_settings_it_does_not_understand(place, text, words):
    (place / "bad.toml").write_text(text)
    refuses(*run_until_it_ends("server", "--data", place / "data", "--config", place / "bad.toml"), *words)
    assert not (place / "data").exists(), "it left something behind"


def test_a_first_start_on_a_full_disk_says_so(place, start):
    """Nobody waits for a server that has nowhere to store anything; with room, the same directories will do."""
    full = place / "full.toml"
    full.write_text("[storage]\nmin_free_bytes = 1125899906842624\n")
    arguments = ["--data", place / "s", "--config", full, "--listen", "127.0.0.1:0", "--admin-listen", "off"]
    refuses(*run_until_it_ends("server", *arguments), place / "s", "storage.min_free_bytes", "keep free")
    start("s").wire().must("PUT", BUCKET)


def test_what_was_fixed_at_the_first_start_is_said(start):
    server = start(config="[meta]\nshards = 2\n")
    assert server.stop() == 0 and server.new_alarms() == []
    (config,) = [flag for flag in server.flags if flag.endswith(".toml")]
    with open(config, "w", encoding="utf-8") as file:
        file.write("[meta]\nshards = 3\n")
    server.start()
    (alarm,) = server.new_alarms()
    assert "meta.shards is 2 since the first start" in alarm


def test_a_directory_in_use(place, start):
    server = start()
    ports = free_ports(2)
    arguments = ["--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}", "--region", server.credentials.region]
    refuses(*run_until_it_ends("server", "--data", place / "s", *arguments), "in use", "another process")
    server.wire().must("PUT", BUCKET)
    assert server.stop() == 0


def test_an_address_in_use(place, start):
    server = start()
    arguments = ["--data", place / "other", "--listen", f"127.0.0.1:{server.port}", "--admin-listen", "off"]
    refuses(*run_until_it_ends("server", *arguments), f"127.0.0.1:{server.port}", "in use")
    port = free_ports(1)[0]
    arguments = ["--data", place / "other", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{server.admin_port}"]
    refuses(*run_until_it_ends("server", *arguments), "admin-listen", f"127.0.0.1:{server.admin_port}", "in use")
    assert not (place / "other").exists(), "it left something behind"


def test_what_a_newer_version_wrote(place, start):
    server = start()
    assert server.stop() == 0
    kept = place / "s" / "meta" / "format"
    was = kept.read_bytes()
    kept.write_bytes(b"99\n")
    refuses(*run_until_it_ends(*server.command()[1:]), "newer", "99")
    kept.write_bytes(was)
    server.start()
    assert server.stop() == 0


def test_directories_that_do_not_belong_together(place, start):
    for name in "ab":
        assert start(name).stop() == 0
    refuses(*run_until_it_ends("server", "--data", place / "a", "--data", place / "b"), place / "b", "belongs to cluster")
    refuses(*run_until_it_ends("server", "--data", place / "a", "--meta-dir", place / "empty"), place / "empty", "is empty")
    refuses(*run_until_it_ends("server", "--data", place / "a", "--region", "cn-elsewhere-1"), "cn-granary-1", "--region")


def test_health_and_metrics(start):
    server = start()
    raw = server.wire()
    raw.must("PUT", BUCKET)
    raw.put(BUCKET, "k", b"x" * 300_000)
    assert raw.get(BUCKET, "k").body == b"x" * 300_000
    assert raw.request("GET", BUCKET, "missing").status == 404
    assert (server.health("live"), server.health("ready")) == (200, 200)
    samples = server.metrics()

    def one(name, **labels):
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [value for sample, value in samples.items() if sample.split("{")[0] == name and all(w in sample for w in wanted)]
        assert found, f"{name} {labels} is not among the metrics"
        return sum(found)

    assert one("granary_gateway_requests_total", operation="PutObject", code="OK") == 1
    assert one("granary_gateway_requests_total", operation="GetObject", code="NoSuchKey") == 1
    assert one("granary_gateway_request_duration_seconds_count", operation="PutObject") == 1
    assert one("granary_gateway_received_bytes_total") >= 300_000
    assert one("granary_gateway_sent_bytes_total") >= 300_000
    for name in ("granary_gateway_in_flight", "granary_disk_live_bytes", "granary_raft_applied_index", "granary_rocksdb_memtable_bytes"):
        one(name)
    assert all(name not in sample for sample in samples for name in (BUCKET, "missing")), "metrics name no bucket and no key"


def test_every_request_has_a_line(start, place):
    server = start(flags=["--log-format", "json"])
    raw = server.wire()
    raw.must("PUT", BUCKET)
    answers = {"PutObject": raw.put(BUCKET, "a key", b"x"), "GetObject": raw.request("GET", BUCKET, "none")}
    raw.close()

    def lines():
        text = (place / "s.log").read_text()
        objects = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return {line["request_id"]: line for line in objects if line["target"] == "access"}

    wait_for("the lines", lambda: all(answer.headers["x-oss-request-id"] in lines() for answer in answers.values()))
    for operation, answer in answers.items():
        line = lines()[answer.headers["x-oss-request-id"]]
        assert (line["operation"], line["status"], line["bucket"]) == (operation, answer.status, BUCKET)
    line = lines()[answers["PutObject"].headers["x-oss-request-id"]]
    assert (line["key"], line["bytes_in"], line["uri"]) == ("a key", 1, f"/{BUCKET}/a%20key")


def test_traces_go_to_a_collector(start):
    collector = Collector()
    server = start(flags=["--otlp-endpoint", collector.endpoint])
    raw = server.wire()
    raw.must("PUT", BUCKET)
    request_id = raw.put(BUCKET, "traced", b"x").headers["x-oss-request-id"]
    assert server.stop() == 0, "what is left is sent before the process ends"
    for word in ("granary", "PutObject", request_id):
        assert word.encode() in collector.received(), word
    collector.close()


def test_a_collector_that_is_not_there_hurts_nobody(start):
    server = start(flags=["--otlp-endpoint", f"http://127.0.0.1:{free_ports(1)[0]}"])
    raw = server.wire()
    raw.must("PUT", BUCKET)
    raw.put(BUCKET, "k", b"x")
    assert server.stop() == 0


def slow_put(server, key, body, chunk, pause_s, results):
    """Sends a body in small steps; notes the status."""
    def pieces():
        for at in range(0, len(body), chunk):
            yield body[at:at + chunk]
            time.sleep(pause_s)
    headers = {"Content-Length": str(len(body))}
    connection = server.wire(timeout_s=120)
    signed = connection.signed("PUT", BUCKET, key, [], headers, "v4")
    with connection.socket() as raw:
        head = [f"PUT /{BUCKET}/{key} HTTP/1.1", f"Host: {connection.netloc}", *(f"{k}: {v}" for k, v in signed.items())]
        raw.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        for piece in pieces():
            raw.sendall(piece)
        results.append(raw.recv(4096).split(b"\r\n")[0])


def test_sigterm_lets_requests_finish_and_exits_0(start):
    server = start()
    raw = server.wire()
    raw.must("PUT", BUCKET)
    body, results = random.randbytes(2_000_000), []
    sender = threading.Thread(target=slow_put, args=(server, "slow", body, 100_000, 0.1, results))
    sender.start()
    wait_for("the request", lambda: sum(v for k, v in server.metrics().items() if k.startswith("granary_gateway_in_flight")) >= 1)
    server.process.send_signal(signal.SIGTERM)
    wait_for("not ready", lambda: server.health("ready") != 200)
    sender.join(60)
    assert results and results[0].startswith(b"HTTP/1.1 200"), results
    assert server.process.wait(60) == 0
    server.process = None
    server.start()
    assert raw.get(BUCKET, "slow").body == body
    assert server.stop() == 0


def test_half_sent_and_idle_connections_are_closed(start):
    server = start(config="[gateway]\nfirst_byte_timeout_ms = 300\nheader_timeout_ms = 300\nidle_timeout_ms = 300\n")
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(sent)
            while connection.recv(4096):
                pass
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = b""
        while piece := connection.recv(4096):
            answered += piece
        assert answered.startswith(b"HTTP/1.1 403")


def test_overload_answers_503_and_others_go_on(start):
    server = start(config="[gateway]\nconnections_max = 4\n")
    raw = server.wire()
    raw.must("PUT", BUCKET)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(3)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as refused:
        refused.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = b""
        while piece := refused.recv(4096):
            answered += piece
        assert answered.startswith(b"HTTP/1.1 503"), answered
    assert raw.put(BUCKET, "k", b"x").status == 200
    for connection in held:
        connection.close()
    wait_for("room again", lambda: server.wire().request("GET", BUCKET).status == 200)


# Everything that may happen to bytes in the background happens every second, and what protects them lasts seconds.
HASTY = """
[storage]
volume_bytes = 16777216
compact_interval_secs = 1
[meta]
reader_grace_secs = 1
write_lease_secs = 3
[workers]
deletion_interval_secs = 1
sweep_interval_secs = 1
"""


def chunks_deleted(server):
    """Chunks that the background work has deleted so far, by command or by the sweep."""
    return sum(value for name, value in server.metrics().items() if re.match(r"granary_worker_chunks_(deleted|swept)_total", name))


def test_a_throttled_put_survives_the_sweep(start):
    """A body slower than its lease is renewed while it comes; what other uploads left behind goes meanwhile."""
    server = start(config=HASTY)
    raw = server.wire()
    raw.must("PUT", BUCKET)
    with raw.socket() as gone:
        # An upload that dies after its first chunk was stored: its bytes belong to nobody.
        signed = raw.signed("PUT", BUCKET, "dead", [], {"Content-Length": "20000000"}, "v4")
        head = [f"PUT /{BUCKET}/dead HTTP/1.1", f"Host: {raw.netloc}", *(f"{k}: {v}" for k, v in signed.items())]
        gone.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + bytes(12_000_000))
        wait_for("its first chunk", lambda: sum(v for k, v in server.metrics().items() if k.startswith("granary_disk_chunks")) >= 1)
    body, results = random.randbytes(12_000_000), []
    slow_put(server, "slow", body, 500_000, 0.5, results)
    assert results[0].startswith(b"HTTP/1.1 200"), results
    wait_for("the sweep", lambda: chunks_deleted(server) > 0)
    assert raw.get(BUCKET, "slow").body == body
    assert raw.request("GET", BUCKET, "dead").status == 404


def test_a_throttled_get_survives_overwrite_and_sweep(start):
    """A reader that began before an overwrite gets its bytes to the end, long after the grace is over."""
    server = start(config=HASTY)
    raw = server.wire()
    raw.must("PUT", BUCKET)
    old, new = random.randbytes(64 << 20), random.randbytes(5_000_000)
    raw.put(BUCKET, "k", old)
    head = raw.head_bytes("GET", BUCKET, "k", {})
    with raw.socket(timeout_s=120) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.sendall(head)
        got = reader.recv(65536)
        raw.put(BUCKET, "k", new)
        assert raw.get(BUCKET, "k").body == new
        # Five times the grace, with the background work running all the time.
        raw.put(BUCKET, "other", new)
        raw.must("DELETE", BUCKET, "other")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            got += reader.recv(65536)
            time.sleep(0.2)
        wait_for("the deletion of another object", lambda: chunks_deleted(server) > 0)
        length = got.index(b"\r\n\r\n") + 4 + len(old)
        while len(got) < length:
            piece = reader.recv(1 << 20)
            assert piece, f"cut after {len(got)} of {length} bytes"
            got += piece
    assert got[length - len(old):] == old
    before = chunks_deleted(server)
    wait_for("the old bytes to go", lambda: chunks_deleted(server) >= before + 8 or live_bytes(server) < len(old))
    assert raw.get(BUCKET, "k").body == new


def live_bytes(server):
    """Bytes of chunks on disks."""
    return sum(value for name, value in server.metrics().items() if name.startswith("granary_disk_live_bytes"))
