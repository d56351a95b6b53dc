"""OpenDAL, which signs with V1: buckets as paths, and as hosts behind a proxy that knows their names."""
import os
import urllib.parse

from . import program
from .names import NameProxy

HERE = os.path.dirname(os.path.abspath(__file__))
USES = set("""ListObjectsV2 PutObject GetObject HeadObject CopyObject DeleteObject DeleteMultipleObjects AppendObject InitiateMultipartUpload UploadPart
              CompleteMultipartUpload ListObjectVersions""".split())


def test_opendal(request, target, installed, log_path):
    python = os.path.join(installed("python"), "bin", "python")
    with NameProxy(target) as proxy:
        direct = urllib.parse.urlsplit(target.endpoint).hostname
        cases = program.run([python, os.path.join(HERE, "python", "opendal_walk.py")], target, log_path, HTTP_PROXY=proxy.url, http_proxy=proxy.url,
                            NO_PROXY=direct, no_proxy=direct)
    program.report(request, "opendal", cases, set(program.operations()) - program.BEYOND - USES)
