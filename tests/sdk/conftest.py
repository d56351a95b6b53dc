"""What the clients talk to: one server, or with GRANARY_CLIENTS_ON=cluster a cluster of processes in three zones."""
import os
import shutil

import pytest

from conftest import DOMAIN, NAMED
from harness.cluster_server import cluster_server

ON_CLUSTER = os.environ.get("GRANARY_CLIENTS_ON") == "cluster"


if ON_CLUSTER:
    @pytest.fixture(scope="session")
    def shared_server(tmp_path_factory):
        """A gateway of a cluster that all tests share."""
        place = tmp_path_factory.mktemp("cluster")
        with cluster_server(place, DOMAIN) as server:
            NAMED["address"] = server.address
            yield server
        shutil.rmtree(place, ignore_errors=True)
