"""What a store may show after a crash, given what it acknowledged before.

Pure bookkeeping: no sockets, no processes. A key has a history of writes with their start and end
times; a read may see a write unless another one, begun after its end, was acknowledged before the read.
"""
import random
import threading
import time
from dataclasses import dataclass, field

from harness import digest

FOREVER = float("inf")
SIZES = [0, 1, 150, 150, 4096, 4097, 20_000, 70_000, 131_072, 300_000, 1_500_000, 5_000_000]
WEIGHTS = [1, 1, 3, 3, 3, 3, 3, 3, 2, 2, 1, 0.5]


@dataclass(frozen=True)
class Value:
    """Object content by recipe: the bodies of its parts are drawn from seeds. `parted` tells the ETag's kind."""
    pieces: tuple
    parted: bool = False

    @classmethod
    def draw(cls, rng, size=None):
        """A simple object of a random size."""
        return cls(((rng.getrandbits(48), rng.choices(SIZES, WEIGHTS)[0] if size is None else size),))

    def bodies(self):
        """The bodies of the pieces."""
        return [random.Random(seed).randbytes(size) for seed, size in self.pieces]

    def body(self):
        """The whole content."""
        return b"".join(self.bodies())

    @property
    def size(self):
        """Bytes of the content."""
        return sum(size for _, size in self.pieces)

    def etag(self):
        """The ETag without quotes."""
        etags = [digest.etag(body) for body in self.bodies()]
        return digest.multipart_etag(etags) if self.parted else etags[0]

    def tag(self):
        """A short mark stored as metadata, so that content and metadata of two writes cannot mix unseen."""
        return f"{self.pieces[0][0]:x}-{self.size}" if self.pieces else "empty"


@dataclass
class Write:
    """One write (value) or deletion (None)."""
    value: object
    start: float
    end: float = FOREVER
    acked: bool = False
    refused: bool = False


class Register:
    """The history of one key. Safe to share between threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._writes = [Write(None, 0.0, 0.0, acked=True)]

    def begin(self, value):
        """A write is about to be sent."""
        write = Write(value, time.monotonic())
        with self._lock:
            self._writes.append(write)
        return write

    def acknowledge(self, write):
        """The store said that the write is done."""
        with self._lock:
            write.end, write.acked = time.monotonic(), True

    def refuse(self, write):
        """The store said that the write was not done."""
        with self._lock:
            write.end, write.refused = time.monotonic(), True

    def legal(self, start, end):
        """Values that a read between the two times may see."""
        with self._lock:
            writes = [w for w in self._writes if not w.refused]
        done = [w for w in writes if w.acked]
        return [w.value for w in writes
                if w.start <= end and not any(d.start > w.end and d.end < start for d in done)]

    def settle(self, value):
        """From now on the key is known to hold this."""
        with self._lock:
            self._writes = [Write(value, 0.0, 0.0, acked=True)]

    def known(self):
        """The value, where only one is possible; raises otherwise."""
        now = time.monotonic()
        values = set(self.legal(now, now))
        if len(values) != 1:
            raise LookupError("more than one value is possible")
        return values.pop()


@dataclass
class Upload:
    """A multipart upload: acknowledged parts, parts that may be there, and how it may have ended."""
    key: str
    upload_id: str
    parts: dict = field(default_factory=dict)      # number -> (seed, size)
    perhaps: dict = field(default_factory=dict)    # number -> [(seed, size)] sent and not acknowledged
    ending: object = None                          # None, "complete" or "abort" sent and not acknowledged
    ended: bool = False

    def value(self):
        """What completing it makes of its acknowledged parts."""
        return Value(tuple(self.parts[n] for n in sorted(self.parts)), parted=True)


class Model:
    """Everything the workers did to one bucket."""

    def __init__(self):
        self.registers = {}
        self.uploads = []
        self._lock = threading.Lock()

    def register(self, key):
        """The history of a key."""
        with self._lock:
            return self.registers.setdefault(key, Register())

    def add_upload(self, upload):
        """Remembers an upload the store acknowledged."""
        with self._lock:
            self.uploads.append(upload)
