"""A stand-in for the binary, so that the harness has tests of its own: the same commands, no object store.

`start` answers on the health port, echoes on the cluster port and says every 50 ms which peers echo;
`admin` commands keep the members in a file. A node that cannot reach a peer shows it as down.
"""
import argparse
import http.server
import json
import os
import socket
import sys
import threading
import time
import tomllib

PERIOD_S, PATIENCE_S = 0.05, 0.4


def load(path):
    """A JSON file, {} if there is none."""
    try:
        with open(path, encoding="utf-8") as given:
            return json.load(given)
    except FileNotFoundError:
        return {}


def save(path, data):
    """Writes a JSON file in one step."""
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump(data, out)
    os.replace(path + ".new", path)


def config(path):
    """node.toml."""
    with open(path, "rb") as given:
        return tomllib.load(given)


def member(conf, node_id):
    """What the registry keeps of a node."""
    keys = ("zone", "roles", "data", "cluster_address", "admin_listen")
    return {"id": node_id, "state": "up", **{key: conf[key] for key in keys}}


def enrol(conf, registry, replaces=None):
    """Makes a node of a state directory; repeated it gives the same id."""
    identity = os.path.join(conf["state_dir"], "identity.json")
    known = load(identity)
    if known:
        return {**known, "created": False}
    members = load(registry)
    node_id = members.setdefault("last", 0) + 1
    members["last"] = node_id
    if replaces is not None:
        members["nodes"][str(replaces)]["state"] = "removed"
    members.setdefault("nodes", {})[str(node_id)] = member(conf, node_id)
    save(registry, members)
    known = {"cluster_id": "standin", "node_id": node_id, "registry": registry}
    save(identity, known)
    return {**known, "created": True}


def connect(address):
    """A connection that loses patience."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def echo(address):
    """True if the address answers with what it was sent."""
    word = os.urandom(8)
    try:
        with connect(address) as connection:
            connection.sendall(word)
            return connection.recv(8) == word
    except OSError:
        return False


class Standin:
    """The process that `start` runs."""

    def __init__(self, conf):
        self.conf, self.identity = conf, load(os.path.join(conf["state_dir"], "identity.json"))
        self.heard, self.lock = {}, threading.Lock()
        for directory in conf["data"]:
            volume = os.path.join(directory, "volume-1")
            if not os.path.exists(volume):
                with open(volume, "wb") as out:
                    out.write(bytes(range(256)) * 2048)

    def watch(self, node_id):
        """Asks one peer over and over on a connection that is kept while it answers."""
        connection, address = None, None
        while True:
            peer = load(self.identity["registry"])["nodes"].get(node_id)
            try:
                if connection is None or peer["cluster_address"] != address:
                    address = peer["cluster_address"]
                    connection = connect(address)
                word = os.urandom(8)
                connection.sendall(word)
                if connection.recv(8) != word:
                    raise OSError("another word")
                if peer["state"] == "up":
                    with self.lock:
                        self.heard[node_id] = time.monotonic()
            except OSError:
                if connection is not None:
                    connection.close()
                connection = None
            time.sleep(PERIOD_S)

    def watch_all(self):
        """One thread per member."""
        watched = set()
        while True:
            for node_id in load(self.identity["registry"])["nodes"]:
                if node_id not in watched:
                    watched.add(node_id)
                    threading.Thread(target=self.watch, args=(node_id,), daemon=True).start()
            time.sleep(PERIOD_S)

    def peers(self):
        """Ids of the members that answered lately."""
        with self.lock:
            return sorted(int(n) for n, at in self.heard.items() if time.monotonic() - at < 3 * PATIENCE_S)

    def serve_echo(self):
        """The cluster port."""
        host, _, port = self.conf["cluster_listen"].rpartition(":")
        listener = socket.create_server((host, int(port)), backlog=64)

        def answer(connection):
            with connection:
                try:
                    while data := connection.recv(65536):
                        connection.sendall(data)
                except OSError:
                    pass

        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def serve_health(self):
        """The health port; /peers has the ids of peers that answer."""
        me = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Three paths."""

            def do_GET(self):  # pylint: disable=invalid-name
                """Answers."""
                known = self.path in ("/health/ready", "/health/live", "/peers")
                body = json.dumps(me.peers()).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):  # pylint: disable=arguments-differ
                """Says nothing."""

        host, _, port = self.conf["admin_listen"].rpartition(":")
        http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


def status(registry, address):
    """The status as the node at `address` sees it; a lost peer is down."""
    import urllib.request
    nodes = load(registry)["nodes"]
    asked = next(n for n in nodes.values() if n["admin_listen"].split(":")[0] == address.split(":")[0])
    with urllib.request.urlopen(f"http://{asked['admin_listen']}/peers", timeout=2) as answer:
        alive = set(json.load(answer))
    rows = [{"id": n["id"], "zone": n["zone"], "roles": n["roles"], "state": n["state"] if n["state"] == "removed" or n["id"] in alive else "down"}
            for n in nodes.values()]
    up = {n["id"] for n in rows if n["state"] == "up"}
    meta = [n["id"] for n in rows if "meta" in n["roles"] and n["state"] != "removed"][:3]
    ok = all(n["state"] != "down" for n in rows)
    disks = [{"id": str(10 * n["id"] + k), "node": n["id"], "state": "up" if n["id"] in up else "missing"}
             for n in nodes.values() if n["state"] != "removed" for k in range(len(n["data"]))]
    shards = [{"id": s, "leader": next((m for m in meta if m in up), None), "term": 1, "voters": meta, "learners": [],
               "lag": {str(m): 0 if m in up else None for m in meta}} for s in range(3)]
    return {"health": "ok" if ok else "degraded", "problems": [], "nodes": rows, "disks": disks, "shards": shards,
            "groups": {"healthy": 4 if ok else 0, "degraded": 0 if ok else 4}, "chunks_below_target": 0 if ok else 7,
            "chunks_below_target_counted_at": time.time(), "repair": {"running": False}, "reclaimable_bytes": 0, "deletions_queued": 0}


def admin(args):
    """The admin commands; returns (answer, exit code)."""
    if args.command == "init":
        conf = config(args.config)
        admin_dir = os.path.join(conf["state_dir"], "admin")
        os.makedirs(admin_dir, exist_ok=True)
        registry = os.path.join(os.path.dirname(os.path.dirname(conf["state_dir"])), "registry.json")
        save(os.path.join(admin_dir, "where.json"), {"registry": registry})
        return enrol(conf, registry), 0
    if args.command == "join":
        if not any(echo(address) for address in config(args.config)["join"]):
            return {"error": "nobody answers"}, 1
        return enrol(config(args.config), args.token.removeprefix("granary."), args.replaces), 0
    registry = load(os.path.join(args.admin_dir, "where.json"))["registry"]
    if args.command == "token":
        return {"token": f"granary.{registry}"}, 0
    if args.command == "fsck":
        return {"complete": True, "clean": True, "copies_missing": 0, "copies_corrupt": 0, "chunks_lost": 0, "chunks_unreferenced": 0}, 0
    try:
        seen = status(registry, args.address)
    except OSError as error:
        return {"error": str(error)}, 1
    return seen, 0 if seen["health"] == "ok" else 3


def main():
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["start", "admin"])
    parser.add_argument("command", nargs="?")
    for flag in ("--config", "--region", "--token", "--address", "--admin-dir", "--replaces"):
        parser.add_argument(flag)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.verb == "admin":
        answer, code = admin(args)
        print(json.dumps(answer))
        return code
    import signal
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    node = Standin(config(args.config))
    print(f"node {node.identity['node_id']} starts", flush=True)
    for part in (node.serve_echo, node.watch_all):
        threading.Thread(target=part, daemon=True).start()
    node.serve_health()
    return 0


if __name__ == "__main__":
    sys.exit(main())
