"""Writers and deleters race placement groups whose members change, and disks that come back after their places were given away.

A disk is given up for good and replaced by an empty one, again and again, while a gateway sleeps through the change of epoch
and goes on with what it was writing; nodes are paused or cut off until others have their chunks, and return with copies of what
was overwritten and deleted meanwhile. Histories have to be linearizable, nothing that was deleted may come back, and every byte
of it has to go.
"""
import os
import random
import time

import pytest

from harness import network
from harness.cluster import SETTINGS
from harness.history import check_everything
from harness.waiting import wait_for

from .drill import Drill

# A node that does not answer loses its places after seconds.
IMPATIENT = SETTINGS.replace("unreachable_out_secs = 45", "unreachable_out_secs = 4")
# Mostly chunks on disks, overwritten and deleted all the time.
SIZES = ((150, 1), (20_000, 4), (40_000, 3), (300_000, 2), (1_500_000, 0.5))
MIX = (("put", 6), ("delete", 5), ("get", 5), ("head", 1), ("create", 1), ("multipart", 2), ("listing", 1))
GIVEN_AWAY_S = 120


def bytes_on(node):
    """What the volumes of a node take."""
    return sum(entry.stat().st_blocks for directory in node.data_dirs
               if os.path.isdir(volumes := os.path.join(directory, "volumes")) for entry in os.scandir(volumes))


class Race:
    """What happens to disks under load; whom it hits is drawn from the seed."""

    def __init__(self, cluster, drill, seed):
        self.cluster, self.drill = cluster, drill
        self.rng = random.Random(f"{seed}-epochs")

    def fullest(self, zone):
        """The storage node of a zone that has most: its disk is in most groups."""
        return max(self.cluster.some(role="storage", zone=zone), key=lambda name: bytes_on(self.cluster[name]))

    def others(self, name):
        """All nodes but one."""
        return [other for other in self.cluster.nodes if other != name]

    def disk_of(self, name):
        """The disk that serves in a node."""
        def found():
            status = self.cluster.status()
            disks = [disk for disk in status["disks"] if disk["node"] == self.cluster[name].node_id] if status else []
            return next((disk["id"] for disk in disks if disk["state"] == "up"), None)
        return wait_for(f"a disk of {name}", found, 60, 0.5)

    def wait_given_away(self, name):
        """The disk of a node serves nothing any more, and a count that began afterwards found every chunk on enough others.

        Groups that have nowhere to go, those of LRS in a zone with two disks, stay degraded: nothing is in them.
        """
        seen = {}

        def lacking():
            status = self.cluster.status(self.others(name))
            if not status:
                return ["nobody answers `admin status`"]
            mine = [disk for disk in status["disks"] if disk["node"] == self.cluster[name].node_id]
            if any(disk["state"] == "up" for disk in mine):
                return [f"its disk is up: {mine}"]
            since = seen.setdefault("out", time.time())
            below, counted = status["chunks_below_target"], status["chunks_below_target_counted_at"]
            return [] if below == 0 and counted > since else [f"{below} chunks below target, counted at {counted}, wanted since {since:.0f}"]

        wait_for(f"others to have what {name} had", lacking, GIVEN_AWAY_S, 0.3)

    def give_up(self, name=None):
        """A disk is given up while a gateway sleeps; an empty one takes its directory."""
        name, sleeper = name or self.fullest(self.rng.choice(self.cluster.zones)), self.rng.choice(self.cluster.some(role="gateway"))
        disk = self.disk_of(name)
        print(f"disk {disk} of {name} is given up while {sleeper} sleeps")
        self.cluster.pause(sleeper)
        # The sleeper may have led.
        wait_for("the disk to be given up", lambda: self.cluster.admin("replace", "disk", str(disk), ask=self.others(sleeper)).code == 0, 60, 0.5)
        # Long enough for new members, short enough for writes that were under way to go on.
        time.sleep(self.rng.uniform(0.5, 3))
        self.cluster.resume(sleeper)
        self.drill.resumes()
        self.wait_given_away(name)
        self.cluster.kill(name)
        for directory in self.cluster[name].data_dirs:
            self.cluster.wipe(directory)
        self.drill.resumes()
        self.cluster.start(name)

    def go_away(self, how):
        """A node is away until others have its places, and comes back with what it had; returns which."""
        name = self.fullest(self.rng.choice(self.cluster.zones))
        print(f"{name} is {how} until others have its places")
        others = self.others(name)
        if how == "paused":
            self.cluster.pause(name)
        elif how == "mute":
            for other in others:
                self.cluster.cut(name, other, network.SILENT)
        else:
            self.cluster.part([name], others)
        self.drill.resumes()
        self.wait_given_away(name)
        # What is overwritten and deleted now, its copies do not hear of.
        self.drill.resumes(150)
        self.cluster.mend_all()
        self.cluster.resume(name)
        self.drill.resumes(50)
        return name

    def there_and_back(self):
        """Who took the places of a node loses them as soon as it is back: it gets them again, with old copies on its disk."""
        name = self.go_away(self.rng.choice(["paused", "cut off", "mute"]))
        zone = self.cluster[name].spec.zone
        self.disk_of(name)
        self.give_up(next(other for other in self.cluster.some(role="storage", zone=zone) if other != name))

    def run(self, rounds):
        """One after the other, each on a cluster in which every chunk has all its copies."""
        deck = ["there and back", "give up", "paused", "there and back", "cut off", "give up", "mute"]
        for number in range(rounds):
            self.cluster.wait_whole()
            what = deck[number % len(deck)]
            if what == "give up":
                self.give_up()
            elif what == "there and back":
                self.there_and_back()
            else:
                self.go_away(what)
        self.cluster.wait_whole()


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.long)])
def test_members_change_under_writers_and_deleters(make_cluster, seed, say, rounds):
    """Six nodes in three zones, each with a disk: every group has one member per zone, and another disk to go to."""
    cluster = make_cluster(f"epochs-{rounds}", settings=IMPATIENT)
    cluster.form()
    with Drill(cluster, seed, f"epochs-{rounds}", sizes=SIZES, mix=MIX) as drill:
        Race(cluster, drill, seed).run(rounds)
        drill.resumes(50)
    drill.judge(say, deep=True)
    # What a disk knows only after a start, such as a deletion that it noted and forgot, must not bring anything back.
    cluster.kill(*cluster.nodes)
    cluster.start(*cluster.nodes)
    cluster.wait_whole()
    check_everything(drill.gateways, drill.history, f"history-epochs-{rounds}-again")
    drill.empty()
    make_cluster.remove(cluster)
