//! ListDeletions: chunks that a worker may delete now: due, and no reader has pinned them.

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;

use super::{Answer, QueryError, ShardView, page_limit};
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::pin::PinKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::limits::{PAGE_ENTRIES_MAX, ROWS_PER_PAGE_MAX};
use crate::ownership::{data_slabs, place_at};
use crate::rows::{Bounds, Rows};

impl Answer for pb::ListDeletions {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let mut page = pb::DeletionsPage::default();
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let mut budget = ROWS_PER_PAGE_MAX;
        for slab in data_slabs(&shard.descriptor) {
            let mut from = kind_prefix(slab, Kind::Deletion);
            self.after_seq.saturating_add(1).write(&mut from);
            let bounds = Bounds::prefix(kind_prefix(slab, Kind::Deletion)).from(from);
            for row in shard.rows.rows::<DeletionKey>(&bounds) {
                let (row, deletion) = row?;
                if budget == 0 {
                    page.more = true;
                    break;
                }
                budget -= 1;
                // Another shard of the slab queued it: not ours.
                if place_at(&shard.descriptor, row.bucket, &deletion.key).is_none() {
                    continue;
                }
                page.pending += 1;
                let pin = PinKey {
                    slab,
                    bucket: row.bucket,
                    object: row.object,
                };
                let pinned = |pin: u64| pin > shard.now_ms;
                if deletion.due_ms > shard.now_ms
                    || shard
                        .rows
                        .get(&pin)?
                        .is_some_and(|pin| pinned(pin.until_ms))
                {
                    continue;
                }
                if page.entries.len() >= limit {
                    page.more = true;
                    continue;
                }
                page.entries.push(pb::DeletionEntry {
                    seq: row.seq,
                    deletion: Some(deletion),
                });
            }
        }
        page.entries.sort_by_key(|entry| entry.seq);
        Ok(Reply::Deletions(page))
    }
}
