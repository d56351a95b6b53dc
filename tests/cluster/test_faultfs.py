"""Disks behind FUSE do what the nemesis asks of them, and lose only what nobody synced."""
import errno
import os
import shutil
import threading
import time

import pytest

from harness import faultfs
from harness.leftovers import Leftovers

pytestmark = pytest.mark.skipif(faultfs.why_not() is not None, reason=str(faultfs.why_not()))


@pytest.fixture
def disk(tmp_path):
    """A mounted disk."""
    leftovers = Leftovers()
    made = faultfs.FaultyDisk(str(tmp_path / "true"), str(tmp_path / "disk"), leftovers)
    yield made
    made.close()
    leftovers.remove_all()


def written(disk, name, data, sync=True):
    """Writes a file, and closes it as a process that is killed would."""
    path = os.path.join(disk.mount, name)
    with open(path, "r+b" if os.path.exists(path) else "wb") as out:
        out.write(data)
        out.flush()
        if sync:
            os.fsync(out.fileno())
    return path


def sync_names(disk):
    """fsync of the directory."""
    directory = os.open(disk.mount, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_files_are_files(disk, tmp_path):
    """What databases do with files works: names, sizes, locks, links, listings."""
    one = written(disk, "one", b"x" * 300_000)
    with open(one, "r+b") as file:
        assert os.pread(file.fileno(), 10, 299_995) == b"x" * 5
        os.ftruncate(file.fileno(), 5)
        os.posix_fallocate(file.fileno(), 0, 4096)
        assert os.fstat(file.fileno()).st_size == 4096
        os.unlink(one)
        assert os.pread(file.fileno(), 6, 0) == b"xxxxx\0"
    os.mkdir(os.path.join(disk.mount, "dir"))
    two = written(disk, "dir/two", b"2")
    os.link(two, os.path.join(disk.mount, "three"))
    os.rename(os.path.join(disk.mount, "dir"), os.path.join(disk.mount, "other"))
    assert sorted(os.listdir(disk.mount)) == ["other", "three"]
    assert open(os.path.join(disk.mount, "other", "two"), "rb").read() == b"2"
    assert os.statvfs(disk.mount).f_frsize > 0
    shutil.rmtree(os.path.join(disk.mount, "other"))
    assert os.listdir(disk.backing) == ["three"]


def test_a_power_failure_takes_only_what_was_not_synced(disk, seed):
    """Over many cuts: synced bytes always stay, others are lost and kept, also in one file."""
    lost = kept = mixed = 0
    for round_number in range(60):
        path = written(disk, "volume", b"a" * 8192)
        sync_names(disk)
        written(disk, "volume", b"b" * 8192, sync=False)
        disk.cut(seed + round_number)
        content = open(path, "rb").read()
        assert set(content) <= {ord("a"), ord("b")} and len(content) == 8192
        lost += set(content) == {ord("a")}
        kept += set(content) == {ord("b")}
        mixed += len(set(content)) == 2
    assert lost and kept and mixed, (lost, kept, mixed)


def test_new_names_need_a_sync_of_their_directory(disk, seed):
    """A file that was synced itself may still be gone."""
    gone = 0
    for round_number in range(40):
        sure = written(disk, "sure", b"1")
        sync_names(disk)
        unsure = written(disk, "unsure", b"2")
        disk.cut(seed + round_number)
        assert os.path.exists(sure)
        gone += not os.path.exists(unsure)
        if os.path.exists(unsure):
            os.unlink(unsure)
    assert 0 < gone < 40


@pytest.mark.parametrize("kind", ["read", "write", "sync"])
def test_errors_come_and_go(disk, kind):
    """Only the operation that was asked for fails, until the disk is healed."""
    path = written(disk, "file", b"content")

    def fails(does):
        try:
            does()
        except OSError as error:
            return error.errno == errno.EIO
        return False

    disk.fail(kind)
    with open(path, "r+b", buffering=0) as file:
        assert fails(lambda: file.write(b"C")) == (kind == "write")
        assert fails(lambda: os.fsync(file.fileno())) == (kind == "sync")
        assert fails(lambda: os.pread(file.fileno(), 1, 0)) == (kind == "read")
        disk.heal()
        file.write(b"C")
        os.fsync(file.fileno())
    assert open(path, "rb").read(1) in (b"c", b"C")


def test_a_disk_that_hangs_answers_when_it_heals(disk):
    """And not before."""
    path = written(disk, "file", b"content")
    disk.hang()
    read = []
    thread = threading.Thread(target=lambda: read.append(open(path, "rb").read()))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not read
    disk.heal()
    thread.join(10)
    assert read == [b"content"]
    disk.slow(200)
    began = time.monotonic()
    written(disk, "file", b"again")
    assert time.monotonic() - began >= 0.4
