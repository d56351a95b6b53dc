//! A second copy is asked for the few reads that meet a slow disk, not for all of them.

use super::*;

/// Objects of one chunk, and so of one read each.
async fn objects(cluster: &Cluster, count: u64) -> Vec<ReadSource> {
    let mut sources = Vec::new();
    for n in 0..count {
        let written = put(cluster, &content(100_000, n)).await;
        sources.push(source(cluster, &written.payload));
    }
    sources
}

/// Reads all of them at once; how long each of them took.
async fn read_all(cluster: &Cluster, sources: &[ReadSource]) -> Vec<Result<Duration, ReadError>> {
    let reads = sources.iter().map(|source| async move {
        let began = cluster.runtime.monotonic();
        get(cluster, source, ByteRange::whole(100_000)).await?;
        Ok(cluster.runtime.monotonic() - began)
    });
    futures_util::future::join_all(reads).await
}

fn hedged(cluster: &Cluster) -> u64 {
    cluster.path.shared.metrics.reads_hedged.get()
}

#[test]
fn when_every_disk_is_slow_reads_are_not_multiplied() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let sources = objects(&cluster, 300).await;
        for disk in 1..=4 {
            cluster.set_fault(disk, Fault::Crawls);
        }
        for _ in 0..3 {
            for read in read_all(&cluster, &sources).await {
                let took = read.unwrap();
                assert!(took < Duration::from_secs(6), "{took:?}");
            }
        }
        let hedged = hedged(&cluster);
        assert!(hedged <= 900 / 10 + 32, "{hedged} second reads for 900");
    });
}

#[test]
fn a_disk_that_hangs_is_soon_asked_last() {
    simulated(async {
        let cluster = Cluster::start(Shape {
            disks: 3,
            ..Default::default()
        })
        .await;
        let sources = objects(&cluster, 300).await;
        cluster.set_fault(2, Fault::Hangs);
        // A third of them ask it first, far more than may ask a second copy early.
        for read in read_all(&cluster, &sources).await {
            let took = read.unwrap();
            assert!(took < Duration::from_secs(6), "{took:?}");
        }
        let before = hedged(&cluster);
        for read in read_all(&cluster, &sources).await {
            let took = read.unwrap();
            assert!(took < Duration::from_millis(500), "{took:?}");
        }
        assert!(hedged(&cluster) - before <= 1);
        // Well again, it has its share again.
        cluster.set_fault(2, Fault::None);
        cluster.runtime.sleep(Duration::from_secs(61)).await;
        let before = hedged(&cluster);
        for _ in 0..2 {
            for read in read_all(&cluster, &sources).await {
                read.unwrap();
            }
        }
        assert_eq!(hedged(&cluster), before);
        let order = |source: &ReadSource| {
            let chunk = chunks(&pb::Payload {
                extents: extents_of(source),
                ..Default::default()
            })[0];
            cluster.path.view().read_order(chunk, "")
        };
        assert!(sources.iter().any(|source| order(source)[0] == DiskId(2)));
    });
}

fn extents_of(source: &ReadSource) -> Vec<pb::state::Extent> {
    use pb::state::body::Place;
    match source.version.body.clone().and_then(|body| body.place) {
        Some(Place::Extents(body)) => body.extents,
        other => panic!("{other:?}"),
    }
}

#[test]
fn disks_whose_queues_are_full_are_not_asked_on_and_on() {
    simulated(async {
        let cluster = Cluster::start(Shape::default()).await;
        let sources = objects(&cluster, 20).await;
        for disk in 1..=4 {
            cluster.set_fault(disk, Fault::BusyReads);
        }
        for read in read_all(&cluster, &sources).await {
            assert!(matches!(read, Err(ReadError::Overloaded)), "{read:?}");
        }
        let began = cluster.runtime.monotonic();
        read_all(&cluster, &sources[..1]).await;
        let took = cluster.runtime.monotonic() - began;
        assert!(took <= Duration::from_secs(13), "told after {took:?}");
        // One queue has room again: that is waited for.
        for disk in 1..=2 {
            cluster.set_fault(disk, Fault::None);
        }
        for read in read_all(&cluster, &sources).await {
            read.unwrap();
        }
    });
}
