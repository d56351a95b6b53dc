"""The browser build of `ali-oss`, forms and fetch in a headless Chromium, from a page of another origin: V1 and V4."""
import os
import shutil
import sys

from . import program

HERE = os.path.dirname(os.path.abspath(__file__))
LACKS = {"ListBuckets", "DescribeRegions", "HeadBucket", "PutBucket", "GetBucketInfo", "GetBucketLocation", "GetBucketStat", "DeleteBucket", "PutBucketTags",
         "GetBucketTags", "DeleteBucketTags", "SealAppendObject", "CreateDirectory", "Rename", "DeleteDirectory"}


def test_chromium(request, target, installed, not_run, log_path):
    sdk = os.path.join(installed("node"), "node_modules", "ali-oss", "dist", "aliyun-oss-sdk.min.js")
    chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if chromium is None:
        not_run("browser: there is no Chromium")
    cases = program.run([sys.executable, os.path.join(HERE, "browser", "run.py"), chromium, sdk], target, log_path)
    program.report(request, "browser", cases, LACKS)
