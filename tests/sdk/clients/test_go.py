"""The official Go SDK v2: V4 and V1, buckets as paths and as hosts."""
import os

from . import program

LACKS = {"HeadBucket", "PostObject", "CreateDirectory", "Rename", "DeleteDirectory"}


def test_go_sdk_v2(request, target, installed, log_path):
    cases = program.run([os.path.join(installed("go"), "client")], target, log_path)
    program.report(request, "go", cases, LACKS)
