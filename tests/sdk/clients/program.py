"""Runs the program of a client in another language and makes a test result of each of its cases.

Such a program finds the server in its environment:

    GRANARY_ENDPOINT   URL of the server by address
    GRANARY_DOMAIN     buckets of this domain are hosts of the server too; no resolver knows them
    GRANARY_REGION, GRANARY_KEY_ID, GRANARY_KEY_SECRET
    GRANARY_RUN        what the names of its buckets begin with
    GRANARY_CALLBACK   URL of a receiver of callbacks: /ok answers with what it was sent, /fail does not answer 200

and prints a line of JSON per case, {"case": name, "operations": [...], "ok": true, "message": ""}, and {"cases": how many}
at the end. Everything else that it prints is kept for a failure.
"""
import http.server
import json
import os
import random
import re
import string
import subprocess
import threading
import urllib.parse
from dataclasses import dataclass

import pytest

from .. import later

# The groups of the API that the clients walk, and what of them belongs to features that are not served.
GROUPS = """service region bucket-basic acl versioning tags cors object-basic multipart object-acl symlink
            object-tagging directory""".split()
BEYOND = frozenset("""ListUserDataRedundancyTransition ListCloudBoxes GetUserQosInfo DoDataPipelineAction RestoreObject CleanRestoredObject
                      SelectObject CreateSelectObjectMeta ProcessObject AsyncProcessObject""".split())


@dataclass(frozen=True)
class Case:
    """What a program said of one of its cases."""
    name: str
    operations: tuple
    ok: bool
    message: str


@dataclass(frozen=True)
class Target:
    """A server or a cluster, as clients see it. `address` is where it reaches this process."""
    endpoint: str
    credentials: object
    domain: str
    address: str = "127.0.0.1"

    def environment(self, callback):
        """What a program is told."""
        run = "c" + "".join(random.choices(string.ascii_lowercase + string.digits, k=7))
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRANARY_")}
        return {**env, "GRANARY_ENDPOINT": self.endpoint, "GRANARY_DOMAIN": self.domain, "GRANARY_REGION": self.credentials.region,
                "GRANARY_KEY_ID": self.credentials.key_id, "GRANARY_KEY_SECRET": self.credentials.secret, "GRANARY_RUN": run,
                "GRANARY_CALLBACK": callback}


class _Receiver(http.server.BaseHTTPRequestHandler):
    """An application that is called back."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):  # pylint: disable=invalid-name
        """Says what it was sent, or that it will not."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        said = {"path": self.path, "type": kind, "host": self.headers.get("Host"), "signed": bool(self.headers.get("Authorization"))}
        if "json" in kind:
            said["json"] = json.loads(body)
        else:
            said["form"] = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        answer = json.dumps(said).encode()
        self.send_response(200 if self.path.startswith("/ok") else 301)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Says nothing."""


class Callbacks:
    """The receiver of callbacks, on all addresses of this machine."""

    def __init__(self, address):
        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), _Receiver)
        self.url = f"http://{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self.url

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def run(command, target, log_path, deadline_s=900, **env):
    """Runs a program to its end; returns its cases. Fails when it says nothing, breaks off or takes too long."""
    cases, other, promised = [], [], None
    with Callbacks(target.address) as callback, open(log_path, "w+b") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env={**target.environment(callback), **env})
        watch = threading.Timer(deadline_s, process.kill)
        watch.start()
        try:
            for line in process.stdout:
                text = line.decode(errors="replace").strip()
                said = parse(text)
                if said is None:
                    other.append(text)
                elif "cases" in said:
                    promised = said["cases"]
                else:
                    cases.append(Case(said["case"], tuple(said["operations"]), said["ok"], said["message"]))
            code = process.wait()
        finally:
            watch.cancel()
            process.kill()
            process.wait()
        log.seek(0)
        said_aside = "\n".join(other[-20:]) + log.read().decode(errors="replace")[-4000:]
    assert code == 0, f"{command[0]} ended with {code} after {len(cases)} cases:\n{said_aside}"
    assert cases and promised == len(cases), f"{command[0]} promised {promised} cases and told of {len(cases)}:\n{said_aside}"
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have the same name"
    return cases


def parse(text):
    """The JSON of a line, None when it is something else."""
    if not text.startswith('{"case'):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def report(request, client, cases, without=()):
    """Makes a test result of each case, and fails the test itself when the client was not used for all that it has.

    `without` names the operations of GROUPS that the client lacks.
    """
    for case in cases:
        outcome, reason, why = judge(case, later.expected_failure(client, case))
        _log(request.node, case.name, outcome, reason, why)
    assert not later.unused(client, cases), f"tests/sdk/later.py names cases that {client} does not have: {later.unused(client, cases)}"
    walked = {operation for case in cases for operation in case.operations}
    wanted = set(operations()) - BEYOND
    assert set(without) <= wanted, f"not operations of these groups: {set(without) - wanted}"
    assert not walked & set(without), f"{client} lacks {sorted(walked & set(without))} and uses them"
    assert not wanted - walked - set(without), f"{client} was not asked for {sorted(wanted - walked - set(without))}"


def judge(case, expected):
    """(outcome, message, reason of an expected failure) of a case."""
    if expected is None:
        return ("passed", "", None) if case.ok else ("failed", case.message, None)
    reason, pattern = expected
    if case.ok:
        return "failed", f"it passes, but tests/sdk/later.py says: {reason}. Delete the line there.", None
    if not re.search(pattern, case.message):
        return "failed", f"expected to fail ({reason}), but not with: {case.message}", None
    return "skipped", case.message, reason


def _log(item, name, outcome, message, expected):
    path, line, _ = item.location
    longrepr = (path, line or 0, message) if outcome == "skipped" else message or None
    result = pytest.TestReport(f"{item.nodeid}[{name}]", (path, line, f"{item.name}: {name}"), {name: 1}, outcome, longrepr, "call")
    if expected is not None:
        result.wasxfail = expected
    item.ihook.pytest_runtest_logreport(report=result)


def operations():
    """The operations of GROUPS, from tests/operations.tsv."""
    path = os.path.join(os.path.dirname(__file__), "..", "..", "operations.tsv")
    with open(path, encoding="utf-8") as table:
        rows = [line.rstrip("\n").split("\t") for line in table]
    return [row[1] for row in rows[1:] if row[0] in GROUPS]
