#!/usr/bin/env python3
"""Runs the test suites that the source distributions of Python clients ship, unmodified, against this server.

    tests/sdk/upstream/run.py [--quick] [--cluster] [SUITE...]

SUITE is oss2 (with V1, V4 and V2), aiooss2 or ossfs; default: all. What cannot pass is in SUITE.txt beside this file, with the
reason; what passes although it is listed there fails the run. --quick leaves out what takes long. --cluster asks a gateway of a cluster
of processes instead of one server. GRANARY_ENDPOINT names a server that runs already, with GRANARY_KEY_ID, GRANARY_KEY_SECRET and
GRANARY_REGION, and for ossfs GRANARY_OTHER_KEY_ID and GRANARY_OTHER_KEY_SECRET of another account.
"""
import argparse
import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", ".."))

from harness.cluster_server import cluster_server  # noqa: E402  pylint: disable=wrong-import-position
from harness.server import Server  # noqa: E402  pylint: disable=wrong-import-position
from harness.signing import Credentials  # noqa: E402  pylint: disable=wrong-import-position
from harness.wire import Wire  # noqa: E402  pylint: disable=wrong-import-position

# What of a suite is quick and worth a run every time.
QUICK = {
    "oss2": ["test_object.py", "test_multipart.py", "test_bucket_versioning.py", "test_list_objects_v2.py", "test_exception_ec.py", "test_sign.py", "test_chinese.py"],
    "ossfs": ["func/test_bucket.py", "func/test_error.py", "func/test_object.py"],
    "aiooss2": [""],
}


@dataclass
class Target:
    """The server under test."""
    endpoint: str
    credentials: Credentials
    # Those of another account.
    other: Credentials

    def wire(self, credentials=None):
        """A raw client."""
        host, _, port = self.endpoint.partition("://")[2].partition(":")
        return Wire(host, int(port), credentials or self.credentials)


def pinned():
    """The version of oss2 in requirements.txt."""
    with open(os.path.join(HERE, "..", "requirements.txt"), encoding="utf-8") as handle:
        return re.search(r"^oss2==(\S+)$", handle.read(), re.M).group(1)


def fetch(place):
    """Unpacks the source distribution of oss2; returns its directory. Needs no network once pip has it in its cache."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "oss2",
                    f"oss2=={pinned()}", "--dest", place], check=True)
    archive = glob.glob(os.path.join(place, "oss2-*.tar.gz"))[0]
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(place)
    source = archive.removesuffix(".tar.gz")
    with open(os.path.join(source, "mock.py"), "w", encoding="utf-8") as module:
        # The package that the suite imports has long been part of Python.
        module.write("from unittest.mock import *\n")
    return source


def run(suite, python, source, signature, env, parts):
    """One run of a suite; returns pytest's exit code."""
    print(f"== the tests of {suite}, signature {signature}", flush=True)
    listed = os.path.join(HERE, f"{suite}.txt")
    env = {**os.environ, **env, "EXPECTED": listed, "SIGNATURE": signature, "PART": "1" if parts else "", "PYTHONPATH": os.pathsep.join([source, HERE])}
    paths = [os.path.join("tests", part) for part in parts or [""]]
    # oss2 would log everything; a test of ossfs reads a warning. Not --tb=short: rendering some of these tracebacks breaks Python 3.11.
    quiet = ["--log-level=CRITICAL"] if suite == "oss2" else []
    return subprocess.run([python, "-m", "pytest", "-q", "-p", "expected", "-p", "no:cacheprovider", "--tb=native", "-W", "ignore", *quiet,
                           "-o", "console_output_style=classic", "-rfE", *paths], cwd=source, env=env, check=False).returncode


def run_oss2(target, place, quick):
    """The suite of oss2 with each version of the signature."""
    source = fetch(place)
    cred = target.credentials
    outcome = 0
    for signature in ("v4",) if quick else ("v1", "v4", "v2"):
        env = dict(OSS_TEST_ENDPOINT=target.endpoint, OSS_TEST_BUCKET=f"upstream-{signature}-", OSS_TEST_AUTH_VERSION=signature, OSS_TEST_ACCESS_KEY_ID=cred.key_id,
                   OSS_TEST_ACCESS_KEY_SECRET=cred.secret, OSS_TEST_REGION=cred.region)
        outcome = run("oss2", sys.executable, source, signature, env, QUICK["oss2"] if quick else []) or outcome
    return outcome


def run_in_environment(suite, target, quick):
    """A suite that has an environment of its own; says so when scripts/clients.sh could not make it."""
    clients = os.environ.get("GRANARY_CLIENTS") or os.environ.get("GRANARY_VENV", "") + "-clients"
    place = os.path.join(clients, "python")
    if not os.path.exists(os.path.join(place, "ready")):
        print(f"NOT RUN: the tests of {suite}: there is no {place}")
        return 1 if os.environ.get("GRANARY_REQUIRE_CLIENTS") else 0
    wire = target.wire()
    # aiooss2 has the name of its public bucket in its code.
    for bucket, acl in ((f"upstream-{suite}", "private"), ("dvc-anonymous", "public-read")):
        wire.must("PUT", bucket, headers={"x-oss-acl": acl})
    # ossfs takes a bucket for a directory when something is in it.
    wire.put("dvc-anonymous", "something", b"x")
    wire.close()
    if suite == "ossfs":
        # What it takes for missing are buckets of others with the vendor.
        wire = target.wire(target.other)
        for bucket in ("non-exist-bucket", "xxxx"):
            wire.must("PUT", bucket)
        wire.close()
    env = dict(OSS_ENDPOINT=target.endpoint, OSS_ACCESS_KEY_ID=target.credentials.key_id, OSS_SECRET_ACCESS_KEY=target.credentials.secret,
               OSS_TEST_BUCKET_NAME=f"upstream-{suite}", OSS_TEST_ANONYMOUS_BUCKET_NAME="dvc-anonymous")
    return run(suite, os.path.join(place, "bin", "python"), os.path.join(place, "sources", suite), "v1", env, QUICK[suite] if quick and QUICK[suite] != [""] else [])


@contextlib.contextmanager
def one_server(place):
    """A server of our own, whose end is checked."""
    server = Server([os.path.join(place, "disk")], os.path.join(place, "server.log"))
    # The suite of oss2 compares the advertised endpoint with its own.
    server.flags += ["--public-endpoint", server.endpoint]
    try:
        yield server.start()
        code = server.stop()
        assert code == 0, f"the server ended with {code}"
    finally:
        server.kill()


@contextlib.contextmanager
def target(place, on_cluster):
    """What the suites are run against, with two accounts."""
    if os.environ.get("GRANARY_ENDPOINT"):
        region = os.environ["GRANARY_REGION"]
        cred = Credentials(os.environ["GRANARY_KEY_ID"], os.environ["GRANARY_KEY_SECRET"], region)
        other = Credentials(os.environ.get("GRANARY_OTHER_KEY_ID", ""), os.environ.get("GRANARY_OTHER_KEY_SECRET", ""), region)
        yield Target(os.environ["GRANARY_ENDPOINT"], cred, other)
        return
    with (cluster_server if on_cluster else one_server)(place) as server:
        made = server.account("create", "somebody else")
        yield Target(server.endpoint, server.credentials, Credentials(made["access_key_id"], made["access_key_secret"], server.credentials.region))


def main():
    """All suites against one server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("suites", nargs="*", default=["aiooss2", "ossfs", "oss2"])
    args = parser.parse_args()
    place = tempfile.mkdtemp(prefix="upstream-")
    outcome = 0
    try:
        with target(place, args.cluster) as asked:
            for suite in args.suites:
                outcome = (run_oss2(asked, place, args.quick) if suite == "oss2" else run_in_environment(suite, asked, args.quick)) or outcome
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
