"""Kills the server under load, starts it again on the same directories, and checks all it ever promised.

GRANARY_CRASH_ROUNDS sets the number of kills (25 unless told), GRANARY_TEST_SEED repeats a run.
"""
import os
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import digest

from .load import Surprise, Worker, check_seen
from .model import Model, Value

WORKERS = 6
BUCKET = "crash-bucket"
# A volume or log that ends in the middle of a record is what a crash leaves; saying so is right.
ALLOWED_ALARMS = [r"WARN.*(torn|truncat|recover|replay|incomplete|unclean)"]


def rounds(share):
    """Kills of one test: its share of the configured number."""
    return max(1, round(int(os.environ.get("GRANARY_CRASH_ROUNDS", "25")) * share))


def load_until_killed(server, model, rng, lasting_s):
    """Runs the workers, kills the server in their midst; returns how many calls they finished."""
    stopping = threading.Event()
    workers = [Worker(n, server, BUCKET, model, random.Random(rng.getrandbits(64)), stopping) for n in range(WORKERS)]
    for worker in workers:
        worker.start()
    time.sleep(lasting_s)
    server.kill()
    stopping.set()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive(), "a client still waits for a server that is dead"
    for worker in workers:
        if worker.surprise:
            raise worker.surprise
    return sum(worker.done for worker in workers)


def check_objects(server, model):
    """Every key holds a legal value; from then on it is the only legal one."""
    wires = threading.local()

    def check(item):
        key, register = item
        if not hasattr(wires, "raw"):
            wires.raw = server.wire(auth="v1")
        now = time.monotonic()
        value = check_seen(key, wires.raw.request("GET", BUCKET, key), register.legal(now, now))
        register.settle(value)
        return key, value

    with ThreadPoolExecutor(6) as pool:
        seen = dict(pool.map(check, list(model.registers.items())))
    return {key: value for key, value in seen.items() if value is not None}


def check_listing(raw, objects):
    """The listing shows exactly the objects, with their sizes, in order."""
    rows, marker = [], ""
    while True:
        page = raw.must("GET", BUCKET, query=[("max-keys", "37"), ("marker", marker)])
        rows += [(row.findtext("Key"), int(row.findtext("Size"))) for row in page.xml.findall("Contents")]
        if page.text("IsTruncated") != "true":
            break
        marker = page.text("NextMarker")
    assert rows == sorted((key, value.size) for key, value in objects.items())


def check_counters(raw, objects):
    """The bucket's counters are the sums over what is listed, uploads nobody acknowledged included."""
    uploads = raw.must("GET", BUCKET, query=["uploads", ("max-uploads", "1000")]).xml.findall("Upload")
    parts = []
    for upload in uploads:
        listed = raw.must("GET", BUCKET, upload.findtext("Key"), query=[("uploadId", upload.findtext("UploadId"))])
        parts += [int(size) for size in listed.texts("Part/Size")]
    stat = raw.must("GET", BUCKET, query=["stat"])
    names = ("ObjectCount", "Storage", "MultipartUploadCount", "MultipartPartCount")
    expected = (len(objects), sum(value.size for value in objects.values()) + sum(parts), len(uploads), len(parts))
    assert tuple(int(stat.text(name)) for name in names) == expected


def check_upload(raw, upload, objects):
    """The upload has every acknowledged part, or ended as it was asked to. True if it still is open."""
    parts, marker = {}, "0"
    while True:
        answer = raw.request("GET", BUCKET, upload.key, query=[("uploadId", upload.upload_id), ("part-number-marker", marker)])
        if answer.status == 404:
            if not (upload.ended or upload.ending):
                raise Surprise(f"upload {upload.upload_id} of {upload.key} is gone and nobody ended it")
            return False
        assert answer.status == 200, answer.body
        for part in answer.xml.findall("Part"):
            parts[int(part.findtext("PartNumber"))] = (part.findtext("ETag").strip('"'), int(part.findtext("Size")))
        if answer.text("IsTruncated") != "true":
            break
        marker = answer.text("NextPartNumberMarker")
    if upload.ended:
        raise Surprise(f"upload {upload.upload_id} of {upload.key} was acknowledged as ended and is there")
    for number, piece in upload.parts.items():
        expected = (digest.etag(Value((piece,)).body()), piece[1])
        if parts.get(number) != expected:
            raise Surprise(f"part {number} of {upload.key}: {parts.get(number)}, acknowledged was {expected}")
    for number in parts.keys() - upload.parts.keys():
        possible = {digest.etag(Value((piece,)).body()): piece for piece in upload.perhaps.get(number, [])}
        if parts[number][0] not in possible:
            raise Surprise(f"part {number} of {upload.key}: nobody sent it")
        upload.parts[number] = possible[parts[number][0]]
    for number in list(upload.perhaps):
        if number not in parts and len(upload.perhaps[number]) > 1:
            raise Surprise(f"part {number} of {upload.key}: replacing it lost it")
    if upload.ending == "complete" and objects.get(upload.key) == upload.value() and upload.parts:
        raise Surprise(f"{upload.key} was completed and its upload is there still")
    upload.perhaps.clear()
    upload.ending = None
    return True


def finish_some_uploads(raw, model, rng):
    """Completes or aborts what is open, so that parts written before a crash are read after it."""
    for upload in model.uploads:
        register = model.register(upload.key)
        if upload.parts and all(size >= 102_400 for _, size in list(upload.value().pieces)[:-1]) and rng.random() < 0.5:
            etags = [(n, digest.etag(Value((upload.parts[n],)).body())) for n in sorted(upload.parts)]
            answer = raw.complete(BUCKET, upload.key, upload.upload_id, etags)
            assert answer.status == 200, answer.body
            register.settle(upload.value())
            got = raw.get(BUCKET, upload.key)
            check_seen(upload.key, got, [upload.value()])
            upload.ended = True
        elif rng.random() < 0.5:
            raw.must("DELETE", BUCKET, upload.key, query=[("uploadId", upload.upload_id)])
            upload.ended = True
    model.uploads = [upload for upload in model.uploads if not upload.ended]


def check_all(server, model, rng):
    """Everything the model knows, against the server as it is now."""
    raw = server.wire()
    objects = check_objects(server, model)
    check_listing(raw, objects)
    check_counters(raw, objects)
    model.uploads = [upload for upload in model.uploads if check_upload(raw, upload, objects)]
    open_ids = {u.findtext("UploadId") for u in raw.must("GET", BUCKET, query=["uploads", ("max-uploads", "1000")]).xml.findall("Upload")}
    assert {upload.upload_id for upload in model.uploads} <= open_ids
    finish_some_uploads(raw, model, rng)
    raw.close()
    return len(objects)


@pytest.mark.parametrize("disks, share", [(1, 0.64), (3, 0.36)])
def test_kills_under_load(tmp_path_factory, seed, disks, share):
    from harness.server import Server
    rng = random.Random(f"{seed}-{disks}")
    place = tmp_path_factory.mktemp(f"crash{disks}")
    server = Server([place / f"disk{n}" for n in range(disks)], place / "server.log")
    model = Model()
    began = time.monotonic()
    calls = objects = 0
    try:
        server.start()
        server.wire().must("PUT", BUCKET)
        for number in range(rounds(share)):
            calls += load_until_killed(server, model, rng, rng.uniform(0.15, 2.2))
            if rng.random() < 0.25:
                # Crash again, in the midst of recovering.
                server.start(wait=False)
                time.sleep(rng.uniform(0.0, 0.4))
                server.kill()
            server.start()
            try:
                objects = check_all(server, model, rng)
            except AssertionError as surprise:
                raise AssertionError(f"seed {seed}, {disks} disks, round {number}: {surprise}") from surprise
        assert server.stop() == 0
        server.start()
        check_all(server, model, rng)
        assert server.stop() == 0
        alarms = server.new_alarms(ALLOWED_ALARMS)
        assert not alarms, alarms[:10]
        print(f"{disks} disk(s): {rounds(share)} kills, {calls} calls, {objects} objects at the end, {time.monotonic() - began:.0f} s")
    finally:
        server.kill()
        logs = os.environ.get("GRANARY_TEST_LOGS")
        if logs and os.path.exists(server.log_path):
            shutil.copy(server.log_path, os.path.join(logs, f"server-crash-{disks}.log"))
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.long
def test_many_kills_in_quick_succession(tmp_path_factory, seed):
    """Starts and kills without ever a quiet moment: every start is a recovery of a recovery."""
    from harness.server import Server
    rng = random.Random(f"{seed}-quick")
    place = tmp_path_factory.mktemp("crash-quick")
    server = Server([place / "disk"], place / "server.log")
    model = Model()
    try:
        server.start()
        server.wire().must("PUT", BUCKET)
        load_until_killed(server, model, rng, 2.0)
        for _ in range(40):
            server.start(wait=False)
            time.sleep(rng.uniform(0.0, 0.6))
            server.kill()
        server.start()
        check_all(server, model, rng)
        assert server.stop() == 0
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)
