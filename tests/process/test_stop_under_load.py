"""SIGTERM in the middle of requests: the process ends with 0, and has nothing to complain about."""
import http.client
import os
import threading

import pytest

from harness.server import Server

BUCKET = "stop-bucket"
CLIENTS = 8


def put_until(server, number, ended, acknowledged):
    """Puts and reads small objects until the server stops answering."""
    raw, count = server.wire(), 0
    while not ended.is_set():
        count += 1
        key = f"{number}/{count}"
        try:
            if raw.request("PUT", BUCKET, key, body=os.urandom(3000)).status == 200:
                acknowledged.append(key)
            raw.request("GET", BUCKET, key)
        except (OSError, http.client.HTTPException):
            return


@pytest.mark.parametrize("requests_before", [1, 50, 400, 1000])
def test_a_stop_under_load_is_clean(tmp_path, requests_before):
    server = Server([tmp_path / "data"], tmp_path / "log").start()
    ended, acknowledged = threading.Event(), []
    clients = [threading.Thread(target=put_until, args=(server, n, ended, acknowledged)) for n in range(CLIENTS)]
    try:
        server.wire().must("PUT", BUCKET)
        for client in clients:
            client.start()
        while len(acknowledged) < requests_before and any(client.is_alive() for client in clients):
            ended.wait(0.001)
        assert server.stop() == 0
        ended.set()
        for client in clients:
            client.join()
        assert server.new_alarms() == []
        server.start()
        for key in acknowledged[-50:]:
            server.wire().must("HEAD", BUCKET, key)
        assert server.stop() == 0
    finally:
        ended.set()
        server.kill()
