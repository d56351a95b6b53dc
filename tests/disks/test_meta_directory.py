"""The disk under the metadata dies: nothing more is acknowledged, and the process says so and ends."""
import http.client
import os
import re
import shutil
import subprocess
import threading
import time

import pytest

from harness.server import Server
from harness.waiting import wait_for

from .volume import volumes

BUCKET = "meta-disk-bucket"


@pytest.fixture
def place(tmp_path_factory):
    """Where a test keeps its data directories and logs."""
    made = tmp_path_factory.mktemp("meta-disk")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def disk(tmp_path_factory):
    """A small file system for the metadata."""
    made = volumes(tmp_path_factory.mktemp("meta-volume"), 1, 400)
    yield made[0]
    made[0].remove()



def write_until_it_ends(server, number, refused):
    """Puts small objects as long as the process runs; notes what it refuses."""
    raw, end = server.wire(), time.monotonic() + 120
    for count in range(1_000_000):
        if server.process.poll() is not None or time.monotonic() > end:
            return
        try:
            answer = raw.request("PUT", BUCKET, f"{number}/{count}", body=os.urandom(4000))
        except (OSError, http.client.HTTPException):
            continue
        if answer.status != 200:
            refused.append(answer.status)


@pytest.mark.parametrize("fault", ["dies", "fills up"])
def test_the_disk_of_the_metadata(place, disk, fault):
    # Without the early refusal, to see what happens at the very end.
    (place / "granary.toml").write_text("[meta]\nmin_free_bytes = 0\n")
    flags = ["--meta-dir", disk.data, "--config", str(place / "granary.toml")]
    server = Server([place / "data"], place / "server.log", flags=flags)
    server.start()
    try:
        raw = server.wire()
        raw.must("PUT", BUCKET)
        raw.must("PUT", BUCKET, "before", body=b"x" * 1000)
        if fault == "dies":
            disk.die()
        else:
            with open(f"{disk.directory}/filler", "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(1 << 16))
                except OSError:
                    pass
        # Metadata is written ahead into space that is reserved already: it takes some to notice.
        refused = []
        writers = [threading.Thread(target=write_until_it_ends, args=(server, number, refused)) for number in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert server.process.wait(60) not in (0, 101), server.log_tail()
        assert all(status >= 500 for status in refused), set(refused)
        log = re.sub(r"\x1b\[[0-9;]*m", "", open(server.log_path, encoding="utf-8", errors="replace").read())
        told = [line for line in log.splitlines() if " ERROR " in line and "can no longer be written" in line]
        assert len(told) == 1, log[-4000:]
        assert disk.data in told[0] and "start Granary again" in told[0]
        assert "panicked" not in log, log[-4000:]
    finally:
        server.kill()
    if fault == "fills up":
        # Once there is room again it goes on with everything that was acknowledged.
        subprocess.run(["rm", f"{disk.directory}/filler"], check=True)
        server.start()
        try:
            assert server.wire().must("GET", BUCKET, "before").body == b"x" * 1000
            server.wire().must("PUT", BUCKET, "later", body=b"later")
            assert server.stop() == 0
        finally:
            server.kill()


def test_writes_are_refused_before_the_disk_of_the_metadata_is_full(place, disk):
    """Reads and deletes go on, and so do writes once there is room, without a restart."""
    (place / "granary.toml").write_text("[meta]\nmin_free_bytes = 67108864\n")
    server = Server([place / "data"], place / "server.log", flags=["--meta-dir", disk.data, "--config", str(place / "granary.toml")])
    server.start()
    try:
        raw = server.wire()
        raw.must("PUT", BUCKET)
        for key in ("a", "b"):
            raw.must("PUT", BUCKET, key, body=key.encode())
        with open(f"{disk.directory}/filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, disk.free_bytes() - (32 << 20))

        def put_status():
            return raw.request("PUT", BUCKET, "c", body=b"c").status

        wait_for("a refusal", lambda: put_status() != 200)
        assert put_status() == 503
        assert raw.must("GET", BUCKET, "a").body == b"a"
        raw.must("DELETE", BUCKET, "b")
        os.remove(f"{disk.directory}/filler")
        wait_for("room", lambda: put_status() == 200)
        assert raw.request("GET", BUCKET, "b").status == 404
        assert server.stop() == 0
        alarms = server.new_alarms()
        assert sum("free under the metadata" in alarm for alarm in alarms) == 1, alarms
    finally:
        server.kill()
