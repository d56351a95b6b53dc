"""A report: lines and tables that are shown as they come, and everything as JSON at the end."""
import json
import os
import platform
import random


def read_arguments(parser, quick):
    """What the command line says, with what every such tool takes; `quick` are the defaults of a quick look."""
    parser.add_argument("--place", help="where the data goes (default: a temporary directory)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--quick", action="store_true", help="small and short")
    parser.add_argument("--out", help="the report goes to this file, too")
    parser.add_argument("--json", help="every run goes to this file")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


class Report:
    """What a tool says, and every run."""

    def __init__(self, args):
        self.args, self.lines, self.runs, self.requirements = args, [], {}, []

    def say(self, line=""):
        """One line of the report."""
        self.lines.append(line)
        print(line, flush=True)

    def table(self, title, head, rows):
        """A table of Markdown with a title."""
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(cell) for cell in column) for column in zip(head, *cells)]
        self.say(f"{title}\n")
        for row in [head, ["-" * width for width in widths], *cells]:
            self.say("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        self.say()

    def require(self, rows):
        """Notes requirements, as `requirements.row` makes them."""
        self.requirements += rows

    def judge(self):
        """Says which requirements were reached."""
        for what, bound, measured, reached in self.requirements:
            self.say(f"- {what}: required: {bound}, measured: {measured}" + (f", reached: {reached}" if reached else ""))
        self.say()

    def about(self, tool, *more):
        """What the figures were taken on, and how to take them again."""
        settings = " ".join(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in vars(self.args).items()
                            if value not in (None, False) and name not in ("binaries", "place", "out", "json"))
        self.say("; ".join([f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}", *more]))
        self.say(f"\nAgain: `{tool} --binaries DIR {settings}`")

    def write(self):
        """The lines to --out and everything to --json, where they were asked for."""
        everything = {"arguments": vars(self.args), "requirements": self.requirements, **self.runs}
        for path, text in ((self.args.out, "\n".join(self.lines) + "\n"), (self.args.json, json.dumps(everything, indent=1))):
            if path:
                with open(path, "w", encoding="utf-8") as out:
                    out.write(text)
