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

# Modules that run, with one signature or with both.
BOTH = ["test_object", "test_multipart", "test_bucket", "test_download", "test_upload", "test_iterator", "test_list_objects_v2",
        "test_exception_ec", "test_put_object_chunked", "test_sign", "test_headers", "test_chinese", "test_api_base",
        "test_crypto_object", "test_crypto_multipart", "test_crc64_combine", "test_utils", "test_init"]
# Ten seconds a test.
V4_ONLY = ["test_traffic_limit"]

# Modules in which no test says anything about this server today, by what they need.
NOT_RUN = {
    "operations that are not served yet": """
        test_access_point test_async_fetch_task test_bucket_access_monitor test_bucket_archive_direct_read test_bucket_callback_policy
        test_bucket_cname test_bucket_data_redundancy_transition test_bucket_describe_regions test_bucket_https_config test_bucket_inventory
        test_bucket_meta_query test_bucket_replication test_bucket_resource_group test_bucket_style test_bucket_transfer_acceleration
        test_bucket_versioning test_bucket_worm test_image test_lifecycle_versioning test_live_channel test_object_request_payment
        test_object_request_payment_versions test_object_versioning test_public_access_block test_qos_and_resource_pool test_qos_info test_request_payment
        test_select_csv_object test_select_json_object test_server_side_encryotion test_website
        test_write_get_object_response""".split(),
    "no server takes part": "test_mock_bucket test_mock_multipart test_mock_object test_proxy".split(),
    "needs a package of the vendor that is not on the registry": "test_credentials_provider test_crypto".split(),
    "needs temporary credentials of the vendor": ["test_sts"],
}

# Tests left out of the modules that run, by what they need. Each must exist.
LATER = {
    "ACLs that change": """
        test_api_base::test_whitespace test_bucket::test_acl test_bucket::test_bucket_path_style test_object::test_anonymous
        test_object::test_object_acl test_object::test_default_timeout test_object::test_timeout test_upload::test_upload_with_acl""",
    "AppendObject": """
        test_object::test_append_object test_object::test_append_object_with_tagging test_object::test_append_object_with_tagging_wrong_num
        test_object::test_disable_crc test_object::test_exceptions test_object::test_invalid_crc test_object::test_progress
        test_traffic_limit::test_append_object""",
    "tags that change": """
        test_bucket::test_bucket_tagging test_bucket::test_bucket_tagging_with_specify_label test_bucket::test_list_bucket_with_tagging
        test_multipart::test_multipart_with_object_tagging test_object::test_copy_object_with_tagging test_object::test_object_tagging
        test_object::test_object_tagging_wrong_value test_object::test_put_object_with_tagging test_upload::test_upload_large_with_tagging""",
    "symbolic links": """
        test_chinese::test_get_symlink test_object::test_get_symlink test_object::test_put_symlink test_object::test_put_symlink_with_tagging
        test_object::test_put_symlink_with_tagging_with_wrong_num""",
    "archive classes": """
        test_list_objects_v2::test_normal_list_objects_restore_info test_object::test_list_objects
        test_object::test_restore_archive_object_with_job_parameters test_object::test_restore_object
        test_object::test_restore_object_with_config test_object::test_restore_object_with_wrong_request""",
    "server-side encryption": """
        test_bucket::test_bucket_encryption test_bucket::test_bucket_encryption_wrong test_bucket::test_bucket_header_KMS_SM4
        test_bucket::test_bucket_header_SM4 test_bucket::test_bucket_header_SSE_KMS""",
    "CORS": "test_bucket::test_cors test_bucket::test_cors_with_response_vary test_bucket::test_invalid_argument",
    "lifecycle": """
        test_bucket::test_bucket_lifecycle_filter_object_size_than test_bucket::test_bucket_lifecycle_not
        test_bucket::test_bucket_lifecycle_not_prefix test_bucket::test_lifecycle_abort_multipart_upload_date
        test_bucket::test_lifecycle_abort_multipart_upload_days test_bucket::test_lifecycle_all
        test_bucket::test_lifecycle_all_without_object_expiration test_bucket::test_lifecycle_created_before_date
        test_bucket::test_lifecycle_date test_bucket::test_lifecycle_days test_bucket::test_lifecycle_object_tagging
        test_bucket::test_lifecycle_object_tagging_exceptions_too_much_rules test_bucket::test_lifecycle_object_tagging_exceptions_wrong_key
        test_bucket::test_lifecycle_object_tagging_exceptions_wrong_value test_bucket::test_lifecycle_overlap
        test_bucket::test_lifecycle_overlap_exception test_bucket::test_lifecycle_storage_transitions_date
        test_bucket::test_lifecycle_storage_transitions_days test_bucket::test_lifecycle_storage_transitions_mixed
        test_bucket::test_lifecycle_storage_transitions_more_days test_bucket::test_malformed_xml
        test_bucket::test_put_lifecycle_days_less_than_transition_days test_bucket::test_put_lifecycle_invalid_transitions""",
    "bucket policies, logging, referers, capacity": """
        test_bucket::test_bucket_policy test_bucket::test_logging test_bucket::test_black_referer test_bucket::test_referer
        test_bucket::test_xml_input_output test_bucket::test_bucket_storage_capacity""",
    "reads its checkpoint while its own threads rewrite it, and fails now and then": "test_download::test_relpath_and_abspath",
    "live channels": "test_iterator::test_live_channel_iterator",
    "callbacks": "test_object::test_sign_url_with_callback",
    "processing and selecting; its files are not in the distribution": """
        test_crypto_object::test_crypto_create_select_object_meta test_crypto_object::test_crypto_get_object_and_process
        test_crypto_object::test_crypto_get_object_with_url_and_process test_crypto_object::test_crypto_process_object
        test_crypto_object::test_crypto_select_object test_object::test_async_process_object test_object::test_process_object""",
    "a picture that is not in the distribution": "test_object::test_put_object_with_sign_url",
    "signature version 2": """
        test_sign::test_sign_v2_additional_headers test_sign::test_sign_v2_x_oss_date test_sign::test_sign_v2_x_oss_date_url""",
    "the vendor's own host names, accounts or TLS": """
        test_api_base::test_https test_api_base::test_ip test_bucket::test_bucket_with_group_id test_multipart::test_multipart_sequential
        test_upload::test_upload_sequenial""",
    "an endpoint without a port: the test appends to it": "test_api_base::test_check_endpoint",
    "a Chinese locale on this machine": """
        test_utils::test_http_to_unixtime_in_zh_CN_locale test_utils::test_iso8601_to_unixtime_in_zh_CN_locale""",
}


def left_out(modules):
    """The tests of LATER in these modules, as `module::test`."""
    names = [name for group in LATER.values() for name in group.split()]
    assert len(set(names)) == len(names), "a test is listed twice"
    return [name for name in names if name.partition("::")[0] in modules]


def check_complete(source):
    """Every module of the suite is either run or listed with its reason."""
    found = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(source, "tests", "test_*.py"))}
    listed = BOTH + V4_ONLY + [name for group in NOT_RUN.values() for name in group]
    assert sorted(found) == sorted(listed), found.symmetric_difference(listed)


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
"""Leaves out the tests named in LEAVE_OUT, and what they share that this server does not serve: live channels in
the tear-down, and the vendor's key management, whose place a second RSA key takes."""
import os

import oss2
import pytest
from Crypto.PublicKey import RSA


class _NoChannels(list):
    def __init__(self, *_args, **_kwargs):
        super().__init__()


_KEY = RSA.generate(2048)
_PAIR = {"private_key": _KEY.export_key(), "public_key": _KEY.publickey().export_key()}


def _key_management(*_args, **_kwargs):
    return oss2.RsaProvider(_PAIR)


oss2.LiveChannelIterator = _NoChannels
oss2.AliKMSProvider = _key_management


@pytest.fixture(autouse=True)
def _defaults_of_its_own():
    """Some tests change the SDK's defaults and leave them changed for the next one."""
    before = dict(vars(oss2.defaults))
    yield
    vars(oss2.defaults).update(before)


def pytest_collection_modifyitems(config, items):
    unwanted = set(os.environ["LEAVE_OUT"].split())
    kept, left = [], []
    for item in items:
        name = f"{item.path.stem}::{item.name}"
        (left if name in unwanted else kept).append(item)
        unwanted.discard(name)
    assert not unwanted, f"no such tests: {unwanted}"
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def pytest_terminal_summary(terminalreporter):
    stats = terminalreporter.stats
    count = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped", "deselected")}
    terminalreporter.write_line("suite total: {passed} passed, {failed} failed, {error} errors, {skipped} skipped, {deselected} left out".format(**count))
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
        with open(os.path.join(source, "mock.py"), "w", encoding="utf-8") as module:
            # The package that the suite imports has long been part of Python.
            module.write("from unittest.mock import *\n")
        server.start()
        check_complete(source)
        for auth, modules in (("v1", BOTH), ("v4", BOTH + V4_ONLY)):
            print(f"== oss2 {pinned()} own suite, signature {auth}", flush=True)
            env = dict(os.environ, OSS_TEST_ENDPOINT=server.endpoint, OSS_TEST_BUCKET=f"upstream-{auth}-", OSS_TEST_AUTH_VERSION=auth,
                       OSS_TEST_ACCESS_KEY_ID=server.credentials.key_id, OSS_TEST_ACCESS_KEY_SECRET=server.credentials.secret,
                       OSS_TEST_REGION=server.credentials.region, PYTHONPATH=source, LEAVE_OUT=" ".join(left_out(modules)))
            done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "leave_out", "-p", "no:cacheprovider", "--tb=short", "-W", "ignore",
                                   "--log-level=CRITICAL", *sys.argv[1:], *[f"tests/{module}.py" for module in modules]], cwd=source, env=env, check=False)
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
