"""Every operation of tests/operations.tsv that is not there yet answers NotImplemented, never another operation."""
import csv
import os
import re

import pytest

HERE = os.path.dirname(__file__)
TABLE = os.path.join(HERE, "..", "operations.tsv")

# Rows that share their request line with another operation, or that are no request of their own.
SAME_REQUEST = {
    "Callback": "a modifier of other operations",
    "OptionObject": "answered without a signature, by method",
    "AssumeRole": "another protocol on another address",
}


def works_today():
    """Operations the server itself lists as served, from `granary operations`."""
    import subprocess
    from harness.server import binary
    text = subprocess.run([binary(), "operations"], capture_output=True, text=True, timeout=30, check=True).stdout
    served = " ".join(line.split("|")[2] for line in text.splitlines()[2:] if line.count("|") >= 4)
    return set(re.findall(r"[A-Z][A-Za-z0-9]+", served))


def requests_of(row):
    """A request that names the operation of a row: method, scope, query pairs; None if it cannot be sent here."""
    method, scope, line = row["method"], row["resource"], row["path_and_query"]
    if method not in ("GET", "PUT", "POST", "DELETE", "HEAD") or scope not in ("service", "bucket", "object"):
        return None
    line = re.sub(r"\[[^\]]*\]", "", line).split(" or ")[0].strip()
    path, _, query = line.partition("?")
    if not re.fullmatch(r"/(\{[^}]*\})?", path) or not query:
        return None
    pairs = []
    for item in query.split("&"):
        name, _, value = item.strip().partition("=")
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            return None
        pairs.append((name, re.sub(r"\{[^}]*\}|[0-9]+-[0-9]+", "1", value.split(" ")[0])))
    return method, scope, pairs


def rows():
    """The rows of the table, empty when the table is not there."""
    if not os.path.exists(TABLE):
        return []
    with open(TABLE, encoding="utf-8") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_table_is_there():
    assert len(rows()) > 250


def test_sweep(wire, bucket):
    done = works_today()
    assert {"PutObject", "ListObjectsV2", "UploadPartCopy"} <= done
    wire.put(bucket, "k", b"content")
    listing = wire.must("GET", bucket).body
    wrong, swept = [], 0
    for row in rows():
        name = row["operation"]
        request = requests_of(row)
        if name in done or name in SAME_REQUEST or request is None:
            continue
        method, scope, pairs = request
        answer = wire.request(method, None if scope == "service" else bucket, "k" if scope == "object" else None, query=pairs)
        swept += 1
        if (answer.status, answer.code if answer.status >= 300 else "") != (501, "NotImplemented"):
            wrong.append(f"{name}: {method} {scope} {pairs}: {answer.status} {answer.body[:120]!r}")
    assert not wrong, "\n".join(wrong)
    assert swept > 150
    assert wire.get(bucket, "k").body == b"content"
    assert re.sub(rb"<LastModified>.*?</LastModified>", b"", wire.must("GET", bucket).body) == re.sub(rb"<LastModified>.*?</LastModified>", b"", listing)


@pytest.mark.parametrize("method, key, query", [
    ("GET", None, ["policy"]), ("PUT", None, ["website"]), ("GET", None, ["logging"]), ("PUT", None, ["lifecycle"]), ("DELETE", None, ["inventory"]),
    ("GET", "k", ["live"]), ("PUT", "k", ["live"]), ("PUT", None, ["referer"]), ("POST", None, ["worm"]),
    ("POST", "k", ["restore"]), ("GET", "k", [("x-oss-process", "image/info")]), ("GET", None, ["encryption"]),
])
def test_handful(signed, bucket, method, key, query):
    signed.put(bucket, "k", b"content")
    answer = signed.request(method, bucket, key, query=query)
    assert (answer.status, answer.code) == (501, "NotImplemented"), answer.body
    assert re.fullmatch(r"[0-9A-F]{24}", answer.headers["x-oss-request-id"])
    assert signed.get(bucket, "k").body == b"content"


def test_strangers_do_not_learn_what_is_implemented(wire, bucket):
    answer = wire.request("GET", bucket, query=["policy"], auth=None)
    assert answer.status in (403, 501)
