//! Deleting and forgetting.

use granary_types::{ChunkId, PgId};

use super::{EPOCH, Fixture, pattern};
use crate::BlobError;

pub(super) async fn deleted_chunks_stay_deleted(f: Fixture) {
    f.open().await;
    let (id, kept, bytes) = (f.id(1), f.id(2), pattern(1, 100_000));
    f.put(id, &bytes).await.expect("stored");
    f.put(kept, &bytes).await.expect("stored");
    for _ in 0..2 {
        f.node
            .delete(f.disk, f.pg, EPOCH, vec![id])
            .await
            .expect("deleted, and again");
    }
    assert_eq!(f.get(id, 0, 1).await, Err(BlobError::ChunkDeleted(id)));
    assert_eq!(f.put(id, &bytes).await, Err(BlobError::ChunkDeleted(id)));
    assert_eq!(
        f.get(kept, 0, 100_000).await.expect("the other stays"),
        bytes
    );
    let listed: Vec<_> = f.list().await.iter().map(|e| (e.id, e.deleted)).collect();
    assert_eq!(listed, [(id, true), (kept, false)]);
}

pub(super) async fn unknown_chunks_can_be_deleted_before_they_arrive(f: Fixture) {
    f.open().await;
    let id = f.id(1);
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![id])
        .await
        .expect("deleted");
    let late = f.put(id, &pattern(1, 10)).await;
    assert_eq!(late, Err(BlobError::ChunkDeleted(id)));
    assert_eq!(f.get(id, 0, 1).await, Err(BlobError::ChunkDeleted(id)));
    let listed: Vec<_> = f.list().await.iter().map(|e| (e.id, e.deleted)).collect();
    assert_eq!(listed, [(id, true)]);
}

pub(super) async fn forgetting_drops_tombstones_and_nothing_else(f: Fixture) {
    f.open().await;
    let (gone, live, unknown, bytes) = (f.id(1), f.id(2), f.id(3), pattern(1, 10));
    f.put(gone, &bytes).await.expect("stored");
    f.put(live, &bytes).await.expect("stored");
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![gone])
        .await
        .expect("deleted");
    for _ in 0..2 {
        let all = vec![gone, live, unknown];
        f.node
            .forget(f.disk, f.pg, EPOCH, all)
            .await
            .expect("forgotten");
    }
    assert_eq!(f.get(gone, 0, 1).await, Err(BlobError::ChunkNotFound(gone)));
    assert_eq!(f.get(live, 0, 10).await.expect("a live chunk stays"), bytes);
    let listed: Vec<_> = f.list().await.iter().map(|e| (e.id, e.deleted)).collect();
    assert_eq!(listed, [(live, false)]);
}

pub(super) async fn many_chunks_are_deleted_at_once(f: Fixture) {
    f.open().await;
    let ids: Vec<ChunkId> = (0..1000).map(|n| f.id(n)).collect();
    for id in ids.iter().step_by(100) {
        f.put(*id, &pattern(1, 10)).await.expect("stored");
    }
    f.node
        .delete(f.disk, f.pg, EPOCH, ids.clone())
        .await
        .expect("deleted");
    f.node
        .delete(f.disk, f.pg, EPOCH, Vec::new())
        .await
        .expect("nothing to delete");
    let page = f.node.list(f.disk, f.pg, None, 1001).await.expect("a page");
    assert_eq!(page.entries.len(), 1000);
    assert!(page.entries.iter().all(|entry| entry.deleted));
    f.node
        .forget(f.disk, f.pg, EPOCH, ids)
        .await
        .expect("forgotten");
    assert_eq!(f.list().await, []);
}

pub(super) async fn whoever_knows_an_older_epoch_deletes_nothing(f: Fixture) {
    let (live, gone, bytes) = (f.id(1), f.id(2), pattern(1, 10));
    let unopened = BlobError::StaleEpoch {
        pg: f.pg,
        current: 0,
    };
    let early = f.node.delete(f.disk, f.pg, EPOCH, vec![live]).await;
    assert_eq!(early, Err(unopened));
    f.open().await;
    f.put(live, &bytes).await.expect("stored");
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![gone])
        .await
        .expect("deleted");
    let newer = EPOCH + 1;
    f.node
        .open_pg(f.disk, f.pg, newer)
        .await
        .expect("the epoch rises");
    let stale = BlobError::StaleEpoch {
        pg: f.pg,
        current: newer,
    };
    let named = vec![live, gone];
    for refused in [
        f.node.delete(f.disk, f.pg, EPOCH, named.clone()).await,
        f.node.forget(f.disk, f.pg, EPOCH, named.clone()).await,
        f.node.evict(f.disk, f.pg, EPOCH, named.clone()).await,
    ] {
        assert_eq!(refused, Err(stale.clone()));
    }
    let listed: Vec<_> = f.list().await.iter().map(|e| (e.id, e.deleted)).collect();
    assert_eq!(listed, [(live, false), (gone, true)]);
    // A disk that was not told of the newest epoch yet takes part.
    f.node
        .delete(f.disk, f.pg, newer + 1, named.clone())
        .await
        .expect("deleted");
    f.node
        .forget(f.disk, f.pg, newer + 1, named)
        .await
        .expect("forgotten");
    assert_eq!(f.list().await, []);
    let foreign = vec![ChunkId::new(PgId(f.pg.0 + 1), 1)];
    for refused in [
        f.node.delete(f.disk, f.pg, newer, foreign.clone()).await,
        f.node.forget(f.disk, f.pg, newer, foreign.clone()).await,
        f.node.evict(f.disk, f.pg, newer, foreign).await,
    ] {
        assert!(matches!(refused, Err(BlobError::Invalid(_))), "{refused:?}");
    }
}

pub(super) async fn evicted_copies_go_without_a_trace_and_may_come_back(f: Fixture) {
    f.open().await;
    let (live, gone, kept, bytes) = (f.id(1), f.id(2), f.id(3), pattern(1, 100_000));
    f.put(live, &bytes).await.expect("stored");
    f.put(kept, &bytes).await.expect("stored");
    f.node
        .delete(f.disk, f.pg, EPOCH, vec![gone])
        .await
        .expect("deleted");
    for _ in 0..2 {
        let named = vec![live, gone, f.id(4)];
        f.node
            .evict(f.disk, f.pg, EPOCH, named)
            .await
            .expect("evicted, and again");
    }
    let missing = f.get(live, 0, 1).await;
    assert_eq!(missing, Err(BlobError::ChunkNotFound(live)));
    let listed: Vec<_> = f.list().await.iter().map(|e| (e.id, e.deleted)).collect();
    assert_eq!(listed, [(kept, false)]);
    f.put(live, &bytes).await.expect("a member again");
    assert_eq!(f.get(live, 0, 100_000).await.expect("read"), bytes);
    let never = PgId(f.pg.0 + 1_000_000);
    f.node
        .evict(f.disk, never, 1, vec![ChunkId::new(never, 1)])
        .await
        .expect("nothing to evict");
}

pub(super) async fn a_disk_names_the_groups_that_were_opened_on_it(f: Fixture) {
    let known = async || f.node.groups(f.disk).await.expect("the groups");
    assert!(known().await.iter().all(|(pg, _)| *pg != f.pg));
    f.open().await;
    assert!(known().await.contains(&(f.pg, EPOCH)));
    f.node
        .open_pg(f.disk, f.pg, EPOCH + 5)
        .await
        .expect("the epoch rises");
    let groups = known().await;
    assert!(groups.contains(&(f.pg, EPOCH + 5)));
    assert!(groups.is_sorted(), "in the order of the groups");
    let of_it = groups.iter().filter(|(pg, _)| *pg == f.pg);
    assert_eq!(of_it.count(), 1);
}
