"""Fixtures of the cluster suites: clusters that are removed whatever happens, and logs of every process on failure."""
import os
import shutil
import sys

import pytest

from harness import network, standin
from harness.cluster import Cluster

_CLUSTERS = pytest.StashKey()
_SAID = pytest.StashKey()


def _said(config):
    return config.stash.setdefault(_SAID, {})


def _network_sentence():
    reason = network.why_no_namespaces()
    return "network namespaces" if reason is None else f"127.0.0.0/8 and relays, because: {reason}"


def pytest_report_header():
    """Says on what the clusters run."""
    return f"cluster network: {_network_sentence()}"


def pytest_terminal_summary(terminalreporter, config):
    """Says again, also when quiet, on what the clusters ran and what the nemesis did."""
    terminalreporter.write_line(f"cluster network: {_network_sentence()}")
    for sentence, times in _said(config).items():
        terminalreporter.write_line(f"{sentence}" + (f" ({times} times)" if times > 1 else ""))


@pytest.fixture
def say(request):
    """Adds a line to the summary at the end of the run."""
    said = _said(request.config)

    def add(sentence):
        print(sentence)
        said[sentence] = said.get(sentence, 0) + 1

    return add


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows the end of every process's log beside a failure."""
    outcome = yield
    report = outcome.get_result()
    if call.when == "call":
        item.failed_call = report.failed
    if report.failed and call.when in ("setup", "call"):
        for cluster in item.config.stash.get(_CLUSTERS, []):
            for node in cluster.nodes.values():
                report.sections.append((f"log of {node.name} ({'running' if node.running else 'not running'})", node.log_tail(25)))
            label = item.name.replace("/", "_")
            cluster.keep_logs(label)
            cluster.keep_evidence(label)


@pytest.fixture(scope="module")
def make_cluster(request, tmp_path_factory):
    """Makes clusters that are removed at the end of the module."""
    made = request.config.stash.setdefault(_CLUSTERS, [])
    own = []

    def make(name="cluster", **settings):
        place = tmp_path_factory.mktemp(name)
        cluster = Cluster(place, **settings)
        made.append(cluster)
        own.append((cluster, place))
        for sentence in cluster.sentences + [f"left by an earlier run and removed: {thing}" for thing in cluster.cleaned]:
            print(sentence)
        return cluster

    def remove(cluster):
        place = next(p for c, p in own if c is cluster)
        own[:] = [(c, p) for c, p in own if c is not cluster]
        made.remove(cluster)
        cluster.close()
        shutil.rmtree(place, ignore_errors=True)

    make.remove = remove
    yield make
    for cluster, _ in list(own):
        cluster.keep_logs("cluster")
        remove(cluster)


@pytest.fixture(params=["namespaces", "loopback"])
def kind(request):
    """Both kinds of network; where one cannot be made its tests fail over to nothing but say so."""
    if request.param == "namespaces":
        reason = network.why_no_namespaces()
        if reason is not None:
            pytest.skip(f"no network namespaces here: {reason}")
        return network.Namespaces
    return network.Loopback


@pytest.fixture
def standins(make_cluster, kind):
    """Makes clusters of the stand-in program on one kind of network."""
    made = []

    def make(**settings):
        cluster = make_cluster("standin", network=kind, program=[sys.executable, os.path.abspath(standin.__file__)], **settings)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        make_cluster.remove(cluster)
