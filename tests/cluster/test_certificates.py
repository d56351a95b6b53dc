"""The cluster's CA changes under load, and a node whose certificate is lost comes back with a new one."""
import glob
import os

from harness.cluster import Spec

from .drill import Drill


def _admin_file(cluster, name):
    first = next(iter(cluster.nodes.values()))
    with open(os.path.join(first.place, "admin-copy", name), encoding="utf-8") as file:
        return file.read()


def test_the_ca_changes_while_everything_runs(make_cluster, seed, say):
    """Clients notice nothing; afterwards the old CA counts nowhere: not for operators, not for tokens."""
    cluster = make_cluster("certificates", specs=[Spec("z1a", "z1"), Spec("z2a", "z2"), Spec("z3a", "z3")])
    cluster.form()
    old_token, old_ca = cluster.token(), _admin_file(cluster, "ca.pem")
    with Drill(cluster, seed, "rotate-ca") as drill:
        changed = cluster.admin("rotate-ca", timeout_s=240)
        assert changed.code == 0 and changed.data["done"], str(changed)
        drill.resumes(100)
    new_ca = _admin_file(cluster, "ca.pem")
    assert new_ca != old_ca and new_ca.count("BEGIN CERTIFICATE") == 1
    drill.judge(say)
    for node in cluster.nodes.values():
        with open(os.path.join(node.state_dir, "ca.pem"), encoding="utf-8") as file:
            assert file.read() == new_ca, f"{node.name} trusts something else"
    fresh = cluster["z3a"]
    cluster.stop("z3a")
    empty = fresh.config_path.replace("node.toml", "other.toml")
    with open(fresh.config_path, encoding="utf-8") as file:
        text = file.read().replace(fresh.state_dir, fresh.state_dir + "-other")
    with open(empty, "w", encoding="utf-8") as file:
        file.write(text)
    refused = cluster.on("z3a", "admin", "join", "--config", empty, "--token", old_token, "--json")
    assert refused.code == 1, f"a token of the old CA counted: {refused}"
    # One that counts does not give a node up that serves.
    other = str(cluster["z1a"].node_id)
    refused = cluster.on("z3a", "admin", "join", "--config", empty, "--token", cluster.token(), "--replaces", other, "--json")
    assert refused.code == 1 and "answers" in refused.err and "--force" in refused.err, str(refused)

    # Its certificate is lost, or has expired while it was off.
    for name in glob.glob(os.path.join(fresh.state_dir, "node.pem")):
        os.remove(name)
    refused = cluster.on("z3a", "start", "--config", fresh.config_path, timeout_s=20)
    assert refused.code == 1 and "certificate" in refused.err, str(refused)
    admin_dir = os.path.join(cluster["z1a"].place, "admin-copy")
    certified = cluster.on("z3a", "admin", "certify", "--config", fresh.config_path, "--admin-dir", admin_dir, "--json")
    assert (certified.code, certified.data["node_id"]) == (0, fresh.node_id), str(certified)
    cluster.start("z3a")
    cluster.wait_whole()
