//! What the rows name, for whoever compares them with the disks.

use std::collections::BTreeMap;

use bytes::Bytes;
use granary_types::ShardId;

use super::chunks::write;
use super::{Suite, extent};
use crate::pb;

/// Every reference of a shard, in pages of `limit`: by owner, the chunks' numbers and whether they
/// are pending.
async fn references(
    suite: &Suite,
    shard: ShardId,
    limit: u32,
) -> BTreeMap<Bytes, (Vec<u32>, bool)> {
    let mut query = pb::ListReferences {
        after: Bytes::new(),
        limit,
    };
    let mut found: BTreeMap<Bytes, (Vec<u32>, bool)> = BTreeMap::new();
    loop {
        let page = suite.meta.query_at(shard, query.clone()).await.unwrap();
        for reference in page.references {
            let of = found.entry(reference.object_id).or_default();
            of.0.push(reference.extent.unwrap().digest);
            of.1 = reference.pending;
        }
        if !page.more {
            for (chunks, _) in found.values_mut() {
                chunks.sort_unstable();
            }
            return found;
        }
        assert!(page.next_after > query.after, "the listing goes on");
        query.after = page.next_after;
    }
}

/// Objects, staged writes and queued deletions are listed with the owner their chunks carry, each
/// once, by the shard that owns the key and by no other.
pub async fn every_chunk_is_named_once_with_its_owner(suite: Suite) {
    let bucket = suite.bucket("references").await;
    let few = write(&suite, bucket, "few", 3, 0).await;
    let many = write(&suite, bucket, "many", 700, 650).await;
    let replaced = write(&suite, bucket, "replaced", 2, 0).await;
    suite.put(bucket, "replaced", "inline").await;
    let gone = write(&suite, bucket, "gone", 600, 500).await;
    suite.delete(bucket, "gone").await;
    let unfinished = suite.begin_write(bucket, "unfinished").await;
    let staged = pb::StageExtents {
        at: Some(bucket.at("unfinished")),
        write_id: unfinished.clone(),
        first: 0,
        extents: vec![extent(0, 1000), extent(1, 1000)],
        ..Default::default()
    };
    suite.accepted(staged).await;
    let numbers = |count: u32| (0..count).collect::<Vec<_>>();
    let expected = BTreeMap::from([
        (few, (numbers(3), false)),
        (many, (numbers(700), false)),
        (replaced, (numbers(2), true)),
        (gone, (numbers(600), true)),
        (unfinished, (numbers(2), true)),
    ]);
    let own = suite.shard_of(bucket, "few").await;
    for limit in [1, 7, 10_000] {
        assert_eq!(
            references(&suite, own, limit).await,
            expected,
            "limit {limit}"
        );
    }
    for other in suite.data_shards().await {
        if other != own {
            assert_eq!(references(&suite, other, 100).await, BTreeMap::new());
        }
    }
}
