//! Disks that were members once: they take chunks of an old map as long as nobody tells them of a
//! newer one, and what they take is lost to every reader.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::*;

const PG: PgId = PgId(0b111);
/// Longer than any map is believed without a word from the root.
const LONG: Duration = Duration::from_secs(300);

/// Five disks and one group, on the first three.
async fn one_group() -> Cluster {
    let cluster = Cluster::start(Shape {
        disks: 5,
        ..Default::default()
    })
    .await;
    cluster.meta.map.lock().groups.retain(|g| g.id == PG.0);
    cluster.path.view().refresh().await.unwrap();
    cluster
}

/// The places of disks 2 and 3 go to 4 and 5. The root knows, and nobody else yet.
fn replace_two(cluster: &Cluster) {
    let mut map = cluster.meta.map.lock();
    map.epoch += 1;
    map.groups[0].epoch = 3;
    for (member, disk) in map.groups[0].members.iter_mut().zip([1, 4, 5]) {
        member.disk = disk;
    }
}

/// A disk hears of it.
fn tell(cluster: &Cluster, disk: DiskId) {
    let mut disks = cluster.nodes.disks.lock();
    disks.get_mut(&disk).unwrap().epochs.insert(PG, 3);
}

fn set_root_away(cluster: &Cluster, away: bool) {
    cluster.meta.root_is_away.store(away, Ordering::Relaxed);
}

async fn try_put(cluster: &Cluster, bytes: &Bytes) -> Result<Written, WriteError> {
    let body = frames(bytes, 100_000);
    cluster.path.write(target(), body, limits(None)).await
}

fn assert_held_by(cluster: &Cluster, written: &Written, disks: [u64; 3]) {
    for chunk in chunks(&written.payload) {
        assert_eq!(cluster.holders(chunk), HashSet::from(disks.map(DiskId)));
    }
}

#[test]
fn what_only_former_members_took_after_a_member_said_so_is_not_acknowledged() {
    for root_is_away in [false, true] {
        simulated(async {
            let cluster = one_group().await;
            replace_two(&cluster);
            tell(&cluster, DiskId(1));
            set_root_away(&cluster, root_is_away);
            let bytes = content(5 * MIB, 1);
            let outcome = try_put(&cluster, &bytes).await;
            if root_is_away {
                assert!(outcome.is_err(), "acknowledged by former members");
                set_root_away(&cluster, false);
                cluster.path.view().refresh().await.unwrap();
                let written = put(&cluster, &bytes).await;
                assert_held_by(&cluster, &written, [1, 4, 5]);
            } else {
                assert_held_by(&cluster, &outcome.unwrap(), [1, 4, 5]);
            }
        });
    }
}

#[test]
fn a_copy_counts_only_while_its_disk_is_a_member() {
    simulated(async {
        let cluster = one_group().await;
        cluster.set_fault(3, Fault::Hangs);
        let bytes = content(MIB, 2);
        let (path, body) = (cluster.path.clone(), frames(&bytes, 100_000));
        let writing = cluster
            .runtime
            .spawn(async move { path.write(target(), body, limits(None)).await });
        // Two copies are there, the third is waited for; meanwhile the map changes.
        cluster.runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.asked(3), 1);
        replace_two(&cluster);
        cluster.path.view().refresh().await.unwrap();
        let written = writing.await.unwrap().unwrap();
        assert_held_by(&cluster, &written, [1, 4, 5]);
    });
}

#[test]
fn without_a_word_from_the_root_writes_end_after_a_while_and_reads_do_not() {
    simulated(async {
        let cluster = one_group().await;
        let bytes = content(5 * MIB, 3);
        let before = put(&cluster, &bytes).await;
        let original = source(&cluster, &before.payload);
        let whole = ByteRange::whole(before.size);
        set_root_away(&cluster, true);
        cluster.runtime.sleep(Duration::from_secs(10)).await;
        // An election is nothing a write would notice.
        put(&cluster, &bytes).await;
        cluster.runtime.sleep(LONG).await;
        let asked = cluster.asked(2);
        let began = cluster.runtime.monotonic();
        assert!(try_put(&cluster, &bytes).await.is_err());
        let took = cluster.runtime.monotonic() - began;
        assert!(took < Duration::from_secs(10), "told after {took:?}");
        let copied = cluster
            .path
            .copy(original.clone(), whole, target(), CopyDigests::Keep);
        assert!(copied.await.is_err(), "copied");
        assert_eq!(cluster.asked(2), asked, "no disk was bothered");
        assert!(get(&cluster, &original, whole).await.unwrap() == bytes);
        set_root_away(&cluster, false);
        let written = put(&cluster, &bytes).await;
        assert_held_by(&cluster, &written, [1, 2, 3]);
    });
}

#[test]
fn whoever_stops_does_not_wait_for_a_root_that_is_away() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        set_root_away(&cluster, true);
        let view = cluster.path.view();
        view.start_refreshing(Duration::from_secs(1));
        // It asks on and on by now.
        cluster.runtime.sleep(Duration::from_secs(3)).await;
        let began = cluster.runtime.monotonic();
        cluster.runtime.stop().await;
        let took = cluster.runtime.monotonic() - began;
        assert!(took < Duration::from_secs(1), "stopped after {took:?}");
    });
}
