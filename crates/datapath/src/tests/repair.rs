//! Repair goes at its own pace.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::*;

#[test]
fn no_disk_gives_or_takes_more_for_repair_than_its_share() {
    simulated(async {
        const RATE: u64 = 16 * MIB as u64;
        let config = DataPathConfig {
            repair_bytes_per_sec: RATE,
            ..Default::default()
        };
        let cluster = Cluster::start(Shape {
            config,
            ..Default::default()
        })
        .await;
        let written = put(&cluster, &content(80 * MIB, 81)).await;
        let mut moved: HashMap<DiskId, u64> = HashMap::new();
        let mut copies = Vec::new();
        for chunk in chunks(&written.payload) {
            let mut sources: Vec<_> = cluster.holders(chunk).into_iter().collect();
            sources.sort_unstable();
            let target = (1..=4).map(DiskId).find(|disk| !sources.contains(disk));
            let target = target.unwrap();
            let node = cluster.path.view().node_of(sources[0]).unwrap();
            let listed = node.list(sources[0], chunk.pg(), None, 100).await.unwrap();
            let entry = *listed.entries.iter().find(|e| e.id == chunk).unwrap();
            for disk in [sources[0], target] {
                *moved.entry(disk).or_default() += u64::from(entry.length);
            }
            copies.push((entry, sources, target));
        }
        let background = || cluster.nodes.background.load(Ordering::Relaxed);
        assert_eq!(background(), 0, "clients wait for nobody");
        let began = cluster.runtime.monotonic();
        let copying = copies.iter().map(|(entry, sources, target)| {
            let path = &cluster.path;
            path.restore_chunk(entry, sources, *target, 1)
        });
        for copied in futures_util::future::join_all(copying).await {
            copied.unwrap();
        }
        let took = cluster.runtime.monotonic() - began;
        assert_eq!(background(), 2 * copies.len());
        // The last copy begins when the ones before it have had their time.
        let most = moved.values().max().unwrap() - 4 * MIB as u64;
        let least = Duration::from_secs_f64(most as f64 / RATE as f64);
        assert!(took + Duration::from_millis(300) >= least, "{took:?}");
        assert!(took <= Duration::from_secs(2 * 80 / 16), "{took:?}");
    });
}
