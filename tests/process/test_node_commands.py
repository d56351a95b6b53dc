"""What an operator reads who types the commands of a cluster, and mistypes them: one node runs, another one joins it."""
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request

import pytest

from harness.server import binary, free_ports
from harness.waiting import wait_for


class Machine:
    """A node.toml and what is done with it."""

    def __init__(self, place, name, zone="z1", join=(), roles=None):
        self.place = place / name
        self.place.mkdir()
        self.cluster_port, self.port, self.admin_port = free_ports(3)
        self.address, self.state = f"127.0.0.1:{self.cluster_port}", self.place / "state"
        self.settings = {
            "state_dir": str(self.state), "zone": zone, "cluster_listen": self.address, "listen": f"127.0.0.1:{self.port}",
            "admin_listen": f"127.0.0.1:{self.admin_port}", "join": list(join), "data": [str(self.place / "disk")],
        }
        if roles:
            self.settings["roles"] = roles
        self.process = None

    def config(self, **changes):
        """The path of a node.toml with these settings, for one command."""
        path = self.place / ("node.toml" if not changes else "changed.toml")
        # JSON's strings and lists are TOML's.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in {**self.settings, **changes}.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def command(self, *line):
        """The program with these arguments, in an environment without settings."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("GRANARY_")}
        return {"args": [binary(), *map(str, line)], "env": clean, "text": True, "stdin": subprocess.DEVNULL}

    def run(self, *line):
        """Exit code, and everything it said."""
        done = subprocess.run(**self.command(*line), timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert "panicked" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def admin(self, *line):
        """`granary admin` with its own node.toml."""
        return self.run("admin", *line, "--config", self.config())

    def start(self):
        """Starts it and waits until it is ready."""
        log = open(self.place / "log", "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(**self.command("start", "--config", self.config()), stdout=log, stderr=log)
        wait_for("the node to be ready", lambda: self.health("ready") == 200, 60)

    def health(self, which):
        """Status of /health/live or /health/ready, None when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/health/{which}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def stop(self):
        """Ends it, if it runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self.process = None


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first node of a cluster, which runs; `token` lets others join."""
    machine = Machine(tmp_path_factory.mktemp("first"), "n1")
    code, said = machine.admin("init", "--json")
    assert code == 0, said
    machine.token = json.loads(said)["join_token"]
    machine.start()
    yield machine
    machine.stop()


def says(answer, *words):
    """It was refused, in these words."""
    code, said = answer
    assert code != 0, said
    for word in words:
        assert word in said, said


def test_init_once_more_says_where_the_key_is(first):
    code, said = first.admin("init")
    assert code == 0 and "there already" in said
    assert str(first.state / "root-credentials.toml") in said, said


def test_a_join_that_reaches_nobody_says_so_and_goes_on(first, tmp_path):
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    machine = Machine(tmp_path, "n2", join=[nobody])
    line = machine.command("admin", "join", "--config", machine.config(), "--token", first.token)
    with open(tmp_path / "said", "w+", encoding="utf-8") as out:
        joining = subprocess.Popen(**line, stdout=out, stderr=out)
        try:
            said = lambda: (tmp_path / "said").read_text(encoding="utf-8")
            wait_for("a word", lambda: f"{nobody}: Connection refused" in said() and "Ctrl-C is safe" in said(), 20)
            assert joining.poll() is None
        finally:
            joining.kill()
            joining.wait()


def test_zones_have_plain_names_and_new_ones_are_told(first, tmp_path):
    odd = Machine(tmp_path, "odd", zone="z 2é", join=[first.address])
    for line in (["init"], ["join", "--token", first.token]):
        says(odd.admin(*line), "zone = ", "letters")
    says(odd.run("start", "--config", odd.config(join_token=first.token)), "zone = ", "letters")
    assert not (odd.state / "identity.json").exists()
    for zone, told in (("z1", None), ("Z2", "zone Z2 is new: there is z1")):
        machine = Machine(tmp_path, f"in-{zone}", zone=zone, join=[first.address], roles=["storage"])
        code, said = machine.admin("join", "--token", first.token)
        assert code == 0 and ("is new" in said) == (told is not None), said
        assert told is None or told in said, said


def test_a_node_that_was_given_up_is_told_so_when_it_joins_again(first, tmp_path):
    machine = Machine(tmp_path, "gone", join=[first.address], roles=["storage"])
    code, said = machine.admin("join", "--token", first.token, "--json")
    assert code == 0, said
    node = json.loads(said)["node_id"]
    code, said = machine.admin("join", "--token", first.token)
    assert code == 0 and f"is already node {node}" in said, said
    code, said = first.admin("replace", "node", node)
    assert code == 0, said
    answers = []
    # Nodes learn from the root within a second or two who was given up.
    wait_for("a refusal", lambda: answers.append(machine.admin("join", "--token", first.token)) or answers[-1][0] != 0, 30, 0.3)
    says(answers[-1], f"node {node} was given up", "empty its state directory")


def test_who_names_a_node_that_is_down_asks_the_others(first, tmp_path):
    machine = Machine(tmp_path, "down", join=[first.address])
    admin_dir = first.state / "admin"
    code, said = machine.admin("status", "--json", "--admin-dir", admin_dir)
    assert code in (0, 3) and json.loads(said)["nodes"], said
    code, said = machine.admin("account", "list", "--admin-dir", admin_dir)
    assert code == 0 and "access key id" in said, said


def test_commands_say_what_is_missing(first, tmp_path):
    machine = Machine(tmp_path, "new", join=[first.address])
    says(machine.run("admin", "status", "--address", "127.0.4.1"), "HOST:PORT, as in 127.0.4.1:9100")
    says(machine.admin("status"), "ca.pem is missing", "--admin-dir")
    says(machine.admin("init", "--address", first.address), "--address has no meaning here", "cluster_address")
    says(machine.admin("certify", "--address", first.address), "--address has no meaning here")
    says(machine.admin("rebuild", "--address", first.address), "--address has no meaning here", "--from")
    shown = {name: "--address" in machine.run("admin", name, "--help")[1] for name in ("status", "join", "init", "certify", "rebuild")}
    assert shown == {"status": True, "join": True, "init": False, "certify": False, "rebuild": False}
    # Whoever mistyped the directory of a node that exists is not led to make another cluster.
    code, said = machine.run("start", "--config", machine.config(state_dir=str(tmp_path / "mistyped")))
    assert code != 0 and said.index("state_dir names another") < said.index("admin init"), said
