"""What the benchmark's tools conclude from what they read: traces, latencies, medians."""
import os
import sys
from argparse import Namespace
from xml.etree import ElementTree

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "bench"))
# pylint: disable=wrong-import-position
import compare  # noqa: E402
import failover  # noqa: E402
import plot  # noqa: E402
import proof  # noqa: E402
import requirements  # noqa: E402
import targets  # noqa: E402
import wrk  # noqa: E402

PUT = {"key": "KEYKEYKEYK", "body": "BODYBODYBO", "marks": 128, "md5": "0123456789abcdef0123456789abcdef"}
KEY, BODY = proof.marks(PUT["key"], proof.KEY_MARKS), proof.marks(PUT["body"], PUT["marks"])
ANSWER = '9  sendto(7<socket:[1]>, "HTTP/1.1 200 OK\\r\\netag: \\"0123456789ABCDEF0123456789ABCDEF\\"\\r\\n\\r\\n", 99, MSG_NOSIGNAL, NULL, 0) = 99'
WRITE = f'2  pwritev(5</d/1.vol>, [{{iov_base="\\0\\1{KEY}", iov_len=5}}, {{iov_base="{BODY}", iov_len=4096}}], 2, 4096) = 4101'
SYNC = "3  fdatasync(5</d/1.vol>) = 0"


def judged(*lines):
    """(answers, covered) of a trace."""
    answered, covered, wrong, unread = proof.judge(lines, [PUT])
    assert len(wrong) == answered - covered and not unread
    return answered, covered


def test_an_answer_counts_only_after_a_sync_of_its_file_that_began_after_its_write_and_succeeded():
    assert judged(WRITE, SYNC, ANSWER) == (1, 1)
    assert judged(WRITE, ANSWER, SYNC) == (1, 0)
    assert judged(SYNC, WRITE, ANSWER) == (1, 0)
    assert judged(WRITE, "3  fdatasync(6</d/2.vol>) = 0", ANSWER) == (1, 0)
    assert judged(WRITE, "3  fdatasync(5</d/1.vol>) = -1 EIO (Input/output error)", ANSWER) == (1, 0)
    assert judged(WRITE, SYNC) == (0, 0)


def test_calls_that_overlap_are_held_apart():
    began, ended = "3  fdatasync(5</d/1.vol> <unfinished ...>", "3  <... fdatasync resumed>) = 0"
    writing, written = WRITE.replace(") = 4101", " <unfinished ...>"), "2  <... pwritev resumed>) = 4101"
    assert judged(WRITE, began, ended, ANSWER) == (1, 1)
    assert judged(began, WRITE, ended, ANSWER) == (1, 0)
    assert judged(WRITE, began, ANSWER, ended) == (1, 0)
    assert judged(writing, began, written, ended, ANSWER) == (1, 0)
    assert judged(writing, written, began, ended, ANSWER) == (1, 1)
    # strace came while the sync ran: nobody saw it begin.
    assert judged(WRITE, ended, ANSWER) == (1, 0)


def test_body_and_key_both_count_whole():
    key, body = f'2  write(4</d/wal>, "{KEY}", 256) = 256', f'2  pwritev(5</d/1.vol>, [{{iov_base="{BODY}", iov_len=4096}}], 1, 0) = 4096'
    synced = "3  fdatasync(4</d/wal>) = 0"
    assert judged(body, SYNC, key, synced, ANSWER) == (1, 1)
    assert judged(body, SYNC, key, ANSWER) == (1, 0)
    assert judged(body, key, synced, ANSWER) == (1, 0)
    half = len(BODY) // 2
    assert judged(WRITE.replace(BODY, BODY[:half]), SYNC, ANSWER) == (1, 0)
    # The frame of a log cuts one mark in two; two frames do not begin within 4 KiB.
    cut, framed = half + 5, "\\7\\0\\2\\1"
    once = BODY[:cut] + framed + BODY[cut:]
    assert judged(WRITE.replace(BODY, once), SYNC, ANSWER) == (1, 1)
    assert judged(WRITE.replace(BODY, BODY[:5] + framed + once[5:]), SYNC, ANSWER) == (1, 0)
    # Buffers of one call follow each other.
    buffers = '", iov_len=5}, {iov_base="'.join(BODY[at:at + 1000] for at in range(0, len(BODY), 1000))
    assert judged(WRITE.replace(BODY, buffers), SYNC, ANSWER) == (1, 1)


class Answering:
    """A server that gives up at the PUT of that number."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def sign(self, _, key):
        """As the tools ask for it."""
        return key

    def call(self, *_):
        """As the tools ask for it."""
        self.calls += 1
        if self.calls == self.fails_at:
            raise ConnectionResetError("gone")
        return 200, b""


def test_nothing_is_proved_by_puts_that_were_not_made(tmp_path, capsys):
    assert len(proof.store(Answering(), [4096], 5, 1)) == 5
    for target, count, word in ((Answering(fails_at=1), 5, "gone"), (Answering(fails_at=3), 5, "gone"), (Answering(), 0, "0 of 0")):
        with pytest.raises(RuntimeError, match=word):
            proof.store(target, [4096], count, 1)
    trace = tmp_path / "trace"
    trace.write_text("\n".join((WRITE, SYNC, ANSWER)) + "\n")
    assert proof.say(trace, [PUT])
    assert not proof.say(trace, [PUT, {**PUT, "md5": "0" * 32}])
    assert not proof.say(trace, [])
    assert "1 of 1 answers" in capsys.readouterr().out


def test_every_round_begins_with_another_target():
    orders = ["".join(compare.in_turn(list("ABC"), number)) for number in range(4)]
    assert orders == ["ABC", "BCA", "CAB", "ABC"]


def corrected(counts, expected):
    """What wrk makes of {microseconds: requests}."""
    counts = dict(counts)
    for value in range(2 * expected, max(counts) + 1):
        added = value - expected
        while counts.get(value, 0) and added > expected:
            counts[added] = counts.get(added, 0) + counts[value]
            added -= expected
    return counts


def test_latencies_are_those_that_were_measured():
    counts = {80: 900, 100: 70, 199: 5, 200: 3, 201: 4, 350: 2, 1000: 1, 2503: 1}
    assert corrected(counts, 100) != counts
    assert wrk.as_measured(corrected(counts, 100), 100) == counts
    assert (wrk.percentile(counts, 0.5), wrk.percentile(counts, 0.99), wrk.percentile(counts, 1)) == (80, 200, 2503)
    assert [wrk.percentile(dict.fromkeys(range(1, count + 1), 1), 0.9) for count in (5, 10, 15, 20, 25)] == [5, 9, 14, 18, 23]


def test_a_turn_has_answers_enough_and_an_end():
    def turn(requests, connections, seconds=5):
        return wrk.turn_seconds(seconds, {"requests": requests, "seconds": 1.0, "connections": connections})

    assert turn(8000, 32) == 5
    assert turn(9, 4) == 9, "twenty answers for each of four connections"
    assert (turn(1, 4), turn(0, 4), turn(0, 4, seconds=60)) == (30, 30, 60)
    assert [compare.at_once(32, size) for size in (4 << 10, 1 << 20, 16 << 20, 64 << 20)] == [32, 32, 4, 2]
    assert compare.at_once(1, 16 << 20) == 1


def test_the_longest_wait_counts_to_the_end_when_nothing_ended_it():
    acks = [9.0, 10.5, 11.0, 13.0]
    assert failover.longest_gap(acks, 10.0, None) == 2.0
    assert failover.longest_gap(acks, 10.0, 18.0) == 5.0
    assert failover.longest_gap(acks, 10.0, 13.5) == 2.0
    assert failover.longest_gap([9.0], 10.0, 12.0) == 2.0


def runs(rate, p50, p99, slow=0):
    """Two rounds of a target."""
    return [{"requests": rate * 2, "failed": 0, "seconds": 2.0, "p50_us": p50, "p99_us": p99, "slow": slow}] * 2


def test_requirements_are_ratios_of_medians():
    tall = {"granary": runs(3000, 10, 90), "bare hyper": runs(400, 10, 20)}
    many = {"get-16m": tall, "put-4k": {"granary": runs(3000, 100, 300), "garage off": runs(1000, 1, 1), "raw writer": runs(13000, 100, 190)},
            "put-16m": {"granary": runs(20, 1, 1), "raw writer": runs(30, 1, 1)},
            "get-4k": {"granary": runs(1000, 10, 20), "bare hyper": runs(1900, 10, 20)}}
    one = {"get-4k": {"granary": runs(1000, 40, 80, slow=3), "bare hyper": runs(1000, 10, 20)}}
    verdicts = {row[0]: row[3] for row in requirements.check(many, one, 500)}
    assert verdicts["put-4k to garage without fsync"] == "yes"
    assert verdicts["put-4k to the raw writer"] == "NO"
    assert verdicts["put-64k to garage without fsync"] == ""
    assert verdicts["get-4k to the bare server"] == "yes"
    # 335 MB/s, and 0.6 of MD5's 500 MB/s is less than 0.8 of the raw writer's 503.
    assert verdicts["put-16m, of what one core's MD5 or the raw writer allows"] == "yes"
    assert verdicts["one connection: time of a get-4k to the bare server's"] == "NO"
    assert verdicts["one connection: get-4k that take 35 ms and more"] == "NO"
    assert verdicts["put-4k: p99/p50 to that of the raw writer"] == "NO"
    assert verdicts["get-4k: p99/p50 to that of the bare hyper"] == "yes"
    # Of 800 answers eight are above it.
    assert verdicts["get-16m: p99/p50 to that of the bare hyper"] == ""


def test_a_cluster_is_held_against_garage_with_fsync_where_objects_are_small():
    many = {"put-4k": {"granary": runs(1000, 10, 20), "garage default": runs(900, 10, 20), "garage on": runs(100, 10, 20)},
            "get-4k": {"granary": runs(1000, 10, 20), "garage on": runs(201, 10, 20)},
            "put-1m": {"granary": runs(150, 10, 20), "garage default": runs(100, 10, 20), "garage on": runs(1000, 10, 20)}}
    verdicts = [row[1:] for row in requirements.check_cluster(many)]
    assert verdicts == [["at least 10", "10.00", "yes"], ["at least 5", "4.98", "NO"], ["at least 1.5", "1.50", "yes"], ["at least 1.5", "not measured", ""]]


GARAGE = """#!/bin/sh
shift
echo "$*" >> "{calls}"
config=$1
shift
case "$*" in
  server)
    exec "{python}" -c '
import re, socket, sys
for address in re.findall(r"_bind_addr = .127.0.0.1:(.*).", open(sys.argv[1]).read()):
    listening = socket.create_server(("127.0.0.1", int(address)))
    globals().setdefault("held", []).append(listening)
while True:
    one = held[-1].accept()[0]
    one.recv(9999)
    one.sendall(b"HTTP/1.1 403 no\\r\\ncontent-length: 0\\r\\n\\r\\n")
    one.close()
' "$config" ;;
  "node id -q") echo "$(basename "$(dirname "$config")")@127.0.0.1:1" ;;
  "json-api GetClusterHealth") echo '{{"storageNodes": 3, "partitions": 256, "partitionsAllOk": 256}}' ;;
  "key create bench") printf 'Key ID:  GK1\\nSecret key:  s1\\n' ;;
esac
"""


def test_garage_is_three_nodes_in_three_zones(tmp_path, monkeypatch):
    """What a garage is told, by a program that only notes it."""
    (tmp_path / "bin").mkdir()
    program, calls = tmp_path / "bin" / "garage", tmp_path / "calls"
    program.write_text(GARAGE.format(python=sys.executable, calls=calls))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(targets, "IDLE_LOOK_S", 0.1)
    target = targets.start_garage(str(tmp_path / "g"), "on", nodes=3)
    try:
        assert len(set(target.pids)) == 3 and target.running() and target.peak_mebibytes() > 0
        assert (target.access_key, target.secret) == ("GK1", "s1")
    finally:
        target.stop()
    assert not target.running() and all(not other.running() for other in target.others)
    said = [line.partition("garage.toml ")[2] for line in calls.read_text().splitlines()]
    assert said == ["server"] * 3 + ["node id -q"] * 3 + [f"node connect g-{n}@127.0.0.1:1" for n in (2, 3)] + [
        f"layout assign -z zone{n} -c 10G {name}" for n, name in enumerate(("g", "g-2", "g-3"), 1)] + [
        "layout apply --version 1"] + ["json-api GetClusterHealth"] * 3 + ["key create bench", "bucket create bench",
                                                                           "bucket allow --read --write bench --key bench"]
    configs = [(tmp_path / name / "garage.toml").read_text() for name in ("g", "g-2", "g-3")]
    assert all("replication_factor = 3\n" in config and "metadata_fsync = true\ndata_fsync = true\n" in config for config in configs)
    assert ["api_bind_addr" in config for config in configs] == [True, False, False]


UNSAID = Namespace(commit=None, machine=None, date=None)


def drawn(report):
    """{file: (title, the text in it, its bars as (row, width))} of a report."""
    found = {}
    report = plot.told(report, UNSAID)
    for chart in plot.charts(report):
        root = ElementTree.fromstring(plot.draw(chart, plot.about(report["origin"])))
        name = "{http://www.w3.org/2000/svg}"
        bars = [(bar.get("data-row"), float(bar.get("width"))) for bar in root.iter(f"{name}rect") if bar.get("class").startswith("bar ")]
        found[chart.file] = root.find(f"{name}title").text, [piece.text for piece in root.iter(f"{name}text")], bars
    return found


def test_a_comparison_has_a_bar_per_target_held_against_the_limit():
    many = {"put-4k": {"granary": runs(1000, 100, 300), "garage on": runs(100, 1000, 2000), "bare hyper": runs(9000, 1, 2), "raw writer": runs(4000, 30, 60)},
            "get-1m": {"granary": runs(300, 100, 300), "bare hyper": runs(1200, 10, 20), "garage on": []}}
    origin = {"tool": "compare", "commit": "0123abc+", "machine": "one & <two>", "date": "2026-01-02"}
    found = drawn({"origin": origin, "many": many, "one": {"get-4k": {"granary": runs(1000, 10, 20)}}})
    assert sorted(found) == ["compare-latency", "compare-one-latency", "compare-one-throughput", "compare-throughput"]
    title, texts, bars = found["compare-throughput"]
    assert all(word in title for word in ("0123abc+", "one & <two>", "2026-01-02")) and "one & <two>" in texts
    assert [row for row, _ in bars] == ["granary", "garage on", "raw writer", "granary", "bare hyper"]
    widths = [width for _, width in bars]
    # A quarter of either limit, and garage a tenth of Granary.
    assert widths[0] == pytest.approx(widths[2] / 4, abs=0.2) and widths[3] == pytest.approx(widths[4] / 4, abs=0.2)
    assert widths[1] == pytest.approx(widths[0] / 10, abs=0.2)
    assert "1,000 req/s, 4.10 MB/s" in texts
    _, texts, bars = found["compare-latency"]
    assert [row for row, _ in bars] == ["granary", "garage on", "raw writer", "granary", "bare hyper"]
    # Of 600 answers there is no 99th percentile.
    assert "0.10 / 0.30 ms" in texts and "0.10 ms" in texts


def test_without_a_limit_granary_is_the_measure():
    found = drawn({"many": {"put-4k": {"granary": runs(1000, 10, 20), "garage on": runs(100, 10, 20)}}, "one": {}})
    assert list(found) == ["cluster-throughput", "cluster-latency"]
    (_, whole), (_, tenth) = found["cluster-throughput"][2]
    assert tenth == pytest.approx(whole / 10, abs=0.2)
    assert not drawn({"many": {"put-4k": {"granary": []}}, "one": {}})


def test_waits_and_repairs_are_drawn_too():
    waits = {"nothing": [{"longest_s": 0.1}], "leader": [{"longest_s": wait} for wait in (2.0, 2.5, 3.0)], "zone": []}
    _, texts, bars = drawn(waits)["failover"]
    assert [row for row, _ in bars] == ["nothing, 1 time", "leader, 3 times"] and "2.50 s, p90 3.00 s, most 3.00 s" in texts
    asked = {"requests_per_second": 100.0, "latency_ms": {"p50": 1.0, "p99": 20.0}}
    part = {"before": asked, "alone": {"seconds": 10.0, "mib_per_sec": 50.0, "clients": []}, "with clients": {"seconds": 20.0, "mib_per_sec": 25.0, "clients": [asked]}}
    found = drawn({"disk_mib_per_sec": 400.0, "default": part})
    assert [row for row, _ in found["repair-speed"][2]] == ["alone, no clients", "with clients", "one stream"]
    assert [row for row, _ in found["repair-clients"][2]] == ["no repair", "while repaired"] and "100 req/s, 1.00 / 20.0 ms" in found["repair-clients"][1]
