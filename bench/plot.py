#!/usr/bin/env python3
"""Draws what a report in JSON says, as SVG: those of compare.py, cluster.py, failover.py and repair.py.

    python3 bench/plot.py REPORT.json [REPORT.json ...] [--out docs/plots] [--name NAME]
                          [--commit HASH] [--machine TEXT] [--date YYYY-MM-DD]

A comparison becomes NAME-throughput.svg, where the requests per second of each work are held against its limit (the bare
server for GETs, the raw writer for PUTs; where neither was measured, against Granary), and NAME-latency.svg, where a bar
reaches from p50 to p99, and the same with `-one` of what was measured with one connection. failover.py's report becomes
NAME.svg, repair.py's NAME-speed.svg and NAME-clients.svg. NAME is the tool's unless --name says another one. Numbers
are those of the tables: medians of the rounds. A report that does not say where it comes from takes --commit, --machine and
--date. Needs nothing but python3.
"""
import argparse
import json
import math
import os
import statistics
import sys
from collections import Counter, namedtuple
from xml.sax.saxutils import escape, quoteattr

from requirements import BARE, GARAGE, GARAGE_FSYNC, GRANARY, RAW, Figures
from targets import SIZES
from wrk import has_tail, percentile

# A row of a chart: its name, whose colour it has, from where to where its bar reaches, what is written behind it, and values
# that get a dot.
Row = namedtuple("Row", "name colour low high text dots", defaults=((),))
# A chart: `groups` are (caption, rows); `log` makes the axis logarithmic.
Chart = namedtuple("Chart", "file title axis groups log unit", defaults=(False, ""))

STORE, OTHER, OTHER_FSYNC, LIMIT = "store", "other", "other-fsync", "limit"
COLOURS = {GRANARY: STORE, **dict.fromkeys(GARAGE, OTHER), GARAGE_FSYNC: OTHER_FSYNC, BARE: LIMIT, RAW: LIMIT}
# It paints its own ground, so that no viewer puts dark text on a dark page; dark viewers get both the other way round. Text has a rim
# of the ground's colour: no line of the grid runs through it. The colours differ in lightness too, for eyes that do not tell red from green.
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: #1f2328;
  stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round; paint-order: stroke }
.ground { fill: #ffffff } .title { font-size: 18px; font-weight: 600 } .faint { fill: #59636e; font-size: 12px } .caption { font-weight: 600 }
.grid { stroke: #d1d9e0; stroke-width: 1 } .base { stroke: #59636e; stroke-width: 1 } .dot { fill: #1f2328; fill-opacity: 0.55 }
.store { fill: #0072b2 } .other { fill: #e69f00 } .other-fsync { fill: #b34700 } .limit { fill: #a8adb3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; stroke: #0d1117 } .dot { fill: #e6edf3 } .ground { fill: #0d1117 } .faint { fill: #9198a1 }
  .grid { stroke: #30363d } .base { stroke: #9198a1 }
  .store { fill: #4ba3dc } .other { fill: #f0b429 } .other-fsync { fill: #e2703a } .limit { fill: #6e7681 }
}
"""
WIDTH, LEFT, RIGHT, TOP = 960, 190, 230, 92
ROW, BAR, GAP, GAP_UNNAMED = 22, 16, 34, 8
# A bar that reaches from a value to the same one is still seen.
BAR_LEAST = 3


def number(value):
    """A number with as many digits as it has worth."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def linear_ticks(most):
    """Round values from 0 to the first one that is not less than the largest."""
    rough = max(most, 1e-9) / 5
    scale = 10 ** math.floor(math.log10(rough))
    step = next(step * scale for step in (1, 2, 5, 10) if step * scale >= rough * 0.999)
    return [n * step for n in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(least, most):
    """Powers of ten around the values."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0 ** n for n in range(first, max(last, first + 1) + 1)]


def tick_text(value, unit):
    """A tick as it is read."""
    return f"{value * 100:.0f} %" if unit == "%" else f"{value:g} {unit}".strip()


def draw(chart, about):
    """The text of an SVG; `about` are the lines below the title."""
    rows = [row for _, of_group in chart.groups for row in of_group]
    values = [value for row in rows for value in (row.low, row.high, *row.dots)]
    ticks = log_ticks(min(values), max(values)) if chart.log else linear_ticks(max(values))
    height = TOP + sum(GAP if caption else GAP_UNNAMED for caption, _ in chart.groups) + len(rows) * ROW + 56
    bottom = height - 50

    def x(value):
        if chart.log:
            share = math.log10(value / ticks[0]) / math.log10(ticks[-1] / ticks[0])
        else:
            share = value / ticks[-1]
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
           f"<title>{escape('; '.join([chart.title, *about]))}</title>", f"<style>{STYLE}</style>",
           f'<rect class="ground" width="{WIDTH}" height="{height}"/>', text(16, 30, chart.title, "title")]
    out += [text(16, 52 + 18 * n, line, "faint") for n, line in enumerate(about)]
    for tick in ticks:
        out += [f'<line class="{"base" if tick == ticks[0] else "grid"}" x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{bottom}"/>',
                text(x(tick), bottom + 17, tick_text(tick, chart.unit), "faint", "middle")]
    out.append(text(LEFT, bottom + 37, chart.axis, "faint"))
    y = TOP
    for caption, of_group in chart.groups:
        y += GAP if caption else GAP_UNNAMED
        if caption:
            out.append(text(16, y - 9, caption, "caption"))
        for row in of_group:
            out += drawn(row, caption, y, x)
            y += ROW
    return "\n".join([*out, "</svg>", ""])


def drawn(row, caption, y, x):
    """The elements of one row."""
    middle, start = y + ROW / 2, x(row.low)
    width = max(x(row.high) - start, BAR_LEAST)
    yield text(LEFT - 10, middle + 4.5, row.name, "", "end")
    yield (f'<rect class="bar {row.colour}" data-row={quoteattr(row.name)} x="{start:.1f}" y="{middle - BAR / 2}" width="{width:.1f}" height="{BAR}">'
           f"<title>{escape(f'{caption}: {row.name}: {row.text}')}</title></rect>")
    for value in row.dots:
        yield f'<circle class="dot" cx="{x(value):.1f}" cy="{middle}" r="2.2"/>'
    yield text(max([start + width, *map(x, row.dots)]) + 7, middle + 4.5, row.text)


def text(x, y, content, kind="", anchor="start"):
    """A piece of text, which stays text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{f" class={quoteattr(kind)}" if kind else ""}>{escape(str(content))}</text>'


def throughput(name, title, runs):
    """Requests per second of every work and target, held against a limit."""
    figures, groups = Figures(runs), []
    limits = {work: figures.rate(work, RAW if work.startswith("put") else BARE) for work in runs}
    limited = all(limits[work] for work in measured(figures, runs))
    for work in measured(figures, runs):
        reference = limits[work] if limited else figures.rate(work, GRANARY)
        size = SIZES[work.split("-")[1]]
        rates = [(target, figures.rate(work, target)) for target in shown(work, runs)]
        rows = [Row(target, COLOURS.get(target, OTHER), 0, rate / reference, f"{number(rate)} req/s, {number(rate * size / 1e6)} MB/s")
                for target, rate in rates if rate is not None]
        groups.append((work, rows))
    axis = "of what the bare server (GET) and the raw writer (PUT) do in the same run" if limited else "of what Granary does in the same run"
    return Chart(f"{name}-throughput", f"{title}: requests per second", axis, groups, unit="%")


def measured(figures, runs):
    """The works in which Granary did anything."""
    return [work for work in runs if figures.rate(work, GRANARY)]


def shown(work, runs):
    """The targets of a work. The limit of PUTs is the raw writer: the bare server, which throws them away, is none."""
    return [target for target in runs[work] if not (target == BARE and work.startswith("put"))]


def latency(name, title, runs):
    """From p50 to p99 of every work and target."""
    figures, groups = Figures(runs), []
    for work in measured(figures, runs):
        rows = []
        for target in shown(work, runs):
            mine, p50 = runs[work][target], figures.p50(work, target)
            if p50 is None:
                continue
            p50 = max(p50, 1) / 1e3
            p99 = max(figures.median(work, target, lambda run: run["p99_us"]) / 1e3, p50) if has_tail(mine) else p50
            # Of few answers there is no 99th percentile.
            said = f"{number(p50)} / {number(p99)} ms" if has_tail(mine) else f"{number(p50)} ms"
            rows.append(Row(target, COLOURS.get(target, OTHER), p50, p99, said))
        groups.append((work, rows))
    return Chart(f"{name}-latency", f"{title}: latency", "from p50 to p99, logarithmic", groups, True, "ms")


def comparison(name, report):
    """The charts of compare.py and cluster.py."""
    what = "Granary's cluster beside garage's" if report["origin"]["tool"] == "cluster" else "Granary beside garage and the limits"
    for part, suffix, how in (("many", "", ""), ("one", "-one", ", one connection")):
        runs = report.get(part) or {}
        if measured(Figures(runs), runs):
            yield throughput(name + suffix, what + how, runs)
            yield latency(name + suffix, what + how, runs)


def failover(name, report):
    """The waits of failover.py: a bar to the median of the times, a dot for each."""
    rows = []
    for event, runs in events(report).items():
        waits = [run["longest_s"] for run in runs]
        middle = statistics.median(waits)
        rows.append(Row(f"{event}, {len(waits)} {'time' if len(waits) == 1 else 'times'}", STORE, 0, middle,
                        f"{middle:.2f} s, p90 {percentile(Counter(waits), 0.9):.2f} s, most {max(waits):.2f} s", waits))
    return [Chart(name, "How long writes wait when something dies", "longest wait of any key for its next acknowledged write: median, and each time",
                  [("", rows)], unit="s")] if rows else []


def events(report):
    """The events of a report of failover.py that happened."""
    return {event: runs for event, runs in report.items() if isinstance(runs, list) and runs and "longest_s" in runs[0]}


THROTTLES = {"default": "throttle as by default", "none": "no throttle"}


def repair(name, report):
    """Of repair.py: how fast a lost disk is filled, and what clients get meanwhile."""
    speed, clients = [], []
    for throttle, caption in THROTTLES.items():
        part = report.get(throttle) or {}
        rows = [Row(f"{how}{'' if how.startswith('with') else ', no clients'}", STORE, 0, part[how]["mib_per_sec"],
                    f"{number(part[how]['mib_per_sec'])} MiB/s, {part[how]['seconds']:.0f} s") for how in ("alone", "with clients") if how in part]
        if rows:
            speed.append((caption, rows))
        during = part.get("with clients", {}).get("clients")
        before = [part["before"]] if "before" in part else []
        rows = [asked(*row) for row in (("no repair", before, LIMIT), ("while repaired", during, STORE)) if row[1]]
        if rows:
            clients.append((caption, rows))
    disk = report.get("disk_mib_per_sec")
    if disk and speed:
        speed.append(("the disk, which all nodes share", [Row("one stream", LIMIT, 0, disk, f"{number(disk)} MiB/s")]))
    if speed:
        yield Chart(f"{name}-speed", "How fast a lost disk is repaired", "MiB/s", speed)
    if clients:
        yield Chart(f"{name}-clients", "What clients notice of a repair", "requests per second of mixed-64k", clients)


def asked(what, figures, colour):
    """A row of what clients got, the median of some runs of `granary bench`."""
    def median(of):
        return statistics.median(map(of, figures))

    rate = median(lambda run: run["requests_per_second"])
    p50, p99 = (median(lambda run, rank=rank: run["latency_ms"][rank]) for rank in ("p50", "p99"))
    return Row(what, colour, 0, rate, f"{number(rate)} req/s, {number(p50)} / {number(p99)} ms")


def charts(report, name=None):
    """All charts of a report, whichever tool has written it."""
    tool = report["origin"]["tool"]
    return list({"failover": failover, "repair": repair}.get(tool, comparison)(name or tool, report))


def told(report, args):
    """Adds to a report what it does not say of itself."""
    if "many" in report:
        kind = "compare" if any(BARE in runs for runs in report["many"].values()) else "cluster"
    else:
        kind = "failover" if events(report) else "repair"
    said = {"tool": kind, "commit": None, "machine": None, "date": None, **report.get("origin", {})}
    for what in ("commit", "machine", "date"):
        said[what] = getattr(args, what) or said[what] or f"unknown {what}"
    return {**report, "origin": said}


def about(origin):
    """The lines below a title."""
    commit = origin["commit"] if origin["commit"].startswith("unknown") else f"commit {origin['commit']}"
    return [f"{commit}, {origin['date']}", origin["machine"]]


def main():
    """Reads the arguments, writes the files and says which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="REPORT.json")
    parser.add_argument("--out", default="docs/plots", help="a directory (%(default)s)")
    parser.add_argument("--name", help="what the names of the files begin with (default: the tool's name)")
    for what in ("commit", "machine", "date"):
        parser.add_argument(f"--{what}", help="of the figures, instead of what the report says")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    nothing = False
    for path in args.reports:
        with open(path, encoding="utf-8") as found:
            report = told(json.load(found), args)
        made = charts(report, args.name)
        for chart in made:
            file = os.path.join(args.out, f"{chart.file}.svg")
            with open(file, "w", encoding="utf-8") as out:
                out.write(draw(chart, about(report["origin"])))
            print(file)
        if not made:
            nothing = True
            print(f"{path} has no figures", file=sys.stderr)
    return 1 if nothing else 0


if __name__ == "__main__":
    sys.exit(main())
