"""Data directories that earlier versions wrote, killed while they ran, are opened, read and written by this one."""
import json
import pathlib
import subprocess

import pytest

from harness import digest

from .make_directory import CONFIG, body

HERE = pathlib.Path(__file__).parent
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in HERE.glob("*.tar.xz"))


def check(wire, expected):
    """Everything that was acknowledged is there, nothing else is."""
    for key, known in expected["objects"].items():
        answer = wire.must("GET", "old-bucket", key)
        content = b"".join(body(seed, size) for seed, size in zip(known["seed"], known["size"]))
        assert answer.body == content, key
        assert answer.headers["x-oss-hash-crc64ecma"] == known["crc64"] == str(digest.crc64(content)), key
    for key in expected["absent"]:
        assert wire.request("GET", "old-bucket", key).code == "NoSuchKey", key
    listed = wire.must("GET", "old-bucket", query=[("max-keys", "1000")]).texts("Contents/Key")
    assert listed == sorted(expected["objects"], key=str.encode)


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_of_an_earlier_version_opens_and_goes_on(name, make_server, tmp_path):
    """Objects, uploads, bucket settings: read as they were, changed, and read again after a restart."""
    expected = json.loads((HERE / f"{name}.json").read_text())
    subprocess.run(["tar", "-C", str(tmp_path), "-xJf", str(HERE / f"{name}.tar.xz")], check=True)
    config = tmp_path / "granary.toml"
    config.write_text(CONFIG)
    directories = sorted((tmp_path / "data").iterdir())
    server = make_server(f"compat-{name}", data_dirs=directories, flags=["--config", str(config)])
    wire = server.wire()
    check(wire, expected)
    inline = wire.must("HEAD", "old-bucket", "inline").headers
    assert (inline["content-type"], inline["x-oss-meta-colour"]) == ("text/plain", "green")
    info = wire.must("GET", "old-bucket", query=["bucketInfo"])
    assert info.text("Bucket/AccessControlList/Grant") == "public-read"
    assert set(wire.must("GET").texts("Buckets/Bucket/Name")) >= {"old-bucket", "old-empty"}

    upload = expected["uploads"]["unfinished"]
    parts = f"<Part><PartNumber>1</PartNumber><ETag>{upload['etag']}</ETag></Part>"
    wire.must("POST", "old-bucket", "unfinished", query=[("uploadId", upload["id"])],
              body=f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode())
    content = body(upload["seed"], upload["size"])
    expected["objects"]["unfinished"] = {"seed": [upload["seed"]], "size": [upload["size"]],
                                         "crc64": str(digest.crc64(content))}
    wire.must("PUT", "old-bucket", "large", body=body(900, 50_000))
    expected["objects"]["large"] = {"seed": [900], "size": [50_000], "crc64": str(digest.crc64(body(900, 50_000)))}
    wire.must("DELETE", "old-bucket", "inline")
    del expected["objects"]["inline"]
    expected["absent"].append("inline")
    wire.must("DELETE", "old-empty")
    wire.close()
    assert server.stop() == 0
    server.start()
    wire = server.wire()
    check(wire, expected)
    wire.close()
