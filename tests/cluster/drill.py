"""What every cluster test does around its fault: load before and during it, and all checks afterwards."""
import random
import time

from harness.cluster import GATEWAY_PORT
from harness.history import LOST, Ballast, Gateways, History, Load, check_everything
from harness.waiting import wait_for


class Drill:
    """A bucket under load. Inside the `with` block things go wrong; leaving it stops the load, and `finish` judges."""

    def __init__(self, cluster, seed, name, clients=6, ballast=60, **how):
        self.cluster, self.seed, self.name = cluster, f"{seed}-{name}", name
        self.bucket = f"drill-{name}"
        self.gateways = Gateways([(cluster[n].machine.address, GATEWAY_PORT) for n in cluster.some(role="gateway")], cluster.credentials)
        self.history = History(self.bucket, random.Random(self.seed))
        self.load = Load(self.gateways, self.history, self.seed, clients, **how)
        self.ballast = Ballast(self.gateways, self.bucket, self.seed, ballast)

    def __enter__(self):
        def created():
            try:
                return self.gateways.wire(0, 30).request("PUT", self.bucket).status == 200
            except LOST:
                return False
        wait_for("the bucket", created, 60)
        self.ballast.write()
        self.load.__enter__()
        self.load.wait_acknowledged()
        return self

    def __exit__(self, *failure):
        self.load.__exit__(*failure)

    def resumes(self, count=20, deadline_s=90):
        """The store acknowledges changes again; returns after how many seconds."""
        return self.load.wait_acknowledged(count, deadline_s)

    def judge(self, say, deep=False):
        """After healing: whole, everything acknowledged is there with its bytes, linearizable, nothing damaged."""
        healed = time.time()
        self.cluster.wait_whole(healed)
        for number in range(len(self.gateways.addresses)):
            self.ballast.check(number)
        check_everything(self.gateways, self.history, f"history-{self.name}")
        self.cluster.fsck(*(["--deep"] if deep else []))
        assert not self.cluster.panics(), self.cluster.panics()[:5]
        say(f"{self.name}: {self.history.summary()}; whole again in {time.time() - healed:.0f} s")

    def empty(self):
        """Deletes everything and waits until its bytes were given back; nothing may be left that no object refers to."""
        self.gateways.wire(0, 60).delete_bucket_with_contents(self.bucket)
        self.cluster.wait_reclaimed()
        left = self.cluster.fsck()
        assert left["chunks_unreferenced"] == 0, left
