#!/usr/bin/env python3
"""A cluster of Granary beside one of garage, when that is installed: same requests, same run, in turn.

    bench/cluster.py --binaries target/release [--work put-4k,get-4k,put-1m,get-1m] [--connections 32] [--seconds 5] [--rounds 3]
                     [--garage default,on] [--signature v4] [--disks 1] [--place DIR] [--out FILE.md] [--json FILE]

Granary is seven processes: a meta and a storage node in each of three zones, and one gateway, which also does the background
work; the bucket is ZRS, so every object is in three zones. garage is three nodes in three zones with three copies of
everything; the first one serves the clients. All is on this machine and its disk, over loopback, each with its own default
between nodes (Granary: TLS with certificates of both sides). CPU is that of all processes of a target. What is measured, and
how to read it, is as with bench/compare.py; docs/performance.md says it.
"""
import sys

import compare
import requirements
from targets import start_granary_cluster

WORK = "put-4k,get-4k,put-1m,get-1m"


class ClusterComparison(compare.Comparison):
    """The same with clusters: nothing but a store that keeps three copies is a measure of another one."""
    tool = "cluster"
    # Acknowledged is what two of the three zones have.
    copies = 2

    def start(self):
        self.targets.append(start_granary_cluster(self.under("granary"), self.args.binaries, self.args.disks, self.args.signature))
        self.notes.append("Granary: three meta nodes, three storage nodes and one gateway, ZRS, TLS between nodes")
        self.start_garages(nodes=3)

    def required(self):
        return requirements.check_cluster(self.report["many"])


def main():
    """Reads the arguments, measures, writes the report."""
    parser = compare.arguments(__doc__, WORK, "", "default,on")
    args = parser.parse_args()
    if "uniform" in args.work + args.one_work:
        parser.error("a uniform work starts the server anew for every round, which is not done with a cluster")
    return compare.run(ClusterComparison, args)


if __name__ == "__main__":
    sys.exit(main())
