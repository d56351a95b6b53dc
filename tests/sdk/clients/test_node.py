"""`ali-oss` on Node: V1 and V4, buckets as hosts and as paths."""
import os

from . import program

HERE = os.path.dirname(os.path.abspath(__file__))
LACKS = {"DescribeRegions", "HeadBucket", "SealAppendObject", "CreateDirectory", "Rename", "DeleteDirectory"}


def test_ali_oss(request, target, installed, log_path):
    modules = os.path.join(installed("node"), "node_modules")
    cases = program.run(["node", os.path.join(HERE, "node", "main.js")], target, log_path, NODE_PATH=modules)
    program.report(request, "node", cases, LACKS)
