"""The checker against histories whose answer is known, and against a search that simply tries everything."""
import itertools
import random

import pytest

from harness.linearizability import (CREATE, FOREVER, READ, WRITE, Op, Undecided, is_linearizable, smallest_bad_prefix)


def w(value, start, end=FOREVER):
    """A write; of None a deletion."""
    return Op(WRITE, value, start, end)


def r(value, start, end):
    """A read."""
    return Op(READ, value, start, end)


def c(value, start, end=FOREVER, refused=False):
    """A write that only creates."""
    return Op(CREATE, value, start, end, refused)


LEGAL = {
    "nothing": [],
    "reads of nothing": [r(None, 0, 1), r(None, 0, 9)],
    "one after the other": [w("a", 0, 1), r("a", 2, 3), w("b", 4, 5), r("b", 6, 7), w(None, 8, 9), r(None, 10, 11)],
    "a read beside a write sees either": [w("a", 0, 10), r(None, 1, 2), r("a", 3, 4)],
    "two writes at once, in either order": [w("a", 0, 10), w("b", 0, 10), r("b", 11, 12)],
    "an answer at the very moment of a call": [w("a", 0, 1), r(None, 1, 2)],
    "lost write that happened": [w("a", 0), r("a", 5, 6), r("a", 7, 8)],
    "lost write that did not": [w("a", 0), r(None, 5, 6), r(None, 7, 8)],
    "lost write that happened late": [w("a", 0), r(None, 5, 6), w("b", 7, 8), r("b", 9, 10), r("a", 11, 12)],
    "lost deletion that happened late": [w("a", 0, 1), w(None, 2), r("a", 3, 4), w("b", 5, 6), r(None, 7, 8)],
    "two lost deletions": [w("a", 0, 1), w(None, 2), w(None, 3), r(None, 4, 5), w("b", 6, 7), r(None, 8, 9)],
    "created once": [c("a", 0, 1), c("b", 2, 3, refused=True), r("a", 4, 5)],
    "refused by a lost write": [w("a", 0), c("b", 2, 3, refused=True), r("a", 4, 5)],
    "created after a lost deletion": [w("a", 0, 1), w(None, 2), c("b", 3, 4), r("b", 5, 6)],
    "lost creation after a lost deletion": [w("a", 0, 1), w(None, 2), c("b", 3), r("b", 5, 6)],
    "lost creation that was not one": [w("a", 0, 1), c("b", 2), r("a", 5, 6)],
}
ILLEGAL = {
    "seen before it was written": [r("a", 0, 1), w("a", 2, 3)],
    "a value from nowhere": [r("x", 0, 1)],
    "a stale read": [w("a", 0, 1), w("b", 2, 3), r("a", 4, 5)],
    "a lost acknowledged write": [w("a", 0, 1), r(None, 2, 3)],
    "a deletion undone": [w("a", 0, 1), w(None, 2, 3), r("a", 4, 5)],
    "a read that goes back": [w("a", 0, 10), r("a", 1, 2), r(None, 3, 4)],
    "two readers disagree on the order": [w("a", 0, 10), w("b", 0, 10), r("a", 11, 12), r("b", 13, 14)],
    "a lost write that came and went": [w("a", 0), r("a", 1, 2), r(None, 3, 4)],
    "a lost write that happened twice": [w("a", 0), r("a", 1, 2), w("b", 3, 4), r("b", 5, 6), r("a", 7, 8)],
    "a lost write seen before its call": [r("a", 0, 1), w("a", 2)],
    "one lost deletion, seen twice": [w("a", 0, 1), w(None, 2), r(None, 4, 5), w("b", 6, 7), r(None, 8, 9)],
    "a deletion seen before its call": [w("a", 0, 1), r(None, 2, 3), w(None, 4)],
    "created twice": [c("a", 0, 1), c("b", 2, 3)],
    "refused by nothing": [c("b", 2, 3, refused=True)],
    "refused by a later write": [c("b", 2, 3, refused=True), w("a", 4)],
    "refused, and yet there": [w("a", 0, 1), c("b", 2, 3, refused=True), r("b", 4, 5)],
    "lost creation over a value": [w("a", 0, 1), c("b", 2), r("b", 5, 6)],
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal(name):
    assert is_linearizable(LEGAL[name])


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal(name):
    assert not is_linearizable(ILLEGAL[name])
    bad = smallest_bad_prefix(ILLEGAL[name])
    assert not is_linearizable(bad)


def by_trying_everything(history):
    """The definition, word for word: is there an order of all known and some unknown operations?"""
    known = [op for op in history if op.end != FOREVER]
    unknown = [op for op in history if op.end == FOREVER and op.kind != READ]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations(known + list(chosen)):
                if _times_agree(order) and _explains(order):
                    return True
    return False


def _times_agree(order):
    return all(later.end >= earlier.start for n, earlier in enumerate(order) for later in order[n + 1:])


def _explains(order):
    value = None
    for op in order:
        if op.kind == READ:
            if value != op.value:
                return False
        elif op.kind == WRITE:
            value = op.value
        elif op.end == FOREVER:
            value = op.value if value is None else value
        elif op.refused != (value is not None):
            return False
        elif not op.refused:
            value = op.value
    return True


def random_history(rng):
    """Few operations, close together, with answers that are right about half of the time."""
    history, names = [], iter("abcdefgh")
    written = [None]
    for _ in range(rng.randint(2, 6)):
        start = rng.randrange(8)
        end = FOREVER if rng.random() < 0.35 else start + rng.randint(0, 6)
        kind = rng.choice([WRITE, WRITE, READ, READ, READ, CREATE])
        if kind == READ:
            history.append((kind, None, start, end, False))
            continue
        value = None if kind == WRITE and rng.random() < 0.35 else next(names)
        written.append(value)
        history.append((kind, value, start, end, kind == CREATE and end != FOREVER and rng.random() < 0.5))
    return [Op(kind, rng.choice(written) if kind == READ else value, start, end, refused) for kind, value, start, end, refused in history]


def test_it_agrees_with_trying_everything(seed):
    verdicts = []
    for n in range(3000):
        history = random_history(random.Random(f"{seed}-{n}"))
        verdict = is_linearizable(history)
        assert verdict == by_trying_everything(history), (f"history {n} of seed {seed}", [str(op) for op in history])
        verdicts.append(verdict)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8, "the histories are too much alike"


def register_history(rng, ops, clients, lost):
    """A long history of a true register: each operation takes effect at one moment between call and answer, or is lost."""
    clocks, plan = [0.0] * clients, []
    for n in range(ops):
        who = min(range(clients), key=lambda k: clocks[k])
        start = clocks[who]
        at, end = sorted((start + rng.random(), start + rng.random() * 2))
        clocks[who] = end + rng.random() * 0.2
        fate = rng.choice(["early", "never", "late"]) if rng.random() < lost else "known"
        plan.append((at if fate != "late" else at + rng.random() * 30, fate, rng.choice([WRITE, READ, READ, CREATE]), f"v{n}" if rng.random() < 0.7 else None, start, end, n))
    value, history = None, []
    for _, fate, kind, new, start, end, n in sorted(plan, key=lambda step: step[0]):
        end, refused = end if fate == "known" else FOREVER, False
        if kind == READ:
            new = value
        elif kind == CREATE:
            new, refused = f"c{n}", value is not None
            value = value if refused or fate == "never" else new
            refused = refused and end != FOREVER
        elif fate != "never":
            value = new
        history.append(Op(kind, new, start, end, refused, n))
    return history


@pytest.mark.parametrize("clients, lost", [(3, 0.0), (8, 0.0), (8, 0.1), (8, 0.4), (12, 0.2)])
def test_long_true_histories_pass_and_lies_do_not(seed, clients, lost):
    caught = 0
    for n in range(6):
        rng = random.Random(f"{seed}-{clients}-{lost}-{n}")
        history = register_history(rng, 400, clients, lost)
        assert is_linearizable(history), f"history {n} of seed {seed}"
        # A read in the second half that sees a value of the first tenth is a lie.
        old = next(op.value for op in history if op.kind == WRITE and op.value and op.end != FOREVER)
        ordered = sorted(history, key=lambda op: op.start)
        late = [k for k, op in enumerate(ordered) if op.kind == READ and op.end != FOREVER and k > 200]
        at = rng.choice(late)
        ordered[at] = Op(READ, old, ordered[at].start, ordered[at].end)
        try:
            caught += not is_linearizable(ordered)
        except Undecided:
            pass
    assert caught >= 5, "stale reads went unnoticed"


def test_the_bad_answer_is_pointed_at():
    history = [w("a", 0, 1), r("a", 2, 3), w("b", 4, 5), r("a", 6, 7), w("c", 8, 9), r("c", 10, 11)]
    assert smallest_bad_prefix(history)[-1] == r("a", 6, 7)


def test_values_must_be_unique():
    with pytest.raises(AssertionError, match="unique"):
        is_linearizable([w("a", 0, 1), w("a", 2, 3)])


def test_it_gives_up_loudly():
    history = [w(f"v{n}", 0, 100) for n in range(30)] + [r("nobody wrote this", 101, 102)]
    with pytest.raises(Undecided):
        is_linearizable(history, most_steps=5000)
