#!/usr/bin/env python3
"""Runs the service tests that the `oss2` source distribution itself ships, against this server.

The distribution is fetched through pip at the version tests/sdk/requirements.txt pins. What is outside
the operations served today is deselected below, each with its reason, so that the list shrinks as
Granary grows. Part of `make test-all`; needs no network once pip has the distribution in its cache.

    tests/sdk/upstream_oss2.py [pytest arguments]
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from harness.server import Server  # noqa: E402  pylint: disable=wrong-import-position

MODULES = ["test_object", "test_multipart", "test_bucket", "test_download", "test_upload", "test_iterator", "test_list_objects_v2",
           "test_exception_ec", "test_put_object_chunked", "test_sign", "test_headers", "test_chinese", "test_api_base",
           "test_crypto_object", "test_crypto_multipart", "test_crc64_combine", "test_utils", "test_init"]

LATER = {
    "operations that are not served yet": """
        restore append acl symlink process async_process tagging lifecycle logging cors referer website encryption policy
        storage_capacity xml_input_output live_channel select_object create_select header_KMS header_SSE header_SM4 traffic_limit
        group_id region_list""".split(),
    "needs the vendor's own host names or TLS": "test_https test_cname test_ip test_user_agent test_multipart_sequential test_path_style test_timeout "
                                                "test_default_timeout test_bucket_path_style test_anonymous".split(),
    "needs a key management service": ["kms"],
}


def deselected():
    """The pytest -k expression of everything in LATER."""
    words = sorted({word for group in LATER.values() for word in group})
    return "not (" + " or ".join(words) + ")"


def pinned():
    """The version of oss2 in requirements.txt."""
    with open(os.path.join(HERE, "requirements.txt"), encoding="utf-8") as handle:
        return re.search(r"^oss2==(\S+)$", handle.read(), re.M).group(1)


def fetch(place):
    """Unpacks the source distribution; returns its directory."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "oss2",
                    f"oss2=={pinned()}", "--dest", place], check=True)
    archive = glob.glob(os.path.join(place, "oss2-*.tar.gz"))[0]
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(place)
    return archive.removesuffix(".tar.gz")


PLUGIN = '''
"""Leaves out of the suite's tear-down what the server does not serve yet: live channels and old versions."""
import oss2


class _NoChannels(list):
    def __init__(self, *_args, **_kwargs):
        super().__init__()


oss2.LiveChannelIterator = _NoChannels


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    terminalreporter.write_line(f"suite total: {len(stats.get('passed', []))} passed, {failed} failed, {len(stats.get('skipped', []))} skipped")
'''


def main():
    """One run per signature version."""
    place = tempfile.mkdtemp(prefix="upstream-oss2-")
    # The suite signs for cn-hangzhou unless told, and compares the advertised endpoint with its own.
    server = Server([os.path.join(place, "disk")], os.path.join(place, "server.log"))
    server.flags += ["--public-endpoint", server.endpoint]
    outcome = 0
    try:
        source = fetch(place)
        with open(os.path.join(source, "leave_out.py"), "w", encoding="utf-8") as plugin:
            plugin.write(PLUGIN)
        server.start()
        for auth in ("v1", "v4"):
            print(f"== oss2 {pinned()} own suite, signature {auth}", flush=True)
            env = dict(os.environ, OSS_TEST_ENDPOINT=server.endpoint, OSS_TEST_BUCKET=f"upstream-{auth}-", OSS_TEST_AUTH_VERSION=auth,
                       OSS_TEST_ACCESS_KEY_ID=server.credentials.key_id, OSS_TEST_ACCESS_KEY_SECRET=server.credentials.secret,
                       OSS_TEST_REGION=server.credentials.region, PYTHONPATH=source)
            done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "leave_out", "-p", "no:cacheprovider", "--tb=short", "-k", deselected(),
                                   "--log-level=CRITICAL", *sys.argv[1:], *[f"tests/{module}.py" for module in MODULES]], cwd=source, env=env, check=False)
            outcome = outcome or done.returncode
        if server.stop() != 0:
            print("the server did not end with 0")
            outcome = 1
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
