"""Makes a data directory for test_old_directories.py: GRANARY_BIN=... python -m compat.make_directory NAME, in tests/.

Run it with the binary of the last version before a format changes, and keep what it writes, NAME.tar.xz and
NAME.json, for ever: every later version must open it. The server is killed, so its logs are part of the test.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from harness import digest
from harness.server import Server

HERE = pathlib.Path(__file__).parent
CONFIG = '[meta]\nshards = 2\n[storage]\nmin_free_bytes = 0\nmin_free_percent = 0\n'


def body(seed, size):
    """Bytes that compress well and differ by seed."""
    block = random.Random(seed).randbytes(64)
    return (block * (size // len(block) + 1))[:size]


def fill(wire):
    """Writes, overwrites and deletes; what must be there afterwards."""
    expected = {"objects": {}, "absent": [], "uploads": {}}
    wire.must("PUT", "old-bucket", headers={"x-oss-acl": "public-read"})
    wire.must("PUT", "old-empty")

    def put(key, seed, size, headers=None):
        content = body(seed, size)
        wire.must("PUT", "old-bucket", key, headers=headers or {}, body=content)
        expected["objects"][key] = {"seed": [seed], "size": [size], "crc64": str(digest.crc64(content))}

    put("empty", 1, 0)
    put("inline", 2, 1000, {"content-type": "text/plain", "x-oss-meta-colour": "green"})
    put("large", 3, 3_000_000)
    put("several/chunks", 4, 9_000_000)
    put("überschrieben", 5, 70_000)
    put("überschrieben", 6, 80_000)
    for n in range(50):
        put(f"many/{n:03}", 100 + n, 500 + n)
    put("deleted", 7, 100_000)
    wire.must("DELETE", "old-bucket", "deleted")
    del expected["objects"]["deleted"]
    expected["absent"].append("deleted")

    def begin(key):
        answer = wire.must("POST", "old-bucket", key, query=["uploads"])
        return answer.text("UploadId")

    def part(key, upload, number, seed, size):
        query = [("partNumber", str(number)), ("uploadId", upload)]
        return wire.must("PUT", "old-bucket", key, query=query, body=body(seed, size)).headers["etag"]

    upload = begin("multipart")
    tags = [part("multipart", upload, n, 200 + n, 200_000) for n in (1, 2, 3)]
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in enumerate(tags, 1))
    done = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    wire.must("POST", "old-bucket", "multipart", query=[("uploadId", upload)], body=done)
    whole = b"".join(body(200 + n, 200_000) for n in (1, 2, 3))
    expected["objects"]["multipart"] = {"seed": [201, 202, 203], "size": [200_000] * 3, "crc64": str(digest.crc64(whole))}
    upload = begin("unfinished")
    tag = part("unfinished", upload, 1, 300, 150_000)
    expected["uploads"]["unfinished"] = {"id": upload, "seed": 300, "size": 150_000, "etag": tag}
    return expected


def main(name):
    """Makes NAME.tar.xz and NAME.json beside this file."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "granary.toml").write_text(CONFIG)
        directories = [place / "data" / f"disk{n}" for n in (1, 2)]
        server = Server(directories, place / "server.log", flags=["--config", str(place / "granary.toml")])
        wire = server.start().wire()
        expected = fill(wire)
        wire.close()
        server.kill()
        (HERE / f"{name}.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        subprocess.run(["tar", "-C", str(place), "-cJf", str(HERE / f"{name}.tar.xz"), "--exclude=lock", "data"],
                       check=True, env={"XZ_OPT": "-9e", "PATH": "/usr/bin:/bin"})


if __name__ == "__main__":
    main(sys.argv[1])
