//! Reading, listing and status.

use granary_types::{BucketId, DiskId};

use super::{EPOCH, Fixture, pattern};
use crate::{BlobError, DiskHealth, GetChunk, PutChunk};

pub(super) async fn unknown_chunks_and_bad_ranges_are_refused(f: Fixture) {
    f.open().await;
    let (id, unknown) = (f.id(1), f.id(2));
    f.put(id, &pattern(1, 1000)).await.expect("stored");
    assert_eq!(
        f.get(unknown, 0, 1).await,
        Err(BlobError::ChunkNotFound(unknown))
    );
    for (offset, length) in [
        (0, 0),
        (0, 1001),
        (1000, 1),
        (999, 2),
        (u32::MAX, 1),
        (1, u32::MAX),
    ] {
        let range = GetChunk {
            id,
            offset,
            length,
            background: false,
        };
        let outcome = f.node.get(f.disk, range).await.map(|read| read.offset);
        assert!(
            matches!(outcome, Err(BlobError::Invalid(_))),
            "{offset}+{length}: {outcome:?}"
        );
    }
}

pub(super) async fn listings_are_paged_in_order_and_keep_to_their_group(f: Fixture) {
    f.open().await;
    let neighbour = Fixture {
        pg: granary_types::PgId(f.pg.0 + 1_000_000),
        ..f.clone()
    };
    neighbour.open().await;
    neighbour
        .put(neighbour.id(5), &pattern(5, 10))
        .await
        .expect("stored");
    let mut expected = Vec::new();
    for n in [
        30u128,
        2,
        (1 << 96) - 1,
        17,
        4,
        8,
        1 << 90,
        0,
        5,
        6,
        7,
        9,
        10,
        11,
        12,
    ] {
        f.put(f.id(n), &pattern(1, 10)).await.expect("stored");
        expected.push(f.id(n));
    }
    expected.sort();
    let listed: Vec<_> = f.list().await.into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, expected);
    for limit in [1, 5, 15, 100] {
        let after = Some(expected[3]);
        let page = f
            .node
            .list(f.disk, f.pg, after, limit)
            .await
            .expect("a page");
        let rest = &expected[4..];
        let ids: Vec<_> = page.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids, rest[..rest.len().min(limit as usize)]);
        assert_eq!(page.next_after.is_none(), limit as usize >= rest.len());
    }
}

pub(super) async fn an_unknown_disk_is_out_of_service(f: Fixture) {
    let nowhere = DiskId(u64::MAX - 1);
    let lost = BlobError::DiskFailed(nowhere);
    let range = GetChunk {
        id: f.id(1),
        offset: 0,
        length: 1,
        background: false,
    };
    let chunk = f.chunk(f.id(1), &pattern(1, 10));
    assert_eq!(f.node.put(nowhere, chunk).await, Err(lost.clone()));
    assert_eq!(f.node.get(nowhere, range).await.err(), Some(lost.clone()));
    assert_eq!(
        f.node.delete(nowhere, f.pg, 1, vec![f.id(1)]).await,
        Err(lost.clone())
    );
    assert_eq!(
        f.node.forget(nowhere, f.pg, 1, vec![f.id(1)]).await,
        Err(lost.clone())
    );
    assert_eq!(
        f.node.evict(nowhere, f.pg, 1, vec![f.id(1)]).await,
        Err(lost.clone())
    );
    assert_eq!(
        f.node.verify(nowhere, f.pg, None, 1).await,
        Err(lost.clone())
    );
    assert_eq!(f.node.groups(nowhere).await, Err(lost.clone()));
    assert_eq!(f.node.open_pg(nowhere, f.pg, 1).await, Err(lost.clone()));
    assert_eq!(f.node.list(nowhere, f.pg, None, 1).await.err(), Some(lost));
}

pub(super) async fn disks_count_what_they_hold(f: Fixture) {
    f.open().await;
    let status = async || {
        let disks = f.node.disks().await.expect("the node lists its disks");
        disks
            .into_iter()
            .find(|disk| disk.id == f.disk)
            .expect("the disk is among them")
    };
    let before = status().await;
    assert_eq!(before.health, DiskHealth::Healthy);
    f.put(f.id(1), &pattern(1, 500_000)).await.expect("stored");
    let with = status().await;
    assert_eq!(with.chunks, before.chunks + 1);
    assert!(with.live_bytes >= before.live_bytes + 500_000);
    assert!(with.total_bytes > 0 && with.free_bytes <= with.total_bytes);
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![f.id(1)])
        .await
        .expect("deleted");
    let without = status().await;
    assert_eq!(without.chunks, before.chunks);
    assert!(without.live_bytes + 500_000 <= with.live_bytes);
}

pub(super) async fn what_one_bucket_owns_is_listed_alone(f: Fixture) {
    f.open().await;
    let bytes = pattern(1, 10);
    for n in 0..20 {
        let owner = f.owner(1 + u64::from(n % 5 == 0));
        let chunk = PutChunk {
            owner,
            ..f.chunk(f.id(n), &bytes)
        };
        f.node.put(f.disk, chunk).await.expect("stored");
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = f.node.list_owned(f.disk, f.pg, after, 7, BucketId(2));
        let page = page.await.expect("a page");
        listed.extend(page.entries.iter().map(|entry| entry.id));
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, [0, 5, 10, 15].map(|n| f.id(n)));
}
