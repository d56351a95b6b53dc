"""What the clients talk to: one server, or with GRANARY_CLIENTS_ON=cluster a cluster of processes in three zones."""
import os
import shutil
from collections import Counter

import pytest

from conftest import DOMAIN, NAMED
from harness.cluster import GATEWAY_PORT, SETTINGS, Cluster, Spec, together

ON_CLUSTER = os.environ.get("GRANARY_CLIENTS_ON") == "cluster"


class ClusterServer:
    """A cluster with the face of `harness.server.Server`, through one of its gateways."""

    redundancy = "ZRS"

    def __init__(self, cluster, gateway):
        self.cluster, self.gateway = cluster, gateway
        self.credentials, self.port = cluster.credentials, GATEWAY_PORT
        self.address = cluster[gateway].machine.address
        self.process = cluster[gateway].process

    @property
    def endpoint(self):
        """The URL clients are given."""
        return f"http://{self.address}:{self.port}"

    @property
    def client_address(self):
        """Where the nodes reach this process."""
        return self.cluster.network.host_address

    def wire(self, auth="v4", **changes):
        """A raw client of the gateway."""
        return self.cluster.wire(self.gateway, **{"auth": auth, **changes})

    def account(self, *line, expect=0):
        """`granary admin account` as `harness.server.Server` has it."""
        answer = self.cluster.admin("account", *line)
        assert answer.code == expect, f"{line}: {answer}"
        return answer.data if expect == 0 else answer.err

    def metrics(self):
        """/metrics of all nodes, added up: {sample with labels: value}."""
        total = Counter()
        for name in self.cluster.some(running=True):
            total.update(self.cluster[name].metrics())
        return dict(total)

    def new_alarms(self, _=()):
        """Lines of the logs that nothing excuses."""
        return self.cluster.panics() + [f"{name} ended" for name in self.cluster.died()]

    def log_tail(self, lines=40):
        """The last lines of the gateway's log."""
        return self.cluster[self.gateway].log_tail(lines)


if ON_CLUSTER:
    @pytest.fixture(scope="session")
    def shared_server(tmp_path_factory):
        """A gateway of a cluster that all tests share."""
        place = tmp_path_factory.mktemp("cluster")
        # A third storage node in one zone, for buckets that ask for LRS.
        specs = together() + [Spec("z1c", "z1", ("storage",))]
        with Cluster(place, specs, settings=f'domain = ["{DOMAIN}"]\n{SETTINGS}\n[gateway]\ncallback_hosts = ["10.213.0.0/16", "127.0.0.0/8"]\n') as cluster:
            print(*cluster.sentences, sep="\n")
            cluster.form()
            server = ClusterServer(cluster, cluster.some(role="gateway")[-1])
            NAMED["address"] = server.address
            yield server
            cluster.keep_logs("sdk-cluster")
        shutil.rmtree(place, ignore_errors=True)
