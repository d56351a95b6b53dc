#!/usr/bin/env python3
"""Runs the nemesis on fresh clusters of real processes with one new seed after the other, and sums up.

    GRANARY_SOAK_SECONDS   how long in all (7200); every run strikes for GRANARY_SOAK_RUN_SECONDS (600) of it
    GRANARY_TEST_SEED      the first seed; the following ones are drawn from it
    GRANARY_BIN, GRANARY_TEST_LOGS, GRANARY_VENV   as for scripts/test.sh

A run that fails keeps its logs and histories and does not end the others; the exit code tells.
"""
import collections
import json
import os
import random
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def one_run(seed, seconds, place):
    """One pytest of its own; returns its row."""
    os.makedirs(place, exist_ok=True)
    env = {**os.environ, "GRANARY_TEST_SEED": str(seed), "GRANARY_SOAK_SECONDS": f"{seconds:.0f}", "GRANARY_TEST_LOGS": place}
    line = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", "tests", "tests/cluster/test_cluster.py", "-k", "test_nemesis", "-s"]
    began = time.monotonic()
    with open(os.path.join(place, "output.log"), "w", encoding="utf-8") as out:
        code = subprocess.run(line, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    row = {"seed": seed, "code": code, "seconds": time.monotonic() - began, "rounds": 0, "faults": {}, "acknowledged": 0}
    report = os.path.join(place, f"nemesis-{seed}.json")
    if os.path.exists(report):
        with open(report, encoding="utf-8") as told:
            row.update(json.load(told))
    return row


def main():
    """Runs until the time is up."""
    total = float(os.environ.get("GRANARY_SOAK_SECONDS") or 7200)
    each = float(os.environ.get("GRANARY_SOAK_RUN_SECONDS") or 600)
    logs = os.environ.get("GRANARY_TEST_LOGS") or os.path.join(ROOT, "target", "soak-logs")
    first = int(os.environ.get("GRANARY_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    rng, began, rows = random.Random(first), time.monotonic(), []
    print(f"soak of {total:.0f} s, first seed {first}; logs in {logs}", flush=True)
    while (left := total - (time.monotonic() - began)) > 0:
        seed = first if not rows else rng.randrange(1 << 32)
        row = one_run(seed, min(each, max(left, 60)), os.path.join(logs, f"soak-{seed}"))
        rows.append(row)
        print(line_of(row), flush=True)
    print(f"\n{'seed':>12}  verdict  {'time':>6}  rounds  changes  faults")
    for row in rows:
        print(line_of(row))
    faults = collections.Counter()
    for row in rows:
        faults.update(row["faults"])
    print("\nfaults injected")
    for kind, count in sorted(faults.items()):
        print(f"  {kind:<34} {count:>6}")
    failed = [row["seed"] for row in rows if row["code"] != 0]
    print(f"\n{len(rows)} runs, {len(failed)} failed{': ' + ', '.join(map(str, failed)) if failed else ''}; "
          f"{sum(faults.values())} faults, {sum(row['acknowledged'] for row in rows)} acknowledged changes, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def line_of(row):
    """A row of the table."""
    verdict = "ok" if row["code"] == 0 else "FAILED"
    return f"{row['seed']:>12}  {verdict:<7}  {row['seconds']:>5.0f}s  {row['rounds']:>6}  {row['acknowledged']:>7}  {sum(row['faults'].values()):>6}"


if __name__ == "__main__":
    sys.exit(main())
