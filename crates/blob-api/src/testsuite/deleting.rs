//! Deleting and forgetting.

use granary_types::ChunkId;

use super::{Fixture, pattern};
use crate::BlobError;

pub(super) async fn deleted_chunks_stay_deleted(f: Fixture) {
    f.open().await;
    let (id, kept, bytes) = (f.id(1), f.id(2), pattern(1, 100_000));
    f.put(id, &bytes).await.expect("stored");
    f.put(kept, &bytes).await.expect("stored");
    for _ in 0..2 {
        f.node
            .delete(f.disk, vec![id])
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
    f.node.delete(f.disk, vec![id]).await.expect("deleted");
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
    f.node.delete(f.disk, vec![gone]).await.expect("deleted");
    for _ in 0..2 {
        let all = vec![gone, live, unknown];
        f.node.forget(f.disk, all).await.expect("forgotten");
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
    f.node.delete(f.disk, ids.clone()).await.expect("deleted");
    f.node
        .delete(f.disk, Vec::new())
        .await
        .expect("nothing to delete");
    let page = f.node.list(f.disk, f.pg, None, 1001).await.expect("a page");
    assert_eq!(page.entries.len(), 1000);
    assert!(page.entries.iter().all(|entry| entry.deleted));
    f.node.forget(f.disk, ids).await.expect("forgotten");
    assert_eq!(f.list().await, []);
}
