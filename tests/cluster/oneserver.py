"""`granary server` behind the commands of a cluster of one node, so that drills and nemesis are tried on a real store.

Run as a program, as `harness.standin` is. Status comes from the server's metrics; `fsck` and `scrub`
have nothing to say.
"""
import argparse
import json
import os
import sys
import tomllib
import urllib.request


def metrics(address):
    """/metrics as {name: value}, labels dropped."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in lines}


def status(address):
    """The server as a cluster of one."""
    seen = metrics(f"{address.partition(':')[0]}:9001")
    below, unknown = seen.get("granary_worker_chunks_below_redundancy"), seen.get("granary_worker_groups_unknown", 0)
    whole = below == 0 and unknown == 0
    return {"health": "ok" if whole else "degraded", "problems": [], "nodes": [{"id": 1, "state": "up"}], "disks": [],
            "shards": [{"id": n, "leader": 1, "voters": [1], "learners": [], "lag": {"1": 0}} for n in range(3)],
            "groups": {"healthy": 1, "unknown": unknown}, "chunks_below_target": below,
            "chunks_below_target_counted_at": seen.get("granary_worker_redundancy_pass_began_seconds"), "repair": {"running": False},
            "reclaimable_bytes": 0, "deletions_queued": 0}


def start(path):
    """Becomes the server."""
    with open(path, "rb") as given:
        node = tomllib.load(given)
    settings = path + ".server"
    with open(path, encoding="utf-8") as given, open(settings, "w", encoding="utf-8") as out:
        out.write("[" + given.read().partition("\n[")[2])
    line = [os.environ["ONE_SERVER"], "server", "--listen", node["listen"], "--admin-listen", node["admin_listen"],
            "--meta-dir", node["state_dir"], "--region", "cn-granary-1", "--config", settings]
    for directory in node["data"]:
        line += ["--data", directory]
    os.execv(line[0], line)


def main():
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["start", "admin"])
    parser.add_argument("command", nargs="?")
    for flag in ("--config", "--region", "--address", "--admin-dir"):
        parser.add_argument(flag)
    for flag in ("--json", "--deep"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    if args.verb == "start":
        start(args.config)
    answer, code = {"node_id": 1, "token": "none", "clean": True, "complete": True,
                    **dict.fromkeys(("copies_missing", "copies_corrupt", "chunks_lost", "chunks_unreferenced"), 0)}, 0
    if args.command == "status":
        try:
            answer = status(args.address)
            code = 0 if answer["health"] == "ok" else 3
        except OSError as error:
            answer, code = {"error": str(error)}, 1
    print(json.dumps(answer))
    return code


if __name__ == "__main__":
    sys.exit(main())
