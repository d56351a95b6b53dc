"""A TCP relay in a process of its own: every wire of a cluster passes it and can be slowed, stopped or torn.

The relay listens once per target; who connected it knows from the peer's address, or, where all
share one (loopback), from the process that holds the other end. Rules are per (source, target) and
direction. Run as a program it reads one command per line from stdin and answers each on stdout.
"""
import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

CHUNK = 64 * 1024
OUTSIDE = "outside"
ANSWER_S = 30


class Relay:
    """The controlling side: starts the process and tells it the rules. Safe to share between threads."""

    def __init__(self, log_path):
        self._lock = threading.Lock()
        self._rules = {}
        with open(log_path, "ab") as log:
            self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=log, text=True)

    def _tell(self, **command):
        with self._lock:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], ANSWER_S)[0]:
                raise RuntimeError(f"the relay is stuck: no answer to {command} in {ANSWER_S} s")
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the relay is gone (exit code {self.process.poll()})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"relay: {command}: {answer['error']}")
        return answer

    def listen(self, target, address, port, to_address, to_port):
        """Takes connections to `target` at an address and hands them on."""
        self._tell(do="listen", target=target, at=[address, port], to=[to_address, to_port])

    def known_by_address(self, source, address):
        """Connections from this address are the source's."""
        self._tell(do="address", source=source, address=address)

    def known_by_process(self, source, pid):
        """Connections whose other end this process holds are the source's."""
        self._tell(do="process", source=source, pid=pid)

    def rule(self, source, target, delay_ms=0, stall=(), bytes_per_sec=0):
        """Sets what happens to connections from `source` to `target`; no arguments: nothing.

        `stall` has "there" and "back": bytes of that direction wait until the rule is gone.
        """
        rule = {"delay_ms": delay_ms, "stall": list(stall), "bytes_per_sec": bytes_per_sec}
        if any(rule.values()):
            self._rules[source, target] = rule
        else:
            self._rules.pop((source, target), None)
        self._tell(do="rule", source=source, target=target, **rule)

    def reset(self, source, target):
        """Tears the open connections with RST; returns how many."""
        return self._tell(do="reset", source=source, target=target)["count"]

    def connections(self):
        """[source, target] of the open connections."""
        return [tuple(pair) for pair in self._tell(do="connections")["open"]]

    def rules(self):
        """The rules in force, by (source, target)."""
        return dict(self._rules)

    def clear(self):
        """Takes back every rule."""
        for source, target in list(self._rules):
            self.rule(source, target)

    def stop(self):
        """Ends the process."""
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class _Link:
    """The rule of one pair, and its open connections."""

    def __init__(self):
        self.delay_s, self.stall, self.bytes_per_sec = 0.0, frozenset(), 0
        self.changed = asyncio.Event()
        self.writers = set()

    def set(self, delay_ms, stall, bytes_per_sec):
        self.delay_s, self.stall, self.bytes_per_sec = delay_ms / 1000, frozenset(stall), bytes_per_sec
        self.changed.set()
        self.changed = asyncio.Event()


class _Switch:
    """The relaying process."""

    def __init__(self):
        self.links, self.addresses, self.pids, self.servers, self.tasks = {}, {}, {}, [], set()

    def link(self, source, target):
        return self.links.setdefault((source, target), _Link())

    async def source_of(self, reader, writer):
        address, port = writer.get_extra_info("peername")[:2]
        if address in self.addresses:
            return self.addresses[address]
        if not self.pids:
            return OUTSIDE
        # The kernel's table may miss a row while it changes.
        for _ in range(8):
            if reader.at_eof():
                # It lost patience meanwhile; looking for it would only keep those waiting who did not.
                return OUTSIDE
            source = self._source_by_process(address, port)
            if source != OUTSIDE:
                return source
            await asyncio.sleep(0.01)
        print(f"nobody known connected from {address}:{port}", file=sys.stderr, flush=True)
        return OUTSIDE

    def _source_by_process(self, address, port):
        wanted = "%08X:%04X" % (int.from_bytes(socket.inet_aton(address), "little"), port)
        inode = None
        with open("/proc/net/tcp", encoding="ascii") as table:
            for line in table:
                fields = line.split()
                if len(fields) > 9 and fields[1] == wanted:
                    inode = fields[9]
                    break
        if inode is None:
            return OUTSIDE
        for source, pid in self.pids.items():
            try:
                handles = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for handle in handles:
                try:
                    if os.readlink(f"/proc/{pid}/fd/{handle}") == f"socket:[{inode}]":
                        return source
                except OSError:
                    continue
        return OUTSIDE

    async def listen(self, target, at, to):
        async def accept(reader, writer):
            await self.relay(target, to, reader, writer)
        self.servers.append(await asyncio.start_server(accept, at[0], at[1], backlog=512))

    async def relay(self, target, to, reader, writer):
        link = self.link(await self.source_of(reader, writer), target)
        waiting = (writer,)
        link.writers.add(waiting)
        try:
            early = await self.before(link, reader)
            if early is None:
                _tear(writer)
                return
            far_reader, far_writer = await asyncio.open_connection(to[0], to[1])
        except OSError:
            # Nobody listens there: the caller sees the refusal.
            _tear(writer)
            return
        finally:
            link.writers.discard(waiting)
        pair = (writer, far_writer)
        link.writers.add(pair)
        try:
            far_writer.write(early)
            await asyncio.gather(self.pump(link, "there", reader, far_writer), self.pump(link, "back", far_reader, writer))
        except OSError:
            _tear(writer)
            _tear(far_writer)
        finally:
            link.writers.discard(pair)
            for end in pair:
                end.close()

    @staticmethod
    async def before(link, reader):
        """While a direction is stalled no connection comes about, as over a cut wire; None if the caller gave up.

        Returns what the caller sent meanwhile.
        """
        early = b""
        while link.stall:
            more = asyncio.ensure_future(reader.read(CHUNK))
            changed = asyncio.ensure_future(link.changed.wait())
            await asyncio.wait({more, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if more.done():
                if not more.result():
                    return None
                early += more.result()
            else:
                more.cancel()
                await asyncio.gather(more, return_exceptions=True)
            if len(early) >= CHUNK:
                await _Switch.free(link, *link.stall)
        return early

    async def pump(self, link, way, reader, writer):
        """Passes bytes on; each chunk leaves no sooner than its delay after it came, in order."""
        queue = asyncio.Queue(maxsize=32)

        async def take():
            loop = asyncio.get_running_loop()
            while True:
                await self.free(link, way)
                data = await reader.read(CHUNK)
                await queue.put((loop.time(), data))
                if not data:
                    return

        async def give():
            loop = asyncio.get_running_loop()
            while True:
                came, data = await queue.get()
                await self.free(link, way)
                wait = came + link.delay_s - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                await self.free(link, way)
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                if link.bytes_per_sec:
                    await asyncio.sleep(len(data) / link.bytes_per_sec)

        takes = asyncio.ensure_future(take())
        try:
            await asyncio.gather(takes, give())
        finally:
            takes.cancel()

    @staticmethod
    async def free(link, *ways):
        while link.stall.intersection(ways):
            await link.changed.wait()

    async def obey(self, command):
        do = command["do"]
        if do == "listen":
            await self.listen(command["target"], command["at"], command["to"])
        elif do == "address":
            self.addresses[command["address"]] = command["source"]
        elif do == "process":
            self.pids[command["source"]] = command["pid"]
        elif do == "rule":
            self.link(command["source"], command["target"]).set(command["delay_ms"], command["stall"], command["bytes_per_sec"])
        elif do == "reset":
            link = self.link(command["source"], command["target"])
            torn = list(link.writers)
            for pair in torn:
                for writer in pair:
                    _tear(writer)
            return {"count": len(torn)}
        elif do == "connections":
            return {"open": [pair for pair, link in self.links.items() for _ in link.writers]}
        else:
            return {"error": f"unknown command {do}"}
        return {}

    async def run(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            line = await reader.readline()
            if not line:
                return
            try:
                answer = await self.obey(json.loads(line))
            except (OSError, ValueError, KeyError) as error:
                answer = {"error": repr(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _tear(writer):
    """Ends a connection with RST."""
    held = writer.get_extra_info("socket")
    if held is not None:
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        except OSError:
            pass
    writer.transport.abort()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_Switch().run())
    finally:
        os._exit(0)
