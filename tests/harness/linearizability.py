"""Is the history of one key that of a single register? Wing and Gong's search with Lowe's memory.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for
linearizability" (2017). Pure: no clock, no threads.

The register holds a value or None (no object). Values are unique: no two writes of a history write
the same one. An operation whose outcome nobody knows may have taken effect at any moment after its
call, or never. Because values are unique such an operation matters only right before one that sees
its effect, so the search tries it there and nowhere else; that keeps histories with many lost answers cheap.
"""
from dataclasses import dataclass

FOREVER = float("inf")
READ, WRITE, CREATE = "read", "write", "create"
# Stands for every value that nobody reads any more.
UNREAD = ("a value nobody reads",)
# Steps of a search before it gives up: far more than a legal history of a few hundred operations takes.
MOST_STEPS = 2_000_000


class Undecided(Exception):
    """The search took too many steps; the history is too long or too concurrent to be judged."""


@dataclass(frozen=True)
class Op:
    """One operation: `write` of a value (None: a deletion), `read` of what was seen, or `create`.

    `create` writes its value only where there is none; `refused` says that it found one. An `end`
    of FOREVER: no answer came, or one that says nothing about the outcome.
    """
    kind: str
    value: object
    start: float
    end: float
    refused: bool = False
    who: object = None

    def __str__(self):
        until = "unknown" if self.end == FOREVER else f"{self.end:.6f}"
        return f"[{self.start:.6f} .. {until}] {self.kind} {self.value!r}{' refused' if self.refused else ''} ({self.who})"


def is_linearizable(history, initial=None, most_steps=MOST_STEPS):
    """True if some order of the operations, one that respects their times, explains everything seen."""
    known = sorted((op for op in history if op.end != FOREVER), key=lambda op: (op.start, op.end))
    unknown = sorted((op for op in history if op.end == FOREVER and op.kind != READ), key=lambda op: op.start)
    _check_unique(history, initial)
    return _Search(known, unknown, most_steps).run(initial)


def _check_unique(history, initial):
    written = [op.value for op in history if op.kind != READ and op.value is not None]
    assert len(set(written)) == len(written) and initial not in written, "values of a history are unique"


class _Search:
    """Depth first over (operations done, unknown ones used, value), each visited once.

    Three things that cost no generality keep it small. An operation that changes nothing and fits now
    takes its turn now. A value somebody still reads cannot be left, for it never comes back. Values
    nobody reads any more are alike: they are all UNREAD.
    """

    def __init__(self, known, unknown, most_steps):
        self.known, self.unknown, self.most_steps = known, unknown, most_steps
        self.readers = {}
        for n, op in enumerate(known):
            if op.kind == READ and op.value is not None:
                self.readers[op.value] = self.readers.get(op.value, 0) | 1 << n
        self.writes = {op.value: n for n, op in enumerate(unknown) if op.value is not None}
        self.deletions = [n for n, op in enumerate(unknown) if op.kind == WRITE and op.value is None]
        self.unread = {kind: [n for n, op in enumerate(unknown) if op.kind == kind and op.value is not None and op.value not in self.readers]
                       for kind in (WRITE, CREATE)}

    def run(self, initial):
        """True when all known operations found a place."""
        everything = (1 << len(self.known)) - 1
        seen, steps = set(), 0
        stack = [(0, 0, initial)]
        while stack:
            done, used, value = stack.pop()
            if value is not None and not self.readers.get(value, 0) & ~done:
                value = UNREAD
            if (done, used, value) in seen:
                continue
            seen.add((done, used, value))
            if done == everything:
                return True
            steps += 1
            if steps > self.most_steps:
                raise Undecided(f"{len(self.known)} operations, {len(self.unknown)} of unknown outcome: {steps} steps")
            # The last pushed is tried first: in the order of calls.
            stack += reversed(self._next(done, used, value))
        return False

    def _next(self, done, used, value):
        """The places one known operation further."""
        candidates, deadline = self._candidates(done)
        for n in candidates:
            op = self.known[n]
            if (op.kind == READ and op.value == value) or (op.refused and value is not None):
                return [(done | 1 << n, used, value)]
        if value not in (None, UNREAD):
            return []
        return [(done | 1 << n, used | more, after) for n in candidates
                for more, after in self._ways(self.known[n], done, used, value, deadline)]

    def _candidates(self, done):
        """Operations that can be next: called before any other that is left had ended. And that end."""
        found, deadline = [], FOREVER
        first = (~done & (done + 1)).bit_length() - 1
        for n in range(first, len(self.known)):
            if self.known[n].start > deadline:
                break
            if not done >> n & 1:
                found.append(n)
                deadline = min(deadline, self.known[n].end)
        return [n for n in found if self.known[n].start <= deadline], deadline

    def _ways(self, op, done, used, value, deadline):
        """How an operation that does not fit as it is can take its turn: (unknown ones used, the value afterwards)."""
        if op.kind == WRITE:
            return [(0, op.value)]
        if op.kind == READ:
            return [(more, op.value) for more in self._make(op.value, used, value, deadline)]
        if op.refused:
            ways = [(1 << n, UNREAD) for unread in self.unread.values() for n in self._earliest(unread, used, deadline)]
            read = [v for v in self.writes if self.readers.get(v, 0) & ~done]
            return ways + [(more, v) for v in read for more in self._make(v, used, None, deadline)]
        if value is None:
            return [(0, op.value)]
        return [(more, op.value) for more in self._make(None, used, value, deadline)]

    def _earliest(self, alike, used, deadline):
        """Of operations that are alike the one called first is as good as any: it, or nothing."""
        found = next((n for n in alike if not used >> n & 1), None)
        return [found] if found is not None and self.unknown[found].start <= deadline else []

    def _make(self, wanted, used, value, deadline):
        """Sets of unknown operations that turn `value` into `wanted`, one after the other."""
        if wanted is None:
            return [1 << n for n in self._earliest(self.deletions, used, deadline)]
        found = self.writes.get(wanted)
        if found is None or used >> found & 1 or self.unknown[found].start > deadline:
            return []
        if self.unknown[found].kind == WRITE or value is None:
            return [1 << found]
        return [more | 1 << found for more in self._make(None, used, value, deadline)]


def smallest_bad_prefix(history, initial=None):
    """The operations up to the first answer that cannot be explained; answers that came later count as unknown."""
    ends = sorted({op.end for op in history if op.end != FOREVER})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if is_linearizable(until(history, ends[middle]), initial):
            low = middle + 1
        else:
            high = middle
    return sorted(until(history, ends[low]), key=lambda op: op.start)


def until(history, moment):
    """What was known at a moment. Reads without an answer say nothing and are left out."""
    seen = []
    for op in history:
        if op.start <= moment:
            if op.end <= moment:
                seen.append(op)
            elif op.kind != READ:
                seen.append(Op(op.kind, op.value, op.start, FOREVER, False, op.who))
    return seen
