"""A cluster of processes in three zones with the face of one server, for suites that ask for no more than that."""
import contextlib
from collections import Counter

from .cluster import GATEWAY_PORT, SETTINGS, Cluster, Spec, together


class ClusterServer:
    """A cluster with the face of `harness.server.Server`, through one of its gateways."""

    redundancy = "ZRS"

    def __init__(self, cluster, gateway):
        self.cluster, self.gateway = cluster, gateway
        self.credentials, self.port = cluster.credentials, GATEWAY_PORT
        self.address = cluster[gateway].machine.address

    @property
    def process(self):
        """The gateway's."""
        return self.cluster[self.gateway].process

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


@contextlib.contextmanager
def cluster_server(place, domain=None):
    """Such a cluster with its data under `place`, until the block ends. It may call back to this machine, and its gateway says that
    clients find it where it is, or below `domain`."""
    # A third storage node in one zone, for buckets that ask for LRS.
    specs = together() + [Spec("z1c", "z1", ("storage",))]
    with Cluster(place, specs) as cluster:
        server = ClusterServer(cluster, cluster.some(role="gateway")[-1])
        first = f'domain = ["{domain}"]\n' if domain else f'public_endpoint = "{server.endpoint}"\n'
        cluster.settings = f'{first}{SETTINGS}\n[gateway]\ncallback_hosts = ["10.213.0.0/16", "127.0.0.0/8"]\n'
        print(*cluster.sentences, sep="\n")
        cluster.form()
        yield server
        cluster.keep_logs("sdk-cluster")
