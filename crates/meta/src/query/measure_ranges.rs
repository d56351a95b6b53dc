//! MeasureRanges: how large the shard's ranges are, and where a large one would be split.
//!
//! Counted are the rows that stand by position: heads, versions, inline bytes, uploads and parts. What stands by
//! object id is in no order that a split could follow: the extents and part pages of large objects, and the owners of
//! chunks. The store says how large an interval of keys is without reading it; what it has written lately is missing
//! there, so where little is asked for, some rows are read too. The split point is where about half of the bytes lie
//! below, always at the first row of a key: all rows of a position stay on one side. Where no point divides them
//! passably there is none.

use std::collections::BTreeMap;

use bytes::Bytes;
use granary_meta_api::pb;
use granary_meta_api::pb::query_reply::Reply;
use granary_meta_api::pb::state;
use granary_raft::StateMachineError;
use granary_types::BucketId;

use super::halving::{first_from, row_at_half};
use super::{Answer, QueryError, ShardView};
use crate::keyspace::{KeyField, Kind};
use crate::limits::{BYTES_MEASURED_MAX, RANGES_MEASURED_MAX, ROWS_MEASURED_MAX, SPLIT_SHARE_MIN};
use crate::ownership::{contains, positional_bounds, start_of};
use crate::rows::{Bounds, RawRows, Rows};

/// Slab and kind stand before the position in a row's key.
const PREFIX_BYTES: usize = 5;

type Position = (u64, Bytes);

impl Answer for pb::MeasureRanges {
    fn answer(self, shard: &ShardView<'_>) -> Result<Reply, QueryError> {
        let ranges = shard.descriptor.ranges.iter().take(RANGES_MEASURED_MAX);
        let sizes = ranges.map(|range| measure(shard, range, self.at_least));
        Ok(Reply::RangeSizes(pb::RangeSizes {
            ranges: sizes.collect::<Result<_, _>>()?,
        }))
    }
}

fn measure(
    shard: &ShardView<'_>,
    range: &state::Range,
    at_least: u64,
) -> Result<pb::RangeSize, QueryError> {
    let kinds = Kind::POSITIONAL.map(|kind| positional_bounds(range, kind));
    let stored = kinds
        .each_ref()
        .map(|bounds| shard.rows.approximate_bytes(bounds));
    let mut size = pb::RangeSize {
        range: Some(range.clone()),
        bytes: stored.iter().sum(),
        ..Default::default()
    };
    let point = if size.bytes >= at_least {
        let near = near_half(shard, range, &kinds.each_ref(), &stored)?;
        let below = |at: &Position| {
            let low = below(range, at);
            let of = |kind| shard.rows.approximate_bytes(&positional_bounds(&low, kind));
            Kind::POSITIONAL.map(of).iter().sum()
        };
        most_even(shard, range, near, size.bytes, below)?
    } else if at_least <= BYTES_MEASURED_MAX {
        let read = read_some(shard, &kinds)?;
        let total: u64 = read.values().sum();
        size.bytes = size.bytes.max(total);
        let near = match total >= at_least {
            true => middle_of_rows(&read),
            false => Vec::new(),
        };
        let below = |at: &Position| read.range(..at).map(|(_, bytes)| bytes).sum();
        most_even(shard, range, near, total, below)?
    } else {
        None
    };
    if let Some((bucket, key)) = point {
        (size.can_split, size.split_bucket, size.split_key) = (true, bucket, key);
    }
    Ok(size)
}

/// Bytes by position, of the first rows of each kind.
fn read_some(
    shard: &ShardView<'_>,
    kinds: &[Bounds],
) -> Result<BTreeMap<Position, u64>, QueryError> {
    let mut read: BTreeMap<Position, u64> = BTreeMap::new();
    for bounds in kinds {
        let mut left = BYTES_MEASURED_MAX;
        let rows = shard.rows.scan_raw(&bounds.start, bounds.end.as_deref());
        for row in rows.take(ROWS_MEASURED_MAX) {
            let (key, value) = row?;
            let bytes = (key.len() + value.len()) as u64;
            *read.entry(position_of(&key)?).or_default() += bytes;
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
    }
    Ok(read)
}

/// The position that contains the middle byte, and the next one.
fn middle_of_rows(read: &BTreeMap<Position, u64>) -> Vec<Position> {
    let half = read.values().sum::<u64>().div_ceil(2);
    let mut below = 0;
    let from_middle = read.iter().skip_while(|(_, bytes)| {
        below += **bytes;
        below < half
    });
    from_middle.take(2).map(|(at, _)| at.clone()).collect()
}

/// The same for each kind that matters, by what the store says of its rows.
fn near_half(
    shard: &ShardView<'_>,
    range: &state::Range,
    kinds: &[&Bounds],
    stored: &[u64],
) -> Result<Vec<Position>, QueryError> {
    let enough = stored.iter().sum::<u64>().div_ceil(SPLIT_SHARE_MIN);
    let mut near = Vec::new();
    for ((kind, bounds), bytes) in Kind::POSITIONAL.into_iter().zip(kinds).zip(stored) {
        if *bytes < enough {
            continue;
        }
        let Some(row) = row_at_half(&shard.rows, bounds, *bytes)? else {
            continue;
        };
        let at = position_of(&row)?;
        let behind = positional_bounds(&from(range, &behind(&at)), kind);
        near.push(at);
        if let Some(row) = first_from(&shard.rows, behind)? {
            near.push(position_of(&row)?);
        }
    }
    Ok(near)
}

/// The least position above another one.
fn behind((bucket, key): &Position) -> Position {
    (*bucket, [key, &[0][..]].concat().into())
}

/// Of the points that the range can be split at near some positions, the one that divides its bytes most evenly, if
/// passably.
fn most_even(
    shard: &ShardView<'_>,
    range: &state::Range,
    near: Vec<Position>,
    total: u64,
    below: impl Fn(&Position) -> u64,
) -> Result<Option<Position>, QueryError> {
    let mut best = None;
    for near in near {
        for at in split_points(shard, range, near)? {
            let below = below(&at);
            best = best.max(Some((below.min(total.saturating_sub(below)), at)));
        }
    }
    let enough = total.div_ceil(SPLIT_SHARE_MIN);
    Ok(best.filter(|(less, _)| *less >= enough).map(|(_, at)| at))
}

fn position_of(key: &[u8]) -> Result<Position, StateMachineError> {
    let read = || {
        let mut fields = key.get(PREFIX_BYTES..)?;
        Some((u64::read(&mut fields)?, Bytes::read(&mut fields)?))
    };
    read().ok_or_else(|| StateMachineError::Corrupt {
        what: "a key of the metadata",
        reason: "it has no position".to_owned(),
    })
}

/// Where the range can be split near a position: a bucket with directories stays whole, and something lies on both
/// sides. Sizes do not tell that, since deleted rows are in them until a compaction has met them.
fn split_points(
    shard: &ShardView<'_>,
    range: &state::Range,
    near: Position,
) -> Result<Vec<Position>, QueryError> {
    let (bucket, _) = near;
    let view = shard.view(BucketId(bucket))?;
    let mut points = match view.is_some_and(|view| view.hierarchical) {
        false => vec![near],
        true => {
            let edges = [Some(bucket), bucket.checked_add(1)].into_iter().flatten();
            edges.map(|bucket| (bucket, Bytes::new())).collect()
        }
    };
    points.retain(|at| start_of(range) < (at.0, &at.1) && contains(range, at.0, &at.1));
    let mut divides = Vec::with_capacity(points.len());
    for at in points {
        if has_rows(shard, &below(range, &at))? && has_rows(shard, &from(range, &at))? {
            divides.push(at);
        }
    }
    Ok(divides)
}

fn has_rows(shard: &ShardView<'_>, range: &state::Range) -> Result<bool, QueryError> {
    for kind in Kind::POSITIONAL {
        if shard.rows.any(&positional_bounds(range, kind))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What of a range lies below a position.
fn below(range: &state::Range, at: &Position) -> state::Range {
    state::Range {
        bounded: true,
        end_bucket: at.0,
        end_key: at.1.clone(),
        ..range.clone()
    }
}

/// What of a range lies at a position and above.
fn from(range: &state::Range, at: &Position) -> state::Range {
    state::Range {
        start_bucket: at.0,
        start_key: at.1.clone(),
        ..range.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_byte_lies_in_the_first_position_and_the_next_one_follows() {
        let of = |sizes: &[u64]| {
            let rows = sizes.iter().enumerate();
            let rows = rows.map(|(n, bytes)| ((n as u64, Bytes::new()), *bytes));
            let near = middle_of_rows(&rows.collect());
            near.into_iter().map(|(n, _)| n).collect::<Vec<_>>()
        };
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[9]), [0]);
        assert_eq!(of(&[1, 1, 1, 1]), [1, 2]);
        assert_eq!(of(&[9, 1, 1]), [0, 1]);
        assert_eq!(of(&[1, 1, 9]), [2]);
    }
}
