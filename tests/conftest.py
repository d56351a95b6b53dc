"""Fixtures of the black-box suites: one shared server, fresh buckets, and the SDKs as a parameter.

Every test fails when the server it used logs an unexpected WARN or ERROR line while it runs.
"""
import os
import random
import shutil
import socket
import string

import pytest

from harness import sdk
from harness.server import Server

DOMAIN = "oss.granary.test"
# Where the names of DOMAIN are; a suite whose server is elsewhere says so here.
NAMED = {"address": "127.0.0.1"}


@pytest.fixture(scope="session", autouse=True)
def seed():
    """Seeds the random module; GRANARY_TEST_SEED repeats a run."""
    value = int(os.environ.get("GRANARY_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    random.seed(value)
    print(f"GRANARY_TEST_SEED={value}")
    return value


@pytest.fixture(scope="session", autouse=True)
def resolve_test_names():
    """Names under the test domain and localhost mean this machine, as a wildcard record would say."""
    real = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and (name.endswith("." + DOMAIN) or name == DOMAIN):
            host = NAMED["address"]
        elif isinstance(name, str) and name.endswith(".localhost"):
            host = "127.0.0.1"
        return real(host, *args, **kwargs)

    socket.getaddrinfo = resolve
    yield
    socket.getaddrinfo = real


@pytest.fixture(scope="session")
def make_server(tmp_path_factory, request):
    """Makes servers that are stopped, and whose exit code is checked, at the end of the session."""
    made = []

    def make(name, disks=1, start=True, data_dirs=None, **settings):
        place = tmp_path_factory.mktemp(name)
        directories = data_dirs or [place / f"disk{n}" for n in range(disks)]
        server = Server(directories, place / "server.log", **settings)
        made.append((server, place))
        return server.start() if start else server

    yield make
    failures = []
    logs = os.environ.get("GRANARY_TEST_LOGS")
    for server, place in made:
        was_running = server.process is not None
        code = server.stop()
        if was_running and code != 0:
            failures.append(f"{place.name}: exit code {code} at SIGTERM")
        if logs and os.path.exists(server.log_path):
            shutil.copy(server.log_path, os.path.join(logs, f"server-{place.name}.log"))
        shutil.rmtree(place, ignore_errors=True)
    assert not failures, failures


@pytest.fixture(scope="session")
def shared_server(make_server, tmp_path_factory):
    """The server that most tests use; it may call back to this machine."""
    config = tmp_path_factory.mktemp("shared-config") / "granary.toml"
    config.write_text('[gateway]\ncallback_hosts = ["127.0.0.0/8"]\n')
    return make_server("shared", flags=["--domain", DOMAIN, "--config", str(config)])


@pytest.fixture
def server(shared_server, allowed_alarms):
    """The shared server; fails the test that makes it log an alarm."""
    shared_server.new_alarms()
    yield shared_server
    assert shared_server.process.poll() is None, f"the server died:\n{shared_server.log_tail()}"
    alarms = shared_server.new_alarms(allowed_alarms)
    assert not alarms, "unexpected log lines:\n" + "\n".join(alarms[:10])


@pytest.fixture
def allowed_alarms(request):
    """Patterns of log lines a test expects, from `@pytest.mark.parametrize` or the module."""
    return getattr(request.module, "ALLOWED_ALARMS", [])


@pytest.fixture
def wire(server):
    """A raw client that signs with V4."""
    raw = server.wire()
    yield raw
    raw.close()


@pytest.fixture
def bucket_name():
    """A name nobody used."""
    return "t-" + "".join(random.choices(string.ascii_lowercase + string.digits, k=14))


@pytest.fixture
def bucket(wire, bucket_name):
    """A fresh bucket, removed with its contents afterwards."""
    wire.must("PUT", bucket_name)
    yield bucket_name
    wire.delete_bucket_with_contents(bucket_name)


@pytest.fixture(params=sdk.NAMES)
def client(request, server):
    """Each SDK in turn."""
    return sdk.make(request.param, server)


@pytest.fixture(params=["v1", "v2", "v4"])
def signed(request, server):
    """A raw client per signature version."""
    raw = server.wire(auth=request.param)
    yield raw
    raw.close()


def pytest_terminal_summary(terminalreporter):
    """Closes with one line that scripts can read."""
    stats = terminalreporter.stats
    passed, skipped = len(stats.get("passed", [])), len(stats.get("skipped", []))
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    waiting = len(stats.get("xfailed", []))
    terminalreporter.write_line(f"suite total: {passed} passed, {failed} failed, {skipped} skipped" + (f", {waiting} expected to fail" if waiting else ""))
