//! Zones and pools that have fewer copies to offer than others, or fewer nodes for them, while the others
//! have lost some.

use std::collections::HashSet;

use granary_meta_api::pb::state::{PgMember, PlacementGroup, Pool};

use super::*;

const WIDE: PgId = PgId(0b111);

/// Disks 1 to 3 in zone a, with a group of three copies; in another pool a group over other disks.
async fn with_other_pool(zone: &str, others: &[u64]) -> Cluster {
    let cluster = Cluster::start(Shape {
        disks: 6,
        ..Default::default()
    })
    .await;
    {
        let mut map = cluster.meta.map.lock();
        map.epoch += 1;
        map.groups.retain(|group| group.id == WIDE.0);
        // The last node says that it is somewhere else.
        for (node, zone) in map.nodes.iter_mut().skip(3).zip([zone, zone, "c"]) {
            zone.clone_into(&mut node.zone);
        }
        map.pools.push(Pool {
            id: 2,
            redundancy: Redundancy::Lrs.number(),
            copies: others.len() as u32,
            zone: zone.to_owned(),
            ..Default::default()
        });
        map.groups.push(PlacementGroup {
            id: 1000,
            pool: 2,
            epoch: 1,
            members: others
                .iter()
                .map(|&disk| PgMember {
                    disk,
                    complete: true,
                })
                .collect(),
            ..Default::default()
        });
    }
    cluster.path.view().refresh().await.unwrap();
    cluster
}

async fn fail(cluster: &Cluster, disks: &[u64]) {
    for &disk in disks {
        cluster.set_fault(disk, Fault::Failed);
    }
    cluster.path.view().refresh().await.unwrap();
}

async fn is_refused(cluster: &Cluster) -> bool {
    let body = frames(&content(MIB, 91), MIB);
    let written = cluster.path.write(target(), body, limits(None)).await;
    matches!(written, Err(WriteError::Unavailable(_)))
}

#[test]
fn lrs_stays_with_three_nodes_of_a_zone_while_one_of_them_is_away() {
    simulated(async {
        let cluster = with_other_pool("b", &[4, 5, 6]).await;
        fail(&cluster, &[1]).await;
        let written = put(&cluster, &content(9 * MIB, 90)).await;
        for chunk in chunks(&written.payload) {
            assert_eq!(cluster.holders(chunk), HashSet::from([2, 3].map(DiskId)));
        }
        let hints = cluster.path.repair_hints().take(100);
        assert_eq!(hints.len(), 3, "what is to be repaired is not known");
        fail(&cluster, &[2]).await;
        assert!(is_refused(&cluster).await, "went to a zone of two nodes");
    });
}

#[test]
fn one_copy_is_not_acknowledged_where_three_are_promised() {
    for zone in ["a", "b"] {
        simulated(async {
            let cluster = with_other_pool(zone, &[4]).await;
            fail(&cluster, &[1, 2]).await;
            assert!(is_refused(&cluster).await, "with a copy in zone {zone}");
        });
    }
}

#[test]
fn a_pool_without_groups_promises_nothing() {
    simulated(async {
        let cluster = with_other_pool("a", &[4]).await;
        {
            let mut map = cluster.meta.map.lock();
            map.epoch += 1;
            map.groups.retain(|group| group.id != WIDE.0);
        }
        cluster.path.view().refresh().await.unwrap();
        let written = put(&cluster, &content(MIB, 92)).await;
        for chunk in chunks(&written.payload) {
            assert_eq!(cluster.holders(chunk), HashSet::from([DiskId(4)]));
        }
    });
}
