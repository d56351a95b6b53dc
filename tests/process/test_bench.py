"""`granary bench`: what it prints, its JSON and exit codes, what it checks, and that it leaves nothing behind."""
import json
import os
import re
import signal
import subprocess
import threading

import pytest

from harness.server import binary
from harness.waiting import wait_for

from .s3_store import S3Store

WORKLOADS = "put-4k,get-100k,head,delete,list-20,mixed-64k"
SHORT = ("--seconds", "0.5", "--warm-up", "0.1", "--keys", "40", "--connections", "4")


def keys_of(server):
    """The variables that SDKs read the keys of a server from."""
    return {"OSS_ACCESS_KEY_ID": server.credentials.key_id, "OSS_ACCESS_KEY_SECRET": server.credentials.secret}


def command(*arguments):
    """The command line."""
    return [binary(), "bench", "--bucket", *map(str, arguments)]


def environment(variables):
    """The environment without keys but the given ones."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GRANARY_", "OSS_", "AWS_"))}
    return {**clean, **variables}


def bench(variables, *arguments):
    """Runs it to its end."""
    return subprocess.run(command(*arguments), env=environment(variables), capture_output=True, text=True, timeout=120, check=False)


def objects_in(wire, bucket):
    """All keys of a bucket."""
    return wire.must("GET", bucket, query={"list-type": "2"}).texts("Contents/Key")


def test_it_measures_a_server_and_leaves_nothing(server, wire, bucket, tmp_path):
    file = tmp_path / "figures.json"
    done = bench(keys_of(server), bucket, "--endpoint", server.endpoint, *SHORT, "--rounds", "2", "--json", file, WORKLOADS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert objects_in(wire, bucket) == []
    figures = json.loads(file.read_text())
    assert (figures["interrupted"], figures["objects_left_under"]) == (False, None)
    assert figures["settings"]["endpoint"] == server.endpoint and figures["settings"]["seconds"] == 0.5
    assert [found["workload"] for found in figures["workloads"]] == WORKLOADS.split(",")
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line[:1].strip()}
    for found in figures["workloads"]:
        name, latency = found["workload"], found["latency_ms"]
        assert found["errors"] == 0 and found["failures"] == [], found
        assert len(found["rounds"]) == 2
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
        assert found["requests_per_second"] > 0
        assert rows[name][1:4] == [str(found["requests"]), "0", f"{found['requests_per_second']:.1f}"]
    by_name = {found["workload"]: found for found in figures["workloads"]}
    assert by_name["delete"]["requests"] == 80, "each object of a round is deleted once"
    get = by_name["get-100k"]
    assert get["bytes_per_second"] == pytest.approx(get["requests_per_second"] * 102400)
    assert 0 < get["first_byte_ms"]["p50"] <= get["latency_ms"]["max"]
    mix = {part["operation"]: part["requests"] for part in by_name["mixed-64k"]["operations"]}
    assert mix["get"] > mix["put"] > mix["head"] > 0
    assert sum(mix.values()) == by_name["mixed-64k"]["requests"]


def test_a_number_of_requests_and_json_on_the_standard_output(server, wire, bucket):
    root = {"GRANARY_ROOT_ACCESS_KEY_ID": server.credentials.key_id, "GRANARY_ROOT_ACCESS_KEY_SECRET": server.credentials.secret}
    done = bench(root, bucket, "--endpoint", server.endpoint, "--requests", "57", "--warm-up", "0", "--keys", "10",
                 "--prefix", "some/where-", "--keep", "--json", "-", "get-300")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["workloads"][0]["requests"] == 57 and figures["settings"]["requests"] == 57
    assert "get-300" in done.stderr, "the table goes to the standard error"
    kept = objects_in(wire, bucket)
    assert len(kept) == 10 and all(key.startswith(figures["objects_left_under"]) for key in kept)
    assert figures["objects_left_under"].startswith("some/where-")
    assert {len(wire.must("GET", bucket, key).body) for key in kept} == {300}


def test_wrong_keys_and_buckets_are_said_in_a_sentence(server, bucket, tmp_path):
    good = keys_of(server)
    wrong_secret, nobody = {**good, "OSS_ACCESS_KEY_SECRET": "wrong"}, {**good, "OSS_ACCESS_KEY_ID": "nobody"}
    pair = tmp_path / "pair.toml"
    pair.write_text('access_key_id = "nobody"\naccess_key_secret = "hush"\n')
    for variables, extra, words in [
            (wrong_secret, [], ["403 SignatureDoesNotMatch", bucket]),
            (nobody, [], ["403 InvalidAccessKeyId"]),
            ({}, ["--credentials", pair], ["403 InvalidAccessKeyId"]),
            ({}, [], ["OSS_ACCESS_KEY_ID", "--credentials"]),
            (good, ["--region", "elsewhere"], ["400 InvalidArgument", "region"]),
            (good, ["--endpoint", "http://127.0.0.1:1"], ["Unreachable", "127.0.0.1:1"]),
            (good, ["--json", tmp_path / "no" / "where"], ["--json", "where"]),
    ]:
        done = bench(variables, bucket, "--endpoint", server.endpoint, *extra, "head") if "--endpoint" not in extra else bench(variables, bucket, *extra, "head")
        assert done.returncode == 1, done.stderr
        said = done.stderr.strip()
        assert said.startswith("granary: ") and len(said.splitlines()) == 1 and "hush" not in said, said
        for word in words:
            assert word in said, said
    done = bench(good, bucket + "-not", "--endpoint", server.endpoint, "head")
    assert done.returncode == 1 and "404 NoSuchBucket" in done.stderr


def test_a_bucket_with_versions_is_refused(server, wire, bucket):
    wire.must("PUT", bucket, query=["versioning"], body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    done = bench(keys_of(server), bucket, "--endpoint", server.endpoint, "put-4k")
    assert done.returncode == 1 and "versioning" in done.stderr, done.stderr
    assert objects_in(wire, bucket) == []


def test_a_bucket_with_directories_is_measured_and_nothing_but_the_prefix_stays(server, wire, bucket_name):
    wire.must("PUT", bucket_name, headers={"x-oss-hns-status": "enabled"})
    try:
        done = bench(keys_of(server), bucket_name, "--endpoint", server.endpoint, *SHORT, "--json", "-", WORKLOADS, "list-40")
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert [found["errors"] for found in figures["workloads"]] == [0] * 7 and figures["objects_left_under"] is None
        assert objects_in(wire, bucket_name) == ["granary-bench/"]
    finally:
        while keys := objects_in(wire, bucket_name):
            for key in reversed(keys):
                wire.must("DELETE", bucket_name, key)
        wire.must("DELETE", bucket_name)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_what_was_measured_and_nothing_left(server, wire, bucket, tmp_path, sent):
    file = tmp_path / "figures.json"
    line = command(bucket, "--endpoint", server.endpoint, "--seconds", "600", "--warm-up", "0", "--keys", "30", "--connections", "4", "--json", file, "put-64k,get-64k")
    # Whoever runs the tests may have them ignore SIGHUP.
    process = subprocess.Popen(line, env=environment(keys_of(server)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    try:
        wait_for("objects", lambda: len(objects_in(wire, bucket)) == 30, pause_s=0.02)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert objects_in(wire, bucket) == []
    figures = json.loads(file.read_text())
    assert figures["interrupted"] and figures["objects_left_under"] is None
    measured = figures["workloads"]
    assert [found["workload"] for found in measured] == ["put-64k"] and measured[0]["requests"] >= 30
    assert re.search(r"^put-64k +\d+ +0 ", out, re.MULTILINE), out
    assert "ending" in err


def test_it_goes_on_without_a_terminal_when_told_to(server, wire, bucket):
    """As nohup does: SIGHUP is ignored, and stays so."""
    line = command(bucket, "--endpoint", server.endpoint, *SHORT, "put-4k")
    process = subprocess.Popen(line, env=environment(keys_of(server)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        wait_for("objects", lambda: objects_in(wire, bucket), pause_s=0.02)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_it_ends_with_nothing_left_when_nobody_reads_the_table(server, wire, bucket):
    """It goes to the standard error; the reader goes before the first row."""
    line = command(bucket, "--endpoint", server.endpoint, *SHORT, "--json", "-", "put-4k,get-4k")
    process = subprocess.Popen(line, env=environment(keys_of(server)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "4 connections" in process.stderr.readline()
        process.stderr.close()
        figures = json.loads(process.stdout.read())
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert figures["interrupted"] and figures["objects_left_under"] is None
    # The table's heading comes before the first workload, which may be over before the next line is written.
    assert [found["workload"] for found in figures["workloads"]] in ([], ["put-4k"])
    assert objects_in(wire, bucket) == []


def peak_kib(pid):
    """Peak resident memory so far; 0 of a process that has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_memory_does_not_grow_with_objects(server, bucket):
    """Sixteen connections with bodies of 32 MiB. What the kernel tells of an ended child includes its parent's memory before exec."""
    line = command(bucket, "--endpoint", server.endpoint, "--requests", "32", "--warm-up", "0", "--keys", "4", "--connections", "16", "put-32m,get-32m")
    process = subprocess.Popen(line, env=environment(keys_of(server)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks = []
    try:
        wait_for("its end", lambda: peaks.append(peak_kib(process.pid)) or process.poll() is not None, deadline_s=120, pause_s=0.005)
    finally:
        process.kill()
        assert process.wait() == 0
    assert 0 < max(peaks) < 72 * 1024, f"{max(peaks)} KiB"


@pytest.fixture
def s3_keys():
    """Keys of the S3 store, as its SDKs read them."""
    return {"AWS_ACCESS_KEY_ID": "s3id", "AWS_SECRET_ACCESS_KEY": "s3secret"}


def test_a_store_that_speaks_s3_accepts_every_signature(s3_keys):
    store = S3Store("s3id", "s3secret", "eu-west-9")
    try:
        done = bench({**s3_keys, "AWS_SESSION_TOKEN": "token/with+signs="}, "bucket", "--endpoint", store.endpoint, "--dialect", "s3", "--region", "eu-west-9", *SHORT,
                     "--json", "-", "--prefix", "a_b.c/-", WORKLOADS)
        assert done.returncode == 0, done.stderr
        assert store.refused == [] and store.objects == {}
        assert [found["errors"] for found in json.loads(done.stdout)["workloads"]] == [0] * 6
        wrong = bench({**s3_keys, "AWS_SECRET_ACCESS_KEY": "no"}, "bucket", "--endpoint", store.endpoint, "--dialect", "s3", "--region", "eu-west-9", "head")
        assert wrong.returncode == 1 and "403 SignatureDoesNotMatch: It does not." in wrong.stderr
    finally:
        store.close()


def flip(number, body):
    """Every fifth answer has another bit."""
    return body[:-1] + bytes([body[-1] ^ 1]) if number % 5 == 0 else body


def test_wrong_bodies_are_errors(s3_keys):
    store = S3Store("s3id", "s3secret", "us-east-1", damage=flip)
    try:
        done = bench(s3_keys, "bucket", "--endpoint", store.endpoint, "--dialect", "s3", "--requests", "100", "--warm-up", "0", "--keys", "10", "--json", "-", "get-70k")
        assert done.returncode == 3, done.stderr
        get = json.loads(done.stdout)["workloads"][0]
        assert (get["requests"], get["errors"]) == (100, 20)
        assert [(kind["status"], kind["code"], kind["count"]) for kind in get["failures"]] == [(200, "WrongBody", 20)]
        assert "20 errors of get-70k: 200 WrongBody" in done.stderr
        assert store.objects == {}
    finally:
        store.close()


@pytest.mark.parametrize("is_read", [True, False])
def test_a_second_signal_ends_it_at_once_whoever_reads_what_it_says(s3_keys, is_read):
    """The store no longer answers, so that what is under way would take its timeout."""
    gate = threading.Event()
    store = S3Store("s3id", "s3secret", "us-east-1", damage=lambda number, body: (number < 20 or gate.wait(60)) and body)
    line = command("bucket", "--endpoint", store.endpoint, "--dialect", "s3", "--seconds", "600", "--timeout", "500", "--warm-up", "0", "--keys", "4", "--connections", "2", "get-4k")
    process = subprocess.Popen(line, env=environment(s3_keys), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("an answer that does not come", lambda: store.gets >= 21)
        if is_read:
            process.send_signal(signal.SIGINT)
            assert "ending" in process.stderr.readline()
            assert process.poll() is None, "it waits for what is under way"
            process.send_signal(signal.SIGINT)
        else:
            process.stderr.close()
            # Two that come at once are one.
            wait_for("its end", lambda: process.send_signal(signal.SIGINT) or process.poll() is not None, deadline_s=20)
        assert process.wait(10) == 130
        assert len(store.objects) == 4
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        gate.set()
        store.close()
