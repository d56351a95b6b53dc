"""What Granary's speed has to reach beside the other targets of the same run, as a table with yes and no.

Everything here is a ratio of medians over the rounds. Nothing fails when an answer is no.
"""
import statistics

from targets import SIZES
from wrk import has_tail

GRANARY, BARE, RAW, GARAGE = "granary", "bare hyper", "raw writer", ("garage off", "garage default")
GARAGE_FSYNC = "garage on"
MISSING = "not measured"


class Figures:
    """The runs of one pass: {work: {target: [run, ...]}}."""

    def __init__(self, runs):
        self.runs = runs

    def median(self, work, target, of):
        """The median over the rounds; None if there was none."""
        mine = self.runs.get(work, {}).get(target)
        return statistics.median(of(run) for run in mine) if mine and any(run["requests"] for run in mine) else None

    def rate(self, work, target):
        """Answers that succeeded, per second."""
        return self.median(work, target, lambda run: (run["requests"] - run["failed"]) / run["seconds"])

    def p50(self, work, target):
        """Median latency in microseconds."""
        return self.median(work, target, lambda run: run["p50_us"])

    def spread(self, work, target):
        """p99 over p50; None of too few answers."""
        if not has_tail(self.runs.get(work, {}).get(target, [])):
            return None
        return self.median(work, target, lambda run: run["p99_us"] / max(run["p50_us"], 1))

    def slow(self, work, target):
        """Share of all requests that took as long as a delayed acknowledgement or longer."""
        mine = self.runs.get(work, {}).get(target)
        return sum(run["slow"] for run in mine) / max(sum(run["requests"] for run in mine), 1) if mine else None

    def garage(self, work):
        """The rate of garage without fsync, however it was asked for."""
        return next((rate for rate in (self.rate(work, name) for name in GARAGE) if rate is not None), None)


def over(value, reference):
    """Their ratio; None if one is missing."""
    return None if value is None or reference is None else value / max(reference, 1e-9)


def row(what, wanted, measured, holds):
    """One line of the table; `measured` is None where nothing was measured."""
    if measured is None:
        return [what, wanted, MISSING, ""]
    return [what, wanted, measured if isinstance(measured, str) else f"{measured:.2f}", "yes" if holds(measured) else "NO"]


def at_least(what, ratio, bound):
    """A row: a ratio that has to be large."""
    return row(what, f"at least {bound:g}", ratio, lambda value: value >= bound)


def at_most(what, ratio, bound):
    """A row: a ratio that has to be small."""
    return row(what, f"at most {bound:g}", ratio, lambda value: value <= bound)


def check_cluster(many):
    """The rows of a cluster that keeps three copies, beside garage that does."""
    many = Figures(many)
    rows = [at_least(f"cluster: {work} to garage with fsync", over(many.rate(work, GRANARY), many.rate(work, GARAGE_FSYNC)), bound)
            for work, bound in (("put-4k", 10), ("get-4k", 5))]
    return rows + [at_least(f"cluster: {work} to garage without fsync", over(many.rate(work, GRANARY), many.garage(work)), 1.5)
                   for work in ("put-1m", "get-1m")]


def put_16m(many, md5_mb_s):
    """The row of large PUTs, whose bound is the smaller of two."""
    what = "put-16m, of what one core's MD5 or the raw writer allows"
    mine, raw = many.rate("put-16m", GRANARY), many.rate("put-16m", RAW)
    if mine is None or raw is None or md5_mb_s is None:
        return [what, "at least 1", MISSING, ""]
    scale = SIZES["16m"] / 1e6
    bounds = {f"0.6 of MD5's {md5_mb_s:.0f} MB/s": 0.6 * md5_mb_s, f"0.8 of the raw writer's {raw * scale:.0f} MB/s": 0.8 * raw * scale}
    least = min(bounds, key=bounds.get)
    return row(what, f"at least {bounds[least]:.0f} MB/s ({least})", f"{mine * scale:.0f} MB/s", lambda _: mine * scale >= bounds[least])


def no_timer(one, work):
    """The row that says whether requests of one connection wait for a timer or a delayed acknowledgement."""
    reference = RAW if work.startswith("put") else BARE
    mine, theirs = one.slow(work, GRANARY), one.slow(work, reference)
    measured = None if mine is None or theirs is None else f"{mine:.3%}, {reference} {theirs:.3%}"
    return row(f"one connection: {work} that take 35 ms and more", "no more than 0.1 % above the reference", measured, lambda _: mine <= theirs + 0.001)


def check(many, one, md5_mb_s):
    """The rows: (requirement, bound, measured, yes or NO). `many` and `one` are the passes with many and with one connection."""
    many, one = Figures(many), Figures(one)
    rows = [at_least(f"{work} to garage without fsync", over(many.rate(work, GRANARY), many.garage(work)), bound)
            for work, bound in (("put-4k", 3), ("put-64k", 2), ("put-1m", 1.5))]
    rows.append(at_least("put-4k to the raw writer", over(many.rate("put-4k", GRANARY), many.rate("put-4k", RAW)), 0.25))
    rows += [at_least(f"{work} to the bare server", over(many.rate(work, GRANARY), many.rate(work, BARE)), bound)
             for work, bound in (("get-4k", 0.5), ("get-4k-uniform", 0.35), ("get-1m", 0.75), ("get-16m", 0.75))]
    rows.append(put_16m(many, md5_mb_s))
    rows.append(at_most("one connection: time of a put-4k to the raw writer's", over(one.p50("put-4k", GRANARY), one.p50("put-4k", RAW)), 2.5))
    rows.append(at_most("one connection: time of a get-4k to the bare server's", over(one.p50("get-4k", GRANARY), one.p50("get-4k", BARE)), 3))
    rows += [no_timer(one, work) for work in one.runs]
    for name, figures in (("", many), ("one connection: ", one)):
        for work in figures.runs:
            reference = RAW if work.startswith("put") else BARE
            rows.append(at_most(f"{name}{work}: p99/p50 to that of the {reference}", over(figures.spread(work, GRANARY), figures.spread(work, reference)), 1.5))
    return rows
