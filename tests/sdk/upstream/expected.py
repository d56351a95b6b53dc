"""A pytest plugin for the test suites of others: what cannot pass is marked as such, strictly, and nothing else is changed.

EXPECTED names the list (see `lists.py`), SIGNATURE the version of the signature. What the suite needs of the vendor before any
test is replaced: live channels in the tear-down, and the key management, whose place a second RSA key takes.
"""
import os

import pytest

from lists import Expectations

try:
    import oss2
    from Crypto.PublicKey import RSA
except ImportError:
    oss2 = None


class _NoChannels(list):
    def __init__(self, *_args, **_kwargs):
        super().__init__()


def _second_key():
    key = RSA.generate(2048)
    pair = {"private_key": key.export_key(), "public_key": key.publickey().export_key()}
    return lambda *_args, **_kwargs: oss2.RsaProvider(pair)


if oss2 is not None:
    oss2.LiveChannelIterator = _NoChannels
    oss2.AliKMSProvider = _second_key()


@pytest.fixture(autouse=True)
def _defaults_of_its_own():
    """Some tests of oss2 change the SDK's defaults and leave them changed for the next one."""
    before = dict(vars(oss2.defaults))
    yield
    vars(oss2.defaults).update(before)


_EXPECTED = Expectations(os.environ["EXPECTED"], os.environ["SIGNATURE"])


def pytest_ignore_collect(collection_path):
    """A module none of which is run is not even imported: it may need what is not there."""
    return True if collection_path.suffix == ".py" and _EXPECTED.whole_module(collection_path.stem) else None


def pytest_collection_modifyitems(config, items):
    """Marks what has to fail, and leaves out what is not to be run."""
    kept, left = [], []
    for item in items:
        name = f"{item.path.stem}::{item.name}"
        if _EXPECTED.not_run(name):
            left.append(item)
            continue
        kept.append(item)
        reason = _EXPECTED.fails(name)
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    config.hook.pytest_deselected(items=left)
    items[:] = kept
    if not os.environ.get("PART"):
        unused = _EXPECTED.unused()
        assert not unused, f"{os.environ['EXPECTED']} names tests that do not exist: {unused}"


def pytest_terminal_summary(terminalreporter):
    """The line that scripts/test.sh counts."""
    stats = terminalreporter.stats
    count = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped", "xfailed", "deselected")}
    count["failed"] += count.pop("error")
    terminalreporter.write_line("suite total: {passed} passed, {failed} failed, {skipped} skipped, {xfailed} expected to fail, {deselected} not run".format(**count))
