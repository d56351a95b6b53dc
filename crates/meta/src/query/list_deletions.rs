//! ListDeletions: chunks that a worker may delete now: due, and no reader has pinned them.
//!
//! "Now" is the shard's applied time, the one that pins are refused by: what was handed out here
//! cannot be pinned any more. Work per page is bounded, and the answer says where to go on, so that
//! rows which are not due, pinned, or a sibling's in the same slab do not hide those behind them.

use std::iter::Peekable;

use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;

use super::{Answer, QueryError, ShardView, page_limit};
use crate::keyspace::deletion::DeletionKey;
use crate::keyspace::pin::PinKey;
use crate::keyspace::{KeyField, Kind, kind_prefix};
use crate::limits::{PAGE_ENTRIES_MAX, ROWS_PER_PAGE_MAX};
use crate::ownership::{data_slabs, place_at};
use crate::rows::{Bounds, Rows};

type Row = Result<(DeletionKey, state::Deletion), StateMachineError>;

impl Answer for pb::ListDeletions {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let limit = page_limit(self.limit, PAGE_ENTRIES_MAX);
        let counts_all = self.after_seq == 0;
        let mut page = pb::DeletionsPage {
            next_after_seq: self.after_seq,
            ..Default::default()
        };
        let mut budget = ROWS_PER_PAGE_MAX;
        let mut slabs = rows_after(shard, self.after_seq);
        while let Some((row, deletion)) = next(&mut slabs)? {
            let same_seq = row.seq == page.next_after_seq;
            if budget == 0 && !same_seq {
                page.more = true;
                break;
            }
            budget = budget.saturating_sub(1);
            // Another shard of the slab queued it: not ours.
            let own = place_at(&shard.descriptor, row.bucket, &deletion.key);
            let own = own.is_some_and(|place| place.slab == row.slab);
            page.pending += u64::from(own);
            if page.entries.len() >= limit && !same_seq {
                page.more = true;
                if counts_all {
                    continue;
                }
                break;
            }
            page.next_after_seq = row.seq;
            if own && is_due(shard, &row, &deletion)? {
                page.entries.push(pb::DeletionEntry {
                    seq: row.seq,
                    deletion: Some(deletion),
                });
            }
        }
        Ok(Reply::Deletions(page))
    }
}

/// The deletions behind a sequence: each data slab's, ascending.
fn rows_after<'s, 'v>(
    shard: &'s ShardView<'v>,
    after_seq: u64,
) -> Vec<Peekable<impl Iterator<Item = Row> + use<'s, 'v>>> {
    let slabs = data_slabs(&shard.descriptor).into_iter();
    let rows = slabs.map(|slab| {
        let mut from = kind_prefix(slab, Kind::Deletion);
        after_seq.saturating_add(1).write(&mut from);
        let bounds = Bounds::prefix(kind_prefix(slab, Kind::Deletion)).from(from);
        shard.rows.rows::<DeletionKey>(&bounds).peekable()
    });
    rows.collect()
}

/// The next row of any slab in the order of sequences.
fn next<I: Iterator<Item = Row>>(
    slabs: &mut [Peekable<I>],
) -> Result<Option<(DeletionKey, state::Deletion)>, StateMachineError> {
    let mut first: Option<(usize, u64)> = None;
    for (index, rows) in slabs.iter_mut().enumerate() {
        let seq = match rows.peek() {
            Some(Ok((row, _))) => row.seq,
            // Taken first, so that it is told.
            Some(Err(_)) => 0,
            None => continue,
        };
        if first.is_none_or(|(_, least)| seq < least) {
            first = Some((index, seq));
        }
    }
    let row = first.and_then(|(index, _)| slabs.get_mut(index)?.next());
    row.transpose()
}

fn is_due(
    shard: &ShardView<'_>,
    row: &DeletionKey,
    deletion: &state::Deletion,
) -> Result<bool, QueryError> {
    let now_ms = shard.clock.applied_ms;
    if deletion.due_ms > now_ms {
        return Ok(false);
    }
    let pin = shard.rows.get(&PinKey {
        slab: row.slab,
        bucket: row.bucket,
        object: row.object,
    })?;
    Ok(pin.is_none_or(|pin| pin.until_ms <= now_ms))
}
