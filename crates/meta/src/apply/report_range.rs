//! ReportRange: shards say what they own now. A report is a hint with an epoch: of two that
//! overlap the newer wins, and what it leaves of the older one stays.

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::command_reply::Reply;
use granary_meta_api::pb::state;
use granary_types::BucketId;

use super::root_rows::raise_map_epoch;
use super::{Apply, ApplyContext, Refusal, Tx, empty};
use crate::keyspace::range_hint::RangeHintKey;
use crate::keyspace::{Kind, kind_prefix};
use crate::ownership::{above, below, overlap, start_of};
use crate::rows::{Bounds, Rows};

/// Ranges that one report may name.
const HINTS_MAX: usize = 256;

impl Apply for pb::ReportRange {
    fn apply(self, tx: &mut Tx<'_>, _: &ApplyContext) -> Result<Reply, Refusal> {
        if self.hints.len() > HINTS_MAX || self.hints.iter().any(|hint| hint.range.is_none()) {
            return Err(Refusal::invalid("too many ranges, or a hint without one"));
        }
        let bounds = Bounds::prefix(kind_prefix(tx.home(), Kind::RangeHint));
        let before = tx.list::<RangeHintKey>(&bounds, usize::MAX)?;
        let mut map: Vec<_> = before.iter().map(|(_, hint)| hint.clone()).collect();
        for hint in self.hints {
            insert(&mut map, hint);
        }
        map.sort_by(|a, b| first(a).cmp(&first(b)));
        if before.iter().map(|(_, hint)| hint).eq(&map) {
            return empty();
        }
        for (row, _) in before {
            tx.delete(&row);
        }
        for hint in map {
            let (bucket, key) = first(&hint);
            let row = RangeHintKey {
                slab: tx.home(),
                bucket: BucketId(bucket),
                key: Bytes::copy_from_slice(key),
            };
            tx.put(&row, &hint)?;
        }
        raise_map_epoch(tx)?;
        empty()
    }
}

fn first(hint: &state::RangeHint) -> (u64, &[u8]) {
    hint.range.as_ref().map_or((0, &[][..]), start_of)
}

/// Lays a hint over a map. Where the map knows better (a higher epoch), it stays as it is.
fn insert(map: &mut Vec<state::RangeHint>, hint: state::RangeHint) {
    let Some(range) = &hint.range else { return };
    let overlapping = |known: &state::RangeHint| {
        known
            .range
            .as_ref()
            .is_some_and(|known| overlap(known, range))
    };
    let newer = map.iter().any(|known| {
        overlapping(known)
            && known
                .range
                .as_ref()
                .is_some_and(|known| known.epoch > range.epoch)
    });
    if newer {
        return;
    }
    let (cut, mut kept): (Vec<_>, Vec<_>) = map.drain(..).partition(overlapping);
    for old in cut {
        let Some(old_range) = &old.range else {
            continue;
        };
        kept.extend(below(old_range, range).map(|rest| with_range(&old, rest)));
        kept.extend(above(old_range, range).map(|rest| with_range(&old, rest)));
    }
    kept.push(hint);
    *map = kept;
}

fn with_range(hint: &state::RangeHint, range: state::Range) -> state::RangeHint {
    state::RangeHint {
        range: Some(range),
        ..hint.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(shard: u32, epoch: u64, start: u64, end: u64) -> state::RangeHint {
        let range = state::Range {
            start_bucket: start,
            bounded: end != 0,
            end_bucket: end,
            epoch,
            ..Default::default()
        };
        state::RangeHint {
            shard,
            range: Some(range),
            voters: Vec::new(),
        }
    }

    fn shown(map: &[state::RangeHint]) -> Vec<(u32, u64, u64)> {
        let mut shown: Vec<_> = map
            .iter()
            .map(|h| (h.shard, first(h).0, h.range.as_ref().unwrap().end_bucket))
            .collect();
        shown.sort_by_key(|entry| entry.1);
        shown
    }

    /// Reports of two splits in any order, with repeats, end in the same map without gaps.
    #[test]
    fn reports_may_come_in_any_order_and_twice() {
        let split_one = [hint(1, 2, 0, 50), hint(2, 2, 50, 0)];
        let split_two = [hint(2, 3, 50, 70), hint(3, 3, 70, 0)];
        for order in [[&split_one, &split_two], [&split_two, &split_one]] {
            let mut map = vec![hint(1, 1, 0, 0)];
            for report in order.iter().chain(&order) {
                for hint in report.iter() {
                    insert(&mut map, hint.clone());
                }
                let shown = shown(&map);
                assert_eq!(shown[0].1, 0);
                assert!(
                    shown.windows(2).all(|pair| pair[0].2 == pair[1].1),
                    "{shown:?}"
                );
                assert_eq!(shown.last().unwrap().2, 0);
            }
            assert_eq!(shown(&map), [(1, 0, 50), (2, 50, 70), (3, 70, 0)]);
        }
    }
}
