//! Disks that check what they hold.

use futures_util::future::join_all;
use granary_types::PgId;

use super::{EPOCH, Fixture, pattern};
use crate::VerifyPage;

impl Fixture {
    async fn verify_all(&self, limit_bytes: u64) -> Vec<VerifyPage> {
        let mut pages: Vec<VerifyPage> = Vec::new();
        loop {
            let after = pages.last().and_then(|page| page.next_after);
            let page = self.node.verify(self.disk, self.pg, after, limit_bytes);
            let page = page.await.expect("the disk checks its copies");
            assert!(
                page.next_after.is_none() || page.next_after > after,
                "pages go on in order"
            );
            let done = page.next_after.is_none();
            pages.push(page);
            if done {
                return pages;
            }
        }
    }
}

pub(super) async fn a_disk_checks_its_own_copies_page_by_page(f: Fixture) {
    f.open().await;
    let neighbour = Fixture {
        pg: PgId(f.pg.0 + 1_000_000),
        ..f.clone()
    };
    neighbour.open().await;
    let foreign = neighbour.id(1);
    neighbour
        .put(foreign, &pattern(5, 77))
        .await
        .expect("stored");
    let lengths = [1, 65_536, 65_537, 5, 300_000, 4096, 100_000, 9, 70_000, 1];
    for (n, length) in lengths.iter().enumerate() {
        let bytes = pattern(n as u64, *length);
        f.put(f.id(n as u128), &bytes).await.expect("stored");
    }
    // One that is gone at the front, one at the end, one that was never there.
    let gone = vec![f.id(0), f.id(9), f.id(20)];
    f.node
        .delete(f.disk, f.pg, EPOCH, gone)
        .await
        .expect("deleted");
    let live = &lengths[1..9];
    for limit in [0, 1, 70_000, u64::MAX] {
        let pages = f.verify_all(limit).await;
        let chunks: u64 = pages.iter().map(|page| page.checked_chunks).sum();
        let bytes: u64 = pages.iter().map(|page| page.checked_bytes).sum();
        assert_eq!(chunks, live.len() as u64, "at a limit of {limit}");
        assert_eq!(bytes, live.iter().sum::<usize>() as u64, "{pages:?}");
        assert!(pages.iter().all(|page| page.damaged.is_empty()));
        let longest = pages.iter().map(|page| page.checked_bytes).max();
        let most = limit.saturating_add(300_000);
        assert!(longest <= Some(most), "beyond the limit: {pages:?}");
        if limit < 2 {
            assert_eq!(pages.len(), live.len(), "a page is one chunk: {pages:?}");
        }
    }
    let after = Some(f.id(7));
    let page = f.node.verify(f.disk, f.pg, after, u64::MAX).await;
    let page = page.expect("the rest");
    assert_eq!((page.checked_chunks, page.checked_bytes), (1, 70_000));
}

pub(super) async fn groups_without_chunks_are_checked_at_once(f: Fixture) {
    let nothing = VerifyPage::default();
    for _ in 0..2 {
        let page = f.node.verify(f.disk, f.pg, None, 1).await;
        assert_eq!(page.expect("a page"), nothing);
        f.open().await;
        // Tombstones are nothing to read.
        let ids = (0..100).map(|n| f.id(n)).collect();
        f.node
            .delete(f.disk, f.pg, EPOCH, ids)
            .await
            .expect("deleted");
    }
}

pub(super) async fn whoever_checks_a_disk_disturbs_nobody(f: Fixture) {
    f.open().await;
    for n in 0..20 {
        f.put(f.id(n), &pattern(1, 50_000)).await.expect("stored");
    }
    let checks = join_all((0..4).map(|_| f.verify_all(u64::MAX)));
    let others = async {
        for n in 0..20 {
            f.get(f.id(n), 0, 50_000).await.expect("read");
            f.put(f.id(100 + n), &pattern(2, 50_000))
                .await
                .expect("stored");
            f.node
                .delete(f.disk, f.pg, EPOCH, vec![f.id(n)])
                .await
                .expect("deleted");
        }
    };
    let (checks, ()) = tokio::join!(checks, others);
    for pages in checks {
        assert!(pages.iter().all(|page| page.damaged.is_empty()));
    }
    let pages = f.verify_all(u64::MAX).await;
    let chunks: u64 = pages.iter().map(|page| page.checked_chunks).sum();
    assert_eq!(chunks, 20);
}
