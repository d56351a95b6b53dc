"""What is installed of the clients in other languages, and the server that they are pointed at."""
import os
import tempfile

import pytest

from conftest import DOMAIN

from .program import Target


@pytest.fixture
def target(server):
    """The server as a program of another language is told of it."""
    return Target(server.endpoint, server.credentials, DOMAIN, getattr(server, "client_address", "127.0.0.1"))


@pytest.fixture
def installed(not_run):
    """Gives the directory that scripts/clients.sh made for a client; says aloud when it could not."""
    place = os.environ.get("GRANARY_CLIENTS") or os.environ.get("GRANARY_VENV", "") + "-clients"

    def find(name):
        ready = os.path.join(place, name, "ready")
        if os.path.exists(ready):
            return os.path.join(place, name)
        missing = os.path.join(place, name, "missing")
        reason = "scripts/clients.sh was not run"
        if os.path.exists(missing):
            with open(missing, encoding="utf-8") as said:
                reason = said.read().strip()
        return not_run(f"{name}: {reason}")

    return find


@pytest.fixture
def not_run(request):
    """Ends a test whose client cannot be had here. An error when GRANARY_REQUIRE_CLIENTS is set, and never silent."""
    def end(reason):
        if os.environ.get("GRANARY_REQUIRE_CLIENTS"):
            pytest.fail(f"client not run: {reason}")
        request.config.stash.setdefault(NOT_RUN, []).append(reason)
        pytest.skip(f"client not run: {reason}")
    return end


NOT_RUN = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    """One line per client that was not run; scripts/test.sh repeats these at the end of everything."""
    for reason in config.stash.get(NOT_RUN, []):
        terminalreporter.write_line(f"NOT RUN: client {reason}")


@pytest.fixture
def log_path(request):
    """Where a program's error output goes; kept with the other logs when there is a place for them."""
    logs = os.environ.get("GRANARY_TEST_LOGS")
    if logs:
        return os.path.join(logs, f"client-{request.node.name}.log")
    handle, path = tempfile.mkstemp(prefix="granary-client-")
    os.close(handle)
    request.addfinalizer(lambda: os.remove(path))
    return path
